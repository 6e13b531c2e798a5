"""Heads against torch modules of the same shape, and their addresses."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm, GroupNorm, LayerNorm

MEMBERS, BATCH, INPUTS = (4, 7, 9), 6, 5


def inputs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(MEMBERS), BATCH, INPUTS, generator=generator, dtype=torch.float64)


def drawn(head, **others):
    given = {"seed": 3, "members": MEMBERS, "place": 1, "dtype": torch.float64}
    return head.init(INPUTS, **(given | others))


def torch_norm(norm, width):
    kinds = {
        BatchNorm: lambda: nn.BatchNorm1d(width, affine=norm.affine, track_running_stats=False),
        LayerNorm: lambda: nn.LayerNorm(width, elementwise_affine=norm.affine),
        GroupNorm: lambda: nn.GroupNorm(norm.groups, width, affine=norm.affine),
    }
    return kinds[type(norm)]()


def plain(head, parameters, s, x):
    """Member s of a head as torch modules."""
    layers, given, wide = [], {}, INPUTS
    if head.input_norm is not None:
        layers.append(torch_norm(head.input_norm, wide))
    for layer, width in enumerate(head.widths):
        last = layer == len(head.widths) - 1
        given[f"{len(layers)}.weight"] = parameters[f"{layer}.weight"][s, 0]
        if head.bias:
            given[f"{len(layers)}.bias"] = parameters[f"{layer}.bias"][s, 0]
        layers.append(nn.Linear(wide, width, bias=head.bias))
        norm = head.last_norm if last else head.norm
        if norm is not None:
            if norm.affine:
                given[f"{len(layers)}.weight"] = parameters[f"{layer}.gain"][s, :, 0]
                given[f"{len(layers)}.bias"] = parameters[f"{layer}.shift"][s, :, 0]
            layers.append(torch_norm(norm, width))
        if not last:
            layers.append(nn.ReLU())
        wide = width
    return functional_call(nn.Sequential(*layers).double(), given, (x,))


CASES = [
    Head(),
    Head((3,)),
    Head((8, 3), bias=False),
    Head((8, 3), norm=BatchNorm()),
    Head((8, 6, 4), norm=BatchNorm(affine=True), last_norm=BatchNorm()),
    Head((8, 4), norm=LayerNorm(affine=True), last_norm=GroupNorm(2, affine=True)),
    Head((3,), input_norm=BatchNorm()),
    Head((8, 3), norm=BatchNorm(), input_norm=LayerNorm()),
]


@pytest.mark.parametrize("head", CASES, ids=repr)
def test_equals_torch_modules_member_by_member(head):
    parameters, x = drawn(head), inputs()
    for name, tensor in parameters.items():
        if name.endswith(("gain", "shift")):  # not ones and zeros only
            parameters[name] = tensor + torch.linspace(0, 1, tensor.numel()).view_as(tensor)
    for tensor in parameters.values():
        tensor.requires_grad_()
    found = head(parameters, x)
    assert found.shape == (len(MEMBERS), BATCH, head.outputs(INPUTS))
    expected = torch.stack([plain(head, parameters, s, x[s]) for s in range(len(MEMBERS))])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    if parameters:
        grads = [
            torch.autograd.grad(y.pow(3).sum(), [*parameters.values()]) for y in (found, expected)
        ]
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_no_width_is_the_identity():
    assert Head().init(INPUTS, seed=0, members=MEMBERS, place=0) == {}
    assert Head()({}, inputs()).equal(inputs())
    assert Head().outputs(INPUTS) == INPUTS


def test_standardised_weights_ignore_shift_and_scale_of_hidden_layers_only():
    head = Head((8, 3), weight_standardization=True, bias=False)
    parameters, x = drawn(head), inputs()
    moved = parameters | {"0.weight": 5 * parameters["0.weight"] + 2}
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(head(moved, x), head(parameters, x), **close)
    doubled = parameters | {"1.weight": 2 * parameters["1.weight"]}
    torch.testing.assert_close(head(doubled, x), 2 * head(parameters, x))


def test_parameters_have_addresses():
    head = Head((8, 3), norm=BatchNorm(affine=True))
    whole = drawn(head)
    alone = drawn(head, members=(7,))
    assert all(alone[name][0].equal(tensor[1]) for name, tensor in whole.items())
    part = drawn(head, layers=[1], version=0)
    assert set(part) == {"1.weight", "1.bias"}
    assert part["1.weight"].equal(whole["1.weight"])
    for other in ({"seed": 4}, {"place": 2}, {"version": 1}):
        assert not drawn(head, **other)["0.weight"].eq(whole["0.weight"]).any()
    weight = drawn(Head((200, 3)))["0.weight"]
    assert weight.abs().max() <= INPUTS**-0.5
    assert math.isclose(float(weight.std()), (3 * INPUTS) ** -0.5, rel_tol=0.03)


def test_whether_outputs_depend_on_the_batch():
    for head in CASES:
        x = inputs()
        parameters = drawn(head)
        alone = head(parameters, x[:, :3])
        same = torch.allclose(alone, head(parameters, x)[:, :3], atol=1e-12)
        assert same is not head.batch_dependent
    assert not Head((3,), norm=BatchNorm()).batch_dependent  # no hidden layer


@pytest.mark.parametrize("widths", [(0,), (8, -1), (1,) * 257])
def test_widths_that_cannot_be_are_refused(widths):
    with pytest.raises(ValueError, match="a head has up to 256 layers of 1 unit or more"):
        Head(widths)


@pytest.mark.parametrize(("widths", "affine"), [((), False), ((3,), True)])
def test_a_norm_of_the_inputs_needs_a_layer_and_has_no_gain(widths, affine):
    with pytest.raises(ValueError, match="input_norm needs layers after it"):
        Head(widths, input_norm=BatchNorm(affine=affine))


def test_passes_are_normalised_apart_at_the_input_too():
    head = Head((4, 3), input_norm=BatchNorm())
    parameters, x = drawn(head), inputs()
    both = head(parameters, torch.cat([x, 5 * x + 1], dim=1), passes=2)
    torch.testing.assert_close(both[:, :BATCH], head(parameters, x))
    torch.testing.assert_close(both[:, BATCH:], both[:, :BATCH], rtol=0, atol=1e-4)  # epsilon
    with pytest.raises(ValueError, match=r"1 units .*at the input of the projector"):
        Head((3,), input_norm=LayerNorm()).check(1, "projector")
