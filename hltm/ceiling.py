"""Bayes ceilings: the best correlation with a node that any function of the same leaves can have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.brute import all_states
from hltm.inference import MISSING, own_posterior, posterior
from hltm.moments import marginals
from hltm.philox import Stream
from hltm.sample import sample
from hltm.tables import Tables

Leaves = Literal["own", "all"]
MAX_EXACT = 1 << 16  # leaf states enumerated before sampling takes over
SAMPLES = 1 << 15
CHUNK = 1 << 20  # table entries of messages held at a time: few enough to stay in cache


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
    correlation: its square is the second eigenvalue of D^-1/2 E[π π^T] D^-1/2, where π is the
    posterior and D = diag(prior).

    Args:
        leaves: `own` are those below the node, `all` is every leaf.
        seed: of the samples, where the ceiling is not exact.
        samples: how many.

    Raises:
        ValueError: `leaves` is neither own nor all.
    """
    if leaves not in ("own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    prior = marginals(tables)
    value = tables.flat.new_zeros(len(tables.flat), len(nodes))
    error = torch.zeros_like(value)
    for index, seen in _groups(tables, nodes, leaves):
        group = nodes[index]
        patterns = _patterns(tables, seen)
        second, posteriors = None, []
        for columns in _columns(tables, members, patterns, seen, seed, samples):
            infer = posterior if leaves == "all" else own_posterior
            found = infer(tables, columns, group)
            weight = _weights(found.log_evidence, patterns is not None, samples)
            # leaf states that cannot occur weigh nothing and have no posterior: 0 · NaN is NaN
            belief = found.marginals.where(weight[:, :, None] > 0, 0)
            part = torch.einsum("svkb,svjb,svb->svkj", belief, belief, weight)
            second = part if second is None else second + part
            if patterns is None:
                posteriors.append(belief)
        assert second is not None
        d = torch.stack([_pad(prior[v], second.shape[-1]) for v in group], dim=1)  # (S, V, K)
        scale = torch.where(d > 0, d.rsqrt(), torch.zeros_like(d))
        eigenvalue, eigenvector = torch.linalg.eigh(scale[..., None] * second * scale[..., None, :])
        square = eigenvalue[..., -2].clamp(0, 1)
        value[:, index] = square.sqrt()
        if patterns is None:  # first order: the square is the mean of (u^T D^-1/2 π)^2
            direction = scale * eigenvector[..., -2]
            q = torch.einsum("svk,svkb->svb", direction, torch.cat(posteriors, -1)).square()
            deviation = q.std(-1) / samples**0.5
            error[:, index] = deviation / (2 * value[:, index]).clamp_min(1e-12)
    return Ceiling(value, error)


def _groups(
    tables: Tables, nodes: np.ndarray, leaves: Leaves
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Places in `nodes` that are done together, and the leaves (numbered 0..X-1) each of them sees.

    Own leaves of the nodes of one level are disjoint, so nodes whose leaves have the same states
    share one enumeration.
    """
    topology = tables.topology
    first = topology.leaves.start
    if leaves == "all":
        return [(np.arange(len(nodes)), [np.arange(len(topology.leaves))])]
    keys: dict[tuple[object, ...], list[int]] = {}
    seen = []
    for i, v in enumerate(map(int, nodes)):
        below = topology.descendants(v)
        below = below[below >= first]
        seen.append(below - first)
        keys.setdefault((topology.level[v], *tables.cardinality[below]), []).append(i)
    return [(np.array(index), [seen[i] for i in index]) for index in keys.values()]


def _patterns(tables: Tables, seen: list[np.ndarray]) -> Tensor | None:
    """`(N, X)` all states of the leaves that one node of a group sees; None if they are too many."""
    cardinality = tables.cardinality[seen[0] + tables.topology.leaves.start]
    if np.log2(cardinality).sum() > np.log2(MAX_EXACT):
        return None
    return all_states(cardinality)


def _columns(
    tables: Tables,
    members: Sequence[int],
    patterns: Tensor | None,
    seen: list[np.ndarray],
    seed: int,
    samples: int,
) -> Iterator[Tensor]:
    """Leaf states `(S, X, B)` in chunks: every pattern at every node of a group, or samples."""
    chunk = max(CHUNK // (len(tables.flat) * int(tables.cardinality.sum())), 1)
    leaves = tables.topology.leaves
    if patterns is None:
        for start in range(0, samples, chunk):
            count = min(chunk, samples - start)
            yield sample(
                tables,
                members,
                count,
                seed=seed,
                start=start,
                stream=Stream.CEILING,
                first=leaves.start,
            ).states_SVB
        return
    for part in patterns.T.split(chunk, dim=1):
        columns = torch.full((1, len(leaves), part.shape[1]), MISSING)
        for own in seen:
            columns[0, own] = part
        yield columns.expand(len(tables.flat), -1, -1)


def _weights(log_evidence: Tensor, exact: bool, samples: int) -> Tensor:
    """`(S, V, B)` or `(S, 1, B)` weight of every column in an average over leaf states."""
    weight = log_evidence.exp() if exact else torch.full_like(log_evidence, 1 / samples)
    return weight if weight.ndim == 3 else weight[:, None]


def _pad(prior: Tensor, states: int) -> Tensor:
    return torch.nn.functional.pad(prior, (0, states - prior.shape[-1]))
