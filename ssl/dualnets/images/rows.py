"""Rows of pictures: epochs over the training pictures, whose views are drawn for a few steps at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dualnets._checks import check_kind
from dualnets.images.standardised import standardised
from dualnets.images.views import ImageAugmentation
from dualnets.methods.protocol import Batch, Needs
from dualnets.training.rows import Epochs
from hltm.sampling.philox import Stream, uniform

if TYPE_CHECKING:
    from dualnets.images.dataset import LabelledImages

# of the pictures that are drawn in one call on a CPU: they stay in its cache
DRAWN_BYTES = 1 << 22
ON_DEVICE = 16  # times as many elsewhere, where a call has to be worth its launch
CHOICE_SEED = 0  # of the order in which `samples` takes pictures


def image_rows(
    images: LabelledImages,
    *,
    augment: ImageAugmentation,
    samples: int | None,
    **given: Any,
) -> ImageRows:
    """The rows of the first `samples` training pictures in a fixed random order, by default of all.

    The other arguments are those of `Rows`.

    Raises:
        TypeError: something else than an augmentation of pictures.
        ValueError: more samples than training pictures, or an augmentation that needs other channels.
    """
    check_kind("augment", augment, ImageAugmentation, "dualnets.images.parse_views('crop:0.5')")
    augment.for_shape(images.shape)  # raises where the augmentation needs colour
    there = len(images.train.labels)
    if samples is not None and samples > there:
        raise ValueError(
            f"samples must be at most the {there} training pictures of {images.name}, got {samples}"
        )
    return ImageRows(
        source=images, augment=augment, samples=there if samples is None else samples, **given
    )


def fixed_order(count: int) -> np.ndarray:
    """`(count,)` int64: the same random order of pictures for all seeds."""
    keys = uniform(count, seed=CHOICE_SEED, stream=Stream.PERMUTATION, members=(0,), node=0)
    return np.argsort(keys[0].numpy(), kind="stable")


@dataclass(frozen=True)
class ImageRows(Epochs):
    """Training pictures in epochs, as `Epochs` describes them: sample r is picture r of a fixed random order.

    Views differ from member to member, and are standardised by mean and deviation of each channel of the
    training pictures. The only target is `label`.

    The source is the data set.
    """

    input_name: ClassVar[str] = "numbers in a picture"
    dtype: ClassVar[torch.dtype] = torch.float32
    _kept: dict[Any, Any] = field(
        default_factory=dict, repr=False, compare=False
    )  # shared by all members: what is made once, or once per epoch

    @property
    def images(self) -> LabelledImages:
        """The source."""
        found: LabelledImages = self.source
        return found

    @property
    def inputs(self) -> int:
        return self.images.inputs

    def check(self, needs: Needs, steps: int) -> None:
        if needs.targets != ():
            self.images.target_classes(needs.targets)
        self.check_epochs(needs, steps)

    def on(self, device: torch.device) -> Self:
        return replace(self, device=device, _kept={})

    def steps_at_once(self, needs: Needs) -> int:
        most = DRAWN_BYTES * (1 if self.device.type == "cpu" else ON_DEVICE)
        return max(most // self._batch_bytes(needs), 1)

    def target_count(self, needs: Needs) -> int:
        return 0 if needs.targets == () else 1

    def step_bytes(self, needs: Needs) -> int:
        return 3 * self._batch_bytes(needs)  # pictures, views and the batch

    def kept_bytes(self, needs: Needs) -> tuple[int, int]:
        """An epoch's order with the keys that are sorted, and the pictures that are copied to a device."""
        copied = 0 if self.device.type == "cpu" else self.inputs
        return 0, self.samples * (64 + copied)

    def _batch_bytes(self, needs: Needs) -> int:
        return 4 * len(self.members) * self.batch * needs.passes * self.inputs

    def description(self) -> dict[str, str]:
        return {"augment": str(self.augment), "images": f"{self.images.name} {self.images.digest}"}

    def example_rows(self, count: int) -> Tensor:
        numbers = uniform(
            count * self.inputs, seed=0, stream=Stream.EVALUATION, members=(0,), node=0
        )
        return (4 * numbers - 2).view(count, -1).float()

    def batches(self, needs: Needs, first_step: int, steps: int) -> Iterator[Batch]:
        for epoch, at, many in self.spans(first_step, steps):
            order = self._order_now(epoch)
            rows = order[at * self.batch : (at + many) * self.batch]
            # which views of which samples: (view, samples) of every pass
            views = self._drawn(needs, epoch, order, rows, at)
            leaves = torch.empty(
                many, len(self.members), len(views), self.batch, self.inputs, device=self.device
            )
            for place, view in enumerate(views):  # `(S, many * B, X)`
                leaves[:, :, place] = view.unflatten(1, (many, self.batch)).transpose(0, 1)
            labels: list[Tensor | None] = [None] * many
            if needs.targets != ():
                found = self._labels[rows].view(many, 1, -1, 1)
                labels = list(found.expand(-1, len(self.members), -1, -1).unbind())
            places = rows.split(self.batch) if needs.places else [None] * many
            flat = leaves.flatten(2, 3)
            each = (flat if self.stacked else flat[:, 0]).unbind()
            for own, label, place in zip(each, labels, places, strict=True):
                yield Batch(own, self.batch, label, place)

    def _drawn(
        self, needs: Needs, epoch: int, order: Tensor, rows: Tensor, at: int
    ) -> list[Tensor]:
        """`(S, N, X)` of every pass of the N samples `rows`, those from step `at` of an epoch."""
        pictures, first = self._pictures(rows), needs.views * epoch + 1
        found = [self._views(pictures, rows, first + view) for view in range(needs.views)]
        last = found[-1]
        if needs.original:
            own = standardised(self.images, pictures.float().div_(255)).flatten(1)
            found.append(own.expand(len(self.members), -1, -1))
        if needs.negatives:
            count, end = len(rows), at * self.batch + len(rows)
            behind = order[
                torch.arange(end, end + needs.negatives, device=self.device) % self.samples
            ]
            more = self._views(self._pictures(behind), behind, first + needs.views - 1)
            last = torch.cat([last, more], dim=1)
            found += [last[:, h : h + count] for h in range(1, needs.negatives + 1)]
        return found

    def _views(self, pictures: Tensor, rows: Tensor, view: int) -> Tensor:
        """`(S, N, X)`: one view of pictures `(N, C, H, W)`, standardised."""
        drawn = self.augment.views(
            pictures, seed=self.seed, stream=Stream.DATA, members=self.members, view=view, rows=rows
        )
        return standardised(self.images, drawn).flatten(2)

    def _pictures(self, rows: Tensor) -> Tensor:
        """`(N, C, H, W)` uint8, of samples `(N,)`."""
        if self.device.type == "cpu":
            return torch.from_numpy(self.images.train.images[self._chosen[rows.numpy()]])
        if "pictures" not in self._kept:
            whole = torch.from_numpy(self.images.train.images[self._chosen])
            self._kept["pictures"] = whole.to(self.device)
        found: Tensor = self._kept["pictures"][rows]
        return found

    @property
    def _labels(self) -> Tensor:
        """`(P,)` int64, of all samples."""
        if "labels" not in self._kept:
            labels = torch.from_numpy(self.images.train.labels[self._chosen])
            self._kept["labels"] = labels.to(self.device)
        found: Tensor = self._kept["labels"]
        return found

    @property
    def _chosen(self) -> np.ndarray:
        """`(P,)` int64, the training picture of every sample: the first P of a fixed random order."""
        if "chosen" not in self._kept:
            self._kept["chosen"] = fixed_order(len(self.images.train.labels))[: self.samples]
        found: np.ndarray = self._kept["chosen"]
        return found

    def _order_now(self, epoch: int) -> Tensor:
        """`(P,)` int64, the samples in the order of an epoch; that of the epoch last asked for is kept."""
        kept = self._kept.get("order")
        if kept is None or kept[0] != epoch:
            kept = self._kept["order"] = (epoch, self.order(epoch).to(self.device))
        order: Tensor = kept[1]
        return order
