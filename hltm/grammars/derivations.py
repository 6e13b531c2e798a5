"""Strings drawn from a context-free grammar with their derivations, each at an address of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from hltm._results import by_content
from hltm.grammars.rules import Rules
from hltm.sampling.philox import Stream, check_seed, words_at

WORDS = 16  # random numbers of a row that are computed at a time
WORD = 1 << 32


class Constituent(NamedTuple):
    """A nonterminal of a derivation, over the tokens start .. stop - 1.

    Attributes:
        symbol: the nonterminal.
        rule: which of its rules is applied, from 0.
        start, stop: of its tokens; equal where it derives nothing.
        parent: the place of the constituent above it in the derivation; -1 for the start symbol.
    """

    symbol: str
    rule: int
    start: int
    stop: int
    parent: int


@by_content
class Sentences(NamedTuple):
    """Strings of a grammar, padded to one length, with their derivations.

    Attributes:
        tokens: `(B, T)` int64 numbers of terminals, -1 behind a string's end.
        length: `(B,)` int64.
        derivations: for every string its constituents, those above and to the left first.
        symbols: names of the nonterminals, by number.
    """

    tokens: Tensor
    length: Tensor
    derivations: tuple[tuple[Constituent, ...], ...]
    symbols: tuple[str, ...]

    def labels(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """`(B, N)` int64: what stands over spans (start, stop) of tokens start .. stop - 1.

        It is 1 + the number of a nonterminal, the highest where one stands above another, and 0 where a
        span is no constituent, so that labels are states to a probe.
        """
        number = {symbol: i for i, symbol in enumerate(self.symbols, 1)}
        found = torch.zeros(len(self.tokens), len(spans), dtype=torch.int64)
        for row, derivation in enumerate(self.derivations):
            highest: dict[tuple[int, int], int] = {}
            for part in derivation:
                highest.setdefault((part.start, part.stop), number[part.symbol])
            found[row] = torch.tensor([highest.get((first, stop), 0) for first, stop in spans])
        return found


def _in_one_line(found: Sentences) -> str:
    count, longest = found.tokens.shape
    few = ", ".join(map(repr, found.symbols[:3])) + ", …" * (len(found.symbols) > 3)
    return f"Sentences({count} strings of at most {longest} tokens, symbols {few})"


Sentences.__repr__ = _in_one_line  # type: ignore[method-assign, assignment]


def draw_sentences(
    rules: Rules,
    numbers: Mapping[str, int],
    least: Mapping[str, int],
    start: str,
    rows: Tensor,
    *,
    seed: int,
    max_length: int | None,
) -> Sentences:
    """The rows `(B,)` int64 of the strings of a seed; see `PCFG.sample`.

    Args:
        least: symbol -> the fewest tokens that it derives.
    """
    check_seed(seed)
    samples = len(rows)
    limits = {
        symbol: [x * WORD for x in accumulate(chance for _, chance in sides)]
        for symbol, sides in rules.items()
    }
    found: dict[int, tuple[list[int], list[Constituent]]] = {}
    waiting, attempt = list(range(samples)), 0
    while waiting:
        runs = {
            row: _Derivation(rules, limits, numbers, least, start, max_length) for row in waiting
        }
        node, open_rows = 0, waiting
        while open_rows:
            words = words_at(
                rows[open_rows], seed=seed, stream=Stream.DATA, members=[0], view=attempt,
                nodes=range(node, node + WORDS),
            )[0].T.tolist()  # fmt: skip
            for row, own in zip(open_rows, words, strict=True):
                runs[row].run(own)
            open_rows, node = [row for row in open_rows if runs[row].stack], node + WORDS
        found |= {row: (run.tokens, run.parts) for row, run in runs.items() if not run.too_long}
        waiting, attempt = [row for row in waiting if runs[row].too_long], attempt + 1
    length = torch.tensor([len(found[row][0]) for row in range(samples)], dtype=torch.int64)
    longest = max_length if max_length is not None else int(max(length.tolist(), default=0))
    tokens = torch.full((samples, longest), -1)
    for row in range(samples):
        tokens[row, : int(length[row])] = torch.tensor(found[row][0], dtype=torch.int64)
    derivations = tuple(tuple(found[row][1]) for row in range(samples))
    return Sentences(tokens, length, derivations, tuple(rules))


class _Derivation:
    """One leftmost derivation, which takes a random number for each nonterminal that it rewrites."""

    def __init__(
        self,
        rules: Rules,
        limits: Mapping[str, Sequence[float]],
        numbers: Mapping[str, int],
        least: Mapping[str, int],
        start: str,
        most: int | None,
    ) -> None:
        self.rules, self.limits, self.numbers = rules, limits, numbers
        self.least, self.most, self.needed = least, most, least[start]
        self.tokens: list[int] = []
        self.parts: list[Constituent] = []
        # symbols to rewrite with the place of their parent, the next one last; None ends a constituent
        self.stack: list[tuple[str | None, int]] = [(start, -1)]

    @property
    def too_long(self) -> bool:
        return self.most is not None and self.needed > self.most

    def run(self, words: Sequence[int]) -> None:
        """Go on until the numbers are used, the string is complete, or it is bound to be too long."""
        used = 0
        while self.stack:
            symbol, parent = self.stack[-1]
            if symbol is None:
                self.parts[parent] = self.parts[parent]._replace(stop=len(self.tokens))
            elif symbol in self.numbers:
                self.tokens.append(self.numbers[symbol])
            elif used == len(words):
                return
            else:
                limit = self.limits[symbol]
                rule = min(bisect_right(limit, words[used]), len(limit) - 1)
                right, used = self.rules[symbol][rule][0], used + 1
                here = len(self.parts)
                self.parts.append(Constituent(symbol, rule, len(self.tokens), -1, parent))
                self.needed += sum(self.least[x] for x in right) - self.least[symbol]
                if self.too_long:
                    self.stack = []
                    return
                self.stack[-1:] = [(None, here), *((x, here) for x in reversed(right))]
                continue
            self.stack.pop()
