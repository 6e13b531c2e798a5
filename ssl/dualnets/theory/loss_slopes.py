"""How a contrastive loss pulls and pushes: its derivatives by r_+ and by each r_k.

For a loss of pairs ∂L/∂r_+ > 0, ∂L/∂r_k < 0, and they sum to zero (theory, Section 3; arXiv
2010.00578, Theorem 2 and its table of losses). β_k = -∂L/∂r_k is how strongly a negative repels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dualnets.losses import BatchwiseNCE, Loss, NTXent, distance

SMALLEST = 1e-30  # r is never taken smaller, so that a slope can be read off a coordinate
TOLERANCE = 1e-9


class Slopes(NamedTuple):
    """Derivatives of each anchor's loss: the batch's loss is the mean over anchors.

    Attributes:
        positive: `(S, A)` ∂L/∂r_+.
        negative: `(S, K, A)` ∂L/∂r_k.
    """

    positive: Tensor
    negative: Tensor

    @property
    def repulsion(self) -> Tensor:
        """`(S, K, A)` β_k = -∂L/∂r_k."""
        return -self.negative

    @property
    def total(self) -> Tensor:
        """`(S, A)` ∂L/∂r_+ + Σ_k ∂L/∂r_k, zero for a loss of pairs."""
        return self.positive + self.negative.sum(1)


def loss_slopes(loss: Loss, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Slopes:
    """The slopes of a loss at given outputs.

    Args:
        loss: of `dualnets.losses`, or any loss that depends on its outputs only through r_+ and r_k
            of each anchor. For BatchwiseNCE slopes are A times the batch's own.
        anchor, positive: `(S, B, U)`.
        negatives: `(S, H, B, U)`; H = 0 for NTXent, whose anchors are the A = 2B views of the batch
            (all first ones, then all second ones) and whose K = 2B - 2 negatives are the others, in
            order, without the anchor and its partner.

    Raises:
        ValueError: a loss without fresh negatives other than NTXent.

    Example:
        >>> import dualnets
        >>> a, p, n = torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.tensor([[[[0.6, 0.8]]]])
        >>> found = loss_slopes(dualnets.InfoNCE(temperature=0.5), a, p, n)  # r_+ = 0, r_1 = 1/2
        >>> found.positive, found.negative  # 1 / (1 + e)
        (tensor([[0.2689]]), tensor([[[-0.2689]]]))
    """
    if isinstance(loss, NTXent):
        return _in_batch(loss, torch.cat([anchor, positive], dim=1))
    if loss.negatives < 1:
        raise ValueError(f"{type(loss).__name__} has no negatives whose slopes are known")
    near = distance(anchor, positive)
    far = distance(anchor[:, None], negatives)
    return slopes_at(loss, near, far, features=anchor.shape[-1])


def slopes_at(loss: Loss, near: Tensor, far: Tensor, *, features: int = 1) -> Slopes:
    """The slopes at given r_+ `(S, B)` and r_k `(S, H, B)`, for a loss with fresh negatives.

    The loss is evaluated at outputs that have these r: the anchor at 0 and every other view on the
    first axis, at x = sqrt(2 r). There ∂L/∂x = ∂L/∂r · x, so a slope is a derivative over x.
    """
    place = (2 * near.detach().clamp_min(SMALLEST)).sqrt().requires_grad_()
    places = (2 * far.detach().clamp_min(SMALLEST)).sqrt().requires_grad_()

    def view(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x[..., None], (0, features - 1))

    with torch.enable_grad():
        value = loss(torch.zeros_like(view(place)), view(place), view(places)).sum()
    by_place, by_places = torch.autograd.grad(value, (place, places))
    count = near.shape[-1]
    return Slopes(count * by_place / place.detach(), count * by_places / places.detach())


def check_pairs(loss: Loss) -> None:
    """Raise unless an anchor's loss depends on nothing but its own r_+ and r_k, with zero sum.

    Raises:
        ValueError: a loss of whole batches, or slopes that do not sum to zero.
    """
    name = type(loss).__name__
    if isinstance(loss, (NTXent, BatchwiseNCE)) or loss.negatives < 1:
        raise ValueError(
            f"{name} is a loss of whole batches, which has no population form: estimate it with "
            "batches=…"
        )
    probe = torch.Generator().manual_seed(0)
    near = torch.rand(1, 3, generator=probe, dtype=torch.float64)
    far = torch.rand(1, loss.negatives, 3, generator=probe, dtype=torch.float64)
    found = slopes_at(loss, near, far)
    alone = slopes_at(loss, near[:, :1], far[:, :, :1])
    if not torch.allclose(found.positive[:, :1], alone.positive, rtol=TOLERANCE):
        raise ValueError(f"{name} is a loss of whole batches, which has no population form")
    if float(found.total.abs().max()) > TOLERANCE * float(found.positive.abs().max()):
        raise ValueError(f"the slopes of {name} do not sum to zero: it is no loss of pairs")


def _in_batch(loss: NTXent, outputs: Tensor) -> Slopes:
    """∂/∂r of r_+ + τ log Σ_{j ≠ i} exp(-r_ij / τ), for each of the 2B views i."""
    count = outputs.shape[1]
    r = distance(outputs[:, :, None], outputs[:, None])
    itself = torch.eye(count, dtype=torch.bool, device=outputs.device)
    share = torch.softmax((-r / loss.temperature).masked_fill(itself, -torch.inf), dim=-1)
    index = torch.arange(count, device=outputs.device)
    partner = index.roll(count // 2)
    others = in_batch_negatives(count // 2).to(outputs.device)  # (K, A)
    return Slopes(1 - share[:, index, partner], -share[:, index, others])


def in_batch_negatives(batch: int) -> Tensor:
    """`(2B - 2, 2B)` the views that are negatives of each of 2B views, in order."""
    index = torch.arange(2 * batch)
    allowed = (index[:, None] != index) & (index[:, None] != index.roll(batch))
    return index.expand(2 * batch, -1)[allowed].view(2 * batch, -1).T.contiguous()
