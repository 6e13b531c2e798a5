"""Methods and labels: every rule on made-up tables, one small run, the figure."""

import json

import pandas as pd
import pytest
import torch
from judging import judge
from made_up_variants import cell, joined, seeded

from dualnets.experiments import load
from dualnets.experiments.objectives import _methods
from dualnets.experiments.objectives.methods import BARE, LABEL
from dualnets.experiments.objectives.supervised import PAIRS
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.fields import with_columns
from dualnets.lab.grids import cells
from dualnets.lab.variants import PRE

TOP = 4
LEVELS = range(1, TOP + 1)


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


def judged(name, table, claim=0):
    """The verdict, which JSON can hold."""
    found = judge(load(name), table, claim)
    json.dumps(found.as_dict(), allow_nan=False)
    return found


# methods


@pytest.mark.parametrize(
    ("gains", "trees", "verdicts", "reason"),
    [
        ({"simclr": 0.2, "byol": 0.1}, 12, ("holds", "open"), "all 2 methods"),
        ({"simclr": 0.2, "byol": 0.0}, 12, ("open", "open"), "not shown to emerge with byol"),
        ({"simclr": -0.1, "byol": 0.0}, 12, ("fails", "open"), "none of 2"),
        ({"simclr": 0.2, "byol": 0.1}, 8, ("open", "open"), "8 trees are fewer than 12"),
        # the others have a verdict of their own, and what stands for comparison has none
        ({"simclr": 0.2, "swav": -0.2, LABEL: -0.2}, 12, ("holds", "fails"), "all 1 methods"),
        ({"byol": -0.2, "moco": 0.2, BARE[0]: -0.2}, 12, ("fails", "holds"), "none of 1"),
    ],
)
def test_the_rules_of_methods(gains, trees, verdicts, reason):
    table = made_up({(name, 0): gain for name, gain in gains.items()}, trees)
    found = [judged("methods", table, claim) for claim in (0, 1)]
    assert tuple(each.verdict for each in found) == verdicts
    assert found[0].n == trees
    assert reason in found[0].reason


def test_only_the_methods_of_a_claim_must_be_flat():
    table = made_up({("simclr", 0): 0.4, ("moco", 0): 0.4}, steps=(0, 3, 15, 30))
    late = (table["variant"] == "moco") & (table["step"] == 15) & (table["metric"] == PRE)
    early = (table["variant"] == "simclr") & (table["step"] == 15) & (table["metric"] == PRE)
    end = table[(table["variant"] == "simclr") & (table["step"] == 30) & (table["metric"] == PRE)]
    table.loc[early, "value"] = end["value"].to_numpy()
    table.loc[late, "value"] = table.loc[late, "initial"]
    of_the_paper, others = load("methods").verdicts(table)
    assert of_the_paper.verdict == "holds"
    assert others.verdict == "open"
    assert "still changing (moco)" in others.reason


def test_half_of_the_gap_takes_as_long_as_it_takes():
    rows = made_up({("simclr", 0): 0.4}, noise=0.0, steps=(0, 1, 3, 7, 15))
    # growth is linear in log(updates + 1); half of the gap is half way
    upper = rows[(rows["metric"] == PRE) & (rows["level"] >= 2)]
    room = 0.9 - upper["initial"].mean()
    wanted = 16 ** (room / 2 / 0.4) - 1
    shown = _methods.summary_table(rows)["half gap at"].iloc[0]
    assert float(shown.split()[0]) == pytest.approx(wanted, abs=1)
    never = judged("methods", made_up({("simclr", 0): 0.05}))
    assert {d["half_of_the_gap_at"] for d in never.details if "level" in d} == {"> 10"}


# labels

ROOT, ALL = PAIRS


def labelled(root, every=0.3, contrast=0.3, trees=12, leave_out=()):
    gains = {ROOT: root, PAIRS[ROOT]: contrast, ALL: every, PAIRS[ALL]: contrast}
    return made_up({(name, 0): g for name, g in gains.items() if name not in leave_out}, trees)


@pytest.mark.parametrize(
    ("given", "verdict", "reason"),
    [
        ({"root": 0.3}, "holds", "more than 0.5 times contrast's gain"),
        ({"root": 0.05}, "fails", "less than 0.5 times contrast's gain"),
        ({"root": 0.15}, "open", "neither more nor less than 0.5 times"),
        ({"root": -0.05, "contrast": -0.2}, "fails", "lose alignment"),
        ({"root": 0.3, "trees": 11}, "open", "11 trees are fewer"),
        ({"root": 0.3, "leave_out": (PAIRS[ROOT],)}, "open", "were not both run"),
        # the root itself does not count, nor the lowest level
        ({"root": {1: 0.3, 2: 0.0, 3: 0.0, 4: 0.3}}, "fails", "less than"),
        # labels of all latents have a verdict of their own
        ({"root": 0.3, "every": 0.0, "leave_out": (PAIRS[ALL],)}, "holds", "more than"),
    ],
)  # fmt: skip
def test_the_rule_of_labels(given, verdict, reason):
    found = judged("supervised", labelled(**given))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_labels_of_all_latents_have_a_verdict_of_their_own():
    table = labelled(root=0.3, every=0.05)
    assert [judged("supervised", table, claim).verdict for claim in (0, 1)] == ["holds", "fails"]
    both = judged("supervised", seeded(labelled(root=0.3, trees=24), (5, 6)))
    assert (both.verdict, both.n) == ("holds", 24)


# all of them

SMALL = {
    "depth": 3,
    "members": 2,
    "steps": 4,
    "snapshots": 2,
    "evaluation_samples": 512,
    "batch": 32,
}


@pytest.mark.parametrize("name", ["methods", "supervised"])
@pytest.mark.slow
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
    found = judged(name, table, claim=-1)
    assert found.verdict == "open"
    assert "2 trees are fewer" in found.reason
    assert len(experiment.summary_table(table)) >= len(parts)
    figure = experiment.plot(table)
    figure.canvas.draw()
    assert len(figure.axes) >= 4
    assert len(experiment.summary) <= 58
