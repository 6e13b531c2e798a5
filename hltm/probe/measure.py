"""Everything that is measured of a network's layers, as one tidy table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling, Leaves
from hltm.model.topology import Node
from hltm.probe.batches import Label, batches, posteriors
from hltm.probe.layer import BINARY, METRICS, Layer, LayerProbe
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
    n: int | None = None,
    seed: int | None = None,
    metrics: Sequence[str] | None = None,
    nodes: Sequence[Node] | None = None,
    leaves: Leaves | None = None,
    lags: int = LAGS,
) -> dict[Label, Layer]:
    """Hold every layer against the latents, in one pass that keeps no activations.

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
        if name in BINARY and not binary:
            raise ValueError(f"{name} is for latents of two states; use correlation_ratio")
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
    for batch in batches(source, tree, draw, n, seed, lags):
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
    n: int | None = None,
    seed: int | None = None,
    initial: Any = None,
    metrics: Sequence[str] | None = None,
    nodes: Sequence[Node] | None = None,
    leaves: Leaves | None = None,
    lags: int = LAGS,
) -> pd.DataFrame:
    """One tidy table of what the layers of a network know of the latents.

    Args:
        source: activations `(B, U)` or, of stacked draws, `(S, B, U)`; with a block of units for
            every latent of a level `(B, V, U)` or `(S, B, V, U)`; a mapping layer -> such; or a
            network with `activations(leaves)` that gives such a mapping. A layer called by a
            level's number is held against that level's latents, any other against all of them.
        tree: what the data come from; S draws or networks may share one tree.
        draw: the rows that the activations are of. For a network, rows to probe it on.
        n, seed: for a network without a draw: this many rows, of a stream that training never reads.
        initial: the same source before training, for `initial` and `gap_closed`.
        metrics: of correlation, correlation_ratio, selectivity, roc_auc and mutual_information; the
            first one chooses the units that are matched and looked at for specificity. By default
            correlation and selectivity, or the correlation ratio where a latent has more than two
            states. The null of the last two metrics takes by far the most time and memory.
        nodes: latents that a shared layer is held against.
        leaves: what ceilings and posteriors are given: `own` leaves or `all`; by default own
            leaves where a latent has a block of its own, all where latents share a layer.
        lags: pairings with other rows that make the null, at most half of the rows; 0 for none.

    Returns:
        One row per member, layer, node and metric: member, layer, level, node, metric, candidates,
        unit, rival, value, null, initial, ceiling, ceiling_error, gap_closed, n. `unit` counts
        within the candidates; -1 and NaN stand for what does not apply. Besides the metrics, each
        unsigned and of the best candidate:

        - `matched_…`: the first metric, where no unit may stand for two latents;
        - `rival`: the correlation ratio of the best unit with the other latent that it follows
          best, named in `rival`; `relay`: what that latent's exact posterior scores here;
          `partial_correlation`: what is left given the parent (`Specificity`);
        - `linear_probe`: held-out correlation of a ridge readout of all candidates;
        - `blind`: 1 where the best candidate does not beat the null;
        - per layer (node is empty, level -1 unless the layer is one): `linear_cka` with the
          posteriors, `feature_spread`, `effective_rank`, `dead_units`, `blind_units`.

        The ceiling of correlations is `tree.ceiling`; of the ROC area it is that of the exact
        posterior on the same rows, of mutual information what the leaves tell on these rows.
        Selectivity is in the unit's own scale and has none.

    Raises:
        ValueError: activations that are not finite (naming layer and unit) or fit no form, arrays
            without a draw, a draw of another tree, an unknown metric or one for two states only,
            nodes that are not latents, too few rows for the lags, or an initial source with other
            layers.

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
        "draw": draw, "n": n, "seed": seed, "metrics": metrics, "nodes": nodes, "leaves": leaves,
        "lags": lags,
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
    """The table of `measure` from what `examine` found, so that one pass serves pictures as well.

    Args:
        layers: from `examine`.
        tree: the same as there.
        members: their addresses; the tree's by default.

    Raises:
        ValueError: members of another number than were examined.

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
    found = tree.ceiling(layer.nodes, leaves=layer.leaves)
    limit = Ceiling(*(part.reshape(-1, shape[1]).expand(shape) for part in found))
    none = Ceiling(nan, nan)
    ceilings = dict.fromkeys(("correlation", "correlation_ratio", "linear_probe"), limit)
    if layer.auc_ceiling is not None:
        ceilings["roc_auc"] = Ceiling(layer.auc_ceiling, nan)
    if layer.information_ceiling is not None:
        ceilings["mutual_information"] = Ceiling(*layer.information_ceiling)
    names = tree.topology.names
    first = next(iter(layer.scores))
    rival = layer.specific.rival[:, layer.nodes]
    relay = layer.relay[
        torch.arange(shape[0])[:, None], rival.clamp(min=0), torch.tensor(layer.nodes)
    ]
    size = len(layer.allowed) // shape[1] if layer.candidates == "own block" else len(layer.allowed)
    # metric -> value, unit, null, ceiling
    shown: dict[str, tuple[Tensor, Tensor | None, Tensor, Ceiling]] = {}
    for name, score in layer.scores.items():
        shown[name] = score.best, score.unit, score.null, ceilings.get(name, none)
    head = layer.scores[first]
    shown[f"matched_{first}"] = (*head.matched[::-1], nan, ceilings.get(first, none))
    shown["rival"] = layer.specific.rival_strength[:, layer.nodes], head.unit, nan, none
    shown["relay"] = relay.masked_fill(rival < 0, 0.0), None, nan, limit
    shown["partial_correlation"] = layer.specific.partial[:, layer.nodes], head.unit, nan, none
    if layer.readout is not None:
        shown["linear_probe"] = layer.readout.correlation, None, nan, limit
    if not head.null.isnan().any():
        shown["blind"] = (head.best <= head.null).double(), None, nan, none
    whole = {
        "linear_cka": layer.cka,
        "feature_spread": layer.collapsed.spread,
        "effective_rank": layer.collapsed.effective_rank,
        "dead_units": layer.collapsed.dead.sum(-1),
    }
    if not head.null.isnan().any():
        whole["blind_units"] = head.blind.sum(-1)
    common: dict[str, Any] = {"layer": layer.label, "candidates": layer.candidates, "n": layer.n}
    for s, member in enumerate(members):
        for metric, (value, unit, null, ceiling) in shown.items():
            rivals = metric in ("rival", "relay")
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
        for metric, figure in whole.items():
            absent = dict.fromkeys(("null", "ceiling", "ceiling_error"), float("nan"))
            yield common | absent | {
                "member": member, "level": level, "node": "", "metric": metric, "unit": -1,
                "rival": "", "value": float(figure[s]),
            }  # fmt: skip
