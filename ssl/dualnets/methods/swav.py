"""SwAV: each view predicts the prototypes to which the other view is assigned.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin (arXiv 2006.09882, Section 3 and Appendix A). With z the
outputs and c_k the K prototypes, all of length 1, and p(z) the softmax of z c_k / τ over k,

    L = - 1/2 Σ_k ( q_k(z2) log p_k(z1) + q_k(z1) log p_k(z2) ),

averaged over the batch. The assignments q have no gradient: they are exp(z c_k / ε) scaled by
Sinkhorn and Knopp's rows and columns in turn, so that a batch uses every prototype about equally.
Prototypes are trained and scaled to length 1 after every update. A queue of each view's earlier outputs
takes part in the assignments only. There are two views and, unlike in the paper, no further crops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dualnets._checks import check_kind, check_number, check_whole
from dualnets._lazy import torch
from dualnets._options import Above, option
from dualnets.methods._directions import direction, random_directions
from dualnets.methods._plain import plain_cross_entropies, plain_sinkhorn
from dualnets.methods._projector import directions, joined
from dualnets.methods.protocol import (
    Batch,
    Method,
    State,
    TrainContext,
    address,
    output_units,
    trained,
)
from dualnets.networks.heads import Head

if TYPE_CHECKING:
    from torch import Tensor, nn

PROTOTYPES = 64  # place of their random numbers


def sinkhorn(scores: Tensor, epsilon: float, iterations: int, used: Tensor | None = None) -> Tensor:
    """Assignments of samples to prototypes that use every prototype about equally.

    Rows and columns of exp(scores / ε) are scaled in turn: the prototypes' sums to be the same, then
    the samples' sums to be 1 (Cuturi, arXiv 1306.0895). In logarithms, so that a small ε cannot overflow.

    Args:
        scores: `(S, N, K)`.
        epsilon: ε; small for hard assignments, large for even ones.
        iterations: number of pairs of scalings; 0 gives the softmax over prototypes.
        used: `(S, N)` bool, the samples that count in the prototypes' sums; all by default.

    Returns:
        `(S, N, K)`, with sum 1 over the prototypes.

    Example:
        >>> found = sinkhorn(torch.tensor([[[1.0, 0.0], [0.9, 0.0]]]), epsilon=0.5, iterations=50)
        >>> found.sum(1).round(decimals=3).tolist(), found.sum(2).round(decimals=3).tolist()
        ([[1.0, 1.0]], [[1.0, 1.0]])
    """
    from dualnets.methods.compiled.operation import is_supported

    if is_supported(scores):
        from dualnets.methods.compiled import assignments

        every = scores.new_ones(scores.shape[:2], dtype=torch.bool) if used is None else used
        return assignments.sinkhorn(scores.detach(), epsilon, iterations, every)
    return plain_sinkhorn(scores, epsilon, iterations, used)


def cross_entropies(scores: Tensor, assigned: Tensor, temperature: float) -> Tensor:
    """`(S, N)` -Σ_k q_k log p_k: q the assignments `(S, N, K)`, p the softmax of scores over τ."""
    from dualnets.methods.compiled.operation import is_supported

    if not assigned.requires_grad and is_supported(scores, assigned):
        from dualnets.methods.compiled import assignments

        return assignments.cross_entropies(scores, assigned, temperature)[0]
    return plain_cross_entropies(scores, assigned, temperature)


@dataclass(frozen=True)
class SwAV(Method):
    """A network, a projector and prototypes.

    State: `projector.…`, trained except for its running moments; `prototypes` `(S, K, U)`, trained;
    `steps` `(S,)`, the number of updates; with a queue `queue.0` and `queue.1` `(S, Q, U)`, the outputs
    of each view, the newest first.

    Attributes:
        prototypes: K, number of prototypes, not more than the samples assigned together, B + Q.
        temperature: τ of the loss.
        epsilon: ε of the assignments, which are hard where it is small.
        iterations: number of times that prototypes and samples are scaled.
        frozen_steps: number of first steps in which the prototypes are not trained. The optimiser's
            memory of them is reset after that.
        queue: Q, number of earlier samples of each view that are assigned together with the batch.
        queue_from: first step that uses the queue; never before it is full, after Q / B steps.
        projector: head on the network's outputs; `Head()` for none.

    Raises:
        TypeError: a value of another type.
        ValueError: a value out of range, queue_from without a queue; before training, more prototypes
            than samples in batch and queue, a queue shorter than the batch, or a projector with a
            constant output.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> method = SwAV(prototypes=6, queue=64, queue_from=4)
        >>> final = dualnets.train(network, method, trees, augment=hltm.keep_root(), steps=10,
        ...                        batch=32, optimizer=dualnets.SGD(lr=0.1), seed=2)
        >>> final.state["prototypes"].norm(dim=-1).allclose(torch.tensor(1.0))
        True
    """

    prototypes: int = 32
    temperature: float = 0.1
    epsilon: float = option(0.05, flag="assignment_epsilon")
    iterations: int = option(3, flag="assignment_iterations")
    frozen_steps: int = option(0, flag="frozen_prototypes")
    queue: int = 0
    queue_from: int = option(0, applies_to={"queue": Above(0)})
    projector: Head = Head()  # noqa: RUF009, frozen
    unit_length: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("prototypes", self.prototypes, low=2)
        for name in ("temperature", "epsilon"):
            check_number(name, getattr(self, name), above=0)
        check_kind("projector", self.projector, Head, "dualnets.Head((32, 16))")
        check_whole("iterations", self.iterations, low=1)
        for name in ("frozen_steps", "queue", "queue_from"):
            check_whole(name, getattr(self, name), low=0)
        if self.queue_from and not self.queue:
            raise ValueError(f"queue_from={self.queue_from} needs a queue, got queue=0")

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where there are more prototypes than samples, or the queue is too short."""
        super().check(network, setup)
        if 0 < self.queue < setup.batch:
            raise ValueError(
                f"the queue must hold at least a batch of {setup.batch}, got queue={self.queue}"
            )
        if self.prototypes > setup.batch + self.queue:
            raise ValueError(
                f"{self.prototypes} prototypes are more than a batch of {setup.batch} and a queue "
                f"of {self.queue} can fill"
            )

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        units = self.projector.outputs(output_units(network, setup))
        own = address(network, setup)
        prototypes = random_directions(self.prototypes, units, place=PROTOTYPES, **own)
        state = super().init(network, setup) | trained({"prototypes": prototypes})
        state["steps"] = torch.zeros(len(prototypes), dtype=torch.int64, device=prototypes.device)
        for view in range(2 if self.queue else 0):  # not read before they are full
            state[f"queue.{view}"] = prototypes.new_zeros(len(prototypes), self.queue, units)
        return state

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        prototypes = state["prototypes"]
        if self.frozen_steps:
            free = (state["steps"] >= self.frozen_steps)[:, None, None]
            prototypes = torch.where(free, prototypes, prototypes.detach())
        z, carried = directions(self.projector, network, state, batch)
        both = joined(z)  # (S, 2B, U), then scores (S, 2B, K)
        scores = (prototypes @ both.transpose(1, 2)).transpose(1, 2).to(prototypes.dtype)
        with torch.no_grad():
            assigned = [
                self._assigned(own, state, view, batch.size)
                for view, own in enumerate(scores.split(batch.size, dim=1))
            ]
            exchanged = joined(assigned[::-1])
        losses = cross_entropies(scores, exchanged, self.temperature).mean(-1)
        carried["prototypes"] = state["prototypes"].detach().clone()  # the update is in place
        if self.queue:
            carried |= {str(view): own.detach() for view, own in enumerate(z)}
        return losses, carried

    def after_step(
        self, network: nn.Module, state: State, carried: State, step: int, setup: TrainContext
    ) -> State:
        after = super().after_step(network, state, carried, step, setup)
        after["steps"] = state["steps"] + 1
        before, prototypes = carried["prototypes"], state["prototypes"]
        if step < self.frozen_steps:
            after["prototypes"] = before
        else:
            # The scaling to length 1 belongs to the optimiser's update and is therefore in place, too: a
            # tensor that is replaced loses its momentum. Prototypes that the update did not change keep
            # their bits, so that those of frozen members stay the same.
            with torch.no_grad():
                changed = (prototypes != before).any(dim=-1, keepdim=True)
                largest = prototypes.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30)
                unit = direction(prototypes / largest)  # a huge step's length cannot overflow
                prototypes.copy_(torch.where(changed, unit, prototypes))
        for view in range(2 if self.queue else 0):
            queue = state[f"queue.{view}"]
            new = carried[str(view)].to(queue.dtype)
            after[f"queue.{view}"] = torch.cat([new, queue], dim=1)[:, : self.queue]
        return after

    def in_place(
        self, network: nn.Module, state: State, setup: TrainContext
    ) -> Callable[[State, int], None] | None:
        from dualnets.methods.compiled.in_place import push, scale
        from dualnets.methods.compiled.operation import is_supported

        prototypes, steps = state["prototypes"], state["steps"]
        queues = [state[f"queue.{view}"] for view in range(2 if self.queue else 0)]
        given = [prototypes, *queues]
        # prototypes that are not trained yet are replaced, which the optimiser has to know
        known = is_supported(*given) and all(own.is_contiguous() for own in given)
        if self.frozen_steps or not known:
            return None
        own, arrays = prototypes.detach().numpy(), [queue.numpy() for queue in queues]

        def advance(carried: State, step: int) -> None:
            steps.add_(1)
            scale(own, carried["prototypes"])
            for view, queue in enumerate(arrays):
                push(queue, carried[str(view)])

        return advance

    def _assigned(self, scores: Tensor, state: State, view: int, size: int) -> Tensor:
        """`(S, B, K)` assignments of a view's samples, together with its queue once that is used."""
        if not self.queue:
            return sinkhorn(scores, self.epsilon, self.iterations)
        prototypes, queue = state["prototypes"].detach(), state[f"queue.{view}"]
        together = torch.cat([scores, (queue @ prototypes.transpose(1, 2)).to(scores.dtype)], dim=1)
        start = max(self.queue_from, -(-self.queue // size))  # full after Q / B steps
        in_use = (state["steps"] >= start)[:, None]
        mine = torch.arange(together.shape[1], device=scores.device) < size
        return sinkhorn(together, self.epsilon, self.iterations, mine | in_use)[:, :size]
