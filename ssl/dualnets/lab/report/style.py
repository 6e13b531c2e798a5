"""The style of all figures: one palette for levels, light axes, sizes that suit a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 11.0  # inches, of a figure as wide as a page
# Okabe and Ito (2008): readers with colour blindness can distinguish them; in grey the markers do it
AFTER, BEFORE, CEILING = "#0072b2", "#9a9a9a", "#d55e00"
MARKS: tuple[tuple[str, str], ...] = (
    ("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--"), ("X", "-."), ("<", ":"),
)  # fmt: skip
DISTINCT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f6a00")
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
    "svg.hashsalt": "hltm",  # equal figures are equal files: their ids are not random
    "svg.fonttype": "path",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in this style, and restore the previous one afterwards."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        yield


def level_colours(depth: int) -> dict[int, Any]:
    """Level -> its colour, pale near the leaves and dark at the root."""
    import seaborn as sns

    shades = sns.color_palette("viridis_r", depth + 1)
    return {level: shades[level] for level in range(1, depth + 1)}


def distinct(count: int) -> list[dict[str, Any]]:
    """Colour, marker and line style of `count` unordered things; all different for up to 64.

    Example:
        >>> distinct(2)[1]
        {'color': '#d55e00', 'marker': 's', 'linestyle': '--'}
    """
    # a colour that is used again has another marker
    colours = len(DISTINCT)
    return [_style(DISTINCT[at % colours], at + at // colours) for at in range(count)]


def ordered(count: int) -> list[dict[str, Any]]:
    """Colour, marker and line style of `count` ordered things, from pale to dark.

    Example:
        >>> [style["marker"] for style in ordered(3)]
        ['o', 's', '^']
    """
    import seaborn as sns

    shades = sns.color_palette("viridis_r", count + 1)[1:]  # the palest is not visible on white
    return [_style(shade, at) for at, shade in enumerate(shades)]


def _style(colour: Any, at: int) -> dict[str, Any]:
    marker, line = MARKS[at % len(MARKS)]
    return {"color": colour, "marker": marker, "linestyle": line}


def plain_log(axes: Any, base: int = 10) -> None:
    """A logarithmic vertical axis with plain numbers, between two of them at least.

    Args:
        axes: on which everything is drawn already.
        base: 10, with ticks at 1, 2 and 5 times its powers, and over more than two decades at these; or 2.
    """
    import numpy as np
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_yscale("log", base=base)
    low, high = axes.get_ylim()
    few = base == 10 and high / low < 100
    powers = np.arange(
        np.floor(np.log(low) / np.log(base)), np.ceil(np.log(high) / np.log(base)) + 1
    )
    ticks = np.sort(np.outer((1, 2, 5) if few else (1,), float(base) ** powers).ravel())
    first = np.flatnonzero(ticks <= low * (1 + 1e-9))[-1]
    last = np.flatnonzero(ticks >= high * (1 - 1e-9))[0]
    axes.set_ylim(ticks[first], ticks[max(last, first + 1)])
    axes.yaxis.set_major_locator(FixedLocator(ticks[first : max(last, first + 1) + 1].tolist()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def save(figure: Figure, stem: Any) -> None:
    """Write a figure as `stem`.png and `stem`.svg; equal figures give equal bytes."""
    with house_style():
        figure.savefig(f"{stem}.png", metadata={"Software": None})
        figure.set_layout_engine("none")  # it stays as it lies, which took most of the time
        figure.savefig(f"{stem}.svg", metadata={"Date": None})
