"""Bayes ceilings: the best correlation with a node that any function of the same leaves can have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.posterior import own_posterior, posterior
from hltm.model.enumeration import all_states
from hltm.model.moments import marginals
from hltm.model.tables import Tables
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample

Leaves = Literal["own", "all"]
MAX_EXACT = 1 << 16  # leaf states enumerated before sampling takes over
SAMPLES = 1 << 15
CHUNK = 1 << 15  # numbers worked on at a time: few enough to stay in cache
STORED = 1 << 23  # posterior probabilities kept at a time for their spread


class Ceiling(NamedTuple):
    """Ceilings and how well they are known.

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
    """`(S, V)` ceilings of nodes, exact where their leaves have at most 2^16 states.

    No function of the leaves correlates with a binary node better than
    sqrt(Var(E[z | leaves]) / Var(z)) (theory, Section 4). For more states it is the maximal
    correlation of Hirschfeld, Gebelein and Rényi, over all functions of the state and of the
    leaves: its square is the second eigenvalue of D^-1/2 E[π π^T] D^-1/2, where π is the posterior
    and D = diag(prior). A node that never varies has ceiling 0.

    Args:
        leaves: `own` are those below the node, `all` is every leaf. A leaf's own leaf is itself.
        seed: of the samples, where the ceiling is not exact.
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
    """The squared ceiling, and the direction u with E[(u π)^2] equal to it, from E[π π^T].

    The first eigenvector is known, sqrt(prior), the constant function: projecting it out leaves
    the second eigenvalue as the largest. In samples the two would mix where both are near 1.
    """
    root = np.sqrt(prior)
    scale = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    rest = np.eye(len(prior)) - np.outer(root, root)
    eigenvalue, eigenvector = np.linalg.eigh(rest @ (scale[:, None] * moment * scale) @ rest)
    return float(eigenvalue[-1].clip(0, 1)), scale * (rest @ eigenvector[:, -1])


def _enumerable(tables: Tables, leaves: Leaves) -> np.ndarray:
    """The nodes whose leaves have few enough joint states."""
    topology = tables.topology
    latent = np.arange(len(topology)) < topology.leaves.start
    logs = np.where(latent, 0, np.log2(tables.cardinality))
    for v in range(len(topology) - 1, 0, -1):
        logs[topology.parent[v]] += logs[v]
    seen = logs if leaves == "own" else np.full_like(logs, logs[0])
    return np.flatnonzero(seen <= np.log2(MAX_EXACT) + 1e-9)


def _own_moments(tables: Tables, prior: list[np.ndarray], nodes: np.ndarray) -> list[np.ndarray]:
    """`(K, K)` E[π π^T] of nodes given their own leaves.

    The likelihoods of all states of the leaves below a node are the Kronecker product, state by
    state, of what its children send: no inference is needed.
    """
    topology = tables.topology
    needed = np.isin(np.arange(len(topology)), nodes)
    for v in range(1, len(topology)):
        needed[v] |= needed[topology.parent[v]]
    found: dict[int, np.ndarray] = {}
    sent: dict[int, np.ndarray] = {}  # (K_parent, N) likelihoods of the leaf states below a node
    asked = set(map(int, nodes))
    for v in map(int, np.flatnonzero(needed)[::-1]):
        states = int(tables.cardinality[v])
        passed_on = v > 0 and needed[topology.parent[v]]
        table = tables.of(v)[0].cpu().numpy()
        if v in topology.leaves:
            blocks: Iterator[np.ndarray] = iter([np.eye(states)])
        else:
            blocks = _products([sent.pop(int(c)) for c in topology.children[v]])
        moment = np.zeros((states, states))
        parts = []
        for likelihood in blocks:
            if v in asked:
                moment += _moment(prior[v][:, None] * likelihood)
            if passed_on:
                parts.append(table @ likelihood)
        if v in asked:
            found[v] = moment
        if passed_on:
            sent[v] = np.concatenate(parts, axis=1)
    return [found[int(v)] for v in nodes]


def _products(factors: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The columns of the Kronecker product of `(K, N_i)` factors, row by row, some at a time."""
    left = np.ones((len(factors[0]), 1))
    for factor in factors[:-1]:
        left = (left[:, :, None] * factor[:, None]).reshape(len(left), -1)
    right = factors[-1]
    step = max(CHUNK // right.size, 1)
    for low in range(0, left.shape[1], step):
        part = left[:, low : low + step, None] * right[:, None]
        yield part.reshape(len(part), -1)


def _moment(joint: np.ndarray) -> np.ndarray:
    """Part of E[π π^T] from `(..., K, N)` P(state, leaves); leaves that cannot occur add nothing."""
    evidence = joint.sum(-2, keepdims=True)
    scaled = np.divide(joint, np.sqrt(evidence), out=np.zeros_like(joint), where=evidence > 0)
    return scaled @ scaled.swapaxes(-1, -2)


def _all_moments(tables: Tables, prior: list[np.ndarray], nodes: np.ndarray) -> list[np.ndarray]:
    """`(K, K)` E[π π^T] of nodes given all leaves, over every state of the leaves."""
    patterns = all_states(tables.cardinality[list(tables.topology.leaves)])
    states = int(tables.cardinality[nodes].max())
    moment = np.zeros((len(nodes), states, states))
    for part in patterns.T.split(_rows(len(nodes) * states), dim=1):
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
    infer = posterior if leaves == "all" else own_posterior
    first = tables.topology.leaves.start
    states = int(tables.cardinality[nodes].max())
    value, error = [], []
    size = max(STORED // (states * samples), 1)
    for some in np.split(nodes, range(size, len(nodes), size)):
        step = _rows(len(some) * states)
        moment = np.zeros((len(some), states, states))
        stored = []
        for start in range(0, samples, step):
            count = min(step, samples - start)
            draw = sample(
                tables, [member], count, seed=seed, start=start, stream=Stream.CEILING, first=first
            )
            part = infer(tables, draw.states_SVB, some).marginals[0].numpy()
            moment += part @ part.swapaxes(-1, -2) / samples
            stored.append(part)
        for i, v in enumerate(some):
            k = len(prior[v])
            square, direction = _square(prior[v], moment[i, :k, :k])
            # to first order the square is the mean of (u π)^2
            q = np.concatenate([direction @ part[i, :k] for part in stored]) ** 2
            value.append(square**0.5)
            error.append(q.std(ddof=1) / samples**0.5 / max(2 * square**0.5, 1e-12))
    return np.array(value), np.array(error)


def _rows(numbers: int) -> int:
    """How many rows of so many numbers to work on at a time: whole tiles of the drawing kernel."""
    return max(CHUNK * 16 // numbers // 2048, 1) * 2048
