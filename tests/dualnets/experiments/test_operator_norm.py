"""Norms of the latents' operators against the exact operators, and the rules on made-up tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge
from tiny_runs import drawn_once

import dualnets
import hltm
from dualnets import experiments, theory
from dualnets.experiments.emergence import _operator_norm as operator_norm
from dualnets.experiments.emergence.operator_norm import CONTROL, Settings
from dualnets.lab.stats import pooled

STEPS = (0, 1, 10, 100)


@pytest.mark.parametrize("bias", [False, True])
def test_the_norms_are_those_of_the_exact_operators(bias):
    """Of every state of the leaves, with its probability given the root."""
    trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
    given = {"units": 3, "seed": 1, "bias": bias, "dtype": torch.float64}
    network = dualnets.tree_network(trees, **given)
    table = theory.enumerate_views(trees, hltm.keep_root())
    leaves = table.leaves.expand(2, -1, -1)
    off, on = table.view.unbind(1)  # the root's states
    found = operator_norm.operator_norms(network, leaves, on, off)
    plain = dualnets.tree_network(trees, normalize=False, **given)
    views = theory.TreeViews(trees, hltm.keep_root())
    for level, norms in found.items():
        assert norms.shape == (2, 2 ** (3 - level))
        for block in range(norms.shape[1]):
            operator = theory.covariance_operator(plain, views, level, block=block)
            expected = operator.matrix().value.flatten(1).norm(dim=1)
            torch.testing.assert_close(norms[:, block], expected, rtol=1e-10, atol=0)


def made_up(growth=(2.0, 3.0), control=0.0, delay=1.0, trees=14, noise=0.1, low=0.7, seed=0):
    """Norms that grow by `growth` doublings at levels 1, 2 (the root); `delay` is that of level 1."""
    rng = np.random.default_rng(seed)
    rows = []
    for augment, ends in (("keep-root", growth), (CONTROL, (control, control))):
        own = vars(Settings(augment=augment, polarity_low=low, depth=2, steps=100, seed=seed))
        for member in range(trees):
            for level, end in zip((1, 2), ends, strict=True):
                speed = rng.uniform(0.9, 1.1) * (delay if level == 1 else 1.0)
                end = end + rng.normal(0, noise)
                for step in STEPS:
                    share = (np.log1p(step) / np.log1p(100)) ** speed
                    for node in range(3 - level):
                        place = {"cell": f"{augment}{low}{seed}", "member": member, "step": step}
                        named = {"level": level, "node": f"{level}{node}", "metric": "norm"}
                        value = {"value": 2.0 ** (share * end), "initial": 1.0, "n": 10}
                        rows.append(own | place | named | value)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changed", "expected", "reason"),
    [
        ({}, "holds", "all levels grow"),
        ({"growth": (0.0, 0.0), "noise": 0.05}, "fails", "no level"),
        ({"control": 3.0}, "fails", "no level"),
        ({"growth": (0.0, 3.0)}, "open", "level 1"),
        ({"growth": (0.2, 0.2), "noise": 1.0}, "open", "growth is not shown"),
        ({"trees": 11}, "open", "11 trees are fewer"),
    ],
)
def test_the_rule_of_growth(changed, expected, reason):
    found = judge(experiments.load("operator_norm"), made_up(**changed))
    assert (found.verdict, found.n) == (expected, changed.get("trees", 14))
    assert reason in found.reason


def test_growth_needs_a_control_and_every_setting():
    experiment, table = experiments.load("operator_norm"), made_up()
    found = judge(experiment, table[table["augment"] != CONTROL])
    assert (found.verdict, found.reason) == ("open", "every network needs a control")
    still = made_up(growth=(0.0, 0.0), low=0.9)
    found = judge(experiment, pd.concat([table, still], ignore_index=True))
    assert (found.verdict, len(found.details)) == ("open", 4)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({"delay": 2.0}, "holds"), ({"delay": 0.3}, "fails"), ({"growth": (3.0, 3.0)}, "open"),
     ({"delay": 2.0, "trees": 11}, "open"), ({"growth": (0.0, 3.0)}, "holds"),
     ({"growth": (0.0, 0.0)}, "open")],
)  # fmt: skip
def test_the_rule_of_the_first(changed, expected):
    assert judge(experiments.load("operator_norm"), made_up(**changed), 1).verdict == expected


def test_doubling_steps():
    steps = [(0, 0.0), (1, 0.0), (10, 0.5), (1000, 1.5)]
    rows = [{"member": 3, "level": 1, "step": step, "growth": growth} for step, growth in steps]
    rows += [{"member": 3, "level": 2, "step": step, "growth": 0.9} for step, _ in steps]
    found = operator_norm.doubling_steps(pd.DataFrame(rows))
    assert found.loc[3, 1] == pytest.approx(100)
    assert found.loc[3, 2] == np.inf


def test_seeds_are_pooled():
    both = pooled(pd.concat([made_up(trees=7), made_up(trees=7, seed=1)], ignore_index=True))
    assert judge(experiments.load("operator_norm"), both).n == 14
    assert set(operator_norm.summary_table(both)["n"]) == {14}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": "mlp"}, "network must be tree"),
        ({"augment": "keep-level:1"}, "augment must be"),
    ],
)
def test_what_has_no_such_operator_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changed)


@pytest.mark.slow
def test_a_small_run(tmp_path):
    with drawn_once():
        run = dualnets.run("operator_norm", scale="smoke", out=tmp_path, steps=10)
    table = run.table
    assert (table["value"] >= 0).all()  # 0 where all units of a block are dead
    assert table[table["step"] == 0]["value"].equals(table[table["step"] == 0]["initial"])
    nodes = table.groupby(["cell", "member", "step"])["node"].nunique()
    assert set(nodes) == {7}
