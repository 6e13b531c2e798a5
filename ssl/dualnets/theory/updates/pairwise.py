"""The operator of any contrastive loss: pairs of samples weighted by how strongly they repel.

Exact, for any loss of pairs, any number of negatives, distribution and network (theory, Section 3):

    -∇_W E[L] = E[ Σ_k β_k { (K_a - K_k)(f_a - f_k) - (K_a - K_+)(f_a - f_+) } ],

an operator on w where Kᵀ w = f. In terms of views i, j this is Σ_ij M_ij (K_i - K_j)(f_i - f_j), the
graph Laplacian of the pairs' weights M. The pair-weighted covariance form (arXiv 2010.00578, Theorem
4) replaces it by E[ξ(x, x') Δ Δᵀ], Δ = Kbar(x) - Kbar(x'), with ξ(x, x') = E_aug[β] symmetrised: exact
where β does not vary with the draw of the views and is symmetric. `residual` says how far it is off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dualnets.methods.losses import Loss, NTXent, distance
from dualnets.theory.updates.connection import MAX_ENTRIES, Connection, connection, in_dtype
from dualnets.theory.updates.covariance import check_sampling
from dualnets.theory.updates.enumeration import ViewTable
from dualnets.theory.updates.loss_slopes import (
    check_distances,
    check_pairs,
    in_batch_negatives,
    loss_slopes,
    slopes_at,
    weighing,
)
from dualnets.theory.updates.operators import Kernel, Operator
from dualnets.theory.updates.views import Data, batch_axis, drawn, exact_table, table_inputs

Branches = Literal["both", "anchor"]


@dataclass(frozen=True)
class PairwiseOperator:
    """A loss's operator on one weight, exactly, and its pair-weighted covariance form.

    Attributes:
        exact: of the β-weighted pairs.
        weighted: E[ξ Δ Δᵀ].
        repulsion: `(N, N)` or `(S, N, N)` ξ of every two classes of samples.
    """

    exact: Operator
    weighted: Operator
    repulsion: Tensor

    def residual(self) -> Tensor:
        """`()` or `(S,)` |exact - weighted| / |exact| of the two updates, which holds for any network.

        0 where both are zero, as of a dead network.
        """
        exact, weighted = (o.on_outputs().value for o in (self.exact, self.weighted))
        return _over((exact - weighted).norm(dim=-1), exact.norm(dim=-1))

    def matrix_residual(self) -> Tensor:
        """`()` or `(S,)` the same of the two matrices, in Frobenius norm."""
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
    """The exact operator of a loss of pairs, its pair-weighted form and what lies between, by enumeration.

    Args:
        network, layer, block, dtype: see `connection`.
        data: `TreeViews` or a `ViewTable`.
        loss: a loss of pairs with H fresh negatives; sums have X^(2 + H) terms.
        branches: through which the gradient goes: all views, or the anchor alone.

    Raises:
        TypeError: what is no loss, no data or no network.
        ValueError: more than 2^26 terms, a loss of whole batches or of anything but distances, data
            that cannot be enumerated.

    Example:
        >>> import dualnets, hltm
        >>> from dualnets.theory.views import TreeViews
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
    pairs, repulsion = _enumerate(found, table, loss)
    view = table.view.to(repulsion.device, repulsion.dtype)
    chance = table.probability.to(repulsion.device, repulsion.dtype)
    between = chance[..., :, None] * chance[..., None, :] * repulsion

    def weighted(values: Tensor) -> Tensor:
        return view.transpose(-1, -2) @ _laplacian(2 * between, view @ values)

    return PairwiseOperator(
        Operator([(found, pair_kernel(pairs, branches))], exact=True, symmetric=branches == "both"),
        Operator([(found, weighted)], exact=True, factor=1.0 if branches == "both" else 0.5),
        repulsion if found.stacked else repulsion[0],
    )


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
    """An unbiased estimate of the β-weighted operator of any loss, those of whole batches too.

    Args:
        network, layer, loss, branches, block, dtype: see `pairwise_operator`.
        data: `TreeViews` or `DatasetViews`.
        batches: independent estimates, from whose spread the standard error comes.
        batch: B, anchors in each; part of the definition of a loss of whole batches.
        seed: of the samples.

    Raises:
        TypeError: what is no loss, no data or no network.
        ValueError: a loss that is not one of distances, or numbers of samples that make no estimate.
    """
    check_sampling(batches, batch, seed)
    check_distances(loss)
    check_branches(branches, loss)
    network = in_dtype(network, layer, dtype)
    parts = []
    for i in range(batches):
        inputs = loss_inputs(network, data, loss, batch, seed=seed, index=i)
        found = connection(network, layer, inputs, block=block, dtype=dtype)
        outputs = found.outputs if found.stacked else found.outputs[None]
        parts.append((found, pair_kernel(batch_pairs(loss, outputs, batch), branches)))
    return Operator(parts, exact=False, symmetric=branches == "both")


def loss_inputs(
    network: nn.Module, data: Data, loss: Loss, batch: int, *, seed: int, index: int
) -> Tensor:
    """Inputs of the index-th batch: B anchors, B positives, then H times B negatives."""
    views = drawn(network, data, batch, seed=seed, start=index * batch)
    if loss.negatives:
        axis, count = batch_axis(network), loss.negatives * batch
        others = drawn(
            network, data, count, seed=seed, start=index * count, count=1, negatives=True
        )
        views = [*views, *others[0].split(batch, dim=axis)]
    return torch.cat(views, dim=batch_axis(network))


def batch_pairs(loss: Loss, outputs: Tensor, batch: int) -> Tensor:
    """`(S, B', B')` M: the weight with which the anchor of a row repels the view of a column."""
    anchor, positive, *others = outputs.split(batch, dim=1)
    negatives = stacked_negatives(anchor, others)
    slopes = loss_slopes(loss, anchor, positive, negatives)
    found = outputs.new_zeros(len(outputs), outputs.shape[1], outputs.shape[1])
    anchors = torch.arange(slopes.positive.shape[1], device=outputs.device)
    if isinstance(weighing(loss), NTXent):
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
    """Raise ValueError unless the gradient can go through these branches alone."""
    if branches not in ("both", "anchor"):
        raise ValueError(f"branches must be 'both' or 'anchor', got {branches!r}")
    if branches == "anchor" and loss is not None and isinstance(weighing(loss), NTXent):
        raise ValueError("every view is an anchor of NTXent, so branches must be 'both'")


def pair_kernel(pairs: Tensor, branches: Branches) -> Kernel:
    """The kernel of Σ_ij M_ij (K_i - K_j)(K_i - K_j)ᵀ, or of Σ_ij M_ij K_i (K_i - K_j)ᵀ."""
    weights = pairs + pairs.transpose(-1, -2) if branches == "both" else pairs
    return lambda values: _laplacian(weights, values)


def _laplacian(weights: Tensor, values: Tensor) -> Tensor:
    return weights.sum(-1, keepdim=True) * values - weights @ values


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient of lengths, 0 where both are 0."""
    return part / whole.where((part > 0) | (whole > 0), torch.ones_like(whole))


def _enumerate(found: Connection, table: ViewTable, loss: Loss) -> tuple[Tensor, Tensor]:
    """`(S, X, X)` M of every two views, and `(S, N, N)` ξ of every two classes."""
    outputs = found.outputs if found.stacked else found.outputs[None]
    members, views = outputs.shape[:2]
    view = table.view.to(outputs).expand(members, -1, -1)
    together = table.positive_pairs().to(outputs).expand(members, -1, -1)
    marginal = table.marginal.to(outputs).expand(members, -1)
    pairs = torch.zeros_like(together)
    towards = outputs.new_zeros(members, view.shape[1], views)  # E[β | x of the anchor, view k]
    r = distance(outputs[:, :, None], outputs[:, None])
    for a, repulsion in enumerate(_mean_repulsion(loss, r, marginal)):  # (S, X of +, X of k)
        chance = repulsion * marginal[:, None]
        pairs[:, a] += (together[:, a, :, None] * chance).sum(1)
        pairs[:, a] -= together[:, a] * chance.sum(2)
        towards += view[:, :, a, None] * (view @ repulsion)
    one_way = towards @ view.transpose(1, 2)
    return pairs, (one_way + one_way.transpose(1, 2)) / 2


def _mean_repulsion(loss: Loss, r: Tensor, marginal: Tensor) -> Iterator[Tensor]:
    """For one anchor after the other, `(S, X of +, X of k)` Σ_h E[β_h | a, +, k_h = k].

    The negatives beside k_h are drawn from the marginal.
    """
    members, views = marginal.shape
    many = loss.negatives
    terms = members * views ** (2 + many)
    if terms > MAX_ENTRIES:
        raise ValueError(
            f"{views} views and {many} negative(s) are {terms} terms, more than {MAX_ENTRIES}; "
            "use sampled_pairwise_operator"
        )
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
