"""What the rows of any source of data have in common, and epochs over a fixed data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dualnets.methods.protocol import Batch, Needs
from hltm.sampling.philox import MAX_VIEWS, Stream, uniform


@dataclass(frozen=True)
class Rows(ABC):
    """The samples that an ensemble is trained on, batch by batch.

    Every row has an address (seed, stream, member, view, row number), so the rows of any steps can be
    drawn at any time, and all networks and methods read the same rows at the same step.

    Attributes:
        source: what the rows are drawn from.
        members: the numbers of the S members, a part of the address of their rows.
        augment: what a view changes.
        batch: B, samples per step and member.
        seed: 64 bits.
        stacked: whether batches have the S axis.
        device: where to draw.
    """

    source: Any
    members: tuple[int, ...]
    augment: Any
    batch: int
    seed: int
    stacked: bool
    device: torch.device
    input_name: ClassVar[str] = "inputs"  # what the X numbers of a sample are, in words
    dtype: ClassVar[torch.dtype] = torch.uint8  # of the leaves of a batch, or of no more bytes

    @property
    @abstractmethod
    def inputs(self) -> int:
        """X, the numbers of a sample that a network reads."""

    @property
    def drawn_by_device(self) -> bool:
        """Whether the device itself draws the rows, rather than the CPU for it."""
        return True

    @abstractmethod
    def check(self, needs: Needs, steps: int) -> None:
        """Check that these rows have what a method needs for so many steps.

        Raises:
            ValueError: targets that there are not, or other needs that are not met.
        """

    def of_members(self, low: int, high: int) -> Self:
        """The rows of members low .. high - 1 alone."""
        return replace(self, members=self.members[low:high])

    def on(self, device: torch.device) -> Self:
        """The same rows, drawn on another device."""
        return replace(self, device=device)

    @abstractmethod
    def steps_at_once(self, needs: Needs) -> int:
        """For how many steps rows are drawn in one call; at least 1."""

    @abstractmethod
    def target_count(self, needs: Needs) -> int:
        """T, the number of targets that come with a sample."""

    @abstractmethod
    def step_bytes(self, needs: Needs) -> int:
        """Bytes of one step's rows for all members, as they are drawn and as the batch."""

    def kept_bytes(self, needs: Needs) -> tuple[int, int]:
        """Bytes of rows that are kept from step to step: for all members, and shared by them."""
        return 0, 0

    @abstractmethod
    def batches(self, needs: Needs, first_step: int, steps: int) -> Iterator[Batch]:
        """The batches of steps first_step .. first_step + steps - 1, one by one."""

    @abstractmethod
    def description(self) -> dict[str, str]:
        """Name -> a short text, of the source and the augmentation, for the fingerprint of a training."""

    @abstractmethod
    def example_rows(self, count: int) -> Tensor:
        """`(count, X)` fixed rows of numbers as samples have them, the same for all seeds and members."""


@dataclass(frozen=True)
class Epochs(Rows):
    """Rows 0 .. P - 1 in epochs: epoch e shuffles them and reads their views V e + 1 .. V e + V.

    V is the number of views that the method needs. An epoch has P // B steps; which rows are left
    over changes with the order, which all members share. Negative h of a sample is the last view of
    the sample that lies h + 1 places further in the epoch's order.

    Attributes:
        samples: P.
    """

    samples: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """P // B, the whole batches of an epoch."""
        return self.samples // self.batch

    def check_epochs(self, needs: Needs, steps: int) -> None:
        """Check that so many epochs can be read.

        Raises:
            ValueError: a batch or negatives that do not fit the samples, or more views than have addresses.
        """
        if self.samples < self.batch:
            raise ValueError(
                f"a batch of {self.batch} does not fit a fixed data set of {self.samples} samples"
            )
        if needs.negatives >= self.samples:
            raise ValueError(
                f"{needs.negatives} negatives per anchor need more than {self.samples} samples"
            )
        epochs = -(-steps // self.steps_per_epoch)
        if needs.views * epochs >= MAX_VIEWS:
            raise ValueError(
                f"{steps} steps are {epochs} epochs of {self.samples} samples, but there are only "
                f"2^24 views of a sample"
            )

    def spans(self, first_step: int, steps: int) -> Iterator[tuple[int, int, int]]:
        """(epoch, first step within it, number of steps) of so many steps, epoch by epoch."""
        step, end = first_step, first_step + steps
        while step < end:
            epoch, at = divmod(step, self.steps_per_epoch)
            count = min(self.steps_per_epoch - at, end - step)
            yield epoch, at, count
            step += count

    def order(self, epoch: int) -> Tensor:
        """`(P,)` int64, the samples in the order of an epoch, a uniformly random one."""
        keys = uniform(
            self.samples, seed=self.seed, stream=Stream.BATCHES, members=(0,), node=0, view=epoch
        )
        return torch.from_numpy(np.argsort(keys[0].numpy(), kind="stable"))
