"""Batches of views of any rows, with targets and encoded leaves; the torch data sets are made of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.topology import Node, Topology
from hltm.sampling.augment import Augmentation
from hltm.sampling.draw import hide, public_dtype
from hltm.sampling.philox import MAX_VIEWS, Stream, check_seed
from hltm.sampling.rows import draw_rows
from hltm.sampling.sample import check_rows, missing_leaves
from hltm.tree import LatentTree

Targets = Literal["root", "latents"] | int | Sequence[Node]
TargetsOf = Literal["data", "view"]


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
    """What the data sets of views have in common: they draw any rows, with targets, by their addresses.

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
        self.views = (1 if augment is None else 2) if views is None else views
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
        self.augmented = augment is not None
        self.rates = self.missing = np.zeros(len(topology))
        if augment is not None:
            self.rates = augment.rates(topology)
            self.missing = augment.missing_rates(topology)
            if targets_of == "data":
                check_kept(topology, augment, self.nodes, "or set targets_of='view'")
        self.encode = encode
        self.encoder_parameters = _address_parameters(encode)
        # in shared memory, so that a loader's workers that outlive an epoch see the next one
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch e, in which rows have views C e + 1 .. C e + C."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, and with it the views; call it before each loop over a loader.

        Raises:
            ValueError: an epoch below 0, or views beyond 2^24 - 1.
        """
        if epoch < 0 or self.views * (epoch + 1) >= MAX_VIEWS:
            raise ValueError(f"epoch must be in 0..{MAX_VIEWS // self.views - 2}, got {epoch}")
        self._epoch.fill_(epoch)

    def batch(self, places: np.ndarray) -> ViewBatch:
        """The rows at `(B,)` int64 places in the data set, drawn in one call."""
        topology, rows = self.tree.topology, self.start + places
        low = 1 + self.views * self.epoch
        numbers = range(low, low + self.views) if self.augmented else range(1)
        leaves = topology.leaves.start
        first = min(leaves, *self.nodes)
        drawn = draw_rows(
            self.tree.tables, self.tree.members, rows, seed=self.seed, views=numbers,
            rates=self.rates, stream=self.stream, first=first,
        )  # fmt: skip
        drawn = list(map(public_dtype, drawn))
        chosen = torch.from_numpy(self.nodes - first)
        # nodes that no view redraws have the data's states in every view, so one view is enough
        shown = drawn if self.targets_of == "view" else drawn[:1]
        targets = torch.stack([states[0, chosen].T.long() for states in shown], dim=1)
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
        if self.missing.any():
            gone = missing_leaves(
                self.tree.topology, self.missing, rows, seed=self.seed, stream=self.stream,
                members=self.tree.members, view=view,
            )  # fmt: skip
            leaves_SXB = hide(leaves_SXB, gone)
        leaves = leaves_SXB[0].T.contiguous()  # other libraries expect batch-first memory
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
        targets: `root`, `latents` (all of them), a level, or a list of nodes by number or name.

    Raises:
        ValueError: anything else, or an empty list.

    Example:
        >>> target_nodes(Topology.balanced(2, 2), "latents")
        array([0, 1, 2])
    """
    if isinstance(targets, str) and targets == "root":
        return np.zeros(1, dtype=np.int64)
    if isinstance(targets, str) and targets == "latents":
        return np.array(topology.latents, dtype=np.int64)
    if isinstance(targets, int) and not isinstance(targets, bool):
        return np.array(topology.at_level(targets), dtype=np.int64)
    if isinstance(targets, str) or not isinstance(targets, Sequence) or len(targets) == 0:
        raise ValueError(f"targets must be 'root', 'latents', a level or a list, got {targets!r}")
    return topology.nodes(targets)


def _address_parameters(encode: Callable[..., Tensor] | None) -> list[str]:
    """Which of `rows` and `view` are parameters of an encoder."""
    if encode is None:
        return []
    try:
        parameters = inspect.signature(encode).parameters
    except ValueError:  # functions that are not written in Python need not have a signature
        return []
    return [name for name in ("rows", "view") if name in parameters]
