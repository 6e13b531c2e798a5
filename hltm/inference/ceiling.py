"""Bayes ceilings: the best correlation with a node that any function of the same leaves can have.

With π the posterior of a node given the leaves, `(K,)`, and D = diag(prior), the squared ceiling is
the second eigenvalue of D^-1/2 E[π π^T] D^-1/2, the squared maximal correlation between the state and
the leaves (Hirschfeld 1935, Gebelein 1941, Rényi 1959). For a binary node z = ±1 that is
Var(E[z | leaves]) / Var(z) (docs/theory.md, Section 4). Below, `moment` is E[π π^T].
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
CHUNK = 1 << 15  # numbers that are computed at a time: few enough to stay in cache
STORED = 1 << 23  # posterior probabilities kept at a time, for the standard error


@by_content
class Ceiling(NamedTuple):
    """Ceilings and their standard errors.

    Attributes:
        value: `(V,)` or `(S, V)` float64, in [0, 1].
        standard_error: the same shape; 0 where the value is exact.
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
                value[s, exact] = [
                    _square(prior[v], m)[0] ** 0.5
                    for v, m in zip(nodes[exact], moments, strict=True)
                ]
            if not exact.all():
                found = _sampled(one, member, prior, nodes[~exact], leaves, seed, samples)
                value[s, ~exact], error[s, ~exact] = found
    return Ceiling(torch.from_numpy(value), torch.from_numpy(error))


def _square(prior: np.ndarray, moment: np.ndarray) -> tuple[float, np.ndarray]:
    """The squared ceiling from E[π π^T], and the direction u for which it equals E[(u π)^2].

    The first eigenvector is known: sqrt(prior), of the constant function, with eigenvalue 1.
    Projecting it out makes the second eigenvalue the largest. Without the projection, sampling noise
    would mix the two eigenvectors where both eigenvalues are near 1.
    """
    root = np.sqrt(prior)
    scale = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    rest = np.eye(len(prior)) - np.outer(root, root)
    eigenvalue, eigenvector = np.linalg.eigh(rest @ (scale[:, None] * moment * scale) @ rest)
    return float(eigenvalue[-1].clip(0, 1)), scale * (rest @ eigenvector[:, -1])


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
    """`(K, K)` E[π π^T] of nodes given their own leaves.

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
                moment += _moment(prior[v][:, None] * likelihood)
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


def _moment(joint: np.ndarray) -> np.ndarray:
    """`(..., K, K)` the sum over N joint states of leaves of P(leaves) π π^T, from P(state, leaves).

    With p = P(state, leaves), `joint` `(..., K, N)`, and e = P(leaves), the sum of p over states,
    P(leaves) π π^T = p p^T / e. Leaves that cannot occur add nothing.
    """
    evidence = joint.sum(-2, keepdims=True)
    scaled = np.divide(joint, np.sqrt(evidence), out=np.zeros_like(joint), where=evidence > 0)
    return scaled @ scaled.swapaxes(-1, -2)


def _all_moments(tables: Tables, prior: list[np.ndarray], nodes: np.ndarray) -> list[np.ndarray]:
    """`(K, K)` E[π π^T] of nodes given all leaves, by enumeration of the leaves' joint states."""
    patterns = all_states(tables.cardinality[list(tables.topology.leaves)])
    states = int(tables.cardinality[nodes].max())
    moment = np.zeros((len(nodes), states, states))
    for part in patterns.T.split(_chunk(len(nodes) * states), dim=1):
        found = posterior(tables, part[None], nodes)
        joint = found.marginals[0].numpy() * found.log_evidence[0].exp().numpy()
        moment += _moment(np.nan_to_num(joint))
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
    states = int(tables.cardinality[nodes].max())
    value, error = [], []
    size = max(STORED // (states * samples), 1)
    for some in np.split(nodes, range(size, len(nodes), size)):
        step = _chunk(len(some) * states)
        moment = np.zeros((len(some), states, states))
        stored = []
        for start in range(0, samples, step):
            count = min(step, samples - start)
            draw = sample(
                tables, [member], count, seed=seed, start=start, stream=Stream.CEILING, first=first
            )
            found = posterior(tables, draw.states_SVB, some, own=leaves == "own")
            part = found.marginals[0].numpy()
            moment += part @ part.swapaxes(-1, -2) / samples
            stored.append(part)
        for i, v in enumerate(some):
            k = len(prior[v])
            square, direction = _square(prior[v], moment[i, :k, :k])
            # To first order in the sampling noise the squared ceiling c² is the mean of q = (u π)²,
            # since a change of the eigenvector u has no first-order effect; and sd(c) = sd(c²) / 2c.
            q = np.concatenate([direction @ part[i, :k] for part in stored]) ** 2
            value.append(square**0.5)
            error.append(q.std(ddof=1) / samples**0.5 / max(2 * square**0.5, 1e-12))
    return np.array(value), np.array(error)


def _chunk(numbers: int) -> int:
    """How many samples of so many numbers each to compute at a time: whole tiles of the draw kernel."""
    return max(CHUNK * 16 // numbers // 2048, 1) * 2048
