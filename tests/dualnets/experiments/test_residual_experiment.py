"""The experiment `residual`: its rules on made-up tables, its rows against the operators themselves."""

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge
from tiny_runs import drawn_once

import dualnets
from dualnets import experiments
from dualnets.experiments.theorems import _residual as residual
from dualnets.experiments.theorems import _residual_rules as rules
from dualnets.experiments.theorems.residual import REFERENCES, Settings
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.stats import pooled
from dualnets.theory import TreeViews, covariance_operator, pairwise_operator

CPU = torch.device("cpu")
EXPERIMENT = experiments.load("residual")
RATE, GUIDE = 0, 1
STEPS = (0, 10, 100)


def rows_of(settings, trees, columns, seed=0, **place):
    common = vars(settings) | {"cell": str(settings), "seed": seed} | place
    return pd.DataFrame(columns | {"member": range(trees)} | common)


def untrained(order=1.0, trees=16, spread=0.005, references=REFERENCES, floor=0.0, seed=0):
    """Residues that are a power of the variance, and do not vanish where there is a floor."""
    random = np.random.default_rng(seed)
    parts = []
    for at in references:
        for noise in (0.1, 0.01, 0.001, 0.0001):
            settings = Settings(polarity_low=1 - noise, **at)
            for layer in (1, 2):
                variance = noise * random.uniform(0.5, 2, trees)
                residue = variance**order * np.exp(spread * random.normal(size=trees)) + floor
                columns = {"variance": variance, "residue": residue, "update": np.ones(trees)}
                parts.append(rows_of(settings, trees, columns, seed, layer=layer, step=0))
    return pd.concat(parts, ignore_index=True)


def trained(cosine=0.95, other=0.1, trees=16, spread=0.05, worst=None, seed=0):
    random = np.random.default_rng(seed)
    parts = []
    for normalize in (False, True):
        settings = Settings(steps=STEPS[-1], polarity_low=0.7, normalize=normalize)
        middle = worst if normalize and worst is not None else cosine
        of_tree = middle + spread * random.normal(size=trees)
        for step in STEPS:
            columns = {"form": of_tree, "other": np.full(trees, other), "unweighted": of_tree}
            parts.append(rows_of(settings, trees, columns, seed, layer=0, step=step))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "holds", "slopes of log |θ| on log variance are 0.99"),
        ({"order": 2.0}, "holds", "are 1.99"),  # faster than the bound
        ({"order": 0.5}, "fails", "are 0.4"),
        ({"floor": 1e-2}, "fails", "over 6 layers of 3 settings"),  # it does not vanish
        ({"spread": 0.5}, "open", "over 6 layers"),
        ({"trees": 8}, "open", "fewer than 12 trees have a slope in 6 of 6 layers"),
    ],
)
def test_the_rule_on_the_rate(changes, verdict, reason):
    found = judge(EXPERIMENT, untrained(**changes), RATE)
    assert found.verdict == verdict
    assert reason in found.reason


def test_one_setting_without_the_rate_is_enough_to_fail():
    good, bad = untrained(references=REFERENCES[:2]), untrained(0.6, references=REFERENCES[2:])
    found = judge(EXPERIMENT, pd.concat([good, bad]), RATE)
    assert found.verdict == "fails"
    assert found.effect_value == pytest.approx(0.6, abs=0.01)


def test_trees_without_a_residue_have_no_slope():
    table = untrained()
    table.loc[table["member"] < 3, "residue"] = 0.0
    assert judge(EXPERIMENT, table, RATE).n == 13
    table.loc[(table["member"] < 6) & (table["layer"] == 2), "residue"] = 0.0
    assert judge(EXPERIMENT, table, RATE).verdict == "open"


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "holds", "above 0.9 in 2 and below in 0"),
        (
            {"worst": 0.5},
            "fails",
            "above 0.9 in 1 and below in 1; with another tree's views it is 0.10",
        ),
        ({"worst": 0.9}, "open", "above 0.9 in 1 and below in 0"),
        ({"other": 0.99}, "open", "above 0.9 in 0"),  # as good is the form of another tree
        ({"trees": 8}, "open", "at least 12 trees"),
    ],
)
def test_the_rule_on_the_guide(changes, verdict, reason):
    found = judge(EXPERIMENT, trained(**changes), GUIDE)
    assert found.verdict == verdict
    assert reason in found.reason


def test_quieter_views_are_shown_and_not_judged():
    quiet = trained(cosine=0.2).assign(polarity_low=0.99)
    table = pd.concat([trained(), quiet])
    assert judge(EXPERIMENT, table, GUIDE).verdict == "holds"
    assert [entry["judged"] for entry in rules.guides(table)] == [True, True, False, False]
    assert judge(EXPERIMENT, quiet, GUIDE).verdict == "open"


def test_seeds_are_more_trees():
    for make, claim in ((untrained, RATE), (trained, GUIDE)):
        table = pooled(pd.concat([make(trees=8, seed=seed) for seed in (5, 6)]))
        found = judge(EXPERIMENT, table, claim)
        assert (found.verdict, found.n) == ("holds", 16)


@pytest.mark.parametrize("augment", ["keep-root", "resample-leaves:0.2"])
def test_a_cell_measures_the_operators(augment):
    settings = Settings(members=3, polarity_low=0.9, weights=1.0, units=2, augment=augment)
    table = residual.run_cell(settings, CPU, ProgressListener()).table
    trees = settings.build_trees()
    network = settings.build_network(trees, 0, CPU)
    for weight in network.weights:
        weight.data *= (3 * weight.shape[-1]) ** 0.5
    network.double()
    all_weights = torch.cat([weight.data.flatten() for weight in network.weights])
    assert all_weights.std() == pytest.approx(1, abs=0.25)
    views = TreeViews(trees, settings.build_augmentation())
    whole = table[table["layer"] == 0]
    squares = {"residue": 0, "update": 0}
    for layer in (1, 2):
        own = table[table["layer"] == layer]
        operator = pairwise_operator(network, views, layer, settings.build_loss())
        exact, form = (part.on_outputs().value for part in (operator.exact, operator.weighted))
        assert own["update"].to_numpy() == pytest.approx(exact.norm(dim=1).numpy())
        assert own["residue"].to_numpy() == pytest.approx((exact - form).norm(dim=1).numpy())
        cosines = torch.nn.functional.cosine_similarity(exact, form)
        assert own["form"].to_numpy() == pytest.approx(cosines.numpy())
        plain = covariance_operator(network, views, layer).on_outputs().value
        cosines = torch.nn.functional.cosine_similarity(exact, plain)
        assert own["unweighted"].to_numpy() == pytest.approx(cosines.numpy())
        for name in squares:
            squares[name] += own[name].to_numpy() ** 2
    for name, square in squares.items():
        assert whole[name].to_numpy() == pytest.approx(square**0.5)


def test_the_variance_is_that_of_outputs_between_views():
    """By drawing many views of many samples."""
    settings = Settings(members=2, polarity_low=0.7, units=3, augment="resample-leaves:0.3")
    table = residual.run_cell(settings, CPU, ProgressListener()).table
    trees = settings.build_trees()
    network = settings.build_network(trees, 0, CPU)
    rows = trees.sample(20_000, seed=3)
    one, two = (view.leaves for view in trees.views(rows, settings.build_augmentation(), count=2))
    with torch.no_grad():
        half = (network(one) - network(two)).square().sum(-1).mean(1) / 2  # of independent views
    found = table[table["layer"] == 0]["variance"].to_numpy()
    assert found == pytest.approx(half.numpy(), rel=0.05)


def test_another_trees_views_are_those_of_the_member_before():
    settings = Settings(members=3, polarity_low=0.7, steps=2, snapshots=2)
    table = residual.run_cell(settings, CPU, ProgressListener()).table
    trees = settings.build_trees()
    network = settings.build_network(trees, 0, CPU).double()
    loss, views = settings.build_loss(), TreeViews(trees, settings.build_augmentation()).table()
    moved = views._replace(probability=views.probability[[2, 0, 1]], view=views.view[[2, 0, 1]])
    exact = pairwise_operator(network, views, 2, loss).exact.on_outputs().value
    other = pairwise_operator(network, moved, 2, loss).weighted.on_outputs().value
    cosines = torch.nn.functional.cosine_similarity(exact, other)
    start = table[(table["step"] == 0) & (table["layer"] == 2)]
    assert start["other"].to_numpy() == pytest.approx(cosines.numpy())


def test_zero_updates_have_no_direction():
    a, b = torch.eye(2, dtype=torch.float64), torch.tensor([[2e-200, 0.0], [0.0, 0.0]]).double()
    assert residual.cosine(a, b + 1e-100 * a)[0] == 1
    assert residual.cosine(a, b * 0).isnan().all()


@pytest.mark.slow
def test_a_run_leaves_figure_and_page(tmp_path):
    with drawn_once():
        run = dualnets.run("residual", scale="smoke", out=tmp_path, device="cpu")
    assert (run.folder / "residual.svg").exists()
    assert [verdict.name for verdict in run.verdicts] == ["rate", "guide"]
    assert all(verdict.verdict == "open" for verdict in run.verdicts)
    for _, cell in run.table.groupby("cell"):
        assert ("cosine" in residual.headline(cell)) == (cell["steps"].iloc[0] > 0)
    summary = residual.summary_table(run.table)
    assert list(summary["n"]) == [3, 3, 3]
    found = rules.rates(run.table)
    assert all(entry["slope"].value == pytest.approx(1, abs=0.02) for entry in found)
