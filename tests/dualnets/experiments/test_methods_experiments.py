"""Methods, labels, teachers: every rule on made-up tables, one small run, the figure."""

import json
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge
from made_up_variants import cell, joined

from dualnets.experiments import load
from dualnets.experiments.objectives import _methods
from dualnets.experiments.objectives._teacher import TEACHER_SAMPLES as SAMPLES
from dualnets.experiments.objectives.methods import BARE, LABEL
from dualnets.experiments.objectives.teacher_student import CONTRAST
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.fields import with_columns
from dualnets.lab.grids import cells
from dualnets.lab.variants import PRE

TOP = 4
LEVELS = range(1, TOP + 1)
teacher_student = import_module(load("teacher_student").code)


def made_up(gains, trees=12, **options):
    """A table of (variant, samples) -> gain, of all levels or level by level; one latent per level."""
    made = []
    for at, ((variant, size), gain) in enumerate(gains.items()):
        each = gain if isinstance(gain, dict) else dict.fromkeys(LEVELS, gain)
        made.append(
            cell(variant, each, trees=trees, levels=LEVELS, seed=at, name=f"{variant}{size}",
                 **({"samples": size} | options))
        )  # fmt: skip
    return joined(*made)


def judged(name, table):
    """The verdict, which JSON can hold."""
    found = judge(load(name), table)
    json.dumps(found.as_dict(), allow_nan=False)
    return found


# methods


@pytest.mark.parametrize(
    ("gains", "trees", "verdict", "reason"),
    [
        ({"simclr": 0.2, "byol": 0.1}, 12, "holds", "all 2 methods"),
        ({"simclr": 0.2, "byol": 0.0}, 12, "open", "not emerge with byol"),
        ({"simclr": -0.1, "byol": 0.0}, 12, "fails", "none of 2"),
        ({"simclr": 0.2, "byol": 0.1}, 8, "open", "8 trees are fewer than 12"),
        # what stands the claim is not about does not count
        ({"simclr": 0.2, LABEL: -0.2, BARE[0]: -0.2}, 12, "holds", "all 1 methods"),
    ],
)
def test_the_rule_of_methods(gains, trees, verdict, reason):
    table = made_up({(name, 0): gain for name, gain in gains.items()}, trees)
    found = judged("methods", table)
    assert (found.verdict, found.n) == (verdict, trees)
    assert reason in found.reason


def test_half_of_the_gap_takes_as_long_as_it_takes():
    rows = made_up({("simclr", 0): 0.4}, noise=0.0, steps=(0, 1, 3, 7, 15))
    # growth is linear in log(updates + 1); half of the gap is half way
    upper = rows[(rows["metric"] == PRE) & (rows["level"] >= 2)]
    room = 0.9 - upper["initial"].mean()
    wanted = 16 ** (room / 2 / 0.4) - 1
    assert _methods.half_time(rows).value == pytest.approx(wanted, rel=0.02)
    never = judged("methods", made_up({("simclr", 0): 0.05}))
    assert {d["half_of_the_gap_at"] for d in never.details if "level" in d} == {None}


# labels

PAIRS = load("supervised").claims[0].rule.judge.options["pairs"]
ROOT, ALL = PAIRS


def labelled(root, every, contrast=0.3, trees=12, leave_out=()):
    gains = {ROOT: root, PAIRS[ROOT]: contrast, ALL: every, PAIRS[ALL]: contrast}
    return made_up({(name, 0): g for name, g in gains.items() if name not in leave_out}, trees)


@pytest.mark.parametrize(
    ("given", "verdict", "reason"),
    [
        ({"root": 0.3, "every": 0.2}, "holds", "with both"),
        ({"root": 0.3, "every": 0.05}, "fails", "less than 0.5 times contrast's gain with labels of"),
        ({"root": 0.3, "every": 0.15}, "open", "with label of the root"),
        ({"root": -0.05, "every": -0.05, "contrast": -0.2}, "fails", "with neither"),
        ({"root": 0.3, "every": 0.2, "trees": 11}, "open", "11 trees are fewer"),
        ({"root": 0.3, "every": 0.2, "leave_out": (ALL,)}, "open", "were not all run"),
        # the root itself does not count, nor the lowest level
        ({"root": {1: 0.3, 2: 0.0, 3: 0.0, 4: 0.3}, "every": 0.3}, "fails", "with label of the root"),
    ],
)  # fmt: skip
def test_the_rule_of_labels(given, verdict, reason):
    found = judged("supervised", labelled(**given))
    assert found.verdict == verdict
    assert reason in found.reason


# teachers


def taught(gains, trees=12):
    """Students whose hidden units find so much more of their teachers; the top layer finds nothing."""
    made = []
    for at, (name, gain) in enumerate(gains.items()):
        each = {level: gain if level < TOP else 0.0 for level in LEVELS}
        rows = cell(name, each, trees=trees, levels=LEVELS, seed=at, samples=0, name=f"{name}0")
        found = rows[rows["metric"] == PRE]
        made.append(
            found.assign(
                metric=teacher_student.SPECIALISATION, node="teacher's layer", ceiling=np.nan
            )
        )
    plain = {(name, 0): 0.1 for name in (*gains, CONTRAST)}
    return joined(made_up(plain, trees), *made)


@pytest.mark.parametrize(
    ("gains", "trees", "verdict", "reason"),
    [
        ((0.1, 0.2, 0.3), 12, "holds", "the widest more so"),
        ((0.1, 0.2, 0.1), 12, "open", "the widest not more so"),
        ((0.3, 0.2, 0.1), 12, "fails", "the widest less so"),
        ((0.0, 0.2, 0.3), 12, "open", "specialise with student x2, student x4"),
        ((-0.3, -0.2, -0.1), 12, "fails", "with no student"),
        ((0.1, 0.2, 0.3), 11, "open", "11 trees are fewer"),
        ((0.1,), 12, "open", "were not both run"),
    ],
)
def test_the_rule_of_teachers(gains, trees, verdict, reason):
    names = ("student x1", "student x2", "student x4")
    found = judged("teacher_student", taught(dict(zip(names, gains, strict=False)), trees))
    assert found.verdict == verdict
    assert reason in found.reason


@pytest.mark.parametrize("network", ["tree", "conv", "mlp"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_teachers_units_vary(network, bias):
    settings = load("teacher_student").Settings(
        variant="x", network=network, depth=2, members=2, teacher_units=3, bias=bias
    )
    teacher, trees = settings.build_teacher(), settings.build_trees()
    leaves = trees.sample(SAMPLES, seed=settings.seed + settings.teacher_seed).leaves
    for values in teacher.activations(leaves).values():
        over = tuple(range(1, values.ndim - 1)) if network == "conv" else 1
        assert torch.allclose(values.std(over), torch.ones(()), atol=1e-3)
        assert (values.mean(over).abs().max() < 1e-3) == bias


# all of them

SMALL = {
    "depth": 3,
    "members": 2,
    "steps": 4,
    "snapshots": 2,
    "evaluation_samples": 512,
    "batch": 32,
}


@pytest.mark.parametrize("name", ["methods", "supervised", "teacher_student"])
def test_runs_and_draws(name):
    """The smoke scale, smaller still, or every third cell of it; figure, summary and verdict."""
    experiment = load(name)
    parts = []
    every = cells(experiment, "smoke", {k: [v] for k, v in SMALL.items()})
    for settings in every if len(every) < 10 else every[1::3]:
        outcome = experiment.run_cell(settings, torch.device("cpu"), ProgressListener())
        outcome.table.insert(0, "cell", str(len(parts)))
        parts.append(with_columns(outcome.table, settings))
        assert not outcome.notes
    table = pd.concat(parts, ignore_index=True)
    found = judged(name, table)
    assert found.verdict == "open"
    assert "2 trees are fewer" in found.reason
    assert len(experiment.summary_table(table)) >= len(parts)
    figure = experiment.plot(table)
    figure.canvas.draw()
    assert len(figure.axes) >= 4
    assert len(experiment.summary) <= 58
