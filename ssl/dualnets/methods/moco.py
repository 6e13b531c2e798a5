"""MoCo: a view is matched with its sample's other view among a long queue of earlier outputs.

He, Fan, Wu, Xie, Girshick (arXiv 1911.05722, equation 1 and Algorithm 1). With q the query, the
network's output on the first view, k+ the key encoder's output on the second, and k_j the Q keys in the
queue, all of length 1,

    L = - log( exp(q k+/τ) / (exp(q k+/τ) + Σ_j exp(q k_j/τ)) ),

averaged over the batch, and keys have no gradient. After every update the key encoder moves towards the
network, w_k <- m w_k + (1 - m) w (equation 2, m the EMA decay), and the keys of the step replace the
oldest in the queue. There is no factor τ, unlike in `dualnets.methods.losses`. With `symmetric` each view
is query once and key once, the two losses averaged, as in the authors' later versions (arXiv 2104.02057,
there without a queue).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dualnets._checks import check_kind, check_number, check_switch, check_whole
from dualnets._lazy import torch
from dualnets._options import option
from dualnets.methods._directions import direction, random_directions
from dualnets.methods._matching import matching_losses
from dualnets.methods._projector import directions, joined
from dualnets.methods.protocol import (
    Batch,
    Method,
    State,
    TrainContext,
    address,
    output_units,
    outputs,
    slow_copy,
    strip_prefix,
    with_prefix,
)
from dualnets.networks.heads import Head
from dualnets.networks.running_moments import RUNNING
from dualnets.optim.per_member import PerMember, between_0_and_1, broadcast_rates, check_rates

if TYPE_CHECKING:
    from torch import Tensor, nn

QUEUE = 64  # place of its random numbers


@dataclass(frozen=True)
class MoCo(Method):
    """Network, projector, their moving averages, and a queue of keys.

    State: `projector.…`, trained except for its running moments; `key.…` and `key_projector.…`, the
    key encoder's parameters, without running moments, since keys always use those of their batches;
    `queue` `(S, Q, U)`, the newest key first, filled with random directions before the first step.

    Attributes:
        queue: Q, number of earlier keys in the queue, at least the keys of a step: B, or 2B where
            symmetric. A length that is no multiple of these is exact, too.
        ema_decay: m of the key encoder's moving average, in 0..1. At 0 it is the network itself, at 1
            the initial network for ever; 0.999, as in the paper, needs 700 updates to forget half of the
            initial network. One number or one per member.
        temperature: τ of the loss.
        symmetric: whether each view is both query and key.
        projector: head on the network's outputs; `Head()` for none.

    Raises:
        TypeError: a value of another type.
        ValueError: ema_decay outside 0..1, τ not above 0, Q below 1; before training, a queue shorter
            than a step's keys, decays that are not as many as members, or a projector with a constant
            output.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> method = MoCo(queue=64, ema_decay=0.9)
        >>> final = dualnets.train(network, method, trees, augment=hltm.keep_root(), steps=10,
        ...                        batch=32, optimizer=dualnets.SGD(lr=0.1), seed=2)
        >>> final.state["queue"].shape
        torch.Size([2, 64, 4])
    """

    queue: int = 1024
    ema_decay: PerMember = option(0.999, flag="key_ema_decay")  # noqa: RUF009
    temperature: float = 0.07
    symmetric: bool = option(False, flag="key_symmetric")
    projector: Head = Head()  # noqa: RUF009, frozen
    per_member: ClassVar[tuple[str, ...]] = ("ema_decay",)
    unit_length: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("queue", self.queue, low=1, unit="key")
        object.__setattr__(
            self, "ema_decay", check_rates("ema_decay", self.ema_decay, between_0_and_1)
        )
        check_number("temperature", self.temperature, above=0)
        check_switch("symmetric", self.symmetric)
        check_kind("projector", self.projector, Head, "dualnets.Head((32, 16))")

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where the queue is shorter than the keys of one step."""
        super().check(network, setup)
        keys = setup.batch * (2 if self.symmetric else 1)
        if self.queue < keys:
            raise ValueError(
                f"the queue must hold at least the {keys} keys of a step "
                f"(batch {setup.batch}, symmetric={self.symmetric}), got queue={self.queue}"
            )

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        units = self.projector.outputs(output_units(network, setup))
        online = super().init(network, setup)
        projector = strip_prefix(online, "projector")
        slow = {n: p.detach().clone() for n, p in projector.items() if not n.endswith(RUNNING)}
        queue = random_directions(self.queue, units, place=QUEUE, **address(network, setup))
        return {
            **with_prefix("key", slow_copy(dict(network.named_parameters()))),
            **with_prefix("key_projector", slow),
            **online,
            "queue": queue,
        }

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        views = batch.leaves.split(batch.size, dim=-2)
        first, second = (batch._replace(leaves=view) for view in views)
        # symmetric: queries of views 1, 2 with keys of views 2, 1; else a query of view 1, a key of 2
        asked = batch if self.symmetric else first
        queries, carried = directions(self.projector, network, state, asked)
        with torch.no_grad():
            keys = self._keys(network, state, batch if self.symmetric else second)[::-1]
        matching = joined(keys)
        losses = matching_losses(joined(queries), matching, state["queue"], self.temperature)
        return losses.mean(-1), carried | {"keys": matching}

    def after_step(
        self, network: nn.Module, state: State, carried: State, step: int, setup: TrainContext
    ) -> State:
        queue = state["queue"]
        keys = carried["keys"].to(queue.dtype)
        pairs = self._slow_and_online(network, state)
        return {
            **super().after_step(network, state, carried, step, setup),
            **{name: self._average(slow, online) for name, (slow, online) in pairs.items()},
            "queue": torch.cat([keys, queue], dim=1)[:, : self.queue],
        }

    def in_place(
        self, network: nn.Module, state: State, setup: TrainContext
    ) -> Callable[[State, int], None] | None:
        from dualnets.methods.compiled.in_place import MovingAverage, are_averaged, push

        slow, online = zip(*self._slow_and_online(network, state).values(), strict=True)
        if not are_averaged(slow, online):
            return None
        average, queue = MovingAverage(slow, online), state["queue"].numpy()
        decay: Any = self.ema_decay
        rate = tuple(1 - m for m in decay) if isinstance(decay, tuple) else 1 - decay

        def advance(carried: State, step: int) -> None:
            average(rate)
            push(queue, carried["keys"])

        return advance

    def _keys(self, network: nn.Module, state: State, batch: Batch) -> list[Tensor]:
        """The key encoder's outputs on every pass, of length 1."""
        # a forward pass may change running statistics in place: the key encoder changes copies
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        found = outputs(network, batch, {**buffers, **strip_prefix(state, "key")})
        projector = strip_prefix(state, "key_projector")
        return [direction(self.projector(projector, own)) for own in found]

    def _average(self, slow: Tensor, online: Tensor) -> Tensor:
        """m slow + (1 - m) online."""
        decay = broadcast_rates(self.ema_decay, slow)
        return slow * decay + online.detach() * (1 - decay)

    def _slow_and_online(
        self, network: nn.Module, state: State
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The slow parameters by their names in the state, each with the one that it follows."""
        own = with_prefix("key", dict(network.named_parameters()))
        own |= with_prefix("key_projector", strip_prefix(state, "projector"))
        return {name: (state[name], online) for name, online in own.items() if name in state}
