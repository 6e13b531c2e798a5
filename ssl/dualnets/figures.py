"""The house style of figures: one palette for levels, quiet axes, sizes that suit a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 11.0  # inches, of a figure as wide as a page
STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "svg.hashsalt": "hltm",  # the same figure, the same file
    "svg.fonttype": "path",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style, without a window, and leave other figures' style alone."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        yield


def level_colours(depth: int) -> dict[int, Any]:
    """A colour per level, pale at the leaves and dark at the root."""
    import seaborn as sns

    shades = sns.color_palette("viridis_r", depth + 1)
    return {level: shades[level] for level in range(1, depth + 1)}


def save(figure: Figure, stem: Any) -> None:
    """Write a figure as `stem`.png and `stem`.svg, the same bytes for the same figure."""
    with house_style():
        figure.savefig(f"{stem}.png", metadata={"Software": None})
        figure.savefig(f"{stem}.svg", metadata={"Date": None})
