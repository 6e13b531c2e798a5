"""How far a tree network's layers are invariant to synonyms in a Random Hierarchy Model.

For a latent ν of level l below the root and the block of its parent, with f the block's outputs:

    invariance = 1 - r / s,    r = E ‖f(x) - f(x')‖²,    s = E ‖f(x) - f(x'')‖²,

where x' has the rule of ν's symbol drawn again and all below it, and x'' has the leaves below ν of another
sample (the ratio of arXiv 2307.02129 and 2406.00048, for one symbol at a time). It is 1 where the block
depends on the symbol of ν alone, and NaN where it does not depend on ν's leaves at all.

Axes: S members, B samples, X leaves, V latents of the level, s branching.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dualnets.networks.block_network import BlockNetwork
from hltm.sampling.augment import resample_subtrees
from hltm.sampling.philox import Stream
from hltm.tree import LatentTree

UNSEEN = 255  # of uint8 leaves: no state, so that all its features are 0


@dataclass(frozen=True)
class Probe:
    """Leaves of evaluation samples, and the same with every symbol of a level rewritten.

    Attributes:
        leaves: `(S, B, X)` uint8.
        rewritten: level -> `(S, B, X)`.
        branching: s.
        hidden: whether the last leaf is not shown, and latents above it are left out.
    """

    leaves: Tensor
    rewritten: dict[int, Tensor]
    branching: int
    hidden: bool

    @classmethod
    def draw(cls, trees: LatentTree, samples: int, *, seed: int, hidden: bool) -> Probe:
        """Draw the samples; none is trained on.

        Args:
            trees: balanced, of random hierarchies: a latent's state is drawn from those of its symbol.
            samples: B.
            seed: of the samples.
            hidden: whether the last leaf is not shown.
        """
        draw = trees.draw(samples, seed=seed, stream=Stream.EVALUATION)
        rewritten = {}
        for level in range(1, trees.topology.depth):
            # a latent is drawn again given its parent's rule, which has its symbol: a new rule alone
            (view,) = trees.views(draw, resample_subtrees(1.0, level), count=1)
            rewritten[level] = _shown(view.leaves, hidden)
        branching = len(trees.topology.children[0])
        return cls(_shown(draw.leaves, hidden), rewritten, branching, hidden)

    @torch.no_grad()
    def measure(self, network: BlockNetwork) -> dict[int, Tensor]:
        """Level 1 .. L - 1 -> `(S, V)` float64 invariance of a tree network; without latents left out."""
        here = self._blocks(network, self.leaves)
        return {level: self._of_level(network, here, level) for level in self.rewritten}

    def _blocks(self, network: BlockNetwork, leaves: Tensor) -> dict[int, Tensor]:
        return network.rectify(network.activations(leaves))

    def _of_level(self, network: BlockNetwork, here: dict[int, Tensor], level: int) -> Tensor:
        places = torch.arange(self.leaves.shape[-1])
        child = places // self.branching**level % self.branching  # of its ancestor of level + 1
        others = self.leaves.roll(1, dims=1)
        found = []
        for own in range(self.branching):
            changed = [
                self._blocks(network, torch.where(child == own, new, self.leaves))[level + 1]
                for new in (self.rewritten[level], others)
            ]
            r, s = ((new - here[level + 1]).double().square().mean(1).sum(-1) for new in changed)
            found.append(1 - r / s)  # (S, V / s)
        each = torch.stack(found, dim=-1).flatten(1)
        # beside the path to the hidden leaf: its ancestors are the last of every level
        return each[:, -self.branching : -1] if self.hidden else each


def _shown(leaves: Tensor, hidden: bool) -> Tensor:
    leaves = leaves.clone()
    if hidden:
        leaves[..., -1] = UNSEEN
    return leaves
