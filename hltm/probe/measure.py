"""Measuring the layers of a network, or activations as arrays, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hltm.inference.ceiling import Leaves
from hltm.model.nodes import Node, NodeNumber
from hltm.probe.batches import Label, batches, posteriors
from hltm.probe.layer import Layer, LayerProbe
from hltm.probe.metrics import METRICS
from hltm.probe.null import LAGS
from hltm.probe.rows import Rowed, members_of
from hltm.probe.sources import BatchAxis
from hltm.probe.table import KEY, to_frame
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd


def probe_layers(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    metrics: Sequence[str] | None = None,
    nodes: Sequence[Node] | None = None,
    leaves: Leaves | None = None,
    lags: int = LAGS,
    batch_axis: BatchAxis | None = None,
) -> dict[Label, Layer]:
    """Measure how the units of every layer follow the latents, in one pass that stores no activations.

    Arguments and errors are those of `measure`, which makes a table of this.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> layer = probe_layers(draw.leaves.float(), tree, draw=draw)["activations"]
        >>> layer.scores["correlation"].strength.shape  # (S, U, T): leaves by latents
        torch.Size([1, 4, 3])
    """
    chosen = _metrics(tree, metrics)
    if leaves not in (None, "own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    if lags < 0:
        raise ValueError(f"lags must be at least 0, got {lags}")
    wanted: list[int] | None = None
    if nodes is not None:
        wanted = list(map(NodeNumber, tree.topology.nodes(nodes)))
    bad = [v for v in wanted or () if v not in tree.latents]
    if bad or wanted == []:
        shown = repr(tree.topology.names[bad[0]]) if bad else "none"
        raise ValueError(f"nodes must be latents, got {shown}")
    if seed is not None:
        check_seed(seed)
    probes: dict[Label, LayerProbe] = {}
    for batch in batches(source, tree, draw, samples, seed, lags, batch_axis):
        exact: dict[Leaves, Tensor] = {}  # posteriors that layers share
        if probes and batch.shown.keys() != probes.keys():
            raise ValueError(f"layers changed from {list(probes)} to {list(batch.shown)}")
        for label, values in batch.shown.items():
            if label not in probes:
                own = values.ndim == 4
                level = isinstance(label, int) and 0 < label <= tree.topology.depth
                near = list(tree.level(int(label)) if level else tree.latents)
                probes[label] = LayerProbe(
                    label, tree, near if own or wanted is None else wanted, own=own, metrics=chosen,
                    lags=lags, leaves=leaves or ("own" if own else "all"),
                )  # fmt: skip
            given = probes[label].leaves
            if given not in exact:
                exact[given] = posteriors(tree, batch.leaves, own=given == "own")
            probes[label].update(values, batch.latents, batch.other, exact[given])
    return {label: probe.result() for label, probe in probes.items()}


def _metrics(tree: LatentTree, names: Sequence[str] | None) -> Sequence[str]:
    """Names of metrics, all of which the tree's latents allow; the default where there are none."""
    binary = bool((tree.tables.cardinality[list(tree.latents)] == 2).all())
    if not names:
        return ("correlation", "selectivity") if binary else ("correlation_ratio",)
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}, expected one of {', '.join(METRICS)}")
        if METRICS[name].two_states and not binary:
            raise ValueError(f"{name} is for latents of two states; use correlation_ratio instead")
    return names


def measure(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    initial: Any = None,
    metrics: Sequence[str] | None = None,
    nodes: Sequence[Node] | None = None,
    leaves: Leaves | None = None,
    lags: int = LAGS,
    batch_axis: BatchAxis | None = None,
) -> pd.DataFrame:
    """Measure how the layers of a network follow the latents, as one tidy table.

    Args:
        source: activations `(B, U)` or, of stacked draws, `(S, B, U)`; with a block of units for
            every latent of a level `(B, V, U)` or `(S, B, V, U)`; a mapping layer -> such, from torch,
            numpy or pandas; a torch module; or a network with `activations(leaves)` that returns such
            a mapping. A layer whose label is the number of a level (an int) is compared with that
            level's latents, a layer with any other name, digits too, with all latents; its numbers
            behind the axis of rows are its units.
        tree: the tree of the latents; S draws or networks may share one tree.
        draw: the rows that the activations were computed on, as a draw or as the folder that
            `hltm.load` opened. For a network, rows to run it on.
        samples, seed: for a network without a draw: so many rows, from a stream that training never
            reads.
        initial: the same source before training, for the columns `initial` and `gap_closed`.
        metrics: names in `hltm.probe.METRICS`; the first one chooses the units that are matched and
            whose specificity is reported. By default correlation and selectivity, or the
            correlation ratio where a latent has more than two states. The nulls of `roc_auc` and
            `mutual_information` take by far the most time and memory.
        nodes: latents that a shared layer is compared with.
        leaves: which leaves ceilings and posteriors are given: a latent's `own` leaves or `all`; by
            default its own where it has a block of units, all where latents share a layer.
        lags: pairings with other rows that make the null, at most half of the rows; 0 for none.
        batch_axis: the axis of the rows where it is not the first, or layer -> axis; the axis of
            members is not counted.

    Returns:
        One row per member, layer, node and metric: member, layer, level, node, metric, candidates,
        unit, rival, value, null, initial, ceiling, ceiling_error, gap_closed, n. `unit` counts
        within the candidates; -1 and NaN stand for what does not apply. Besides the metrics, each
        unsigned and of the best candidate:

        - `matched_…`: the first metric, where no unit may stand for two latents;
        - `rival`: the correlation ratio of the best unit with the other latent that it follows
          best, which the column `rival` names; `rival_baseline`: the correlation ratio of that
          rival's exact posterior with this latent, which needs no unit for this latent;
          `partial_correlation`: what remains given the parent (`Specificity`);
        - `linear_probe`: held-out correlation of a ridge readout of all candidates;
        - `below_null`: 1 where the best candidate does not beat the null;
        - per layer (node is empty, level -1 unless the layer is one): `linear_cka` with the
          posteriors, `feature_spread`, `effective_rank`, `dead_units`, `units_below_null`.

        The ceiling of correlations is `tree.ceiling`; of the ROC area it is that of the exact
        posterior on the same rows, of mutual information that of the leaves on the same rows.
        Selectivity is in the unit's own scale and has no ceiling.

    Raises:
        ValueError: activations that are not finite (the error names layer and unit) or of another
            shape, arrays without a draw, a draw of another tree, an unknown metric or one for two
            states only, nodes that are not latents, too few rows for the lags, or an initial source
            with other layers.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(2000, seed=1)
        >>> table = measure({"leaves": draw.leaves.float()}, tree, draw=draw)
        >>> best = table[table.metric == "correlation"]
        >>> best.node.tolist(), bool((best.value < best.ceiling + 0.05).all())
        (['0', '1', '2'], True)
        >>> table[table.metric == "dead_units"].value.tolist()
        [0.0]
    """
    options: dict[str, Any] = {
        "draw": draw, "samples": samples, "seed": seed, "metrics": metrics, "nodes": nodes,
        "leaves": leaves, "lags": lags, "batch_axis": batch_axis,
    }  # fmt: skip
    found = probe_layers(source, tree, **options)
    table = to_frame(found, tree, members_of(source, tree, draw))
    if initial is not None:
        before = measure(initial, tree, **options)
        given, expected = (sorted(set(x["layer"]), key=str) for x in (before, table))
        if given != expected:
            raise ValueError(f"the initial source has layers {given}, expected {expected}")
        table["initial"] = table[KEY].merge(before[[*KEY, "value"]], on=KEY, how="left")["value"]
    room = table["ceiling"] - table["initial"]
    table["gap_closed"] = ((table["value"] - table["initial"]) / room).where(room > 0)
    return table
