"""Masked prediction: the states of the leaves that a view misses, predicted from those that it shows.

With z the sample, M the leaves that its view v misses and q the softmax of the network's logits,

    L = - mean over x in M of log q_x(z_x | v),

the mean over all missing leaves of a member's batch (BERT, arXiv 1810.04805). No predictor has a lower
loss than the posterior of the leaves, whose loss is that of Bayes. Which leaves are missing is the
augmentation's: `hltm.drop_leaves(0.3)` for single leaves, `hltm.drop_subtrees(0.3, level=1)` for all leaves
below a latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets.methods._leaf_prediction import LeafPrediction, check_leaves_out, is_missing
from dualnets.methods.protocol import Needs, TrainContext

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class MaskedPrediction(LeafPrediction):
    """One view that misses leaves, and the sample itself, whose states are the labels.

    A member whose batch misses no leaf has the loss 0 in that step, and no gradient. Head, state and settings
    are those of every method that predicts leaves: a network with outputs at positions, such as
    `transformer`, predicts each leaf from the output at its position; any other network, such as `mlp`,
    predicts all leaves from its one output.

    Raises:
        TypeError: a value of another type.
        ValueError: before training, data other than trees, an augmentation that leaves out no leaf, or
            `per_leaf` for a network without positions.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.random_hierarchy(v=4, m=2, s=2, L=2, classes=2, members=2, seed=0)
        >>> network = dualnets.mlp(trees, units=16, bias=True, seed=1)
        >>> final = dualnets.train(network, MaskedPrediction(), trees, augment=hltm.drop_leaves(0.3),
        ...                        steps=80, batch=32, optimizer=dualnets.Adam(lr=0.01), seed=2)
        >>> bool((final.losses < 1.2).all())  # below log 4, that of a guess
        True
    """

    @property
    def needs(self) -> Needs:
        return Needs(views=1, original=True)

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where there is nothing to predict."""
        super().check(network, setup)
        check_leaves_out(setup, needed=True)

    def _predicted(self, view: Tensor, states: Tensor) -> Tensor | None:
        return is_missing(view, states)
