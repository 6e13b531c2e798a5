"""Figures of causal probes: latents by layers, and what units show of do(latent) beside what is observed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from hltm.probe.intervention import InterventionEffect

NAMED = 80  # latents up to which each has its name
DIGITS = 20  # latents up to which each cell has its number


def patching_figure(
    table: pd.DataFrame, *, metric: str | None = None, title: str | None = None
) -> Figure:
    """A figure of latents by layers from the table of `patch` or `ablate`: means over members.

    A cell that is not above its null, mean over members, is crossed out; a latent that was not patched in a
    layer leaves it blank.

    Args:
        metric: of the table; its first by default.
        title: a line above the figure.

    Raises:
        ValueError: another table, or a metric that the table does not have.

    Example:
        >>> import hltm, torch
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> table = hltm.probe.patch(hltm.probe.TorchNetwork(model, ["0", "1"]), tree, samples=200, seed=1)
        >>> patching_figure(table).savefig("/dev/null", format="png")
    """
    if "metric" not in getattr(table, "columns", ()):
        raise ValueError(
            f"expected a table of patch or ablate, got a {type(table).__name__} without metric"
        )
    known = list(dict.fromkeys(table["metric"]))
    name = metric or (known[0] if known else "")
    if name not in known:
        raise ValueError(f"the table has no metric {name!r}, expected {', '.join(known)}")
    rows = table[table["metric"] == name]
    means = rows.groupby(["layer", "node"], sort=False)[["value", "null", "ceiling"]].mean()
    layers = list(dict.fromkeys(rows["layer"]))
    level = dict(zip(rows["node"], rows["level"], strict=True))
    nodes = sorted(level, key=lambda node: -level[node])  # the root first, otherwise in order
    value, null, ceiling = (
        means[column].unstack("node").reindex(index=layers, columns=nodes).to_numpy()
        for column in means
    )

    from matplotlib.figure import Figure

    width, height = np.clip(0.45 * len(nodes), 3, 16) + 1.6, 0.42 * len(layers) + 1.5
    figure = Figure(figsize=(float(width), float(height)), dpi=110, layout="constrained")
    axes = figure.subplots()
    finite = ceiling[np.isfinite(ceiling)]
    top = max(float(finite.max()) if len(finite) else 1.0, 1e-9)
    image = axes.imshow(
        value, aspect="auto", cmap="Blues", vmin=0, vmax=top, interpolation="nearest"
    )
    for i, t in zip(*np.nonzero(np.isfinite(value)), strict=True):
        weak = np.isfinite(null[i, t]) and value[i, t] <= null[i, t]
        if len(nodes) <= DIGITS:
            shown = (
                f"{value[i, t]:.2f}".replace("0.", ".", 1)
                if abs(value[i, t]) < 1
                else f"{value[i, t]:.1f}"
            )
            colour = "white" if value[i, t] > 0.6 * top else "black"
            axes.text(t, i, shown, ha="center", va="center", fontsize=7, color=colour)
        if weak:
            axes.plot([t - 0.45, t + 0.45], [i + 0.45, i - 0.45], color="#d6604d", linewidth=1.2)
    if len(nodes) <= NAMED:
        turned = 90 if max(map(len, map(str, nodes))) > 2 else 0
        axes.set_xticks(
            range(len(nodes)), [_plain(node) for node in nodes], fontsize=7, rotation=turned
        )
    else:
        axes.set_xticks([])
    axes.set_yticks(range(len(layers)), [_plain(layer) for layer in layers], fontsize=8)
    for t in range(1, len(nodes)):
        if level[nodes[t]] != level[nodes[t - 1]]:
            axes.axvline(t - 0.5, color="black", linewidth=0.8)
    axes.set_xlabel(
        "latent (level " + " | ".join(map(str, dict.fromkeys(level[n] for n in nodes))) + ")",
        fontsize=9,
    )
    axes.set_ylabel("layer", fontsize=9)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(name.replace("_", " "), fontsize=8)
    bar.outline.set_visible(False)
    members = rows["member"].nunique()
    over = f", mean of {members} members" if members > 1 else ""
    shown = title or f"{name.replace('_', ' ')}{over}; a line through a cell: not above its null"
    figure.suptitle(_plain(shown), x=0.01, ha="left", fontsize=9, fontweight="bold")
    return figure


def intervention_figure(
    table: pd.DataFrame | InterventionEffect, *, layer: int | str | None = None
) -> Figure:
    """Each unit's |effect| of do(latent) against its |selectivity|, one panel per latent of a layer.

    A unit on the diagonal shows what it causes; one below it shows what comes through the parent. Lines are
    the ceiling, and dotted the effect on the parent's exact posterior. Means over members are not
    taken: every member's units are points.

    Args:
        table: what `intervention_effect` returns, or its table.
        layer: of the table; its first by default.

    Raises:
        ValueError: another table, or a layer that the table does not have.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> class Reader:
        ...     def activations(self, leaves):
        ...         return {"leaves": leaves.float()}
        >>> found = hltm.probe.intervention_effect(Reader(), tree, samples=100, seed=1)
        >>> intervention_figure(found).savefig("/dev/null", format="png")
    """
    shown: Any = table if hasattr(table, "columns") else getattr(table, "table", table)
    if "selectivity" not in getattr(shown, "columns", ()):
        raise ValueError(
            f"expected what intervention_effect returns, got a {type(table).__name__} without selectivity"
        )
    known = list(dict.fromkeys(shown["layer"]))
    chosen = known[0] if layer is None and known else layer
    if chosen not in known:
        raise ValueError(f"the table has no layer {chosen!r}, expected one of {known}"[:290])
    rows = shown[shown["layer"] == chosen]
    nodes = list(dict.fromkeys(rows["node"]))[:DIGITS]

    from matplotlib.figure import Figure

    columns = min(len(nodes), 5)
    lines = -(-len(nodes) // columns)
    figure = Figure(figsize=(1.9 * columns + 0.8, 1.9 * lines + 0.8), dpi=110, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    top = float(rows[["effect", "selectivity"]].abs().max(axis=None)) * 1.05 or 1.0
    for axes, node in zip(panels.flat, nodes, strict=False):
        own = rows[rows["node"] == node]
        axes.plot([0, top], [0, top], color="#bbbbbb", linewidth=0.8)
        axes.scatter(
            own["selectivity"].abs(), own["effect"].abs(), s=9, color="#3182bd", linewidths=0
        )
        for column, style in (("ceiling", "-"), ("parent_baseline", ":")):
            height = own[column].replace(np.inf, np.nan).mean()
            if np.isfinite(height) and height <= top * 1.5:
                axes.axhline(height, color="black", linewidth=0.9, linestyle=style)
        axes.set_title(_plain(f"{node} (level {own['level'].iloc[0]})"), fontsize=8)
        axes.tick_params(labelsize=7, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels.flat)[len(nodes) :]:
        axes.set_visible(False)
    figure.supxlabel("|selectivity| observed, in standard deviations", fontsize=8)
    figure.supylabel("|effect| of do(latent)", fontsize=8)
    return figure


def _plain(text: object) -> str:
    """A name as text: matplotlib reads what stands between dollars as a formula."""
    return str(text).replace("$", r"\$")
