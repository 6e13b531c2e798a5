"""Next leaf: every leaf's state, predicted from the leaves before it.

With z a view of a sample and q_x the softmax of the logits at position x of a causal network,

    L = - mean over x of log q_x(z_x | z_0 … z_(x-1)),

averaged over the batch: the autoregressive loss of language models. X L is at least the entropy of the
leaves, which the exact predictor of the tree attains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets.methods._leaf_prediction import LeafPrediction, check_leaves_out
from dualnets.methods.protocol import Needs, TrainContext

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class NextLeaf(LeafPrediction):
    """One view and a causal network, whose output at a position depends on the leaves before it alone.

    With an augmentation that changes nothing, such as `hltm.resample_leaves(0.0)`, the view is the sample
    itself. Head, state and settings are those of every method that predicts leaves.

    Raises:
        TypeError: a value of another type.
        ValueError: before training, data other than trees, a network that is not causal, or an augmentation
            that leaves out leaves.
    """

    @property
    def needs(self) -> Needs:
        return Needs(views=1)

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where a network sees the leaf that it predicts."""
        super().check(network, setup)
        if not getattr(network, "causal", False):
            raise ValueError(
                "the next leaf is predicted by a causal network, e.g. dualnets.transformer(trees, "
                f"causal=True, seed=1), got {type(network).__name__} that is not causal"
            )
        check_leaves_out(setup, needed=False)

    def _predicted(self, view: Tensor, states: Tensor) -> Tensor | None:
        return None
