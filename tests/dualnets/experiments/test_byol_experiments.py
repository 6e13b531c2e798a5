"""BYOL's experiments: their two rules on made-up tables, their variants, small runs."""

import functools

import numpy as np
import pytest
import torch
from judging import judge
from made_up_variants import FLAT, TINY, WELL, few_resamples, made_up, seeded

import dualnets
from dualnets import experiments
from dualnets.experiments.byol._byol import COLLAPSED
from dualnets.experiments.byol._verdicts import collapse_status
from dualnets.lab import grids
from dualnets.lab.experiment import ProgressListener
from dualnets.methods.byol import BYOL

__all__ = ["few_resamples"]  # a fixture
VARIANTS = {"byol_ablation": 8, "byol_batchnorm": 8, "byol_normalisation": 7, "byol_target": 8,
            "byol_predictor": 9, "byol_reinit": 13}  # fmt: skip
NEEDED, AS_GOOD = list(VARIANTS)[:4], list(VARIANTS)[4:]


@functools.cache
def cells(name):
    """The settings of an experiment's default scale; making them checks them, which takes a while."""
    return grids.cells(experiments.load(name), "default", {})


def parts(name):
    """Variants that must work, and variant that must fall short -> its counterpart."""
    options = experiments.load(name).claims[0].rule.judge.options
    return options["works"], options["short"]


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed(name):
    experiment = experiments.load(name)
    works, short = parts(name)
    flat = dict.fromkeys(short, FLAT)
    found = judge(experiment, made_up(name, flat))
    assert found.verdict == "holds"
    assert found.effect_value == pytest.approx(0.2, abs=0.02)
    assert found.interval[0] < found.effect_value < found.interval[1]
    assert found.n == 12
    one = next(iter(short))
    for change, verdict, reason in (
        ({one: WELL}, "fails", f"{one} works"),
        ({works[0]: (0.2, 0.01)}, "fails", f"{works[0]} collapses"),
        ({works[0]: (0.0, 0.8)}, "open", works[0]),  # nothing grows, nothing collapses
        ({one: (0.0, COLLAPSED)}, "holds", "fall short"),  # spread unclear, alignment worse
        ({one: (0.2, COLLAPSED)}, "open", one),  # spread unclear, aligned as well
        ({one: (0.0, np.nan)}, "holds", "fall short"),  # not finite is collapsed
    ):
        found = judge(experiment, made_up(name, flat | change))
        assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    assert judge(experiment, made_up(name, flat, trees=11)).reason.startswith("11 trees")
    table = made_up(name, flat)
    found = judge(experiment, table[table["variant"] != works[0]])
    assert (found.verdict, found.effect_value) == ("open", None)
    assert works[0] in found.reason


@pytest.mark.parametrize("name", AS_GOOD)
def test_what_is_as_good(name):
    experiment = experiments.load(name)
    reference, other = (
        ("never", "top, every 100")
        if name == "byol_reinit"
        else ("linear", "linear, set to root of F")
    )
    quiet = {"noise": 0.002}
    found = judge(experiment, made_up(name, {}, **quiet))
    assert found.verdict == "holds"
    assert abs(found.effect_value) < 0.01
    for change, verdict, reason in (
        ({other: (0.195, 0.8)}, "holds", ""),  # within the margin
        ({other: (0.15, 0.8)}, "fails", f"{other} gains less"),
        ({other: (0.2, 0.01)}, "fails", f"{other} collapses"),
        ({reference: FLAT}, "fails", f"{reference} collapses"),
        ({other: (0.2, COLLAPSED)}, "open", other),
        ({other: (0.18, 0.8)}, "open", other),  # on the border
    ):
        found = judge(experiment, made_up(name, change, **quiet))
        assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    assert judge(experiment, made_up(name, {}, trees=11)).verdict == "open"
    table = made_up(name, {})
    assert judge(experiment, table[table["variant"] == reference]).verdict == "open"


def test_redraws_that_were_added_later_are_described_and_decide_nothing():
    experiment = experiments.load("byol_reinit")
    quiet = {"noise": 0.002}
    options = experiment.claims[0].rule.judge.options
    for gain, words in (
        ((0.0, 0.8), "redrawn at every single update nothing is learned (gap closed"),
        ((0.1, 0.8), "redrawn at every single update it gains less (gap closed 0.25"),
        ((0.18, 0.8), "redrawn at every single update it is shown neither as good nor worse"),
    ):
        table = made_up("byol_reinit", {"all, every 1": gain}, **quiet)
        found = judge(experiment, table)
        assert (found.verdict, words in found.reason) == ("holds", True), found.reason
        assert found.reason.startswith("9 of 9 are as good")
        deciding = {d["variant"] for d in found.details if d.get("decides")}
        assert deciding == set(options["others"])
        papers = table[~table["variant"].isin(options["added"])]
        assert judge(experiment, papers).interval == found.interval
    assert "added after a first run" in experiment.summary_table(table).attrs["caption"]
    assert "added after" not in experiment.summary_table(papers).attrs["caption"]


def test_a_norm_that_has_begun_to_close_the_gap_is_named():
    experiment = experiments.load("byol_normalisation")
    flat = dict.fromkeys(parts(experiment.name)[1], FLAT)
    assert "begun" not in judge(experiment, made_up("byol_normalisation", flat)).reason
    slow = flat | {"layer": (0.1, COLLAPSED)}
    found = judge(experiment, made_up("byol_normalisation", slow, noise=0.002))
    assert found.verdict == "holds"
    assert "in these 1000 updates; a gap has begun to close with layer 0.25 [" in found.reason


@pytest.mark.parametrize("name", ["byol_ablation", "byol_reinit"])
def test_trees_of_several_seeds_add_up(name):
    flat = dict.fromkeys(parts(name)[1], FLAT) if name in NEEDED else {}
    table = made_up(name, flat, trees=24)
    split = seeded(table, (0, 1))
    experiment = experiments.load(name)
    alone, both = judge(experiment, table), judge(experiment, split)
    assert (both.verdict, both.n, both.reason) == (alone.verdict, 24, alone.reason)
    assert both.interval == pytest.approx(alone.interval, abs=1e-12)
    summary = experiment.summary_table(split)
    assert set(summary["n"]) == {24}
    assert (summary["root"] + summary["spread"]).str.count("±").eq(2).all()
    # a seed's trees alone are too few for nothing but their own interval
    assert judge(experiment, split[split["seed"] == 0]).n == 12


def test_to_work_needs_both_growth_and_spread():
    ends = {"never": (0.2, 0.01), "all, every 50": (0.0, 0.8), "top, every 50": (-0.2, 0.0)}
    found = collapse_status(made_up("byol_reinit", ends))
    words = {name: status.word for name, status in found.items()}
    assert words["never"] == words["top, every 50"] == "collapses"
    assert words["all, every 50"] == "neither"
    assert words["all, every 100"] == "works"


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_differ_in_what_they_say_and_in_nothing_else(name):
    experiment = experiments.load(name)
    assert len(experiment.summary) <= 58
    for scale in ("smoke", "default"):
        found = cells(name) if scale == "default" else grids.cells(experiment, scale, {})
        methods = [(settings.build_method(), settings.lr) for settings in found]
        assert all(isinstance(method, BYOL) for method, _ in methods)
        assert len(set(methods)) == len(found)
        assert len({(settings.steps, settings.members, settings.seed) for settings in found}) == 1
    assert len(cells(name)) == VARIANTS[name]


def test_every_combination_of_predictor_average_and_norm_is_there():
    found = cells("byol_ablation")
    for settings in found:
        method, name = settings.build_method(), settings.variant.split()
        assert ("predictor" in name) == (method.predictor is not None)
        assert ("EMA" in name) == (method.target == "ema")
        assert ("BN" in name) == (method.projector.norm is not None)
        assert method.stop_gradient
        settings_without = (settings.lr, settings.momentum, settings.weight_decay, settings.batch)
        assert settings_without == (0.03, 0.9, 4e-4, 128)
        assert (settings.depth, settings.units, settings.bias, settings.normalize) == (
            5,
            10,
            True,
            False,
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_train(name):
    experiment = experiments.load(name)
    for settings in grids.cells(experiment, "smoke", {k: [v] for k, v in TINY.items()})[1::2]:
        table = experiment.run_cell(settings, torch.device("cpu"), ProgressListener()).table
        seen = table[(table["metric"] == "spread") & (table["node"] == "embedding")]
        assert sorted(seen["step"].unique()) == [0, 3, 6]
        assert seen["value"].notna().all()


@pytest.mark.parametrize("name", ["byol_batchnorm", "byol_reinit"])
def test_a_small_run_leaves_a_verdict_a_summary_and_a_figure(name, tmp_path):
    run = dualnets.run(name, scale="smoke", out=tmp_path, workers=1, **TINY)
    assert run.verdicts[0].verdict == "open"
    assert "3 trees" in run.verdicts[0].reason
    assert (run.folder / f"{name}.png").stat().st_size > 10_000
    summary = experiments.load(name).summary_table(run.table)
    assert len(summary) == run.table["variant"].nunique()
    assert set(summary["status"]) <= {"works", "collapses", "neither"}
