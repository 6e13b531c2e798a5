"""Settings of ensembles on pictures: what they check and build, and what names a cell."""

import dataclasses

import pytest
import torch

import dualnets
from dualnets import images
from dualnets.images import known
from dualnets.lab.fields import stored_form
from dualnets.lab.image_settings import SHAPES, ImageSettings

CPU = torch.device("cpu")


def test_the_shapes_of_all_known_data_sets_are_there_without_reading_them():
    assert SHAPES.keys() == known.KNOWN.keys()
    assert images.load("digits").shape == SHAPES["digits"]
    assert ImageSettings().build_images().shape == ImageSettings().shape


@pytest.mark.parametrize(
    ("changes", "norm", "outputs"),
    [
        ({}, None, 80),
        ({"widths": "8-12"}, None, 12),
        (
            {"network_norm": "batch", "network_norm_mean": "stop"},
            dualnets.BatchNorm(mean="stop"),
            80,
        ),
        (
            {
                "network_norm": "group",
                "network_norm_groups": 4,
                "network_weight_standardization": True,
            },
            dualnets.GroupNorm(4),
            80,
        ),
        ({"network": "resnet18", "widths": "4", "data": "cifar10"}, None, 32),
    ],
)
def test_settings_build_networks_of_every_kind_from_a_shape(changes, norm, outputs):
    settings = ImageSettings(members=2, **changes)
    network = settings.build_network(settings.shape, 0, CPU)
    assert network.members == (0, 1)
    assert network.norm == norm
    assert network.weight_standardization == settings.network_weight_standardization
    pictures = torch.zeros(2, 3, network.inputs)
    assert network(pictures).shape == (2, 3, outputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": "mnist"},
            "data must be one of digits, fashion-mnist, cifar10, stl10, got 'mnist'",
        ),
        ({"network": "mlp"}, "network must be one of conv, resnet18, got 'mlp'"),
        ({"widths": "32-x"}, "widths must be usual or whole numbers such as 32-64-80, got '32-x'"),
        ({"widths": "0"}, "widths must be usual or whole numbers"),
        (
            {"network": "resnet18", "widths": "8-16"},
            "widths of resnet18 are one number, got '8-16'",
        ),
        (
            {"network_norm": "group", "network_norm_groups": 3, "widths": "9-8"},
            "GroupNorm needs equal groups of 2 units or more, got 8 units in 3",
        ),
        ({"augment": "keep-root"}, "keep-root"),
        ({"augment": "grey"}, "grey needs pictures of 3 channels"),
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"few_labels": 0}, "few-labels must be at least 1, got 0"),
        ({"samples": 64}, "a batch of 128 does not fit a fixed data set of 64 samples"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        ImageSettings(**changes)


def test_what_shows_when_training_starts_is_refused_before_it():
    ImageSettings(method="byol").check()
    with pytest.raises(ValueError, match="samples must be at most the 1297 training pictures"):
        ImageSettings(samples=1298).check()
    with pytest.raises(ValueError, match=r"few-labels must be in 20..1297, .* got 5"):
        ImageSettings(few_labels=5).check()
    with pytest.raises(ValueError, match=r"few-labels must be in 20..50, .* got 100"):
        ImageSettings(probe_samples=50).check()
    with pytest.raises(ValueError, match="evaluation-samples must be at most the 500 pictures"):
        ImageSettings(evaluation_samples=501).check()
    with pytest.raises(ValueError, match="label"):
        ImageSettings(method="supervised").check()


def test_absent_pictures_are_named_with_the_flag_that_says_where_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not found in .*put data_batch_1.bin"):
        ImageSettings(data="cifar10", data_folder=str(tmp_path)).check()


def test_where_the_pictures_lie_does_not_name_a_cell():
    here, there = (stored_form(ImageSettings(data_folder=folder)) for folder in ("", "/pictures"))
    assert here == there
    assert "data_folder" not in here
    assert here != stored_form(ImageSettings(data="fashion-mnist"))


def test_every_setting_says_what_it_means():
    for item in dataclasses.fields(ImageSettings):
        assert len(item.metadata["meaning"]) > 3
