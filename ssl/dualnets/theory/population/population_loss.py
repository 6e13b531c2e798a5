"""Expected contrastive losses as finite sums over the leaf states of an enumerable tree.

With q the distribution of the leaves, Q(a, b) that of two views a and b of one sample, f the outputs,
and r_ab = 1/2 ||f(a) - f(b)||², expectations over anchors a, positives b and negatives k are finite
sums (docs/theory.md, Equation 3.8; these forms are our own):

    Simple            Σ Q_ab r_ab - Σ q_a q_k r_ak
    Triplet           Σ Q_ab q_k τ log(1 + exp((r_ab - r_ak + margin) / τ))              X³ terms
    InfoNCE, H = 1    Σ Q_ab q_k τ log(1 + exp((r_ab - r_ak) / τ))                       X³ terms
    InfoNCE, H → ∞    Σ Q_ab r_ab + τ Σ q_a log Σ_k q_k exp(-r_ak / τ)     up to the constant τ log H
    BatchwiseNCE      -sigmoid((R_- - R_+) / τ), R the expected squared difference per feature
    Spectral          -2 Σ Q_ab f_a·f_b + Σ q_a q_k (f_a·f_k)²

τ is the temperature and H the number of negatives. NTXent takes its negatives from the batch, so it has
no population form for batches of finite size; in an infinite batch it is InfoNCE with H → ∞. InfoNCE
with 1 < H < ∞ has X^(H+2) terms and raises an error.

    views = view_distribution(trees, hltm.keep_root(), dtype=torch.float64, device="cpu")
    population_loss(InfiniteInfoNCE(0.1), outputs, views)            # (S,), differentiable

Axes: S member, X joint state of the leaves (a view), V leaf, U output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dualnets._checks import check_number
from dualnets.methods.losses import (
    BatchwiseNCE,
    InfoNCE,
    NTXent,
    Simple,
    SpectralContrastive,
    Triplet,
)
from dualnets.theory.updates.enumeration import enumerate_views
from hltm.sampling.augment import Augmentation
from hltm.tree import LatentTree

MOST_VIEWS = 4096  # whose pairs are summed
MOST_TRIPLE_VIEWS = 512  # whose triples are summed: 1.3e8 terms per member and step
CHUNK = 1 << 22  # terms of a sum over triples that are in memory at a time


@dataclass(frozen=True)
class InfiniteInfoNCE:
    """InfoNCE with H → ∞ fresh negatives, without its constant τ log H.

    Attributes:
        temperature: τ.

    Raises:
        TypeError: a temperature that is not a number.
        ValueError: a temperature that is not finite and above 0.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0)


class ViewDistribution(NamedTuple):
    """The distributions of views and of pairs of views, on which an expected contrastive loss depends.

    Attributes:
        leaves: `(X, V)` every joint state of the leaves.
        marginal: `(S, X)` q, of one view.
        pairs: `(S, X, X)` Q, of two views of one sample.
    """

    leaves: Tensor
    marginal: Tensor
    pairs: Tensor


def view_distribution(
    trees: LatentTree, augment: Augmentation, *, dtype: torch.dtype, device: Any
) -> ViewDistribution:
    """The distributions of views and of pairs of views, by enumeration.

    Args:
        trees: one or S.
        augment: the augmentation of the views.
        dtype, device: of the distributions.

    Raises:
        TypeError: arguments that are not trees or an augmentation.
        ValueError: more than 4096 joint states of the leaves, or views that cannot be enumerated.
    """
    states = math.prod(map(int, trees.tables.cardinality[list(trees.leaves)]))
    if states > MOST_VIEWS:
        raise ValueError(
            f"the leaves have {states} joint states, expected at most {MOST_VIEWS} for sums over pairs; "
            "take a smaller tree"
        )
    table = enumerate_views(trees, augment)
    marginal, pairs = table.marginal, table.positive_pairs()
    if not table.stacked:
        marginal, pairs = marginal[None], pairs[None]
    return ViewDistribution(
        table.leaves.to(device), marginal.to(device, dtype), pairs.to(device, dtype)
    )


def population_loss(loss: Any, outputs: Tensor, views: ViewDistribution) -> Tensor:
    """`(S,)` the expected loss, differentiable in the outputs (docs/theory.md, Equation 3.8).

    Args:
        loss: a contrastive loss of `dualnets`, or `InfiniteInfoNCE`.
        outputs: `(S, X, U)` the network's outputs at every joint state of the leaves.
        views: from `view_distribution`.

    Raises:
        ValueError: a loss without a population form, outputs of another shape, or more than 512 leaf
            states for one whose terms are triples.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
        >>> views = view_distribution(tree, hltm.keep_root(), dtype=torch.float64, device="cpu")
        >>> outputs = views.leaves[None].double()
        >>> population_loss(dualnets.Simple(), outputs, views).shape
        torch.Size([1])
    """
    form = form_of(loss)
    states, members = views.marginal.shape[1], len(views.marginal)
    if outputs.ndim != 3 or outputs.shape[1] != states or members not in (1, len(outputs)):
        raise ValueError(
            f"outputs have shape {tuple(outputs.shape)}, expected (S, {states}, U) with S = {members}"
        )
    check_size(loss, states)
    return form(loss, outputs, views)


# The population forms: functions of loss, outputs `(S, X, U)` and views with one value per member.

Form = Callable[[Any, Tensor, ViewDistribution], Tensor]


def _distances(outputs: Tensor) -> Tensor:
    """`(S, X, X)` r_ab of every two views."""
    square = outputs.square().sum(-1) / 2
    return square[:, :, None] + square[:, None] - outputs @ outputs.transpose(1, 2)


def _attraction(outputs: Tensor, views: ViewDistribution) -> Tensor:
    """`(S,)` Σ Q_ab r_ab, the mean distance of positives; without an X x X matrix of distances."""
    square = outputs.square().sum(-1)
    same = torch.einsum("sau,sab,sbu->s", outputs, views.pairs, outputs)
    return (views.marginal * square).sum(-1) - same


def _repulsion(outputs: Tensor, views: ViewDistribution) -> Tensor:
    """`(S,)` Σ q_a q_k r_ak, the mean distance of negatives; likewise."""
    mean = torch.einsum("sa,sau->su", views.marginal, outputs)
    return (views.marginal * outputs.square().sum(-1)).sum(-1) - mean.square().sum(-1)


def _simple(loss: Simple, outputs: Tensor, views: ViewDistribution) -> Tensor:
    return _attraction(outputs, views) - _repulsion(outputs, views)


def _triples(loss: Triplet | InfoNCE, outputs: Tensor, views: ViewDistribution) -> Tensor:
    check_size(loss, outputs.shape[1])
    found: Tensor = _SumOverTriples.apply(
        _distances(outputs), views.pairs, views.marginal, loss.temperature, loss.margin
    )
    return found


def _triples_slope(loss: Triplet | InfoNCE, outputs: Tensor, views: ViewDistribution) -> Tensor:
    """`(S,)` numbers with the gradient of `_triples`, whose own value costs X³ logarithms more."""
    r = _distances(outputs)
    slope = _slopes_of_triples(
        r.detach(), views.pairs, views.marginal, loss.temperature, loss.margin
    )
    return (slope * r).sum((1, 2))


def gradient_form(form: Form) -> Form:
    """A form with the same gradient, which may cost less than the form itself."""
    return _triples_slope if form is _triples else form


def _infinite(loss: InfiniteInfoNCE, outputs: Tensor, views: ViewDistribution) -> Tensor:
    # τ Σ_a q_a log Σ_k q_k exp(-r_ak / τ), as a log-sum-exp that includes log q
    log_q = views.marginal.clamp_min(torch.finfo(views.marginal.dtype).tiny).log()
    log_sum = torch.logsumexp(log_q[:, None] - _distances(outputs) / loss.temperature, dim=2)
    return _attraction(outputs, views) + loss.temperature * (views.marginal * log_sum).sum(-1)


def _batchwise(loss: BatchwiseNCE, outputs: Tensor, views: ViewDistribution) -> Tensor:
    per_feature = 2 / outputs.shape[-1]  # R is 2 r divided by the number of features
    gap = _repulsion(outputs, views) - _attraction(outputs, views)
    return -torch.sigmoid(per_feature * gap / loss.temperature)


def _spectral(loss: SpectralContrastive, outputs: Tensor, views: ViewDistribution) -> Tensor:
    same = torch.einsum("sau,sab,sbu->s", outputs, views.pairs, outputs)
    moment = outputs.transpose(1, 2) @ (views.marginal[..., None] * outputs)
    return moment.square().sum((1, 2)) - 2 * same


FORMS: dict[type, Form] = {
    Simple: _simple,
    Triplet: _triples,
    InfoNCE: _triples,
    InfiniteInfoNCE: _infinite,
    BatchwiseNCE: _batchwise,
    SpectralContrastive: _spectral,
}


def form_of(loss: Any) -> Form:
    """The population form of a loss.

    Raises:
        ValueError: a loss without one.
    """
    if isinstance(loss, NTXent):
        raise ValueError(
            "NTXent takes its negatives from the batch: it has no population form; in an infinite "
            "batch it is InfiniteInfoNCE"
        )
    if isinstance(loss, InfoNCE) and loss.negatives != 1:
        raise ValueError(
            f"InfoNCE with {loss.negatives} negatives has X^{loss.negatives + 2} terms; population "
            "forms exist for 1 negative and for infinitely many (InfiniteInfoNCE)"
        )
    for kind, form in FORMS.items():
        if isinstance(loss, kind):
            return form
    known = ", ".join(kind.__name__ for kind in FORMS)
    raise ValueError(f"{type(loss).__name__} has no population form, expected one of {known}")


def check_size(loss: Any, states: int) -> None:
    """Raise ValueError if the loss has too many terms over this many leaf states."""
    if isinstance(loss, Triplet | InfoNCE) and states > MOST_TRIPLE_VIEWS:
        raise ValueError(
            f"{type(loss).__name__} sums over triples of {states} leaf states, expected at most "
            f"{MOST_TRIPLE_VIEWS}; InfiniteInfoNCE sums over pairs"
        )


class _SumOverTriples(torch.autograd.Function):
    """Σ Q_ab q_k τ softplus((r_ab - r_ak + margin) / τ), whose backward pass sums the terms again.

    Keeping the X³ terms for autograd's backward pass would take gigabytes.
    """

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, pairs: Tensor, marginal: Tensor, temperature: float, margin: float
    ) -> Tensor:
        ctx.save_for_backward(r, pairs, marginal)
        ctx.rates = temperature, margin
        total = r.new_zeros(len(r))
        for s, tree, at in _shares(r, pairs):
            gap = (r[s, at, :, None] - r[s, at, None, :] + margin) / temperature
            total[s] += temperature * ((softplus(gap) @ marginal[tree]) * pairs[tree, at]).sum()
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slope = _slopes_of_triples(*ctx.saved_tensors, *ctx.rates)
        return grads[0][:, None, None] * slope, None, None, None, None


def _shares(r: Tensor, pairs: Tensor) -> Iterator[tuple[int, int, slice]]:
    """Member, tree and anchors of each share of the sum, so that at most CHUNK triples are in memory."""
    members, states, _ = r.shape
    rows = max(CHUNK // (states * states), 1)
    for s in range(members):
        for low in range(0, states, rows):
            yield s, min(s, len(pairs) - 1), slice(low, low + rows)  # one tree may serve all


def _slopes_of_triples(
    r: Tensor, pairs: Tensor, marginal: Tensor, temperature: float, margin: float
) -> Tensor:
    """`(S, X, X)` gradient in r of the sum over triples."""
    slope = torch.zeros_like(r)
    # sigmoid(x_b - x_k) = e_b / (e_b + e_k): one reciprocal per triple where nothing overflows
    scaled = r / temperature
    scaled = scaled - (scaled.amax(2, keepdim=True) + scaled.amin(2, keepdim=True)) / 2
    shift = margin / temperature
    small = float(scaled.abs().max()) + abs(shift) < 40
    for s, tree, at in _shares(r, pairs):
        q, joint = marginal[tree], pairs[tree, at]
        if small:
            far = scaled[s, at].exp()
            near = (scaled[s, at] + shift).exp()
            share = (near[:, :, None] + far[:, None, :]).reciprocal_()
            drawn = near * joint  # (a, b)
            slope[s, at] += near * (share @ q) * joint - (drawn[:, None] @ share)[:, 0] * q
        else:
            share = (scaled[s, at, :, None] + shift - scaled[s, at, None, :]).sigmoid_()
            slope[s, at] += (share @ q) * joint - (joint[:, None] @ share)[:, 0] * q
    return slope
