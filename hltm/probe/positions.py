"""Which ancestor of its leaf a position's vector follows, in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.units import StreamingUnits
from hltm.probe.batches import Label
from hltm.probe.metric import Metric
from hltm.probe.metric_kinds import Chosen, check_states, metric_kinds
from hltm.probe.metrics.linear_probe import LinearProbe
from hltm.probe.null import LAGS
from hltm.probe.score import Candidates, MetricSet
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed, members_of
from hltm.probe.sources.undisturbed import undisturbed
from hltm.probe.table import with_initial
from hltm.probe.targets import latents_of
from hltm.probe.visible import Context, check_lags, context_of, position_batches, seen_posteriors
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "member", "layer", "position", "level", "node", "metric", "unit", "value", "null", "initial",
    "ceiling", "gap_closed", "n",
)  # fmt: skip
KEY = ("member", "layer", "position", "level", "node", "metric")


def measure_positions(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    initial: Any = None,
    metrics: Chosen | None = None,
    context: Context | None = None,
    lags: int = LAGS,
    batch_axis: BatchAxis | None = None,
) -> pd.DataFrame:
    """Measure how the vector at each leaf's position follows the ancestors of that leaf.

    Args:
        source: as in `measure`, with layers `(B, X, U)` or, of S members, `(S, B, X, U)`: a vector at each
            leaf, in the order of `tree.leaves`. A layer's name may be any text or number; layers without
            positions are left out. For a torch module give a `TorchNetwork` with `positions="leaves"`.
        tree, draw, samples, seed, lags, batch_axis: as in `measure`.
        initial: the same source before training, or another with layers of the same names. An untrained
            transformer mixes the leaves, too, and follows ancestors well above the null.
        metrics: of single units, as in `measure`; by default the correlation, or the correlation ratio
            where a latent has more than two states.
        context: which leaves position i sees, for the ceilings: `all`, those `before` leaf i, or those
            `through` leaf i; by default those before it for a source with `causal = True`, else all.

    Returns:
        One row per member, layer, position, ancestor and metric: member, layer, position (from 0), level
        and node of the ancestor, metric, unit (the best one; -1 for all), value, null, initial, ceiling,
        gap_closed = (value - initial) / (ceiling - initial), and n.
        `linear_probe` is the held-out correlation of a ridge readout of the whole vector. The ceiling is
        the best correlation that a function of the leaves seen has with the ancestor on these rows
        (`hltm.inference.ceiling` has the formula); it is NaN for metrics that have none.

    Raises:
        ValueError: as `measure`, no layer with a vector at each leaf, an unknown context, or an initial
            source with other layers.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> draw = tree.sample(2000, seed=1)
        >>> parent = draw.level(1).repeat_interleave(2, dim=1)[..., None]  # (B, X, 1)
        >>> table = measure_positions({"parents": parent}, tree, draw=draw)
        >>> best = table[table.metric == "correlation"]
        >>> best[best.level == 1].value.round(4).tolist(), bool((best[best.level == 2].value < 0.95).all())
        ([1.0, 1.0, 1.0, 1.0], True)
    """
    binary = bool((tree.tables.cardinality[list(tree.latents)] == 2).all())
    kinds = metric_kinds(metrics or ("correlation" if binary else "correlation_ratio"))
    check_states(kinds, tree)
    check_lags(lags)
    sees, members = context_of(source, context), members_of(source, tree, draw)
    nodes = ancestors(tree)
    states = int(tree.tables.cardinality[list(tree.latents)].max())
    probes: dict[Label, _PositionProbe] = {}
    ceiling = _Ceiling(tree, nodes)
    numbers = len(members) * len(tree.latents) * states * (1 if sees == "all" else len(nodes))
    with undisturbed(source):
        for batch in position_batches(source, tree, draw, samples, seed, batch_axis, lags, numbers):
            z = latents_of(batch.draw)[:, nodes]  # (S, X, D, B)
            other = None if batch.other is None else latents_of(batch.other)[:, nodes]
            ceiling.update(seen_posteriors(tree, batch.draw, list(tree.latents), sees))
            for label, values in at_leaves(batch.shown, tree).items():
                if label not in probes:
                    probes[label] = _PositionProbe(kinds, states, lags)
                check_finite(values.flatten(1, 2), label, members)
                probes[label].update(values, z, other)
    table = _table(probes, tree, nodes, members, ceiling.result())
    before = None
    if initial is not None:
        before = measure_positions(
            initial, tree, draw=draw, samples=samples, seed=seed, metrics=kinds, context=sees, lags=0,
            batch_axis=batch_axis,
        )  # fmt: skip
    return with_initial(table, before, KEY)


def at_leaves(shown: dict[Label, Tensor], tree: LatentTree) -> dict[Label, Tensor]:
    """The layers `(S, X, U, B)` that have a vector at each leaf.

    Raises:
        ValueError: none has.
    """
    count = len(tree.leaves)
    found = {label: values for label, values in shown.items() if values.shape[1] == count}
    if not found:
        shapes = ", ".join(
            f"{k!r:.40}: {v.shape[2]} units in all" for k, v in list(shown.items())[:4]
        )
        raise ValueError(
            f"no layer has a vector at each of the {count} leaves, (B, {count}, U) or (S, B, {count}, U); "
            f"got {shapes}; for a torch module give TorchNetwork(…, positions='leaves')"
        )
    return found


def ancestors(tree: LatentTree) -> np.ndarray:
    """`(X, D)` the ancestors of every leaf from its parent up; behind the root's place, the root again.

    Example:
        >>> import hltm
        >>> ancestors(hltm.symmetric_binary(depth=2, seed=0)).tolist()
        [[1, 0], [1, 0], [2, 0], [2, 0]]
    """
    parent = np.asarray(tree.topology.parent).clip(min=0)  # the root's own is the root
    steps = [parent[list(tree.leaves)]]
    while steps[-1].any():
        steps.append(parent[steps[-1]])
    return np.stack(steps, 1)


class _PositionProbe:
    """The accumulators of one layer `(S, X, U, B)`, whose position i has targets of its own."""

    def __init__(self, kinds: dict[str, type[Metric]], states: int, lags: int) -> None:
        self.metrics, self.probe = MetricSet(kinds, states, lags, pairs=False), LinearProbe(states)
        self.targets, self.shape = StreamingUnits(checked=False), torch.Size()

    def update(self, values: Tensor, targets: Tensor, other: Tensor | None) -> None:
        """Add a batch: activations `(S, X, U, B)`, and states `(S, X, D, B)` of these and other rows."""
        self.shape = values.shape[:-1]
        batch, numbers = self.metrics.take(values), None
        if self.metrics.numbers:
            numbers = self.targets.take(targets.to(batch.values.dtype))
        self.metrics.update(values, batch, targets, numbers, other)
        self.probe.update(values, targets, batch)

    def columns(self, ceiling: Tensor) -> dict[str, dict[str, Tensor]]:
        """Metric -> unit, value, null and ceiling, `(S, X, D)` each, from the ceilings of correlations."""
        size, (members, positions, units) = tuple(ceiling.shape), self.shape
        among = Candidates(members, positions, units, size[-1])
        found = {}
        for name in self.metrics.kinds:
            score = self.metrics.score(name, among, matched=False)
            unit = torch.where(score.unit < 0, -1, score.unit % units)
            factor = torch.tensor(torch.nan) if score.factor is None else score.factor.view(size)
            found[name] = {
                "unit": unit.view(size), "value": score.best.view(size),
                "null": score.null.view(size), "ceiling": factor * ceiling,
            }  # fmt: skip
        nan = torch.full(size, torch.nan, dtype=torch.float64)
        readout = self.probe.result() if self.probe.enough else None
        found["linear_probe"] = {
            "unit": torch.full(size, -1),
            "value": nan if readout is None else readout.correlation.cpu(),
            "null": nan if readout is None else readout.null.cpu(),
            "ceiling": ceiling,
        }
        return found


class _Ceiling:
    """The maximal correlations of ancestors with the leaves that positions see, on the rows measured."""

    def __init__(self, tree: LatentTree, nodes: np.ndarray) -> None:
        # (S or 1, L, K, 1), padded with zeros, without evidence
        self.prior = tree.posterior({}, nodes=tree.latents).marginals.flatten(0, -3)[..., None]
        self.nodes, self.rows = nodes, 0
        self.moment: Tensor | float = 0.0

    def update(self, posteriors: Tensor) -> None:
        """Add `(S, X or 1, L, K, B)` posteriors of all latents."""
        prior = self.prior[:, None].to(posteriors.device)
        d = (posteriors - prior) / prior.where(prior > 0, torch.inf).sqrt()
        self.moment = self.moment + d @ d.mT
        self.rows += d.shape[-1]

    def result(self) -> Tensor:
        """`(S, X, D)`: the square root of the largest eigenvalue of E[d dᵀ]."""
        assert isinstance(self.moment, Tensor)
        square = torch.linalg.eigvalsh(self.moment.cpu() / self.rows)[..., -1]
        square = square.expand(-1, len(self.nodes), -1)
        nodes = torch.from_numpy(self.nodes).expand(len(square), -1, -1)
        return square.gather(2, nodes).clamp(0, 1).sqrt()


def _table(
    probes: dict[Label, _PositionProbe],
    tree: LatentTree,
    nodes: np.ndarray,
    members: Sequence[int],
    ceiling: Tensor,
) -> pd.DataFrame:
    """The table of `measure_positions`."""
    import pandas as pd

    # a leaf has no ancestor behind the root
    own = np.concatenate([np.ones((len(nodes), 1), bool), nodes[:, :-1] > 0], 1)
    own = np.broadcast_to(own, tuple(ceiling.shape))
    names, levels = np.array(tree.topology.names, dtype=object), np.asarray(tree.topology.level)
    parts = []
    for label, probe in probes.items():
        for metric, found in probe.columns(ceiling).items():
            columns: dict[str, Any] = {
                "member": np.array(members)[:, None, None],
                "position": np.arange(len(nodes))[:, None],
                "level": levels[nodes],
                "node": names[nodes],
                "initial": np.nan,
                "gap_closed": np.nan,
                "n": probe.probe.samples,
                **{name: values.numpy() for name, values in found.items()},
            }
            flat = {k: np.broadcast_to(v, own.shape)[own] for k, v in columns.items()}
            flat["node"] = flat["node"].tolist()
            parts.append(pd.DataFrame(flat | {"layer": label, "metric": metric})[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True)
