"""Settings check themselves and build what they describe."""

import dataclasses

import pytest
import torch

import dualnets
from dualnets import methods
from dualnets._options import options
from dualnets.experiments.emergence.emergence import Settings
from dualnets.lab.fields import kind_of
from dualnets.methods.losses import LOSSES
from dualnets.networks.normalizations import NORMS
from dualnets.optim.optimizers import OPTIMIZERS


def test_settings_build_what_they_describe():
    settings = Settings(loss="triplet", margin=0.5, temperature=0.2, augment="keep-level:2")
    loss = settings.build_loss()
    assert (type(loss).__name__, loss.margin, loss.temperature) == ("Triplet", 0.5, 0.2)
    assert settings.build_augmentation().name == "keep-level:2"
    trees = Settings(members=3, depth=2, branching=3).build_trees()
    assert len(trees) == 3
    assert len(trees.leaves) == 9


@pytest.mark.parametrize(
    ("changes", "norm"),
    [
        ({}, None),
        ({"network_norm": "layer", "network": "mlp"}, dualnets.LayerNorm()),
        (
            {"network_norm": "group", "network_norm_groups": 5, "network": "conv"},
            dualnets.GroupNorm(5),
        ),
        (
            {
                "network_norm": "batch",
                "network_norm_mean": "stop",
                "network_norm_std": "off",
                "network_norm_affine": True,
            }
            | {"network": "shuffled-tree", "network_weight_standardization": True},
            dualnets.BatchNorm(mean="stop", std="off", affine=True),
        ),
    ],
)
def test_settings_build_networks_of_every_kind(changes, norm):
    settings = Settings(depth=2, members=2, **changes)
    network = settings.build_network(settings.build_trees(), 0, torch.device("cpu"))
    assert network.norm == norm
    assert len(network.norms) == (0 if norm is None else 1)
    assert network.weight_standardization == settings.network_weight_standardization
    assert network.shared == (settings.network == "conv")
    assert (network.leaf_order is not None) == (settings.network == "shuffled-tree")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": 0}, "units must be at least 1, got 0"),
        ({"polarity_low": 0.9, "polarity_high": 0.8}, "polarity-low must not exceed"),
        ({"polarity_low": float("nan")}, "polarity-low must be at least 0, got nan"),
        ({"polarity_high": 1.5}, "polarity-high must be at most 1, got 1.5"),
        ({"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
        ({"lr": float("inf")}, "lr must be above 0 and finite, got inf"),
        ({"loss": "hinge"}, "loss must be one of simple, triplet"),
        ({"network": "cnn"}, "network must be one of tree, conv, shuffled-tree, mlp, got 'cnn'"),
        ({"network_norm": "instance"}, "network-norm must be one of none, batch, layer"),
        (
            {"network_norm": "group", "network_norm_groups": 3},
            "GroupNorm needs equal groups of 2 units or more, got 10 units in 3",
        ),
        (
            {"network_norm": "layer", "units": 1},
            "LayerNorm needs equal groups of 2 units or more, got 1 units in 1",
        ),
        ({"negatives": 0}, "negatives must be at least 1 per anchor, got 0"),
        ({"augment": "keep-level"}, "takes an argument"),
        ({"augment": "keep-level:9"}, "level must be in 0..5, got 9"),
        ({"augment": "blur"}, "unknown augmentation 'blur'"),
        ({"augment": "resample-leaves:2"}, "a rate must be in \\[0, 1\\], got 2"),
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"margin": float("nan")}, "margin must be finite, got nan"),
        ({"weight_decay": float("inf")}, "weight-decay must be finite, got inf"),
        ({"momentum": 1.0}, "momentum must be in 0 <= momentum < 1, got 1"),
        ({"samples": 64}, "a batch of 128 does not fit a fixed data set of 64 samples"),
        ({"depth": 2.5}, "depth must be a whole number, got 2.5"),
        ({"depth": True}, "depth must be a whole number, got True"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
        ({"lr": True}, "lr must be a number, got True"),
        ({"bias": "no"}, "bias must be True or False, got 'no'"),
        ({"augment": None}, "augment must be a text, got None"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_every_setting_says_what_it_means():
    for item in dataclasses.fields(Settings):
        assert len(item.metadata["meaning"]) > 3
        assert kind_of(item)[0] in (int, float, str, bool)


def test_the_norm_of_heads_is_not_the_networks():
    """Both are settings of an ablation; one must not stand in for the other."""
    import torch

    from dualnets.lab.ablation import AblationSettings

    settings = AblationSettings(members=2, depth=3, head_norm="batch")
    network = settings.build_network(settings.build_trees(), 0, torch.device("cpu"))
    assert network.norm is None
    assert network.plain
    normed = AblationSettings(members=2, depth=3, head_norm="none", network_norm="layer")
    network = normed.build_network(normed.build_trees(), 0, torch.device("cpu"))
    assert type(network.norm).__name__ == "LayerNorm"


@pytest.mark.parametrize("kinds", [OPTIMIZERS, NORMS, LOSSES, methods.discover()])
def test_what_a_flag_can_choose_is_public(kinds):
    for kind in kinds.values():
        assert getattr(dualnets, kind.__name__) is kind


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_number_of_an_optimizer_is_a_setting(name):
    changes = {"sgd": {"momentum": 0.5, "nesterov": True}, "lars": {"trust": 0.2, "momentum": 0.3}}
    changes["adam"] = changes["adamw"] = {"beta1": 0.8, "beta2": 0.7, "adam_epsilon": 0.1}
    settings = Settings(optimizer=name, lr=0.2, weight_decay=0.3, clip=2.0, **changes[name])
    made = settings.build_optimizer()
    usual = OPTIMIZERS[name]()
    same = [
        o.field
        for o in options(OPTIMIZERS[name])
        if getattr(made, o.field) == getattr(usual, o.field)
    ]
    assert not same
    assert not {"clip", *changes[name]} & set(settings.unused())


def test_an_error_of_an_optimizer_names_the_flag():
    with pytest.raises(ValueError, match=r"^adam-epsilon must be above 0"):
        Settings(optimizer="adam", adam_epsilon=0.0)
