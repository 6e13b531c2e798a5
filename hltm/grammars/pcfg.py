"""Probabilistic context-free grammars: strings of any length, their probabilities and their constituents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm.grammars.chart import IMPOSSIBLE, Chart
from hltm.grammars.derivations import Sentences, draw_sentences
from hltm.grammars.fixed_shape import fixed_shape_tree
from hltm.grammars.rules import (
    Sides,
    expected_symbols,
    least_tokens,
    refuse_cycles,
    refuse_infinite,
    right_sides,
)
from hltm.grammars.text import parse_rules, write_rules
from hltm.tree import LatentTree

GivenRules = Mapping[str, Mapping[Sequence[str], float] | Iterable[tuple[Sequence[str], float]]]
CHUNK = 1 << 22  # numbers of a chart that are held at a time
RARE = 1e-4  # strings short enough must be at least as probable as this to be drawn by rejection


@dataclass(frozen=True, init=False, repr=False)
class PCFG:
    """A probabilistic context-free grammar; symbols without rules are its terminals.

    A right-hand side may have any number of symbols, also one or none, and a string any number of
    derivations. Probabilities of strings are exact, by the inside algorithm (Baker 1979, Lari and Young
    1990, doi 10.1016/0885-2308(90)90022-X), in O(T³) for T tokens.

    Args:
        rules: symbol -> right-hand side (a tuple of names) -> probability, or pairs of both.
        start: the start symbol; by default the first one.

    Attributes:
        rules: (symbol, its right-hand sides with their probabilities), in order.
        symbols, terminals: names by number, each in the order in which they first stand in the rules.

    Raises:
        TypeError: right-hand sides that are no sequences of names.
        ValueError: no rules, probabilities outside (0, 1] or whose sum over a symbol is not 1 to 1e-6, a
            rule given twice, an unknown start symbol; a cycle of rules that derive a symbol from itself
            alone, so that a string has infinitely many derivations; or strings of infinite expected length.

    Example:
        >>> grammar = PCFG.from_text("S -> S S [0.25] | 'a' [0.75]")
        >>> grammar.log_prob([["a"], ["a", "a", "a"]]).exp()  # 3/4, and 2 derivations of 1/16 · 27/64
        tensor([0.7500, 0.0527], dtype=torch.float64)
        >>> grammar.expected_length, grammar.length_probabilities(3)
        (1.5, tensor([0.0000, 0.7500, 0.1406, 0.0527], dtype=torch.float64))
        >>> grammar.sample(4, seed=0).length
        tensor([1, 1, 1, 1])
    """

    rules: tuple[tuple[str, Sides], ...]
    start: str

    def __init__(
        self, rules: GivenRules | tuple[tuple[str, Sides], ...], start: str | None = None
    ) -> None:
        given: Any = rules
        if isinstance(given, str):
            raise TypeError("rules must be a mapping; PCFG.from_text reads a grammar's text")
        given = dict(given)
        if not given:
            raise ValueError("the grammar has no rules")
        own = tuple(
            (str(symbol), right_sides(str(symbol), sides)) for symbol, sides in given.items()
        )
        object.__setattr__(self, "rules", own)
        object.__setattr__(self, "start", own[0][0] if start is None else start)
        if self.start not in self._sides:
            raise ValueError(f"the start symbol {start!r:.60} has no rule")
        refuse_cycles(self._sides)
        refuse_infinite(self._sides)

    @classmethod
    def from_text(cls, text: str) -> PCFG:
        """A grammar from lines such as `S -> NP VP [0.7] | 'go' [0.3]`; terminals are in quotes.

        The start symbol is that of the first line, or of a line `%start S`. `#` begins a comment.

        Raises:
            ValueError: also a line that cannot be read, which the error names.
        """
        return cls(*parse_rules(text))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PCFG:
        """A grammar from a file of `from_text`'s notation.

        Raises:
            OSError: a file that cannot be read.
            ValueError: as `from_text`, or a file that is no text.
        """
        try:
            return cls.from_text(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(path)!r} is no text file in UTF-8") from error

    def to_text(self) -> str:
        """The text that `from_text` reads back as an equal grammar."""
        return write_rules(self._sides, self.start)

    @cached_property
    def _sides(self) -> dict[str, Sides]:
        return dict(self.rules)

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Names of the nonterminals by number."""
        return tuple(self._sides)

    @cached_property
    def terminals(self) -> tuple[str, ...]:
        """Names of the terminals by number: what a token's number stands for."""
        every = (x for _, sides in self.rules for right, _ in sides for x in right)
        return tuple(dict.fromkeys(x for x in every if x not in self._sides))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {terminal: i for i, terminal in enumerate(self.terminals)}

    @cached_property
    def _logs(self) -> dict[str, list[tuple[tuple[str, ...], float]]]:
        return {x: [(right, float(np.log(p))) for right, p in sides] for x, sides in self.rules}

    def __repr__(self) -> str:
        count = sum(len(sides) for _, sides in self.rules)
        return f"PCFG({count} rules, {len(self.symbols)} symbols, {len(self.terminals)} terminals)"

    @cached_property
    def expected_length(self) -> float:
        """The expected number of tokens of a string: x = t + M x, with M the expected numbers of symbols
        that a rule puts in place of another, and t those of terminals."""
        own = [
            sum(p * sum(x not in self._sides for x in right) for right, p in y)
            for _, y in self.rules
        ]
        found = np.linalg.solve(np.eye(len(own)) - expected_symbols(self._sides), np.array(own))
        return float(found[self.symbols.index(self.start)])

    @cached_property
    def _least(self) -> dict[str, int]:
        return least_tokens(self._sides)

    def encode(self, strings: Any) -> Tensor:
        """`(B, T)` int64 numbers of terminals, -1 behind the end of strings of names, or as they are given.

        Args:
            strings: sequences of names, or integers `(B, T)`, padded with -1.

        Raises:
            ValueError: an unknown terminal, a number out of range, or a token behind the end.
        """
        if isinstance(strings, (Tensor, np.ndarray)):
            found = torch.as_tensor(strings)
            if found.ndim != 2 or found.is_floating_point():
                shape = tuple(found.shape)
                raise ValueError(f"tokens must be integers (B, T), got {found.dtype} {shape}")
            found = found.long()
            gone = found == -1
            if bool(((found < -1) | (found >= len(self.terminals))).any()):
                low, high = int(found.min()), int(found.max())
                raise ValueError(
                    f"tokens are {low}..{high}, expected 0..{len(self.terminals) - 1}, or -1"
                )
            if bool((gone[:, :-1] & ~gone[:, 1:]).any()):
                raise ValueError("a string has -1 before its last token; -1 stands behind its end")
            return found
        rows = []
        for string in strings:
            if isinstance(string, str):
                raise ValueError(
                    f"a string is a sequence of terminals, got the text {string!r:.60}"
                )
            unknown = [x for x in string if x not in self._numbers]
            if unknown:
                raise ValueError(f"the grammar has no terminal {unknown[0]!r:.60}")
            rows.append([self._numbers[x] for x in string])
        longest = max(map(len, rows), default=0)
        padded = [row + [-1] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest)

    def decode(self, tokens: Tensor) -> list[tuple[str, ...]]:
        """The terminals of strings `(B, T)`, without what is behind their ends."""
        return [
            tuple(self.terminals[x] for x in row if x >= 0) for row in self.encode(tokens).tolist()
        ]

    def log_prob(self, strings: Any) -> Tensor:
        """`(B,)` float64 log P(string), in nats, over all derivations; -inf for what is no string.

        Args:
            strings: as `encode`.
        """
        found = [self._evidence(rows)[0] for rows in self._chunks(strings)]
        logs = torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)
        return logs.masked_fill(logs < IMPOSSIBLE / 2, -torch.inf)

    def posterior(self, strings: Any, spans: Sequence[tuple[int, int]]) -> Tensor:
        """`(B, N, M)` float64: how often each of M nonterminals stands over each of N spans, on average.

        The expectation is over the derivations of the string. For a span (start, stop) with start < stop
        it is the probability that the symbol is a constituent there; what is missing to 1 in their sum is
        that of no constituent, and more than 1 is of symbols above each other. NaN for what is no string.

        Args:
            strings: as `encode`.
            spans: places (start, stop) of tokens start .. stop - 1.

        Raises:
            ValueError: a span outside of the strings.

        Example:
            >>> grammar = PCFG.from_text("S -> S S [0.25] | 'a' [0.75]")
            >>> grammar.posterior([["a", "a", "a"]], [(0, 2), (0, 3)])[0, :, 0]
            tensor([0.5000, 1.0000], dtype=torch.float64)
        """
        tokens = self.encode(strings)
        for start, stop in spans:
            if not 0 <= start <= stop <= tokens.shape[1]:
                raise ValueError(
                    f"span ({start}, {stop}) is not within the {tokens.shape[1]} tokens of a string"
                )
        parts = [torch.zeros(0, len(spans), len(self.symbols), dtype=torch.float64)]
        for rows in self._chunks(tokens):
            with torch.enable_grad():
                logs, chart = self._evidence(rows, counted=True)
                keys = list(chart.addends)
                grads = torch.autograd.grad(
                    logs.sum(), [chart.addends[key] for key in keys], allow_unused=True
                )
            found = torch.zeros(len(rows), len(spans), len(self.symbols), dtype=torch.float64)
            by_key = dict(zip(keys, grads, strict=True))
            for i, (start, stop) in enumerate(spans):
                for j, symbol in enumerate(self.symbols):
                    counts = by_key.get((symbol, stop - start))
                    if counts is not None:
                        found[:, i, j] = counts[:, start]
            found[logs.detach() < IMPOSSIBLE / 2] = torch.nan
            parts.append(found)
        return torch.cat(parts)

    def length_probabilities(self, longest: int) -> Tensor:
        """`(longest + 1,)` float64 P(a string has 0, 1, … tokens), exactly."""
        longest = as_integer("longest", longest, 0)
        chart = Chart(self._logs, self._numbers, self._least, None, length=longest)
        found = [chart.of((self.start,), width) for width in range(longest + 1)]
        return torch.stack(
            [torch.zeros(()).double() if x is None else x[0, 0].exp() for x in found]
        )

    def sample(
        self, samples: int, *, seed: int, start: int = 0, max_length: int | None = None
    ) -> Sentences:
        """Strings with their derivations: rows start .. start + samples - 1 of the strings of a seed.

        Row i is a function of the grammar, the seed and i alone (`hltm.sampling.philox`): the n-th symbol
        that its leftmost derivation rewrites takes the random number of node n.

        Args:
            samples, seed, start: as `LatentTree.sample`.
            max_length: draw each row again until it has at most so many tokens, and pad to so many: the
                distribution is that of strings given their length. By default all are as long as the longest.

        Raises:
            ValueError: a max_length that strings of probability below 1e-4 have.
        """
        rows = torch.arange(as_integer("samples", samples, 0)) + as_integer("start", start, 0)
        if max_length is not None:
            self.check_length(max_length)
        return self.sample_rows(rows, seed=seed, max_length=max_length)

    def sample_rows(self, rows: Tensor, *, seed: int, max_length: int | None = None) -> Sentences:
        """As `sample`, of the rows `(B,)` int64 of any numbers; a max_length has passed `check_length`."""
        return draw_sentences(
            self._sides,
            self._numbers,
            self._least,
            self.start,
            rows,
            seed=seed,
            max_length=max_length,
        )

    def check_length(self, longest: int) -> None:
        """Raise unless strings of at most `longest` tokens are probable enough to be drawn by rejection.

        Raises:
            ValueError: their probability is below 1e-4.
        """
        short = float(self.length_probabilities(longest).sum())
        if short < RARE:
            raise ValueError(
                f"strings of at most {longest} tokens have probability {short:.2g}, expected at "
                f"least {RARE}; the expected length is {self.expected_length:.4g}"
            )

    def to_tree(self) -> LatentTree:
        """The grammar as a latent tree, exactly, where all derivations have one shape.

        A latent's state is its symbol together with the rule that it applies, in the order of `symbols` and
        of the rules, of those that can stand there; a leaf's is the number of its terminal. Leaf i is named
        `token i`, in the order of the string. Nodes with a single state get a second one that never occurs.

        Raises:
            ValueError: derivations of different shapes; the error names the first rule that prevents it.

        Example:
            >>> PCFG.from_text("S -> A A [0.5] | A B [0.5]\\nA -> 'a' [1]\\nB -> 'b' [1]").to_tree()
            LatentTree(5 nodes, 2 leaves, depth 2, 2 states)
        """
        return fixed_shape_tree(self._sides, self.terminals, self.start)

    def _chunks(self, strings: Any) -> Sequence[Tensor]:
        """Strings `(B, T)` so many at a time that their charts fit in memory."""
        tokens = self.encode(strings)
        suffixes = {
            right[i:] for _, sides in self.rules for right, _ in sides for i in range(len(right))
        }
        size = (tokens.shape[1] + 1) ** 2 * (len(suffixes) + len(self.symbols))
        return tokens.split(max(CHUNK // size, 1)) if len(tokens) else []

    def _evidence(self, tokens: Tensor, *, counted: bool = False) -> tuple[Tensor, Chart]:
        """`(B,)` log P(string), and the chart."""
        chart = Chart(self._logs, self._numbers, self._least, tokens, counted=counted)
        nothing = torch.full((len(tokens),), IMPOSSIBLE, dtype=torch.float64)
        by_length = [chart.of((self.start,), width) for width in range(tokens.shape[1] + 1)]
        ends = torch.stack([nothing if x is None else x[:, 0] for x in by_length])
        return ends.gather(0, (tokens >= 0).sum(1)[None])[0], chart
