"""How far leaves change together: noise is put on a sample, and a sample is drawn back from it.

x_0 is a sample, x_t what noise makes of it, and x' a draw from P(x_0 | x_t), the end of the reverse
process. With c_i = 1 where leaf i of x' differs from that of x_0, the covariances Cov(c_i, c_j) by the
distance of the leaves show the length over which a change reaches. It peaks at the level of noise at
which the classes of the data change (arXiv 2410.13770).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm._results import by_content
from hltm.inference.denoise import corrupt, sample_back
from hltm.inference.noise import Flips, Masking, Noise, check_level
from hltm.inference.posterior import posterior
from hltm.model.enumeration import all_states
from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.philox import Stream, check_seed
from hltm.sampling.sample import sample

MAX_PAIRS = 1 << 22  # pairs of leaves' states with and without noise that are enumerated
ROUNDING = 1e-14  # a smaller variance is none
BLOCKS = 32  # of samples, whose spread gives the standard errors


@by_content
class ChangeCorrelation(NamedTuple):
    """How leaves change together; `...` is S for stacked trees and nothing for one.

    Attributes:
        correlation: `(..., L + 1)` float64, by the level l of the nearest common ancestor: the mean
            covariance Cov(c_i, c_j) over pairs of leaves i, j with such an ancestor, over the mean
            variance. It is 1 at l = 0, a leaf with itself, NaN at a level of no pair, and 0 where no
            leaf ever changes.
        standard_error: the same shape; 0 where the correlation is exact.
        changed: `(...)` the mean probability that a leaf changes.
        susceptibility: `(...)` the sum of all covariances over the sum of the variances: as many leaves
            as change together, 1 if they are independent.
        susceptibility_error: `(...)` its standard error.
    """

    correlation: Tensor
    standard_error: Tensor
    changed: Tensor
    susceptibility: Tensor
    susceptibility_error: Tensor


def change_correlation(
    tables: Tables,
    members: Sequence[int],
    noise: Noise,
    level: float,
    *,
    seed: int = 0,
    samples: int,
) -> ChangeCorrelation:
    """`(S, ...)` correlations of changes, exact on small trees for `Masking` and `Flips`.

    Given x_t, the states x_0 and x' are independent draws from one posterior π. So the probability
    that neither leaf of a pair changes is the mean over x_t of the sum over pairs of states of
    π(x_i = a, x_j = b)². It is enumerated where leaves without and with noise have at most 2^22 pairs of
    joint states, and else estimated from samples.

    Raises:
        TypeError: samples or a seed that are no integers.
        ValueError: a level outside [0, 1], a seed outside 64 bits, or fewer than 64 samples.
    """
    level, seed = check_level(level), check_seed(seed)
    if as_integer("samples", samples) < 2 * BLOCKS:
        raise ValueError(f"changes need at least {2 * BLOCKS} samples, got {samples}")
    near = ancestor_level(tables.topology)
    found = []
    with torch.no_grad():
        for s, member in enumerate(members):
            one = tables.take([s])
            kernels = _kernels(one, noise, level)
            if kernels is not None:
                kept, pair = _exact(one, kernels)
                shown = _summary(pair - np.outer(kept, kept), 1 - kept, near)
                found.append((shown[0], np.zeros_like(shown[0]), *shown[1:], 0.0))
                continue
            change = _changes(one, member, noise, level, seed, samples)
            whole = _summary(*_moments(change), near)
            blocks = [_summary(*_moments(part), near) for part in np.array_split(change, BLOCKS)]
            error, spread = (
                np.std(np.array([block[i] for block in blocks]), 0, ddof=1) / BLOCKS**0.5
                for i in (0, 2)
            )
            found.append((whole[0], error, whole[1], whole[2], float(spread)))
    return ChangeCorrelation(
        *(torch.as_tensor(np.array(part)) for part in zip(*found, strict=True))
    )


def ancestor_level(topology: Topology) -> np.ndarray:
    """`(X, X)` the level of the nearest common ancestor of two leaves, 0 of a leaf with itself.

    Example:
        >>> ancestor_level(Topology.balanced(depth=2)).tolist()
        [[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1, 0]]
    """
    first = topology.leaves.start
    found = np.zeros((len(topology.leaves), len(topology.leaves)), dtype=np.int64)
    for v in topology.latents:  # parents come first, so the nearest writes last
        leaves = topology.descendants(v)
        leaves = leaves[leaves >= first] - first
        found[np.ix_(leaves, leaves)] = topology.level[v]
    np.fill_diagonal(found, 0)
    return found


def _kernels(tables: Tables, noise: Noise, level: float) -> list[np.ndarray] | None:
    """P(x_t | x_0) of every leaf, `(K_noisy, K)`; None where there is too much to enumerate."""
    states = tables.cardinality[tables.topology.leaves.start :]
    if isinstance(noise, Masking):
        found = [np.vstack([np.full(k, level), (1 - level) * np.eye(k)]) for k in states]
    elif isinstance(noise, Flips):
        found = [level / k + (1 - level) * np.eye(k) for k in states]
    else:
        return None
    return found if sum(np.log2(k.size) for k in found) <= np.log2(MAX_PAIRS) + 1e-9 else None


def _exact(tables: Tables, kernels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`(X,)` the probability that a leaf keeps its state, and `(X, X)` that both of a pair do."""
    states = tables.cardinality[tables.topology.leaves.start :]
    every = all_states(states)
    prior = posterior(tables, every.T[None], np.array([0])).log_evidence[0].exp().numpy()
    joint = np.ones((1, 1))
    for kernel in kernels:
        joint = np.kron(joint, kernel)
    joint = joint * prior  # (noisy, clean)
    share = joint.sum(1, keepdims=True)
    share = np.divide(1, share, out=np.zeros_like(share), where=share > 0)
    number, pair = every.numpy(), np.zeros((len(states), len(states)))
    for i in range(len(states)):
        for j in range(i + 1):
            both = np.eye(states[i] * states[j])[number[:, i] * states[j] + number[:, j]]
            pair[i, j] = pair[j, i] = ((joint @ both) ** 2 * share).sum()
    return pair.diagonal().copy(), pair


def _changes(
    tables: Tables, member: int, noise: Noise, level: float, seed: int, samples: int
) -> np.ndarray:
    """`(B, X)` bool: which leaves of samples change."""
    clean = sample(
        tables, [member], samples, seed=seed, stream=Stream.CEILING,
        first=tables.topology.leaves.start,
    ).states_SVB.transpose(1, 2).to(torch.int64)  # fmt: skip
    if level == 0:
        return np.zeros(clean.shape[1:], dtype=bool)
    noisy = corrupt(tables, [member], clean, noise, level, seed=seed)
    (back,) = sample_back(tables, [member], noisy, noise, [level, 0.0], seed=seed)
    return (back != clean)[0].numpy()


def _moments(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(X, X)` covariances and `(X,)` means of samples."""
    return np.cov(change.T.astype(np.float64)).reshape(2 * change.shape[1:]), change.mean(0)


def _summary(
    covariance: np.ndarray, mean: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """`(L + 1,)` correlations by level, the mean change and the susceptibility."""
    count = np.bincount(near.ravel(), minlength=near.max() + 1)
    total = np.bincount(near.ravel(), weights=covariance.ravel(), minlength=len(count))
    by_level = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    if by_level[0] <= ROUNDING:
        return np.where(count > 0, 0.0, np.nan), float(mean.mean()), 0.0
    return by_level / by_level[0], float(mean.mean()), float(total.sum() / total[0])
