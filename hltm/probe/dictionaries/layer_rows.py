"""The activations of one layer, batch by batch, to train a dictionary on and to hold out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import as_numbers, check_finite
from hltm.probe.batches import Label, batches, one_layer
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed
from hltm.tree import LatentTree

BATCH = 256  # rows of a step
HELD_OUT = 0.2  # of the rows, for what a dictionary explains
HELD = 1 << 26  # activations that are kept; with more, every pass asks the source again
LEAST = 10  # rows


class LayerRows:
    """Activations of one layer, as `(S, B, U)` batches of float32 or float64, blocks side by side.

    Args:
        source, tree, draw, samples, seed, batch_axis: as in `measure`.
        layer: which one; needed where the source has several.
    """

    def __init__(
        self, source: Any, tree: LatentTree, draw: Rowed | None, samples: int | None, seed: int | None,
        layer: Label | None, batch_axis: BatchAxis | None,
    ) -> None:  # fmt: skip
        self.asked = (source, tree, draw, samples, seed, 0, batch_axis)
        self.layer = layer
        whose = draw if draw is not None else source if hasattr(source, "stacked") else tree
        self.stacked = bool(whose.stacked)
        self.kept: list[Tensor] | None = None

    def pass_over(self) -> Iterator[Tensor]:
        """All batches once; they are kept if there are not too many.

        Raises:
            ValueError: several layers without a choice, another layer, activations that are not finite as
                float32, too few rows, or errors of `batches`.
        """
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[Tensor] | None = []
        size = 0
        for batch in batches(*self.asked):
            label = one_layer(batch.shown, self.layer)
            flat = batch.shown[label].flatten(1, -2)  # blocks of units side by side
            check_finite(flat, label)
            check_finite(flat.float(), label)  # too large for float32
            if flat.shape[-1] < LEAST:
                raise ValueError(f"a dictionary needs at least {LEAST} rows, got {flat.shape[-1]}")
            size += flat.numel()
            kept = [*kept, flat] if kept is not None and size <= HELD else None
            yield as_numbers(flat).mT
        self.kept = None if kept is None else [as_numbers(x).mT for x in kept]

    def parts(self, held_out: bool) -> Iterator[Tensor]:
        """The last fifth of every batch, or what stands before it."""
        for x in self.pass_over():
            cut = x.shape[1] - max(int(HELD_OUT * x.shape[1]), 1)
            yield x[:, cut:] if held_out else x[:, :cut]

    def minibatches(self, steps: int) -> Iterator[Tensor]:
        """`steps` batches of rows in order, pass after pass; every pass starts at other rows."""
        left, passes = steps, 0
        while left:
            for x in self.parts(held_out=False):
                size = min(BATCH, x.shape[1])
                shift = passes * 101 % x.shape[1]
                whole = x.roll(-shift, 1) if shift else x
                for part in whole.split(size, 1):
                    if part.shape[1] == size and left:
                        left -= 1
                        yield part
                if not left:
                    return
            passes += 1

    def all(self) -> Tensor:
        """`(S, B, U)` of all rows at once."""
        return torch.cat(list(self.pass_over()), 1)
