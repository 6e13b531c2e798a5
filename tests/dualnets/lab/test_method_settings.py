"""Every method from flat flags: its own defaults, every switch, and one line for what cannot be."""

import dataclasses
import subprocess
import sys

import pandas as pd
import pytest
import torch

import dualnets
from dualnets import experiments, methods
from dualnets._options import options
from dualnets.lab import grids
from dualnets.lab.ablation import AblationSettings
from dualnets.lab.fields import applicable_fields, applies_to, stored_form, with_columns
from dualnets.networks.heads import Head

SMALL = {"variant": "x", "depth": 2, "members": 2, "units": 4}


OTHER_DATA = ("masked-prediction", "next-leaf")  # not for binary trees read by a tree network


def built(method, **changes):
    fixed = {"samples": 300} if method == "pirl" else {}
    settings = AblationSettings(**{**SMALL, "method": method, **fixed, **changes})
    if method not in OTHER_DATA:
        settings.check()
    return settings.build_method()


@pytest.mark.parametrize("name", [n for n in methods.names() if n != "teacher-student"])
def test_without_flags_a_method_is_its_own_default(name):
    kind = methods.discover()[name]
    usual = {"moco": {"temperature": 0.1}, "pirl": {"temperature": 0.1}}.get(name, {})
    assert built(name) == kind(**usual)


@pytest.mark.parametrize(
    ("method", "flags", "fields"),
    [
        ("byol", {"ema_schedule": "cosine", "ema_decay": 0.9},
         {"ema_schedule": "cosine", "ema_decay": 0.9}),
        ("byol", {"predictor_lr": 0.0}, {"predictor_lr": 0.0}),
        ("simsiam", {"stop_gradient": False}, {"stop_gradient": False}),
        ("moco", {"queue": 256, "key_ema_decay": 0.0, "key_symmetric": True, "temperature": 0.2},
         {"queue": 256, "ema_decay": 0.0, "symmetric": True, "temperature": 0.2}),
        ("moco", {"ema_decay": 0.5, "symmetric": False}, {"ema_decay": 0.999}),
        ("swav", {"prototypes": 8, "assignment_epsilon": 0.1, "assignment_iterations": 2,
                  "frozen_prototypes": 5, "queue": 128, "queue_from": 3},
         {"prototypes": 8, "epsilon": 0.1, "iterations": 2, "frozen_steps": 5, "queue": 128,
          "queue_from": 3}),
        ("pirl", {"bank_negatives": 7, "bank_momentum": 0.0, "second_view": 0.0,
                  "classify_negatives": False, "projector": "4", "view_projector": "8-4"},
         {"negatives": 7, "bank_momentum": 0.0, "weight": 0.0, "classify_negatives": False}),
        ("barlow-twins", {"off_diagonal": 0.0}, {"off_diagonal": 0.0}),
        ("vicreg", {"invariance": 1.0, "variance": 2.0, "covariance": 0.0, "wanted_spread": 0.5},
         {"invariance": 1.0, "variance": 2.0, "covariance": 0.0, "spread": 0.5}),
        ("supervised", {"labels": "latents", "classifier_bias": False, "augment": "keep-level:1"},
         {"targets": "latents", "bias": False}),
        ("masked-prediction", {"classifier_per_leaf": True, "classifier_bias": False},
         {"per_leaf": True, "bias": False}),
        ("latent-prediction", {"ema_decay": 0.5, "predictor": "none", "normalized_loss": False},
         {"ema_decay": 0.5, "predictor": Head(), "normalized": False, "symmetric": False}),
    ],
)  # fmt: skip
def test_flags_set_what_they_say(method, flags, fields):
    found = built(method, **flags)
    assert {name: getattr(found, name) for name in fields} == fields


def test_heads_of_two_views_may_differ():
    found = built("pirl", projector="4", view_projector="8-4", head_norm="layer")
    assert found.projector == Head((4,))
    assert found.view_projector == Head((8, 4), norm=dualnets.LayerNorm())
    assert built("simsiam", projector="4", predictor="none").predictor == Head()


def test_inputs_of_heads_have_a_norm_of_their_own_where_there_are_layers():
    found = built("byol", projector="none", predictor="16", head_input_norm="batch", units=16)
    assert (found.projector, found.predictor) == (
        Head(),
        Head((16,), input_norm=dualnets.BatchNorm()),
    )
    given = SMALL | {"method": "byol", "projector": "none", "predictor": "16", "units": 16}
    settings = AblationSettings(**given)
    assert "head_input_norm" not in settings.unused()
    assert "head_norm" in settings.unused()  # no hidden layers
    assert "head_input_norm" in AblationSettings(**SMALL, method="simclr").unused()


def test_a_teacher_has_units_weights_and_a_readout_of_its_own():
    settings = AblationSettings(**SMALL, method="teacher-student", teacher_units=3, seed=5)
    method = settings.build_method()
    assert method.readout == Head((3,), bias=False)
    assert method.teacher.units == (3, 3)
    again = settings.build_teacher()
    other = dataclasses.replace(settings, teacher_seed=2).build_teacher()
    student = settings.build_network(settings.build_trees(), 5, torch.device("cpu"))
    ours = dataclasses.replace(settings, units=3).build_network(
        settings.build_trees(), 5, torch.device("cpu")
    )
    assert torch.equal(method.teacher.weights[0], again.weights[0])
    assert not torch.equal(again.weights[0], other.weights[0])
    assert not torch.equal(again.weights[0], ours.weights[0])
    assert student.units == (4, 4)
    assert dataclasses.replace(settings, units=3).build_method().readout == Head()
    assert dataclasses.replace(settings, readout="8-3").build_method().readout.widths == (8, 3)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("pirl", {"samples": 0}, "give samples="),
        ("pirl", {"bank_negatives": 400}, "400 bank-negatives need more than 400 samples"),
        ("pirl", {"second_view": -0.3}, r"second-view must be in 0..1, got -0.3"),
        ("pirl", {"view_projector": "8"}, "both heads must have equally many outputs"),
        ("moco", {"queue": 10}, "at least the 128 keys"),
        ("moco", {"key_symmetric": True, "queue": 200}, "key-symmetric=True"),
        ("moco", {"key_ema_decay": -0.5}, r"key-ema-decay must be in 0..1, got -0.5"),
        ("swav", {"prototypes": 300}, "300 prototypes are more than a batch of 128"),
        ("swav", {"queue_from": 3}, "queue-from=3 needs a queue"),
        ("swav", {"assignment_epsilon": 0.0}, "assignment-epsilon must be above 0"),
        ("supervised", {"labels": "latents"}, "may be drawn again by keep-root"),
        ("vicreg", {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}, "all are 0"),
        (
            "simsiam",
            {"predictor": "direct"},
            "predictor direct applies to byol and latent-prediction, got method simsiam",
        ),
        ("simsiam", {"predictor": "8-3"}, "as many outputs as the projector, 16, got 3"),
        ("byol", {"predictor": "none", "redraw_every": 3}, "redraw-every=3 needs a predictor"),
        ("byol", {"stop_gradient": False}, "stop-gradient=False needs target"),
        ("teacher-student", {"readout": "none", "teacher_units": 3}, "the teacher has 3 outputs"),
        ("teacher-student", {"readout": "3-x"}, "readout must be usual, none or widths"),
        ("pirl", {"view_projector": "x"}, "view-projector must be usual, none or widths"),
        ("byol", {"head_norm": "group", "predictor": "33-16"}, "got 33 units in 2 group"),
        ("byol", {"head_norm": "layer", "projector": "1-16"}, "got 1 units in 1 group"),
        ("simclr", {"samples": 10}, "a batch of 128 does not fit"),
        (
            "denoising",
            {"classifier_per_leaf": True},
            "classifier-per-leaf=True needs a network with",
        ),
        ("latent-prediction", {"target_layers": 1}, "target-layers=1 needs a network with outputs"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(method, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        built(method, **changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", methods.names())
def test_every_option_of_a_method_is_a_setting_with_a_meaning(name):
    settings = {item.name: item for item in dataclasses.fields(AblationSettings)}
    for option in options(methods.discover()[name]):
        assert option.meaning
        assert option.flag in settings
        assert name in applies_to(AblationSettings, option.flag)
        assert settings[option.flag].default in (option.default, None, 0.1)  # 0.1: temperature


def test_an_explicit_own_default_is_the_method_without_flags():
    assert built("swav", prototypes=32, queue=0) == built("swav")
    assert built("byol", predictor_weight_decay=0.1).predictor_weight_decay == 0.1
    assert built("byol").predictor_weight_decay is None


def test_cells_keep_the_identity_they_were_stored_under():
    settings = AblationSettings(**SMALL, network="shuffled-tree", head_norm_mean="stop", queue=7)
    form = stored_form(settings)
    assert form["network"] == "wrong-tree"
    assert form["bn_mean"] == "stop"
    assert form["predictor_weight_decay"] == -1.0
    assert form["target_momentum"] == 0.99
    assert form["queue"] == 7
    later = [
        f.name
        for f in dataclasses.fields(settings)
        if f.metadata["stored"].later and f.name != "queue"
    ]
    assert {"prototypes", "beta1", "key_ema_decay"} < set(later)
    assert not set(form) & {*later, "key_momentum", "ema_decay", "head_norm_mean"}


def test_a_table_that_was_stored_earlier_has_the_columns_of_today():
    settings = AblationSettings(**SMALL, network="shuffled-tree")
    before = pd.DataFrame(
        {"cell": ["a"], "network": ["wrong-tree"], "bn_std": ["on"], "value": [1.0]}
    )
    table = with_columns(before, settings)
    names = [item.name for item in dataclasses.fields(settings)]
    assert list(table) == ["cell", *names, "value"]
    assert table["network"].tolist() == ["shuffled-tree"]
    assert table["queue"].isna().all()


def test_a_setting_that_came_later_leaves_stored_cells_their_names():
    losses = experiments.load("losses")
    settings = losses.Settings(variant="x", depth=2)
    named = grids.cell_name(losses, settings)
    assert named == grids.cell_name(losses, dataclasses.replace(settings, prototypes=32))
    assert named != grids.cell_name(losses, dataclasses.replace(settings, queue=256))
    assert named != grids.cell_name(losses, dataclasses.replace(settings, target="copy"))


def test_an_experiment_shows_the_settings_of_its_own_methods():
    byol = experiments.load("byol_batchnorm")
    grids = [grid for each in byol.grids.values() for grid in each]
    shown = applicable_fields(byol.Settings, grids)
    assert {"ema_decay", "redraw_every", "redraw", "head_norm_std", "lr", "nesterov"} <= set(shown)
    assert not {"variance", "prototypes", "margin", "loss", "beta1", "copy_every"} & set(shown)
    assert "beta1" in applicable_fields(byol.Settings, grids, {"optimizer": ["adam"]})
    assert "variance" not in applicable_fields(
        byol.Settings, grids, {"method": ["vicreg"]}
    )  # fixed
    polarity = experiments.load("polarity")
    ours = polarity.grids["default"]
    assert "variance" in applicable_fields(polarity.Settings, ours, {"method": ["vicreg"]})


def test_what_applies_is_what_is_not_unused():
    for method in methods.names():
        for changes in ({}, {"head_norm": "none"}, {"optimizer": "lars", "schedule": "cosine"}):
            settings = AblationSettings(**SMALL, method=method, **changes)
            given = {**SMALL, "method": method, **changes}
            grid = {name: [value] for name, value in given.items()}
            shown = set(applicable_fields(AblationSettings, [grid]))
            used = {item.name for item in dataclasses.fields(settings)} - set(settings.unused())
            assert used <= shown
            # conditions on numbers and on the heads' layers are for the cell to decide
            assert all(n.startswith("head_") or n in ("redraw", "queue_from") for n in shown - used)


def test_settings_are_read_without_torch():
    code = """
import sys
from dualnets.lab.method_settings import MethodSettings
from dualnets.lab.settings import NetworkSettings, TrainSettings
from dataclasses import fields
settings = (MethodSettings, NetworkSettings, TrainSettings)
print(len([item.metadata["meaning"] for each in settings for item in fields(each)]))
heavy = {"numpy", "torch", "pandas", "scipy", "numba", "networkx", "matplotlib", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_an_intra_pair_term_is_a_part_of_every_contrastive_loss():
    for loss in ("simple", "ntxent", "covariance"):
        found = AblationSettings(loss=loss, intra_pair=-0.3).build_loss()
        assert isinstance(found, dualnets.IntraPair)
        assert (type(found.criterion), found.weight) == (dualnets.LOSSES[loss], -0.3)
    assert isinstance(AblationSettings(loss="simple").build_loss(), dualnets.Simple)
    assert "intra_pair" in AblationSettings(method="byol", intra_pair=0.5).unused()
    assert "intra_pair" not in AblationSettings(intra_pair=0.5).unused()
