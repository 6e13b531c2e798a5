"""The figure of an ablation on pictures: example views, and a row per variant, with how far the gap from
the untrained network to an accuracy of 1 closed, whether the embedding collapsed, what each probe finds
before and after training, and accuracy over training.

The panels are those of `ablation_figure.py` with accuracies in place of alignments.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualnets.images import parse_views
from dualnets.lab.image_settings import ImageSettings
from dualnets.lab.report.ablation_figure import (
    COLUMNS,
    ROW,
    curves,
    ends_of_row,
    gaps,
    layout_rows,
    spreads,
)
from dualnets.lab.report.style import DISTINCT, WIDTH
from dualnets.lab.report.views_figure import pictures_and_views, show, spelled
from dualnets.lab.stats import last_step
from dualnets.lab.variants import ACCURACY, by_variant

PROBES = {  # metric -> its name, and its colour
    "linear few": ("linear, few labels", DISTINCT[1]),
    "neighbours all": ("nearest neighbours", DISTINCT[2]),
    ACCURACY: ("linear, all labels", DISTINCT[0]),
}
EXAMPLES, VIEWS = 2, 5  # pictures in the strip, and views of each
STRIP = 1.15  # inches


def draw(table: pd.DataFrame) -> Figure:
    """Draw a strip of views and four panels; every variant is a row of each panel."""
    variants = {name: rows[COLUMNS] for name, rows in by_variant(table).items()}
    height = 1.7 + ROW * max(len(variants), 3)
    figure = plt.figure(figsize=(WIDTH, height + STRIP), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(STRIP, height))
    strip, panels = parts
    example_views(strip, table)
    axes = panels.subplots(1, 4, width_ratios=(1.1, 0.8, 1, 1))
    gaps(axes[0], variants, "gap closed, to an accuracy of 1", "networks")
    spreads(axes[1], variants)
    _probes(panels, axes[2], variants)
    curves(axes[3], variants, "accuracy", untrained=True)
    for panel in axes[2:]:
        panel.set_yticklabels([])
    return figure


def example_views(strip: Any, table: pd.DataFrame) -> None:
    """Pictures with views of each, as the first cell had them; a note where the data set is not here."""
    first = table.iloc[0]
    names = [name for name in ("data", "data_folder", "augment", "seed") if name in first]
    settings = ImageSettings(**{name: _plain(first[name]) for name in names})
    suited = settings.build_augmentation()
    words = spelled(parse_views(settings.augment), suited)
    title = f"{settings.data}: pictures, each followed by views ({words})"
    strip.suptitle(title, fontsize=9, x=0.01, ha="left")
    try:
        images = settings.build_images()
    except OSError:
        strip.text(0.01, 0.4, "the pictures are not on this machine", fontsize=9)
        return
    _, columns = pictures_and_views(
        images, suited, seed=settings.seed, pictures=EXAMPLES, views=VIEWS
    )
    axes = strip.subplots(1, EXAMPLES * len(columns))
    shown = [column[at] for at in range(EXAMPLES) for column in columns]
    for own, picture in zip(axes, shown, strict=True):
        show(own, picture)


def _probes(figure: Any, axes: Any, variants: dict[str, pd.DataFrame]) -> None:
    """Accuracy of every probe before and after training."""
    layout_rows(axes, variants)
    colours = {metric: colour for metric, (_, colour) in PROBES.items()}
    for at, rows in enumerate(variants.values()):
        last = last_step(rows.assign(cell=0))
        means = last.groupby("metric")[["initial", "value"]].mean()
        ends = {m: (means["initial"][m], means["value"][m]) for m in PROBES if m in means.index}
        ends_of_row(axes, at, ends, colours)
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.set(xlabel="accuracy on test pictures\n(hollow: untrained)", title="c  by probe")
    keys = [
        Line2D([], [], color=colour, marker="o", markersize=3.8, label=name)
        for name, colour in reversed(PROBES.values())
    ]
    figure.legend(handles=keys, loc="outside lower right", ncols=len(keys), title_fontsize=8,
                  title="c  probes, from the top of a row down")  # fmt: skip


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's."""
    return value.item() if hasattr(value, "item") else value
