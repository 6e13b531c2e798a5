"""The experiment on the Kesten-Stigum boundary: its rules on made-up tables."""

import json

import pytest
from judging import judge
from made_up_variants import cell, joined

from dualnets.experiments import load
from dualnets.experiments.prediction import _phase
from dualnets.experiments.prediction.phase import CONTRAST, PREDICTION, Settings
from dualnets.lab import grids, stats
from dualnets.lab.verdicts import verdict_on

EXPERIMENT = load("phase")
ABOVE, BELOW, CONTRAST_ABOVE, PREDICTION_BELOW = range(4)
TREES = {(2, 3, 0.6): 0.45, (2, 5, 0.6): 0.31, (2, 3, 0.9): 0.92, (2, 5, 0.9): 0.91}  # and ceilings


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Enough for intervals whose ends are far from what decides."""
    monkeypatch.setattr(stats, "RESAMPLES", 200)


def run(shares, *, trees=14, steps=(0, 10, 20), kept=TREES, **options):
    """A run in which objectives close such shares of the gap, of the root and of the levels below it."""
    cells = []
    for (branching, depth, polarity), ceiling in kept.items():
        for name, (root, below) in shares.items():
            variant = f"{name}, {branching} children, depth {depth}, polarity {polarity:g}"
            start = ceiling - 0.1
            gains = dict.fromkeys(range(2, depth), 0.1 * below) | {depth: 0.1 * root}
            cells.append(cell(
                variant, gains, trees=trees, levels=(2, depth), start=start, ceiling=ceiling, steps=steps,
                noise=0.002, branching=branching, depth=depth, polarity_low=polarity,
                polarity_high=polarity, **options,
            ))  # fmt: skip
    return joined(*cells)


def judged(claim, table):
    """The verdict, which JSON can hold."""
    found = judge(EXPERIMENT, table, claim)
    json.dumps(found.as_dict(), allow_nan=False)
    return found


@pytest.mark.parametrize(
    ("shares", "options", "verdict", "reason"),
    [
        ((0.9, 0.9), {}, "holds", "closed in all 4"),
        ((0.9, 0.2), {}, "fails", "is closed with prediction"),
        ((0.9, 0.5), {}, "open", "shown to be closed in 2 of 4"),
        ((0.9, 0.9), {"trees": 11}, "open", "11 trees are fewer than 12"),
        ((0.9, 0.9), {"kept": dict(list(TREES.items())[:2])}, "open", "above"),
    ],
)
def test_most_of_the_gap_above_the_boundary(shares, options, verdict, reason):
    table = run(
        dict(zip((CONTRAST, PREDICTION), ((x, 0.5) for x in shares), strict=True)), **options
    )
    found = judged(ABOVE, table)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


@pytest.mark.parametrize(
    ("deep", "options", "verdict", "reason"),
    [
        (0.31, {}, "holds", "falls with depth in all 2"),
        (0.44, {}, "fails", "falls too slowly with contrast"),
        (0.39, {}, "open", "shown to fall in 0 of 2"),
        (0.31, {"trees": 11}, "open", "11 trees"),
        (None, {}, "open", "no two depths"),
    ],
)
def test_roots_fall_below_the_boundary(deep, options, verdict, reason):
    kept = {(2, 3, 0.6): 0.45} | ({} if deep is None else {(2, 5, 0.6): deep})
    table = run({CONTRAST: (0.9, 0.5), PREDICTION: (0.9, 0.5)}, kept=kept, **options)
    found = judged(BELOW, table)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


@pytest.mark.parametrize(
    ("claim", "contrast", "prediction", "verdict"),
    [
        (CONTRAST_ABOVE, 0.9, 0.6, "holds"),
        (CONTRAST_ABOVE, 0.6, 0.9, "fails"),
        (CONTRAST_ABOVE, 0.9, 0.9, "open"),
        (PREDICTION_BELOW, 0.6, 0.9, "holds"),
        (PREDICTION_BELOW, 0.9, 0.6, "fails"),
    ],
)
def test_objectives_on_the_same_trees(claim, contrast, prediction, verdict):
    table = run({CONTRAST: (contrast, 0.5), PREDICTION: (prediction, 0.5)})
    assert judged(claim, table).verdict == verdict
    alone = table[table["variant"].str.startswith(CONTRAST)]
    assert judged(claim, alone).reason.startswith("no two objectives")


def test_what_still_changes_decides_nothing():
    table = run({CONTRAST: (0.9, 0.9), PREDICTION: (0.9, 0.9)}, steps=(0, 1, 20))
    table = table[table["step"] != 1].assign(step=lambda t: t["step"].where(t["step"] > 0, 0))
    early = table[table["step"] == 20].assign(step=10)
    moving = early.assign(value=early["initial"])
    for claim in EXPERIMENT.claims[:3]:
        flat = verdict_on(claim, joined(table, early))
        still = verdict_on(claim, joined(table, moving))
        assert flat.flat, flat.plateau
        assert not still.flat or claim.name == "below", still.plateau


def test_the_map_lies_on_both_sides_of_the_boundary_with_the_same_network_for_both():
    cells = grids.cells(EXPERIMENT, "default", {})
    assert all(own.one_hot and own.members >= 12 for own in cells)
    sides = {own.branching * own.polarity_low**2 > 1 for own in cells}
    assert sides == {True, False}
    settings = Settings(
        method="masked-prediction", augment="drop-leaves:0.3", normalize=False, depth=3
    )
    settings.check()


def test_the_short_table_has_a_row_per_variant():
    table = run({CONTRAST: (0.9, 0.5), PREDICTION: (0.9, 0.5)})
    made = _phase.summary_table(table)
    assert made["b ρ²"].tolist()[:1] == ["0.72"]
    assert len(made) == 2 * len(TREES)
