"""Bayes ceilings: the best correlation with a node that any function of the same leaves can have.

With π the posterior of a node given the leaves, `(K,)`, and D = diag(prior), let d = D^-1/2 (π - prior).
The squared ceiling is the largest eigenvalue of E[d d^T], the squared maximal correlation between the
state and the leaves (Hirschfeld 1935, Gebelein 1941, Rényi 1959). For a binary node z = ±1 that is
Var(E[z | leaves]) / Var(z) (docs/theory.md, Section 4). Below, `moment` is E[d d^T]. Taking the
deviation from the prior first, not E[π π^T] and its second eigenvalue, keeps ceilings far below the
rounding of 1, as of a state that hardly ever occurs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._results import by_content
from hltm.inference.posterior import posterior
from hltm.model.enumeration import all_states
from hltm.model.moments import marginals
from hltm.model.tables import Tables
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample

Leaves = Literal["own", "all"]
MAX_EXACT = 1 << 16  # joint states of leaves that are enumerated; with more, leaves are sampled
SAMPLES = 1 << 15
UNSEEN = 3  # a state that is expected fewer times in the samples is likely to be missed by them
CHUNK = 1 << 15  # numbers that are computed at a time: few enough to stay in cache
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
    value = np.zeros((len(members), len(nodes)))
    error = np.zeros_like(value)
    with torch.no_grad():
        for s, member in enumerate(members):
            one = tables.take([s])
            prior = [found[0].cpu().numpy() for found in marginals(one)]
            if exact.any():
                enumerated = _own_moments if leaves == "own" else _all_moments
                moments = enumerated(one, prior, nodes[exact])
                value[s, exact] = [_square(moment)[0] ** 0.5 for moment in moments]
            if not exact.all():
                found = _sampled(one, member, prior, nodes[~exact], leaves, seed, samples)
                value[s, ~exact], error[s, ~exact] = found
    return Ceiling(torch.from_numpy(value), torch.from_numpy(error))


def _square(moment: np.ndarray) -> tuple[float, np.ndarray]:
    """The squared ceiling and the direction w in which it is reached, from E[d d^T], `(K, K)`."""
    eigenvalue, eigenvector = np.linalg.eigh(moment)
    return float(eigenvalue[-1].clip(0, 1)), eigenvector[:, -1]


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


def _own_moments(tables: Tables, prior: list[np.ndarray], nodes: np.ndarray) -> list[np.ndarray]:
    """`(K, K)` moments of nodes given their own leaves.

    For each state of a node, the likelihoods of all N joint states of the leaves below it are the
    Kronecker product of those that its children send, so one sweep up the tree gives all moments.
    """
    topology = tables.topology
    needed = np.isin(np.arange(len(topology)), nodes)
    for v in range(1, len(topology)):
        needed[v] |= needed[topology.parent[v]]
    found: dict[int, np.ndarray] = {}
    sent: dict[int, np.ndarray] = {}  # (K_parent, N) likelihoods of the leaf states below a node
    wanted = set(map(int, nodes))
    for v in map(int, np.flatnonzero(needed)[::-1]):
        states = int(tables.cardinality[v])
        for_parent = v > 0 and needed[topology.parent[v]]
        table = tables.of(v)[0].cpu().numpy()
        if v in topology.leaves:
            blocks: Iterator[np.ndarray] = iter([np.eye(states)])
        else:
            blocks = _products([sent.pop(int(c)) for c in topology.children[v]])
        moment = np.zeros((states, states))
        parts = []
        for likelihood in blocks:
            if v in wanted:
                belief, probability = _posterior(prior[v], likelihood)
                moment += _moment(_deviation(prior[v], belief), probability)
            if for_parent:
                parts.append(table @ likelihood)
        if v in wanted:
            found[v] = moment
        if for_parent:
            sent[v] = np.concatenate(parts, axis=1)
    return [found[int(v)] for v in nodes]


def _products(factors: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Column blocks of the row-wise Kronecker product of `(K, N_i)` factors, `(K, product of N_i)`."""
    left = np.ones((len(factors[0]), 1))
    for factor in factors[:-1]:
        left = (left[:, :, None] * factor[:, None]).reshape(len(left), -1)
    right = factors[-1]
    step = max(CHUNK // right.size, 1)
    for low in range(0, left.shape[1], step):
        part = left[:, low : low + step, None] * right[:, None]
        yield part.reshape(len(part), -1)


def _posterior(prior: np.ndarray, likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(K, N)` posteriors π of a node from likelihoods of N joint states of leaves, and their `(N,)`
    probabilities.

    Every column is first scaled to a largest likelihood of 1, so that the sum cannot underflow.
    Leaves that cannot occur have posterior 0 and probability 0.
    """
    top = likelihood.max(0)
    joint = prior[:, None] * np.divide(
        likelihood, top, out=np.zeros_like(likelihood), where=top > 0
    )
    evidence = joint.sum(0)
    return np.divide(joint, evidence, out=joint, where=evidence > 0), top * evidence


def _deviation(prior: np.ndarray, posterior: np.ndarray) -> np.ndarray:
    """`(..., K, N)` d = D^-1/2 (π - prior) from `(..., K)` and `(..., K, N)`; 0 for a state of prior 0."""
    scale = np.divide(1, np.sqrt(prior), out=np.zeros_like(prior), where=prior > 0)
    return scale[..., None] * (posterior - prior[..., None])


def _moment(deviation: np.ndarray, probability: np.ndarray | float) -> np.ndarray:
    """`(..., K, K)` the sum of probability · d d^T over N joint states of leaves."""
    weighted = deviation * np.sqrt(probability)
    return weighted @ weighted.swapaxes(-1, -2)


def _all_moments(tables: Tables, prior: list[np.ndarray], nodes: np.ndarray) -> list[np.ndarray]:
    """`(K, K)` moments of nodes given all leaves, by enumeration of the leaves' joint states."""
    patterns = all_states(tables.cardinality[list(tables.topology.leaves)])
    before = _padded(prior, nodes)
    states = before.shape[1]
    moment = np.zeros((len(nodes), states, states))
    for part in patterns.T.split(_chunk(len(nodes) * states), dim=1):
        found = posterior(tables, part[None], nodes)
        probability = found.log_evidence[0].exp().numpy()
        moment += _moment(
            _deviation(before, np.nan_to_num(found.marginals[0].numpy())), probability
        )
    return [m[: len(prior[v]), : len(prior[v])] for v, m in zip(nodes, moment, strict=True)]


def _sampled(
    tables: Tables,
    member: int,
    prior: list[np.ndarray],
    nodes: np.ndarray,
    leaves: Leaves,
    seed: int,
    samples: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`(V,)` ceilings from samples of the leaves, and their standard errors."""
    first = tables.topology.leaves.start
    before = _padded(prior, nodes)
    states = before.shape[1]
    step = _chunk(before.size)

    def deviations() -> Iterator[np.ndarray]:
        for start in range(0, samples, step):
            draw = sample(
                tables, [member], min(step, samples - start), seed=seed, start=start,
                stream=Stream.CEILING, first=first,
            )  # fmt: skip
            found = posterior(tables, draw.states_SVB, nodes, own=leaves == "own")
            yield _deviation(before, found.marginals[0].numpy())

    # The standard error takes a second pass, over what was kept or, of large trees, drawn again.
    kept = list(deviations()) if before.size * samples <= STORED else None
    moment = np.zeros((len(nodes), states, states))
    for part in kept or deviations():
        moment += _moment(part, 1 / samples)
    square, direction = np.zeros(len(nodes)), np.zeros_like(before)
    for i, v in enumerate(nodes):
        k = len(prior[v])
        square[i], direction[i, :k] = _square(moment[i, :k, :k])
    # To first order in the sampling noise the squared ceiling c² is the mean of q = (w · d)², since a
    # change of the eigenvector w has no first-order effect; and sd(c) = sd(c²) / 2c.
    spread = np.zeros(len(nodes))
    for part in kept or deviations():
        q = (direction[:, None] @ part)[:, 0] ** 2
        spread += ((q - square[:, None]) ** 2).sum(1)
    value = square**0.5
    scale = 2 * value * (samples * (samples - 1.0)) ** 0.5
    error = np.divide(spread**0.5, scale, out=np.zeros_like(value), where=value > 0)
    rare = ((before > 0) & (before * samples < UNSEEN)).any(1)
    return value, np.where(rare, np.inf, error)


def _padded(prior: list[np.ndarray], nodes: np.ndarray) -> np.ndarray:
    """`(V, K)` prior probabilities of nodes, padded with zeros."""
    states = max(len(prior[v]) for v in nodes)
    return np.stack([np.pad(prior[v], (0, states - len(prior[v]))) for v in nodes])


def _chunk(numbers: int) -> int:
    """How many samples of so many numbers each to compute at a time.

    Whole tiles of the draw kernel, unless these would take too much memory.
    """
    return min(max(CHUNK * 16 // numbers // 2048, 1) * 2048, max(HELD // numbers, 1))
