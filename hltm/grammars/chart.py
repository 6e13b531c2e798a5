"""Inside probabilities of a context-free grammar: a chart over the spans of strings, in logarithms.

The chart has, for every symbol and width w, a tensor `(B, T - w + 1)` over the first place of the span.
A right-hand side X Y Z is split into X and the rest Y Z, at every place. Rules without symbols and of one
symbol need no special case: what derives the same span is computed first, in an order that exists since
`PCFG` refuses cycles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

IMPOSSIBLE = -1e30  # log 0 whose differences are numbers, so that gradients are too


class Chart:
    """The logarithms of inside probabilities of all symbols on all spans of some strings.

    Args:
        rules: symbol -> right-hand sides and their log-probabilities.
        numbers: terminal -> its number in `tokens`.
        least: symbol or terminal -> the fewest tokens that it derives.
        tokens: `(B, T)` int64; None for strings of T terminals of any kind, B = 1.
        length: T, where there are no tokens.
        counted: whether every entry has an addend of 0 that gradients are taken to. By the chain rule the
            derivative of log P(string) by it is the expected number of times that the derivation has the
            symbol on the span: the outside pass (Eisner 2016, doi 10.18653/v1/W16-5901).
    """

    def __init__(
        self,
        rules: Mapping[str, Sequence[tuple[tuple[str, ...], float]]],
        numbers: Mapping[str, int],
        least: Mapping[str, int],
        tokens: Tensor | None,
        *,
        length: int = 0,
        counted: bool = False,
    ) -> None:
        self.rules, self.numbers, self.least = rules, numbers, least
        self.tokens, self.counted = tokens, counted
        self.batch, self.length = (1, length) if tokens is None else tuple(tokens.shape)
        self.known: dict[tuple[tuple[str, ...], int], Tensor | None] = {}
        self.addends: dict[tuple[str, int], Tensor] = {}
        for width in range(self.length + 1):  # narrow spans first, so that recursion stays shallow
            for symbol in rules:
                self.of((symbol,), width)

    def of(self, symbols: tuple[str, ...], width: int) -> Tensor | None:
        """`(B, T - width + 1)` log P(symbols derive the span); None where they derive no such width."""
        if (symbols, width) not in self.known:
            fits = width >= self._least(symbols)
            self.known[symbols, width] = self._found(symbols, width) if fits else None
        return self.known[symbols, width]

    def _found(self, symbols: tuple[str, ...], width: int) -> Tensor | None:
        if not symbols:
            nothing = torch.zeros(self.batch, self.length + 1, dtype=torch.float64)
            return nothing if width == 0 else None
        if len(symbols) > 1:
            return _sum(self._splits(symbols[:1], symbols[1:], width))
        if symbols[0] not in self.rules:
            return self._terminal(symbols[0]) if width == 1 else None
        found = _sum(
            [
                below + chance
                for right, chance in self.rules[symbols[0]]
                if (below := self.of(right, width)) is not None
            ]
        )
        if found is None or not self.counted:
            return found
        addend = self.addends[symbols[0], width] = torch.zeros_like(found, requires_grad=True)
        return found + addend

    def _terminal(self, terminal: str) -> Tensor:
        if self.tokens is None:
            return torch.zeros(1, self.length, dtype=torch.float64)
        hit = self.tokens == self.numbers[terminal]
        return torch.where(hit, 0.0, IMPOSSIBLE).double()

    def _splits(self, first: tuple[str, ...], rest: tuple[str, ...], width: int) -> list[Tensor]:
        """Both parts of the span, for every place between them that leaves both enough."""
        found, count = [], self.length - width + 1
        for k in range(self._least(first), width - self._least(rest) + 1):
            left, right = self.of(first, k), self.of(rest, width - k)
            if left is not None and right is not None:
                found.append(left[:, :count] + right[:, k : k + count])
        return found

    def _least(self, symbols: tuple[str, ...]) -> int:
        return sum(self.least[x] for x in symbols)


def _sum(parts: Sequence[Tensor]) -> Tensor | None:
    """The logarithm of the sum of probabilities; None of none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return torch.logsumexp(torch.stack(list(parts)), 0)
