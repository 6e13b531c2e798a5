"""Methods, samples, labels, teachers: every rule on made-up tables, one small run, the figure."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from dualnets.experiments import load
from dualnets.experiments.byol import byol_predictor, byol_target
from dualnets.experiments.emergence import architecture, samples
from dualnets.experiments.objectives import losses, methods, supervised, teacher_student
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.runner import cells

TOP = 4


def made_up(gains, trees=12, before=0.5, ceiling=0.9, steps=(0, 1, 10), noise=0.01, more=()):
    """A table as `run_cell` makes it: (variant, samples) -> gain at the end, of all levels or each."""
    rng = np.random.default_rng(0)
    starts = before + rng.normal(0, 0.02, (trees, TOP + 1))
    rows = []
    for (variant, size), gain in gains.items():
        common = {"cell": f"{variant}{size}", "samples": size, "variant": variant}
        for member in range(trees):
            for level in range(1, TOP + 1):
                own = gain[level] if isinstance(gain, dict) else gain
                start = starts[member, level]
                end = start + own + rng.normal(0, noise)
                for step in steps:
                    share = np.log1p(step) / np.log1p(steps[-1])
                    rows.append(common | {
                        "member": member, "step": step, "level": level, "node": str(level),
                        "metric": "best_abs_correlation", "value": start + share * (end - start),
                        "initial": start, "ceiling": ceiling, "null": 0.03,
                    })  # fmt: skip
            for metric, value in (("spread", 0.7), ("effective_rank", 2.0)):
                for step in steps:
                    rows.append(common | {
                        "member": member, "step": step, "level": TOP, "node": "embedding",
                        "metric": metric, "value": value, "initial": value,
                    })  # fmt: skip
    return pd.DataFrame(rows + list(more))


def told(experiment, table):
    """The verdict, which JSON can hold."""
    found = experiment.verdict(table)
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
        # what stands beside the claim does not count
        ({"simclr": 0.2, methods.LABEL: -0.2, methods.BARE[0]: -0.2}, 12, "holds", "all 1 methods"),
    ],
)
def test_the_rule_of_methods(gains, trees, verdict, reason):
    table = made_up({(name, 0): gain for name, gain in gains.items()}, trees)
    found = told(methods, table)
    assert (found.verdict, found.n) == (verdict, trees)
    assert reason in found.reason


def test_half_of_the_gap_takes_as_long_as_it_takes():
    rows = made_up({("simclr", 0): 0.4}, noise=0.0, steps=(0, 1, 3, 7, 15))
    # growth is linear in log(updates + 1); half of the gap is half way
    upper = rows[(rows["metric"] == "best_abs_correlation") & (rows["level"] >= 2)]
    room = 0.9 - upper["initial"].mean()
    wanted = 16 ** (room / 2 / 0.4) - 1
    assert methods.half_time(rows).value == pytest.approx(wanted, rel=0.02)
    never = told(methods, made_up({("simclr", 0): 0.05}))
    assert {d["half_of_the_gap_at"] for d in never.details if "level" in d} == {None}


# samples

ENDS = (32, 512, 0)


def learned(low, top, methods=("simclr", "byol"), trees=12, fresh=0.3, sizes=ENDS):
    """Growth of levels 2 and TOP with P samples, as shares of that with fresh ones."""
    gains = {}
    for name in methods:
        for size in sizes:
            share = dict.fromkeys(range(1, TOP + 1), 1.0 if size == 0 else low)
            share[TOP] = 1.0 if size == 0 else (top[name] if isinstance(top, dict) else top)
            gains[name, size] = {level: fresh * part for level, part in share.items()}
    return made_up(gains, trees)


@pytest.mark.parametrize(
    ("given", "verdict", "reason"),
    [
        ({"low": 0.9, "top": 0.3}, "holds", "lacks more with simclr, byol"),
        ({"low": 0.3, "top": 0.9}, "fails", "less with simclr, byol"),
        ({"low": 0.6, "top": {"simclr": 0.6, "byol": 0.9}}, "fails", "less with byol"),
        ({"low": 0.6, "top": {"simclr": 0.6, "byol": 0.2}}, "open", "more with byol"),
        ({"low": 0.6, "top": {"simclr": 0.9, "byol": 0.2}}, "open", "more with byol, less with simclr"),
        ({"low": 0.9, "top": 0.3, "fresh": -0.1}, "open", "do not make both emerge"),
        ({"low": 0.9, "top": 0.3, "trees": 9}, "open", "9 trees are fewer than 12"),
        ({"low": 0.9, "top": 0.3, "sizes": (32, 512)}, "open", "were not both run"),
        ({"low": 0.9, "top": 0.3, "sizes": (0,)}, "open", "were not both run"),
    ],
)  # fmt: skip
def test_the_rule_of_samples(given, verdict, reason):
    found = told(samples, learned(**given))
    assert found.verdict == verdict
    assert reason in found.reason


def test_samples_for_half_are_between_the_sets():
    gains = {("simclr", size): 0.3 * share for size, share in ((32, 0.1), (128, 0.7), (0, 1.0))}
    of = samples.by_method(made_up(gains, noise=1e-6))["simclr"]
    assert of.enough(2).value == pytest.approx(32 * 4 ** (0.4 / 0.6), rel=1e-2)
    assert samples.by_method(learned(0.9, 0.3))["byol"].half(2) == "<=32 [<=32, <=32]"
    assert samples.by_method(learned(0.9, 0.3))["byol"].half(TOP) == ">512 [>512, >512]"


# labels

ROOT, ALL = "label of the root", "labels of all latents"


def labelled(root, every, contrast=0.3, trees=12, leave_out=()):
    gains = {
        ROOT: root,
        supervised.PAIRS[ROOT]: contrast,
        ALL: every,
        supervised.PAIRS[ALL]: contrast,
    }
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
    found = told(supervised, labelled(**given))
    assert found.verdict == verdict
    assert reason in found.reason


# teachers


def taught(gains, trees=12, before=0.5):
    """Students whose hidden units find so much more of their teachers; the top layer finds nothing."""
    rng = np.random.default_rng(1)
    rows = []
    for name, gain in gains.items():
        for member in range(trees):
            start = before + rng.normal(0, 0.02)
            for level in range(1, TOP + 1):
                end = start if level == TOP else start + gain + rng.normal(0, 0.01)
                for step, value in ((0, start), (10, end)):
                    rows.append({
                        "cell": f"{name}0", "samples": 0, "variant": name, "member": member,
                        "step": step, "level": level, "node": f"teacher's layer {level}",
                        "metric": teacher_student.SPECIALISATION, "value": value, "initial": start,
                        "null": 0.04,
                    })  # fmt: skip
    plain = {(name, 0): 0.1 for name in (*gains, teacher_student.CONTRAST)}
    return made_up(plain, trees, more=rows)


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
    found = told(teacher_student, taught(dict(zip(names, gains, strict=False)), trees))
    assert found.verdict == verdict
    assert reason in found.reason


@pytest.mark.parametrize("network", ["tree", "conv", "mlp"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_teachers_units_vary(network, bias):
    settings = teacher_student.Settings(
        variant="x", network=network, depth=2, members=2, teacher_units=3, bias=bias
    )
    teacher, trees = settings.build_teacher(), settings.build_trees()
    leaves = trees.sample(teacher_student.ROWS, seed=settings.seed + settings.teacher_seed).leaves
    for values in teacher.activations(leaves).values():
        over = tuple(range(1, values.ndim - 1)) if network == "conv" else 1
        assert torch.allclose(values.std(over), torch.ones(()), atol=1e-3)
        assert (values.mean(over).abs().max() < 1e-3) == bias


# rates


def chosen_well(rates, scores, chosen):
    """Whether a rate is the best of its row, of equal ones the lowest, and no end of the row."""
    kept = np.nan_to_num(np.array(scores), nan=-np.inf)
    best = list(rates)[int(kept.argmax())]
    return chosen == best and chosen not in (min(rates), max(rates))


@pytest.mark.parametrize("experiment", [architecture, byol_predictor, byol_target, losses, methods])
def test_every_rate_is_the_best_of_its_row_and_all_rows_have_the_same_rates(experiment):
    for scale in ("smoke", "default"):
        settings = cells(experiment, scale, {})
        assert {one.variant for one in settings} == set(experiment.TUNING)
        for one in settings:
            row = experiment.TUNING[one.variant]
            assert tuple(row) == experiment.TRIED == tuple(sorted(experiment.TRIED))
            assert chosen_well(row, list(row.values()), one.lr), (scale, one.variant)


def test_a_rate_that_is_not_the_best_or_lies_at_the_edge_is_found_out():
    rates = (0.1, 0.3, 1.0)
    assert chosen_well(rates, (0.2, 0.4, float("nan")), 0.3)
    assert chosen_well(rates, (0.2, 0.4, 0.3), 0.3)
    assert not chosen_well(rates, (0.2, 0.4, 0.3), 1.0)
    assert not chosen_well(rates, (0.2, 0.4, 0.5), 1.0)
    assert not chosen_well(rates, (0.5, 0.4, 0.3), 0.1)


# all of them

SMALL = {
    "depth": 3,
    "members": 2,
    "steps": 4,
    "snapshots": 2,
    "evaluation_samples": 512,
    "batch": 32,
}


@pytest.mark.parametrize("name", ["methods", "samples", "supervised", "teacher_student"])
def test_runs_and_draws(name):
    """The smoke scale, smaller still, or every third cell of it; figure, summary and verdict."""
    experiment = load(name)
    parts = []
    every = cells(experiment, "smoke", {k: [v] for k, v in SMALL.items()})
    for settings in every if len(every) < 10 else every[1::3]:
        outcome = experiment.run_cell(settings, torch.device("cpu"), ProgressListener())
        table = outcome.table
        for at, (key, value) in enumerate(vars(settings).items()):
            table.insert(at, key, value)
        table.insert(0, "cell", str(len(parts)))
        parts.append(table)
        assert not outcome.notes
    table = pd.concat(parts, ignore_index=True)
    found = told(experiment, table)
    assert found.verdict == "open"
    assert "2 trees are fewer" in found.reason
    assert len(experiment.summary_table(table)) >= len(parts)
    figure = experiment.plot(table)
    figure.canvas.draw()
    assert len(figure.axes) >= 4
    assert len(experiment.summary) <= 58
