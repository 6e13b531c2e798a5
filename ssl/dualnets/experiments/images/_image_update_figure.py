"""The figure of `image_update`: views, identities and estimates, the residue's rate, the form in training."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.images._image_update_rules import DEALT, paths, rate_settings
from dualnets.experiments.images.image_update import RESIDUE
from dualnets.experiments.theorems import _residual_figure, _update_figure
from dualnets.lab.report.image_figure import STRIP, example_views
from dualnets.lab.report.style import DISTINCT, WIDTH

HEIGHT = 12.6  # inches, of the panels


def draw(table: pd.DataFrame) -> Figure:
    """A strip of views, then identities and estimates, residues, and cosines along training."""
    figure = plt.figure(figsize=(WIDTH, STRIP + HEIGHT), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(STRIP, HEIGHT))
    strip, panels = parts
    example_views(strip, table)
    axes = panels.subplots(3, 2, height_ratios=(1, 1.1, 0.9))
    errors = table[table["measure"] != RESIDUE]
    colours = dict.fromkeys(table["data"], DISTINCT[0])
    estimated = errors["standard_error"] > 0
    _update_figure.identities(
        axes[0, 0], errors[~estimated], title="a  identities against autograd, float64",
        colours=colours, broken="assumption broken",
    )  # fmt: skip
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, -0.3), ncols=2, handletextpad=0.2)
    _update_figure.estimates(
        axes[0, 1], errors[estimated], title="b  estimates from random views", colours=colours
    )
    settings = [(name, name, None, rows) for name, rows in rate_settings(table)]
    _residual_figure.rates(axes[1, 0], axes[1, 1], settings, letters=("c", "d"))
    for own, letter, normalize in ((axes[2, 0], "e", False), (axes[2, 1], "f", True)):
        shown = [(name, rows) for name, normalized, rows in paths(table) if normalized == normalize]
        _residual_figure.training(own, shown, letter=letter, normalize=normalize, other=DEALT)
    return figure
