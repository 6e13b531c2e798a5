"""Declarations of ablations: what they fix, which rates they choose, and that reading them is light."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from dualnets import experiments
from dualnets.lab.ablation import Ablation, AblationSettings, Sweep, variant_grids
from dualnets.lab.experiment import Fixed, values_of
from dualnets.lab.grids import cells
from dualnets.lab.rules import Deferred

EVERY = [experiments.load(name) for name in experiments.names()]
WITH_VARIANTS = [each.name for each in EVERY if all("variant" in g for g in each.grids["default"])]
DECLARED = [each.name for each in EVERY if isinstance(each, Ablation)]
# their best rates lie at an end of those tried
AT_AN_END = ("byol_normalisation", "image_losses", "supervised")
TUNED = [name for name in DECLARED if experiments.load(name).sweep is not None]
SCALES = ("smoke", "default", "paper")


def test_reading_declarations_needs_neither_torch_nor_tables_nor_plots():
    heavy = ("torch", "numpy", "pandas", "scipy", "numba", "matplotlib")
    code = (
        "import sys; from dualnets import experiments;"
        f"[experiments.load(name) for name in {DECLARED}];"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", DECLARED)
def test_functions_that_are_given_by_name_are_there_and_take_their_options(name):
    experiment = experiments.load(name)
    judged = [each for claim in experiment.claims for each in (claim.rule.judge, claim.plateau)]
    for deferred in (*judged, experiment.table, experiment.figure):
        if deferred is not None:
            inspect.signature(deferred.resolve()).bind("table", **deferred.options)
    assert callable(Deferred(f"{experiment.code}:run_cell").resolve())


@pytest.mark.parametrize("name", WITH_VARIANTS)
def test_claims_are_about_variants_that_there_are(name):
    experiment = experiments.load(name)
    variants = {grid["variant"].value for grids in experiment.grids.values() for grid in grids}
    for claim in experiment.claims:
        assert set(claim.about) <= variants
        if claim.plateau is not None and claim.plateau.function.endswith("_verdicts:ends"):
            assert claim.about or claim.plateau.options  # some, or all but one


@pytest.mark.parametrize("name", WITH_VARIANTS)
@pytest.mark.parametrize("scale", SCALES)
def test_what_one_variant_fixes_all_fix(name, scale):
    every = experiments.load(name).grids[scale]
    fixed = {field for grid in every for field, value in grid.items() if isinstance(value, Fixed)}
    for grid in every:
        assert all(isinstance(grid.get(field), Fixed) for field in fixed)


@pytest.mark.parametrize("name", DECLARED)
def test_every_scale_has_enough_members_and_names_its_variants_once(name):
    experiment = experiments.load(name)
    assert len(experiment.summary) <= 58
    assert experiment.description
    for scale in SCALES:
        every = experiment.grids[scale]
        names = [grid["variant"].value for grid in every]
        assert len(names) == len(set(names))
        assert {settings.variant for settings in cells(experiment, scale, {})} == set(names)
        fewest = max(claim.members.fewest for claim in experiment.claims)
        counts = [m * len(values_of(g.get("seed", [0]))) for g in every for m in g["members"]]
        assert min(counts) >= fewest  # the trees of all seeds count together


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        ("byol_ablation", "predictor", "none"),
        ("byol_ablation", "method", "simclr"),
        ("byol_target", "target", "random"),
        ("byol_reinit", "redraw_every", 1),
        ("byol_predictor", "predictor_lr", 0.0),
        ("byol_normalisation", "head_norm", "group"),
        ("augmentation", "augment", "keep-root"),
    ],
)
def test_a_flag_that_would_make_variants_names_false_is_refused(name, flag, value):
    with pytest.raises(ValueError, match="cannot be set: every cell of the experiment has its own"):
        cells(experiments.load(name), "smoke", {flag: [value]})


def test_what_no_variant_changes_is_free_and_so_are_rates():
    found = cells(experiments.load("byol_target"), "smoke", {"lr": [0.5], "batch": [32]})
    assert {settings.lr for settings in found} == {0.5}
    assert {settings.batch for settings in found} == {32}
    assert len(found) == 8


def test_several_common_values_of_what_makes_variants_are_refused():
    with pytest.raises(ValueError, match=r"units makes variants .* got \[5, 10\]"):
        variant_grids({"units": [5, 10]}, {"usual": {}, "wide": {"units": 20}})
    fixed = variant_grids(
        {"method": Fixed("byol"), "units": 5}, {"usual": {}, "wide": {"units": 20}}
    )
    assert fixed[0] == {"method": Fixed("byol"), "variant": Fixed("usual"), "units": Fixed(5)}


@pytest.mark.parametrize("name", TUNED)
def test_every_variant_has_the_rate_that_did_best_for_it(name):
    experiment = experiments.load(name)
    sweep = experiment.sweep
    assert sweep.rates == tuple(sorted(sweep.rates))
    assert all(f" {rate:g}" in sweep.command for rate in sweep.rates)
    for scale in ("smoke", "default"):
        every = experiment.grids[scale]
        assert {grid["variant"].value for grid in every} == set(sweep.gap_closed)
        for grid in every:
            (rate,) = grid["lr"]
            found = sweep.gap_closed[grid["variant"].value]
            assert found[sweep.rates.index(rate)] == np.nanmax(found)
            assert rate not in (sweep.rates[0], sweep.rates[-1]) or name in AT_AN_END


def test_the_best_of_a_sweep_is_the_lowest_of_equal_rates_and_never_one_without_a_number():
    sweep = Sweep(
        "",
        (0.1, 0.3, 1.0),
        {"a": (0.2, 0.4, float("nan")), "b": (0.4, 0.3, 0.4), "c": (0.1, 0.2, 0.5)},
    )
    assert [sweep.best(name) for name in "abc"] == [0.3, 0.1, 1.0]


@pytest.mark.parametrize("network", ["tree", "conv", "mlp"])
def test_variants_may_predict_missing_leaves_from_one_hot_ones(network):
    given = {"method": "masked-prediction", "augment": "drop-leaves:0.3", "network": network}
    AblationSettings(**given, depth=3, members=1, one_hot=True).check()
    with pytest.raises(ValueError, match="as one bit, which cannot be missing"):
        AblationSettings(**given, depth=3, members=1).check()
