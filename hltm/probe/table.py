"""The measurements of layers as one tidy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
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
    "gap_closed", "n", "note",
]  # fmt: skip
TEXT = ("layer", "node", "metric", "candidates", "rival", "note")
COUNT = "a count has no null and no ceiling"
SPREAD = "no null: nothing is compared"


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
        if len(layer.dead) != len(addresses):
            raise ValueError(f"expected {len(layer.dead)} members, got {len(addresses)}")
    parts = [_columns(layer, tree, addresses) for layer in layers.values()]
    columns: dict[str, Any] = {k: np.concatenate([part[k] for part in parts]) for k in COLUMNS}
    # pandas chooses the type of text itself
    return pd.DataFrame(columns | {name: columns[name].tolist() for name in TEXT})


class _Entry(NamedTuple):
    """Rows of one metric: one for each target of a member, or one for the layer.

    Attributes:
        metric: its name.
        value, unit, null: `(S, T)`, or `(S, 1)` for the layer.
        ceiling: the same.
        note: why there is no null or no ceiling.
        whole: whether it is of the layer.
        rival: whether the column `rival` names the rival of the best unit.
    """

    metric: str
    value: Tensor
    unit: Tensor | None = None
    null: Tensor | None = None
    ceiling: Ceiling | None = None
    note: str = ""
    whole: bool = False
    rival: bool = False


def _of_targets(layer: Layer) -> list[_Entry]:
    """What is known of every target, but for the details."""
    first, head = next(iter(layer.scores.items()))
    found = []
    for name, score in layer.scores.items():
        note = "" if name in layer.ceilings else _no_ceiling(layer, name)
        found.append(
            _Entry(name, score.best, score.unit, score.null, layer.ceilings.get(name), note)
        )
    if head.matched is not None:
        limit = layer.ceilings.get(first)
        note = "" if limit else _no_ceiling(layer, first)
        # no set of units without repetition does better than the best unit: nor by chance
        matched = head.matched
        name = f"matched_{first}"
        found.append(_Entry(name, matched.strength, matched.unit, head.null, limit, note))
    if not head.null.isnan().all():
        below = (head.best <= head.null).double()
        found.append(_Entry("below_null", below, note="compares with the null; no ceiling"))
    if layer.candidates == "own block":
        size = len(layer.allowed) // layer.blocks
        dead = layer.dead.unflatten(-1, (-1, size)).sum(-1).double()
        each = dead.repeat_interleave(len(layer.names) // layer.blocks, -1)
        found.append(_Entry("dead_units", each, note=COUNT))
    return found


def _no_ceiling(layer: Layer, name: str) -> str:
    """Why a metric has no ceiling."""
    if not layer.nodes:
        return "no ceiling: targets are not the latents"
    return layer.scores[name].kind.no_ceiling


def _of_details(layer: Layer) -> list[_Entry]:
    """Rivals, partial correlations and linear probes of every target."""
    if layer.details is None:
        return []
    specific, bound = layer.details.specific, layer.correlation_ceiling
    head = next(iter(layer.scores.values()))
    rival = specific.rival[:, layer.nodes]
    members = torch.arange(len(rival))[:, None]
    # the posterior of each latent's own rival: (S, L, L) at (member, rival, latent)
    at = members, rival.clamp(min=0), torch.tensor(layer.nodes)
    baseline = layer.details.rival_baseline[at].masked_fill(rival < 0, 0.0)
    above = layer.latent_ceilings.of(
        "all", len(rival)
    )  # a block reads more than a rival's own leaves
    of_rival = Ceiling(*(part[at[:2]].masked_fill(rival < 0, torch.nan) for part in above))
    found = [
        _Entry(
            "rival",
            specific.rival_strength[:, layer.nodes],
            head.unit,
            ceiling=of_rival,
            rival=True,
        ),
        _Entry(
            "rival_baseline", baseline, ceiling=bound, rival=True, note="no null: read from no unit"
        ),
        _Entry("partial_correlation", specific.partial[:, layer.nodes], head.unit),
    ]
    if layer.details.readout is not None:
        found.append(_Entry("linear_probe", layer.details.readout.correlation, ceiling=bound))
    return found


def _of_layer(layer: Layer) -> list[_Entry]:
    """What is known of the layer as a whole."""

    def one(metric: str, value: Tensor, note: str = "", top: float | None = None) -> _Entry:
        column = value.double()[:, None]
        limit = None
        if top is not None:
            limit = Ceiling(torch.full_like(column, top), torch.zeros_like(column))
        return _Entry(metric, column, ceiling=limit, note=note, whole=True)

    found = []
    if layer.details is not None:
        spread, rank, _ = layer.details.collapsed
        found += [
            one("linear_cka", layer.details.cka, top=1.0),
            one("feature_spread", spread, SPREAD, top=1.0),
            one("effective_rank", rank, SPREAD, top=float(len(layer.allowed))),
        ]
    found.append(one("dead_units", layer.dead.sum(-1), COUNT))
    head = next(iter(layer.scores.values()))
    if not head.null.isnan().all():
        found.append(one("units_below_null", head.below_null.sum(-1), COUNT))
    return found


def _columns(layer: Layer, tree: LatentTree, members: Sequence[int]) -> dict[str, np.ndarray]:
    """All rows of one layer: for each member those of its targets, then those of the layer."""
    entries = [*_of_targets(layer), *_of_details(layer), *_of_layer(layer)]
    parts = [_of_entry(layer, tree, members, entry) for entry in entries]
    return {name: np.concatenate([part[name] for part in parts], 1).ravel() for name in COLUMNS}


def _of_entry(
    layer: Layer, tree: LatentTree, members: Sequence[int], entry: _Entry
) -> dict[str, np.ndarray]:
    """`(S, T)` or `(S, 1)` of every column."""
    nan = torch.full(tuple(entry.value.shape), torch.nan, dtype=torch.float64)
    size = len(layer.allowed) // layer.blocks
    level = layer.label if isinstance(layer.label, int) else -1
    unit = np.full(nan.shape, -1)
    if entry.unit is not None:
        unit = np.where(entry.unit.numpy() < 0, -1, entry.unit.numpy() % size)
    names = np.array(["", *tree.topology.names], dtype=object)  # place 0 is that of none
    rival = np.zeros(nan.shape, dtype=int)
    if entry.rival and layer.details is not None:
        rival = layer.details.specific.rival[:, layer.nodes].numpy() + 1
    ceiling, error = (nan, nan) if entry.ceiling is None else entry.ceiling
    null = nan if entry.null is None else entry.null
    given: dict[str, Any] = {
        "member": np.array(members)[:, None],
        "layer": np.array([layer.label], dtype=object),
        "level": level if entry.whole else np.array(layer.levels),
        "node": np.array([""] if entry.whole else layer.names, dtype=object),
        "metric": np.array([entry.metric], dtype=object),
        "candidates": np.array([layer.candidates], dtype=object),
        "unit": unit,
        "rival": names[rival],
        "value": entry.value.numpy(),
        "null": null.numpy(),
        "initial": np.nan,
        "ceiling": ceiling.numpy(),
        "ceiling_error": error.numpy(),
        "gap_closed": np.nan,
        "n": layer.samples,
        "note": np.array([entry.note], dtype=object),
    }
    return {name: np.broadcast_to(values, nan.shape) for name, values in given.items()}
