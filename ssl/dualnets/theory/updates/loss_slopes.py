"""Theorem 2: the derivatives of a contrastive loss with respect to its distances.

With r(a, b) = 1/2 ||f(a) - f(b)||², an anchor a, its positive + (a view of the same sample) and its
negatives k (views of other samples), a loss L depends on r_+ = r(a, +) and r_k = r(a, k). For a *loss
of pairs* (docs/theory.md, Section 3)

    ∂L/∂r_+ > 0,    ∂L/∂r_k < 0,    ∂L/∂r_+ + Σ_k ∂L/∂r_k = 0              (Equation 3.1)
    β_k = -∂L/∂r_k                                                          (Equation 3.2)

β_k is the weight of negative k: how strongly the loss pushes anchor and negative apart. Rounding can make
it 0 for a negative that is far away.

Axes: S member, B sample, A anchor, H fresh negatives of an anchor, K all its negatives, U unit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dualnets.methods.losses import LOSSES, BatchwiseNCE, Detached, Loss, NTXent, distance
from dualnets.theory.updates.fitting import check_finite

SMALLEST = 1e-30  # of r, so that ∂L/∂r can be found from ∂L/∂x, which is 0 at x = sqrt(2 r) = 0
TOLERANCE = 1e-9
SHIFT = 0.7  # added to all outputs, which changes no distance


class Slopes(NamedTuple):
    """Derivatives of each anchor's loss; the loss of a batch is the mean over anchors.

    Attributes:
        positive: `(S, A)` ∂L/∂r_+.
        negative: `(S, K, A)` ∂L/∂r_k.
    """

    positive: Tensor
    negative: Tensor

    @property
    def repulsion(self) -> Tensor:
        """`(S, K, A)` β_k = -∂L/∂r_k (Equation 3.2)."""
        return -self.negative

    @property
    def total(self) -> Tensor:
        """`(S, A)` ∂L/∂r_+ + Σ_k ∂L/∂r_k, zero for a loss of pairs (Equation 3.1)."""
        return self.positive + self.negative.sum(1)


def loss_slopes(loss: Loss, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Slopes:
    """Theorem 2: ∂L/∂r_+ and ∂L/∂r_k of a loss at given outputs (docs/theory.md, Equation 3.1).

    Args:
        loss: of `dualnets`, or any loss that depends on its outputs only through r_+ and r_k of each
            anchor. The slopes of BatchwiseNCE, which has one value per batch, are A times its
            derivatives; those of `Detached` are those of the loss that it wraps.
        anchor, positive: `(S, B, U)`.
        negatives: `(S, H, B, U)`; H = 0 for NTXent, whose anchors are the A = 2B views of the batch
            (all first views, then all second ones) and whose K = 2B - 2 negatives are the others, in
            order, without the anchor and its partner.

    Raises:
        TypeError: a loss of another kind, or outputs that are not tensors.
        ValueError: a loss that is not a function of r_+ and r_k, such as one of inner products; one
            without fresh negatives, other than NTXent; outputs of other shapes than the loss takes,
            or not finite.

    Example:
        >>> import dualnets
        >>> a, p, n = torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.tensor([[[[0.6, 0.8]]]])
        >>> found = loss_slopes(dualnets.InfoNCE(temperature=0.5), a, p, n)  # r_+ = 0, r_1 = 1/2
        >>> found.positive, found.negative  # 1 / (1 + e)
        (tensor([[0.2689]]), tensor([[[-0.2689]]]))
    """
    check_distances(loss)
    _check_outputs(loss, anchor, positive, negatives)
    own = unwrapped(loss)
    if isinstance(own, NTXent):
        return _in_batch(own, torch.cat([anchor, positive], dim=1))
    near = distance(anchor, positive)
    far = distance(anchor[:, None], negatives)
    return slopes_at(loss, near, far, features=anchor.shape[-1])


def slopes_at(loss: Loss, near: Tensor, far: Tensor, *, features: int = 1) -> Slopes:
    """The slopes at given r_+ `(S, B)` and r_k `(S, H, B)`, for a loss with fresh negatives.

    The loss is evaluated at outputs with these distances: the anchor at 0 and every other view on the
    first coordinate, at x = sqrt(2 r). There ∂L/∂x = ∂L/∂r · x, so ∂L/∂r = (∂L/∂x) / x.
    """
    place = (2 * near.detach().clamp_min(SMALLEST)).sqrt().requires_grad_()
    places = (2 * far.detach().clamp_min(SMALLEST)).sqrt().requires_grad_()

    def view(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x[..., None], (0, features - 1))

    with torch.enable_grad():
        value = loss(torch.zeros_like(view(place)), view(place), view(places)).sum()
    by_place, by_places = torch.autograd.grad(
        value, (place, places), allow_unused=True, materialize_grads=True
    )
    count = near.shape[-1]
    return Slopes(count * by_place / place.detach(), count * by_places / places.detach())


def unwrapped(loss: Loss) -> Loss:
    """The loss that determines the pair weights: the wrapped one of `Detached`, else the loss itself."""
    return unwrapped(loss.criterion) if isinstance(loss, Detached) else loss


def check_loss(loss: Loss) -> None:
    """Raise TypeError unless this is a loss: a function of outputs with a number of negatives."""
    if isinstance(loss, type):
        raise TypeError(f"expected a loss, got the class {loss.__name__}: call it to make one")
    if isinstance(loss, str) and loss in LOSSES:
        raise TypeError(f"expected a loss, got the name {loss!r}: give {LOSSES[loss].__name__}()")
    if not callable(loss) or not isinstance(getattr(loss, "negatives", None), int):
        raise TypeError(
            "expected a contrastive loss such as dualnets.InfoNCE(): a function of anchor, positive and "
            f"negatives whose attribute `negatives` is a whole number; got {loss!r}"
        )


def check_anchors(loss: Loss) -> None:
    """Raise unless the loss of a batch is the mean of the losses of its anchors, each on its own.

    Raises:
        TypeError: a loss of another kind.
        ValueError: a loss of whole batches.
    """
    check_loss(loss)
    if isinstance(unwrapped(loss), (NTXent, BatchwiseNCE)) or loss.negatives < 1:
        raise ValueError(
            f"{_name(loss)} is a loss of whole batches, which has no population form: estimate it with "
            "batches=…"
        )
    given = _probe(loss)
    each = [loss(*(part[..., i : i + 1, :] for part in given)) for i in range(given[0].shape[1])]
    if not torch.allclose(loss(*given), torch.stack(each).mean(0), rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(f"{_name(loss)} is a loss of whole batches, which has no population form")


def check_distances(loss: Loss) -> None:
    """Raise unless a loss depends on its outputs only through r_+ and r_k of its anchors.

    Two tests at random outputs: shifting all outputs together, which changes no distance, may not
    change the loss; and its gradient must be Σ ∂L/∂r ∇r, with the slopes ∂L/∂r.

    Raises:
        TypeError: a loss of another kind.
        ValueError: a loss that fails one of the two tests; the error names which.
    """
    check_loss(loss)
    if isinstance(unwrapped(loss), NTXent):
        return
    name = _name(loss)
    if loss.negatives < 1:
        raise ValueError(
            f"{name} takes no fresh negatives; among such losses only NTXent has slopes here"
        )
    given = [part.requires_grad_() for part in _probe(loss)]
    with torch.enable_grad():
        value = loss(*given).sum()
    if not value.requires_grad:
        raise ValueError(f"{name} has no gradient in its outputs")
    moved = loss(*(part.detach() + SHIFT for part in given)).sum()
    if not torch.allclose(moved, value.detach(), rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(
            f"{name} is not a loss of distances: its value changes when all outputs move together, as "
            "inner products do, so it has no slopes in r_+ and r_k and no pair weights"
        )
    found = torch.autograd.grad(value, given, allow_unused=True, materialize_grads=True)
    anchor, positive, negatives = (part.detach() for part in given)
    near, far = distance(anchor, positive), distance(anchor[:, None], negatives)
    slopes = slopes_at(loss, near, far, features=anchor.shape[-1])
    count = anchor.shape[1]
    by_positive = slopes.positive[..., None] * (positive - anchor) / count
    by_negatives = slopes.negative[..., None] * (negatives - anchor[:, None]) / count
    expected = (-by_positive - by_negatives.sum(1), by_positive, by_negatives)
    for own, its in zip(found, expected, strict=True):
        if not torch.allclose(own, its, rtol=1e-6, atol=TOLERANCE):
            raise ValueError(
                f"{name} is not a loss of r_+ and r_k alone: its gradient at random outputs differs from "
                "the gradient through its slopes in r_+ and r_k"
            )


def check_pairs(loss: Loss) -> None:
    """Raise unless this is a loss of pairs: of each anchor's own r_+ and r_k, with slopes of sum 0.

    Raises:
        TypeError: a loss of another kind.
        ValueError: a loss of whole batches, one that is not of distances, or slopes that do not sum
            to zero.
    """
    check_anchors(loss)
    check_distances(loss)
    anchor, positive, negatives = _probe(loss)
    found = slopes_at(loss, distance(anchor, positive), distance(anchor[:, None], negatives))
    if float(found.total.abs().max()) > TOLERANCE * float(found.positive.abs().max()):
        raise ValueError(
            f"the slopes of {_name(loss)} do not sum to zero, so it is not a loss of pairs"
        )


def _name(loss: Loss) -> str:
    own = type(loss).__name__
    return own if unwrapped(loss) is loss else f"{own} {type(unwrapped(loss)).__name__}"


def _probe(loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Random outputs of three samples, float64: anchor, positive and negatives."""
    random = torch.Generator().manual_seed(0)

    def outputs(*shape: int) -> Tensor:
        return torch.rand(*shape, 3, 4, generator=random, dtype=torch.float64) / 2

    return outputs(1), outputs(1), outputs(1, loss.negatives)


def _check_outputs(loss: Loss, anchor: Tensor, positive: Tensor, negatives: Tensor) -> None:
    for part in (anchor, positive, negatives):
        if not isinstance(part, Tensor):
            raise TypeError(f"outputs must be tensors, got {type(part).__name__}")
    shapes = [tuple(part.shape) for part in (anchor, positive, negatives)]
    expected = (*shapes[0][:1], loss.negatives, *shapes[0][1:])
    if len(shapes[0]) != 3 or shapes[1] != shapes[0] or shapes[2] != expected:
        raise ValueError(
            f"anchor, positive and negatives have shapes {', '.join(map(str, shapes))}, {_name(loss)} "
            f"takes (S, B, U), (S, B, U) and (S, {loss.negatives}, B, U)"
        )
    for name, part in (("anchor", anchor), ("positive", positive), ("negatives", negatives)):
        check_finite(name, part)


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
    """`(2B - 2, 2B)` the negatives of each of the 2B views of a batch, in order."""
    index = torch.arange(2 * batch)
    allowed = (index[:, None] != index) & (index[:, None] != index.roll(batch))
    return index.expand(2 * batch, -1)[allowed].view(2 * batch, -1).T.contiguous()
