"""What a draw is: states of samples, the address they came from, and which leaves are missing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.digest import Digest
from hltm.model.nodes import Node
from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.philox import DRAW_FORMAT, Stream

if TYPE_CHECKING:
    import pandas as pd

SHOWN, WIDEST = 5, 1000  # samples of a notebook's table, and nodes that it is made for


class Origin(NamedTuple):
    """The trees that a draw was made from: their digests, and the address of each."""

    digest: Digest
    members: tuple[int, ...]

    def by_member(self) -> dict[int, str]:
        """The digest of the tree of every address."""
        return {member: self.digest.of(i) for i, member in enumerate(self.members)}


@dataclass(frozen=True, eq=False)
class Addressed:
    """What draws of all kinds share: they are equal if their addresses, trees and states are."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        compared = [field.name for field in fields(self) if field.compare]
        pairs = ((getattr(self, name), getattr(other, name)) for name in reversed(compared))
        return self is other or all(_same(a, b) for a, b in pairs)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in ("seed", "stream", "members", "rows")))


@dataclass(frozen=True, eq=False)
class Draw(Addressed):
    """States of nodes for B consecutive samples of one or S trees, and the address they came from.

    Attributes:
        states_SVB: `(S, V_kept, B)` uint8 or uint16, batch-last; S is 1 where `stacked` is False.
        topology: the shape of the trees.
        stacked: whether public arrays have the S axis.
        seed, stream, members, start, view: the address; samples are start .. start + B - 1.
        first: the lowest node that is kept; nodes with lower numbers are not.
        draw_format: the layout of addresses.
        missing_SXB: `(S, X, B)` bool, the leaves that a view misses; None where no leaf is missing.
            Only `leaves` hides them; `states`, `level` and `node` have the states of the model.
        observed_SXB: `(S, X, B)` the leaves as they are observed where a view flips some, of the dtype of the
            states; None where they are the states of the model. Only `leaves` shows them.
        origin: the trees that it is of, so that another tree can refuse it; None for a draw that
            you made yourself of states alone, which any tree of its shape takes.
        redraws: how the states came from the data: for each view that was taken on the way, its
            number and its `(V,)` redraw rates; empty for the data themselves.

    States are uint8. If a node has more than 256 states, they are uint16 in `states_SVB` and int32
    in all that is read from the draw, because torch can neither reduce nor compare uint16.
    """

    states_SVB: Tensor
    topology: Topology
    stacked: bool
    seed: int
    stream: Stream
    members: tuple[int, ...]
    start: int
    view: int = 0
    first: int = 0
    draw_format: int = DRAW_FORMAT
    missing_SXB: Tensor | None = None
    origin: Origin | None = None
    redraws: tuple[tuple[int, np.ndarray], ...] = field(default=(), compare=False)
    observed_SXB: Tensor | None = None

    def __repr__(self) -> str:
        members, nodes, samples = self.states_SVB.shape
        shape = (members, samples, nodes) if self.stacked else (samples, nodes)
        return (
            f"Draw(states {shape}, seed={self.seed}, stream={self.stream.name.lower()}, "
            f"{shown_rows(self.rows)}, view={self.view})"
        )

    @property
    def rows(self) -> range:
        """The numbers of the samples: their rows in the endless data set of the seed."""
        return range(self.start, self.start + self.states_SVB.shape[-1])

    def _public(self, states_SVB: Tensor) -> Tensor:
        """Batch-first, without S for a single tree, and of a dtype that torch can reduce."""
        found = public_dtype(states_SVB).transpose(1, 2)
        return found if self.stacked else found[0]

    @property
    def states(self) -> Tensor:
        """`(B, V)` or `(S, B, V)` states of all kept nodes, in storage order."""
        return self._public(self.states_SVB)

    @property
    def leaves(self) -> Tensor:
        """`(B, X)` or `(S, B, X)` states of the leaves as they are observed.

        If leaves may be missing, int16 (int32 above 256 states) with -1 for missing ones, which is
        what `posterior` expects.
        """
        return self._public(self.shown_SXB)

    @property
    def shown_SXB(self) -> Tensor:
        """`(S, X, B)`, `leaves` in storage order; uint16 above 256 states where none may be missing."""
        found = self.observed_SXB
        if found is None:
            self._check_kept(self.topology.leaves.start)
            found = self.states_SVB[:, self.topology.leaves.start - self.first :]
        return found if self.missing_SXB is None else hide(found, self.missing_SXB)

    @property
    def missing(self) -> Tensor:
        """`(B, X)` or `(S, B, X)` bool: which leaves are missing."""
        if self.missing_SXB is None:
            return torch.zeros_like(self.level(0), dtype=torch.bool)
        return self._public(self.missing_SXB)

    @property
    def root(self) -> Tensor:
        """`(B,)` or `(S, B)` states of the root."""
        return self.node(0)

    def level(self, level: int) -> Tensor:
        """`(B, V_l)` or `(S, B, V_l)` states of the nodes of one level.

        Raises:
            ValueError: no such level, or nodes that this draw did not keep.
        """
        nodes = self.topology.at_level(level)
        self._check_kept(nodes.start)
        return self._public(self.states_SVB[:, nodes.start - self.first : nodes.stop - self.first])

    def node(self, node: Node) -> Tensor:
        """`(B,)` or `(S, B)` states of one node, by number or name."""
        v = self.topology.node(node)
        self._check_kept(v)
        found = public_dtype(self.states_SVB[:, v - self.first])
        return found if self.stacked else found[0]

    def to_pandas(self) -> pd.DataFrame:
        """The states as a table: a column per node, named as the node, and a row per sample.

        The index `sample` holds the samples' numbers; stacked draws have `member` before it. A missing
        leaf is `<NA>`, and the leaves of a view that may miss some are of pandas' Int16 (Int32 above
        256 states), so that `table.fillna(-1)` has -1 there, as `posterior` expects.

        Example:
            >>> import hltm
            >>> tree = hltm.LatentTree.from_parents(
            ...     {"topic": None, "word": "topic"}, {"topic": [0.5, 0.5], "word": [[0, 1], [1, 0]]}
            ... )
            >>> table = tree.sample(3, seed=0, start=5).to_pandas()
            >>> table["topic"].to_dict(), table["word"].to_dict()
            ({5: 1, 6: 1, 7: 1}, {5: 0, 6: 0, 7: 0})
        """
        import pandas as pd

        index: pd.Index = pd.RangeIndex(self.start, self.rows.stop, name="sample")
        if self.stacked:
            index = pd.MultiIndex.from_product([self.members, index], names=["member", "sample"])
        names = self.topology.names[self.first :]
        states = self.states.cpu().numpy().reshape(len(index), len(names)).copy()
        latents = max(self.topology.leaves.start - self.first, 0)
        if self.observed_SXB is not None:
            shown = self._public(self.observed_SXB).cpu().numpy()
            states[:, latents:] = shown.reshape(len(index), -1)
        if self.missing_SXB is None:
            return pd.DataFrame(states, index=index, columns=list(names))
        observed = self.leaves.cpu().numpy()  # -1 where missing
        observed = observed.reshape(len(index), len(names) - latents)
        columns = {
            name: pd.arrays.IntegerArray(column, column < 0)
            for name, column in zip(names[latents:], observed.T.copy(), strict=True)
        }
        table = pd.DataFrame(states[:, :latents], index=index, columns=list(names[:latents]))
        return pd.concat([table, pd.DataFrame(columns, index=index)], axis=1)

    def _repr_html_(self) -> str:
        """The first samples as a table, for notebooks; the text alone above a thousand nodes."""
        if self.states_SVB.shape[1] > WIDEST:
            return f"<div>{html.escape(repr(self))}</div>"
        head = replace(
            self, states_SVB=self.states_SVB[:1, :, :SHOWN], members=self.members[:1],
            missing_SXB=None if self.missing_SXB is None else self.missing_SXB[:1, :, :SHOWN],
            observed_SXB=None if self.observed_SXB is None else self.observed_SXB[:1, :, :SHOWN],
        )  # fmt: skip
        return f"<div>{html.escape(repr(self))}{head.to_pandas().to_html(max_cols=20)}</div>"

    def _check_kept(self, node: int) -> None:
        if node < self.first:
            raise ValueError(f"this draw keeps nodes from {self.first} on, got node {node}")


def public_dtype(states: Tensor) -> Tensor:
    """States as users get them: uint16 as int32, since torch has no operations for uint16."""
    return states.to(torch.int32) if states.dtype == torch.uint16 else states


def hide(leaves: Tensor, missing: Tensor) -> Tensor:
    """Leaves with -1 where they are missing: int16, or int32 where they are not of 8 bits."""
    signed = torch.int16 if leaves.dtype == torch.uint8 else torch.int32
    return torch.where(missing, -1, leaves.to(signed))


def shown_rows(rows: range) -> str:
    """The numbers of samples, as text."""
    return f"samples {rows.start}..{rows.stop - 1}" if rows else "no samples"


def _same(a: object, b: object) -> bool:
    """Whether two values are equal; tensors if their shapes and entries are, on any devices."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return np.array_equal(a.cpu().numpy(), b.cpu().numpy())
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)


def check_draw(tables: Tables, members: Sequence[int], draw: Draw) -> None:
    """Raise unless a draw is of these trees, or has no origin and can be of them.

    A draw is of a tree if the digests of their tables are equal; the names of nodes may differ. The
    digests are only computed if the draw was not made from this very object.

    Raises:
        ValueError: another number of nodes, other members, or other tables.
    """
    nodes = len(tables.topology)
    if draw.topology is not tables.topology and len(draw.topology) != nodes:
        raise ValueError(f"the draw has {len(draw.topology)} nodes, this tree {nodes}")
    if draw.members != tuple(members):
        raise ValueError(f"the draw is of members {draw.members}, this tree of {tuple(members)}")
    own = Origin(tables.digest, draw.members)
    if draw.origin is None or (
        draw.origin.digest is own.digest and draw.origin.members == own.members
    ):
        return
    drawn, here = draw.origin.by_member(), own.by_member()
    for member in draw.members:
        if drawn.get(member) != here[member]:
            which = f", for member {member}" * (len(draw.members) > 1)
            raise ValueError(
                f"the draw is of tree {str(drawn.get(member))[:8]}, not of this tree {here[member][:8]}"
                f"{which}; to use its states here all the same, give dataclasses.replace(draw, origin=None)"
            )
