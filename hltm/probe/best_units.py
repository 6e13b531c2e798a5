"""How well the best unit follows each latent, beside its null and its ceiling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from hltm.inference.ceiling import Leaves
from hltm.probe.accumulators.correlation import StreamingCorrelation
from hltm.probe.metrics.correlation import Correlation
from hltm.probe.metrics.correlation_ratio import CorrelationRatio
from hltm.probe.null import LAGS, MetricNull, NullSet
from hltm.sampling.philox import Stream, check_seed
from hltm.sampling.sample import sample
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1 << 21  # activations of one level held at a time: few enough to stay in cache
NULL_CHUNK = 1 << 23  # the null holds one product per unit, latent and row
PRE, POST = "best_abs_correlation", "best_abs_correlation_post_relu"


class ProbedNetwork(Protocol):
    """A network that can be probed.

    `activations(leaves)` takes `(B, X)` or `(S, B, X)` states and returns level -> tensor:
    `(…, B, V, U)` where every latent has its own block of units, `(…, B, U)` where all latents share
    a layer. A network that also has `rectify`, from these to the inputs of the next layer, is probed
    behind its nonlinearity too.
    """

    def activations(self, leaves: Tensor) -> dict[int, Tensor]: ...


class Level(NamedTuple):
    """How well the latents of one level are followed; tensors lie on the CPU.

    Attributes:
        candidates: `own block` or `whole layer`: which units may stand for a latent.
        best: `(S, V)` float64, the best |correlation| of a candidate's pre-activation.
        unit: `(S, V)` int64, the candidate that has it.
        best_post_relu: the best behind the ReLU; None for a network without `rectify`.
        dead: `(S, V)` for own blocks, `(S, 1)` for a layer: candidates that never vary, behind the
            ReLU where there is one.
        null: `(S, V)`, the 95% point of the best of meaningless candidates; None without lags.
    """

    candidates: str
    best: Tensor
    unit: Tensor
    best_post_relu: Tensor | None
    dead: Tensor
    null: Tensor | None
    samples: int


def best_units(
    network: ProbedNetwork, trees: LatentTree, *, samples: int, seed: int, lags: int = LAGS
) -> dict[int, Level]:
    """The best unit of every latent of every level that the network shows, in one pass.

    Args:
        network: any object with `activations(leaves)`; see `ProbedNetwork`.
        trees: the trees that it was trained on; for S networks on one tree, that tree.
        samples: rows per member, from a stream that training never reads.
        lags: pairings with other rows that make the null; 0 leaves the null out.

    Returns:
        level -> `Level`.

    Raises:
        ValueError: samples below 2, or activations of another shape.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> class Reader:  # its units are the leaves themselves
        ...     def activations(self, leaves):
        ...         return {1: leaves.float()}
        >>> level = best_units(Reader(), tree, samples=1000, seed=1, lags=100)[1]
        >>> level.candidates, level.unit.shape, bool((level.best > level.null).all())
        ('whole layer', torch.Size([1, 2]), True)
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")

    def new_tracker(level: int) -> LevelTracker:
        null = NullSet({"correlation": Correlation}, lags=lags) if lags else None
        return LevelTracker(level, trees, StreamingCorrelation, null, Tensor.float)

    trackers: dict[int, LevelTracker] = {}
    start = 0
    rows = min(samples, 256)  # the first batch is small: it shows how wide the levels are
    while start < samples:
        count = min(rows, samples - start)
        track_rows(network, trees, trackers, new_tracker, range(start, start + count), seed, lags)
        start += count
        most = CHUNK // max(tracker.width for tracker in trackers.values())
        if lags:
            most = min(most, NULL_CHUNK // max(tracker.products for tracker in trackers.values()))
        rows = max(most, 2 * max(lags, 1))
        if 0 < samples - start - rows < 2 * max(lags, 1):
            rows = samples - start  # no batch too short to shift
    return {level: tracker.result() for level, tracker in sorted(trackers.items())}


def track_rows(
    network: ProbedNetwork,
    trees: LatentTree,
    trackers: dict[int, LevelTracker],
    new_tracker: Callable[[int], LevelTracker],
    rows: range,
    seed: int,
    lags: int,
) -> None:
    """Run a network on some rows of the evaluation stream and add them to its levels' accumulators.

    Args:
        network, trees, seed, lags: as `best_units`.
        trackers: level -> accumulators; a level that is not there yet is added.
        new_tracker: makes the accumulators of a level.
    """
    members = tuple(getattr(network, "members", trees.members))
    device = getattr(network, "device", torch.device("cpu"))
    stacked = bool(getattr(network, "stacked", trees.stacked))
    rows_of = functools.partial(
        sample, trees.tables, members, len(rows), seed=seed, start=rows.start, device=device
    )
    draw = rows_of(stream=Stream.EVALUATION)
    other = rows_of(stream=Stream.NULL) if lags else None
    with torch.no_grad():
        shown = network.activations(draw.leaves if stacked else draw.leaves[0])
        rectified = getattr(network, "rectify", lambda found: None)(shown)
        for level, values in shown.items():
            if level not in trackers:
                trackers[level] = new_tracker(level)
            after = None if rectified is None else rectified[level]
            trackers[level].update(
                values if stacked else values[None],
                after if stacked or after is None else after[None],
                draw.level(level),
                None if other is None else other.level(level),
            )


class LevelTracker:
    """The accumulators of one level: a metric before and behind the ReLU, and its null.

    Args:
        make: makes the metric's accumulator.
        null: the accumulator of its null; None for none.
        as_targets: from states of latents to the metric's targets.
    """

    def __init__(
        self,
        level: int,
        trees: LatentTree,
        make: Callable[[], StreamingCorrelation | CorrelationRatio],
        null: NullSet | MetricNull | None,
        as_targets: Callable[[Tensor], Tensor],
    ) -> None:
        self.level, self.nodes = level, len(trees.level(level))
        self.before, self.after, self.null = make(), make(), null
        self.as_targets = as_targets
        self.own = self.rectified = False
        self.samples = self.width = self.products = 0

    def update(
        self, values: Tensor, rectified: Tensor | None, latents: Tensor, other: Tensor | None
    ) -> None:
        """Add a batch: activations `(S, B, V, U)` or `(S, B, U)`, and the same behind the ReLU; states
        `(S, B, V)` of the latents, and the same of other rows.

        Raises:
            ValueError: activations of another shape.
        """
        members = len(latents)
        a = self._units_first(values, members)
        z = self._targets(latents)
        self.samples += a.shape[-1]
        self.width = max(self.width, a[..., 0].numel())
        self.products = self.width * z.shape[-2]
        self.before.update(a, z)
        if rectified is not None:
            self.rectified = True
            self.after.update(self._units_first(rectified, members), z)
        if self.null is not None and other is not None:
            self.null.update(a, self._targets(other))

    def _units_first(self, values: Tensor, members: int) -> Tensor:
        """`(S, V, U, B)` for own blocks, `(S, U, B)` for a layer."""
        if values.ndim == 4 and (values.shape[0], values.shape[2]) == (members, self.nodes):
            self.own = True
            return values.permute(0, 2, 3, 1)
        if values.ndim == 3 and values.shape[0] == members:
            return values.transpose(1, 2)
        raise ValueError(
            f"activations of level {self.level} have shape {tuple(values.shape)}, expected "
            f"({members}, B, {self.nodes}, U) or ({members}, B, U)"
        )

    def _targets(self, latents: Tensor) -> Tensor:
        """`(S, V, 1, B)` where every latent has its own block, `(S, V, B)` where all share a layer."""
        z = self.as_targets(latents.transpose(1, 2))
        return z[:, :, None] if self.own else z

    def _best(self, metric: StreamingCorrelation | CorrelationRatio) -> tuple[Tensor, Tensor]:
        """`(S, V)` each: the largest strength among a latent's candidates, and the unit that has it."""
        best, unit = metric.strength().max(-2)
        return (best[..., 0], unit[..., 0]) if self.own else (best, unit)

    def result(self) -> Level:
        """The measurements of all rows so far."""
        best, unit = self._best(self.before)
        dead = (self.after if self.rectified else self.before).dead().sum(-1)
        null = None
        if isinstance(self.null, NullSet):
            null = self.null.quantile("correlation")
        elif self.null is not None:
            null = self.null.quantile()
        null = null[..., 0] if null is not None and self.own else null
        return Level(
            candidates="own block" if self.own else "whole layer",
            best=best.cpu(),
            unit=unit.cpu(),
            best_post_relu=self._best(self.after)[0].cpu() if self.rectified else None,
            dead=(dead if self.own else dead[:, None]).cpu(),
            null=None if null is None else null.cpu(),
            samples=self.samples,
        )


def alignment(
    network: ProbedNetwork,
    trees: LatentTree,
    *,
    samples: int,
    seed: int,
    lags: int = LAGS,
    leaves: Leaves | None = None,
) -> pd.DataFrame:
    """A tidy table of how well the best unit follows each latent.

    Args:
        network, trees, samples, seed: as `best_units`.
        lags: pairings with other rows that make the null, at least 1.
        leaves: which leaves the ceiling is for; by default a latent's own leaves where its units
            form a block of its own, all leaves where latents share a layer.

    Returns:
        One row per member, latent and metric: member, level, node, metric, candidates, unit, value,
        null, ceiling, ceiling_error, n. Metrics: `best_abs_correlation` (pre-activations),
        `best_abs_correlation_post_relu`, `dead_units` and `below_null` (1 where no candidate beats
        the null).

    Raises:
        ValueError: as `best_units`; lags below 1.

    Example:
        >>> import hltm
        >>> trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
        >>> class Reader:  # its units are the leaves themselves
        ...     def activations(self, leaves):
        ...         return {1: leaves.float(), 2: leaves.float()}
        >>> table = alignment(Reader(), trees, samples=2000, seed=1)
        >>> sorted(table.metric.unique()), len(table)
        (['below_null', 'best_abs_correlation', 'dead_units'], 27)
        >>> best = table[table.metric == "best_abs_correlation"]
        >>> bool((best.value <= best.ceiling + 0.05).all())
        True
    """
    import pandas as pd

    if lags < 1:
        raise ValueError(f"lags must be at least 1, got {lags}")
    found = best_units(network, trees, samples=samples, seed=check_seed(seed), lags=lags)
    members = getattr(network, "members", trees.members)
    rows: list[dict[str, object]] = []
    nan = float("nan")
    for level, result in found.items():
        nodes = trees.level(level)
        own = result.candidates == "own block"
        bound = trees.ceiling(nodes, leaves=leaves or ("own" if own else "all"), seed=seed)
        limit, error = (part.expand(len(members), -1) for part in bound)
        assert result.null is not None
        metrics = {
            PRE: result.best,
            POST: result.best_post_relu,
            "dead_units": result.dead.double().expand(-1, len(nodes)),
            "below_null": (result.best <= result.null).double(),
        }
        beside = {"null": result.null, "ceiling": limit, "ceiling_error": error}
        for s, member in enumerate(members):
            for i, v in enumerate(nodes):
                for metric, value in metrics.items():
                    if value is None:
                        continue
                    scored = metric in (PRE, POST)
                    row = {
                        "member": member, "level": level, "node": trees.topology.names[v],
                        "metric": metric, "candidates": result.candidates,
                        "unit": int(result.unit[s, i]) if metric == PRE else -1,
                        "value": float(value[s, i]),
                    }  # fmt: skip
                    row |= {k: float(x[s, i]) if scored else nan for k, x in beside.items()}
                    rows.append(row | {"n": result.samples})
    return pd.DataFrame(rows)
