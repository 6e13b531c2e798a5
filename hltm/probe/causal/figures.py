"""Figures of causal probes: latents by layers, and what units show of do(latent) beside what is observed."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from hltm.probe.causal.intervention import InterventionEffect

NAMED = 80  # latents up to which each has its name
CROSSED = "#555555"
LINES = (("ceiling", "-", "ceiling"), ("parent_baseline", ":", "effect on the parent's posterior"))
DIGITS = 20  # latents up to which each cell has its number


def patching_figure(
    table: pd.DataFrame, *, metric: str | None = None, title: str | None = None
) -> Figure:
    """A figure of latents by layers from the table of `patch` or `ablate`: means over members.

    A cell that is not above its null, mean over members, is crossed out; a latent that was not patched in a
    layer leaves it blank; where values are below 0, these are red.

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
    columns = getattr(table, "columns", ())
    if "metric" not in columns or "parent_baseline" in columns:  # which effects have
        raise ValueError(f"expected a table of patch or ablate, got a {type(table).__name__}")
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

    from hltm._figures import Figure

    width, height = np.clip(0.45 * len(nodes), 3, 16) + 1.6, 0.42 * len(layers) + 1.5
    figure = Figure(figsize=(float(width), float(height)), dpi=110, layout="constrained")
    axes = figure.subplots()
    finite = ceiling[np.isfinite(ceiling)]
    top = max(float(finite.max()) if len(finite) else 1.0, 1e-9)
    least = min(float(np.nanmin(value, initial=0.0)), 0.0)
    signed = least < -0.05 * top  # red for what counteracts
    image = axes.imshow(
        value, aspect="auto", cmap="RdBu" if signed else "Blues", vmin=-top if signed else 0, vmax=top,
        interpolation="nearest",
    )  # fmt: skip
    for i, t in zip(*np.nonzero(np.isfinite(value)), strict=True):
        weak = np.isfinite(null[i, t]) and value[i, t] <= null[i, t]
        if len(nodes) <= DIGITS:
            shown = (
                f"{value[i, t]:.2f}".replace("0.", ".", 1)
                if abs(value[i, t]) < 1
                else f"{value[i, t]:.1f}"
            )
            dark = abs(value[i, t]) if signed else value[i, t]
            colour = "white" if dark > 0.6 * top else "black"
            axes.text(t, i, shown, ha="center", va="center", fontsize=7, color=colour)
        if weak:
            axes.plot([t - 0.45, t + 0.45], [i + 0.45, i - 0.45], color=CROSSED, linewidth=1.0)
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
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    members = rows["member"].nunique()
    over = f", mean of {members} members" if members > 1 else ""
    shown = title or f"{name.replace('_', ' ')}{over}; a line through a cell: not above its null"
    shown = fill(_plain(shown), int(12 * figure.get_figwidth()))
    figure.suptitle(shown, x=0.01, ha="left", fontsize=9, fontweight="bold")
    return figure


def intervention_figure(
    table: pd.DataFrame | InterventionEffect, *, layer: int | str | None = None
) -> Figure:
    """Each unit's |effect| of do(latent) against its |selectivity|, one panel per latent of a layer.

    A unit on the diagonal shows what it causes; one below it shows what comes through the parent. Lines are
    the ceiling, which may be above what is shown, and dotted the effect on the parent's exact posterior.
    Means over members are not taken: every member's units are points.

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
    if "parent_baseline" not in getattr(shown, "columns", ()):
        raise ValueError(f"expected what intervention_effect returns, got a {type(table).__name__}")
    known = list(dict.fromkeys(shown["layer"]))
    chosen = known[0] if layer is None and known else layer
    if chosen not in known:
        raise ValueError(f"the table has no layer {chosen!r}, expected one of {known}"[:290])
    rows = shown[shown["layer"] == chosen]
    nodes = list(dict.fromkeys(rows["node"]))[:DIGITS]

    from hltm._figures import Figure

    columns = min(len(nodes), 5)
    lines = -(-len(nodes) // columns)
    figure = Figure(figsize=(1.9 * columns + 0.8, 1.9 * lines + 0.8), dpi=110, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    top = float(rows.loc[rows["metric"] != "confounded", "value"].abs().max()) * 1.05 or 1.0
    highest = top
    for axes, node in zip(panels.flat, nodes, strict=False):
        of_node = rows[rows["node"] == node]
        own = of_node[of_node["metric"] == "effect"]
        observed = of_node.loc[of_node["metric"] == "selectivity", "value"].abs()
        axes.plot([0, top], [0, top], color="#bbbbbb", linewidth=0.8)
        axes.scatter(observed, own["value"].abs(), s=9, color="#3182bd", linewidths=0)
        for column, style, name in LINES:
            height = own[column].replace(np.inf, np.nan).mean()
            if np.isfinite(height):
                axes.axhline(height, color="black", linewidth=0.9, linestyle=style, label=name)
                highest = max(highest, height)
        axes.set_title(_plain(f"{node} (level {own['level'].iloc[0]})"), fontsize=8)
        axes.tick_params(labelsize=7, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels.flat)[len(nodes) :]:
        axes.set_visible(False)
    panels[0, 0].set_ylim(-0.03 * top, min(1.05 * highest, 2.5 * top))
    handles = {
        name: line
        for axes in panels.flat
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper left",
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    figure.supxlabel("|selectivity| observed, in standard deviations", fontsize=8)
    figure.supylabel("|effect| of do(latent)", fontsize=8)
    return figure


def _plain(text: object) -> str:
    """A name as text: matplotlib reads what stands between dollars as a formula."""
    return str(text).replace("$", r"\$")
