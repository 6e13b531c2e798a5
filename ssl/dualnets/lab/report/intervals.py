"""Means over trees with their 95% intervals, drawn: as a line with a band, or as points with bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dualnets.lab.stats import Array, Estimate, mean_interval


def band(
    axes: Any, places: Any, values: Iterable[Array], *, alpha: float = 0.15, **style: Any
) -> None:
    """A line through the means over members, within the band of their 95% intervals.

    Args:
        axes, places: where to draw, and the places on the horizontal axis.
        values: one value per member, for each place.
        alpha: opacity of the band.
        **style: of the line; with a colour, which the band shares.
    """
    means = [mean_interval(each) for each in values]
    low, high = [m.low for m in means], [m.high for m in means]
    axes.fill_between(places, low, high, color=style["color"], alpha=alpha, lw=0)
    axes.plot(places, [m.value for m in means], **style)


def bars(axes: Any, places: Any, found: Sequence[Estimate], **style: Any) -> None:
    """Points with their intervals as vertical bars."""
    value = np.array([each.value for each in found])
    # an interval that is all but a point may lie on one side of it by rounding
    reach = np.abs([[each.value - each.low, each.high - each.value] for each in found]).T
    axes.errorbar(places, value, yerr=reach, **style)
