"""The experiment on samples by objective: rules on made-up tables, readouts, a small run."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from judging import judge
from made_up_variants import joined, stacked
from tiny_runs import few_cells

import hltm
from dualnets.experiments import load
from dualnets.experiments.prediction import _complexity as complexity
from dualnets.experiments.prediction.complexity import (
    CONTRAST,
    LABEL,
    LATENT,
    MASKED,
    NEXT,
    Settings,
)
from dualnets.lab.verdicts import verdict_on

EXPERIMENT = load("complexity")
CLAIMS = {claim.name: at for at, claim in enumerate(EXPERIMENT.claims)}
SIZES = (4, 16, 64, 256, 1024)


def trained(objective, needed, *, rules=2, trees=14, spread=0.05, sizes=SIZES, steps=(0, 5, 10)):
    """The cells of one objective and m whose levels need so many samples; needed: level -> samples."""
    rng = np.random.default_rng([rules, len(objective)])
    variant, made = f"{objective}, m {rules}", []
    at = {level: np.log(number) + rng.normal(0, spread, trees) for level, number in needed.items()}
    for size in sizes:
        place = {"cell": f"{variant}, {size}", "depth": 3, "branching": 2, "symbols": 8, "rules": rules,
                 "samples": size, "variant": variant, "member": np.arange(trees)}  # fmt: skip
        for (level, log_needed), step in itertools.product(at.items(), steps):
            share = np.clip(0.5 + (np.log(size) - log_needed) / np.log(256), 0, 1) * (step > 0)
            made.append(place | {
                "step": step, "level": level, "node": f"level {level}", "metric": complexity.SHARE,
                "value": share, "initial": 0.0, "ceiling": 1.0,
            })  # fmt: skip
    return stacked(made)


def of_rules(objective, power, *, level, counts, first=3.0, **options):
    """Trainings that need first * m^power samples."""
    return joined(
        *(trained(objective, {level: first * m**power}, rules=m, **options) for m in counts)
    )


def judged(claim, table):
    """The verdict, which JSON can hold."""
    found = judge(EXPERIMENT, table, CLAIMS[claim])
    json.dumps(found.as_dict(), allow_nan=False)
    return found


@pytest.mark.parametrize(
    ("claim", "table", "verdict"),
    [
        ("label", of_rules(LABEL, 3, level=3, counts=(2, 3, 4)), "holds"),
        ("label", of_rules(LABEL, 1.5, level=3, counts=(2, 3, 4), first=8), "fails"),
        ("label", of_rules(LABEL, 3, level=3, counts=(2, 3, 4), first=40), "open"),  # the largest set
        ("label", of_rules(LABEL, 3, level=3, counts=(2, 3, 4), trees=11), "open"),
        ("label", of_rules(LABEL, 3, level=3, counts=(2,)), "open"),
        ("masked", of_rules(MASKED, 1.5, level=1, counts=(1, 2, 3, 4), first=8), "holds"),
        ("masked", of_rules(MASKED, 3, level=1, counts=(2, 3, 4)), "fails"),
        ("next leaf", of_rules(NEXT, 1.5, level=1, counts=(2, 4), first=8), "holds"),
        ("level by level", trained(MASKED, {1: 20, 2: 80}), "holds"),
        ("level by level", trained(MASKED, {1: 20, 2: 22}), "fails"),
        ("level by level", trained(MASKED, {1: 300, 2: 9999}), "open"),
        ("level by level", trained(MASKED, {1: 20, 2: 80}, spread=0.7), "open"),  # a median of 2
        ("control", trained(MASKED, {1: 9, 2: 10}, rules=1), "holds"),
        ("control", trained(MASKED, {1: 9, 2: 40}, rules=1), "fails"),
        ("latent", trained(LATENT, {1: 20, 2: 22}), "holds"),
        ("latent", trained(LATENT, {1: 20, 2: 100}), "fails"),
        ("contrast", trained(CONTRAST, {1: 20, 2: 22}), "holds"),
        ("contrast", trained(CONTRAST, {1: 2, 2: 3}), "open"),  # below the smallest set
    ],
)  # fmt: skip
def test_rules(claim, table, verdict):
    found = judged(claim, table)
    assert found.verdict == verdict, found.reason


def test_numbers_that_still_change_decide_nothing():
    table = trained(MASKED, {1: 20, 2: 80}, steps=(0, 5, 10))
    claim = EXPERIMENT.claims[CLAIMS["level by level"]]
    assert verdict_on(claim, table).verdict == "holds"
    early = (table["step"] == 5) & (table["level"] == 2)
    moving = table.assign(value=table["value"].where(~early, 0.4 * table["value"]))
    assert verdict_on(claim, moving).verdict == "open"


def test_the_published_numbers():
    (own,) = complexity.learned(trained(MASKED, {1: 20, 2: 80}, rules=4))
    assert [own.published(level) for level in (1, 2)] == [64, 1024]
    (own,) = complexity.learned(trained(LABEL, {3: 20}, rules=4))
    assert own.published(3) == 512


def test_readouts_of_symbols_and_of_noise():
    settings = SimpleNamespace(evaluation_samples=512, seed=0, depth=2, rules=2, symbols=4)
    trees = hltm.random_hierarchy(v=4, m=2, s=2, L=2, classes=4, members=2, seed=0)
    known = hltm.families.random_hierarchy.symbols

    def of_root(leaves):
        draw = trees.draw(512, seed=0, stream=complexity.Stream.EVALUATION)
        return torch.nn.functional.one_hot(known(draw, m=2, level=2).long(), 4).flatten(2).float()

    found = complexity.readouts(of_root, trees, settings)
    assert found[2] == pytest.approx([1, 1], abs=0.01)
    assert (found[1] < 0.8).all()
    noise = complexity.readouts(lambda leaves: torch.rand(2, 512, 3), trees, settings)
    assert max(own.max() for own in noise.values()) < 0.05


def test_exact_losses_fall_level_by_level_and_a_label_is_read_off_the_leaves():
    given = {"depth": 2, "symbols": 4, "rules": 2, "members": 2, "network": "mlp"}
    masked = Settings(method="masked-prediction", augment="drop-leaves:0.3", **given)
    found = complexity.exact_losses(masked)
    assert found[1][1] == pytest.approx(found[2][0])
    assert (found[1][0] > found[2][0]).all()
    label = complexity.exact_losses(
        Settings(method="supervised", augment="resample-leaves:0", **given)
    )
    assert list(label) == [2]
    assert label[2][0] == pytest.approx(np.log(8))


@pytest.mark.slow
def test_a_small_run():
    table, _ = few_cells(
        EXPERIMENT, lambda own: own.rules == 2, samples=[4, 16], depth=2, symbols=4
    )
    assert {complexity.SHARE, complexity.LOSS, complexity.READOUT} <= set(table["metric"])
    assert np.isfinite(table["value"]).all()
