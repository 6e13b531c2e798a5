"""Rows of trees: fresh ones at every step, or a fixed data set in epochs, of which nothing is stored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from dualnets.methods.protocol import Batch, Needs
from dualnets.training.fingerprint import digest
from dualnets.training.rows import Epochs, Rows
from hltm.data.view_batches import check_kept, target_nodes
from hltm.sampling.augment import Augmentation, check_augmentation
from hltm.sampling.kernels.on_device import draws_itself
from hltm.sampling.kernels.request import DrawRequest
from hltm.sampling.observed import flipped_leaves, missing_leaves
from hltm.sampling.philox import Stream, uniform
from hltm.sampling.sample import draw_states
from hltm.tree import LatentTree

DRAWN_BYTES = 1 << 26  # of the leaves that are drawn in one call


class DrawnViews(NamedTuple):
    """The data of consecutive steps, batch-last.

    Attributes:
        views: `(S, X, steps * B)` leaves of each view, and of the samples themselves where needed.
        negatives: `(S, X, steps * B * H)`, the H negatives of a sample side by side; None for H = 0.
        targets: `(S, T, steps * B)` states; None where none are needed.
        places: `(steps * B,)` int64 places in the fixed data set; None for fresh data.
    """

    views: list[Tensor]
    negatives: Tensor | None
    targets: Tensor | None
    places: Tensor | None


@dataclass(frozen=True)
class TreeRows(Rows):
    """Rows of trees, the source: one tree, or as many as there are members."""

    input_name: ClassVar[str] = "leaves"

    @property
    def trees(self) -> LatentTree:
        """The source."""
        found: LatentTree = self.source
        return found

    @property
    def inputs(self) -> int:
        return len(self.trees.leaves)

    @property
    def drawn_by_device(self) -> bool:
        return draws_itself(self.trees.tables, self.device)

    def check(self, needs: Needs, steps: int) -> None:
        if needs.targets == ():
            return
        topology = self.trees.topology
        try:
            nodes = target_nodes(topology, needs.targets)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"targets must be 'root', 'latents' or nodes of the trees, got {needs.targets!r}: "
                f"{error.args[0] if error.args else error}"
            ) from error
        check_kept(topology, self.augment, nodes)

    def of_members(self, low: int, high: int) -> Self:
        trees = self.trees[low:high] if len(self.trees.members) > 1 else self.trees
        return replace(self, source=trees, members=self.members[low:high])

    def steps_at_once(self, needs: Needs) -> int:
        """For how many steps the leaves fit `DRAWN_BYTES`; at least 1."""
        passes = needs.passes
        leaves = len(self.members) * len(self.trees.leaves) * self.batch * passes
        return max(DRAWN_BYTES // leaves, 1)

    def target_count(self, needs: Needs) -> int:
        return 0 if needs.targets == () else len(target_nodes(self.trees.topology, needs.targets))

    def step_bytes(self, needs: Needs) -> int:
        passes = needs.passes
        leaves = len(self.trees.leaves) * passes * self._state_bytes
        each = 2 * leaves + 9 * self.target_count(needs)  # targets are int64 in a batch
        return len(self.members) * self.batch * each

    def description(self) -> dict[str, str]:
        tables = self.trees.tables
        return {
            "augment": f"{self.augment}, rates {digest(self.augment.rates(self.trees))}",
            "trees": f"{len(tables.flat)} with {len(tables.topology)} nodes, "
            + digest(tables.topology.parent, tables.cardinality, tables.flat),
        }

    def example_rows(self, count: int) -> Tensor:
        states = torch.from_numpy(self.trees.tables.cardinality[list(self.trees.leaves)])
        numbers = uniform(
            count * len(states), seed=0, stream=Stream.EVALUATION, members=(0,), node=0
        )
        return (numbers.view(count, -1) * states).to(torch.uint8)

    @property
    def _state_bytes(self) -> int:
        """Bytes of a state."""
        return 1 if int(self.trees.tables.cardinality.max()) <= 256 else 2

    @abstractmethod
    def draw(self, needs: Needs, first_step: int, steps: int) -> DrawnViews:
        """The data of steps first_step .. first_step + steps - 1."""

    def batches(self, needs: Needs, first_step: int, steps: int) -> Iterator[Batch]:
        drawn = self.draw(needs, first_step, steps)
        parts = [*drawn.views]
        if drawn.negatives is not None:
            parts += drawn.negatives.unflatten(-1, (-1, needs.negatives)).unbind(-1)
        # all steps at once: one operation on a GPU, and every batch is a view of its result
        by_step = [part.unflatten(-1, (steps, -1)).permute(2, 0, 1, 3) for part in parts]
        leaves = torch.cat(by_step, dim=-1).transpose(2, 3)  # (steps, S, P * B, X)
        none = [None] * steps
        targets = places = none
        if drawn.targets is not None:
            targets = drawn.targets.transpose(1, 2).long().split(self.batch, dim=1)
        if drawn.places is not None:
            places = drawn.places.split(self.batch)
        each = (leaves if self.stacked else leaves[:, 0]).unbind()
        for own, labels, rows in zip(each, targets, places, strict=True):
            yield Batch(own, self.batch, labels, rows)

    def _states(
        self, needs: Needs, stream: Stream, start: int, count: int, views: tuple[int, ...]
    ) -> tuple[list[Tensor], Tensor | None]:
        """`(S, X, count)` leaves of each view, and `(S, T, count)` targets.

        No view redraws a target (`check`), so the first view has the data's own states there. A missing
        leaf has the largest number of the dtype, which is no state of a leaf (`check_missing`).
        """
        topology = self.trees.topology
        leaves = topology.leaves.start
        nodes = None if needs.targets == () else target_nodes(topology, needs.targets)
        first = leaves if nodes is None else min(leaves, int(nodes.min()))
        request = DrawRequest(
            topology=topology, seed=self.seed, stream=stream, members=self.members, start=start,
            samples=count, views=views, rates=self.augment.rates(topology), first=first,
            device=self.device,
        )  # fmt: skip
        states = draw_states(self.trees.tables, request)
        targets = None if nodes is None else states[0][:, torch.from_numpy(nodes - first)]
        shown = [view[:, leaves - first :] for view in states]
        rows = torch.arange(start, start + count, device=self.device)
        where: Any = {"seed": self.seed, "stream": stream, "members": self.members}
        flips = self.augment.flip_rates(topology)
        if flips.any():  # view 0 is the samples themselves
            shown = [
                flipped_leaves(self.trees.tables, flips, leaves, rows=rows, view=number, **where)
                if number
                else leaves
                for leaves, number in zip(shown, views, strict=True)
            ]
        rates = self.augment.missing_rates(topology)
        if rates.any():
            missing = partial(missing_leaves, topology, rates, rows, **where)
            shown = [
                _without(view, missing(view=number)) if number else view
                for view, number in zip(shown, views, strict=True)
            ]
        return shown, targets


def tree_rows(
    trees: LatentTree,
    *,
    members: tuple[int, ...],
    augment: Augmentation,
    samples: int | None,
    **given: Any,
) -> TreeRows:
    """Fresh rows, or a fixed data set of so many samples; the other arguments are those of `Rows`.

    Raises:
        TypeError: something else than an augmentation of trees.
        ValueError: trees that are not as many as members; an augmentation that does not fit the trees.
    """
    check_augmentation(augment)
    if trees.members != members and len(trees.members) != 1:
        raise ValueError(f"{len(trees.members)} trees cannot train {len(members)} networks")
    augment.rates(trees)
    given |= {"source": trees, "members": members, "augment": augment}
    return FreshData(**given) if samples is None else FixedData(**given, samples=samples)


def check_missing(trees: LatentTree, augment: Augmentation, networks: Sequence[Any]) -> None:
    """Check that networks can read that a leaf is missing: as a token, or one-hot and then all zeros.

    Raises:
        ValueError: a leaf of two states that a network reads as one bit, or of so many states that none is
            left to mark it as missing.
    """
    as_bits = not all(getattr(network, "reads_missing", False) for network in networks)
    rates, topology = augment.missing_rates(trees), trees.topology
    states = trees.tables.cardinality
    most = int(states.max())
    for top in np.flatnonzero(rates.reshape(-1, len(topology)).any(0)):
        for v in topology.descendants(int(top)):
            if as_bits and v in topology.leaves and states[v] <= 2:
                raise ValueError(
                    "networks read a leaf of two states as one bit, which cannot be missing, but "
                    f"{augment} leaves some out: give dualnets.mlp or another network one_hot=True"
                )
            if v in topology.leaves and states[v] == most and most in (1 << 8, 1 << 16):
                raise ValueError(
                    f"{augment} leaves out leaves of {most} states, expected at most {most - 1}"
                )


def _without(leaves: Tensor, missing: Tensor) -> Tensor:
    """The leaves, those that are missing with the largest number of their dtype."""
    # torch has few operations for uint16; -1 has the same bits
    signed = leaves.view(torch.int8 if leaves.dtype == torch.uint8 else torch.int16)
    return signed.masked_fill(missing, -1).view(leaves.dtype)


@dataclass(frozen=True)
class FreshData(TreeRows):
    """Rows that no step has seen before: step t of every member reads rows tB .. tB + B - 1.

    The method's views are views 1, 2, … of those rows. Negative h of row i is view 1 of row i H + h
    of a stream of its own.
    """

    def check(self, needs: Needs, steps: int) -> None:
        super().check(needs, steps)
        if needs.places:
            raise ValueError(
                "this method remembers every sample, so it needs a fixed data set: give samples=…"
            )

    def draw(self, needs: Needs, first_step: int, steps: int) -> DrawnViews:
        rows, count = first_step * self.batch, steps * self.batch
        numbers = (*range(1, needs.views + 1), *[0] * needs.original)
        views, targets = self._states(needs, Stream.DATA, rows, count, numbers)
        if needs.negatives == 0:
            return DrawnViews(views, None, targets, None)
        many = needs.negatives
        (negatives,), _ = self._states(Needs(), Stream.NEGATIVES, rows * many, count * many, (1,))
        return DrawnViews(views, negatives, targets, None)


@dataclass(frozen=True)
class Undrawn(TreeRows):
    """Rows of zeros in place of others, of their shapes and dtypes."""

    @classmethod
    def like(cls, data: TreeRows) -> Undrawn:
        """In place of `data`, which need not have been drawn."""
        return cls(**{item.name: getattr(data, item.name) for item in fields(cls)})

    def draw(self, needs: Needs, first_step: int, steps: int) -> DrawnViews:
        shape = len(self.members), len(self.trees.leaves), steps * self.batch
        dtype = torch.uint8 if self._state_bytes == 1 else torch.int16

        def zeros(many: int) -> Tensor:
            return torch.zeros(*shape[:2], many * shape[2], dtype=dtype)

        negatives = zeros(needs.negatives) if needs.negatives else None
        return DrawnViews(
            [zeros(1) for _ in range(needs.views + needs.original)], negatives, None, None
        )


@dataclass(frozen=True)
class FixedData(Epochs, TreeRows):
    """A fixed data set of trees in epochs, as `Epochs` describes them."""

    _epochs: dict[tuple[Needs, int], DrawnViews] = field(
        default_factory=dict, repr=False, compare=False
    )

    def check(self, needs: Needs, steps: int) -> None:
        super().check(needs, steps)
        self.check_epochs(needs, steps)

    def on(self, device: torch.device) -> FixedData:
        return replace(super().on(device), _epochs={})

    def of_members(self, low: int, high: int) -> FixedData:
        return replace(super().of_members(low, high), _epochs={})

    def kept_bytes(self, needs: Needs) -> tuple[int, int]:
        """An epoch's rows, as drawn and in its order; and that order with the keys that are sorted."""
        leaves = len(self.trees.leaves) * (needs.views + needs.original)
        each = (leaves + self.target_count(needs)) * self._state_bytes
        return 2 * len(self.members) * self.samples * each, 64 * self.samples

    def draw(self, needs: Needs, first_step: int, steps: int) -> DrawnViews:
        parts = [self._steps_of_epoch(needs, *span) for span in self.spans(first_step, steps)]

        def joined(pieces: Sequence[Tensor | None]) -> Tensor | None:
            found = [piece for piece in pieces if piece is not None]
            return torch.cat(found, dim=-1) if found else None

        views, *others = zip(*parts, strict=True)  # the others: negatives, targets, places
        each = [torch.cat(view, dim=-1) for view in zip(*views, strict=True)]
        return DrawnViews(each, *map(joined, others))

    def _steps_of_epoch(self, needs: Needs, epoch: int, at: int, steps: int) -> DrawnViews:
        """Steps at .. at + steps - 1 of one epoch."""
        whole = self._epoch_rows(needs, epoch)
        rows = slice(at * self.batch, (at + steps) * self.batch)
        negatives = None
        if needs.negatives:
            places = torch.arange(rows.start, rows.stop, device=self.device)[:, None]
            others = places + 1 + torch.arange(needs.negatives, device=self.device)
            negatives = whole.views[needs.views - 1][..., (others % self.samples).flatten()]
        return DrawnViews(
            [view[..., rows] for view in whole.views],
            negatives,
            None if whole.targets is None else whole.targets[..., rows],
            None if whole.places is None else whole.places[rows],
        )

    def _epoch_rows(self, needs: Needs, epoch: int) -> DrawnViews:
        """All samples of an epoch in its order; those of the epoch last asked for are kept."""
        if (needs, epoch) not in self._epochs:
            self._epochs.clear()
            first = needs.views * epoch + 1
            numbers = (*range(first, first + needs.views), *[0] * needs.original)
            views, targets = self._states(needs, Stream.DATA, 0, self.samples, numbers)
            places = self.order(epoch).to(self.device)

            def in_order(states: Tensor) -> Tensor:
                # `gather` takes a quarter of the time of an index, and does not know uint16
                kind = torch.int16 if states.dtype == torch.uint16 else states.dtype
                order = places.expand(*states.shape[:-1], -1)
                return states.view(kind).gather(-1, order).view(states.dtype)

            self._epochs[needs, epoch] = DrawnViews(
                [in_order(view) for view in views],
                None,
                None if targets is None else in_order(targets),
                places,
            )
        return self._epochs[needs, epoch]
