"""Theorem 4: the operator of any contrastive loss, exactly and as a covariance weighted by pairs.

For an anchor a, its positive +, negatives k, their pair weights β_k = -∂L/∂r_k, connections K and
outputs f (docs/theory.md, Section 3): exactly, for any loss of pairs, number of negatives,
distribution and network, with the gradient through both branches,

    -∇_w E[L] = E[ Σ_k β_k { (K_a - K_k)(f_a - f_k) - (K_a - K_+)(f_a - f_+) } ]    (Equation 3.3)

which is an operator on w where Kᵀ w = f. Summed over views i, j it is Σ_ij M_ij (K_i - K_j)(f_i - f_j),
the graph Laplacian of the pairs' weights M. Theorem 4 replaces it by the pair-weighted covariance

    -∇_w E[L] ≈ E_{x, y}[ ξ(x, y) Δ Δᵀ ] w,    Δ = Kbar(x) - Kbar(y)                (Equation 3.6)

of two independent samples x and y, with ξ(x, y) = E_aug[β] symmetrised in x and y. It is exact where β
does not vary with the draw of the views and is symmetric; `PairwiseOperator.residual` measures the rest.

Axes: S member, X view, N class of samples, H negative, B sample of a batch, m column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dualnets._checks import check_choice
from dualnets.methods.losses import InfoNCE, Loss, NTXent, Triplet, distance
from dualnets.theory.updates.any_network import batch_axis, in_dtype
from dualnets.theory.updates.connection import MAX_ENTRIES, connection
from dualnets.theory.updates.covariance import check_sampling
from dualnets.theory.updates.enumeration import ViewTable
from dualnets.theory.updates.loss_slopes import (
    check_distances,
    check_pairs,
    in_batch_negatives,
    loss_slopes,
    slopes_at,
    unwrapped,
)
from dualnets.theory.updates.operators import Kernel, Operator
from dualnets.theory.updates.views import Data, draw_views, exact_table, table_inputs

Branches = Literal["both", "anchor"]

MOST_SIGMOIDS = 1 << 30  # terms of a loss whose β is a sigmoid; X² of them are in memory at a time


@dataclass(frozen=True)
class PairwiseOperator:
    """The operator of a loss on one weight: exact, and in the pair-weighted form of Theorem 4.

    Attributes:
        exact: the β-weighted sum over pairs of views (Equation 3.3).
        weighted: E[ξ Δ Δᵀ] (Equation 3.6).
        repulsion: `(N, N)` or `(S, N, N)` ξ of every two classes of samples.
    """

    exact: Operator
    weighted: Operator
    repulsion: Tensor

    def __repr__(self) -> str:
        return f"PairwiseOperator(exact {self.exact}, weighted {self.weighted})"

    def residual(self) -> Tensor:
        """`()` or `(S,)` |exact - weighted| / |exact| of the two updates (Equation 3.7).

        The updates are those in the form with f, which holds for any network. The residual is 0 where
        both are zero, as those of a dead network are.
        """
        exact, weighted = (o.on_outputs().value for o in (self.exact, self.weighted))
        return _over((exact - weighted).norm(dim=-1), exact.norm(dim=-1))

    def matrix_residual(self) -> Tensor:
        """`()` or `(S,)` the same for the two operators as matrices, in Frobenius norm."""
        exact, weighted = (o.matrix().value for o in (self.exact, self.weighted))
        return _over((exact - weighted).norm(dim=(-2, -1)), exact.norm(dim=(-2, -1)))


def pairwise_operator(
    network: nn.Module,
    data: Data,
    layer: int | str,
    loss: Loss,
    *,
    branches: Branches = "both",
    block: int | None = None,
    dtype: torch.dtype | None = torch.float64,
) -> PairwiseOperator:
    """Theorem 4: the exact operator of a loss of pairs and its pair-weighted form, by enumeration.

    Equations 3.3 and 3.6 of docs/theory.md.

    Args:
        network, layer, block, dtype: see `connection`.
        data: `TreeViews` or a `ViewTable`.
        loss: a loss of pairs with H fresh negatives; sums over X views have X^(2 + H) terms.
        branches: `both` for the gradient through all views, `anchor` for that through the anchor
            alone.

    Raises:
        TypeError: a loss, data or a network of another kind.
        ValueError: more than 2^26 terms (2^30 of InfoNCE or triplet loss with one negative), a loss
            of whole batches or of anything but distances, data that cannot be enumerated.

    Example:
        >>> import dualnets, hltm
        >>> from dualnets.theory import TreeViews
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.97, seed=0)
        >>> network = dualnets.tree_network(tree, units=4, seed=1)
        >>> data = TreeViews(tree, hltm.keep_root())
        >>> pairwise_operator(network, data, 1, dualnets.InfoNCE()).residual() < 0.1
        tensor(True)
    """
    check_pairs(loss)
    check_branches(branches, loss)
    table = exact_table(data)
    found = connection(network, layer, table_inputs(network, table), block=block, dtype=dtype)
    exact, weighted, repulsion = pair_kernels(found.outputs_S, table, loss, branches)
    return PairwiseOperator(
        Operator([(found, exact)], exact=True, symmetric=branches == "both"),
        Operator([(found, weighted)], exact=True, factor=1.0 if branches == "both" else 0.5),
        repulsion if found.stacked else repulsion[0],
    )


def pair_kernels(
    outputs: Tensor, table: ViewTable, loss: Loss, branches: Branches = "both"
) -> tuple[Kernel, Kernel, Tensor]:
    """The kernels of Equations 3.3 and 3.6 and the pair weights ξ, which all layers of a network share.

    With a kernel applied to the outputs as the cotangent, one backward pass gives the update of every
    weight; the kernel of Equation 3.6 is that through both branches.

    Args:
        outputs: `(S, X, m)` the network's outputs at the table's views.
        table, loss, branches: see `pairwise_operator`.

    Returns:
        the two kernels, and ξ, `(S, N, N)`.
    """
    pairs, repulsion = _enumerate(outputs, table, loss)
    view = table.view.to(repulsion.device, repulsion.dtype)
    chance = table.probability.to(repulsion.device, repulsion.dtype)
    between = chance[..., :, None] * chance[..., None, :] * repulsion

    def weighted(values: Tensor) -> Tensor:
        return view.transpose(-1, -2) @ _laplacian(2 * between, view @ values)

    return pair_kernel(pairs, branches), weighted, repulsion


def sampled_pairwise_operator(
    network: nn.Module,
    data: Data,
    layer: int | str,
    loss: Loss,
    *,
    batches: int,
    batch: int = 128,
    seed: int,
    branches: Branches = "both",
    block: int | None = None,
    dtype: torch.dtype | None = torch.float64,
) -> Operator:
    """An unbiased estimate of the β-weighted operator (docs/theory.md, Equation 3.3) of any loss.

    Losses of whole batches, such as NTXent, are included.

    Args:
        network, layer, branches, block, dtype: see `pairwise_operator`.
        data: any `ViewSource`, such as `TreeViews`, `ImageViews` or `DatasetViews`.
        loss: a loss of distances.
        batches: the number of independent estimates; their spread gives the standard error.
        batch: B, anchors in each; it is part of the definition of a loss of whole batches.
        seed: 64 bits, of the samples.

    Raises:
        TypeError: a loss, data or a network of another kind.
        ValueError: a loss that is not one of distances, or fewer than 1 batch or 2 anchors.
    """
    check_sampling(batches, batch, seed)
    check_distances(loss)
    check_branches(branches, loss)
    network = in_dtype(network, layer, dtype)
    parts = []
    for i in range(batches):
        inputs = loss_inputs(network, data, loss, batch, seed=seed, index=i)
        found = connection(network, layer, inputs, block=block, dtype=dtype)
        parts.append((found, pair_kernel(batch_pairs(loss, found.outputs_S, batch), branches)))
    return Operator(parts, exact=False, symmetric=branches == "both")


def loss_inputs(
    network: nn.Module, data: Data, loss: Loss, batch: int, *, seed: int, index: int
) -> Tensor:
    """The inputs of the index-th batch: B anchors, their B positives, then H times B negatives."""
    views = draw_views(network, data, batch, seed=seed, start=index * batch)
    if loss.negatives:
        axis, count = batch_axis(network), loss.negatives * batch
        others = draw_views(
            network, data, count, seed=seed, start=index * count, count=1, negatives=True
        )
        views = [*views, *others[0].split(batch, dim=axis)]
    return torch.cat(views, dim=batch_axis(network))


def batch_pairs(loss: Loss, outputs: Tensor, batch: int) -> Tensor:
    """`(S, B', B')` M of all B' views: the weight with which the row's anchor repels the column's view.

    A positive attracts its anchor, so its weight is negative.
    """
    anchor, positive, *others = outputs.split(batch, dim=1)
    negatives = stacked_negatives(anchor, others)
    slopes = loss_slopes(loss, anchor, positive, negatives)
    found = outputs.new_zeros(len(outputs), outputs.shape[1], outputs.shape[1])
    anchors = torch.arange(slopes.positive.shape[1], device=outputs.device)
    if isinstance(unwrapped(loss), NTXent):
        partner = anchors.roll(batch)
        rows = in_batch_negatives(batch).to(outputs.device)
    else:
        partner = anchors + batch
        rows = torch.arange(outputs.shape[1], device=outputs.device)[2 * batch :].view(-1, batch)
    found[:, anchors, partner] = -slopes.positive
    found[:, anchors.expand_as(rows), rows] = slopes.repulsion
    return found / len(anchors)


def stacked_negatives(anchor: Tensor, others: Sequence[Tensor]) -> Tensor:
    """`(S, H, B, U)` of H tensors `(S, B, U)`, H = 0 included."""
    return torch.stack(list(others), dim=1) if others else anchor[:, None][:, :0]


def check_branches(branches: Branches, loss: Loss | None = None) -> None:
    """Raise ValueError unless these are branches through which the loss's gradient can be taken."""
    check_choice("branches", branches, ("both", "anchor"))
    if branches == "anchor" and loss is not None and isinstance(unwrapped(loss), NTXent):
        raise ValueError("every view is an anchor of NTXent, so branches must be 'both'")


def pair_kernel(pairs: Tensor, branches: Branches) -> Kernel:
    """The kernel of Σ_ij M_ij (K_i - K_j)(K_i - K_j)ᵀ, or of Σ_ij M_ij K_i (K_i - K_j)ᵀ."""
    weights = pairs + pairs.transpose(-1, -2) if branches == "both" else pairs
    return lambda values: _laplacian(weights, values)


def _laplacian(weights: Tensor, values: Tensor) -> Tensor:
    """Σ_j M_ij (v_i - v_j), `(S, B, m)`: the graph Laplacian of the weights M, applied to v."""
    return weights.sum(-1, keepdim=True) * values - weights @ values


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient of lengths, 0 where both are 0."""
    return part / whole.where((part > 0) | (whole > 0), torch.ones_like(whole))


def _enumerate(outputs: Tensor, table: ViewTable, loss: Loss) -> tuple[Tensor, Tensor]:
    """`(S, X, X)` M of every two views, and `(S, N, N)` ξ of every two classes."""
    members, views = outputs.shape[:2]
    view = table.view.to(outputs).expand(members, -1, -1)
    together = table.positive_pairs().to(outputs).expand(members, -1, -1)
    marginal = table.marginal.to(outputs).expand(members, -1)
    pairs = torch.zeros_like(together)
    towards = outputs.new_zeros(members, view.shape[1], views)  # E[β | x of the anchor, view k]
    r = distance(outputs[:, :, None], outputs[:, None])
    for a, repulsion in enumerate(_mean_repulsion(loss, r, marginal)):  # (S, X of +, X of k)
        here = together[:, a, None]
        pairs[:, a] += marginal * (here @ repulsion)[:, 0]  # k repelled with E[β_k; k]
        pairs[:, a] -= here[:, 0] * (repulsion @ marginal[..., None])[..., 0]  # +: Σ_k E[β_k; +]
        towards += view[:, :, a, None] * (view @ repulsion)
    one_way = towards @ view.transpose(1, 2)  # (S, N, N): also averaged over the views k of y
    return pairs, (one_way + one_way.transpose(1, 2)) / 2


def _mean_repulsion(loss: Loss, r: Tensor, marginal: Tensor) -> Iterator[Tensor]:
    """For one anchor view a after the other, `(S, X of +, X of k)` Σ_h E[β_h | a, +, k_h = k].

    The expectation is over the other H - 1 negatives, each with the marginal distribution of views.
    """
    members, views = marginal.shape
    many, terms = loss.negatives, members * views ** (2 + loss.negatives)
    one = many == 1 and type(loss) in (InfoNCE, Triplet)
    if terms > (most := MOST_SIGMOIDS if one else MAX_ENTRIES):
        raise ValueError(
            f"{views} views and {many} negative(s) make {terms} terms, expected at most {most}; "
            "use sampled_pairwise_operator"
        )
    if one and isinstance(loss, InfoNCE | Triplet):
        for a in range(views):  # β = 1 / (1 + exp(-(r_+ - r_k + margin) / τ))
            near = (r[:, a] + loss.margin) / loss.temperature
            yield (near[:, :, None] - r[:, a, None] / loss.temperature).sigmoid_()
        return
    grid = [views] * many
    for a in range(views):
        near = r[:, a, :, None].expand(-1, -1, views**many)
        far = torch.stack(
            [
                r[:, a].view(members, *([1] * h), views, *([1] * (many - h - 1))).expand(-1, *grid)
                for h in range(many)
            ],
            dim=1,
        )  # (S, H, X, ..., X)
        far = far.flatten(2)[:, :, None].expand(-1, -1, views, -1)
        found = slopes_at(loss, near.flatten(1), far.flatten(2)).repulsion
        found = found.view(members, many, views, *grid)
        total = torch.zeros_like(found[:, 0].flatten(2)[..., :views])
        for h in range(many):
            part = found[:, h]  # (S, X of +, X, ..., X)
            for other in reversed(range(many)):
                if other != h:
                    weight = marginal.view(members, *([1] * (1 + other)), views,
                                           *([1] * (part.ndim - 3 - other)))  # fmt: skip
                    part = (part * weight).sum(2 + other)
            total = total + part
        yield total
