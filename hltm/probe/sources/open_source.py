"""What is probed and on which rows: arrays, modules and networks; draws and exported folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hltm.probe.sources.containers import Array, Label, as_array, as_floats, as_label
from hltm.probe.sources.layer_axes import check_axis
from hltm.probe.sources.rows import Rowed, Rows, as_rows, is_network
from hltm.probe.sources.torch_network import TorchNetwork
from hltm.tree import LatentTree

BatchAxis = int | Mapping[Any, int]


@dataclass(frozen=True)
class Source:
    """Activations by layer, batch by batch, and the rows that they are of.

    Attributes:
        given: a network with `activations(leaves)`, or layer -> array with its rows in front.
        batch_axis: the axis of the rows in what the network returns, S aside.
        by_position: whether layers are read as vectors at positions rather than as blocks of a level.
    """

    given: Any
    tree: LatentTree
    rows: Rows
    batch_axis: BatchAxis | None = None
    by_position: bool = False

    def read(self, rows: range, leaves: Tensor) -> dict[Label, Tensor]:
        """Layer -> `(S, U, B)`, or `(S, V, U, B)` for blocks of a level; floats without gradient.

        By position a layer is `(S, X, U, B)`, or `(S, 1, U, B)` without a vector at every leaf.

        Args:
            rows: some of the rows, counted from 0.
            leaves: `(S, X, B)` their leaves.
        """
        return self.read_both(rows, leaves)[0]

    def read_both(
        self, rows: range, leaves: Tensor
    ) -> tuple[dict[Label, Tensor], dict[Label, Tensor] | None]:
        """As `read`, and the same as the next layer reads them, for a network with `rectify`."""
        stacked = self.rows.stacked
        if isinstance(self.given, Mapping):
            some = (*(slice(None),) * stacked, slice(rows.start, rows.stop))
            return {
                label: self._batch_last(label, as_floats(array[some]))
                for label, array in self.given.items()
            }, None
        with torch.no_grad():
            shown = self.given.activations(leaves.transpose(1, 2) if stacked else leaves[0].T)
            rectified = self.given.rectify(shown) if hasattr(self.given, "rectify") else None
        behind = None if rectified is None else self._arranged(rectified, len(rows))
        return self._arranged(shown, len(rows)), behind

    def _arranged(self, shown: Any, rows: int) -> dict[Label, Tensor]:
        """What a network returned for some rows, as `read` gives it."""
        if not isinstance(shown, Mapping):
            raise ValueError(
                f"activations(leaves) returned a {type(shown).__name__}, expected a mapping from layers "
                "to arrays"
            )
        found = _arrays(shown, self.tree, self.rows, rows, self.batch_axis, self.by_position)
        return {label: self._batch_last(label, as_floats(x)) for label, x in found.items()}

    def _batch_last(self, label: Label, values: Tensor) -> Tensor:
        """Activations `(B, …)` or `(S, B, …)` with the rows behind; blocks for a level's number.

        Raises:
            ValueError: another shape for a layer that is a level.
        """
        full = values if self.rows.stacked else values[None]
        if full.ndim == 2:
            full = full[..., None]  # one unit
        if self.by_position:
            at_leaves = full.ndim == 4 and full.shape[2] == len(self.tree.leaves)
            return full.permute(0, 2, 3, 1) if at_leaves else full.flatten(2).mT[:, None]
        if full.ndim == 3:
            return full.transpose(1, 2)
        if isinstance(label, str):
            return full.flatten(2).transpose(1, 2)
        nodes = len(self.tree.level(label))
        if full.ndim == 4 and full.shape[2] == nodes:
            return full.permute(0, 2, 3, 1)
        at_leaves = full.ndim == 4 and full.shape[2] == len(self.tree.leaves)
        if at_leaves and callable(getattr(self.given, "positions", None)):
            return full.flatten(2).mT  # a vector at every leaf: no node's own block
        front = ", ".join(map(str, values.shape[: 1 + self.rows.stacked]))
        raise ValueError(
            f"activations of layer {label} have shape {tuple(values.shape)}, expected ({front}, U) or "
            f"({front}, {nodes}, U), a block for each node of level {label} of this tree; a network that was "
            "made on another tree has other blocks"
        )


def open_source(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    batch_axis: BatchAxis | None = None,
    by_position: bool = False,
) -> Source:
    """Whatever `measure` takes, as batches of activations and the rows that they are of.

    Args:
        source: arrays, a mapping layer -> array, a torch module, or a network with
            `activations(leaves)` that returns such a mapping.
        draw, samples, seed: as in `measure`.
        batch_axis: the axis of the rows where it is not the first, or layer -> axis; the axis of
            members is not counted.
        by_position: as in `Source`; layers may then have any number as their name.

    Raises:
        ValueError: no layer, a label that is neither text nor a level, an array of another shape or
            without real numbers, arrays without the draw that they were computed on, or errors of
            `as_rows`.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(6, seed=1)
        >>> hidden = np.zeros((5, 6, 2))  # (T, B, U), as sequence-first networks have it
        >>> source = open_source({"hidden": hidden}, tree, draw=draw, batch_axis=1)
        >>> source.read(range(2, 6), draw.states_SVB[:, 3:, 2:])["hidden"].shape
        torch.Size([1, 10, 4])
    """
    given, network = source, is_network(source)
    if not network and isinstance(source, nn.Module):
        given, network, batch_axis = TorchNetwork(source, batch_axis=batch_axis), True, None
    if isinstance(given, TorchNetwork):
        if batch_axis is not None:
            raise ValueError("give batch_axis to the TorchNetwork, which arranges its own layers")
        given = given.on(tree)
    if not network and callable(source):
        name = getattr(source, "__name__", type(source).__name__)
        raise ValueError(
            f"{name} is a function, expected arrays, a torch module, or an object with "
            "activations(leaves)"
        )
    several = source.values() if isinstance(source, Mapping) else source
    if isinstance(several, list | tuple | type({}.values())) and any(
        isinstance(each, nn.Module) for each in several
    ):
        raise ValueError(
            "got several modules: measure one at a time, or give an object with stacked = True, members (one "
            "number each) and activations(leaves), from leaves (S, B, X) to layer -> (S, B, U)"
        )
    if not network and draw is None:
        raise ValueError("activations as arrays need the draw that they were computed on")
    rows = as_rows(draw, tree, given, samples, seed)
    if network:
        return Source(given, tree, rows, batch_axis, by_position)
    found = _arrays(source, tree, rows, rows.total, batch_axis, by_position)
    return Source(found, tree, rows, by_position=by_position)


def _arrays(
    shown: Any,
    tree: LatentTree,
    rows: Rows,
    total: int,
    batch_axis: BatchAxis | None,
    by_position: bool,
) -> dict[Label, Array]:
    """Layer -> array with its rows in front, from one array or a mapping.

    One array of blocks is the level that has as many nodes, where only one level has and no axis is
    given for its rows.
    """
    members = len(rows.members) if rows.stacked else 0
    single = not isinstance(shown, Mapping) or hasattr(shown, "toarray")  # a sparse matrix of scipy
    named = {"activations": shown} if single else shown
    if not named:
        raise ValueError("the mapping of activations is empty: expected at least one layer")
    if isinstance(batch_axis, Mapping) and (unknown := [k for k in batch_axis if k not in named]):
        raise ValueError(
            f"batch_axis names no layer {unknown[0]!r}, expected {', '.join(map(repr, named))}"
        )
    found: dict[Label, Array] = {}
    for label, values in named.items():
        axis = batch_axis.get(label) if isinstance(batch_axis, Mapping) else batch_axis
        check_axis("batch_axis", axis)
        array = as_array(label, values, rows=total, members=members)
        own = as_label(label) if by_position else _checked_label(label, tree)
        found[own] = _rows_first(label, array, total, members, axis)
    if single and batch_axis is None and not by_position:
        (array,) = found.values()
        levels = range(1, tree.topology.depth + 1) if array.ndim == 3 + bool(members) else ()
        fits = [v for v in levels if len(tree.level(v)) == array.shape[-2]]
        if len(fits) == 1:
            return {fits[0]: array}
    return found


def _checked_label(label: Any, tree: LatentTree) -> Label:
    """A layer's label: any text, or the number of a level.

    Raises:
        ValueError: anything else, such as the place of a layer in a list.
    """
    if isinstance(label, str):
        return label
    depth = tree.topology.depth
    whole = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
    if not whole or not 1 <= label <= depth:
        raise ValueError(
            f"layer {label!r:.60} is neither a name (text, such as '{label!s:.60}') nor a level of the "
            f"tree (1..{depth})"
        )
    return int(label)


def _rows_first(label: Any, array: Array, total: int, members: int, axis: int | None) -> Array:
    """A view of an array with its rows in front, or behind the axis of members.

    Raises:
        ValueError: an array without `total` rows there, or one that has them on two axes.
    """
    front, shape = int(members > 0), tuple(array.shape)
    what = f"activations of layer {label!r:.60} have shape {shape}"
    if members and shape[0] != members:
        raise ValueError(f"{what}, expected {members} members on axis 0")
    own = shape[front:]
    at = 0 if axis is None else axis + len(own) * (axis < 0)
    if not 0 <= at < len(own) or own[at] != total:
        others = [i for i, size in enumerate(own) if size == total and i != at]
        hint = "".join(
            f"; if axis {i} is that of the rows, give batch_axis={i}" for i in others[:1]
        )
        given = "" if axis is None else f" (batch_axis={axis})"
        behind = " behind that of the members" * bool(members)
        raise ValueError(f"{what}, expected {total} rows on axis {axis or 0}{behind}{given}{hint}")
    if axis is None and len(own) > 2 and own[1] == total:
        raise ValueError(
            f"{what}, so two axes may be that of its {total} rows: give batch_axis=0, or batch_axis=1"
        )
    if not at:
        return array
    if isinstance(array, Tensor):
        return array.movedim(at + front, front)
    return np.moveaxis(array, at + front, front)
