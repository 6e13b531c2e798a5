"""Figures of experiments: whatever the numbers, no text lies on another, on a line or outside."""

import dataclasses
import itertools
from importlib import import_module

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from made_up_losses import course, denoised
from matplotlib import pyplot as plt

from dualnets import experiments
from dualnets.experiments.emergence._samples_needed import INVARIANCE
from dualnets.experiments.prediction._complexity import SHARE
from dualnets.lab import grids
from dualnets.lab.report import style as figures
from dualnets.lab.variants import PRE, RANK, RATIO, SPREAD

BY_RATIO = ("cardinality", "hierarchy")
OWN_METRIC = {"samples": INVARIANCE, "complexity": SHARE}
# those with a figure of another kind than a row per variant
OF_THEIR_OWN = ("augmentation", "complexity", "depth_and_width", "hierarchy", "phase", "polarity", "samples",
                "teacher_student", "use")  # fmt: skip
# of the others those with the most rows, the longest names and a sweep
DRAWN = (*OF_THEIR_OWN, "branching", "byol_batchnorm", "byol_reinit")
ALSO = ("architecture", "byol_ablation", "byol_normalisation", "byol_predictor", "byol_target",
        "cardinality", "losses", "methods", "pair_weights", "supervised")  # fmt: skip
ALWAYS = ("augmentation", "complexity", "hierarchy", "byol_batchnorm")
EVERY = (*DRAWN, *ALSO)
TREES = 2
# settings that figures and rules use; each of the others would be a column that costs time
USED = ("variant", "depth", "branching", "polarity_low", "polarity_high", "units", "states", "rules",
        "samples", "symbols", "method", "augment", "seed")  # fmt: skip


def made_up(name, alike):
    """A table as the default grid's, one latent per level.

    If `alike` all variants have the same numbers, so that whatever is written at a point is written
    there once per variant; else some trees end far below their start and some have no numbers.
    """
    experiment = experiments.load(name)
    rng = np.random.default_rng(0)
    known = [item.name for item in dataclasses.fields(experiment.Settings) if item.name in USED]
    rows = []
    for cell, settings in enumerate(grids.cells(experiment, "default", {})):
        chosen = {item: getattr(settings, item) for item in known} | {"cell": str(cell)}
        depth, last = settings.depth, settings.steps
        at = 0 if alike else cell
        for member, step in itertools.product(range(TREES), (0, 20, last)):
            share = np.log1p(step) / np.log1p(last)
            common = chosen | {"member": member, "step": step}
            lost = not alike and cell % 3 == 1 and member == 0
            for level in range(1, depth + 1):
                start = 0.95 - 0.08 * level + 0.01 * member
                gain = 0.06 * level * (1 - 0.05 * at)
                if at % 3 == 2:
                    gain = -0.9 * start
                value = np.nan if lost and step else start + share * gain
                of_level = common | {
                    "level": level, "ceiling": 0.97, "initial": start, "value": value, "null": 0.03,
                    "view_correlation": 1 / (level + at), "surviving_share": 1 / (level + at),
                }  # fmt: skip
                metric = RATIO if name in BY_RATIO else OWN_METRIC.get(name, PRE)
                rows.append(of_level | {"metric": metric, "node": str(level)})
                if name == "teacher_student":
                    code = import_module(experiment.code)
                    for metric in (code.SPECIALISATION, code.FOUND, code.UNEXPLAINED):
                        rows.append(of_level | {"metric": metric, "node": f"layer {level}"})
                if name == "use" and level < depth:
                    code = import_module(experiment.code)
                    for metric, part in ((code.USED, 0.4), (code.OTHERS, 0.1), (code.EXACT, 0.3)):
                        shares = {"value": part * value, "initial": part * start}
                        rows.append(of_level | shares | {"metric": metric, "node": str(level)})
            spread = np.nan if lost else 0.05 + 0.9 * rng.random() / (at + 1)
            for metric, value in ((SPREAD, spread), (RANK, 1 + 0.4 * at)):
                rows.append(common | {"metric": metric, "level": depth, "node": "embedding",
                                    "value": value, "initial": value})  # fmt: skip
    table = pd.DataFrame(rows)
    first = ["cell", *(item for item in known if item != "variant"), "variant"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def drawn_texts(figure, monkeypatch):
    """Every text that drawing the figure draws, with its box in pixels."""
    found = {}
    draw = matplotlib.text.Text.draw

    def seen(text, renderer):
        draw(text, renderer)
        if text.get_visible() and text.get_text().strip():
            found[text] = text.get_window_extent(renderer)

    with monkeypatch.context() as patch:
        patch.setattr(matplotlib.text.Text, "draw", seen)
        figure.draw_without_rendering()
    return found


def covered(a, b, slack=0.5):
    """Whether two boxes share more than a hair."""
    return min(a.x1, b.x1) - max(a.x0, b.x0) > slack and min(a.y1, b.y1) - max(a.y0, b.y0) > slack


def troubles(figure, monkeypatch):
    """Texts on texts, texts on points of lines, legends on points of lines, texts outside."""
    texts = drawn_texts(figure, monkeypatch)
    words = {text: repr(text.get_text()) for text in texts}
    found = [
        f"{words[a]} lies on {words[b]}"
        for a, b in itertools.combinations(texts, 2)
        if covered(texts[a], texts[b])
    ]
    page = figure.bbox
    found += [
        f"{words[text]} is cut off"
        for text, box in texts.items()
        if box.x0 < page.x0 or box.y0 < page.y0 or box.x1 > page.x1 or box.y1 > page.y1
    ]
    for axes in figure.axes:
        boxes = {words[text]: box for text, box in texts.items() if text.axes is axes}
        if axes.get_legend() is not None:
            boxes["the legend"] = axes.get_legend().get_window_extent()
        for line in axes.get_lines():
            points = line.get_transform().transform(np.asarray(line.get_xydata(), float))
            points = [p for p in points if np.isfinite(p).all() and axes.bbox.contains(*p)]
            for label, box in boxes.items():
                if any(box.contains(*point) for point in points):
                    found.append(f"{label} lies on a line of {axes.get_title(loc='left')!r}")
    return found


@pytest.mark.parametrize(
    ("name", "alike"),
    [
        *((name, False) for name in ALWAYS),
        ("losses", True),
        *(pytest.param(n, False, marks=pytest.mark.slow) for n in DRAWN if n not in ALWAYS),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ALSO),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in OF_THEIR_OWN),
    ],
)
def test_no_text_lies_on_another_or_outside(name, alike, monkeypatch):
    with figures.house_style():
        figure = experiments.load(name).plot(made_up(name, alike))
        assert troubles(figure, monkeypatch) == []


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("masked", lambda: course(layers={1: 1, 2: 2, 3: 3})),
        pytest.param("next_leaf", lambda: course(variant="next leaf"), marks=pytest.mark.slow),
        ("denoise", denoised),
    ],
)
def test_no_text_lies_on_another_where_leaves_are_predicted(name, table, monkeypatch):
    with figures.house_style():
        assert troubles(experiments.load(name).plot(table()), monkeypatch) == []


def test_a_figure_with_troubles_is_found_out(monkeypatch):
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1], label="a line")
    axes.text(0.5, 0.3, "here")
    axes.text(0.52, 0.31, "and there")
    axes.text(0, 0, "on the line")
    axes.text(1, -0.4, "beyond the page")
    axes.legend(loc="upper right")
    found = troubles(figure, monkeypatch)
    plt.close(figure)
    assert [text.split(" ")[0] for text in found] == ["'here'", "'beyond", "'on", "'a", "the"]


def test_every_variant_and_what_is_lost_is_named():
    """Nothing is left out without a word: as many rows as variants, lost trees counted."""
    table = made_up("byol_reinit", alike=False)
    panels = experiments.load("byol_reinit").plot(table).axes
    assert {len(axes.get_yticks()) for axes in panels} == {12}
    names = [label.get_text() for label in panels[0].get_yticklabels()]
    assert [name.split("\n")[0] for name in names] == list(dict.fromkeys(table["variant"]))
    assert [name for name in names if "1 of 2 not finite" in name] == names[1::3]


def test_a_sweep_says_how_many_trees_are_left_out_and_keeps_the_others():
    table = made_up("branching", alike=False)
    figure = experiments.load("branching").plot(table)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    lost = len(range(1, 5, 3))
    assert labels[-1] == f"{lost} of {5 * TREES} not finite, left out"
    *_, means = (line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 5)
    assert np.isfinite(means.get_ydata()).all()


def test_every_variant_has_its_own_start():
    """The hollow marks of a row are its variant's shares before training, not the first one's."""
    table = made_up("architecture", alike=True)
    wide = table["variant"] == "dense, as wide"
    table.loc[wide & (table["metric"] == PRE), "initial"] *= 0.5
    levels = experiments.load("architecture").plot(table).axes[2]
    hollow = [line for line in levels.get_lines() if line.get_markerfacecolor() == "white"]
    starts = {}
    for line in hollow:
        starts.setdefault(round(line.get_ydata()[0]), []).append(line.get_xdata()[0])
    *others, own = (starts[row] for row in sorted(starts))
    assert all(each == pytest.approx(others[0]) for each in others)
    assert own == pytest.approx([start / 2 for start in others[0]])


def test_styles_differ_by_more_than_colour():
    for styles in (figures.distinct(8), figures.ordered(8)):
        assert len({style["marker"] for style in styles}) == 8
    many = [(style["color"], style["marker"]) for style in figures.distinct(64)]
    assert len(set(many)) == 64
