"""The inner span: k steps of draw, forward, loss, backward, update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Batch, Method, Needs, State
from dualnets.optim import SGD
from hltm.kernels.order import Order
from hltm.philox import Stream
from hltm.sample import run
from hltm.tree import LatentTree

DRAWN_BYTES = 1 << 26  # leaves drawn ahead in one call


@dataclass(frozen=True)
class FreshData:
    """Rows never seen before, every step: step t of every member reads rows tB .. tB + B - 1.

    Views 1, 2, … of those rows are the method's views. Negative h of a row i is view 1 of row
    iH + h of a stream of its own. So the same trees and rows serve every width and method.

    Attributes:
        trees: one tree, or as many as there are members.
        members: S addresses.
        rates: `(V,)` redraw rates of the views.
        batch: B.
        seed: 64 bits.
        stacked: whether batches show the S axis.
        device: where to draw.
    """

    trees: LatentTree
    members: tuple[int, ...]
    rates: np.ndarray
    batch: int
    seed: int
    stacked: bool
    device: torch.device

    def steps_at_once(self, needs: Needs) -> int:
        """How many steps' leaves fit the memory set aside for them."""
        passes = needs.views + needs.negatives
        leaves = len(self.members) * len(self.trees.leaves) * self.batch * passes
        return max(DRAWN_BYTES // leaves, 1)

    def batches(self, needs: Needs, first_step: int, steps: int) -> Iterator[Batch]:
        """The batches of steps first_step .. first_step + steps - 1, drawn in one call per pass."""
        size = self.batch
        views = self._leaves(
            Stream.DATA, first_step * size, steps * size, tuple(range(1, needs.views + 1))
        )
        negatives: list[Tensor] = []
        if needs.negatives:
            count = needs.negatives
            (drawn,) = self._leaves(
                Stream.NEGATIVES, first_step * size * count, steps * size * count, (1,)
            )
            negatives = list(drawn.unflatten(-1, (-1, count)).unbind(-1))
        for t in range(steps):
            rows = slice(t * size, (t + 1) * size)
            leaves = torch.cat([part[..., rows] for part in (*views, *negatives)], dim=-1)
            leaves = leaves.transpose(1, 2)  # (S, P * B, X)
            yield Batch(leaves if self.stacked else leaves[0], size)

    def _leaves(
        self, stream: Stream, start: int, count: int, views: tuple[int, ...]
    ) -> list[Tensor]:
        """`(S, X, count)` leaves of each view."""
        order = Order(
            topology=self.trees.topology,
            seed=self.seed,
            stream=stream,
            members=self.members,
            start=start,
            count=count,
            views=views,
            rates=self.rates,
            first=self.trees.leaves.start,
            device=self.device,
        )
        return run(self.trees.tables, order)


class Progress(NamedTuple):
    """Where training stands.

    Attributes:
        state: the method's.
        losses: `(S,)` the last step's.
        frozen_at: `(S,)` int64, the step at which a member's loss or gradient was not finite and it
            was frozen as it stood; -1 for a member that is alive.
    """

    state: State
    losses: Tensor
    frozen_at: Tensor


def run_span(
    network: nn.Module,
    method: Method,
    optimizer: SGD,
    data: FreshData,
    before: Progress,
    first_step: int,
    steps: int,
) -> Progress:
    """Train the network in place for `steps` steps."""
    state, losses, frozen_at = before
    for step, batch in enumerate(data.batches(method.needs, first_step, steps), start=first_step):
        parameters = [*network.parameters(), *(v for v in state.values() if v.requires_grad)]
        losses = method.loss(network, state, batch)
        # losses of different members share nothing, so their sum has every member's own gradient
        gradients = torch.autograd.grad(losses.sum(), parameters)
        losses = losses.detach()
        finite = torch.isfinite(losses)
        for gradient in gradients:
            finite = finite & torch.isfinite(gradient.flatten(1).sum(1))
        frozen_at = torch.where((frozen_at < 0) & ~finite, step, frozen_at)
        optimizer.update(parameters, list(gradients), frozen_at < 0)
        state = method.after_step(network, state, step)
    return Progress(state, losses, frozen_at)
