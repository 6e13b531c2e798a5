"""How well the best unit follows each latent of any number of states."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from hltm.probe.best_units import Level, ProbedNetwork
from hltm.probe.metrics.correlation_ratio import CorrelationRatio
from hltm.probe.null import LAGS
from hltm.probe.shifted_null import ShiftedNull
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample
from hltm.tree import LatentTree

ROWS = 2048  # of a batch


def score_ratio(
    network: ProbedNetwork,
    trees: LatentTree,
    *,
    n: int,
    seed: int,
    lags: int = LAGS,
    rules: int = 1,
) -> dict[int, Level]:
    """Score every level that the network shows by the correlation ratio of its best units.

    It is the best correlation that any function of the state has with a unit, so `tree.ceiling`
    bounds it; for latents of two states it is |correlation|, as in `hltm.probe.best_units`,
    and the rows are the same.

    Args:
        network: whose latents each have a block of units, or share a layer.
        trees: what it was trained on.
        n: samples, from a stream that training never reads.
        seed: 64 bits.
        lags: pairings that make the null; 0 leaves it out.
        rules: m, where a latent's state is symbol * m + rule and its symbol is what is followed,
            as in `hltm.random_hierarchy`.

    Raises:
        ValueError: fewer rows than lags, no rules, or activations that fit neither form.

    Example:
        >>> import hltm
        >>> trees = hltm.balanced(depth=1, cardinality=3, members=2, seed=0)
        >>> class Reader:  # a unit that is the first leaf
        ...     def activations(self, leaves):
        ...         return {1: leaves[..., :1].float()}
        >>> found = score_ratio(Reader(), trees, n=4096, seed=1, lags=0)[1]
        >>> found.candidates, found.best.shape
        ('whole layer', torch.Size([2, 1]))
        >>> bool((found.best <= trees.ceiling(trees.root).value[:, None] + 0.05).all())
        True
    """
    if rules < 1:
        raise ValueError(f"rules must be at least 1, got {rules}")
    if n < max(lags, 2):
        raise ValueError(f"n must be at least {max(lags, 2)}, got {n}")
    members = tuple(getattr(network, "members", trees.members))
    device = getattr(network, "device", torch.device("cpu"))
    stacked = bool(getattr(network, "stacked", trees.stacked))
    count = -(-n // ROWS)  # batches of nearly one size, so that none is too short to shift
    bounds = [n * i // count for i in range(count + 1)]
    trackers: dict[int, _Tracker] = {}
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
                    nodes = list(trees.level(level))
                    states = -(-int(trees.tables.cardinality[nodes].max()) // rules)
                    trackers[level] = _Tracker(states, rules, len(nodes), lags)
                trackers[level].update(
                    values if stacked else values[None],
                    None if rectified is None else rectified[level],
                    draw.level(level),
                    None if other is None else other.level(level),
                )
    return {level: tracker.result(n) for level, tracker in sorted(trackers.items())}


class _Tracker:
    """The accumulators of one level."""

    def __init__(self, states: int, rules: int, nodes: int, lags: int) -> None:
        self.rules, self.nodes = rules, nodes
        self.before, self.after = CorrelationRatio(states), CorrelationRatio(states)
        self.null = ShiftedNull(lambda: CorrelationRatio(states), lags) if lags else None
        self.own = self.rectified = False

    def update(
        self, values: Tensor, rectified: Tensor | None, states: Tensor, other: Tensor | None
    ) -> None:
        """Add a batch: activations, the same behind the ReLU, `(S, B, V)` states, other rows' states."""
        self.own = values.ndim == 4
        members, nodes = values.shape[0], values.shape[2] if self.own else self.nodes
        if values.ndim not in (3, 4) or nodes != self.nodes or members != states.shape[0]:
            raise ValueError(
                f"activations have shape {tuple(values.shape)}, expected "
                f"({states.shape[0]}, B, {self.nodes}, U) or ({states.shape[0]}, B, U)"
            )
        a = self._units_first(values)
        self.before.update(a, self._targets(states))
        if rectified is not None:
            self.rectified = True
            shown = rectified if rectified.ndim == values.ndim else rectified[None]
            self.after.update(self._units_first(shown), self._targets(states))
        if self.null is not None and other is not None:
            self.null.update(a, self._targets(other))

    def _units_first(self, values: Tensor) -> Tensor:
        """`(S, V, U, B)` for own blocks, `(S, U, B)` for a layer."""
        return values.permute(0, 2, 3, 1) if self.own else values.transpose(1, 2)

    def _targets(self, states: Tensor) -> Tensor:
        """`(S, V, 1, B)` symbols where every latent has its own block, else `(S, V, B)`."""
        z = states.transpose(1, 2).to(torch.int64) // self.rules
        return z[:, :, None] if self.own else z

    def _best(self, metric: CorrelationRatio) -> tuple[Tensor, Tensor]:
        best, unit = metric.strength().max(-2)
        return (best[..., 0], unit[..., 0]) if self.own else (best, unit)

    def result(self, n: int) -> Level:
        """What was found."""
        best, unit = self._best(self.before)
        shown = self.after if self.rectified else self.before
        dead = (shown.moments.result().variance <= 0).sum(-1)
        null = None if self.null is None else self.null.quantile()
        null = null[..., 0] if null is not None and self.own else null
        return Level(
            candidates="own block" if self.own else "whole layer",
            best=best.cpu(),
            unit=unit.cpu(),
            best_post_relu=self._best(self.after)[0].cpu() if self.rectified else None,
            dead=(dead if self.own else dead[:, None]).cpu(),
            null=None if null is None else null.cpu(),
            n=n,
        )
