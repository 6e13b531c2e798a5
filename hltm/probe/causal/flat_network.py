"""A network as causal probes see it: members in front, layers of flat units that can be replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hltm.probe.accumulators.checks import check_finite
from hltm.probe.batches import Label
from hltm.probe.causal.replacing import Replacement, run_with
from hltm.probe.sources.open_source import open_source
from hltm.sampling.draw import Draw
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample
from hltm.tree import LatentTree


class FlatNetwork:
    """A network on the leaves of its trees, run on rows of the evaluation stream, which training never reads.

    Args:
        source: any object with `activations(leaves)`; see `hltm.probe.measure`.
        tree: of the leaves; S networks may share one tree.
        seed: of the rows.
        layers: names of the layers that are shown; all by default.

    Attributes:
        members, stacked, device: of the network, or of the tree where it does not say.
        units: layer -> number of units, for layers that have been shown.
        blocks: layer -> (V, U) where each latent of a level has a block of units, None elsewhere.

    Raises:
        TypeError: a source without activations.
        ValueError: when it runs: a layer that the source does not show, or activations that are not
            finite or of another shape.
    """

    def __init__(
        self, source: Any, tree: LatentTree, seed: int, layers: Sequence[Label] | None = None
    ) -> None:
        if not hasattr(source, "activations") and not isinstance(source, nn.Module):
            raise TypeError(
                f"a {type(source).__name__} cannot be run on other leaves: expected a torch module or a "
                "network with activations(leaves)"
            )
        self.opened = open_source(source, tree, samples=1, seed=seed)
        self.source, self.tree, self.seed, self.layers = self.opened.given, tree, seed, layers
        self.members, self.stacked = self.opened.rows.members, self.opened.rows.stacked
        self.device = self.opened.rows.device
        self.units: dict[Label, int] = {}
        self.blocks: dict[Label, tuple[int, int] | None] = {}

    def draw(self, rows: range) -> Draw:
        """Rows of the evaluation stream, `(S, V, B)` states."""
        return sample(
            self.tree.tables, self.members, len(rows), seed=self.seed, start=rows.start,
            stream=Stream.EVALUATION, device=self.device,
        )  # fmt: skip

    def leaves(self, draw: Draw) -> Tensor:
        """`(S, B, X)` states of the leaves."""
        return draw.states_SVB[:, self.tree.leaves.start - draw.first :].transpose(1, 2)

    def activations(self, leaves: Tensor) -> dict[Label, Tensor]:
        """Layer -> `(S, U, B)`, the units of all blocks one after the other, of `(S, B, X)` leaves."""
        shown = self.opened.read(range(leaves.shape[1]), leaves.transpose(1, 2))
        if self.layers is not None:
            for label in self.layers:
                if label not in shown:
                    raise ValueError(
                        f"the network shows no layer {label!r}, only {list(shown)}"[:290]
                    )
            shown = {label: shown[label] for label in self.layers}
        found = {}
        for label, full in shown.items():
            self.blocks[label] = (full.shape[1], full.shape[2]) if full.ndim == 4 else None
            flat = full.flatten(1, -2)
            check_finite(flat, label)
            self.units[label] = flat.shape[1]
            found[label] = flat
        return found

    def output(
        self, leaves: Tensor, replace: Mapping[Label, tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """`(S, B, O)` float64 output, all numbers of a sample in order.

        Args:
            leaves: `(S, B, X)`.
            replace: layer -> units `(S, U)` bool, and values `(S, U, B)` or `(S, U, 1)`.
        """
        changed = {
            label: Replacement(
                self._as_shown(label, units[..., None]), self._as_shown(label, values)
            )
            for label, (units, values) in (replace or {}).items()
        }
        with torch.no_grad():
            found = run_with(self.source, self._public(leaves), changed).double()
        found = found if self.stacked else found[None]
        lead = (len(self.members), leaves.shape[1])
        if tuple(found.shape[:2]) != lead:
            raise ValueError(
                f"the network returns {tuple(found.shape)}, expected {lead[1]} rows in front"
                + (f" behind {lead[0]} members" if self.stacked else "")
            )
        return found.reshape(*lead, -1)

    def candidates(self, label: Label, nodes: Sequence[int]) -> Tensor:
        """`(U, T)` bool: the units that may stand for each node: its own block, or the whole layer.

        Where latents have blocks, none may for a latent of another level.
        """
        blocks = self.blocks[label]
        if blocks is None:
            return torch.ones(self.units[label], len(nodes), dtype=torch.bool)
        level = list(self.tree.level(int(label)))
        block = torch.arange(blocks[0]).repeat_interleave(blocks[1])
        place = torch.tensor([level.index(v) if v in level else -1 for v in nodes])
        return block[:, None] == place

    def _as_shown(self, label: Label, flat: Tensor) -> Tensor:
        """`(S, U, B)` in the shape of the network's own activations."""
        blocks = self.blocks[label]
        shown = (
            flat.transpose(1, 2)
            if blocks is None
            else flat.unflatten(1, blocks).permute(0, 3, 1, 2)
        )
        return shown if self.stacked else shown[0]

    def _public(self, leaves: Tensor) -> Tensor:
        return leaves if self.stacked else leaves[0]
