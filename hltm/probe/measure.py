"""All measurements of a network's layers, as one tidy table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling, Leaves
from hltm.model.topology import Node
from hltm.probe.batches import Label, batches, posteriors
from hltm.probe.layer import Layer, LayerProbe
from hltm.probe.metrics import METRICS
from hltm.probe.null import LAGS
from hltm.sampling.draw import Draw
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

KEY = ["member", "layer", "level", "node", "metric"]
COLUMNS = [
    *KEY, "candidates", "unit", "rival", "value", "null", "initial", "ceiling", "ceiling_error",
    "gap_closed", "n",
]  # fmt: skip


def probe_layers(
    source: Any,
    tree: LatentTree,
    *,
    draw: Draw | None = None,
    samples: int | None = None,
    seed: int | None = None,
    metrics: Sequence[str] | None = None,
    nodes: Sequence[Node] | None = None,
    leaves: Leaves | None = None,
    lags: int = LAGS,
) -> dict[Label, Layer]:
    """Measure what the units of every layer know of the latents, in one pass that stores no activations.

    Arguments and errors are those of `measure`, which makes a table of this.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> layer = probe_layers(draw.leaves.float(), tree, draw=draw)["activations"]
        >>> layer.scores["correlation"].strength.shape  # (S, U, T): leaves by latents
        torch.Size([1, 4, 3])
    """
    binary = bool((tree.tables.cardinality[list(tree.latents)] == 2).all())
    chosen = metrics or (
        ("correlation" if binary else "correlation_ratio"),
        *(("selectivity",) if binary else ()),
    )
    for name in chosen:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}, expected one of {', '.join(METRICS)}")
        if METRICS[name].two_states and not binary:
            raise ValueError(
                f"{name} is defined for latents of two states; use correlation_ratio instead"
            )
    if leaves not in (None, "own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    if lags < 0:
        raise ValueError(f"lags must be at least 0, got {lags}")
    wanted = None if nodes is None else [tree.topology.node(v) for v in nodes]
    bad = [v for v in wanted or () if v not in tree.latents]
    if bad or wanted == []:
        shown = repr(tree.topology.names[bad[0]]) if bad else "none"
        raise ValueError(f"nodes must be latents, got {shown}")
    if seed is not None:
        check_seed(seed)
    probes: dict[Label, LayerProbe] = {}
    for batch in batches(source, tree, draw, samples, seed, lags):
        held: dict[Leaves, Tensor] = {}
        if probes and batch.shown.keys() != probes.keys():
            raise ValueError(f"layers changed from {list(probes)} to {list(batch.shown)}")
        for label, values in batch.shown.items():
            if label not in probes:
                own = values.ndim == 4
                level = isinstance(label, int) and 0 < label <= tree.topology.depth
                near = list(tree.level(int(label)) if level else tree.latents)
                probes[label] = LayerProbe(
                    label,
                    tree,
                    near if own or wanted is None else wanted,
                    own=own,
                    metrics=chosen,
                    lags=lags,
                    leaves=leaves or ("own" if own else "all"),
                )
            given = probes[label].leaves
            if given not in held:
                held[given] = posteriors(tree, batch.leaves, own=given == "own")
            probes[label].update(values, batch.latents, batch.other, held[given])
    return {label: probe.result() for label, probe in probes.items()}


def measure(
    source: Any,
    tree: LatentTree,
    *,
    draw: Draw | None = None,
    samples: int | None = None,
    seed: int | None = None,
    initial: Any = None,
    metrics: Sequence[str] | None = None,
    nodes: Sequence[Node] | None = None,
    leaves: Leaves | None = None,
    lags: int = LAGS,
) -> pd.DataFrame:
    """Measure what the layers of a network know of the latents, as one tidy table.

    Args:
        source: activations `(B, U)` or, of stacked draws, `(S, B, U)`; with a block of units for
            every latent of a level `(B, V, U)` or `(S, B, V, U)`; a mapping layer -> such; or a
            network with `activations(leaves)` that returns such a mapping. A layer whose name is a
            level's number is compared with that level's latents, any other layer with all latents.
        tree: the tree of the latents; S draws or networks may share one tree.
        draw: the rows that the activations were computed on. For a network, rows to run it on.
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
        "leaves": leaves, "lags": lags,
    }  # fmt: skip
    found = probe_layers(source, tree, **options)
    members = draw.members if draw is not None else getattr(source, "members", tree.members)
    table = to_frame(found, tree, members)
    if initial is not None:
        before = measure(initial, tree, **options)
        if set(before["layer"]) != set(table["layer"]):
            raise ValueError(
                f"the initial source has layers {sorted(set(before['layer']), key=str)}, "
                f"expected {sorted(set(table['layer']), key=str)}"
            )
        table["initial"] = table[KEY].merge(before[[*KEY, "value"]], on=KEY, how="left")["value"]
    room = table["ceiling"] - table["initial"]
    table["gap_closed"] = ((table["value"] - table["initial"]) / room).where(room > 0)
    return table


def to_frame(
    layers: Mapping[Label, Layer], tree: LatentTree, members: Sequence[int] | None = None
) -> pd.DataFrame:
    """The table of `measure` from the layers of `probe_layers`, so that one pass serves pictures too.

    Args:
        layers: from `probe_layers`.
        tree: the same as there.
        members: their addresses; the tree's by default.

    Raises:
        ValueError: another number of members than the layers have.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> a = draw.leaves.float()
        >>> to_frame(probe_layers(a, tree, draw=draw), tree).equals(measure(a, tree, draw=draw))
        True
    """
    import pandas as pd

    addresses = list(tree.members if members is None else members)
    for layer in layers.values():
        if len(layer.cka) != len(addresses):
            raise ValueError(f"expected {len(layer.cka)} members, got {len(addresses)}")
    rows = [row for layer in layers.values() for row in _rows(layer, tree, addresses)]
    table = pd.DataFrame(rows)
    table["initial"] = table["gap_closed"] = float("nan")
    return table[COLUMNS]


def _rows(layer: Layer, tree: LatentTree, members: list[int]) -> Iterator[dict[str, Any]]:
    """All rows of one layer."""
    shape = (len(members), len(layer.nodes))
    nan = torch.full(shape, torch.nan, dtype=torch.float64)
    none = Ceiling(nan, nan)
    names = tree.topology.names
    first = next(iter(layer.scores))
    rival = layer.specific.rival[:, layer.nodes]
    baseline = layer.rival_baseline[
        torch.arange(shape[0])[:, None], rival.clamp(min=0), torch.tensor(layer.nodes)
    ]
    size = len(layer.allowed) // shape[1] if layer.candidates == "own block" else len(layer.allowed)
    # metric -> value, unit, null, ceiling
    shown: dict[str, tuple[Tensor, Tensor | None, Tensor, Ceiling]] = {}
    for name, score in layer.scores.items():
        shown[name] = score.best, score.unit, score.null, layer.ceilings.get(name, none)
    head = layer.scores[first]
    matched = head.matched
    shown[f"matched_{first}"] = (
        matched.strength, matched.unit, nan, layer.ceilings.get(first, none),
    )  # fmt: skip
    shown["rival"] = layer.specific.rival_strength[:, layer.nodes], head.unit, nan, none
    limit = layer.correlation_ceiling
    shown["rival_baseline"] = baseline.masked_fill(rival < 0, 0.0), None, nan, limit
    shown["partial_correlation"] = layer.specific.partial[:, layer.nodes], head.unit, nan, none
    if layer.readout is not None:
        shown["linear_probe"] = layer.readout.correlation, None, nan, limit
    if not head.null.isnan().any():
        shown["below_null"] = (head.best <= head.null).double(), None, nan, none
    whole = {
        "linear_cka": layer.cka,
        "feature_spread": layer.collapsed.spread,
        "effective_rank": layer.collapsed.effective_rank,
        "dead_units": layer.collapsed.dead.sum(-1),
    }
    if not head.null.isnan().any():
        whole["units_below_null"] = head.below_null.sum(-1)
    common: dict[str, Any] = {
        "layer": layer.label, "candidates": layer.candidates, "n": layer.samples,
    }  # fmt: skip
    for s, member in enumerate(members):
        for metric, (value, unit, null, ceiling) in shown.items():
            rivals = metric in ("rival", "rival_baseline")
            for t, v in enumerate(layer.nodes):
                other = int(rival[s, t]) if rivals else -1
                yield common | {
                    "member": member,
                    "level": int(tree.topology.level[v]),
                    "node": names[v],
                    "metric": metric,
                    "unit": -1 if unit is None or unit[s, t] < 0 else int(unit[s, t]) % size,
                    "rival": names[other] if other >= 0 else "",
                    "value": float(value[s, t]),
                    "null": float(null[s, t]),
                    "ceiling": float(ceiling.value[s, t]),
                    "ceiling_error": float(ceiling.standard_error[s, t]),
                }
        level = layer.label if isinstance(layer.label, int) else -1
        for metric, number in whole.items():
            absent = dict.fromkeys(("null", "ceiling", "ceiling_error"), float("nan"))
            yield common | absent | {
                "member": member, "level": level, "node": "", "metric": metric, "unit": -1,
                "rival": "", "value": float(number[s]),
            }  # fmt: skip
