"""What the units of a layer are compared with: the latents of its rows, or targets of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hltm.inference.ceiling import Leaves
from hltm.model.nodes import Node, NodeNumber
from hltm.probe.batches import ActivationBatch, Label, block_nodes
from hltm.sampling.draw import Draw, public_dtype
from hltm.tree import LatentTree

Targets = Callable[[Draw], Mapping[Label, Tensor]]


class Compared(NamedTuple):
    """One layer's activations and the targets of the same rows.

    Attributes:
        label: of the layer.
        nodes: numbers of the latents that the targets are; empty for other targets.
        names: of all targets.
        own: whether every block of units has targets of its own.
        values: `(S, U, B)`, or `(S, V, U, B)` for blocks.
        rectified: the same as the next layer reads them, if that is known.
        targets: `(S, T, B)`, or `(S, V, T, B)`.
        other: the same of other rows; None without lags.
    """

    label: Label
    nodes: list[int]
    names: list[str]
    own: bool
    values: Tensor
    rectified: Tensor | None
    targets: Tensor
    other: Tensor | None

    @property
    def leaves(self) -> Leaves:
        """Those that its posteriors are given unless chosen: a block's own, of a shared layer all."""
        return "own" if self.own else "all"


def compared(
    batch: ActivationBatch, tree: LatentTree, targets: Targets | None, nodes: list[int] | None
) -> Iterator[Compared]:
    """Every layer of a batch with its targets.

    Args:
        targets: see `hltm.probe.measure`; None for the latents.
        nodes: latents that a layer without blocks is compared with; None for those of its level, or all.

    Raises:
        ValueError: targets that are no mapping, of a layer that is not there, of another shape, or
            not finite.
    """
    if targets is not None:
        yield from _compared_with_own(batch, tree, targets)
        return
    latents = latents_of(batch.draw)
    others = None if batch.other is None else latents_of(batch.other)
    for label, values in batch.shown.items():
        own = values.ndim == 4
        near = block_nodes(label, tree) or list(tree.latents)
        mine = near if own or nodes is None else nodes
        z, other = (
            None if x is None else x[:, mine, None] if own else x[:, mine]
            for x in (latents, others)
        )
        names = [tree.topology.names[v] for v in mine]
        after = None if batch.rectified is None else batch.rectified[label]
        assert z is not None
        yield Compared(label, mine, names, own, values, after, z, other)


def chosen_latents(tree: LatentTree, nodes: Sequence[Node] | None) -> list[int]:
    """Numbers of latents, in the order given; all by default.

    Raises:
        ValueError: nodes that are not latents, or none.
    """
    given = tree.latents if nodes is None else tree.topology.nodes(nodes)
    found: list[int] = list(map(NodeNumber, given))
    bad = [v for v in found if v not in tree.latents]
    if bad or not found:
        shown = repr(tree.topology.names[bad[0]]) if bad else "none"
        raise ValueError(f"nodes must be latents, got {shown}")
    return found


def latents_of(draw: Draw) -> Tensor:
    """`(S, L, B)` states of all latents."""
    return public_dtype(draw.states_SVB[:, : draw.topology.leaves.start])


def _compared_with_own(
    batch: ActivationBatch, tree: LatentTree, targets: Targets
) -> Iterator[Compared]:
    """Every layer that has targets of the user's own.

    Blocks are compared with as many blocks of targets, everything else as whole layers.
    """
    given = _checked(targets, batch.draw, batch)
    others = {} if batch.other is None else _checked(targets, batch.other, batch)
    for label, z in given.items():
        values = batch.shown[label]
        after = None if batch.rectified is None else batch.rectified[label]
        own = values.ndim == z.ndim == 4 and values.shape[1] == z.shape[1]
        blocks = block_nodes(label, tree) if own else []
        count = z.shape[-2] if own else z.shape[1:-1].numel()
        names = [
            f"{tree.topology.names[v]}:{t}" if count > 1 else tree.topology.names[v]
            for v in blocks
            for t in range(count)
        ]
        other = others.get(label)
        if not own:
            values, z = values.flatten(1, -2), z.flatten(1, -2)
            after = None if after is None else after.flatten(1, -2)
            other = None if other is None else other.flatten(1, -2)
        names = names or [str(t) for t in range(count)]
        yield Compared(label, [], names, own, values, after, z, other)


def _checked(targets: Targets, draw: Draw, batch: ActivationBatch) -> dict[Label, Tensor]:
    """Label -> `(S, T, B)` or `(S, V, T, B)` targets of a draw."""
    if not callable(targets):
        raise ValueError(
            "targets must be a function from a draw to layer -> states, because the null needs those of "
            f"other rows too, got {type(targets).__name__}"
        )
    given = targets(draw)
    if not isinstance(given, Mapping) or not given:
        shown = type(given).__name__ if not isinstance(given, Mapping) else "an empty one"
        raise ValueError(f"targets must return a mapping of layers to tensors, got {shown}")
    found: dict[Label, Tensor] = {}
    members, _, rows = draw.states_SVB.shape
    lead = (members, rows) if draw.stacked else (rows,)
    for label, values in given.items():
        if label not in batch.shown:
            raise ValueError(f"targets are for layer {label!r}, the source has {list(batch.shown)}")
        z = torch.as_tensor(values)
        if z.ndim not in (len(lead) + 1, len(lead) + 2) or tuple(z.shape[: len(lead)]) != lead:
            front = ", ".join(map(str, lead))
            raise ValueError(
                f"targets of layer {label!r} have shape {tuple(z.shape)}, expected ({front}, T) or "
                f"({front}, V, T)"
            )
        if z.is_floating_point() and not bool(z.isfinite().all()):
            raise ValueError(f"targets of layer {label!r} are not all finite")
        z = z.detach() if draw.stacked else z.detach()[None]
        found[label] = public_dtype(z).movedim(1, -1)
    return found
