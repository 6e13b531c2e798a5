"""Every method from flat flags: its own defaults, every switch, and one line for what cannot be."""

import dataclasses

import pytest
import torch

import dualnets
from dualnets import methods
from dualnets.experiments.objectives import losses
from dualnets.lab import runner
from dualnets.lab.ablation import AblationSettings
from dualnets.lab.method_settings import FLAGS
from dualnets.networks.heads import Head

SMALL = {"variant": "x", "depth": 2, "members": 2, "units": 4}


def built(method, **changes):
    fixed = {"samples": 300} if method == "pirl" else {}
    settings = AblationSettings(**{**SMALL, "method": method, **fixed, **changes})
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
        ("byol", {"target_schedule": "cosine", "target_momentum": 0.9},
         {"momentum_schedule": "cosine", "momentum": 0.9}),
        ("byol", {"predictor_lr": 0.0}, {"predictor_lr": 0.0}),
        ("simsiam", {"stop_gradient": False}, {"stop_gradient": False}),
        ("moco", {"queue": 256, "key_momentum": 0.0, "key_symmetric": True, "temperature": 0.2},
         {"queue": 256, "momentum": 0.0, "symmetric": True, "temperature": 0.2}),
        ("moco", {"target_momentum": 0.5, "symmetric": False}, {"momentum": 0.999}),
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
        ("moco", {"key_momentum": -0.5}, r"key-momentum must be in 0..1, got -0.5"),
        ("swav", {"prototypes": 300}, "300 prototypes are more than a batch of 128"),
        ("swav", {"queue_from": 3}, "queue-from=3 needs a queue"),
        ("swav", {"assignment_epsilon": 0.0}, "assignment-epsilon must be above 0"),
        ("supervised", {"labels": "latents"}, "may be drawn again by keep-root"),
        ("vicreg", {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}, "all 0"),
        ("simsiam", {"predictor": "direct"}, "predictor direct is byol's, got method simsiam"),
        ("simsiam", {"predictor": "8-3"}, "as many outputs as the projector, 16, got 3"),
        ("byol", {"predictor": "none", "redraw_every": 3}, "redraw-every=3 needs a predictor"),
        ("byol", {"stop_gradient": False}, "stop-gradient=False needs target"),
        ("teacher-student", {"readout": "none", "teacher_units": 3}, "the teacher has 3 outputs"),
        ("teacher-student", {"readout": "3-x"}, "readout must be usual, none or widths"),
        ("pirl", {"view_projector": "x"}, "view-projector must be usual, none or widths"),
        ("byol", {"head_norm": "group", "predictor": "33-16"}, "a layer of 33 units in 2 group"),
        ("byol", {"head_norm": "layer", "projector": "1-16"}, "a layer of 1 units in 1 group"),
        ("simclr", {"samples": 10}, "a batch of 128 does not fit"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(method, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        built(method, **changes)
    assert "\n" not in str(refused.value)


def test_flags_name_fields_that_there_are():
    kinds, flags = methods.discover(), {f.name for f in dataclasses.fields(AblationSettings)}
    for name, own in FLAGS.items():
        assert set(own) <= flags
        assert set(own.values()) <= {f.name for f in dataclasses.fields(kinds[name])}


def test_a_flag_that_came_later_leaves_stored_cells_their_names():
    settings = losses.Settings(variant="x", depth=2)
    later = [f for f in dataclasses.fields(settings) if f.metadata.get("later")]
    assert later

    named = runner.cell_name(losses, settings)
    without = dataclasses.make_dataclass(
        "Before", [f.name for f in dataclasses.fields(settings) if f not in later], frozen=True
    )
    before = without(*(getattr(settings, f.name) for f in dataclasses.fields(without)))
    assert named == runner.cell_name(losses, before)
    assert named != runner.cell_name(losses, dataclasses.replace(settings, queue=256))
    assert named != runner.cell_name(losses, dataclasses.replace(settings, target="copy"))
