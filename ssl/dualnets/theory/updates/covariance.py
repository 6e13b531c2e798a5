"""Theorem 3: the covariance operator V_x[E_aug K], the update under the simple contrastive loss.

x is a sample, x' an augmented view of it, K the connection of a weight w, f the network's output,
and bars are averages over views: Kbar(x) = E_aug[K(x')], fbar(x) = E_aug[f(x')]. For the simple loss
L = r_+ - r_1 (docs/theory.md, Section 3)

    -∇_w E[L] = 2 Cov_x[Kbar, fbar]          for any network, through both branches   (Equation 3.4)
              = 2 V_x[Kbar] w                where Kᵀ w = f                           (Equation 3.5)

The operator V_x[Kbar] is symmetric and positive semi-definite. It keeps what varies between samples
and survives the average over augmentations. An estimate is unbiased only with independent views for
the two factors; it is then symmetrised, and it need not be positive semi-definite.

Axes: S member, N class of samples, X view, m column (an output, or an entry of the weight).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualnets._checks import check_whole
from dualnets.theory.updates.any_network import batch_axis, in_dtype
from dualnets.theory.updates.connection import connection
from dualnets.theory.updates.enumeration import ViewTable
from dualnets.theory.updates.operators import Kernel, Operator
from dualnets.theory.updates.views import Data, draw_views, exact_table, table_inputs


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
    """Theorem 3: the covariance operator V_x[E_aug K] of one weight (docs/theory.md, Equation 3.5).

    Args:
        network: see `connection`.
        data: `TreeViews` or a `ViewTable`; for an estimate any `ViewSource`, such as
            `ImageViews` or `DatasetViews`.
        layer: 1 .. L, or the name of a parameter.
        batches: None for the exact operator, by enumeration; otherwise the number of independent
            estimates: their mean is the result, and their spread gives its standard error.
        batch: samples per estimate, with two views each.
        seed: 64 bits, of the samples; an estimate needs it.
        block: the weight of one block alone.
        dtype: the dtype to compute in.

    Returns:
        an `Operator`: `matrix()` makes it explicit, `matvec` and `leading` do not.

    Raises:
        TypeError: data or a network of another kind.
        ValueError: data that cannot be enumerated, fewer than 2 samples in a batch, or an estimate
            without a seed.

    Example:
        >>> import dualnets, hltm
        >>> from dualnets.theory import TreeViews
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
        views = draw_views(network, data, batch, seed=seed, start=i * batch)
        inputs = torch.cat(views, dim=batch_axis(network))
        found = connection(network, layer, inputs, block=block, dtype=dtype)
        parts.append((found, cross_covariance))
    return Operator(parts, exact=False)


def covariance_kernel(table: ViewTable, like: Tensor) -> Kernel:
    """The kernel of Cov_x of averages over views: g -> Σ_x p(x) p(view | x) (E_aug[g | x] - E[g]).

    It takes a function g of views, `(S, X, m)`, and returns as many numbers.
    """
    view = table.view.to(like.device, like.dtype)
    probability = table.probability.to(like.device, like.dtype)[..., None]

    def kernel(values: Tensor) -> Tensor:
        averages = view @ values  # E_aug[g | x], (S, N, m)
        centred = averages - (probability * averages).sum(-2, keepdim=True)
        return view.transpose(-1, -2) @ (probability * centred)  # (S, X, m)

    return kernel


def cross_covariance(values: Tensor) -> Tensor:
    """The kernel of the same covariance, estimated from two views of each of n samples.

    All first views stand before all second ones. A view is only ever paired with the other view of its
    sample, so the estimate is unbiased; the mean over the two orders makes it symmetric.
    """
    first, second = values.chunk(2, dim=1)
    share = 1 / (2 * (first.shape[1] - 1))  # n - 1: the mean is estimated from the same samples
    centred = [(part - part.mean(1, keepdim=True)) * share for part in (second, first)]
    return torch.cat(centred, dim=1)


def check_sampling(batches: int, batch: int, seed: int | None) -> None:
    """Raise unless an estimate can be made from these numbers.

    Raises:
        TypeError: batches or batch that are not whole numbers.
        ValueError: fewer than 1 batch or 2 samples, or no seed.
    """
    check_whole("batches", batches, low=1)
    check_whole("batch", batch, low=2)
    if seed is None:
        raise ValueError("an estimate needs a seed")
