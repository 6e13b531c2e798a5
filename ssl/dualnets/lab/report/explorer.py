"""The explorer in a run's page: trees whose latents are coloured by their scores, at every snapshot.

Charts are drawn by plotly, in the browser; `explorer.js` connects it with the controls. What it shows is
embedded as compressed JSON, in whole thousandths.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dualnets.lab.free_settings import free_settings
from dualnets.lab.report.document import asset
from dualnets.lab.report.run_settings import rebuilt, shown_setting, with_effect
from hltm._names import visible

if TYPE_CHECKING:
    import pandas as pd

    from dualnets.lab.experiment import Experiment
    from hltm.model.topology import Topology

METRICS = {  # as `dualnets.lab.learning_curves` names them -> in words
    "correlation": "|correlation|, before the ReLU",
    "correlation_ratio": "correlation ratio, before the ReLU",
    "correlation_post_relu": "|correlation|, behind the ReLU",
    "correlation_ratio_post_relu": "correlation ratio, behind the ReLU",
}
DEAD, STRENGTH = "dead_units", "strength"
LARGEST = 4096  # nodes of a tree that is still drawn
MOST = 1_000_000  # scores, about 1.5 MB of a page
MISSING = (
    '<p class="quiet">The explorer is drawn by plotly, which is not installed: '
    "<code>python -m pip install plotly</code> brings it, then <code>hltm report</code>.</p>"
)
CONTROLS = """<div class="controls">
<label>Cell<select id="cell-0"></select></label>
<label>Beside it<select id="cell-1"></select></label>
<label>Tree<select id="member"></select></label>
<label>Score<select id="metric"></select></label>
<label>Colour<select id="colour">
<option value="value">alignment</option><option value="ceiling">alignment / ceiling</option>
<option value="null">alignment less its null</option></select></label>
<label>Latent<select id="latent"></select></label>
<label class="over"><span>Snapshot: <output id="updates"></output></span>
<input type="range" id="snapshot" min="0" value="0" step="1"></label>
<button type="button" id="play">Play</button>
</div>
<p class="quiet" id="waiting">The charts are being loaded.</p>
<div class="pair" id="trees"></div>
<div id="curve" class="chart" role="img"></div>
<div id="numbers"></div>
<p class="hidden" id="told" role="status" aria-live="polite"></p>
<noscript><p>The explorer needs JavaScript.</p></noscript>"""


def explorer(
    experiment: Experiment,
    table: pd.DataFrame,
    cells: Sequence[Mapping[str, Any]],
    beside: str = "",
) -> tuple[str, str]:
    """The explorer's part of a page, and the scripts behind it; two empty texts without scores on trees.

    Args:
        experiment, table: of the run.
        cells: of its manifest, each with `cell` and `settings`.
        beside: the name of a file beside the page that has plotly's script; it is embedded if empty.
    """
    found = explorer_data(experiment, table, cells)
    if found is None:
        return "", ""
    heading = "<h2>Explorer</h2>"
    if find_spec("plotly") is None:
        return heading + MISSING, ""
    body = (
        f'{heading}<p class="quiet">Latents of a tree, coloured by how well the best unit follows each. '
        "A latent is chosen by a click, or in the list. A square is no better than its null; grey are "
        "leaves, and latents without such a score.</p>"
        f'<div id="explorer" data-plotly="{html.escape(beside, quote=True)}">{CONTROLS}</div>'
    )
    parts = [("explorer-data", json.dumps(found, separators=(",", ":")).encode())]
    if not beside:
        parts.append(("explorer-plotly", plotly_script()))
    scripts = "".join(
        f'<script type="text/plain" id="{name}">{packed(content)}</script>'
        for name, content in parts
    )
    return body, f"{scripts}<script>{asset('explorer.js')}</script>"


def plotly_script() -> bytes:
    """Plotly's script for browsers, as its Python package brings it."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()


def packed(content: bytes) -> str:
    """Compressed, as text for a page."""
    # without the time, so that equal pages are equal files
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def explorer_data(
    experiment: Experiment, table: pd.DataFrame, cells: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What the explorer shows: trees, and for every cell the scores of their latents; None if there are none.

    Returns:
        `trees`, each with the names, parents, levels and places of its nodes and the numbers of its
        latents; `metrics`, in words by name; `cells`, each with its name, tree, steps and members, of
        which the first is their mean, and by metric `value` (member, step, latent), `null` and `ceiling`
        (member, latent), in thousandths; `units` and `dead` ones per latent, where they were stored.
        Without a mean there are the number of the best unit, by metric `unit` (member, step, latent), and
        `strength` of every unit of a latent's block at both ends (2, member, latent, unit). Of a run with
        more than MOST scores there are the means alone.
    """
    if not {"node", "level", "metric", "step", "member", "value"} <= set(table):
        return None
    scores = table[table["metric"].isin([*METRICS, DEAD, STRENGTH])]
    built = [rebuilt(experiment, own["settings"]) for own in cells]
    if scores.empty or not all(hasattr(settings, "build_topology") for settings in built):
        return None
    names = cell_names(list(map(with_effect, built)))
    trees: list[Topology] = []
    found: list[dict[str, Any]] = []
    by_cell = dict(iter(scores.groupby("cell", sort=False)))
    for own, settings, name in zip(cells, built, names, strict=True):
        topology = settings.build_topology()
        latents = [topology.names[v] for v in topology.latents]
        rows = by_cell.get(own["cell"], scores[:0])
        rows = rows[rows["node"].isin(latents)]
        if not rows["metric"].isin(METRICS.keys()).any() or len(topology) > LARGEST:
            continue  # the others can be shown
        if topology not in trees:
            trees.append(topology)
        what = {
            "name": name,
            "tree": trees.index(topology),
            "units": getattr(settings, "units", None),
        }
        found.append(what | _scores(rows, latents, each=len(scores) <= MOST))
    if not found:
        return None
    metrics = {name: words for name, words in METRICS.items() if (scores["metric"] == name).any()}
    return {"trees": list(map(_tree, trees)), "metrics": metrics, "cells": found}


def cell_names(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each cell: its variant, and the settings that tell it from others.

    Example:
        >>> cell_names([{"units": 2, "lr": 0.1}, {"units": 5, "lr": 0.1}])
        ['units 2', 'units 5']
    """
    free = free_settings([{"variant": "", **own} for own in cells])
    names = []
    for own in cells:
        words = [f"{name.replace('_', ' ')} {shown_setting(own, name)}" for name in free]
        names.append(", ".join([*filter(None, [own.get("variant")]), *words]) or "all")
    return names


def _tree(topology: Topology) -> dict[str, Any]:
    from hltm.plot import positions

    return {
        "names": list(map(visible, topology.names)), "parent": topology.parent.tolist(),
        "level": topology.level.tolist(), "x": positions(topology).tolist(),
        "latents": list(topology.latents),
    }  # fmt: skip


def _scores(rows: pd.DataFrame, latents: Sequence[str], *, each: bool) -> dict[str, Any]:
    """Scores of one cell as nested lists; the first member is the mean, the others follow if `each`."""
    steps, members = (sorted(map(int, rows[name].unique())) for name in ("step", "member"))
    metrics = rows["metric"].to_numpy()
    places = (
        np.searchsorted(members, rows["member"]),
        np.searchsorted(steps, rows["step"]),
        rows["node"].map({node: at for at, node in enumerate(latents)}).to_numpy(),
    )

    def array(metric: str, column: str) -> np.ndarray:
        """`(S or 1, T, V)` values of a column, the mean over members first."""
        shaped = np.full((len(members), len(steps), len(latents)), np.nan)
        if column in rows:
            of = metrics == metric
            shaped[tuple(own[of] for own in places)] = rows[column].to_numpy(np.float64)[of]
        mean = _finite_mean(shaped)[None]
        return np.concatenate([mean, shaped]) if each else mean

    units = rows["unit"].fillna(-1).astype(int) if each and "unit" in rows else None

    def best(metric: str) -> list[Any]:
        """`(S, T, V)` numbers of the units that follow the latents best, None for none."""
        shaped = np.full((len(members), len(steps), len(latents)), -1).astype(object)
        if units is not None:
            of = metrics == metric
            shaped[tuple(own[of] for own in places)] = units[of].tolist()
        shaped[shaped == -1] = None
        return shaped.tolist() if units is not None else []

    of = {
        str(metric): {
            "value": _thousandths(array(metric, "value")),
            "unit": best(metric),
            **{name: _thousandths(array(metric, name)[:, -1]) for name in ("null", "ceiling")},
        }
        for metric in dict.fromkeys(metrics)
        if metric not in (DEAD, STRENGTH)
    }
    last = _thousandths(array(DEAD, "value")[:, -1]) if DEAD in metrics else []
    candidates = (
        dict(zip(rows["node"], rows["candidates"], strict=True)) if "candidates" in rows else {}
    )
    return {
        "steps": steps,
        "members": members if each else [],
        "of": of,
        "dead": last,
        "strength": []
        if units is None
        else _strengths(rows[metrics == STRENGTH], members, latents),
        "candidates": [candidates.get(node) for node in latents],
    }


def _strengths(rows: pd.DataFrame, members: Sequence[int], latents: Sequence[str]) -> list[Any]:
    """`(2, S, V, U)` of every unit of each latent's block before and after training; empty without."""
    if rows.empty:
        return []
    steps, unit = sorted(rows["step"].unique()), rows["unit"].astype(int)
    shaped = np.full((len(steps), len(members), len(latents), unit.max() + 1), np.nan)
    places = {node: at for at, node in enumerate(latents)}
    shaped[
        np.searchsorted(steps, rows["step"]),
        np.searchsorted(members, rows["member"]),
        rows["node"].map(places),
        unit,
    ] = rows["value"]
    return _thousandths(shaped[[0, -1]])


def _finite_mean(values: np.ndarray) -> np.ndarray:
    """`(T, V)` means over the first axis of what is finite, NaN where nothing is."""
    kept = np.isfinite(values)
    count = kept.sum(0)
    return np.where(count, np.where(kept, values, 0).sum(0) / np.maximum(count, 1), np.nan)


def _thousandths(values: np.ndarray) -> list[Any]:
    """Whole numbers, None where there is none."""
    finite = np.isfinite(values)
    whole = np.round(np.where(finite, values, 0) * 1000).astype(int).astype(object)
    whole[~finite] = None
    return whole.tolist()
