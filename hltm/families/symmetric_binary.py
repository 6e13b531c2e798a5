"""Symmetric binary trees, the SB-HLTM of arXiv 2010.00578: every edge has one number, its polarity."""

from __future__ import annotations

import numpy as np
import torch

from hltm._memory import check_fits
from hltm.families.random_tables import ends
from hltm.model.tables import Tables, symmetric_table
from hltm.model.topology import Topology
from hltm.sampling.philox import Stream, check_members, check_seed, uniform
from hltm.tree import LatentTree

SIGNS = ("random", "positive")


def symmetric_binary(
    depth: int,
    branching: int = 2,
    *,
    polarity: tuple[float, float] | list[float] | float = (0.7, 1.0),
    signs: str = "random",
    members: int | None = None,
    seed: int,
) -> LatentTree:
    """A balanced tree of binary nodes with P(z_child = s' | z_parent = s) = (1 + ρ s s') / 2.

    The root is uniform. An edge's polarity ρ has magnitude uniform in [low, high] and, with
    random signs, either sign with equal chance (docs/theory.md, Section 4).

    Args:
        depth: levels below the root.
        branching: children per latent.
        polarity: (low, high) within [0, 1], the range of |ρ|; or one magnitude for all edges.
        signs: `random` or `positive`.
        members: None for one tree, S for S independent ones over one topology.
        seed: of the polarities, 64 bits.

    Raises:
        ValueError: low above high, magnitudes outside [0, 1], unknown signs, a depth or branching
            below 1.

    Example:
        >>> tree = symmetric_binary(depth=5, polarity=(0.7, 1.0), seed=0)
        >>> tree
        LatentTree(63 nodes, 32 leaves, depth 5, 2 states)
        >>> bool((tree.polarity[1:].abs() >= 0.7).all())
        True
    """
    low, high = ends("polarity", polarity)
    if not 0 <= low <= 1 or not 0 <= high <= 1:
        raise ValueError(f"polarities must be in [0, 1], got ({low}, {high})")
    if low > high:
        raise ValueError(f"the lowest polarity must not exceed the highest, got ({low}, {high})")
    if signs not in SIGNS:
        raise ValueError(f"signs must be one of {', '.join(SIGNS)}, got {signs!r}")
    topology = Topology.balanced(depth, branching)
    addresses = range(check_members(members))
    edges = len(topology) - 1
    size = 64.0 * edges * len(addresses)  # two numbers and a table of four, twice
    check_fits("the tables", size, "lower depth, branching or members")
    numbers = [
        uniform(edges, seed=check_seed(seed), stream=Stream.TABLES, members=addresses, node=i)
        for i in range(2)  # magnitudes, then signs
    ]
    rho = low + (high - low) * numbers[0]
    if signs == "random":
        rho = torch.where(numbers[1] < 0.5, -rho, rho)
    prior = torch.full((len(addresses), 2), 0.5, dtype=torch.float64)
    flat = torch.cat([prior, symmetric_table(rho).flatten(1)], dim=1)
    tables = Tables(topology, np.full(len(topology), 2), flat)
    return LatentTree(tables, tuple(addresses), members is not None)
