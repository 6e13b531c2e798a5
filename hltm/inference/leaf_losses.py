"""The cross-entropy of missing, next or noisy leaves under the posterior of their tree or of another.

Given what it sees, y, no predictor q of a leaf x does better in expectation than the posterior p, as

    E[-log q(x | y)] = E[H(p(. | y), q(. | y))] >= E[H(p(. | y))],   H(p, q) = -sum over x of p log q.

The loss of a given predictor, another tree such as a filtered one, is the left side, and the Bayes loss
its least value, where q = p. In either, the sum over the leaf's states is done exactly for every y. The
mean over y is exact where there are few y, and else over samples: of the patterns y themselves, not of
x, which is a conditional expectation and so has a smaller variance than -log q(x | y).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.ceiling import MAX_EXACT
from hltm.inference.denoise import corrupt, noisy_evidence
from hltm.inference.evidence import Evidence
from hltm.inference.masks import (
    every_mask,
    few_patterns,
    joint_count,
    missing_probability,
    possible_leaves,
    seen_patterns,
    seen_states,
)
from hltm.inference.noise import Flips, Masking, Noise, leaf_states
from hltm.inference.posterior import Posterior, posterior
from hltm.inference.prefixes import prefix_posteriors
from hltm.model.enumeration import all_states
from hltm.model.states import MISSING
from hltm.model.tables import Tables
from hltm.sampling.observed import missing_leaves
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample

HELD = 1 << 22  # posterior probabilities that are computed at a time


class Pair(NamedTuple):
    """A tree that makes the leaves, the one that predicts them, and the address of its samples."""

    tables: Tables
    predictor: Tables
    member: int
    seed: int
    samples: int

    @property
    def is_bayes(self) -> bool:
        """Whether the tree predicts its own leaves."""
        return self.predictor is self.tables


def next_leaf(pair: Pair, order: np.ndarray, context: int | None) -> tuple[np.ndarray, np.ndarray]:
    """`(X,)` losses of every leaf given those before it in an order, and their standard errors.

    Exact at every place whose context has at most 2^16 joint states.

    Args:
        order: `(X,)` places of the leaves among the leaves.
        context: how many leaves before it are seen; None for all.
    """
    possible = possible_leaves(pair.tables)
    value, error = np.zeros((2, len(order)))
    rest: dict[int, np.ndarray] = {}  # places that are not exact, and what is seen there
    for i, x in enumerate(order):
        seen = order[max(i - context, 0) if context is not None else 0 : i]
        every = seen_states(pair.tables, seen, possible)
        if every is None:
            rest[i] = seen
            continue
        node = np.array([x + pair.tables.topology.leaves.start])
        entropy, probability = _entropies(pair, node, every.T[None])
        value[i] = (entropy[0] * probability).sum()
    if rest:
        sampled = _by_prefixes(pair, order) if context is None else _by_context(pair, order, rest)
        for i in rest:
            value[i] = sampled[i].mean()
            error[i] = sampled[i].std(ddof=1) / pair.samples**0.5
    return value, error


def _by_prefixes(pair: Pair, order: np.ndarray) -> np.ndarray:
    """`(X, B)` H(p, q) of every leaf of samples given all leaves before it."""
    found = np.empty((len(order), pair.samples))
    step = max(HELD // int(max(t.rows.sum() for t in (pair.tables, pair.predictor))), 256)
    for low, part in zip(
        range(0, pair.samples, step), _leaves(pair)[0].split(step, 1), strict=True
    ):
        own = prefix_posteriors(pair.tables, part, order)
        others = own if pair.is_bayes else prefix_posteriors(pair.predictor, part, order)
        for i in range(len(order)):
            p = next(own)
            q = p if pair.is_bayes else next(others)
            found[i, low : low + step] = _cross_entropy(p, q, 0).numpy()
    return found


def _by_context(
    pair: Pair, order: np.ndarray, contexts: dict[int, np.ndarray]
) -> dict[int, np.ndarray]:
    """`(B,)` H(p, q) of the leaf at some places given its context, for each of them."""
    drawn, found = _leaves(pair), {}
    for i, seen in contexts.items():
        node = order[i : i + 1] + pair.tables.topology.leaves.start
        leaves = torch.full_like(drawn, MISSING)
        leaves[:, seen] = drawn[:, seen]
        parts = leaves.split(_chunk(pair, 1), dim=-1)
        found[i] = np.concatenate([_entropies(pair, node, part)[0][0] for part in parts])
    return found


def missing(pair: Pair, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`()` loss of a missing leaf given the others that are not, and its standard error.

    E[sum of losses of missing leaves] / E[number of missing leaves]: the mean over all missing leaves
    of many samples, in which a sample counts by how many it misses. Exact where at most 2^18 patterns
    of leaves can be seen under all masks together. Else, the number of missing leaves of a sample,
    whose expectation is known exactly, is a control variate of the sum.

    Args:
        rates: `(V,)` the probability that each node is missing.
    """
    topology = pair.tables.topology
    expected = missing_probability(topology, rates)
    at = np.flatnonzero(expected > 0)
    nodes = at + topology.leaves.start
    masks, possible = every_mask(topology, rates), possible_leaves(pair.tables)
    if masks is not None and few_patterns(pair.tables, masks, possible):
        leaves, weight = seen_patterns(pair.tables, masks, possible)
        hidden = (leaves[0, at] == MISSING).numpy()
        total = 0.0
        for low in range(0, len(weight), step := _chunk(pair, len(nodes))):
            part = slice(low, low + step)
            entropy, probability = _entropies(pair, nodes, leaves[..., part])
            total += float(
                (np.where(hidden[:, part], entropy, 0) @ (probability * weight[part])).sum()
            )
        return np.array(total / expected.sum()), np.zeros(())
    gone = missing_leaves(
        topology, rates, torch.arange(pair.samples), seed=pair.seed, stream=Stream.CEILING,
        members=[pair.member], view=1,
    )  # fmt: skip
    leaves = _leaves(pair).masked_fill(gone, MISSING)
    parts = [
        np.where((part[0, at] == MISSING).numpy(), _entropies(pair, nodes, part)[0], 0).sum(0)
        for part in leaves.split(_chunk(pair, len(nodes)), dim=-1)
    ]
    each = np.concatenate(parts)
    number = gone[0].sum(0).numpy() - expected.sum()
    spread = (number - number.mean()) @ number
    slope = (each - each.mean()) @ number / spread if spread > 0 and np.isfinite(each).all() else 0
    each = (each - slope * number) / expected.sum()
    return each.mean(), each.std(ddof=1) / len(each) ** 0.5


def noisy(pair: Pair, noise: Noise, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """`(T,)` losses of a leaf given all noisy leaves, at each level, and their standard errors.

    Exact for `Masking` as `missing`, and for `Flips` of at most 2^16 joint states; `Gaussian` noise is
    sampled, at all levels with the same leaves and the same random numbers.
    """
    found = np.array([_noisy(pair, noise, level) for level in levels])
    return found[:, 0], found[:, 1]


def _noisy(pair: Pair, noise: Noise, level: float) -> tuple[float, float]:
    topology = pair.tables.topology
    nodes = np.asarray(topology.leaves)
    states = pair.tables.cardinality[nodes]
    if isinstance(noise, Masking):  # leaves that are seen cost nothing
        if level == 0:
            return 0.0, 0.0
        rates = np.where(np.arange(len(topology)) >= nodes[0], level, 0.0)
        value, error = missing(pair, rates)
        return level * float(value), level * float(error)
    if isinstance(noise, Flips) and joint_count(states) <= MAX_EXACT:
        every = all_states(states)[None]
        total = 0.0
        for seen in every.split(_chunk(pair, len(nodes)), dim=1):
            entropy, probability = _entropies(pair, nodes, seen, noise, level)
            total += float((entropy.mean(0) * probability).sum())
        return total, 0.0
    clean, each = _leaves(pair).transpose(1, 2), []
    step = _chunk(pair, len(nodes))
    for start in range(0, pair.samples, step):
        seen = corrupt(
            pair.tables, [pair.member], clean[:, start : start + step], noise, level,
            seed=pair.seed, start=start,
        )  # fmt: skip
        entropy, _ = _entropies(pair, nodes, seen, noise, level)
        each.append(entropy.mean(0))
    mean = np.concatenate(each)
    return mean.mean(), mean.std(ddof=1) / len(mean) ** 0.5


def _entropies(
    pair: Pair, nodes: np.ndarray, seen: Tensor, noise: Noise | None = None, level: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """`(V, B)` H(p(. | y), q(. | y)) of leaves, 0 where y cannot occur, and `(B,)` P(y).

    What the predictor says of a leaf where it holds y impossible, or of a state where it has
    probability 0 although the state can occur, costs infinity.

    Args:
        seen: y, `(1, X, B)` leaves, -1 where missing, or with noise what `corrupt` makes, batch-first.
    """

    def answer(tables: Tables) -> Posterior:
        known = noisy_evidence(tables, seen, noise, level) if noise else Evidence(seen, {})
        own = nodes - pair.tables.topology.leaves.start + tables.topology.leaves.start
        return posterior(tables, known.leaves_SXB, own, likelihoods=known.likelihoods)

    found = answer(pair.tables)
    p = found.marginals[0]
    entropy = _cross_entropy(p, p if pair.is_bayes else answer(pair.predictor).marginals[0], 1)
    return entropy.numpy(), found.log_evidence[0].exp().numpy()


def _cross_entropy(p: Tensor, q: Tensor, axis: int) -> Tensor:
    """H(p, q) over an axis of states; a state that cannot occur, and NaN, cost nothing of p, all of q."""
    log = q.nan_to_num(0).clamp_max(1).log()
    return -torch.where(p > 0, p * log, 0).sum(axis)


def _leaves(pair: Pair) -> Tensor:
    """`(1, X, B)` int64 leaves of samples of the tree."""
    draw = sample(
        pair.tables, [pair.member], pair.samples, seed=pair.seed, stream=Stream.CEILING,
        first=pair.tables.topology.leaves.start,
    )  # fmt: skip
    return draw.states_SVB.to(torch.int64)


def _chunk(pair: Pair, nodes: int) -> int:
    """How many rows to compute at a time."""
    return max(HELD // (nodes * int(leaf_states(pair.tables).max())), 256)
