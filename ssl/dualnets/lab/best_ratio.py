"""How well the best unit follows each latent of any number of states."""

from __future__ import annotations

import functools
import itertools

import torch

from hltm.probe.best_units import Level, LevelTracker, ProbedNetwork, track_rows
from hltm.probe.metrics.correlation_ratio import CorrelationRatio
from hltm.probe.null import LAGS, MetricNull
from hltm.tree import LatentTree

ROWS = 2048  # of a batch


def score_ratio(
    network: ProbedNetwork,
    trees: LatentTree,
    *,
    samples: int,
    seed: int,
    lags: int = LAGS,
    rules: int = 1,
) -> dict[int, Level]:
    """The best unit of every latent of every level by the correlation ratio, in one pass.

    The ratio is the best correlation that any function of the state has with a unit, so `tree.ceiling`
    bounds it; for latents of two states it is |correlation|, as in `hltm.probe.best_units`,
    and the rows are the same.

    Args:
        network: whose latents each have a block of units, or share a layer.
        trees: the trees that it was trained on.
        samples: rows per member, from a stream that training never reads.
        seed: 64 bits.
        lags: pairings with other rows that make the null; 0 leaves the null out.
        rules: m, where a latent's state is symbol * m + rule and the symbol is the target, as in
            `hltm.random_hierarchy`.

    Raises:
        ValueError: fewer rows than lags, rules below 1, or activations of another shape.

    Example:
        >>> import hltm
        >>> trees = hltm.balanced(depth=1, cardinality=3, members=2, seed=0)
        >>> class Reader:  # a unit that is the first leaf
        ...     def activations(self, leaves):
        ...         return {1: leaves[..., :1].float()}
        >>> found = score_ratio(Reader(), trees, samples=4096, seed=1, lags=0)[1]
        >>> found.candidates, found.best.shape
        ('whole layer', torch.Size([2, 1]))
        >>> bool((found.best <= trees.ceiling(trees.root).value[:, None] + 0.05).all())
        True
    """
    if rules < 1:
        raise ValueError(f"rules must be at least 1, got {rules}")
    if samples < max(lags, 2):
        raise ValueError(f"samples must be at least {max(lags, 2)}, got {samples}")

    def new_tracker(level: int) -> LevelTracker:
        states = int(trees.tables.cardinality[list(trees.level(level))].max())
        make = functools.partial(CorrelationRatio, -(-states // rules))
        null = MetricNull(make, lags) if lags else None
        return LevelTracker(level, trees, make, null, lambda z: z.to(torch.int64) // rules)

    trackers: dict[int, LevelTracker] = {}
    count = -(-samples // ROWS)  # batches of nearly one size, so that none is too short to shift
    bounds = [samples * i // count for i in range(count + 1)]
    for start, stop in itertools.pairwise(bounds):
        track_rows(network, trees, trackers, new_tracker, range(start, stop), seed, lags)
    return {level: tracker.result() for level, tracker in sorted(trackers.items())}
