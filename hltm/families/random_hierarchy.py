"""The Random Hierarchy Model: a class is rewritten, level by level, by random production rules.

The letters v, m, s and L are those of Cagnetta et al. (arXiv 2307.02129): v symbols per level, m
production rules per symbol, s symbols on the right of a rule, L levels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm._memory import check_fits
from hltm.model.repeated_rows import RepeatedRows
from hltm.model.tables import MAX_STATES
from hltm.model.topology import Topology
from hltm.sampling.draw import Draw
from hltm.sampling.philox import Stream, check_members, check_seed, uniform
from hltm.tree import LatentTree

MAX_TUPLES = 1 << 53  # a uniform number has 53 bits


def random_hierarchy(
    *,
    v: int,
    m: int,
    s: int,
    L: int,
    classes: int,
    zipf: float = 0.0,
    zipf_level: int | None = None,
    members: int | None = None,
    seed: int,
) -> LatentTree:
    """The Random Hierarchy Model of Cagnetta et al. (arXiv 2307.02129, Section 2).

    A class label is replaced by s symbols, each of these by s more, L times. Every symbol has m
    synonymous production rules, chosen uniformly each time, or by Zipf's law; the rules of a level are
    drawn once, uniformly among those that are unambiguous: no two (symbol, rule) pairs share a tuple. Here a
    latent's state is symbol * m + rule, so that the model is an ordinary latent tree: posteriors are
    exact and the data set is endless. `symbols` extracts the symbols from a draw. A leaf's state is
    its symbol.

    Args:
        v: symbols per level.
        m: production rules per symbol.
        s: branching, the length of a rule's tuple.
        L: depth, levels of rules.
        classes: symbols of the root.
        zipf: exponent of Zipf's law: rule r = 0, 1, … of a symbol is chosen with probability proportional to
            (r + 1)^-zipf; 0 chooses uniformly. In Cagnetta et al. (arXiv 2505.07067) the exponent is 1 + a.
        zipf_level: the level of the symbols whose rules follow it, 1 above the leaves to L at the root, as
            that paper has it for one level; None for all levels.
        members: None for one tree, S for S independent sets of rules over one topology.
        seed: of the rules, 64 bits.

    Raises:
        TypeError: numbers that are not integers.
        ValueError: v or classes below 2, m, s or L below 1, zipf below 0 or not finite, no such level,
            more (symbol, rule) pairs than there are tuples, more than 65536 states.

    Example:
        >>> tree = random_hierarchy(v=8, m=4, s=2, L=3, classes=8, seed=0)
        >>> tree
        LatentTree(15 nodes, 8 leaves, depth 3, 8..32 states)
        >>> draw = tree.sample(1000, seed=1)
        >>> label, below = symbols(draw, m=4, level=3), symbols(draw, m=4, level=2)
        >>> label.shape, below.shape, int(label.max())
        (torch.Size([1000, 1]), torch.Size([1000, 2]), 7)
    """
    v, m, s, L, classes = check_sizes(v, m, s, L, classes)
    weight = rule_weights(m=m, L=L, zipf=zipf, zipf_level=zipf_level)
    rules = production_rules(v=v, m=m, s=s, L=L, classes=classes, members=members, seed=seed)
    topology = Topology.balanced(L, s)
    count = check_members(members)
    cardinality = np.where(topology.level == 0, v, v * m)
    cardinality[0] = classes * m
    prior = (weight[L] / (weight[L].sum() * classes)).repeat(classes)[None]
    distinct, rank = [prior], [torch.zeros(count, 1, dtype=torch.int64)]
    for level in range(L - 1, -1, -1):
        tuples = rules[level + 1] if members is not None else rules[level + 1][None]
        # a child's row depends on its symbol alone, whatever the (symbol, rule) pair above
        rows = _symbol_rows(v, weight[level] if level > 0 else torch.ones(1, dtype=torch.float64))
        place = list(tuples.flatten(1, 2).unbind(-1))  # the symbol of child j, for each pair
        parents = len(topology.at_level(level)) // s
        distinct += [rows] * (parents * s)
        rank += place * parents
    tables = RepeatedRows(topology, cardinality, distinct, rank)
    return LatentTree(tables, tuple(range(count)), members is not None)


def production_rules(
    *, v: int, m: int, s: int, L: int, classes: int, members: int | None = None, seed: int
) -> dict[int, Tensor]:
    """The rules of `random_hierarchy` with the same arguments, per level of the symbols rewritten.

    Returns:
        level -> int64 `(symbols, m, s)` or `(S, symbols, m, s)`: rule r of symbol a puts symbol
        `rules[level][a, r, j]` at child j. Levels run from L, the root's classes, down to 1.

    Raises:
        ValueError: as `random_hierarchy`.

    Example:
        >>> production_rules(v=2, m=2, s=2, L=1, classes=2, seed=0)[1].tolist()
        [[[0, 0], [0, 1]], [[1, 1], [1, 0]]]
    """
    v, m, s, L, classes = check_sizes(v, m, s, L, classes)
    addresses = range(check_members(members))
    found = {}
    for level in range(L, 0, -1):
        symbols = classes if level == L else v
        numbers = uniform(
            symbols * m, seed=check_seed(seed), stream=Stream.TABLES, members=addresses, node=level
        )
        chosen = np.array([_distinct(row, v**s) for row in numbers.tolist()])
        digits = chosen[..., None] // v ** np.arange(s - 1, -1, -1) % v
        tuples = torch.from_numpy(digits).unflatten(1, (symbols, m))
        found[level] = tuples if members is not None else tuples[0]
    return found


def rule_weights(
    *, m: int, L: int, zipf: float = 0.0, zipf_level: int | None = None
) -> dict[int, Tensor]:
    """Level 1..L of the symbols rewritten -> `(m,)` float64 weights of each symbol's rules, (r + 1)^-zipf.

    Args:
        m, L, zipf, zipf_level: as in `random_hierarchy`.

    Raises:
        TypeError: zipf that is no number, or a level that is no integer.
        ValueError: zipf below 0 or not finite, or no such level.

    Example:
        >>> {level: w.tolist() for level, w in rule_weights(m=2, L=2, zipf=1, zipf_level=1).items()}
        {1: [1.0, 0.5], 2: [1.0, 1.0]}
    """
    if isinstance(zipf, bool) or not hasattr(zipf, "__float__"):
        raise TypeError(f"zipf must be a number, got {zipf!r:.60}")
    if not 0 <= zipf < float("inf"):
        raise ValueError(f"zipf must be at least 0 and finite, got {zipf!r:.60}")
    if zipf_level is not None:
        zipf_level = as_integer("zipf_level", zipf_level, 1, L)
    law = torch.arange(1, m + 1, dtype=torch.float64) ** -float(zipf)
    return {v: law if zipf_level in (None, v) else law**0 for v in range(1, L + 1)}


def symbols(draw: Draw, *, m: int, level: int | None = None) -> Tensor:
    """The symbols of a draw from `random_hierarchy`, whose latent states are symbol * m + rule.

    Args:
        m: production rules per symbol, as in the draw's tree.
        level: the level of the nodes; None for all kept nodes in storage order.

    Returns:
        `(B, V)` or `(S, B, V)`, of the states' dtype: state // m of latents, the state of leaves.

    Raises:
        TypeError: no draw.
        ValueError: m below 1, no such level, or nodes that the draw did not keep. Another m than that of
            the tree cannot be recognised.
    """
    if m < 1:
        raise ValueError(f"m must be at least 1, got {m}")
    if not hasattr(draw, "level"):
        raise TypeError(
            f"expected a draw, got {type(draw).__name__}; of an exported folder give data.draw(slice(0, 100))"
        )
    states = draw.states if level is None else draw.level(level)
    if level == 0 or m == 1:
        return states
    leaves = max(draw.topology.leaves.start - draw.first, 0) if level is None else states.shape[-1]
    found = states.to(torch.int64)
    found[..., :leaves] //= m
    return found.to(states.dtype)


def check_sizes(v: int, m: int, s: int, L: int, classes: int) -> tuple[int, int, int, int, int]:
    """The arguments, of any type of integer, as ints.

    Raises:
        TypeError: not integers.
        ValueError: numbers that do not allow unambiguous rules.
    """
    # numpy's integers of a few bits would overflow
    v, classes = as_integer("v", v, 2), as_integer("classes", classes, 2)
    m, s, L = as_integer("m", m, 1), as_integer("s", s, 1), as_integer("L", L, 1)
    tuples = v**s
    rewritten = {"classes": classes, "v": v} if L > 1 else {"classes": classes}
    for what, count in rewritten.items():
        if count * m > tuples:
            raise ValueError(
                f"unambiguous rules need {what} * m = {count * m} different tuples, one per (symbol, "
                f"rule) pair, but there are only v**s = {tuples} tuples"
            )
        if count * m > MAX_STATES:
            raise ValueError(f"{what} * m = {count * m} states, expected at most {MAX_STATES}")
    check_fits("tables of symbols by rules", 8.0 * v * v * m, "lower v or m")
    if tuples > MAX_TUPLES:
        raise ValueError(f"there are v**s = {tuples} tuples, expected at most 2^53")
    return v, m, s, L, classes


def _distinct(numbers: list[float], count: int) -> list[int]:
    """Different integers below `count` in uniformly random order, one per uniform number.

    The first steps of a Fisher-Yates shuffle of 0 .. count - 1; the array is a dictionary of the
    entries that have moved, since `count` may be huge.
    """
    moved: dict[int, int] = {}
    found = []
    for i, u in enumerate(numbers):
        j = i + int(u * (count - i))
        found.append(moved.get(j, j))
        moved[j] = moved.pop(i, i)
    return found


def _symbol_rows(v: int, weight: Tensor) -> Tensor:
    """`(v, v * m)` P(child's state | its symbol), from the weights `(m,)` of a symbol's rules."""
    return torch.kron(torch.eye(v, dtype=torch.float64), weight / weight.sum())
