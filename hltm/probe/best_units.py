"""How well the best unit follows each latent, beside its null and its ceiling."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from hltm.inference.ceiling import Leaves
from hltm.probe.accumulators.correlation import StreamingCorrelation
from hltm.probe.null import LAGS, StreamingNull
from hltm.sampling.philox import Stream, check_seed
from hltm.sampling.sample import sample
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1 << 21  # activations of one level held at a time: few enough to stay in cache
NULL_CHUNK = 1 << 23  # the null holds one product per unit, latent and row
PRE, POST = "best_abs_correlation", "best_abs_correlation_post_relu"


class ProbedNetwork(Protocol):
    """What a probe needs of a network.

    `activations(leaves)` takes `(B, X)` or `(S, B, X)` states and returns level -> tensor:
    `(…, B, V, U)` where every latent has its own block of units, `(…, B, U)` where all latents share
    a layer. A network that also has `rectify`, from these to what the next layer reads, is probed
    behind its nonlinearity too.
    """

    def activations(self, leaves: Tensor) -> dict[int, Tensor]: ...


class Level(NamedTuple):
    """How well the latents of one level are followed; tensors lie on the CPU.

    Attributes:
        candidates: `own block` or `whole layer`.
        best: `(S, V)` float64, the best |correlation| of a candidate's pre-activation.
        unit: `(S, V)` int64, which candidate.
        best_post_relu: the same behind the ReLU; None for a network without `rectify`.
        dead: `(S, V)` for own blocks, `(S, 1)` for a layer: candidates that never vary, behind the
            ReLU where there is one.
        null: `(S, V)`, the 95% point of what a meaningless set of candidates scores; None if not
            asked for.
        n: samples.
    """

    candidates: str
    best: Tensor
    unit: Tensor
    best_post_relu: Tensor | None
    dead: Tensor
    null: Tensor | None
    n: int


def best_units(
    network: ProbedNetwork, trees: LatentTree, *, n: int, seed: int, lags: int = LAGS
) -> dict[int, Level]:
    """Score every level that the network shows, in one pass over `n` samples.

    Args:
        network: see `ProbedNetwork`.
        trees: what it was trained on; for S networks on one tree, that tree.
        n: samples, from a stream that training never reads.
        seed: 64 bits.
        lags: pairings that make the null; 0 leaves the null out.

    Raises:
        ValueError: n below 2, or activations that fit neither form.
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    members = tuple(getattr(network, "members", trees.members))
    device = getattr(network, "device", torch.device("cpu"))
    trackers: dict[int, _Tracker] = {}
    start = 0
    rows = min(n, 256)  # the first batch is small: it shows how wide the levels are
    while start < n:
        count = min(rows, n - start)
        rows_of = functools.partial(
            sample, trees.tables, members, count, seed=seed, start=start, device=device
        )
        draw = rows_of(stream=Stream.EVALUATION)
        other = rows_of(stream=Stream.NULL) if lags else None
        stacked = getattr(network, "stacked", trees.stacked)
        with torch.no_grad():
            shown = network.activations(draw.leaves if stacked else draw.leaves[0])
            rectified = getattr(network, "rectify", lambda found: None)(shown)
            for level, values in shown.items():
                tracker = trackers.setdefault(level, _Tracker(level, trees, lags, stacked))
                after = None if rectified is None else rectified[level]
                shifted = None if other is None else other.level(level)
                tracker.update(values, after, draw.level(level), shifted)
        start += count
        width = max(tracker.width for tracker in trackers.values())
        most = CHUNK // width
        if lags:
            most = min(most, NULL_CHUNK // max(tracker.products for tracker in trackers.values()))
        rows = max(most, 2 * max(lags, 1))
        if 0 < n - start - rows < 2 * max(lags, 1):
            rows = n - start  # no batch too short to shift
    return {level: tracker.result() for level, tracker in sorted(trackers.items())}


class _Tracker:
    """The accumulators of one level."""

    def __init__(self, level: int, trees: LatentTree, lags: int, stacked: bool) -> None:
        self.stacked = stacked
        self.nodes = len(trees.level(level))
        self.level = level
        self.before, self.after = StreamingCorrelation(), StreamingCorrelation()
        self.null = StreamingNull(lags) if lags else None
        self.own = self.rectified = False
        self.width = self.products = 0

    def update(
        self, values: Tensor, rectified: Tensor | None, latents: Tensor, other: Tensor | None
    ) -> None:
        """Add a batch: activations, the same behind the ReLU, `(S, B, V)` latents, other rows' latents."""
        members = latents.shape[0]
        a = self._units_first(values, members)
        z = self._targets(latents)
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
        given = tuple(values.shape)
        values = values if self.stacked else values[None]
        if values.ndim == 4 and (values.shape[0], values.shape[2]) == (members, self.nodes):
            self.own = True
            return values.permute(0, 2, 3, 1)
        if values.ndim == 3 and values.shape[0] == members:
            return values.transpose(1, 2)
        axis = f"{members}, " if self.stacked else ""
        raise ValueError(
            f"activations of level {self.level} have shape {given}, expected "
            f"({axis}B, {self.nodes}, U) or ({axis}B, U)"
        )

    def _targets(self, latents: Tensor) -> Tensor:
        """`(S, V, 1, B)` where every latent has its own block, `(S, V, B)` where all share a layer."""
        z = latents.transpose(1, 2).float()
        return z[:, :, None] if self.own else z

    def _best(self, tracker: StreamingCorrelation) -> tuple[Tensor, Tensor]:
        best, unit = tracker.correlation().abs().max(-2)
        return (best[..., 0], unit[..., 0]) if self.own else (best, unit)

    def result(self) -> Level:
        """What was found."""
        best, unit = self._best(self.before)
        dead = (self.after if self.rectified else self.before).dead().sum(-1)
        null = None if self.null is None else self.null.quantile()
        after = self._best(self.after)[0] if self.rectified else None
        null = null[..., 0] if null is not None and self.own else null
        return Level(
            candidates="own block" if self.own else "whole layer",
            best=best.cpu(),
            unit=unit.cpu(),
            best_post_relu=None if after is None else after.cpu(),
            dead=(dead if self.own else dead[:, None]).cpu(),
            null=None if null is None else null.cpu(),
            n=self.before.n,
        )


def alignment(
    network: ProbedNetwork,
    trees: LatentTree,
    *,
    n: int,
    seed: int,
    lags: int = LAGS,
    leaves: Leaves | None = None,
) -> pd.DataFrame:
    """A tidy table of how well the best unit follows each latent.

    Args:
        network: any object with `activations(leaves)`; see `ProbedNetwork`.
        trees: what it was trained on.
        n: samples, from a stream that training never reads.
        seed: 64 bits.
        lags: pairings with other rows that make the null.
        leaves: which leaves the ceiling is for; by default a latent's own leaves where its units
            form a block of its own, all leaves where latents share a layer.

    Returns:
        One row per member, latent and metric: member, level, node, metric, candidates, unit, value,
        null, ceiling, ceiling_error, n. Metrics: `best_abs_correlation` (pre-activations),
        `best_abs_correlation_post_relu`, `dead_units` and `blind` (1 where no candidate beats the
        null).

    Raises:
        ValueError: as `score`; lags below 1.

    Example:
        >>> import hltm
        >>> trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
        >>> class Reader:  # reads the leaves themselves
        ...     def activations(self, leaves):
        ...         return {1: leaves.float(), 2: leaves.float()}
        >>> table = alignment(Reader(), trees, n=2000, seed=1)
        >>> sorted(table.metric.unique()), len(table)
        (['best_abs_correlation', 'blind', 'dead_units'], 27)
        >>> best = table[table.metric == "best_abs_correlation"]
        >>> bool((best.value <= best.ceiling + 0.05).all())
        True
    """
    import pandas as pd

    if lags < 1:
        raise ValueError(f"lags must be at least 1, got {lags}")
    found = best_units(network, trees, n=n, seed=check_seed(seed), lags=lags)
    members = getattr(network, "members", trees.members)
    rows: list[dict[str, object]] = []
    for level, result in found.items():
        nodes = trees.level(level)
        own = result.candidates == "own block"
        bound = trees.ceiling(nodes, leaves=leaves or ("own" if own else "all"), seed=seed)
        limit, error = (part.expand(len(members), -1) for part in bound)
        assert result.null is not None
        blind = (result.best <= result.null).double()
        metrics = {PRE: result.best, POST: result.best_post_relu}
        metrics |= {"dead_units": result.dead.double().expand(-1, len(nodes)), "blind": blind}
        for s, member in enumerate(members):
            for i, v in enumerate(nodes):
                for metric, value in metrics.items():
                    if value is None:
                        continue
                    scored = metric in (PRE, POST)
                    rows.append(
                        {
                            "member": member,
                            "level": level,
                            "node": trees.topology.names[v],
                            "metric": metric,
                            "candidates": result.candidates,
                            "unit": int(result.unit[s, i]) if metric == PRE else -1,
                            "value": float(value[s, i]),
                            "null": float(result.null[s, i]) if scored else float("nan"),
                            "ceiling": float(limit[s, i]) if scored else float("nan"),
                            "ceiling_error": float(error[s, i]) if scored else float("nan"),
                            "n": result.n,
                        }
                    )
    return pd.DataFrame(rows)
