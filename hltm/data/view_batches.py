"""Batches of views of any rows, with targets and encoded leaves; the torch data sets are made of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm.data.batch_items import batch_type
from hltm.model.nodes import Node
from hltm.model.topology import Topology
from hltm.sampling.augment import Augmentation, check_augmentation
from hltm.sampling.draw import hide, public_dtype
from hltm.sampling.observed import flipped_leaves, missing_leaves
from hltm.sampling.philox import MAX_VIEWS, Stream, check_seed
from hltm.sampling.rows import draw_rows
from hltm.sampling.sample import check_rows
from hltm.tree import LatentTree

Targets = Literal["root", "latents"] | int | Sequence[Node] | np.ndarray | Tensor
TargetsOf = Literal["data", "view"]


@batch_type
class ViewBatch(NamedTuple):
    """Views of some rows, or of one row, with their targets.

    Attributes:
        views: C tensors `(B, X)` of leaf states, or the result of `encode`; `(X,)` for one row.
        targets: `(B, T)` int64 states of the target nodes, `(B,)` where the root is the target;
            with `targets_of="view"`, `(B, C, T)` or `(B, C)`. One row has no axis B.
        places: `(B,)` int64 places in the data set; an int for one row.
    """

    views: Sequence[Tensor]
    targets: Tensor
    places: Tensor | int


class ViewReader:
    """What the data sets have in common: they draw any rows, with targets, by their addresses.

    Arguments and errors are those of `hltm.ViewDataset`.
    """

    def __init__(
        self,
        tree: LatentTree,
        augment: Augmentation | None,
        *,
        samples: int,
        seed: int,
        start: int = 0,
        views: int | None = None,
        targets: Targets = "root",
        targets_of: TargetsOf = "data",
        encode: Callable[..., Tensor] | None = None,
        stream: Stream = Stream.DATA,
    ) -> None:
        check_rows(start, samples)
        if tree.stacked:
            raise ValueError(
                f"expected one tree, got {len(tree.members)} members; choose one, e.g. trees[0]"
            )
        by_default = 1 if augment is None else 2
        self.views = by_default if views is None else as_integer("the number of views", views)
        if self.views < 1 or (augment is None and self.views != 1):
            wanted = "1 without an augmentation" if augment is None else "at least 1"
            raise ValueError(f"the number of views must be {wanted}, got {views}")
        if targets_of not in ("data", "view"):
            raise ValueError(f"targets_of must be 'data' or 'view', got {targets_of!r}")
        topology = tree.topology
        self.tree, self.seed, self.stream = tree, check_seed(seed), stream
        self.start, self.samples = start, samples
        self.nodes = target_nodes(topology, targets)
        self.single = isinstance(targets, str) and targets == "root"
        self.targets_of = targets_of
        self.augment = None if augment is None else str(augment)
        self.rates = self.missing = self.flips = np.zeros(len(topology))
        if augment is not None:
            self.rates = check_augmentation(augment).rates(topology)
            self.missing = augment.missing_rates(topology)
            self.flips = augment.flip_rates(topology)
            if targets_of == "data":
                check_kept(topology, augment, self.nodes, "or set targets_of='view'")
        self.encode = encode
        self.encoder_parameters = _address_parameters(encode)
        self._set_up()

    def _set_up(self) -> None:
        """What a derived class adds to a reader whose arguments are checked, which are its own, too."""

    def _summary(self) -> dict[str, str]:
        """What the displays show: a phrase under each heading."""
        views = f"{self.views} view" + ("s" if self.views > 1 else "")
        names = [self.tree.topology.names[v] for v in self.nodes[:5]]
        listed = ", ".join(names) + (", …" if len(self.nodes) > 5 else "")
        return {
            "rows": f"{self.samples} rows",
            "views": views if self.augment is None else f"{views} of {self.augment}",
            "targets": f"targets {'root' if self.single else listed or 'none'}",
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._summary().values())})"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        encode = getattr(self.encode, "__name__", None) or type(self.encode).__name__
        cells = {
            "tree": repr(self.tree), **self._summary(),
            "encode": "none" if self.encode is None else encode, "seed": str(self.seed),
        }  # fmt: skip
        rows = "".join(
            f"<tr><th>{key}</th><td>{escape(text)}</td></tr>" for key, text in cells.items()
        )
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"

    def _draw(self, places: np.ndarray, epoch: int) -> ViewBatch:
        """The rows at `(B,)` int64 places in the data set, drawn in one call."""
        topology, rows = self.tree.topology, self.start + places
        low = 1 + self.views * epoch
        if low + self.views > MAX_VIEWS:
            raise ValueError(f"there are 2^24 views of a row, but epoch {epoch} needs more")
        numbers = range(low, low + self.views) if self.augment is not None else range(1)
        leaves = topology.leaves.start
        first = min([leaves, *self.nodes])
        # without rows, one is drawn for the shapes of what has none
        drawn = draw_rows(
            self.tree.tables, self.tree.members, rows if len(rows) else np.array([self.start]),
            seed=self.seed, views=numbers, rates=self.rates, stream=self.stream, first=first,
        )  # fmt: skip
        drawn = [public_dtype(states[..., : len(rows)]) for states in drawn]
        chosen = torch.from_numpy(self.nodes - first)
        # nodes that no view redraws have the data's states in every view, so one view is enough
        kept = drawn if self.targets_of == "view" else drawn[:1]
        targets = torch.stack([states[0, chosen].T.long() for states in kept], dim=1)
        targets = targets[..., 0] if self.single else targets
        targets = targets if self.targets_of == "view" else targets[:, 0]
        row_numbers = torch.from_numpy(rows)
        views = [
            self._encoded(states[:, leaves - first :], row_numbers, view)
            for view, states in zip(numbers, drawn, strict=True)
        ]
        return ViewBatch(views, targets, torch.from_numpy(places))

    def _encoded(self, leaves_SXB: Tensor, rows: Tensor, view: int) -> Tensor:
        """The leaves of one view, `(B, X)` or as the encoder returns them."""
        where: Any = {
            "seed": self.seed, "stream": self.stream, "members": self.tree.members, "view": view,
        }  # fmt: skip
        if self.flips.any():
            leaves_SXB = flipped_leaves(
                self.tree.tables, self.flips, leaves_SXB, rows=rows, **where
            )
        if self.missing.any():
            gone = missing_leaves(self.tree.topology, self.missing, rows, **where)
            leaves_SXB = hide(leaves_SXB, gone)
        # other libraries expect batch-first memory, which numpy makes several times as fast as torch
        leaves = torch.from_numpy(np.ascontiguousarray(leaves_SXB[0].T.numpy()))
        if self.encode is None:
            return leaves
        address = {"rows": rows, "view": view}
        return self.encode(leaves, **{name: address[name] for name in self.encoder_parameters})


def check_kept(
    topology: Topology, augment: Augmentation, nodes: np.ndarray, instead: str = ""
) -> None:
    """Raise where a view may redraw a node that is a target.

    Args:
        nodes: numbers of the targets.
        instead: another remedy for the error to name.

    Raises:
        ValueError: a target that the augmentation may redraw.
    """
    redrawn = nodes[augment.may_redraw(topology)[nodes]]
    if len(redrawn):
        raise ValueError(
            f"target {topology.names[redrawn[0]]!r} may be drawn again by {augment}: "
            + ", ".join(filter(None, ["choose nodes that it keeps", instead]))
        )


def target_nodes(topology: Topology, targets: Any) -> np.ndarray:
    """The numbers of the target nodes, int64.

    Args:
        targets: `root`, `latents` (all of them), a level, or nodes by number or name in a list, an
            array or a tensor, which may be empty.

    Raises:
        ValueError: anything else.

    Example:
        >>> target_nodes(Topology.balanced(2, 2), "latents")
        array([0, 1, 2])
    """
    if isinstance(targets, str) and targets == "root":
        return np.zeros(1, dtype=np.int64)
    if isinstance(targets, str) and targets == "latents":
        return np.array(topology.latents, dtype=np.int64)
    given: Any = (
        targets.tolist() if isinstance(targets, (np.ndarray, Tensor, np.generic)) else targets
    )
    if isinstance(given, int) and not isinstance(given, bool):
        return np.array(topology.at_level(given), dtype=np.int64)
    wrong = isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable)
    nodes: list[Any] = [None] if wrong else list(given)
    if not all(isinstance(v, (str, int, np.integer)) and not isinstance(v, bool) for v in nodes):
        raise ValueError(f"targets must be 'root', 'latents', a level or a list, got {targets!r}")
    return topology.nodes(nodes)


def _address_parameters(encode: Callable[..., Tensor] | None) -> list[str]:
    """Which of `rows` and `view` are parameters of an encoder."""
    if encode is None:
        return []
    try:
        parameters = inspect.signature(encode).parameters
    except ValueError:  # functions that are not written in Python need not have a signature
        return []
    return [name for name in ("rows", "view") if name in parameters]
