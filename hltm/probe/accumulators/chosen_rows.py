"""A random choice of the rows of a stream."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hltm.probe.accumulators.histogram import BUFFER


class ChosenRows:
    """A random choice of `BUFFER` rows, or all of them where there are no more.

    It does not depend on how rows are batched (Vitter 1985, algorithm R, with a seed of its own).
    """

    def __init__(self) -> None:
        self.samples, self.random = 0, np.random.default_rng(0)
        self.parts: list[tuple[Tensor, Tensor]] = []

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch: activations `(…, U, B)` and targets `(…, T, B)`."""
        start, count = self.samples, activations.shape[-1]
        self.samples += count
        kept = min(max(BUFFER - start, 0), count)
        if kept:
            self.parts.append((activations[..., :kept].clone(), targets[..., :kept].clone()))
        if kept == count:
            return
        number = np.arange(start + kept, start + count)
        place = (self.random.random(len(number)) * (number + 1)).astype(np.int64)
        last = {int(p): i for i, p in enumerate(place, start=kept) if p < BUFFER}
        if last:
            where, which = (
                torch.tensor(list(x), device=targets.device) for x in (last, last.values())
            )
            for held, new in zip(self.rows(), (activations, targets), strict=True):
                held[..., where] = new[..., which].to(held.dtype)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Activations and targets."""
        if len(self.parts) > 1:
            a, z = (torch.cat(part, -1) for part in zip(*self.parts, strict=True))
            self.parts = [(a, z)]
        return self.parts[0]
