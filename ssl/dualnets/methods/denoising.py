"""Denoising: the states of all leaves of a sample, predicted from a noisy view of it.

With z the sample, v its noisy view and q the softmax of the network's logits,

    L = - mean over x of log q_x(z_x | v),

averaged over the batch: the cross-entropy by which discrete diffusion models are trained at one level of
noise (Austin and others, arXiv 2107.03006, Section 3). The best q is the posterior of every leaf given the
noisy ones. The noise is the augmentation's: leaves that are drawn again, missing, or replaced by any state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets.methods._leaf_prediction import LeafPrediction
from dualnets.methods.protocol import Needs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Denoising(LeafPrediction):
    """One noisy view, and the sample itself, whose states are the labels.

    The level of noise is the same in all of a training, so that the network need not be told it. Head, state
    and settings are those of every method that predicts leaves.

    Raises:
        TypeError: a value of another type.
        ValueError: before training, data other than trees, or `per_leaf` for a network without positions.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.mlp(trees, units=16, bias=True, seed=1)
        >>> final = dualnets.train(network, Denoising(), trees, augment=hltm.resample_leaves(0.3),
        ...                        steps=80, batch=32, optimizer=dualnets.Adam(lr=0.01), seed=2)
        >>> bool((final.losses < 0.6).all())  # below log 2, that of a guess
        True
    """

    @property
    def needs(self) -> Needs:
        return Needs(views=1, original=True)

    def _predicted(self, view: Tensor, states: Tensor) -> Tensor | None:
        return None
