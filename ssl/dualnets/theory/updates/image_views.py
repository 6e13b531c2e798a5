"""Real pictures as a source of samples and views: estimates from random views, sums over fixed ones.

The distribution is that of a picture drawn from the training part, with replacement, and of its random
views, standardised as a network in training reads them. It cannot be enumerated. A few pictures with a few
fixed views each can: `ImageViews.table` takes these for the whole distribution.

Axes: S member, B sample, C channel, H and W of a picture, X = C H W, J view of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dualnets._checks import check_kind, check_number, check_whole
from dualnets.images.dataset import LabelledImages
from dualnets.images.standardised import standardised
from dualnets.images.views import ImageAugmentation
from dualnets.theory.updates.enumeration import ViewTable, finite_views
from hltm.sampling.philox import Stream, check_seed, uniform, words_at

POSITIVE, NEGATIVE, DISTINCT = range(3)  # nodes whose numbers choose pictures


@dataclass(frozen=True, eq=False)
class ImageViews:
    """Pictures of a data set's training part, and views of them under an augmentation.

    Sample i of a member is a picture and random numbers of its own, a function of seed, member and i.

    Attributes:
        images: the data set.
        augment: how views differ from a picture.
        members: the addresses of the members that draw samples of their own; None for one sequence without
            an S axis.

    Raises:
        TypeError: images or an augmentation of another kind.
        ValueError: an augmentation that the pictures cannot have, such as of colour in grey.

    Example:
        >>> from dualnets import images
        >>> data = ImageViews(images.load("digits"), images.parse_views("crop:0.5+light:0.4"))
        >>> one, two = data.draw(5, seed=1)
        >>> one.shape, one.equal(data.draw(5, seed=1)[0]), one.equal(two)
        (torch.Size([5, 64]), True, False)
        >>> data.table(3, 4, seed=1).view.shape
        torch.Size([3, 12])
    """

    images: LabelledImages
    augment: ImageAugmentation
    members: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_kind("images", self.images, LabelledImages, 'dualnets.images.load("digits")')
        check_kind(
            "augment", self.augment, ImageAugmentation, 'dualnets.images.parse_views("crop:0.5")'
        )
        object.__setattr__(self, "augment", self.augment.for_shape(self.images.shape))

    def for_members(self, members: tuple[int, ...]) -> ImageViews:
        """The same pictures for every member of an ensemble, with samples of its own for each member."""
        return replace(self, members=tuple(members))

    def draw(
        self, samples: int, *, seed: int, start: int = 0, count: int = 2, negatives: bool = False
    ) -> list[Tensor]:
        """`count` views, each `(B, X)` or `(S, B, X)` float32, of pictures drawn with replacement.

        Args, errors: as `ViewSource.draw`.
        """
        check_seed(seed)
        node, stream = (NEGATIVE, Stream.NEGATIVES) if negatives else (POSITIVE, Stream.DATA)
        rows = torch.arange(start, start + check_whole("samples", samples, low=1))
        size, views = len(self.images.train.images), []
        for member in self.members or (0,):
            words = words_at(rows, seed=seed, stream=Stream.BATCHES, members=[member], nodes=[node])
            chosen = words[0, 0] * size >> 32  # each has the same chance, to 2^-32
            views.append(self._views(chosen, rows, range(count), seed, stream, member))
        drawn = [torch.stack(each) for each in zip(*views, strict=True)]
        return drawn if self.members is not None else [each[0] for each in drawn]

    def table(
        self, samples: int, views: int, *, seed: int, member: int = 0, strength: float = 1.0
    ) -> ViewTable:
        """The exact distribution of N different pictures with J fixed views each, all as likely.

        Args:
            samples: N, at least 2.
            views: J.
            seed: of the choice of pictures and of their views, 64 bits.
            member: the address of the one that has these pictures.
            strength: how far a view lies from its picture, in every pixel: 1 where the augmentation puts it,
                0 at the picture, whose views are then all the same.

        Returns:
            a table whose `leaves` are `(N J, X)` float64, J views of one picture after the other.

        Raises:
            TypeError: numbers of another kind.
            ValueError: more pictures than there are, or numbers out of range.
        """
        size = len(self.images.train.images)
        if check_whole("samples", samples, low=2) > size:
            raise ValueError(
                f"samples must be at most the {size} pictures there are, got {samples}"
            )
        views = check_whole("views", views, low=1)
        strength = check_number("strength", strength, low=0)
        keys = uniform(
            size, seed=check_seed(seed), stream=Stream.BATCHES, members=[member], node=DISTINCT
        )
        chosen = keys[0].argsort(stable=True)[:samples]
        rows = torch.arange(samples)
        made = self._views(chosen, rows, range(views), seed, Stream.DATA, member)
        moved = torch.stack(made, dim=1).double()  # (N, J, X)
        if strength != 1:
            picture = standardised(self.images, self._pictures(chosen)).flatten(1).double()[:, None]
            moved = picture + strength * (moved - picture)
        return finite_views(moved)

    def _views(
        self, chosen: Tensor, rows: Tensor, views: range, seed: int, stream: Stream, member: int
    ) -> list[Tensor]:
        """Of each number of a view, `(B, X)` views of chosen pictures, which have these row numbers."""
        pictures, made = self._pictures(chosen), []
        for view in views:
            own = self.augment.views(
                pictures, seed=seed, stream=stream, members=[member], view=view, rows=rows
            )
            made.append(standardised(self.images, own[0]).flatten(1))
        return made

    def _pictures(self, chosen: Tensor) -> Tensor:
        """`(B, C, H, W)` float32 in 0..1."""
        pixels = np.ascontiguousarray(self.images.train.images[chosen.numpy()])
        return torch.from_numpy(pixels).float() / 255
