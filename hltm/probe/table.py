"""The measurements of layers as one tidy table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling
from hltm.probe.batches import Label
from hltm.probe.layer import Layer
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

KEY = ["member", "layer", "level", "node", "metric"]
COLUMNS = [
    *KEY, "candidates", "unit", "rival", "value", "null", "initial", "ceiling", "ceiling_error",
    "gap_closed", "n",
]  # fmt: skip


def to_frame(
    layers: Mapping[Label, Layer], tree: LatentTree, members: Sequence[int] | None = None
) -> pd.DataFrame:
    """The table of `measure` from the layers of `probe_layers`, so that one pass serves figures too.

    Args:
        layers: from `probe_layers`.
        members: their addresses; the tree's by default.

    Raises:
        ValueError: another number of members than the layers have.

    Example:
        >>> import hltm
        >>> from hltm.probe import measure, probe_layers
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


class _Entry(NamedTuple):
    """One metric of every latent, `(S, T)` each; None stands for what does not apply."""

    value: Tensor
    unit: Tensor | None = None
    null: Tensor | None = None
    ceiling: Ceiling | None = None


def _of_latents(layer: Layer) -> dict[str, _Entry]:
    """metric -> what it gives for every latent."""
    first, head = next(iter(layer.scores.items()))
    rival = layer.specific.rival[:, layer.nodes]
    # the posterior of each latent's own rival: (S, L, L) at (member, rival, latent)
    baseline = layer.rival_baseline[
        torch.arange(len(rival))[:, None], rival.clamp(min=0), torch.tensor(layer.nodes)
    ]
    found = {
        name: _Entry(score.best, score.unit, score.null, layer.ceilings.get(name))
        for name, score in layer.scores.items()
    }
    matched, bound = head.matched, layer.correlation_ceiling
    limit = layer.ceilings.get(first)
    found[f"matched_{first}"] = _Entry(matched.strength, matched.unit, ceiling=limit)
    found["rival"] = _Entry(layer.specific.rival_strength[:, layer.nodes], head.unit)
    found["rival_baseline"] = _Entry(baseline.masked_fill(rival < 0, 0.0), ceiling=bound)
    found["partial_correlation"] = _Entry(layer.specific.partial[:, layer.nodes], head.unit)
    if layer.readout is not None:
        found["linear_probe"] = _Entry(layer.readout.correlation, ceiling=bound)
    if not head.null.isnan().any():
        found["below_null"] = _Entry((head.best <= head.null).double())
    return found


def _of_layer(layer: Layer) -> dict[str, Tensor]:
    """metric -> `(S,)` what it gives for the layer as a whole."""
    found = {
        "linear_cka": layer.cka,
        "feature_spread": layer.collapsed.spread,
        "effective_rank": layer.collapsed.effective_rank,
        "dead_units": layer.collapsed.dead.sum(-1),
    }
    head = next(iter(layer.scores.values()))
    if not head.null.isnan().any():
        found["units_below_null"] = head.below_null.sum(-1)
    return found


def _rows(layer: Layer, tree: LatentTree, members: list[int]) -> Iterator[dict[str, Any]]:
    """All rows of one layer: for each member those of its latents, then those of the whole layer."""
    latents, whole = _of_latents(layer), _of_layer(layer)
    names, nan = tree.topology.names, float("nan")
    own = layer.candidates == "own block"
    size = len(layer.allowed) // len(layer.nodes) if own else len(layer.allowed)
    absent = {
        "layer": layer.label, "candidates": layer.candidates, "unit": -1, "rival": "", "null": nan,
        "ceiling": nan, "ceiling_error": nan, "n": layer.samples,
    }  # fmt: skip
    for s, member in enumerate(members):
        for metric, entry in latents.items():
            for t, v in enumerate(layer.nodes):
                row: dict[str, Any] = absent | {
                    "member": member, "level": int(tree.topology.level[v]), "node": names[v],
                    "metric": metric, "value": float(entry.value[s, t]),
                }  # fmt: skip
                if entry.unit is not None and entry.unit[s, t] >= 0:
                    row["unit"] = int(entry.unit[s, t]) % size
                rival = int(layer.specific.rival[s, v])
                if metric in ("rival", "rival_baseline") and rival >= 0:
                    row["rival"] = names[rival]
                if entry.null is not None:
                    row["null"] = float(entry.null[s, t])
                if entry.ceiling is not None:
                    row["ceiling"] = float(entry.ceiling.value[s, t])
                    row["ceiling_error"] = float(entry.ceiling.standard_error[s, t])
                yield row
        level = layer.label if isinstance(layer.label, int) else -1
        for metric, value in whole.items():
            yield absent | {
                "member": member, "level": level, "node": "", "metric": metric,
                "value": float(value[s]),
            }  # fmt: skip
