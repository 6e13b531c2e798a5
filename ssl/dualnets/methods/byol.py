"""BYOL: a predictor on one view's projection predicts a slow copy's projection of the other view.

Grill and others (arXiv 2006.07733, equations 1 and 2). With f the network with a projector, p a
predictor, f' the target and sg the stop-gradient,

    L = 2 - 2 cos(p(f(x1)), sg f'(x2))   or   1/2 || p(f(x1)) - sg f'(x2) ||^2,

averaged over the batch; with `symmetric` the same with the views exchanged is added. After every update
the target moves: f' <- m f' + (1 - m) f, m the EMA decay. Every part is a setting: the predictor and
its redraws, the target, the stop-gradient. Normalisations are parts of the heads (docs/theory.md,
Section 6), and every pass has batch statistics of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from dualnets._checks import check_choice, check_kind, check_number, check_switch, check_whole
from dualnets._lazy import torch
from dualnets._options import Above, option
from dualnets.methods._byol_target import moving_average, schedule_factor, shuffled_parameters
from dualnets.methods._cosine import cosine_similarity
from dualnets.methods._direct_predictor import DirectPredictor
from dualnets.methods._projector import joined
from dualnets.methods.protocol import (
    PROJECTOR,
    Batch,
    Method,
    State,
    TrainContext,
    address,
    apply_head,
    detached_copy,
    init_head,
    output_units,
    outputs,
    sample_parameter,
    slow_copy,
    strip_prefix,
    update_running_stats,
    with_prefix,
)
from dualnets.methods.siamese import SiameseSpec, check_predictor
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm
from dualnets.networks.running_moments import RUNNING, BatchMoments
from dualnets.optim.per_member import Group, PerMember, at_least_0, between_0_and_1, check_rates

if TYPE_CHECKING:
    from torch import Tensor, nn

PREDICTOR = 1  # place of its random numbers; the target has place 2
TARGETS = ("ema", "online", "random", "copy")
REDRAWS = ("all", "top", "bottom")
HEAD = Head((32, 16), norm=BatchNorm())


@dataclass(frozen=True)
class BYOL(Method):
    """An online network with projector and predictor, and a target without gradient.

    State: `projector.…` and `predictor.…`, trained except for their running moments;
    `target.network.…` and `target.projector.…` unless the target is the online network, the latter
    without running moments, since a target always uses those of its batches; for a `DirectPredictor`
    its `weight` and `correlation` under `predictor`, not trained.

    Attributes:
        projector: head on the network's outputs; `Head()` for none.
        predictor: head on the projections; None or `Head()` for none, or a `DirectPredictor`.
        predictor_lr: factor of the learning rate of the predictor; 0: it is not trained. One number or
            one per member.
        predictor_weight_decay: weight decay of the predictor; by default that of the optimiser. One
            number or one per member.
        predictor_scale: factor of the initial weights of the predictor, redrawn ones included; its initial
            biases are not scaled. With normalised hidden layers and the cosine form it leaves the
            directions of the predictions as they are but for the biases, and divides the effective
            learning rate by its square.
        redraw_every: number of updates between two redraws of the predictor; 0 for never. Draw number n
            is version n of its address, so it does not depend on training.
        redraw: layers of the predictor that are drawn again: all, the top or the bottom one.
        target: target network: ema, the moving average of the online network and projector; online,
            these themselves; random, a fixed random network; copy, a copy that is renewed now and
            then. The random one is the initial network with the entries of every parameter shuffled,
            and a projector drawn once more.
        ema_decay: m of the target's moving average, in 0..1. One number or one per member.
        ema_schedule: schedule of the EMA decay: constant, or cosine: up to 1 at the last update. At
            update t of T it is 1 - (1 - m)(1 + cos(pi t / T)) / 2.
        copy_every: number of updates between two copies, for the target copy.
        stop_gradient: whether the target's branch has no gradient; False needs the target online.
        normalized: whether the loss is the cosine form rather than half the squared distance.
        symmetric: whether both directions are summed.

    Raises:
        TypeError: a value of another type.
        ValueError: a value out of range, or one that has no effect beside the others; before training,
            rates that are not as many as members, or heads that do not fit or have a constant output.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, bias=True, seed=1)
        >>> method = BYOL(redraw_every=5, ema_schedule="cosine")
        >>> final = dualnets.train(network, method, trees, augment=hltm.keep_root(), steps=10,
        ...                        batch=32, optimizer=dualnets.SGD(lr=0.03), seed=2)
        >>> method.embedding(final.network, final.state, trees.sample(7, seed=3).leaves).shape
        torch.Size([2, 7, 16])
    """

    projector: Head = HEAD
    predictor: Head | DirectPredictor | None = HEAD
    predictor_lr: PerMember = 1.0
    predictor_weight_decay: PerMember | None = None
    predictor_scale: float = 1.0
    redraw_every: int = 0
    redraw: Literal["all", "top", "bottom"] = option("all", applies_to={"redraw_every": Above(0)})
    target: Literal["ema", "online", "random", "copy"] = "ema"
    ema_decay: PerMember = option(0.99, applies_to={"target": ("ema",)})  # noqa: RUF009
    ema_schedule: Literal["constant", "cosine"] = option(
        "constant", applies_to={"target": ("ema",)}
    )
    copy_every: int = option(0, applies_to={"target": ("copy",)})
    stop_gradient: bool = True
    normalized: bool = option(True, flag="normalized_loss")
    symmetric: bool = True
    per_member: ClassVar[tuple[str, ...]] = ("ema_decay", "predictor_lr", "predictor_weight_decay")

    def __post_init__(self) -> None:
        self._check_each()
        if self.redraw != "all" and self.redraw_every == 0:
            raise ValueError(
                f"redraw={self.redraw!r} needs redraw_every of at least 1 update, got 0"
            )
        if not self._predictor_is_trained:
            defaults: dict[str, Any] = {
                "redraw_every": 0,
                "predictor_lr": 1.0,
                "predictor_weight_decay": None,
                "predictor_scale": 1.0,
            }
            for name, default in defaults.items():
                if getattr(self, name) != default:
                    raise ValueError(
                        f"{name}={getattr(self, name)} needs a predictor that is trained, got "
                        f"predictor={self.predictor!r}"
                    )
        if self.target == "copy" and self.copy_every == 0:
            raise ValueError("target='copy' needs copy_every of at least 1 update, got 0")
        for name, default, target in (
            ("copy_every", 0, "copy"),
            ("ema_schedule", "constant", "ema"),
            ("stop_gradient", True, "online"),  # other targets never have a gradient
        ):
            value = getattr(self, name)
            if self.target != target and value != default:
                raise ValueError(f"{name}={value!r} needs target={target!r}, got {self.target!r}")

    def _check_each(self) -> None:
        """Raise TypeError or ValueError where a single value is wrong, whatever the others are."""
        check_choice("target", self.target, TARGETS)
        check_choice("redraw", self.redraw, REDRAWS)
        check_choice("ema_schedule", self.ema_schedule, ("constant", "cosine"))
        check_kind("projector", self.projector, Head, "dualnets.Head((32, 16))")
        if self.predictor is not None:
            examples = "dualnets.Head((32, 16)), dualnets.DirectPredictor() or None"
            check_kind("predictor", self.predictor, Head | DirectPredictor, examples)
        check_number("predictor_scale", self.predictor_scale, above=0)
        for name in ("redraw_every", "copy_every"):
            check_whole(name, getattr(self, name), low=0, unit="updates")
        for name in ("stop_gradient", "normalized", "symmetric"):
            check_switch(name, getattr(self, name))
        for name in self.per_member:
            given, check = (
                getattr(self, name),
                between_0_and_1 if name == "ema_decay" else at_least_0,
            )
            if given is not None or name != "predictor_weight_decay":  # which alone may be None
                object.__setattr__(self, name, check_rates(name, given, check))

    @property
    def _predictor_is_trained(self) -> bool:
        return isinstance(self.predictor, Head) and len(self.predictor.widths) > 0

    @property
    def _decay_per_member(self) -> bool:
        return self.target == "ema" and isinstance(self.ema_decay, tuple)

    @property
    def siamese(self) -> SiameseSpec | None:
        # compiled training knows trained predictors and one EMA decay for all members
        if isinstance(self.predictor, DirectPredictor) or self._decay_per_member:
            return None
        return SiameseSpec(
            projector=self.projector, predictor=self.predictor or Head(),
            separate_target=self.target != "online", ema_decay=self._decay,
            stop_gradient=self.stop_gradient, normalized=self.normalized, symmetric=self.symmetric,
            after_step_every=self.redraw_every,
        )  # fmt: skip

    @property
    def groups(self) -> Mapping[str, Group]:
        if not self._predictor_is_trained:
            return {}
        return {"predictor": Group(self.predictor_lr, self.predictor_weight_decay)}

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where the predictor's outputs are not as many as the target's."""
        super().check(network, setup)
        if isinstance(self.predictor, Head):
            units = self.projector.outputs(output_units(network, setup))
            check_predictor(self.predictor, units)

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        inputs = output_units(network, setup)
        units = self.projector.outputs(inputs)
        state = super().init(network, setup)
        projector = strip_prefix(state, "projector")
        if isinstance(self.predictor, Head):
            drawn = init_head("predictor", self.predictor, units, network, setup, PREDICTOR)
            state |= self._scaled(drawn)
        elif self.predictor is not None:
            like = sample_parameter(network)
            state |= with_prefix("predictor", self.predictor.init(units, like))
        if self.target == "online":
            return state
        if self.target == "random":
            target = shuffled_parameters(network, setup)
            own = address(network, setup)
            projector = self.projector.init(inputs, place=PROJECTOR, version=1, **own)
        else:
            target = detached_copy(network)
            projector = {
                name: tensor.detach().clone()
                for name, tensor in projector.items()
                if not name.endswith(RUNNING)
            }
        state |= with_prefix("target.network", slow_copy(target))
        return state | with_prefix("target.projector", projector)

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        projector, size = strip_prefix(state, "projector"), batch.size
        online = joined(outputs(network, batch))
        record: list[BatchMoments] = []
        projections = self.projector(projector, online, passes=2, record=record)  # (S, 2 * B, U)
        given = projections if self.symmetric else projections[:, :size]
        predictions, carried = self._predictions(state, given, projections, 1 + self.symmetric)
        targets = self._targets(network, state, batch, projections)
        # both directions have B samples, so their sum is the mean over all 2 B times 2
        losses = self._distances(predictions, targets).mean(-1) * (1 + self.symmetric)
        if not self.symmetric and self.target != "online":
            # the loss uses the first pass only, so only its moments count
            record = [own.of_first_pass() for own in record]
        return losses, carried | update_running_stats("projector", self.projector, state, record)

    def _predictions(
        self, state: State, given: Tensor, projections: Tensor, passes: int
    ) -> tuple[Tensor, State]:
        """The predictor's outputs of passes of projections, and what `after_step` needs of all of them."""
        if isinstance(self.predictor, Head):
            return apply_head("predictor", self.predictor, state, given, passes)
        if self.predictor is None:
            return given, {}
        found = self.predictor(strip_prefix(state, "predictor"), given)
        return found, {"projections": projections.detach()}

    def _distances(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """`(S, B)`: 2 - 2 cos, or half the squared distance."""
        return (_cosine_form if self.normalized else _half_square)(predictions, targets)

    def after_step(
        self, network: nn.Module, state: State, carried: State, step: int, setup: TrainContext
    ) -> State:
        found = super().after_step(network, state, carried, step, setup)
        if isinstance(self.predictor, DirectPredictor):
            own = strip_prefix(state, "predictor")
            updated = self.predictor.after_step(own, carried["projections"], step)
            found |= with_prefix("predictor", updated)
        if self.redraw_every and (step + 1) % self.redraw_every == 0:
            found |= with_prefix("predictor", self._redrawn(network, state, setup, step))
        rate, factor = self._rate(step, setup)
        if rate != 0:
            online = self._online(network, state)
            average = moving_average(strip_prefix(state, "target"), online, rate, factor)
            found |= with_prefix("target", average)
        return found

    def _online(self, network: nn.Module, state: State) -> State:
        """What the target follows, by the target's names."""
        named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        projector = with_prefix("projector", strip_prefix(state, "projector"))
        return with_prefix("network", named) | projector

    def _rate(self, step: int, setup: TrainContext) -> tuple[float | tuple[float, ...], float]:
        """1 - m at update number `step`, or one per member and a common factor."""
        if isinstance(self.ema_decay, tuple) and self.target == "ema":
            factor = schedule_factor(self.ema_schedule, step, setup.steps)
            return tuple(1 - m for m in self.ema_decay), factor
        return 1 - self._decay(step, setup.steps), 1.0

    def in_place(
        self, network: nn.Module, state: State, setup: TrainContext
    ) -> Callable[[State, int], None] | None:
        from dualnets.methods.compiled.in_place import MovingAverage, are_averaged

        if self.redraw_every or isinstance(self.predictor, DirectPredictor):
            return None
        target = strip_prefix(state, "target")
        if not target or self.target == "random":
            return super().in_place(network, state, setup)
        online = self._online(network, state)
        pairs = [*target.values()], [online[name] for name in target]
        if not are_averaged(*pairs):
            return None
        average = MovingAverage(*pairs)

        def advance(carried: State, step: int) -> None:
            rate, factor = self._rate(step, setup)
            if rate != 0:
                average(rate, factor)

        return advance

    def _targets(
        self, network: nn.Module, state: State, batch: Batch, projections: Tensor
    ) -> Tensor:
        """The vectors to predict, `(S, 2 * B, U)`: view 2 of every sample, then, if symmetric, view 1."""
        size = batch.size
        if self.target == "online":
            found = projections.detach() if self.stop_gradient else projections
            return found.roll(size, 1) if self.symmetric else found[:, size:]
        own = self._target_network(network, state)
        if not self.symmetric:
            batch = batch._replace(leaves=batch.leaves[..., size:, :])
        with torch.no_grad():
            passes = list(outputs(network, batch, own))
            exchanged = joined(passes[::-1])
            return self.projector(strip_prefix(state, "target.projector"), exchanged, len(passes))

    def _target_network(self, network: nn.Module, state: State) -> State:
        """Parameters and buffers of a target network of its own."""
        own = strip_prefix(state, "target.network")
        # a forward pass may change running statistics in place, and the state must stay as it is
        return own | {name: own[name].clone() for name, _ in network.named_buffers()}

    def _decay(self, step: int, steps: int) -> Any:
        """The EMA decay at update number `step`, counted from 0; 1 keeps the target, 0 replaces it."""
        if self.target == "copy":
            return 1.0 if (step + 1) % self.copy_every else 0.0
        if self.target != "ema":
            return 1.0
        if self.ema_schedule == "constant":
            return self.ema_decay
        factor = schedule_factor(self.ema_schedule, step, steps)
        return 1 - (1 - cast(float, self.ema_decay)) * factor

    def _redrawn(self, network: nn.Module, state: State, setup: TrainContext, step: int) -> State:
        """New parameters and initial running moments of the layers that are drawn again."""
        assert isinstance(self.predictor, Head)
        top = len(self.predictor.widths) - 1
        layers = {"all": None, "top": (top,), "bottom": (0,)}[self.redraw]
        like = sample_parameter(network)
        moments = self.predictor.init_running_stats(len(like), like, layers)
        drawn = self.predictor.init(
            state["predictor.0.weight"].shape[-1], place=PREDICTOR,
            version=(step + 1) // self.redraw_every, layers=layers, **address(network, setup),
        )  # fmt: skip
        return moments | self._scaled(drawn)

    def _scaled(self, drawn: State) -> State:
        """Initial parameters of the predictor, the weights times `predictor_scale`, in place."""
        with torch.no_grad():
            for name, tensor in drawn.items():
                if name.endswith(".weight"):
                    tensor.mul_(self.predictor_scale)
        return drawn


def _cosine_form(predictions: Tensor, targets: Tensor) -> Tensor:
    """2 - 2 cos, `(S, B)`."""
    return 2 - 2 * cosine_similarity(predictions, targets)


def _half_square(predictions: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance, `(S, B)`."""
    return (predictions - targets).square().sum(-1) / 2
