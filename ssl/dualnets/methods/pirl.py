"""PIRL: views are matched with the memory of their own sample against the memory of other samples.

Misra and van der Maaten (arXiv 1912.01991, equations 2 to 5). A memory bank holds a moving average m_i of the
outputs f(x_i) for every sample i of a fixed data set. For an output v of sample i, negatives n drawn
from the bank, s the cosine similarity and h(m) = exp(s(v, m)/τ) / (exp(s(v, m)/τ) + Σ_n exp(s(v, n)/τ)),

    N(v) = - log h(m_i) - Σ_n log(1 - h(n)),      L = λ N(g(x')) + (1 - λ) N(f(x)),

averaged over the batch. After every update m_i <- w m_i + (1 - w) f(x), put back to length 1.

In the paper x is the image and x' a transformed one; here both are augmented views, x the first.
Without `classify_negatives` N is -log h(m_i), a softmax over positive and negatives. The negatives of a
step are drawn from the whole bank, with replacement, by address, one set for all samples of a member's
batch; where a sample is among its own negatives, it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dualnets._checks import check_kind, check_number, check_switch, check_whole
from dualnets._options import option
from dualnets.methods._directions import direction, random_directions
from dualnets.methods._matching import matching_losses
from dualnets.methods._projector import directions, joined
from dualnets.methods.protocol import (
    Batch,
    Method,
    Needs,
    State,
    TrainContext,
    address,
    apply_head,
    init_head,
    output_units,
    outputs,
)
from dualnets.networks.heads import LAYERS, Head

if TYPE_CHECKING:
    from torch import Tensor, nn

VIEW_PROJECTOR, BANK, NEGATIVES = 1, 64, 65  # places of their random numbers


@dataclass(frozen=True)
class PIRL(Method):
    """A network, two heads and a memory of every sample.

    State: `projector.…` and, where g has a head of its own, `view_projector.…`, trained except for
    their running moments, which for a shared head are over both views; `bank` `(S, P, U)`, random
    directions before the first step; `negatives` `(S, N)` int64, the places of the next step's
    negatives in the bank.

    Attributes:
        weight: λ, weight of the second view's part of the loss, in 0..1.
        temperature: τ of the loss.
        bank_momentum: w, EMA decay of the memory, in 0..1.
        negatives: N, number of negatives per step, fewer than there are samples.
        classify_negatives: whether log(1 - h) of each negative is a part of the loss.
        projector: head of f, on the first view; `Head()` for none.
        view_projector: head of g, on the second view; None for that of f.

    Raises:
        TypeError: a value of another type.
        ValueError: a value out of range; before training, as many negatives as samples, heads of
            different widths or with a constant output, or fresh data.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> final = dualnets.train(network, PIRL(negatives=50), trees, augment=hltm.keep_root(),
        ...                        steps=10, batch=32, samples=200, seed=2,
        ...                        optimizer=dualnets.SGD(lr=0.1))
        >>> final.state["bank"].shape
        torch.Size([2, 200, 4])
    """

    weight: float = option(0.5, flag="second_view")
    temperature: float = 0.07
    bank_momentum: float = 0.5
    negatives: int = option(256, flag="bank_negatives")
    classify_negatives: bool = True
    projector: Head = Head()  # noqa: RUF009, frozen
    view_projector: Head | None = None
    unit_length: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("weight", "bank_momentum"):
            check_number(name, getattr(self, name), low=0, high=1)
        check_number("temperature", self.temperature, above=0)
        check_whole("negatives", self.negatives, low=1)
        check_switch("classify_negatives", self.classify_negatives)
        check_kind("projector", self.projector, Head, "dualnets.Head((32, 16))")
        if self.view_projector is not None:
            check_kind("view_projector", self.view_projector, Head, "dualnets.Head((32, 16))")

    @property
    def needs(self) -> Needs:
        return Needs(views=2, places=True)

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where there are too few samples, or the heads do not fit each other."""
        super().check(network, setup)
        samples = self._samples(setup)
        if self.negatives >= samples:
            raise ValueError(
                f"{self.negatives} negatives need more than {self.negatives} samples, got "
                f"samples={samples}"
            )
        if self.view_projector is not None:
            inputs = output_units(network, setup)
            self.view_projector.check(inputs, "view_projector")
            ours, theirs = self.projector.outputs(inputs), self.view_projector.outputs(inputs)
            if ours != theirs:
                raise ValueError(
                    f"both heads must have equally many outputs: projector has {ours}, "
                    f"view_projector {theirs}"
                )

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        inputs = output_units(network, setup)
        state = super().init(network, setup)
        if (head := self.view_projector) is not None:
            state |= init_head("view_projector", head, inputs, network, setup, VIEW_PROJECTOR)
        samples, units = self._samples(setup), self.projector.outputs(inputs)
        state["bank"] = random_directions(samples, units, place=BANK, **address(network, setup))
        state["negatives"] = self._drawn(network, setup, 0)
        return state

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        assert batch.places is not None  # since `needs` says so
        bank = state["bank"]
        if self.view_projector is None:
            (f, g), carried = directions(self.projector, network, state, batch)
        else:
            first, second = outputs(network, batch)
            f, carried = apply_head("projector", self.projector, state, first)
            g, above = apply_head("view_projector", self.view_projector, state, second)
            f, g, carried = direction(f), direction(g), carried | above
        memory = bank[:, batch.places]  # (S, B, U), m_i
        # the second view's losses, then the first's, in one call
        losses = matching_losses(
            joined([g, f]),
            memory.repeat(1, 2, 1),
            bank.gather(1, state["negatives"][..., None].expand(-1, -1, bank.shape[-1])),
            self.temperature,
            places=(batch.places.repeat(2), state["negatives"]),
            classify=self.classify_negatives,
        )
        of_second, of_first = (own.mean(-1) for own in losses.split(batch.size, dim=1))
        losses = self.weight * of_second + (1 - self.weight) * of_first
        kept = f.detach().mT.contiguous().mT  # batch-last, of its own
        return losses, carried | {"places": batch.places, "outputs": kept}

    def after_step(
        self, network: nn.Module, state: State, carried: State, step: int, setup: TrainContext
    ) -> State:
        bank, places = state["bank"], carried["places"]
        new = carried["outputs"].to(bank.dtype)
        average = self.bank_momentum * bank[:, places] + (1 - self.bank_momentum) * new
        return {
            **super().after_step(network, state, carried, step, setup),
            "bank": bank.index_copy(1, places, direction(average)),
            "negatives": self._drawn(network, setup, step + 1),
        }

    def in_place(
        self, network: nn.Module, state: State, setup: TrainContext
    ) -> Callable[[State, int], None] | None:
        from dualnets.methods.compiled.in_place import Places, remember
        from dualnets.methods.compiled.operation import is_supported
        from hltm.sampling.philox import Stream

        bank, negatives = state["bank"], state["negatives"]
        if not (is_supported(bank) and bank.is_contiguous() and negatives.is_contiguous()):
            return None
        members: Any = network.members
        memory, drawn = bank.numpy(), negatives.numpy()
        places = Places(setup.seed, members, Stream.PREDICTOR, self._samples(setup))

        def advance(carried: State, step: int) -> None:
            remember(memory, carried["places"], carried["outputs"], self.bank_momentum)
            places.draw(*_address_of(step + 1), drawn)

        return advance

    def _drawn(self, network: nn.Module, setup: TrainContext, step: int) -> Tensor:
        """`(S, N)` int64 places in the bank of a step's negatives."""
        from hltm._devices import float64_device
        from hltm.sampling.philox import Stream, uniform

        samples = self._samples(setup)
        device = next(network.parameters()).device
        node, view = _address_of(step)
        numbers = uniform(
            self.negatives,
            seed=setup.seed,
            stream=Stream.PREDICTOR,
            members=network.members,  # type: ignore[arg-type]
            node=node,
            view=view,
            device=float64_device(device),
        )
        # a number just below 1 may round to `samples`
        return (numbers * samples).long().clamp(max=samples - 1).to(device)

    @staticmethod
    def _samples(setup: TrainContext) -> int:
        if setup.samples is None:
            raise ValueError(
                "PIRL has a memory of every sample and needs a fixed data set, got samples=None"
            )
        return setup.samples


def _address_of(step: int) -> tuple[int, int]:
    """Node and view in the address of a step's negatives."""
    from hltm.sampling.philox import MAX_VIEWS

    return NEGATIVES * LAYERS + step // MAX_VIEWS, step % MAX_VIEWS
