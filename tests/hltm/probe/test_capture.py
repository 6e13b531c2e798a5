"""Activations of any torch module by name, and the module as a probed network."""

import pytest
import torch
from torch import nn

import hltm
from hltm.probe import TorchNetwork, capture


class Plain(nn.Module):
    """Two layers, a nonlinearity in place, batch normalisation and a part that never runs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self.body(self.act(self.norm(self.first(x))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Plain()


X = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))


def test_pre_and_post_activations_are_those_of_the_formulas(model):
    found = capture(model, X, ["first", "norm", "act", "body.0", "body"])
    model.eval()
    first = X @ model.first.weight.T + model.first.bias
    norm = model.norm(first)
    assert list(found) == ["first", "norm", "act", "body.0", "body"]
    assert torch.allclose(found["first"], first)
    assert torch.allclose(found["norm"], norm)  # the ReLU in place came later
    assert (found["norm"] < 0).any()
    assert found["act"].equal(found["norm"].relu())
    assert torch.allclose(found["body"], model(X))
    before = capture(model, X, "body.0", side="input")
    assert before["body.0"].equal(found["act"])


def test_the_model_is_left_as_it_was(model):
    model.train()
    model.act.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = capture(model, X, ["first"])
    assert not found["first"].requires_grad
    assert model.training
    assert model.norm.training
    assert not model.act.training
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())


def test_hooks_go_even_when_the_model_fails(model):
    with pytest.raises(RuntimeError):
        capture(model, torch.zeros(3, 99), ["first"])
    assert not any(part._forward_hooks for part in model.modules())
    assert model.training


def test_wrong_names_list_the_right_ones(model):
    with pytest.raises(
        ValueError, match=r"no layer 'frist' \(did you mean 'first'\?\); it has 'first', 'norm'"
    ):
        capture(model, X, ["frist"])
    with pytest.raises(ValueError, match="layer 'spare' did not run"):
        capture(model, X, ["first", "spare"])
    with pytest.raises(ValueError, match="layers is empty; the model has 'first'"):
        capture(model, X, [])
    with pytest.raises(ValueError, match="side must be 'output' or 'input', got 'pre'"):
        capture(model, X, ["first"], side="pre")


def test_a_part_that_runs_twice_is_refused():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act)
    with pytest.raises(ValueError, match="layer '1' runs more than once"):
        capture(model, X, ["1"])


def test_outputs_that_are_no_tensors_are_named():
    model = nn.LSTM(4, 3)
    with pytest.raises(ValueError, match="the output of layer '' is a tuple, expected a tensor"):
        capture(model, X, [""])


def test_several_arguments():
    model = nn.Bilinear(4, 4, 2)
    assert capture(model, (X, X), [""])[""].equal(model(X, X))


def test_the_adapter_reads_leaves_with_and_without_members(model):
    trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
    draw = trees.sample(9, seed=1)
    network = TorchNetwork(model, ["first", "body"], encode=hltm.encode.signs)
    found = network.activations(draw.leaves)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "first": (3, 9, 6),
        "body": (3, 9, 5),
    }
    one = network.activations(draw.leaves[2])["first"]
    assert torch.allclose(one, model.first(2.0 * draw.leaves[2] - 1))
    assert torch.allclose(found["first"][2], one)


def test_a_convolution_shows_every_channel_at_every_place():
    tree = hltm.symmetric_binary(depth=3, seed=0)
    model = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 2, stride=2))
    network = TorchNetwork(model, {"1": 1})
    leaves = tree.sample(5, seed=0).leaves
    shown = network.activations(leaves)[1]
    assert shown.shape == (5, 16)
    assert shown.reshape(5, 4, 4).equal(model(leaves.float()).detach())


def test_the_adapter_works_with_best_units(model):
    tree = hltm.symmetric_binary(depth=2, seed=0)
    network = TorchNetwork(model, {"first": 1, "body": 2})
    levels = hltm.probe.best_units(network, tree, samples=500, seed=1, lags=0)
    assert levels[1].best.shape == (1, 2)
    assert levels[2].best.shape == (1, 1)
    assert (levels[1].best > 0.1).all()


def test_one_label_for_two_layers_is_refused(model):
    with pytest.raises(ValueError, match="labels of layers must be distinct"):
        TorchNetwork(model, {"first": 1, "body": 1})
