"""The experiment `lucky`: its rules on made-up tables, the exchange of one unit, a small run."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_runs import drawn_once

import dualnets
from dualnets.experiments.theorems import _lucky as cells
from dualnets.experiments.theorems import _lucky_rules as rules
from dualnets.experiments.theorems import lucky
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.stats import pooled

RULES = {claim.name: claim.rule for claim in lucky.EXPERIMENT.claims}
STEPS = np.array([0, 1, 3, 9, 27, 81, 243, 729])


def born(offset=0.0, narrow=0.3, wide=0.8, trees=24, widths=(2, 10), seed=0):
    """Trees of depths 2 and 3 whose latents are lucky with the given chances, plus an offset."""
    rng = np.random.default_rng(seed)
    rows = []
    for depth in (2, 3):
        for units in widths:
            chance = narrow if units == 2 else wide
            settings = vars(lucky.Settings(units=units, depth=depth, seed=seed))
            for member in range(trees):
                for level in range(1, depth + 1):
                    for latent in range(2 ** (depth - level)):
                        place = {"cell": f"{depth} {units} {seed}", "member": member}
                        place |= {"level": level, "latent": latent}
                        is_lucky = float(rng.random() < chance + offset)
                        rows.append(settings | place | {"predicted": chance, "lucky": is_lucky})
    return pd.DataFrame(rows)


def curve(start, time):
    """An alignment that is halfway from `start` to a ceiling of .9 after `time` updates."""
    share = np.log(STEPS + 1) / np.log(time + 1)
    return start + (0.9 - start) * np.minimum(share / 2, 0.95)


def graft(factor=3.0, noise=0.1, normalize=False, trees=24, seed=0):
    """Copies of which the lucky one is sooner by a factor, with noise in its logarithm."""
    rng = np.random.default_rng(seed)
    rows = []
    for units in (2, 10):
        settings = vars(lucky.Settings(test="graft", units=units, normalize=normalize, seed=seed))
        for member in range(trees):
            log_ratio = np.log(factor) + noise * rng.normal()
            time = rng.uniform(30, 60)
            for twin, each in (("lucky", time), ("unlucky", time * np.exp(log_ratio))):
                for step, value in zip(STEPS, curve(0.5, each), strict=True):
                    rows.append(
                        settings
                        | {"cell": f"{units} {normalize} {seed}", "member": member, "twin": twin}
                        | {"step": step, "value": value, "initial": 0.5, "ceiling": 0.9, "luck": 0.1}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def siblings(rank=0.6, trees=16, seed=0):
    """Networks whose time falls with luck, to a degree."""
    rng = np.random.default_rng(seed)
    rows = []
    for normalize in (False, True):
        settings = vars(lucky.Settings(test="siblings", units=5, normalize=normalize, seed=seed))
        for member in range(trees):
            luck = rng.normal(size=24)
            time = np.exp(-rank * luck + (1 - abs(rank)) * rng.normal(size=24))
            time[time > 2] = np.inf
            for network in range(24):
                own = {"luck": luck[network], "updates": time[network], "ceiling": 0.9}
                place = {"cell": f"{normalize} {seed}", "member": member, "network": network}
                rows.append(settings | place | own)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("name", "made", "changes", "outcome", "reason"),
    [
        ("calibration", born, {}, "holds", "at all 4 widths and depths"),
        ("calibration", born, {"offset": 0.2}, "fails", "standard errors"),
        ("calibration", born, {"trees": 10}, "open", "10 trees are fewer"),
        ("width", born, {}, "holds", "2 of 2 depths"),
        ("width", born, {"narrow": 0.02, "wide": 0.02, "trees": 48}, "fails", "0 of 2 depths"),
        ("width", born, {"wide": 0.3, "trees": 14}, "open", "0 of 2"),  # an effect is not excluded
        ("width", born, {"widths": (2,)}, "open", "one width"),
        ("width", graft, {}, "open", "not measured"),
        ("speed", graft, {}, "holds", "2 of 2 widths; without its head start the ratios are 2.9"),
        ("speed", graft, {"factor": 1.0, "noise": 0.05}, "fails", "0 of 2"),
        ("speed", graft, {"factor": 1.0, "noise": 2.0}, "open", "0 of 2"),
        ("speed", graft, {"factor": 1 / 3}, "fails", "0 of 2"),
        ("speed", graft, {"trees": 10}, "open", "10 trees are fewer"),
        ("speed", graft, {"normalize": True}, "open", "not measured"),
        ("normalised", graft, {"normalize": True}, "holds", "2 of 2"),
        ("within", siblings, {}, "holds", "2 of 2"),
        ("within", siblings, {"rank": -0.6}, "fails", "0 of 2"),
        ("within", siblings, {"rank": 0.0, "trees": 14}, "open", "0 of 2"),
    ],
)  # fmt: skip
def test_the_rules(name, made, changes, outcome, reason):
    found = RULES[name](made(**changes))
    assert found.outcome == outcome, found
    assert reason in found.reason


def test_few_latents_do_not_show_that_a_prediction_is_right():
    table = born(offset=0.1, trees=12).query("depth == 2 and units == 2")
    found = RULES["calibration"](table)
    assert (found.outcome, found.estimate.high > 0.1) == ("open", True)


def test_luck_at_the_lowest_level_does_not_count():
    table = born(wide=0.3)
    lowest = table["level"] == 1
    table.loc[lowest, "lucky"] = (table["units"] == 10)[lowest].astype(float)
    assert RULES["width"](table).outcome == "open"


def test_more_widths_are_more_tests():
    table = graft(noise=2.0)
    both, one = (
        RULES["speed"](rows).details[0]["p"] for rows in (table, table.query("units == 2"))
    )
    assert both == pytest.approx(2 * one)


def test_copies_that_never_reach_the_goal_are_later_than_all():
    """They are counted by rank and shown; a tree of which neither copy does so says nothing."""
    table = graft(noise=0.5)
    slow = (table["twin"] == "unlucky") & (table["member"] < 8)
    table.loc[slow, "value"] = 0.5
    neither = table["member"] >= 22
    table.loc[neither, "value"] = 0.5
    found = RULES["speed"](table)
    assert found.outcome == "holds"
    assert found.details[0]["never_lucky"] == 2
    assert found.details[0]["never_unlucky"] >= 10
    assert found.estimate.n == 22
    assert np.isfinite(found.estimate.value)


def test_networks_that_never_reach_their_goal_do_not_show_that_luck_makes_no_difference():
    table = siblings()
    table.loc[table["normalize"], "updates"] = np.inf
    found = RULES["within"](table)
    assert (found.outcome, found.reason) == ("open", "0 trees are fewer than 12 in 1 of 2 cases")
    table["updates"] = np.inf
    assert RULES["within"](table).outcome == "open"
    few = siblings()
    few.loc[few["member"] < 2, "updates"] = np.inf
    assert RULES["within"](few).estimate.n == 14


def test_more_seeds_are_more_trees():
    for name, made, n in (
        ("calibration", born, 24),
        ("speed", graft, 24),
        ("within", siblings, 16),
    ):
        two = pooled(pd.concat([made(seed=0), made(seed=1)], ignore_index=True))
        found = RULES[name](two)
        assert found.estimate.n == 2 * n
        assert found.outcome == "holds"


def test_a_tree_of_which_a_copy_diverged_is_left_out():
    table = graft()
    table.loc[(table["member"] == 3) & (table["twin"] == "lucky"), "value"] = np.nan
    assert RULES["speed"](table).details[0]["trees"] == 23


def test_times_are_those_of_the_curves():
    table = graft(factor=4.0, noise=0.0).query("units == 2")
    found = rules.times(table)
    assert np.allclose(np.log(found.unlucky / found.lucky), np.log(4), atol=0.1)
    assert ((found.lucky >= 30) & (found.lucky <= 61)).all()
    assert (found.level == 1).all()  # both start where the lucky one does


def test_a_head_start_and_no_more_has_a_ratio_of_one_when_level():
    """A copy that takes 60 updates, of which 20 to where the other one starts, which takes 40."""
    lucky_at, unlucky_at, level = np.full((3, 12), [[41.0], [61.0], [21.0]])
    found = rules.Times(lucky_at, unlucky_at, level)
    assert found.ratio_when_level.value == 1
    assert found.ratio().value == pytest.approx(61 / 41)
    never = rules.Times(lucky_at, np.full(12, np.inf), np.full(12, np.inf))
    assert never.ratio_when_level.value == np.inf


def test_copies_differ_in_one_unit_of_one_norm_and_read_the_same_samples():
    settings = lucky.Settings(
        test="graft", depth=2, units=3, members=5, candidates=50, steps=8, seed=3
    )
    trees = settings.build_trees()
    network, both = cells.twins(settings, trees)
    own = dualnets.tree_network(trees, units=3, seed=3)
    top, once = network.weights[-1].detach()[:, 0], own.weights[-1].detach()[:, 0]
    assert torch.equal(network.weights[0][:5], network.weights[0][5:])
    assert torch.equal(top[:5, 1:], once[:, 1:])
    assert torch.equal(top[5:, 1:], once[:, 1:])
    norms = top[:, 0].norm(dim=1)
    assert torch.allclose(norms, once[:, 0].norm(dim=1).repeat(2))
    inputs = dualnets.theory.latent_inputs(own, trees)[2]
    drawn = cells.random_units(settings, trees, once[:, 0].double())
    all_luck = inputs.selectivities(drawn[:, None])[:, 0].abs()
    chosen = inputs.selectivities(torch.stack([top[:5, 0], top[5:, 0]], 1)[:, None].double())[
        :, 0
    ].abs()
    assert torch.allclose(chosen[:, 0], all_luck.amax(1), atol=1e-6)
    assert torch.allclose(chosen[:, 1], all_luck.amin(1), atol=1e-6)
    with torch.no_grad():  # copies that are the same stay the same
        network.weights[-1][5:] = network.weights[-1][:5]
    found = cells._train(settings, network, both, ProgressListener())
    assert np.array_equal(found.alignment[:5], found.alignment[5:])
    assert not np.array_equal(found.alignment[:, 0], found.alignment[:, -1])


@pytest.mark.slow
def test_a_small_run(tmp_path):
    with drawn_once():
        run = dualnets.run("lucky", scale="smoke", out=tmp_path, steps=10, draws=300, members=8)
    table = run.table
    assert set(table["test"]) == {"born", "graft", "siblings"}
    before = table[table["test"] == "born"]
    assert (before["initial"] <= before["ceiling"] + 1e-9).all()
    assert before["lucky"].eq(before["initial"] >= 0.8 * before["ceiling"]).all()
    deeper = before[before["depth"] == 3]  # there are too few latents in the others to tell
    assert abs(rules.standard_errors(deeper)) < lucky.CALIBRATED
    assert abs(rules.standard_errors(deeper.assign(predicted=deeper["predicted"] ** 3))) > 2
    assert deeper["luck"].mean() == pytest.approx(deeper["luck_predicted"].mean(), rel=0.15)
    pairs = table[table["test"] == "graft"].drop_duplicates(["normalize", "twin", "member"])
    luck = pairs.pivot(index=["normalize", "member"], columns="twin", values="luck")
    assert (luck["lucky"] >= luck["unlucky"]).all()
    many = table[table["test"] == "siblings"]
    assert many.groupby(["normalize", "member"]).size().eq(4).all()
    assert [verdict.name for verdict in run.verdicts] == list(RULES)
    assert {verdict.verdict for verdict in run.verdicts} == {"open"}
    assert (run.folder / "lucky.svg").exists()


def test_the_figure_marks_copies_that_never_arrive_and_has_its_keys_beside_the_panels():
    before = born().assign(luck=0.04, luck_predicted=0.05)
    never = graft(normalize=True)
    never.loc[never["twin"] == "lucky", "value"] = 0.5
    figure = lucky.EXPERIMENT.plot(pd.concat([before, graft(), never, siblings()]))
    assert all(axes.get_legend() is None for axes in figure.axes)
    keys = [text.get_text() for part in figure.subfigs[0].subfigs for own in part.legends
            for text in own.get_texts()]  # fmt: skip
    assert {"ceiling", "outputs as they are", "outputs of length 1", "b: 10 units"} <= {*keys}
    assert len(keys) == len({*keys})
    titles = {axes.get_title(loc="left")[3:]: axes for axes in figure.axes}
    marks = [line.get_marker() for line in titles["is the lucky copy sooner?"].get_lines()]
    assert marks.count("v") == 2  # at either width
    low, high = titles["best |s| before training"].get_ylim()
    ticks = titles["best |s| before training"].get_yticks()
    assert sum(low <= tick <= high for tick in ticks) >= 2
