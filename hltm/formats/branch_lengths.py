"""What the length of a branch says of its table (docs/theory.md, Section 4): two conventions, by name.

A symmetric table of K states has the probability `stay` on its diagonal and `change` elsewhere. Its
polarity is its second eigenvalue ρ = stay - change, for K = 2 the correlation of child and parent:

    stay = (1 + (K - 1) ρ) / K,   change = (1 - ρ) / K,   -1 / (K - 1) <= ρ <= 1

A branch of length t, whose states evolve at a rate r, has ρ = exp(-x), and x depends on the convention:

    expected-changes    x = K r t / (K - 1), so r t is the expected number of changes per site: the
                        model of Cavender, Farris and Neyman for K = 2, P(change) = (1 - exp(-2 r t)) / 2,
                        of Jukes and Cantor (1969) for K = 4, and Mk for any K (Lewis 2001, Systematic
                        Biology 50:913), stay = 1/K + (1 - 1/K) exp(-K r t / (K - 1))
    paralinear          x = r t / (K - 1), so r t = -log |det P|: -log |ρ| for K = 2

so a paralinear length is K times as long. The paralinear distance (Lake 1994, PNAS 91:1455) is defined
for any table P from a parent to a child with one number of states, D holding their priors:

    -log |det(D_parent^1/2 P D_child^-1/2)|

Lengths of both conventions add up along paths.
"""

from __future__ import annotations

import math
import re
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hltm.formats.newick_syntax import shown
from hltm.model.tables import MAX_STATES, Tables

Lengths = Literal["paralinear", "expected-changes"]
NUMBER = re.compile(
    r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)", re.IGNORECASE | re.ASCII
)
NEGLIGIBLE = 1e-6  # a length may lie below 0 by this much, which changes no probability by more
SYMMETRIC = 1e-12  # a symmetric table's entries may differ by this much


def check_convention(lengths: str, rate: float, states: int | None = None) -> None:
    """Raise an error unless lengths is a convention, rate is positive and states is a count.

    Raises:
        ValueError: naming the value and what was expected.
        TypeError: states that are no integer.
    """
    if lengths not in get_args(Lengths):
        raise ValueError(f"lengths must be 'paralinear' or 'expected-changes', got {lengths!r}")
    if not (hasattr(rate, "__float__") and 0 < rate < math.inf):
        raise ValueError(f"rate must be a positive number, got {rate!r}")
    if states is not None and not (hasattr(states, "__index__") and 2 <= states <= MAX_STATES):
        raise ValueError(f"states must be an integer in 2..{MAX_STATES}, got {states!r}")


def scale(lengths: Lengths, rate: float, states: int) -> float:
    """x / t of the module's formulas: ρ = exp(-x) of a branch of length t."""
    return rate * (states if lengths == "expected-changes" else 1) / (states - 1)


def change_of(length: float, lengths: Lengths, rate: float, states: int) -> float:
    """P(one other state | parent's state) of a branch's length.

    Example:
        >>> change_of(0.1, "expected-changes", 1.0, 2) == -math.expm1(-0.2) / 2
        True
    """
    # 1 - exp(-x) would lose the digits of a short branch
    return -math.expm1(-scale(lengths, rate, states) * length) / states


def entries_of(polarity: float, states: int) -> tuple[float, float]:
    """`stay` and `change` of a polarity."""
    return (1 + (states - 1) * polarity) / states, (1 - polarity) / states


def symmetric_tables(stay: np.ndarray, change: np.ndarray, states: int) -> Tensor:
    """`(V, K, K)` float64 tables with `stay` `(V,)` on the diagonals and `change` elsewhere."""
    found = np.repeat(change, states * states).reshape(-1, states, states)
    found[:, range(states), range(states)] = stay[:, None]
    return torch.from_numpy(found)


def symmetric_entries(tables: Tables) -> tuple[np.ndarray, np.ndarray] | str:
    """`stay` and `change` `(V - 1,)` of every node but the root, or why a table is not symmetric."""
    names, states = tables.topology.names, int(tables.cardinality[0])
    for v in np.flatnonzero(tables.cardinality != states)[:1]:
        return f"node {shown(names[v])} has {tables.cardinality[v]} states and the root {states}"
    flat = tables.flat[0].detach().cpu()
    if bool(((flat[:states] - 1 / states).abs() > SYMMETRIC).any()):
        return f"the prior of root {shown(names[0])} is not uniform"
    given = flat[states:].reshape(-1, states, states)
    stay, change = given[:, 0, 0].numpy(), given[:, 0, 1].numpy()
    off = (given - symmetric_tables(stay, change, states)).abs().flatten(1).amax(1) > SYMMETRIC
    for v in off.nonzero()[:1, 0].tolist():
        return f"the table of node {shown(names[v + 1])} is not symmetric"
    return stay, change


def symmetric_lengths(
    stay: np.ndarray, change: np.ndarray, lengths: Lengths, rate: float, states: int
) -> np.ndarray:
    """`(V,)` lengths of symmetric tables from |ρ|; infinite where ρ is 0."""
    rho = np.abs(stay - change)
    with np.errstate(divide="ignore"):
        # log1p keeps the digits of a short branch, whose |ρ| is 1 - K change (or for K = 2 and a
        # negative polarity 1 - 2 stay)
        small = states * (np.where(stay < change, stay, change) if states == 2 else change)
        near = (rho > 0.5) & (small < 0.5)
        found = np.where(near, -np.log1p(-np.where(near, small, 0)), -np.log(rho))
    return (np.maximum(found, 0) + 0.0) / scale(lengths, rate, states)


def paralinear_lengths(tables: Tables) -> np.ndarray | None:
    """`(V,)` paralinear lengths, infinite for the root and where singular; None for unequal K.

    In the log domain: priors are sums of exponentials, and the columns of a table are divided by their
    maxima before its determinant is taken, so entries down to 1e-308 neither vanish nor drain it.
    """
    if len(set(tables.cardinality.tolist())) > 1:
        return None
    found = np.full(len(tables.topology), math.inf)
    flat = Tables(tables.topology, tables.cardinality, tables.flat.detach())
    prior = torch.empty(len(found), int(tables.cardinality[0]), dtype=torch.float64)
    prior[0] = flat.of(0)[0, 0].log()
    for nodes in tables.groups[1:]:
        table, above = flat.of(nodes)[0], prior[tables.topology.parent[nodes]]
        own = torch.logsumexp(above[:, :, None] + table.log(), dim=1)
        prior[nodes] = own
        peak = table.amax(1, keepdim=True)
        whole = (peak > 0).all(-1)[:, 0] & own.isfinite().all(1) & above.isfinite().all(1)
        log_det = torch.linalg.slogdet(table / peak.where(peak > 0, 1)).logabsdet
        log_det = log_det + (peak.log().sum((1, 2)) + (above - own).sum(1) / 2)
        found[nodes] = (-log_det).where(whole, math.inf).numpy()
    return np.maximum(found, 0) + 0.0  # rounding may put a copy just below 0, or at -0.0
