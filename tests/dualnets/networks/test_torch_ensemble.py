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
        if self.how == "fails":
            raise KeyError(self.how)
        return {"out": self.linear(x)} if self.how == "mapping" else self.linear(x).sum()


COUNT = iter(range(100))


@pytest.mark.parametrize(
    ("build", "layers", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(16, 4), nn.Dropout()), {1: "0"}, "draws random numbers"),
        (lambda: nn.Linear(16, 2 + next(COUNT)), {1: ""}, "must return the same module each time"),
        (lambda: nn.Flatten(), {1: ""}, "has nothing to train"),
        (lambda: nn.LazyLinear(4), {1: ""}, "'weight' must have a shape before the module runs"),
        (lambda: Quiet("sums"), {1: "linear"}, r"the module returns \(\) for 3 samples, expected \(3, U\)"),
        (lambda: Quiet("fails"), {1: "linear"}, "does not run as an ensemble: KeyError: 'fails'"),
        (lambda: Quiet("mapping"), {1: "linear"}, "the module returns a dict, expected a tensor"),
        (lambda: nn.Linear(16, 4, device="meta"), {1: ""}, "'weight' is on the device 'meta'"),
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


class Counted(nn.Sequential):
    """Counts its runs in a buffer."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return super().forward(x)


def test_reading_activations_leaves_buffers():
    network = ensemble(lambda: Counted(nn.Linear(16, 4)), layers={1: "0"})
    leaves = torch.zeros(len(network.members), 5, 16, dtype=torch.uint8)
    network.activations(leaves)
    network.run_with(leaves, {})
    assert not network.model.runs.any()


def test_no_layer_at_all_is_refused():
    with pytest.raises(ValueError, match="activations need levels 1, 2"):
        dualnets.TorchEnsemble(TREES, small, activations={}, seed=0)


class Axes(nn.Module):
    """A layer `(B, T, D)` and the same numbers with time first, in a tuple, and run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 3), nn.Linear(48, 2)
        self.first, self.pair, self.both = nn.Identity(), Pair(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x[..., None])
        self.first(h.transpose(0, 1))
        self.pair(h)
        self.both(h)
        self.both(2 * h)
        return self.head(h.flatten(1))


class Pair(nn.Module):
    def forward(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return h[:, 0], h.transpose(0, 1)


@pytest.mark.parametrize("samples", [1, 9, 16])  # 16: as many as positions
def test_the_axis_of_the_samples_is_found(samples):
    leaves = LEAVES[:, :1].repeat(1, samples, 1) if samples > 9 else LEAVES[:, :samples]
    network = ensemble(Axes, layers={1: "first", 2: "body"}, dtype=torch.float64)
    found = network.activations(leaves)
    assert found[1].shape == (3, samples, 48)
    assert found[1].equal(found[2])
    weight, bias = network.model.body.weight, network.model.body.bias
    expected = leaves.double()[..., None] * weight[:, None, None, :, 0] + bias[:, None, None]
    torch.testing.assert_close(found[1], expected.flatten(2), rtol=1e-12, atol=1e-14)


def test_items_runs_and_positions_of_layers():
    layers = {1: "pair[1]", 2: "both"}
    network = ensemble(Axes, layers=layers, call={"both": 1}, pool={"both": "last"}, unit_axis=2)
    found = network.activations(LEAVES)
    assert torch.allclose(found[2], 2 * found[1].unflatten(2, (16, 3))[:, :, -1])
    assert "call={'both': 1}, unit_axis=2, pool={'both': 'last'}" in network.extra_repr()
    blocks = ensemble(Axes, layers={1: "first"}, positions=range(0, 16, 4))
    shown = blocks.activations(LEAVES)[1]
    assert shown.shape == (3, 9, 4, 3)
    whole = ensemble(Axes, layers={1: "first"}).activations(LEAVES)[1]
    assert shown.equal(whole.unflatten(2, (16, 3))[:, :, ::4])
    table = hltm.probe.measure(blocks, TREES, samples=500, seed=0, lags=20, details=False)
    assert set(table["candidates"]) == {"own block"}
    by_name = ensemble(Axes, layers={1: "pair"}, select={"pair": lambda pair: pair[0]})
    assert by_name.activations(LEAVES)[1].shape == (3, 9, 3)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ({1: "first"}, {"batch_axis": 0}, r"expected them on axis 0 .* but they are on axis 1"),
        ({1: "pair"}, {}, r"is a tuple, expected a tensor; select one of \[0\]"),
        ({1: "both"}, {}, "runs more than once, 2 times"),
        ({1: "fi*"}, {}, "activations must name one layer for each level"),
        ({1: "first"}, {"pool": "avg"}, "pool must be one of mean, max"),
        ({1: "first"}, {"pool": {"body": "max"}}, "pool names no layer 'body', expected 'first'"),
    ],
)
def test_layers_that_cannot_be_read_are_refused(layers, options, message):
    with pytest.raises(ValueError, match=message):
        ensemble(Axes, layers=layers, **options)


def test_rows_that_depend_on_each_other_are_refused():
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.mixed = nn.Linear(16, 4), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.linear(x)
            return self.mixed(h - h.mean(0))

    with pytest.raises(ValueError, match="layer 'mixed' depends on other rows of its batch"):
        ensemble(Mixing, layers={1: "mixed"})
    assert ensemble(Mixing, layers={1: "mixed"}, batch_axis=0).activations(LEAVES)[1].shape == (
        3,
        9,
        4,
    )
