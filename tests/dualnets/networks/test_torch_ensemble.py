"""Any torch module as an ensemble: seeds, buffers, encodings, layers, refusals."""

import pytest
import torch
from torch import nn

import dualnets
import hltm

TREES = hltm.symmetric_binary(depth=2, branching=4, members=3, seed=0)
LEAVES = TREES.sample(9, seed=1).leaves


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))


def ensemble(build=small, trees=TREES, layers=None, **options) -> dualnets.TorchEnsemble:
    return dualnets.TorchEnsemble(
        trees, build, activations=layers or {1: "0", 2: "2"}, **{"seed": 0, **options}
    )


def test_members_and_seeds_differ_and_the_global_generator_is_put_back():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    network = ensemble()
    assert torch.get_rng_state().equal(before)
    weight = network.model[0].weight
    assert not weight[0].equal(weight[1])
    assert ensemble().model[0].weight.equal(weight)
    assert not ensemble(seed=1).model[0].weight.equal(weight)
    five = ensemble(trees=TREES[0], members=5)
    assert five.model[0].weight[:3].equal(weight)
    assert repr(network).startswith(
        "TorchEnsemble(\n  members=3, inputs=16, layers={1: '0', 2: '2'}"
    )


def test_either_side_of_a_layer_is_shown():
    network = ensemble(dtype=torch.float64)
    before = network.activations(LEAVES)[1]
    other = ensemble(dtype=torch.float64, side="input")
    after = other.activations(LEAVES)
    torch.testing.assert_close(after[2], before.relu(), rtol=1e-12, atol=1e-14)
    assert after[1].equal(LEAVES.double())


def test_images_are_read_through_an_encoding():
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 2, stride=2), nn.Flatten(), nn.Linear(8, 3))

    def quadtree(states: torch.Tensor) -> torch.Tensor:
        return hltm.encode.image(hltm.encode.signs(states))

    network = ensemble(build, layers={1: "0"}, encode=quadtree, dtype=torch.float64)
    assert network.activations(LEAVES)[1].shape == (3, 9, 8)
    for s in range(3):
        model = build().double()
        model.load_state_dict({n: t[s] for n, t in network.model.state_dict().items()})
        expected = model(quadtree(LEAVES[s]).double())
        torch.testing.assert_close(network(LEAVES)[s], expected, rtol=1e-12, atol=1e-14)


def test_leaves_of_many_states_are_one_hot_numbers():
    trees = hltm.balanced(depth=1, branching=3, cardinality=4, members=2, seed=0)
    leaves = trees.sample(5, seed=1).leaves
    network = ensemble(lambda: nn.Linear(12, 2, bias=False), trees, {1: ""}, dtype=torch.float64)
    features = nn.functional.one_hot(leaves.long(), 4).flatten(2).double()
    expected = torch.einsum("sbf,suf->sbu", features, network.model.weight)
    torch.testing.assert_close(network(leaves), expected, rtol=1e-12, atol=1e-14)


class Tied(nn.Module):
    """Two layers with one weight, and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.b.weight = self.a.weight
        self.fixed = nn.Linear(16, 4)
        self.fixed.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fixed(self.b(self.a(x).relu()))


def test_what_is_tied_stays_tied_and_what_is_fixed_stays_fixed():
    network = ensemble(Tied, layers={1: "a", 2: "b"}, dtype=torch.float64)
    assert [name for name, _ in network.named_parameters()] == ["model.a.weight"]
    assert network.model.b.weight is network.model.a.weight
    final = dualnets.train(
        network, dualnets.SimCLR(), TREES, augment=hltm.keep_root(), steps=2, batch=8,
        optimizer=dualnets.Adam(lr=0.01), seed=0,
    )  # fmt: skip
    assert final.network.model.fixed.weight.equal(network.model.fixed.weight)
    assert final.network.model.b.weight is final.network.model.a.weight
    assert not final.network.model.a.weight.equal(network.model.a.weight)
    with torch.no_grad():
        single = Tied().double()
        single.load_state_dict({n: t[1] for n, t in network.model.state_dict().items()})
        torch.testing.assert_close(network(LEAVES)[1], single(LEAVES[1].double()))


def test_another_set_of_parameters_can_be_called():
    """What a moving-average target does, running statistics included."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))

    network = ensemble(build, dtype=torch.float64)
    other = ensemble(build, seed=5, dtype=torch.float64)
    named = {name: tensor.detach().clone() for name, tensor in other.state_dict().items()}
    found = torch.func.functional_call(network, named, (LEAVES,))
    assert found.equal(other(LEAVES))
    assert network.model[1].running_mean.equal(torch.zeros(3, 6, dtype=torch.float64))
    assert named["model.1.running_mean"].equal(other.model[1].running_mean)


class Quiet(nn.Module):
    """A module that fails in a chosen way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.linear = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "branches":
            return self.linear(x) if x.sum() > 0 else x
        return self.linear(x).sum()


COUNT = iter(range(100))


@pytest.mark.parametrize(
    ("build", "layers", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(16, 4), nn.Dropout()), {1: "0"}, "draws random numbers"),
        (lambda: nn.Linear(16, 2 + next(COUNT)), {1: ""}, "must return the same module each time"),
        (lambda: nn.Flatten(), {1: ""}, "has nothing to train"),
        (lambda: nn.LazyLinear(4), {1: ""}, "'weight' must have a shape before the module runs"),
        (lambda: Quiet("sums"), {1: "linear"}, r"the module returns \(\) for 3 samples, expected \(3, U\)"),
        (lambda: Quiet("branches"), {1: "linear"}, "does not run as an ensemble: .*vmap"),
        (
            lambda: nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4, momentum=None)),
            {1: "0"},
            "does not run as an ensemble",
        ),
        (lambda: nn.Linear(9, 4), {1: ""}, "does not run as an ensemble: .*16"),
        (small, {1: "3"}, "the model has no layer '3'"),
        (small, {0: "0"}, "activations need levels 1, 2"),
        (small, {"one": "0"}, "activations need levels 1, 2"),
        (small, {9: "0"}, r"the tree has levels 1\.\.\d, got activations of 9"),
        (lambda: "a network", {1: "0"}, "build must return a torch module, got a str"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_ensemble_is_refused(build, layers, message):
    with pytest.raises(ValueError, match=message):
        ensemble(build, layers=layers)


def test_no_layer_at_all_is_refused():
    with pytest.raises(ValueError, match="activations need levels 1, 2"):
        dualnets.TorchEnsemble(TREES, small, activations={}, seed=0)
