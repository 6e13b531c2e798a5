"""The measurements of layers as one tidy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling
from hltm.probe.batches import Label
from hltm.probe.layer import BEHIND, Layer
from hltm.probe.metric import Metric
from hltm.probe.metrics.partial_ceiling import PAIRS
from hltm.probe.metrics.specificity import Specific
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
ALONE = "no null and no ceiling: compared with no latent"


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


def gap_closed(table: pd.DataFrame) -> pd.Series[float]:
    """(value - initial) / (ceiling - initial) of every row; NaN where there is no room above `initial`."""
    room = table["ceiling"] - table["initial"]
    return ((table["value"] - table["initial"]) / room).where(room > 0)


def with_initial(
    table: pd.DataFrame, before: pd.DataFrame | None, key: Sequence[str] = KEY
) -> pd.DataFrame:
    """The table with `initial` from that of the same source before training, and with `gap_closed`.

    Args:
        table: with columns `initial` and `gap_closed`, which are replaced.
        before: the table of the initial source; None for none.
        key: columns by which rows belong together.

    Raises:
        ValueError: an initial source with other layers.
    """
    if before is not None:
        given, expected = (sorted(set(x["layer"]), key=str) for x in (before, table))
        if given != expected:
            raise ValueError(f"the initial source has layers {given}, expected {expected}")
        values = before[[*key, "value"]].rename(columns={"value": "initial"})
        table["initial"] = table[[*key]].merge(values, on=[*key], how="left")["initial"]
    table["gap_closed"] = gap_closed(table)
    return table


class _Entry(NamedTuple):
    """Rows of one metric: one for each target of a member, or one for the layer.

    Attributes:
        metric: its name.
        value, unit, null: `(S, T)`, or `(S, 1)` for the layer.
        ceiling: the same.
        note: why there is no null or no ceiling; of all targets, or of each.
        whole: whether it is of the layer.
        rival: whether the column `rival` names the rival of the best unit.
    """

    metric: str
    value: Tensor
    unit: Tensor | None = None
    null: Tensor | None = None
    ceiling: Ceiling | None = None
    note: str | Sequence[str] = ""
    whole: bool = False
    rival: bool = False


def _of_targets(layer: Layer) -> list[_Entry]:
    """What is known of every target, but for the details."""
    first, head = next(iter(layer.scores.items()))
    found = []
    for name, score in layer.scores.items():
        notes = [_no_null(layer), "" if name in layer.ceilings else _no_ceiling(layer, score.kind)]
        if layer.details is None and name.endswith(BEHIND) and not notes[0]:
            notes.append("null: of the units before the nonlinearity")
        note = "; ".join(filter(None, notes))
        limit = layer.ceilings.get(name)
        found.append(_Entry(name, score.best, score.unit, _null(layer, score.null), limit, note))
    if head.matched is not None:
        # what no unit may stand for twice is never larger than what it may, nor by chance
        matched = found[0]._replace(
            metric=f"matched_{first}", value=head.matched.strength, unit=head.matched.unit
        )
        found.append(matched)
    if not _no_null(layer):
        below = head.below_null.double()
        found.append(_Entry("below_null", below, note="compares with the null; no ceiling"))
    if layer.candidates == "own block":
        size = len(layer.allowed) // layer.blocks
        dead = layer.dead.unflatten(-1, (-1, size)).sum(-1).double()
        each = dead.repeat_interleave(len(layer.names) // layer.blocks, -1)
        found.append(_Entry("dead_units", each, note=COUNT))
    return found


def _no_ceiling(layer: Layer, kind: type[Metric]) -> str:
    """Why a metric has no ceiling."""
    return kind.no_ceiling if layer.nodes else "no ceiling: targets are not the latents"


def _of_details(layer: Layer) -> list[_Entry]:
    """Rivals, partial correlations and linear probes of every target."""
    if layer.details is None:
        return []
    found, head = layer.details, next(iter(layer.scores.values()))
    specific = Specific(*(part[:, layer.nodes] for part in found.specific))
    members, bound = len(specific.rival), layer.correlation_ceiling
    none = specific.rival < 0
    # the posterior of each latent's own rival: (S, L, L) at (member, rival, latent)
    at = torch.arange(members)[:, None], specific.rival.clamp(min=0)
    baseline = found.rival_baseline[(*at, torch.tensor(layer.nodes))].masked_fill(none, 0.0)
    # a block may read more leaves than those below its rival
    above = layer.latent_ceilings.correlation("all", members)
    of_rival = Ceiling(*(part[at].masked_fill(none, torch.nan) for part in above))
    partial = layer.latent_ceilings.partial(layer.leaves, members)
    partial = Ceiling(*(part[:, layer.nodes] for part in partial))
    alone = ["" if some else "no other latent is followed" for some in (~none).any(0)]
    notes = _partial_notes(layer, specific, partial)
    readout = found.readout
    probe = torch.full_like(head.best, torch.nan) if readout is None else readout.correlation
    return [
        _Entry("rival", specific.rival_strength, head.unit, _null(layer, specific.rival_null), of_rival,
               [note or _no_null(layer) for note in alone], rival=True),
        _Entry("rival_baseline", baseline, None, None, bound, "no null: read from no unit", rival=True),
        _Entry("partial_correlation", specific.partial, head.unit,
               _null(layer, specific.partial_null), partial, notes),
        _Entry("linear_probe", probe, None, readout and _null(layer, readout.null), bound,
               _no_null(layer) if readout else "too few rows to fit and to test"),
    ]  # fmt: skip


def _partial_notes(layer: Layer, found: Specific, ceiling: Ceiling) -> list[str]:
    """Why a latent has no partial correlation, or none of its null and ceiling, in any member."""
    notes = []
    for t, v in enumerate(layer.nodes):
        few = bool(found.partial[:, t].isnan().any())
        parts = ["too few rows" if few else _no_null(layer)]
        if bool(ceiling.value[:, t].isnan().any()):
            parts.append(f"no ceiling: over {PAIRS} joint states with the parent")
        notes.append("; ".join(filter(None, parts)) if v else "no parent")
    return notes


def _no_null(layer: Layer) -> str:
    """Why nothing in the layer has a null, if that is so."""
    return "no null: lags=0" if bool(next(iter(layer.scores.values())).null.isnan().all()) else ""


def _null(layer: Layer, null: Tensor) -> Tensor | None:
    """A null, unless none are asked for."""
    return None if _no_null(layer) else null


def _of_layer(layer: Layer) -> list[_Entry]:
    """What is known of the layer as a whole."""

    def one(
        metric: str, value: Tensor, note: str, top: float | None = None, null: Tensor | None = None
    ) -> _Entry:
        column = value.double()[:, None]
        limit = None
        if top is not None:
            limit = Ceiling(torch.full_like(column, top), torch.zeros_like(column))
        below = None if null is None else null[:, None]
        return _Entry(metric, column, None, below, limit, note, whole=True)

    found = []
    if layer.details is not None:
        spread, rank, _ = layer.details.collapsed
        null = _null(layer, layer.details.cka_null)
        few = "too few rows" if bool(layer.details.cka.isnan().any()) else ""
        found += [
            one("linear_cka", layer.details.cka, few or _no_null(layer), 1.0, null),
            one("feature_spread", spread, ALONE),
            one("effective_rank", rank, ALONE),
        ]
    found.append(one("dead_units", layer.dead.sum(-1), COUNT))
    if not _no_null(layer):
        head = next(iter(layer.scores.values()))
        found.append(one("units_below_null", head.units_below_null.sum(-1), COUNT))
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
        "note": np.array([entry.note] if isinstance(entry.note, str) else entry.note, dtype=object),
    }
    return {name: np.broadcast_to(values, nan.shape) for name, values in given.items()}
