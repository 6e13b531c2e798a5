"""BYOL: a predictor on one view's projection foretells a slow copy's projection of the other view.

Grill and others (arXiv 2006.07733). With f the network behind a projector, p a predictor and f' the
target,

    L = 2 - 2 cos(p(f(x1)), sg f'(x2))   or   1/2 || p(f(x1)) - sg f'(x2) ||^2,

averaged over the batch; with `symmetric` the same with the views exchanged is added. After every
update the target follows: f' <- m f' + (1 - m) f. Every part is a switch: which predictor, whether
it is drawn again, what the target is, whether gradients stop there. Normalisations sit in the heads
(theory, Section 6), and every pass has batch statistics of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from dualnets._checks import check_choice, check_kind, check_switch, check_whole
from dualnets.methods._cosine import cosine_similarity
from dualnets.methods._direct_predictor import DirectPredictor
from dualnets.methods.protocol import (
    Batch,
    Method,
    Needs,
    State,
    TrainContext,
    address,
    detached_copy,
    init_head,
    output_units,
    outputs,
    strip_prefix,
    update_running_stats,
    with_prefix,
)
from dualnets.methods.siamese import SiameseSpec
from dualnets.networks.heads import LAYERS, RUNNING, Head, Seen
from dualnets.networks.normalizations import BatchNorm
from dualnets.optim.optimizers import Group
from dualnets.optim.per_member import PerMember, at_least_0, check_rates, column, share
from hltm.sampling.philox import Stream, uniform

PROJECTOR, PREDICTOR, TARGET = 0, 1, 2  # places of their random numbers
TARGETS = ("ema", "online", "random", "copy")
REDRAWS = ("all", "top", "bottom")


def _head() -> Head:
    return Head((32, 16), norm=BatchNorm())


@dataclass(frozen=True)
class BYOL(Method):
    """Online network, projector and predictor; a target without gradient.

    State: `projector.…` and `predictor.…`, trained but for their running moments; `target.network.…`
    and `target.projector.…` unless the target is the online network, the latter without running
    moments, since a target only ever goes by its batches; for a `DirectPredictor` its `weight` and
    `correlation` under `predictor`, not trained.

    Attributes:
        projector: on the network's outputs; `Head()` for none.
        predictor: on the projections; None or `Head()` for none, or one set directly.
        predictor_lr: times the optimiser's rate; a number or one per member.
        predictor_weight_decay: in place of the optimiser's; None for the optimiser's; a number or
            one per member.
        redraw_every: draw the predictor again after every so many updates; 0 for never. Draw
            number n is version n of its address, so it does not depend on training.
        redraw: `all` its layers, or only the `top` or `bottom` one.
        target: `ema`, the moving average of the online network and projector; `online`, themselves;
            `random`, a fixed network: the initial one with the entries of every parameter shuffled,
            member by member and by address (the same distribution, another draw), and a projector
            drawn once more; `copy`, a copy renewed every `copy_every` updates.
        momentum: m of the moving average, a number or one per member.
        momentum_schedule: `constant`, or `cosine`: 1 - (1 - m)(1 + cos(pi t / T)) / 2 at update t of T.
        copy_every: for `copy`.
        stop_gradient: False, for the target `online` alone: gradients flow through both branches.
        normalized: the cosine form, else half the squared distance.
        symmetric: whether both directions are summed.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value out of range, or a switch without what it belongs to; before training,
            rates that are not as many as members, or heads that do not fit or say nothing.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, bias=True, seed=1)
        >>> method = BYOL(redraw_every=5, momentum_schedule="cosine")
        >>> final = dualnets.train(network, method, trees, augment=hltm.keep_root(), steps=10,
        ...                        batch=32, optimizer=dualnets.SGD(lr=0.03), seed=2)
        >>> method.embedding(final.network, final.state, trees.sample(7, seed=3).leaves).shape
        torch.Size([2, 7, 16])
    """

    projector: Head = field(default_factory=_head)
    predictor: Head | DirectPredictor | None = field(default_factory=_head)
    predictor_lr: PerMember = 1.0
    predictor_weight_decay: PerMember | None = None
    redraw_every: int = 0
    redraw: Literal["all", "top", "bottom"] = "all"
    target: Literal["ema", "online", "random", "copy"] = "ema"
    momentum: PerMember = 0.99
    momentum_schedule: Literal["constant", "cosine"] = "constant"
    copy_every: int = 0
    stop_gradient: bool = True
    normalized: bool = True
    symmetric: bool = True
    per_member: ClassVar[tuple[str, ...]] = ("momentum", "predictor_lr", "predictor_weight_decay")

    def __post_init__(self) -> None:
        self._check_kinds()
        for name, check in (
            ("momentum", share),
            ("predictor_lr", at_least_0),
            ("predictor_weight_decay", at_least_0),
        ):
            given = getattr(self, name)
            if given is not None or name != "predictor_weight_decay":  # which alone may be None
                object.__setattr__(self, name, check_rates(name, given, check))
        if self.redraw != "all" and self.redraw_every == 0:
            raise ValueError(
                f"redraw={self.redraw!r} needs redraw_every of at least 1 update, got 0"
            )
        if not self._predictor_is_trained:
            for name, none in (
                ("redraw_every", 0),
                ("predictor_lr", 1.0),
                ("predictor_weight_decay", None),
            ):
                if getattr(self, name) != none:
                    raise ValueError(
                        f"{name}={getattr(self, name)} needs a predictor that is trained, got "
                        f"predictor={self.predictor!r}"
                    )
        if self.target == "copy" and self.copy_every == 0:
            raise ValueError("target='copy' needs copy_every of at least 1 update, got 0")
        if self.target != "copy" and self.copy_every > 0:
            raise ValueError(
                f"copy_every={self.copy_every} needs target='copy', got {self.target!r}"
            )
        if self.target != "ema" and self.momentum_schedule != "constant":
            raise ValueError(
                f"momentum_schedule={self.momentum_schedule!r} needs target='ema', got "
                f"{self.target!r}"
            )
        if self.target != "online" and not self.stop_gradient:
            raise ValueError(
                f"stop_gradient=False needs target='online': the target {self.target!r} has no "
                "gradient"
            )

    def _check_kinds(self) -> None:
        """Raise TypeError or ValueError where a single value cannot be, whatever the others are."""
        check_choice("target", self.target, TARGETS)
        check_choice("redraw", self.redraw, REDRAWS)
        check_choice("momentum_schedule", self.momentum_schedule, ("constant", "cosine"))
        check_kind("projector", self.projector, Head, "dualnets.Head((32, 16))")
        if self.predictor is not None:
            examples = "dualnets.Head((32, 16)), dualnets.DirectPredictor() or None"
            check_kind("predictor", self.predictor, Head | DirectPredictor, examples)
        for name in ("redraw_every", "copy_every"):
            check_whole(name, getattr(self, name), low=0, unit="updates")
        for name in ("stop_gradient", "normalized", "symmetric"):
            check_switch(name, getattr(self, name))

    @property
    def _predictor_is_trained(self) -> bool:
        return isinstance(self.predictor, Head) and len(self.predictor.widths) > 0

    @property
    def _sweeps(self) -> bool:
        """Whether every member's target moves at a rate of its own."""
        return self.target == "ema" and isinstance(self.momentum, tuple)

    @property
    def needs(self) -> Needs:
        return Needs(views=2)

    @property
    def siamese(self) -> SiameseSpec | None:
        if isinstance(self.predictor, DirectPredictor):
            return None
        if self._sweeps:
            return None  # the compiled span has one for all members
        return SiameseSpec(
            projector=self.projector,
            predictor=self.predictor or Head(),
            slow=self.target != "online",
            ema_decay=self._stays,
            stop_gradient=self.stop_gradient,
            normalized=self.normalized,
            symmetric=self.symmetric,
            after=self.redraw_every,
        )

    @property
    def groups(self) -> Mapping[str, Group]:
        if not self._predictor_is_trained:
            return {}
        return {"predictor": Group(self.predictor_lr, self.predictor_weight_decay)}

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where the predictor's outputs are not as many as the target's."""
        super().check(network, setup)
        units = self.projector.outputs(output_units(network, setup))
        if isinstance(self.predictor, Head) and self.predictor.outputs(units) != units:
            raise ValueError(
                f"the predictor must have as many outputs as the projector, {units}, got "
                f"{self.predictor.outputs(units)}"
            )
        if isinstance(self.predictor, Head):
            self.predictor.check(units, "predictor")

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        inputs = output_units(network, setup)
        units = self.projector.outputs(inputs)
        state = with_prefix(
            "projector", init_head(self.projector, inputs, network, setup, PROJECTOR)
        )
        if isinstance(self.predictor, Head):
            drawn = init_head(self.predictor, units, network, setup, PREDICTOR)
            state |= with_prefix("predictor", drawn)
        elif self.predictor is not None:
            state |= with_prefix(
                "predictor", self.predictor.init(units, next(network.parameters()))
            )
        if self.target == "online":
            return state
        if self.target == "random":
            own = address(network, setup)
            projector = self.projector.init(inputs, place=PROJECTOR, version=1, **own)
            target = _shuffled(network, setup)
        else:
            projector = {
                name: tensor.detach().clone()
                for name, tensor in strip_prefix(state, "projector").items()
                if not name.endswith(RUNNING)
            }
            target = detached_copy(network)
        return (
            state
            | with_prefix("target.network", target)
            | with_prefix("target.projector", projector)
        )

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        projector, size = strip_prefix(state, "projector"), batch.size
        online = torch.cat(list(outputs(network, batch)), dim=1)
        below: list[Seen] = []
        above: list[Seen] = []
        projections = self.projector(projector, online, passes=2, seen=below)  # (S, 2 * B, U)
        given = projections if self.symmetric else projections[:, :size]
        predictions = given
        if isinstance(self.predictor, Head):
            own = strip_prefix(state, "predictor")
            predictions = self.predictor(own, given, 1 + self.symmetric, seen=above)
        elif self.predictor is not None:
            predictions = self.predictor(strip_prefix(state, "predictor"), given)
        targets = self._targets(network, state, batch, projections)
        distances = _cosine_form if self.normalized else _half_square
        # both directions have as many samples, so their sum is the mean of all, times how many
        losses = distances(predictions, targets).mean(-1) * (1 + self.symmetric)
        if not self.symmetric and self.target != "online":
            below = [own.of_first_pass() for own in below]  # the loss reads no more of them
        carried = update_running_stats("projector", self.projector, state, below)
        if isinstance(self.predictor, Head):
            carried |= update_running_stats("predictor", self.predictor, state, above)
        if isinstance(self.predictor, DirectPredictor):
            carried["projections"] = projections.detach()
        return losses, carried

    def after_step(
        self, network: nn.Module, state: State, carried: State, step: int, setup: TrainContext
    ) -> State:
        found = super().after_step(network, state, carried, step, setup)
        if isinstance(self.predictor, DirectPredictor):
            now = self.predictor.after_step(
                strip_prefix(state, "predictor"), carried["projections"], step
            )
            found |= with_prefix("predictor", now)
        if self.redraw_every and (step + 1) % self.redraw_every == 0:
            found |= with_prefix("predictor", self._redrawn(network, state, setup, step))
        if self._sweeps or self._stays(step, setup.steps) < 1:
            own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
            online = with_prefix("network", own) | with_prefix(
                "projector", strip_prefix(state, "projector")
            )
            target = strip_prefix(state, "target")
            found |= with_prefix("target", self._moved(target, online, step, setup.steps))
        return found

    def _targets(
        self, network: nn.Module, state: State, batch: Batch, projections: Tensor
    ) -> Tensor:
        """What is foretold, `(S, 2 * B, U)`: view 2 of every sample, then, if symmetric, view 1."""
        size = batch.size
        if self.target == "online":
            found = projections.detach() if self.stop_gradient else projections
            return found.roll(size, 1) if self.symmetric else found[:, size:]
        own = strip_prefix(state, "target.network")
        # a forward pass may change running statistics in place, and the state must stay as it is
        own |= {name: own[name].clone() for name, _ in network.named_buffers()}
        if not self.symmetric:
            batch = batch._replace(leaves=batch.leaves[..., size:, :])
        with torch.no_grad():
            passes = list(outputs(network, batch, own))
            foretold = torch.cat(passes[::-1], dim=1)
            return self.projector(strip_prefix(state, "target.projector"), foretold, len(passes))

    def _stays(self, step: int, steps: int) -> Any:
        """How much of itself the target keeps at update number `step`, counted from 0."""
        if self.target == "copy":
            return 1.0 if (step + 1) % self.copy_every else 0.0
        if self.target != "ema":
            return 1.0
        if self.momentum_schedule == "constant":
            return self.momentum
        return 1 - (1 - cast(float, self.momentum)) * self._pace(step, steps)

    def _pace(self, step: int, steps: int) -> float:
        """What the schedule multiplies 1 - m with."""
        if self.momentum_schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * step / steps)) / 2

    def _moved(self, target: State, online: State, step: int, steps: int) -> State:
        """m * target + (1 - m) * online; counters are the online network's."""
        names = [name for name in target if target[name].is_floating_point()]
        olds, news = [target[n] for n in names], [online[n].detach() for n in names]
        if self._sweeps:
            rest = tuple(1 - m for m in cast(tuple[float, ...], self.momentum))
            pace = self._pace(step, steps)
            pairs = zip(olds, news, strict=True)
            moved = [old.lerp(new, column(rest, old) * pace) for old, new in pairs]
        else:
            moved = list(torch._foreach_lerp(olds, news, 1 - self._stays(step, steps)))
        found = dict(zip(names, moved, strict=True))
        return {name: found[name] if name in found else online[name].clone() for name in target}

    def _redrawn(self, network: nn.Module, state: State, setup: TrainContext, step: int) -> State:
        """New parameters of the layers that are drawn again, whose running moments begin anew."""
        assert isinstance(self.predictor, Head)
        top = len(self.predictor.widths) - 1
        layers = {"all": None, "top": (top,), "bottom": (0,)}[self.redraw]
        parameter = next(network.parameters())
        return self.predictor.moments(len(parameter), parameter, layers) | self.predictor.init(
            state["predictor.0.weight"].shape[-1],
            place=PREDICTOR,
            version=(step + 1) // self.redraw_every,
            layers=layers,
            **address(network, setup),
        )


def _shuffled(network: nn.Module, setup: TrainContext) -> State:
    """The network's parameters, the entries of each tensor but zeros shuffled per member by address."""
    found = detached_copy(network)
    for place, (name, parameter) in enumerate(network.named_parameters()):
        keys = uniform(
            parameter[0].numel(),
            seed=setup.seed,
            stream=Stream.PREDICTOR,
            members=network.members,  # type: ignore[arg-type]
            node=TARGET * LAYERS + place,
        )
        # zeros pad the blocks of uneven trees and stay where they are
        values = found[name].flatten(1)
        padding = values == 0
        places = padding.to(torch.uint8).argsort(dim=1, stable=True)
        order = keys.to(values.device).masked_fill(padding, 2).argsort(dim=1, stable=True)
        found[name] = values.scatter(1, places, values.gather(1, order)).view_as(parameter)
    return found


def _cosine_form(predictions: Tensor, targets: Tensor) -> Tensor:
    """2 - 2 cos, `(S, B)`."""
    return 2 - 2 * cosine_similarity(predictions, targets)


def _half_square(predictions: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance, `(S, B)`."""
    return (predictions - targets).square().sum(-1) / 2
