"""Intervals in figures: a band is that of the means, bars are those of the estimates."""

import numpy as np
from matplotlib import pyplot as plt

from dualnets.lab.report.intervals import band, bars
from dualnets.lab.stats import mean_interval

VALUES = [np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 9.0])]
MEANS = [mean_interval(values) for values in VALUES]


def test_a_band_is_that_of_the_means():
    figure, axes = plt.subplots()
    band(axes, [1, 10], VALUES, color="black")
    (line,) = axes.get_lines()
    assert line.get_ydata().tolist() == [2.0, 5.0]
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == min(mean.low for mean in MEANS)
    assert corners[:, 1].max() == max(mean.high for mean in MEANS)
    plt.close(figure)


def test_bars_are_those_of_the_estimates():
    figure, axes = plt.subplots()
    bars(axes, [1, 10], MEANS, fmt="o", color="black")
    ends = [part[:, 1].tolist() for part in axes.collections[0].get_segments()]
    assert np.allclose(ends, [[mean.low, mean.high] for mean in MEANS])
    plt.close(figure)
