"""The mutual information of units in cells with targets of other rows, at many shifts at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hltm._compile import compiled
from hltm.probe.accumulators.cells import Cells, Ordered, fold, in_threads
from hltm.probe.accumulators.shifted import shifted_products, shuffle, tiles, used_rows
from hltm.probe.metrics.mutual_information import BINS

Array = NDArray[np.generic]


def shifted_information(
    activations: Tensor, targets: Tensor, states: int, lags: int, samples: int
) -> tuple[Tensor, Tensor]:
    """The best information of a target `(…, T, lags)` and of a unit `(…, U, lags)`; float64 nats.

    Counts of (cell, state) at every shift are sums of products of indicators, by Fourier transforms; they
    are whole numbers, so rounding leaves them exact. Where there are more `samples` than the rows B given
    here, the information is scaled by B / samples, and by how much more than (cells - 1)(K - 1) / 2B its
    mean is where cells hold few rows (Williams 1976).

    Args:
        activations: `(…, U, B)`.
        targets: `(…, T, B)` states of other rows.
        samples: rows of which the metric is computed.
    """
    used = used_rows(activations.shape[-1], lags)
    a = activations.cpu()[..., shuffle(activations.shape[-1])[:used]]
    z = targets[..., :used].cpu()
    lead, units, count = a.shape[:-2], a.shape[-2], z.shape[-2]
    found = fold(Cells.empty(a[..., 0].numel(), a.numpy().dtype), Ordered.of(a), BINS)
    a, z = a.reshape(-1, units, used), z.reshape(-1, count, used)
    cell = torch.from_numpy(found.cell.astype(np.int16)).view(a.shape)
    weight = torch.from_numpy(found.cells.weight).view(*a.shape[:2], -1)
    width = weight.shape[-1]
    every = torch.arange(width, dtype=torch.int16)[:, None]
    indicator = (z[:, :, None] == torch.arange(states)[:, None]).float()  # (N, T, K, B)
    rows = indicator.double().sum(-1)
    scale = _scale(weight, rows, used, samples)
    by_target = torch.full((len(a), count, lags), -torch.inf, dtype=torch.float64)
    by_unit = torch.empty(len(a), units, lags, dtype=torch.float64)
    table = torch.special.xlogy(
        torch.arange(used + 1.0).double(), torch.arange(used + 1.0).double()
    )
    for n, u in tiles((len(a), units), used * width):
        inside = (cell[n, u, None] == every).float().flatten(1, 2)
        joint = shifted_products(inside, indicator[n, :, 1:].flatten(1, 2), lags)
        arrays = [x.numpy() for x in (joint, weight[n, u], rows[n], table)]
        best = torch.from_numpy(_in_nats(*arrays)) * scale[n, u, :, None]
        by_unit[n, u] = best.amax(2)
        by_target[n] = torch.maximum(by_target[n], best.amax(1))
    wrong = ~a.isfinite().all(-1)  # (N, U)
    by_unit[wrong], by_target[wrong.any(-1)] = torch.nan, torch.nan
    return by_target.view(*lead, count, lags), by_unit.view(*lead, units, lags)


def _scale(weight: Tensor, rows: Tensor, count: int, samples: int) -> Tensor:
    """`(N, U, T)` from the information of `count` rows to that of `samples`, both without dependence.

    Its mean is (cells - 1)(K - 1) / 2n times 1 + (Σ_c 1/p_c - 1)(Σ_k 1/p_k - 1) / (6 n (cells - 1)(K - 1)).
    """
    cells, each = ((x > 0).double().sum(-1) - 1 for x in (weight, rows))
    inverse = [
        (count / x).masked_fill(x == 0, 0.0).sum(-1) - 1 for x in (weight, rows)
    ]  # Σ 1/p - 1
    degrees = (cells[:, :, None] * each[:, None, :]).clamp(min=1)
    excess = inverse[0][:, :, None] * inverse[1][:, None, :] / (6 * degrees)
    return count / samples * (1 + excess / samples) / (1 + excess / count)


def _in_nats(joint: Array, weight: Array, rows: Array, table: Array) -> Array:
    """`(N, U, T, lags)` nats from `(N, lags, U · cells, T · (K - 1))` joint counts.

    Args:
        weight: `(N, U, cells)` rows in each cell.
        rows: `(N, T, K)` rows in each state.
        table: n log n of every n up to the number of rows.
    """
    nats = np.empty((*weight.shape[:2], rows.shape[1], joint.shape[1]))
    in_threads(
        lambda low, high: _information(joint, weight, rows, table, low, high, nats), nats.shape[1]
    )
    return nats


@compiled()
def _information(joint, weight, rows, table, start, stop, nats):  # type: ignore[no-untyped-def]
    count = len(table) - 1
    cells, targets, states = weight.shape[2], rows.shape[1], rows.shape[2]
    total = np.empty(targets)
    margin = np.empty(targets)
    for n in range(joint.shape[0]):
        for t in range(targets):
            margin[t] = table[count]
            for k in range(states):
                margin[t] -= table[int(rows[n, t, k])]
        for u in range(start, stop):
            alone = 0.0
            for c in range(cells):
                alone += table[int(weight[n, u, c])]
            for lag in range(joint.shape[1]):
                total[:] = margin - alone
                for c in range(cells):
                    inside = int(weight[n, u, c])
                    if inside == 0:
                        continue
                    for t in range(targets):
                        rest = inside
                        for k in range(states - 1):
                            # whole numbers, which transforms leave rounded
                            here = int(joint[n, lag, u * cells + c, t * (states - 1) + k] + 0.5)
                            total[t] += table[here]
                            rest -= here
                        total[t] += table[rest]
                for t in range(targets):
                    # what rounding leaves counts as nothing
                    nats[n, u, t, lag] = total[t] / count if total[t] > 1e-14 * count else 0.0
