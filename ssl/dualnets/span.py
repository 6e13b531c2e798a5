"""The inner span: k steps of draw, forward, loss, backward, update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dualnets import fused
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

    def draw(self, needs: Needs, first_step: int, steps: int) -> tuple[list[Tensor], Tensor | None]:
        """Leaves of steps first_step .. first_step + steps - 1, in one call per stream.

        Returns:
            `(S, X, steps * B)` for every view, and `(S, X, steps * B * H)` negatives or None.
        """
        rows, count = first_step * self.batch, steps * self.batch
        views = self._leaves(Stream.DATA, rows, count, tuple(range(1, needs.views + 1)))
        if needs.negatives == 0:
            return views, None
        (negatives,) = self._leaves(
            Stream.NEGATIVES, rows * needs.negatives, count * needs.negatives, (1,)
        )
        return views, negatives

    def batches(self, needs: Needs, first_step: int, steps: int) -> Iterator[Batch]:
        """The batches of these steps, one by one."""
        views, negatives = self.draw(needs, first_step, steps)
        parts = [*views]
        if negatives is not None:
            parts += negatives.unflatten(-1, (-1, needs.negatives)).unbind(-1)
        for t in range(steps):
            rows = slice(t * self.batch, (t + 1) * self.batch)
            leaves = torch.cat([part[..., rows] for part in parts], dim=-1)
            leaves = leaves.transpose(1, 2)  # (S, P * B, X)
            yield Batch(leaves if self.stacked else leaves[0], self.batch)

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
    """Train the network in place for `steps` steps, compiled where that is offered."""
    offer = fused.offer(network, method.plain_loss)
    if offer is not None:
        views, negatives = data.draw(method.needs, first_step, steps)
        assert negatives is not None  # every loss of pairs has one
        drawn = fused.Drawn(views[0], views[1], negatives, data.batch)
        frozen_at = before.frozen_at.clone()
        losses = fused.run(*offer, optimizer, drawn, first_step, frozen_at)
        return Progress(before.state, losses, frozen_at)
    return run_span_eager(network, method, optimizer, data, before, first_step, steps)


def run_span_eager(
    network: nn.Module,
    method: Method,
    optimizer: SGD,
    data: FreshData,
    before: Progress,
    first_step: int,
    steps: int,
) -> Progress:
    """`run_span` in plain torch: any network, method and device, and what the compiled path must equal."""
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
