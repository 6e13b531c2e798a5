"""BYOL's experiments: their rules on made-up tables, their variants, small runs."""

import functools
import itertools

import numpy as np
import pytest
import torch
from judging import judge
from made_up_variants import FLAT, TINY, WELL, cell, joined, made_up, seeded
from tiny_runs import drawn_once

import dualnets
from dualnets import experiments
from dualnets.experiments.byol._verdicts import variant_ends
from dualnets.experiments.byol.byol_batchnorm import ELSEWHERE
from dualnets.experiments.byol.byol_reinit import ALWAYS, EMERGENCE, NEVER, SLOW
from dualnets.lab import grids
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.rules import COLLAPSED
from dualnets.lab.stats import pooled
from dualnets.lab.variants import PRE, SPREAD
from dualnets.methods.byol import BYOL
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import PARTS, BatchNorm

VARIANTS = {"byol_ablation": 8, "byol_batchnorm": 13, "byol_normalisation": 7, "byol_target": 8}
NAMES = tuple(
    name for name in experiments.names() if name.startswith("byol_") and name != "byol_linear"
)
NORMS, REDRAWS = "byol_normalisation", "byol_reinit"


@functools.cache
def cells(name):
    """The settings of an experiment's default scale; making them checks them, which takes a while."""
    return grids.cells(experiments.load(name), "default", {})


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_about_variants_that_there_are(name):
    experiment, table = experiments.load(name), made_up(name, {}, noise=0.002)
    for at, claim in enumerate(experiment.claims):
        rule = claim.rule.judge
        if rule.function.endswith("_verdicts:needed"):  # all work here, also what must fall short
            assert judge(experiment, table, at).verdict == "fails"
        elif rule.function.endswith("_verdicts:as_good"):
            assert judge(experiment, table, at).verdict == "holds"


def test_what_is_needed():
    name, at = "byol_ablation", 0
    experiment = experiments.load(name)
    options = experiment.claims[at].rule.judge.options
    works, short = options["works"], options["short"]
    flat, one = dict.fromkeys(short, FLAT), short[0]
    found = judge(experiment, made_up(name, flat), at)
    assert (found.verdict, found.n) == ("holds", 12)
    assert found.effect_value == pytest.approx(0.5, abs=0.05)  # 0.2 of 0.4
    assert found.interval[0] < found.effect_value < found.interval[1]
    for change, verdict, reason in (
        ({one: WELL}, "fails", f"`{one}` works"),
        ({works[0]: (0.2, 0.01)}, "open", works[0]),  # nothing to compare with
        ({works[0]: (0.0, 0.8)}, "open", works[0]),
        ({one: (0.0, COLLAPSED)}, "holds", "fall short"),  # spread unclear, nothing learned
        ({one: (0.2, COLLAPSED)}, "open", one),  # spread unclear, and learned
        ({one: (0.02, 0.8)}, "holds", "fall short"),  # what it learns is negligible
        ({one: (0.04, 0.8)}, "holds", "fall short"),  # on the border of that, most is lost
        ({one: (0.08, 0.8)}, "fails", f"`{one}` works"),  # most is lost, not all
        ({one: (0.08, COLLAPSED)}, "holds", "fall short"),
        ({one: (0.2, np.nan)}, "holds", "fall short"),  # not finite is collapsed
    ):
        found = judge(experiment, made_up(name, flat | change), at)
        assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    assert judge(experiment, made_up(name, flat, trees=11), at).reason.startswith("11 trees")
    table = made_up(name, flat)
    found = judge(experiment, table[table["variant"] != works[0]], at)
    assert (found.verdict, found.effect_value) == ("open", None)
    assert works[0] in found.reason


def test_what_is_as_good():
    name, at = "byol_ablation", 2
    experiment = experiments.load(name)
    options = experiment.claims[at].rule.judge.options
    reference, other = options["reference"], options["others"][0]
    quiet = {"noise": 0.002}
    found = judge(experiment, made_up(name, {}, **quiet), at)
    assert found.verdict == "holds"
    assert abs(found.effect_value) < 0.01
    for change, verdict, reason in (
        ({other: (0.195, 0.8)}, "holds", ""),  # within the margin
        ({other: (0.15, 0.8)}, "fails", f"`{other}` gains less"),
        ({other: (0.2, 0.01)}, "fails", f"`{other}` collapses"),
        ({other: (0.0, 0.8)}, "fails", f"`{other}` learns nothing"),
        ({reference: FLAT}, "open", reference),  # nothing to compare with
        ({reference: FLAT, other: FLAT}, "open", reference),
        ({other: (0.2, COLLAPSED)}, "open", other),
        ({other: (0.18, 0.8)}, "open", other),  # on the border
    ):
        found = judge(experiment, made_up(name, change, **quiet), at)
        assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    lower = made_up(
        name, {other: (0.25, 0.8)}, **quiet
    )  # from an untrained network that is worse by 0.1
    lower.loc[(lower["variant"] == other) & (lower["metric"] == PRE), ["initial", "value"]] -= 0.1
    found = judge(experiment, lower, at)
    assert (found.verdict, found.effect_value) == ("fails", pytest.approx(-0.05, abs=0.01))
    assert judge(experiment, made_up(name, {}, trees=11), at).verdict == "open"
    table = made_up(name, {})
    assert judge(experiment, table[table["variant"] == reference], at).verdict == "open"


def test_a_claim_is_judged_by_its_own_variants():
    experiment = experiments.load("byol_ablation")
    flat = dict.fromkeys(experiment.claims[0].rule.judge.options["short"], FLAT)
    for other in (FLAT, WELL):  # what another claim is about
        found = judge(experiment, made_up("byol_ablation", flat | {"predictor EMA": other}))
        assert found.verdict == "holds"
        assert {each["variant"] for each in found.details} == {
            *flat,
            "predictor BN",
            "predictor EMA BN",
        }


def test_what_must_be_flat_are_gap_and_spread_of_the_claims_variants():
    experiment = experiments.load("byol_ablation")
    flat = dict.fromkeys(("EMA BN", "BN"), FLAT)
    ends = {"predictor EMA BN": WELL, "predictor BN": WELL, "predictor": WELL, **flat}
    tables = [
        cell(name, gain, spread=spread, levels=(2,), steps=(0, 500, 1000), seed=at)
        for at, (name, (gain, spread)) in enumerate(ends.items())
    ]
    table = joined(*tables)
    (verdict, *_) = experiment.verdicts(table)
    # spreads are 0.5 at 500 updates in made-up tables
    moving = {each["part"] for each in verdict.plateau if not each["flat"]}
    assert (verdict.verdict, "still changing" in verdict.reason) == ("open", True)
    names = ("predictor EMA BN", "predictor BN", "EMA BN", "BN")
    parts = {f"{n}, {what}" for n in names for what in ("gap", "spread")}
    assert {each["part"] for each in verdict.plateau} == parts
    assert moving == {f"{n}, spread" for n in names}
    still = table.copy()
    spread = still["metric"] == SPREAD
    ends = still[spread & (still["step"] == 1000)].set_index(["cell", "member"])["value"]
    still.loc[spread, "value"] = ends.loc[
        list(zip(still["cell"][spread], still["member"][spread], strict=True))
    ].to_numpy()
    assert experiment.verdicts(still)[0].verdict == "holds"


def norms(gains, *, trees=12):
    """A table of `byol_normalisation`: variant -> (gain, spread), which grows with log updates to 1000."""
    names = [grid["variant"].value for grid in experiments.load(NORMS).grids["default"]]
    return joined(*(
        cell(name, gain, spread=spread, levels=(2,), steps=(0, 10, 500, 1000), trees=trees, seed=at)
        for at, name in enumerate(names)
        for gain, spread in [gains.get(name, FLAT)]
    ))  # fmt: skip


FAST, SLOWER = (0.39, 0.8), (0.3, 0.8)  # of a gap of 0.4


@pytest.mark.parametrize(
    ("gains", "verdict", "reason"),
    [
        ({"batch": FAST}, "holds", "none of 12 trees"),
        ({"batch": FAST, "layer": SLOWER}, "holds", "`layer` in 12 of 12 trees"),
        ({"batch": SLOWER, "layer": FAST}, "fails", "layer"),
        ({"batch": FAST, "layer": FAST}, "open", "layer"),
        ({}, "open", "layer"),  # nobody gets there: nobody is later
    ],
)
def test_sooner_by_the_time_to_half_of_the_gap(gains, verdict, reason):
    found = judge(experiments.load(NORMS), norms(gains))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    assert experiments.load(NORMS).claims[0].plateau is None


def test_sooner_is_shown_as_a_ratio_and_what_does_not_stay_does_not_count():
    experiment = experiments.load(NORMS)
    table = norms({"batch": FAST})
    found = judge(experiment, table)
    # log1p updates at 0.2 / 0.39 of the way to 1000 is about 34 updates; never counts as 1000
    assert found.effect_value == pytest.approx(1000 / 34, rel=0.3)
    shown = {each["variant"]: each for each in found.details}
    assert (shown["batch"]["reached"], shown["layer"]["time"]) == (12, "> 1,000")
    assert judge(experiment, norms({"batch": FAST}, trees=11)).reason.startswith("11 trees")
    assert judge(experiment, table[table["variant"] != "layer"]).verdict == "open"
    both = seeded(norms({"batch": FAST}, trees=24), (0, 1))
    assert judge(experiment, pooled(both)).n == 24
    early = norms({"batch": SLOWER, "layer": FAST})  # would be sooner, but has lost it at the end
    lost = (early["variant"] == "layer") & (early["step"] == 1000)
    early.loc[lost, "value"] = early.loc[lost, "initial"]
    assert judge(experiment, early).verdict == "holds"


def test_whether_byol_works_at_all_with_a_norm_over_one_sample():
    experiment = experiments.load(NORMS)
    batch = {"batch": FAST}
    (_, found) = experiment.verdicts(norms(batch))
    assert found.verdict == "open"  # the spread falls from 0.5 to its end: not flat
    assert "so far: 1 of 1 work, 6 of 6 fall short" in found.reason
    assert judge(experiment, norms(batch), 1).verdict == "holds"
    assert judge(experiment, norms({}), 1).verdict == "open"  # it works with nothing
    found = judge(experiment, norms({**batch, "layer": (0.04, 0.8)}), 1)
    assert (found.verdict, "layer" in found.reason) == (
        "open",
        True,
    )  # most is lost, perhaps not all
    # one that works refutes it, though its curve still rises
    (_, found) = experiment.verdicts(norms({**batch, "layer": SLOWER}))
    assert (found.verdict, found.plateau) == ("fails", [])


def test_a_tree_that_diverged_closes_nothing_and_has_no_spread():
    table = norms({"batch": (0.4, 0.8)})
    third = (table["variant"] == "batch") & (table["member"] % 3 == 0) & (table["step"] == 1000)
    table.loc[third, "value"] = np.nan
    found = variant_ends(table)["batch"]
    assert found.gap.value == pytest.approx(2 / 3, abs=0.05)
    assert found.spread.value == pytest.approx(0.8 * 2 / 3, abs=0.02)
    assert (found.gap.n, found.spread.n) == (12, 12)


def test_the_tables_show_times_in_how_many_trees_and_redraws_in_units_of_them():
    made = experiments.load(NORMS).summary_table(norms({"batch": FAST})).set_index("variant")
    columns = ["half of the gap at", "trees", "status"]
    assert made.loc["layer", columns].tolist() == ["> 1,000", "0 of 12", "collapses"]
    assert made.loc["batch", columns[1:]].tolist() == ["12 of 12", "works"]
    found = cells(REDRAWS)
    periods = {settings.variant: settings.redraw_every for settings in found}
    assert {periods[name] / EMERGENCE for name in SLOW} == {0.5, 1, 2, 4}
    assert (periods[NEVER], periods[ALWAYS]) == (0, 1)
    table = joined(*(
        cell(name, gain, spread=0.8, levels=(2,), steps=(0, 1, 10, 100, 1000), redraw_every=periods[name])
        for name, gain in ((NEVER, 0.36), ("all, every 25", 0.36), (ALWAYS, 0.0))
    ))  # fmt: skip
    made = experiments.load(REDRAWS).summary_table(table).set_index("variant")
    unit = float(made.loc[NEVER, "half of the gap at"].split()[0])
    shown = made["T / time to emerge"]
    assert shown[NEVER] == "–"
    assert float(shown["all, every 25"]) == pytest.approx(25 / unit, rel=0.05)


def test_trees_of_several_seeds_add_up():
    name = "byol_ablation"
    table = made_up(name, dict.fromkeys(("EMA BN", "BN"), FLAT), trees=24)
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


def test_to_work_needs_both_a_gap_and_spread():
    ends = {"nothing": (0.2, 0.01), "BN": (0.0, 0.8), "EMA": (-0.2, 0.0)}
    found = variant_ends(made_up("byol_ablation", ends))
    words = {name: end.status for name, end in found.items()}
    assert words["nothing"] == words["EMA"] == "collapses"
    assert (words["BN"], words["predictor BN"]) == ("learns nothing", "works")


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_differ_in_what_they_say_and_in_nothing_else(name):
    experiment = experiments.load(name)
    assert len(experiment.summary) <= 58
    for scale in ("smoke", "default"):
        found = cells(name) if scale == "default" else grids.cells(experiment, scale, {})
        methods = [(s.build_method(), s.build_network_norm(), s.lr) for s in found]
        assert all(isinstance(method, BYOL) for method, *_ in methods)
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


def test_every_combination_of_mean_and_deviation_is_there_and_batchnorm_in_every_place():
    found = {s.variant: s.build_method().projector for s in cells("byol_batchnorm")}
    parts = {
        (norm.mean, norm.std) if (norm := head.norm) is not None else ("off", "off")
        for name, head in found.items()
        if name not in ELSEWHERE
    }
    assert parts == set(itertools.product(PARTS, PARTS))
    assert found["at the heads' inputs"] == Head((32, 16), input_norm=BatchNorm())
    assert found["with gain and shift"] == Head((32, 16), norm=BatchNorm(affine=True))
    networks = {s.variant: s.build_network_norm() for s in cells("byol_batchnorm")}
    assert {name for name, norm in networks.items() if norm} == {
        "in the network",
        "in heads and network",
    }
    assert found["in the network"].norm is None


@pytest.mark.parametrize(
    "name",
    ["byol_ablation", *(pytest.param(n, marks=pytest.mark.slow) for n in [*VARIANTS][1:])],
)
def test_variants_train(name):
    experiment = experiments.load(name)
    for settings in grids.cells(experiment, "smoke", {k: [v] for k, v in TINY.items()})[1::2]:
        table = experiment.run_cell(settings, torch.device("cpu"), ProgressListener()).table
        seen = table[(table["metric"] == "spread") & (table["node"] == "embedding")]
        assert sorted(seen["step"].unique()) == [0, 3, 6]
        assert seen["value"].notna().all()


@pytest.mark.slow
def test_a_small_run_leaves_verdicts_a_summary_and_a_figure(tmp_path):
    with drawn_once():
        run = dualnets.run(NORMS, scale="smoke", out=tmp_path, workers=1, **TINY)
    assert [verdict.verdict for verdict in run.verdicts] == ["open", "open"]
    assert "3 trees" in run.verdicts[0].reason
    assert (run.folder / f"{NORMS}.svg").stat().st_size > 10_000
    summary = experiments.load(NORMS).summary_table(run.table)
    assert len(summary) == run.table["variant"].nunique()
    assert set(summary["status"]) <= {"works", "collapses", "learns nothing", "unclear"}
