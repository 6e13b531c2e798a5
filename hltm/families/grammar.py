"""The strings of a Random Hierarchy Model: all of them, some by number, or some without repetition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._results import by_content
from hltm.families.random_hierarchy import check_sizes, production_rules, random_hierarchy
from hltm.model.topology import Topology
from hltm.sampling.permutation import permuted_choices
from hltm.tree import LatentTree

MAX_STRINGS = 1 << 20


@by_content
class Strings(NamedTuple):
    """Strings of a grammar and how they came about.

    Attributes:
        leaves: `(B, X)` int64, the symbols of each string.
        label: `(B,)` int64, the class that each string belongs to.
        states: `(B, V)` int64, the states of all nodes of `Grammar.tree`, in its storage order.
    """

    leaves: Tensor
    label: Tensor
    states: Tensor


@dataclass(frozen=True)
class Grammar:
    """The strings of `random_hierarchy` with the same arguments; only the rules are stored.

    A string is determined by its class and by the rule that every latent applies, and since no two
    (symbol, rule) pairs share a tuple, no two choices give the same string. So there are
    classes · m^(number of latents) strings, each with the same probability. Rules that follow Zipf's law make
    strings of different probability: draw those from `random_hierarchy(zipf=…)`.

    Args:
        v, m, s, L, classes, seed: as in `random_hierarchy`.

    Raises:
        TypeError, ValueError: as `random_hierarchy`.

    Example:
        >>> grammar = Grammar(v=3, m=2, s=2, L=2, classes=3, seed=0)
        >>> grammar.count, len(grammar.strings().leaves.unique(dim=0))
        (24, 24)
        >>> train, test = grammar.distinct(16, seed=1), grammar.distinct(8, seed=1, start=16)
        >>> len(torch.cat([train.leaves, test.leaves]).unique(dim=0))
        24
    """

    v: int
    m: int
    s: int
    L: int
    classes: int
    seed: int

    def __post_init__(self) -> None:
        sizes = check_sizes(self.v, self.m, self.s, self.L, self.classes)
        for name, size in zip(("v", "m", "s", "L", "classes"), sizes, strict=True):
            object.__setattr__(self, name, size)
        _ = self.rules

    @cached_property
    def rules(self) -> dict[int, Tensor]:
        """The production rules, as `production_rules` gives them."""
        return production_rules(
            v=self.v, m=self.m, s=self.s, L=self.L, classes=self.classes, seed=self.seed
        )

    @cached_property
    def tree(self) -> LatentTree:
        """The latent tree that draws strings with repetition, `random_hierarchy`."""
        return random_hierarchy(
            v=self.v, m=self.m, s=self.s, L=self.L, classes=self.classes, seed=self.seed
        )

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """How many choices a string is made of and their numbers: its class, then each latent's rule."""
        latents = sum(self.s**level for level in range(self.L))
        return (self.classes, *[self.m] * latents)

    @property
    def count(self) -> int:
        """The number of strings, classes · m^(number of latents); they may be astronomically many."""
        return self.classes * self.m ** (len(self.choices) - 1)

    def strings(self) -> Strings:
        """All strings, those of class 0 first, then by the rules of the latents in storage order.

        Raises:
            ValueError: more than 2^20 strings.
        """
        if self.count > MAX_STRINGS:
            raise ValueError(
                f"the grammar has {self.count:.4g} strings, more than the {MAX_STRINGS} that can be "
                "enumerated; distinct() draws some of them"
                if self.count < 1e300
                else f"the grammar has more than 1e300 strings, at most {MAX_STRINGS} can be enumerated"
            )
        grid = np.unravel_index(np.arange(self.count), self.choices)
        return self._derive(torch.from_numpy(np.stack(grid, axis=1)))

    def distinct(self, samples: int, *, seed: int, start: int = 0) -> Strings:
        """Strings drawn without repetition: numbers start .. start + samples - 1 of a random order.

        The order is a function of the grammar and the seed, so ranges that do not overlap, such as
        those of a training and a test set, have no string in common; see
        `hltm.sampling.permutation.permuted_choices`.

        Raises:
            ValueError: more strings than there are.
        """
        return self._derive(permuted_choices(self.choices, samples, seed=seed, start=start))

    def _derive(self, choices: Tensor) -> Strings:
        """The strings of `(B, 1 + latents)` choices, level by level from the root down."""
        topology = Topology.balanced(self.L, self.s)
        symbols = label = choices[:, :1]
        states = []
        for level in range(self.L, 0, -1):
            nodes = topology.at_level(level)
            rule = choices[:, 1 + nodes.start : 1 + nodes.stop]
            states.append(symbols * self.m + rule)
            symbols = self.rules[level][symbols, rule].flatten(1)  # (B, nodes, s) to (B, nodes · s)
        return Strings(symbols, label[:, 0], torch.cat([*states, symbols], dim=1))
