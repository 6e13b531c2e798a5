"""How well the best unit follows each latent of any number of states."""

from __future__ import annotations

import functools
import itertools

import torch

from hltm.probe.best_units import Level, LevelTracker, ProbedNetwork
from hltm.probe.metrics.correlation_ratio import CorrelationRatio
from hltm.probe.null import LAGS, MetricNull
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample
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
    members = tuple(getattr(network, "members", trees.members))
    device = getattr(network, "device", torch.device("cpu"))
    stacked = bool(getattr(network, "stacked", trees.stacked))
    count = -(-samples // ROWS)  # batches of nearly one size, so that none is too short to shift
    bounds = [samples * i // count for i in range(count + 1)]
    trackers: dict[int, LevelTracker] = {}
    for start, stop in itertools.pairwise(bounds):
        rows_of = functools.partial(
            sample, trees.tables, members, stop - start, seed=seed, start=start, device=device
        )
        draw = rows_of(stream=Stream.EVALUATION)
        other = rows_of(stream=Stream.NULL) if lags else None
        with torch.no_grad():
            shown = network.activations(draw.leaves if stacked else draw.leaves[0])
            rectified = getattr(network, "rectify", lambda found: None)(shown)
            for level, values in shown.items():
                if level not in trackers:
                    states = int(trees.tables.cardinality[list(trees.level(level))].max())
                    make = functools.partial(CorrelationRatio, -(-states // rules))
                    null = MetricNull(make, lags) if lags else None
                    trackers[level] = LevelTracker(
                        level, trees, stacked, make, null, lambda z: z.to(torch.int64) // rules
                    )
                trackers[level].update(
                    values,
                    None if rectified is None else rectified[level],
                    draw.level(level),
                    None if other is None else other.level(level),
                )
    return {level: tracker.result() for level, tracker in sorted(trackers.items())}
