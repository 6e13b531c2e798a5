"""Tables drawn from a Dirichlet distribution, for a tree of any shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import gammaincinv, gammaln
from torch import Tensor

from hltm._memory import check_fits
from hltm.model.tables import MAX_STATES, Tables, check_probabilities
from hltm.model.topology import Topology
from hltm.sampling.philox import Stream, check_members, check_seed, uniform
from hltm.tree import LatentTree

Cardinality = int | Sequence[int] | np.ndarray | Mapping[str, int]


def random_tables(
    topology: Topology,
    *,
    cardinality: Cardinality = 2,
    concentration: float = 1.0,
    members: int | None = None,
    seed: int,
) -> LatentTree:
    """A tree of the given shape whose every row of every table is Dirichlet(α, …, α).

    At α = 1 a row is uniform over all distributions; below, closer to a deterministic rule; above,
    closer to uniform noise. The root's prior is drawn in the same way.

    Args:
        cardinality: states per node: one number for all, `(V,)` in storage order, or by name.
        concentration: α > 0.
        members: None for one tree, S for S independent ones over the topology.
        seed: of the tables, 64 bits.

    Raises:
        ValueError: a cardinality outside 2..65536 or missing, a concentration that is not positive
            and finite, a seed outside 64 bits.

    Example:
        >>> from hltm import Topology
        >>> star = Topology.from_parents({"centre": None, "a": "centre", "b": "centre"})
        >>> tree = random_tables(star, cardinality={"centre": 3, "a": 2, "b": 5}, seed=0)
        >>> tree.tables.of(2).shape, tree.tables.of(2).sum(-1).allclose(torch.ones(()).double())
        (torch.Size([1, 3, 5]), True)
    """
    states = check_cardinality(topology, cardinality)
    if not 0 < concentration < float("inf"):
        raise ValueError(f"concentration must be positive and finite, got {concentration}")
    addresses = range(check_members(members))
    rows = np.where(topology.parent < 0, 1, states[np.maximum(topology.parent, 0)])
    entries = int((rows * states).sum())
    size = 16.0 * entries * len(addresses)  # random numbers and tables
    check_fits("the tables", size, "lower nodes, states or members")
    numbers = uniform(
        entries, seed=check_seed(seed), stream=Stream.TABLES, members=addresses,
        node=0,
    )  # fmt: skip
    flat = _dirichlet(numbers, np.repeat(states, rows), concentration)
    tables = check_probabilities(Tables(topology, states, flat))
    return LatentTree(tables, tuple(addresses), members is not None)


def ends(what: str, given: Any) -> tuple[Any, Any]:
    """The ends of a range: those of a pair (low, high) of any kind, or one number as both.

    Raises:
        ValueError: neither one number nor two.
        TypeError: not numbers.
    """
    found = np.asarray(given)
    if found.shape not in ((), (2,)):
        raise ValueError(f"{what} must be one number or a pair (low, high), got {given!r}")
    if found.dtype.kind not in "iuf":
        raise TypeError(f"{what} must be one number or a pair of numbers, got {given!r}")
    low, high = np.broadcast_to(found, 2).tolist()
    return low, high


def check_cardinality(topology: Topology, cardinality: Cardinality) -> np.ndarray:
    """`(V,)` int64 states per node, from one number, one per node in storage order, or by name.

    Raises:
        ValueError: a node without a cardinality, an unknown node, or a number outside 2..65536.
    """
    if isinstance(cardinality, Mapping):
        unknown = cardinality.keys() - set(topology.names)
        missing = [name for name in topology.names if name not in cardinality]
        if unknown or missing:
            what = f"unknown node {min(unknown)!r}" if unknown else f"none for node {missing[0]!r}"
            raise ValueError(f"a cardinality must be given for every node, got {what}")
        cardinality = [cardinality[name] for name in topology.names]
    found = np.asarray(cardinality)
    if found.ndim == 0:
        found = np.full(len(topology), found)
    if found.shape != (len(topology),):
        raise ValueError(
            f"expected {len(topology)} cardinalities, one per node, got shape {found.shape}"
        )
    bad = np.flatnonzero(~((found >= 2) & (found <= MAX_STATES) & (found == np.floor(found))))
    if bad.size:
        name, states = topology.names[bad[0]], found[bad[0]]
        raise ValueError(f"node {name!r} has {states} state(s), expected 2..{MAX_STATES}")
    return found.astype(np.int64)


def _dirichlet(numbers: Tensor, width: np.ndarray, concentration: float) -> Tensor:
    """`(S, N)` probabilities: independent gamma variables, normalised over rows of these widths."""
    # The logarithms of gamma variables, by inversion: u = P(α, x), the regularised incomplete gamma
    # function. At α = 1 that is u = 1 - exp(-x).
    u = numbers.clamp_min(2.0**-54).numpy()  # u = 0 would give x = 0, whose logarithm is -inf
    if concentration == 1:
        log_gamma = np.log(-np.log1p(-u))
    else:
        gamma = gammaincinv(concentration, u)
        # where x underflows at a small α, P(α, x) = x^α / Γ(α + 1) to all digits
        small = (np.log(u) + gammaln(concentration + 1)) / concentration
        log_gamma = np.where(gamma > 1e-290, np.log(np.maximum(gamma, 1e-300)), small)
    start = np.cumsum(width) - width
    peak = np.repeat(np.maximum.reduceat(log_gamma, start, axis=1), width, axis=1)
    weight = np.exp(log_gamma - peak)
    total = np.repeat(np.add.reduceat(weight, start, axis=1), width, axis=1)
    return torch.from_numpy(weight / total)
