"""From grids to cells: values replaced and kept, settings without effect, names."""

import dataclasses
import pickle

import pytest

from dualnets import experiments
from dualnets.lab.experiment import Experiment, Fixed
from dualnets.lab.grids import (
    cells,
    own_settings,
    repeat_command,
    run_name,
    settable_fields,
    shown_values,
    values_by_field,
    variants,
)

EMERGENCE = experiments.load("emergence")


def of(found):
    return [(c.network, c.units, c.augment) for c in found]


def test_a_flag_replaces_a_field_everywhere_but_where_it_is_fixed():
    assert of(cells(EMERGENCE, "default", {})) == [
        ("tree", 2, "keep-root"),
        ("tree", 5, "keep-root"),
        ("tree", 10, "keep-root"),
        ("mlp", 64, "keep-root"),
        ("tree", 10, "keep-nothing"),
    ]
    changes = {"network": ["mlp"], "units": [64], "augment": ["resample-leaves:0.3"]}
    assert of(cells(EMERGENCE, "default", changes)) == [
        ("mlp", 64, "resample-leaves:0.3"),
        ("mlp", 64, "keep-nothing"),
    ]


def test_the_scales_of_emergence_are_as_described():
    for settings in cells(EMERGENCE, "default", {}):
        assert (settings.depth, settings.branching) == (5, 2)
        assert (settings.polarity_low, settings.polarity_high) == (0.7, 1.0)
        assert (settings.members, settings.steps, settings.batch) == (16, 8000, 128)
        assert (settings.loss, settings.temperature, settings.negatives) == ("infonce", 0.1, 1)
        assert (settings.lr, settings.bias) == (0.3, False)
    paper = cells(EMERGENCE, "paper", {})
    assert {s.polarity_low for s in paper} == {0.7, 0.8, 0.9}
    assert {s.units for s in paper if s.network == "tree"} == {2, 5, 10, 20}
    assert {(s.members, s.steps) for s in paper} == {(30, 10_000)}


def test_settings_without_values_and_settings_that_every_grid_fixes_are_refused():
    with pytest.raises(ValueError, match="steps needs a value, or several"):
        cells(EMERGENCE, "smoke", {"steps": []})
    with pytest.raises(ValueError, match="variant cannot be set: every cell"):
        cells(experiments.load("methods"), "smoke", {"variant": ["mine"]})


def test_only_some_variants_are_kept_in_the_order_of_the_experiment():
    losses = experiments.load("losses")
    kept = cells(losses, "smoke", {}, ["ntxent", "simple"])
    assert [s.variant for s in kept] == ["simple", "ntxent"]
    assert kept == [s for s in cells(losses, "smoke", {}) if s.variant in ("simple", "ntxent")]
    assert cells(losses, "smoke", {}, variants(losses, "smoke")) == cells(losses, "smoke", {})
    assert variants(EMERGENCE, "smoke") == []
    with pytest.raises(ValueError, match="only chooses among variants, and emergence has none"):
        cells(EMERGENCE, "smoke", {}, ["x"])
    # a setting must have an effect on what is kept
    with pytest.raises(ValueError, match="margin has no effect here: it applies to loss triplet"):
        cells(losses, "smoke", {"margin": [2.0]}, ["simple"])


def test_a_change_that_leaves_nothing_of_what_makes_a_variant_is_refused():
    losses = experiments.load("losses")
    message = "'simple' is made by loss simple, which would have no effect: .* and method is byol"
    with pytest.raises(ValueError, match=message):
        cells(losses, "smoke", {"method": ["byol"]}, ["simple", "triplet"])
    # negatives had no effect with this loss before, either
    assert len(cells(losses, "smoke", {"lr": [0.1]}, ["simple"])) == 1


def test_a_name_that_begins_several_variants_is_answered_with_all_of_them():
    with pytest.raises(ValueError, match="did you mean 'infonce 1' or 'infonce 4' or 'infonce 16'"):
        cells(experiments.load("losses"), "smoke", {}, ["infonce"])


def test_the_help_says_which_variant_has_which_value():
    shown = shown_values(experiments.load("losses"), "default", "lr")
    assert shown.startswith("0.03 (simple); 1.0 (triplet, ntxent); ")
    assert shown_values(EMERGENCE, "default", "units") == "2 5 10 | 64 | 10"
    assert shown_values(EMERGENCE, "smoke", "units") == "2 5 | 32 | 5"


def test_with_some_variants_there_is_no_verdict():
    losses = experiments.load("losses")
    assert own_settings(losses, "default", {}, "abc", ["simple"]).startswith(
        "only some of the variants"
    )
    whole = run_name(losses, "default")
    assert own_settings(losses, "default", {}, whole, variants(losses, "default")) == ""


def test_what_the_loss_of_pairs_does_not_read_leaves_its_cells_alone():
    update = experiments.load("update")
    pairs = [s for s in cells(update, "default", {}) if s.loss == "pair"]
    changed = cells(update, "default", {"temperature": [0.7], "margin": [0.7]})
    assert [s for s in changed if s.loss == "pair"] == pairs
    assert {s.temperature for s in changed if s.loss == "infonce"} == {0.7}


def test_a_setting_without_effect_on_a_cell_leaves_it_as_it_is():
    methods = experiments.load("methods")
    plain = cells(methods, "smoke", {})
    swept = cells(methods, "smoke", {"prototypes": [8, 16]})
    of_swav = [s.prototypes for s in swept if s.method == "swav"]
    others = [s for s in swept if s.method != "swav"]
    assert of_swav[:2] == [8, 16]
    assert len(of_swav) == 2 * sum(s.method == "swav" for s in plain)
    assert others == [s for s in plain if s.method != "swav"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"target": ["random"]}, "method byol or latent-prediction, and method is simclr"),
        ({"readout": ["none"]}, "method teacher-student, and method is simclr"),
        ({"margin": [2.0]}, "loss triplet, and loss is infonce"),
        (
            {"optimizer": ["adam"], "momentum": [0.5]},
            "optimizer sgd or lars, and optimizer is adam",
        ),
        ({"final_rate": [0.5]}, "schedule cosine, and schedule is constant"),
        ({"network_norm": ["group"], "network_norm_std": ["off"]}, "network-norm batch, and"),
        ({"method": ["byol"], "loss": ["triplet"]}, "simclr, and method is byol"),
        ({"method": ["byol"], "redraw": ["top"]}, "redraw-every above 0, and redraw-every is 0"),
        ({"method": ["byol"], "target": ["random"], "ema_decay": [0.5]}, "target ema"),
        ({"method": ["supervised"], "head_norm": ["none"]}, "byol"),
    ],
)
def test_a_setting_without_effect_on_any_cell_is_refused(change, what):
    flag = [*change][-1].replace("_", "-")
    with pytest.raises(ValueError, match=f"{flag} has no effect here: it applies to .*{what}"):
        cells(experiments.load("polarity"), "smoke", change)


@pytest.mark.parametrize(
    "change",
    [
        {"method": ["moco"], "temperature": [0.2]},
        {"method": ["byol"], "head_norm": ["none"], "redraw_every": [5], "redraw": ["top"]},
        {"loss": ["triplet"], "margin": [2.0]},
        {"schedule": ["cosine"], "final_rate": [0.5]},
        {"network_norm": ["group"], "network_norm_groups": [5]},
    ],
)
def test_a_setting_with_an_effect_is_accepted_and_shown_in_the_help(change):
    polarity = experiments.load("polarity")
    assert cells(polarity, "smoke", change)
    assert change.keys() <= {*settable_fields(polarity, change)}


@pytest.mark.parametrize("name", experiments.names())
def test_the_help_shows_what_some_cell_uses_and_some_flag_can_change(name):
    """The help makes no cell; here every cell is made."""
    experiment = experiments.load(name)
    expected = set()
    for scale, grids in experiment.grids.items():
        free = {
            item.name
            for item in dataclasses.fields(experiment.Settings)
            if not all(isinstance(grid.get(item.name), Fixed) for grid in grids)
        }
        for settings in cells(experiment, scale, {}):
            expected |= free - settings.unused().keys()
    assert expected <= {*settable_fields(experiment)}


def test_the_help_shows_the_values_of_every_grid():
    values = values_by_field(EMERGENCE, "default")
    assert values["units"] == [[2, 5, 10], [64], [10]]
    assert values["augment"] == [["keep-root"], ["keep-nothing"]]
    assert values["steps"] == [[8000]]


def test_a_run_is_named_after_its_cells():
    named = run_name(EMERGENCE, "smoke")
    assert run_name(EMERGENCE, "smoke", units=[5, 2]) != named
    assert run_name(EMERGENCE, "smoke", seed=0) == named
    assert run_name(EMERGENCE, "smoke", seed=1) != named
    # a run that was judged otherwise is another run
    claims = tuple(dataclasses.replace(claim, plateau=None) for claim in EMERGENCE.claims)
    assert run_name(dataclasses.replace(EMERGENCE, claims=claims), "smoke") != named


def test_the_command_repeats_the_run():
    text = repeat_command("emergence", "smoke", {"units": [2, 5], "augment": ["keep-root"]})
    assert text == "hltm run emergence --scale smoke --units 2 5 --augment keep-root"
    several = {
        "seed": [3, 4, 5, 6],
        "units": [2, 3, 4, 6],
        "bias": [False, True],
        "steps": [4, 3, 2, 1],
    }
    assert repeat_command("losses", "default", several, ["infonce 4"]) == (
        "hltm run losses --only 'infonce 4' --seed 3:7 --units 2 3 4 6 --bias False True --steps 4 3 2 1"
    )


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_is_complete_and_reaches_other_processes(name):
    experiment = experiments.load(name)
    assert isinstance(experiment, Experiment)
    assert len(experiment.summary) <= 58
    assert experiment.claims
    assert all(each.text and each.reference and each.rule.text for each in experiment.claims)
    assert experiment.description
    assert {"smoke", "default", "paper"} <= set(experiment.grids)
    for scale in experiment.grids:
        assert cells(experiment, scale, {})
    assert pickle.loads(pickle.dumps(experiment)) == experiment
