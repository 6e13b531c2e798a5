"""The exact denoiser E[x_0 | x_t], and the reverse process x_t -> x_s: posteriors given noisy leaves.

Noise treats every leaf on its own, so P(x_t | x_0) is a likelihood of each leaf's state, soft evidence
with which belief propagation is exact (arXiv 2404.18444, which has it for the Random Hierarchy Model).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm.inference.evidence import Evidence
from hltm.inference.most_probable import posterior_samples
from hltm.inference.noise import (
    Masking,
    Noise,
    check_level,
    check_levels,
    leaf_states,
    uniform_at,
)
from hltm.inference.posterior import posterior
from hltm.model.states import MISSING
from hltm.model.tables import Tables
from hltm.sampling.philox import DECISIONS, Stream, check_seed
from hltm.sampling.sample import check_rows


def corrupt(
    tables: Tables,
    members: Sequence[int],
    leaves_SBX: Tensor,
    noise: Noise,
    level: float,
    *,
    seed: int,
    start: int = 0,
) -> Tensor:
    """x_t of leaves, `(S, B, X)` states or `(S, B, X, K)` numbers: a function of each row's address.

    Args:
        leaves_SBX: complete leaves, of the samples start .. start + B - 1.

    Raises:
        ValueError: a level outside [0, 1], a seed outside 64 bits, or rows without an address.
    """
    level, seed = check_level(level), check_seed(seed)
    rows = _rows(leaves_SBX.shape[1], start)
    uniform = uniform_at(tables, rows, seed=seed, stream=Stream.NOISE, members=members)
    return noise.corrupt(leaves_SBX, level, leaf_states(tables), uniform)


def noisy_evidence(tables: Tables, noisy: Tensor, noise: Noise, level: float) -> Evidence:
    """What noisy leaves, `(S, B, X)` or `(S, B, X, K)`, say of the leaves, as evidence of one tree or S."""
    if isinstance(noise, Masking):  # the leaves that are seen are hard evidence
        return Evidence(noisy.transpose(1, 2), {})
    states = leaf_states(tables)
    likelihood = noise.likelihood(noisy, level, states)
    members, samples, leaves, _ = likelihood.shape
    unseen = torch.full((members, leaves, samples), MISSING, dtype=torch.int64)
    each = enumerate(zip(tables.topology.leaves, states.tolist(), strict=True))
    # strides of its own: a slice of a large array would be read across it
    return Evidence(
        unseen, {int(v): likelihood[:, :, i, :k].transpose(1, 2).contiguous() for i, (v, k) in each}
    )


def denoise(tables: Tables, noisy: Tensor, noise: Noise, level: float) -> Tensor:
    """`(S, B, X, K)` float64 E[x_0 | x_t], the posterior probability of every state of every leaf.

    Where x_t cannot occur it is NaN. At level 1 it is the prior, at level 0 x_0 itself.
    """
    known = noisy_evidence(tables, noisy, noise, check_level(level))
    nodes = np.asarray(tables.topology.leaves)
    found = posterior(tables, known.leaves_SXB, nodes, likelihoods=known.likelihoods)
    return found.marginals.permute(0, 3, 1, 2)


def sample_back(
    tables: Tables,
    members: Sequence[int],
    noisy: Tensor,
    noise: Noise,
    levels: Sequence[float],
    *,
    seed: int,
    start: int = 0,
) -> list[Tensor]:
    """The reverse process: x at each of `levels` but the first, given x at the first.

    One step from t to s < t draws x_0 from P(x_0 | x_t), exactly, and x_s from P(x_s | x_0, x_t). As
    x_0, x_s, x_t is a Markov chain, x_s is then drawn from P(x_s | x_t). So however many steps there
    are, x at the last level has its exact distribution given x at the first: there is no error of
    discretisation, and `(t, 0)` is as good as a thousand steps.

    Args:
        noisy: x at the first level.
        levels: at least two, strictly decreasing; the last may be 0, and then x is x_0, as states.
        seed: of the steps, 64 bits.
        start: the number of the first row.

    Raises:
        ValueError: levels that do not decrease or lie outside [0, 1], a seed outside 64 bits, or rows
            that cannot occur in this tree.
    """
    path, seed = check_levels(levels), check_seed(seed)
    if len(path) < 2 or any(t <= s for t, s in pairwise(path)):
        raise ValueError(f"levels must be two or more that decrease strictly, got {path}")
    rows, states = _rows(noisy.shape[1], start), leaf_states(tables)
    first, found = tables.topology.leaves.start, []
    for step, (level, to) in enumerate(pairwise(path)):
        known = noisy_evidence(tables, noisy, noise, level)
        clean = posterior_samples(
            tables, known.leaves_SXB, 1, seed=seed, members=members, start=start, first=step,
            likelihoods=known.likelihoods,
        )[:, 0, first:].transpose(1, 2)  # fmt: skip
        never = (clean[..., 0] < 0).nonzero()
        if len(never):
            raise ValueError(
                f"row {int(never[0, 1])} of the noisy leaves cannot occur in this tree, expected "
                "leaves that have probability above 0"
            )
        if to == 0:
            noisy = clean
        else:
            uniform = uniform_at(
                tables, rows, seed=seed, stream=Stream.NOISE | DECISIONS, members=members, step=step
            )
            noisy = noise.back(clean, noisy, level, to, states, uniform)
        found.append(noisy)
    return found


def _rows(samples: int, start: int) -> Tensor:
    """`(B,)` int64 numbers of samples."""
    check_rows(start, max(samples, 1))
    start = as_integer("start", start)
    return torch.arange(start, start + samples)
