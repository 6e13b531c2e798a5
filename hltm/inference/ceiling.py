"""Bayes ceilings: the best correlation with a node that any function of the same leaves can have.

With π the posterior of a node given the leaves, `(K,)`, and D = diag(prior), let d = D^-1/2 (π - prior).
The squared ceiling is the largest eigenvalue of E[d d^T], the squared maximal correlation between the
state and the leaves (Hirschfeld 1935, Gebelein 1941, Rényi 1959). For a binary node z = ±1 that is
Var(E[z | leaves]) / Var(z) (docs/theory.md, Equations 4.7 and 4.14). Below, `moment` is E[d d^T].
Taking the deviation from the prior first, not E[π π^T] and its second eigenvalue, keeps ceilings far
below the rounding of 1, as of a state that hardly ever occurs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._results import by_content
from hltm.inference.ceiling_enumerated import CHUNK, largest, own_squares
from hltm.inference.posterior import posterior
from hltm.model.enumeration import all_states
from hltm.model.moments import state_marginals
from hltm.model.tables import Tables
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample

Leaves = Literal["own", "all"]
MAX_EXACT = 1 << 16  # joint states of leaves that are enumerated; with more, leaves are sampled
SAMPLES = 1 << 15
UNSEEN = 3  # a state that is expected fewer times in the samples is likely to be missed by them
STORED = 1 << 23  # posterior probabilities that are kept for the standard error
HELD = 1 << 25  # posterior probabilities that are computed at a time, at most


@by_content
class Ceiling(NamedTuple):
    """Ceilings and their standard errors.

    Attributes:
        value: `(V,)` or `(S, V)` float64, in [0, 1].
        standard_error: the same shape; 0 where the value is exact, and infinite where it is estimated
            although a state of the node is expected in fewer than 3 of the samples: the function that
            recognises this state may be far better than they show.
    """

    value: Tensor
    standard_error: Tensor


def ceiling(
    tables: Tables,
    members: Sequence[int],
    nodes: np.ndarray,
    *,
    leaves: Leaves = "own",
    seed: int = 0,
    samples: int = SAMPLES,
) -> Ceiling:
    """`(S, V)` ceilings of nodes, exact where their leaves have at most 2^16 joint states.

    For a binary node, no function of the leaves correlates better with its state; for more states, no
    function of the leaves correlates better with any function of the state. A node that never varies
    has ceiling 0.

    Args:
        nodes: `(V,)` node numbers.
        leaves: `own` are those below the node, `all` is every leaf. A leaf's own leaf is itself.
        seed: 64 bits, of the samples that are drawn where the ceiling is not exact.
        samples: how many, at least 2.

    Raises:
        ValueError: `leaves` is neither own nor all, or fewer than 2 samples.
    """
    if leaves not in ("own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    if samples < 2:
        raise ValueError(f"a ceiling needs at least 2 samples, got {samples}")
    exact = np.isin(nodes, _enumerable(tables, leaves))
    square = np.zeros((len(members), len(nodes)))
    error = np.zeros_like(square)
    with torch.no_grad():
        for s, member in enumerate(members):
            one = tables.take([s])
            prior = state_marginals(one)[0].cpu().numpy()
            if exact.any():
                enumerated = own_squares if leaves == "own" else _all_squares
                square[s, exact] = enumerated(one, prior, nodes[exact])
            if not exact.all():
                found = _sampled(one, member, prior, nodes[~exact], leaves, seed, samples)
                square[s, ~exact], error[s, ~exact] = found
    return Ceiling(torch.from_numpy(np.sqrt(square)), torch.from_numpy(error))


def _enumerable(tables: Tables, leaves: Leaves) -> np.ndarray:
    """The nodes whose leaves have at most MAX_EXACT joint states."""
    topology = tables.topology
    latent = np.arange(len(topology)) < topology.leaves.start
    # log2 of the number of joint states of the leaves below each node
    logs = np.where(latent, 0, np.log2(tables.cardinality))
    for v in range(len(topology) - 1, 0, -1):
        logs[topology.parent[v]] += logs[v]
    seen = logs if leaves == "own" else np.full_like(logs, logs[0])
    return np.flatnonzero(seen <= np.log2(MAX_EXACT) + 1e-9)


def _deviation(prior: np.ndarray, posterior: np.ndarray) -> np.ndarray:
    """`(V, K, N)` d = D^-1/2 (π - prior) from `(V, K)` and `(V, K, N)`; 0 for a state of prior 0."""
    return _scale(prior)[..., None] * (posterior - prior[..., None])


def _scale(prior: np.ndarray) -> np.ndarray:
    """prior^-1/2; 0 for a state of prior 0."""
    return np.divide(1, np.sqrt(prior), out=np.zeros_like(prior), where=prior > 0)


def _moment(deviation: np.ndarray, probability: np.ndarray | float) -> np.ndarray:
    """`(V, K, K)` the sum of probability · d d^T over N joint states of leaves."""
    weighted = deviation * np.sqrt(probability)
    return weighted @ weighted.swapaxes(-1, -2)


def _all_squares(tables: Tables, prior: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """`(V,)` squared ceilings of nodes given all leaves, by enumeration of the leaves' joint states."""
    patterns = all_states(tables.cardinality[list(tables.topology.leaves)])
    before = _padded(tables, prior, nodes)
    states = before.shape[1]
    moment = np.zeros((len(nodes), states, states))
    for part in patterns.T.split(_chunk(len(nodes) * states), dim=1):
        found = posterior(tables, part[None], nodes)
        probability = found.log_evidence[0].exp().numpy()
        moment += _moment(
            _deviation(before, np.nan_to_num(found.marginals[0].numpy())), probability
        )
    return largest(moment)


def _sampled(
    tables: Tables,
    member: int,
    prior: np.ndarray,
    nodes: np.ndarray,
    leaves: Leaves,
    seed: int,
    samples: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`(V,)` squared ceilings from samples of the leaves, and the standard errors of their roots."""
    first = tables.topology.leaves.start
    before = _padded(tables, prior, nodes)
    states = before.shape[1]
    step = _chunk(before.size)

    def posteriors() -> Iterator[np.ndarray]:
        for start in range(0, samples, step):
            draw = sample(
                tables, [member], min(step, samples - start), seed=seed, start=start,
                stream=Stream.CEILING, first=first,
            )  # fmt: skip
            found = posterior(tables, draw.states_SVB, nodes, own=leaves == "own")
            yield found.marginals[0].numpy()

    if states == 2:
        # D^1/2 d sums to 0, so d lies in one direction whatever the leaves, and one pass is enough
        kept, direction = None, np.sqrt(before[:, ::-1]) * np.array([1.0, -1.0])
    else:
        # a second pass, over what was kept or, of large trees, drawn again
        kept = list(posteriors()) if before.size * samples <= STORED else None
        moment = np.zeros((len(nodes), states, states))
        for part in kept or posteriors():
            for some in _slices(part):
                moment[some] += _moment(_deviation(before[some], part[some]), 1 / samples)
        direction = np.linalg.eigh(moment)[1][..., -1]
    # To first order in the sampling noise the squared ceiling c² is the mean of q = (w · d)² in the
    # direction w where it is largest, since a change of this eigenvector has no first-order effect; and
    # sd(c) = sd(c²) / 2c.
    weight = direction * _scale(before)
    square, spread, seen = np.zeros(len(nodes)), np.zeros(len(nodes)), 0
    for part in kept or posteriors():
        rows = part.shape[-1]
        for some in _slices(part):
            follow = (weight[some, None] @ part[some])[:, 0]
            q = (follow - (weight[some] * before[some]).sum(1)[:, None]) ** 2
            mean = q.mean(1)
            change = mean - square[some]
            spread[some] += ((q - mean[:, None]) ** 2).sum(1)
            spread[some] += change**2 * (seen * rows / (seen + rows))
            square[some] += change * (rows / (seen + rows))
        seen += rows
    mean, square = square, square.clip(0, 1)
    spread += samples * (mean - square) ** 2
    scale = 2 * (square * samples * (samples - 1.0)) ** 0.5
    error = np.divide(spread**0.5, scale, out=np.zeros_like(square), where=square > 0)
    rare = ((before > 0) & (before * samples < UNSEEN)).any(1)
    return square, np.where(rare, np.inf, error)


def _slices(values: np.ndarray) -> Iterator[slice]:
    """Nodes of `(V, K, B)` numbers that fit into cache together."""
    step = max(CHUNK // values[0].size, 1)
    for low in range(0, len(values), step):
        yield slice(low, low + step)


def _padded(tables: Tables, prior: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """`(V, K)` prior probabilities of nodes, padded with zeros."""
    counts = tables.cardinality[nodes]
    start = np.cumsum(tables.cardinality) - tables.cardinality
    own = np.arange(counts.max()) < counts[:, None]
    place = np.minimum(start[nodes][:, None] + np.arange(counts.max()), len(prior) - 1)
    return np.where(own, prior[place], 0.0)


def _chunk(numbers: int) -> int:
    """How many samples of so many numbers each to compute at a time.

    Whole tiles of the draw kernel, unless these would take too much memory.
    """
    return min(max(CHUNK * 16 // numbers // 2048, 1) * 2048, max(HELD // numbers, 1))
