"""The covariance operator V_x[E_aug K]: what varies between samples and survives augmentation.

For the Simple loss, -∇_W E[L] = 2 Cov_x[Kbar, fbar], bars being averages over views, and
= 2 V_x[Kbar] w where Kᵀ w = f (arXiv 2010.00578, Theorems 2 and 3; theory, Section 3). The operator
is symmetric and positive semi-definite. An estimate is unbiased only with independent views for the
two factors; it is then symmetrised, and not semi-definite.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualnets._checks import check_whole
from dualnets.theory.updates.connection import connection, in_dtype
from dualnets.theory.updates.enumeration import ViewTable
from dualnets.theory.updates.operators import Kernel, Operator
from dualnets.theory.updates.views import Data, batch_axis, drawn, exact_table, table_inputs


def covariance_operator(
    network: nn.Module,
    data: Data,
    layer: int | str,
    *,
    batches: int | None = None,
    batch: int = 256,
    seed: int | None = None,
    block: int | None = None,
    dtype: torch.dtype | None = torch.float64,
) -> Operator:
    """V_x[E_aug K] of one weight.

    Args:
        network: see `connection`.
        data: `TreeViews`, a `ViewTable`, or, for an estimate, any `DatasetViews`.
        layer: 1 .. L, or the name of a parameter.
        batches: None for the exact operator, by enumeration; else how many independent estimates,
            whose mean is the estimate and whose spread its standard error.
        batch: samples per estimate, two views each.
        seed: of the samples; needed for an estimate.
        block: the weight of one block alone.
        dtype: to compute in.

    Returns:
        an `Operator`: `matrix()` makes it explicit, `matvec` and `leading` do not.

    Raises:
        TypeError: what is no data or no network.
        ValueError: data that cannot be enumerated, fewer than 2 samples in a batch, no seed.

    Example:
        >>> import dualnets, hltm
        >>> from dualnets.theory.views import TreeViews
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> network = dualnets.tree_network(tree, units=4, seed=1)
        >>> operator = covariance_operator(network, TreeViews(tree, hltm.keep_root()), 2)
        >>> operator
        Operator(weights.1: 64 x 64, exact)
        >>> operator.leading(1).values >= 0
        tensor([True])
    """
    if batches is None:
        table = exact_table(data)
        found = connection(network, layer, table_inputs(network, table), block=block, dtype=dtype)
        return Operator([(found, covariance_kernel(table, found.weight))], exact=True)
    check_sampling(batches, batch, seed)
    assert seed is not None
    network = in_dtype(network, layer, dtype)
    parts = []
    for i in range(batches):
        views = drawn(network, data, batch, seed=seed, start=i * batch)
        inputs = torch.cat(views, dim=batch_axis(network))
        found = connection(network, layer, inputs, block=block, dtype=dtype)
        parts.append((found, cross_covariance))
    return Operator(parts, exact=False)


def covariance_kernel(table: ViewTable, like: Tensor) -> Kernel:
    """g over views -> p(x) p(view | x) (E_aug[g | x] - E[g]): Cov_x of averages over views."""
    view = table.view.to(like.device, like.dtype)
    probability = table.probability.to(like.device, like.dtype)[..., None]

    def kernel(values: Tensor) -> Tensor:
        over = view @ values  # (S, N, m)
        centred = over - (probability * over).sum(-2, keepdim=True)
        return view.transpose(-1, -2) @ (probability * centred)

    return kernel


def cross_covariance(values: Tensor) -> Tensor:
    """The same from two views of each of n samples, one after the other: unbiased, symmetrised."""
    first, second = values.chunk(2, dim=1)
    share = 1 / (2 * (first.shape[1] - 1))
    centred = [(part - part.mean(1, keepdim=True)) * share for part in (second, first)]
    return torch.cat(centred, dim=1)


def check_sampling(batches: int, batch: int, seed: int | None) -> None:
    """Raise ValueError or TypeError unless an estimate can be made of this many batches."""
    for name, count, fewest in (("batches", batches, 1), ("batch", batch, 2)):
        check_whole(name, count, low=fewest)
    if seed is None:
        raise ValueError("an estimate needs a seed")
