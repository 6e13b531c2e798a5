"""The rows that are probed: of a draw, of an exported folder, or new ones, with the states of all nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Union

import torch
from torch import Tensor, nn

from hltm._devices import float64_device
from hltm._integers import as_integer
from hltm.sampling.draw import Draw, Origin, check_draw
from hltm.sampling.packed import PackedDraw
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample
from hltm.tree import LatentTree

if TYPE_CHECKING:
    from hltm.data.export.read import DataFolder

Rowed = Union[Draw, PackedDraw, "DataFolder"]  # what shows which rows are meant


class Rows(NamedTuple):
    """The rows that are probed: states of all nodes, kept or drawn again batch by batch.

    Attributes:
        total: B, their number.
        members, stacked: of the draw or of the network; S axes of arrays follow `stacked`.
        seed, stream, start: the address of the rows.
        device: where states are drawn.
        kept: `(S, V, B)` states; None for those that follow from the address.
    """

    tree: LatentTree
    total: int
    members: tuple[int, ...]
    stacked: bool
    seed: int
    stream: Stream
    start: int
    device: torch.device
    kept: Tensor | None = None

    def states(self, rows: range) -> Tensor:
        """`(S, V, B)` states of all nodes in some of the rows, counted from 0."""
        if self.kept is not None:
            return self.kept[..., rows.start : rows.stop]
        return self._drawn(rows, self.stream, self.start)

    def other(self, rows: range) -> Tensor:
        """The same of as many independent rows, which no network has seen, for the null."""
        return self._drawn(rows, Stream.NULL, 0)

    def draw(self, rows: range, *, other: bool = False) -> Draw:
        """Some of the rows, or the other ones, as a draw."""
        return Draw(
            self.other(rows) if other else self.states(rows), self.tree.topology, self.stacked,
            self.seed, Stream.NULL if other else self.stream, self.members,
            rows.start + (0 if other else self.start),
            origin=Origin(self.tree.tables.digest, self.members),
        )  # fmt: skip

    def _drawn(self, rows: range, stream: Stream, start: int) -> Tensor:
        return sample(
            self.tree.tables, self.members, len(rows), seed=self.seed, start=start + rows.start,
            stream=stream, device=self.device,
        ).states_SVB  # fmt: skip


def as_rows(
    draw: Rowed | None,
    tree: LatentTree,
    source: Any,
    samples: int | None,
    seed: int | None,
) -> Rows:
    """The rows of a draw or of an exported folder; without either, of the source's evaluation stream.

    Latents that a folder or a draw of the data does not hold are drawn again at their address. The
    rows of a folder are drawn batch by batch, so a long one needs no memory.

    Raises:
        ValueError: neither draw nor samples and seed, a draw of another tree or with missing leaves,
            or one that lacks latents which do not follow from its address.
        TypeError: a draw that is neither a `Draw` nor a folder, or samples that are no integer.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(5, seed=1)
        >>> leaves_alone = tree.draw(5, seed=1, first=3)
        >>> as_rows(leaves_alone, tree, None, None, None).states(range(2, 4)).equal(draw.states_SVB[..., 2:4])
        True
    """
    if draw is None:
        if samples is None or seed is None:
            raise ValueError("a network needs rows to be probed on: give draw, or samples and seed")
        samples = as_integer("samples", samples)
        members = tuple(getattr(source, "members", tree.members))
        stacked = bool(getattr(source, "stacked", tree.stacked))
        device = float64_device(getattr(source, "device", torch.device("cpu")))
        return Rows(tree, samples, members, stacked, seed, Stream.EVALUATION, 0, device)
    if isinstance(draw, PackedDraw):
        draw = draw.unpack()
    if not isinstance(draw, Draw):
        return _folder_rows(draw, tree)
    check_draw(tree.tables, tree.members if tree.stacked else draw.members, draw)
    if draw.missing_SXB is not None and bool(draw.missing_SXB.any()):
        raise ValueError(
            f"{int(draw.missing_SXB.sum())} leaves of the draw are missing, but posteriors and ceilings of "
            "a probe are those of all leaves; probe a draw without missing leaves"
        )
    if draw.observed_SXB is not None:
        raise ValueError(
            "leaves of the draw are flipped, but posteriors and ceilings of a probe are those of the states; "
            "probe a draw without flips"
        )
    states = draw.states_SVB.to(float64_device(draw.states_SVB.device))
    made = Rows(
        tree, states.shape[-1], draw.members, draw.stacked, draw.seed, draw.stream, draw.start,
        states.device,
    )  # fmt: skip
    if not draw.first:
        return made._replace(kept=states)
    if draw.view or draw.redraws or draw.origin is None:
        raise ValueError(
            f"the draw keeps nodes from {draw.first} on, but a probe needs its latents as well, and "
            "those of a view or of a draw of your own do not follow from its address"
        )
    return made


def members_of(source: Any, tree: LatentTree, draw: Rowed | None) -> tuple[int, ...]:
    """The addresses of the networks: those of the draw, of a network without one, or of the tree."""
    owner = tree if draw is None else draw
    if draw is None and is_network(source):
        owner = source
    elif not isinstance(owner, (Draw, PackedDraw, LatentTree)):
        owner = owner.tree
    return tuple(getattr(owner, "members", tree.members))


def is_network(source: Any) -> bool:
    """Whether it has a method `activations`; a module may have a part of that name."""
    method = getattr(source, "activations", None)
    return callable(method) and not isinstance(method, nn.Module)


def _folder_rows(draw: Any, tree: LatentTree) -> Rows:
    """The rows of an exported folder.

    Raises:
        TypeError: anything else.
    """
    from hltm.data.export.read import DataFolder

    if not isinstance(draw, DataFolder):
        raise TypeError(
            f"draw must be a draw (tree.sample) or a folder (hltm.load), got a {type(draw).__name__}; "
            "batches of data sets hold neither their address nor all latents"
        )
    recipe, members = draw.recipe, draw.tree.members
    none = sample(draw.tree.tables, members, 0, seed=recipe.seed)
    check_draw(tree.tables, tree.members if tree.stacked else members, none)
    return Rows(
        tree, len(draw), tuple(members), draw.stacked, recipe.seed, Stream.DATA, recipe.start,
        torch.device("cpu"),
    )  # fmt: skip
