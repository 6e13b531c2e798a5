"""Batches of views of any rows, with targets and encoded leaves: what torch data sets are made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.topology import Node, Topology
from hltm.sampling.augment import Augmentation
from hltm.sampling.draw import hide
from hltm.sampling.philox import MAX_VIEWS, Stream, check_seed
from hltm.sampling.rows import draw_rows
from hltm.sampling.sample import missing_leaves
from hltm.tree import LatentTree

Targets = Literal["root", "latents"] | int | Sequence[Node]
TargetsOf = Literal["data", "view"]


class ViewBatch(NamedTuple):
    """Views of some rows, or of one row, and what is known about them.

    Attributes:
        views: C tensors `(B, X)` of leaf states, or what `encode` makes of them; of one row, `(X,)`.
        targets: `(B, T)` int64 states of the target nodes, `(B,)` where the root is the target;
            with `targets_of="view"`, `(B, C, T)` or `(B, C)`. Of one row, without B.
        places: `(B,)` int64 places in the data set; of one row, an int.
    """

    views: Sequence[Tensor]
    targets: Tensor
    places: Tensor | int


class Views:
    """What every data set of views is: a tree, a seed, views, targets, an encoder and the epoch.

    See `hltm.dataset.ViewDataset` for the arguments.

    Raises:
        ValueError: stacked trees, a number of views below 1, targets that are none, a target that
            a view may draw again though it is asked of the data, and bad seeds and levels.
    """

    def __init__(
        self,
        tree: LatentTree,
        augmentation: Augmentation | None,
        *,
        seed: int,
        start: int,
        views: int | None,
        targets: Targets,
        targets_of: TargetsOf,
        encode: Callable[..., Tensor] | None,
        stream: Stream,
    ) -> None:
        if tree.stacked:
            raise ValueError("a data set is of one tree; choose a member, e.g. trees[0]")
        self.views = (1 if augmentation is None else 2) if views is None else views
        if self.views < 1 or (augmentation is None and self.views != 1):
            wanted = "1 without an augmentation" if augmentation is None else "at least 1"
            raise ValueError(f"the number of views must be {wanted}, got {views}")
        if targets_of not in ("data", "view"):
            raise ValueError(f"targets_of must be 'data' or 'view', got {targets_of!r}")
        topology = tree.topology
        self.tree, self.seed, self.start, self.stream = tree, check_seed(seed), start, stream
        self.nodes = target_nodes(topology, targets)
        self.single = isinstance(targets, str) and targets == "root"
        self.targets_of = targets_of
        self.augmented = augmentation is not None
        self.rates = np.zeros(len(topology))
        self.missing = np.zeros(len(topology))
        if augmentation is not None:
            self.rates = augmentation.rates(topology)
            self.missing = augmentation.missing_rates(topology)
            if targets_of == "data":
                check_kept(topology, augmentation, self.nodes, "or for targets_of='view'")
        self.encode = encode
        self.told = _told(encode)
        # shared with the workers of a loader, also with those that outlive an epoch
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """e: rows are seen through views C e + 1 .. C e + C."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """See the rows through the views of this epoch; call it before a loader's loop.

        Raises:
            ValueError: an epoch below 0, or views beyond 2^24 - 1.
        """
        if epoch < 0 or self.views * (epoch + 1) >= MAX_VIEWS:
            raise ValueError(f"epoch must be in 0..{MAX_VIEWS // self.views - 2}, got {epoch}")
        self._epoch.fill_(epoch)

    def batch(self, places: np.ndarray) -> ViewBatch:
        """Several rows, by their `(B,)` int64 places in the data set, drawn in one call."""
        topology, rows = self.tree.topology, self.start + places
        low = 1 + self.views * self.epoch
        numbers = range(low, low + self.views) if self.augmented else range(1)
        leaves = topology.leaves.start
        first = min(leaves, *self.nodes)
        drawn = draw_rows(
            self.tree.tables,
            self.tree.members,
            rows,
            seed=self.seed,
            views=numbers,
            rates=self.rates,
            stream=self.stream,
            first=first,
        )
        chosen = torch.from_numpy(self.nodes - first)
        # nodes that no view draws again have the data's states in every view
        shown = drawn if self.targets_of == "view" else drawn[:1]
        targets = torch.stack([states[0, chosen].T.long() for states in shown], dim=1)
        targets = targets[..., 0] if self.single else targets
        targets = targets if self.targets_of == "view" else targets[:, 0]
        row_numbers = torch.from_numpy(rows)
        views = [
            self._shown(states[:, leaves - first :], row_numbers, view)
            for view, states in zip(numbers, drawn, strict=True)
        ]
        return ViewBatch(views, targets, torch.from_numpy(places))

    def _shown(self, leaves_SXB: Tensor, rows: Tensor, view: int) -> Tensor:
        """One view's leaves `(B, X)` as a network reads them."""
        if self.missing.any():
            gone = missing_leaves(
                self.tree.topology,
                self.missing,
                rows,
                seed=self.seed,
                stream=self.stream,
                members=self.tree.members,
                view=view,
            )
            leaves_SXB = hide(leaves_SXB, gone)
        leaves = leaves_SXB[0].T.contiguous()  # other libraries expect batch-first memory
        if self.encode is None:
            return leaves
        told = {name: {"rows": rows, "view": view}[name] for name in self.told}
        return self.encode(leaves, **told)


def check_kept(
    topology: Topology, augmentation: Augmentation, nodes: np.ndarray, instead: str = ""
) -> None:
    """Raise ValueError where a view may draw one of the nodes again; `instead` says what else to ask."""
    redrawn = nodes[augmentation.may_redraw(topology)[nodes]]
    if len(redrawn):
        raise ValueError(
            f"target {topology.names[redrawn[0]]!r} may be drawn again by {augmentation}: "
            + ", ".join(filter(None, ["ask for nodes that it keeps", instead]))
        )


def target_nodes(topology: Topology, targets: Any) -> np.ndarray:
    """The numbers of the target nodes.

    Raises:
        ValueError: not targets, or none.
    """
    if isinstance(targets, str) and targets == "root":
        return np.zeros(1, dtype=np.int64)
    if isinstance(targets, str) and targets == "latents":
        return np.array(topology.latents, dtype=np.int64)
    if isinstance(targets, int) and not isinstance(targets, bool):
        return np.array(topology.at_level(targets), dtype=np.int64)
    if isinstance(targets, str) or not isinstance(targets, Sequence) or len(targets) == 0:
        raise ValueError(
            f"targets must be 'root', 'latents', a level or a list of nodes, got {targets!r}"
        )
    return topology.nodes(targets)


def _told(encode: Callable[..., Tensor] | None) -> list[str]:
    """Which of `rows` and `view` an encoder takes."""
    if encode is None:
        return []
    try:
        taken = inspect.signature(encode).parameters
    except ValueError:  # some functions that are not written in Python
        return []
    return [name for name in ("rows", "view") if name in taken]
