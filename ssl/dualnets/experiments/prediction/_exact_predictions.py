"""What the exact predictors of all filtered trees predict on fixed rows, and how far a network is from each.

The filtered tree of level l has the tree's correlations up to level l and no others; its predictor q_l is
its posterior of the leaves. A network's distance from it is the mean Kullback-Leibler divergence
KL(q_l || network) over the leaves that are predicted. For the highest level, where q_l is the tree's own
posterior p, this is the network's loss in excess of the Bayes loss, since on average over the labels

    E[-log network] = E[-log p] + KL(p || network),

and no label has to be drawn: on the same rows it is known far better than the loss.

Axes: S member, B sample, X leaf, K state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualnets.methods._leaf_prediction import LeafPrediction
from dualnets.methods.protocol import Batch, State
from hltm.inference.noise import Flips, Masking, Noise
from hltm.model.states import MISSING
from hltm.sampling.draw import Draw
from hltm.sampling.philox import Stream
from hltm.tree import LatentTree

PART = 512  # rows that a network reads at once


class ExactPredictions(NamedTuple):
    """Fixed rows with the predictions of every filtered tree.

    Attributes:
        draw: the samples, with the states of all nodes.
        shown: `(S, B, X)` int64, what a network reads of them; -1 where a leaf is missing.
        counted: `(S, B, X)` float32, 1 for the leaves that are predicted, else 0.
        levels: `(L + 1, S, B, X, K)` float32, the predictions of the filtered trees of levels 0 to L.
    """

    draw: Draw
    shown: Tensor
    counted: Tensor
    levels: Tensor

    def between(self, level: int) -> Tensor:
        """`(S, X)` the mean divergence of the predictor of a level from that of the tree."""
        return self._mean(_divergence(self.levels[-1], self.levels[level].log()))

    @property
    def bayes(self) -> Tensor:
        """`(S, X)` the Bayes loss on these rows, the mean entropy of the tree's predictions."""
        return self._mean(torch.special.entr(self.levels[-1]).sum(-1))

    @torch.no_grad()
    def distances(self, network: Any, method: LeafPrediction, state: State) -> Tensor:
        """`(L + 1, S, X)` mean divergences of the network from the predictor of every level."""
        parts = [
            [_divergence(level, log) for level in self.levels[:, :, rows]]
            for rows, log in self._logits(network, method, state)
        ]
        return torch.stack([self._mean(torch.cat(own, 1)) for own in zip(*parts, strict=True)])

    @torch.no_grad()
    def predicted(self, network: Any, method: LeafPrediction, state: State) -> Tensor:
        """`(S, B, X, K)` the network's predictions."""
        return torch.cat([log.exp() for _, log in self._logits(network, method, state)], 1)

    def _logits(self, network: Any, method: LeafPrediction, state: State) -> Any:
        """Rows and the network's log-probabilities `(S, b, X, K)`, part by part."""
        for first in range(0, self.shown.shape[1], PART):
            rows = slice(first, first + PART)
            own = self.shown[:, rows]
            found = method.logits(network, state, Batch(own, own.shape[1]))
            yield rows, found.log_softmax(-1).cpu()

    def _mean(self, values: Tensor) -> Tensor:
        """`(S, X)` float64 means of `(S, B, X)` over the rows in which a leaf is predicted."""
        return (values.double() * self.counted).sum(1) / self.counted.sum(1)


def _divergence(exact: Tensor, log: Tensor) -> Tensor:
    """`(S, B, X)` KL(exact || network), with 0 log 0 = 0 and rounding below 0 left out."""
    return (torch.special.xlogy(exact, exact) - torch.where(exact > 0, exact * log, 0.0)).sum(-1)


def noisy_predictions(
    trees: LatentTree, noise: Noise, level: float, *, samples: int, seed: int
) -> ExactPredictions:
    """Predictions from leaves with noise: of missing leaves under `Masking`, else of all leaves."""
    draw = trees.draw(samples, seed=seed, stream=Stream.EVALUATION)
    shown = trees.corrupt(draw.leaves, noise, level, seed=seed)
    masked = isinstance(noise, Masking)
    counted = (shown == MISSING) if masked else torch.ones_like(shown)
    levels = [each.denoise(shown, noise, level).float() for each in _filtered(trees)]
    return ExactPredictions(draw, shown, counted.float(), torch.stack(levels))


def next_leaf_predictions(trees: LatentTree, *, samples: int, seed: int) -> ExactPredictions:
    """Predictions of every leaf from those before it, in the order of storage."""
    draw = trees.draw(samples, seed=seed, stream=Stream.EVALUATION)
    complete = draw.leaves.long()
    places = torch.arange(complete.shape[-1])
    levels = []
    for each in _filtered(trees):
        found = []
        for place in places:
            before = complete.masked_fill(places >= place, MISSING)
            found.append(each.denoise(before, Masking(), 0.5)[..., place, :])
        levels.append(torch.stack(found, -2).float())
    return ExactPredictions(draw, complete, torch.ones(complete.shape), torch.stack(levels))


def _filtered(trees: LatentTree) -> list[LatentTree]:
    return [trees.filtered(level) for level in range(trees.topology.depth + 1)]


def of_settings(settings: Any, trees: LatentTree) -> ExactPredictions:
    """The rows on which the networks of a cell are evaluated, by its method and augmentation."""
    given = {"samples": settings.evaluation_samples, "seed": settings.seed}
    if settings.method == "next-leaf":
        return next_leaf_predictions(trees, **given)
    kind, _, rate = settings.augment.partition(":")
    noises: dict[str, Noise] = {"drop-leaves": Masking(), "flip-leaves": Flips()}
    return noisy_predictions(trees, noises[kind], float(rate), **given)
