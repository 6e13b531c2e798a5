"""Any torch module as a network to probe: axes, positions, encodings, labels, and what it refuses."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hltm
from hltm.probe import TorchNetwork, capture, measure
from hltm.probe.sources.layer_axes import FEW, MANY, LayerAxes, MixedRows, find_batch_axis

TREE = hltm.symmetric_binary(depth=3, polarity=0.95, seed=0)
LEAVES = TREE.sample(50, seed=3).leaves
OPTIONS = {"samples": 600, "seed": 1, "lags": 20}


class Sequence(nn.Module):
    """An embedding and a layer with the batch on a chosen axis, for (B, T), (T, B) or (B * T)."""

    def __init__(self, how, inner=None):
        super().__init__()
        self.how = how
        self.embed = nn.Embedding(2, 3)
        self.body = inner or nn.Identity()

    def forward(self, x):
        h = self.embed(x.long())  # (B, T, D)
        if self.how == "time first":
            h = h.transpose(0, 1)
        elif self.how == "features first":
            h = h.permute(2, 1, 0)
        elif self.how == "rows first":
            h = h.flatten(0, 1)
        elif self.how == "positions first":
            h = h.transpose(0, 1).flatten(0, 1)
        return self.body(h)


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 50])  # 8 rows: as many as positions
@pytest.mark.parametrize("how", ["batch first", "time first", "features first"])
def test_the_batch_is_found_on_any_axis(how, rows):
    model = Sequence(how)
    found = TorchNetwork(model, ["embed", "body"], encode="tokens").activations(LEAVES[:rows])
    assert found["embed"].equal(model.embed(LEAVES[:rows].long()).flatten(1))
    own = found["body"].reshape(rows, *((3, 8) if how == "features first" else (8, 3)))
    own = own.transpose(1, 2) if how == "features first" else own
    assert own.flatten(1).equal(found["embed"])


@given(st.lists(st.integers(1, 5), max_size=3), st.integers(0, 3), st.integers(0, 5))
def test_any_axis_among_any_others_is_found(sizes, axis, rows):
    axis = min(axis, len(sizes))
    own = torch.randn(MANY, *sizes, generator=torch.Generator().manual_seed(rows))
    many, few = own.movedim(0, axis), own[1 : 1 + FEW].movedim(0, axis)
    for given_axis in (None, axis, axis - own.ndim):
        assert find_batch_axis("h", many, few, given_axis) == axis
    values = torch.randn(rows, *sizes)
    axes = LayerAxes("h", axis)
    assert axes(values.movedim(0, axis), rows).equal(
        values.flatten(1) if sizes else values[:, None]
    )
    for other in set(range(own.ndim)) - {axis}:
        with pytest.raises(ValueError, match="expected them on axis"):
            find_batch_axis("h", many, few, other)


def test_a_given_axis_is_checked():
    model = Sequence("time first")
    right = TorchNetwork(model, ["body", "embed"], encode="tokens", batch_axis={"body": -2})
    found = right.activations(LEAVES)
    assert found["body"].equal(found["embed"])
    wrong = TorchNetwork(model, ["body"], encode="tokens", batch_axis=0)
    with pytest.raises(
        ValueError, match=r"'body' has shape \(8, 6, 3\) for 6 rows, .*on axis 0 .*axis 1"
    ):
        wrong.activations(LEAVES)
    with pytest.raises(ValueError, match="batch_axis names no layer 'head'"):
        TorchNetwork(model, ["body"], batch_axis={"head": 1})
    with pytest.raises(ValueError, match="give batch_axis to the TorchNetwork"):
        measure(right, TREE, batch_axis=1, **OPTIONS)


@pytest.mark.parametrize(("how", "sizes"), [("rows first", (-1, 8)), ("positions first", (8, -1))])
def test_rows_and_positions_on_one_axis_are_refused_or_taken_apart(how, sizes):
    model = Sequence(how)
    with pytest.raises(
        ValueError, match=r"shape \(48, 3\) for 6 rows.*a\.unflatten\(0, \(-1, 8\)\)"
    ):
        TorchNetwork(model, ["body"], encode="tokens").activations(LEAVES)
    apart = {"select": lambda a: a.unflatten(0, sizes), "encode": "tokens"}
    found = TorchNetwork(model, ["body"], **apart).activations(LEAVES)["body"]
    assert found.equal(model.embed(LEAVES.long()).flatten(1))
    mixed = {"select": lambda a: a.unflatten(0, sizes[::-1]), "encode": "tokens"}
    with pytest.raises(MixedRows, match="depends on other rows"):
        TorchNetwork(model, ["body"], **mixed).activations(LEAVES)


@pytest.mark.parametrize(
    "inner",
    [
        nn.LSTM(3, 4),
        nn.GRU(3, 4, bidirectional=True),
        nn.TransformerEncoderLayer(3, 1, 8, dropout=0.0),
        nn.BatchNorm1d(8, track_running_stats=False),
    ],
)
def test_rows_that_depend_on_each_other_are_refused(inner):
    model = Sequence(
        "batch first", inner
    )  # recurrent layers and attention would run over the batch
    select = {"body": 0} if isinstance(inner, nn.RNNBase) else None
    network = TorchNetwork(model, ["body"], encode="tokens", select=select)
    with pytest.raises(MixedRows, match=r"depends on other rows .* if right, give batch_axis=0"):
        network.activations(LEAVES)
    given = TorchNetwork(model, ["body"], encode="tokens", select=select, batch_axis=0)
    assert given.activations(LEAVES)["body"].shape[0] == 50
    good = Sequence("time first", inner)
    if not isinstance(inner, nn.BatchNorm1d):
        network = TorchNetwork(good, ["body"], encode="tokens", select=select)
        shown = network.activations(LEAVES)["body"]
        again = TorchNetwork(good, ["body"], encode="tokens", select=select).activations(
            LEAVES[7:9]
        )
        assert torch.allclose(shown[7:9], again["body"], atol=1e-5)


def test_layers_without_separate_rows_are_refused():
    class Gram(nn.Module):
        def __init__(self):
            super().__init__()
            self.gram, self.mean = nn.Identity(), nn.Identity()

        def forward(self, x):
            return self.gram(x @ x.T), self.mean(x.mean(0))

    for layer in ("gram", "mean"):
        with pytest.raises(ValueError, match="so no axis is that of the rows; name a layer of"):
            TorchNetwork(Gram(), [layer]).activations(LEAVES)


def test_the_case_of_a_sequence_first_layer_has_the_same_numbers():
    network = TorchNetwork(Sequence("time first"), ["embed", "body"], encode="tokens")
    table = measure(network, TREE, **OPTIONS)
    one, other = (table[table["layer"] == name]["value"] for name in ("embed", "body"))
    assert np.allclose(one, other, equal_nan=True)
    best = table[table["metric"] == "correlation"]
    assert (best["value"] > best["null"]).all()


def test_pool():
    model = Sequence("time first")
    h = model.embed(LEAVES.long())  # (B, T, D)

    def pooled(pool):
        return TorchNetwork(model, ["body"], encode="tokens", pool=pool).activations(LEAVES)["body"]

    assert torch.allclose(pooled("mean"), h.mean(1))
    assert pooled("max").equal(h.amax(1))
    assert pooled("first").equal(h[:, 0])
    assert pooled("last").equal(h[:, -1])
    assert pooled(3).equal(h[:, 3])
    assert pooled(lambda a: a[:, 1] - a[:, 2]).equal(h[:, 1] - h[:, 2])
    for wrong, message in [
        (9, "has 8 positions, so there is no pool=9"),
        (lambda a: a, r"pool made \(6, 8, 3\) of \(6, 8, 3\)|pool made \(50, 8, 3\)"),
        ("avg", "pool must be one of mean, max, first, last"),
    ]:
        with pytest.raises(ValueError, match=message):
            pooled(wrong)


def test_channels_are_the_units_of_convolutions():
    model = nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, (1, 2), stride=(1, 2)), nn.ReLU(), nn.Flatten(1)
    )
    h = model[1](model[0](LEAVES.float()))  # (B, 3, 2, 2)
    network = TorchNetwork(model, ["1", "2", "3"], pool="mean")
    found = network.activations(LEAVES)
    assert torch.allclose(found["1"], h.mean((2, 3)))
    assert torch.allclose(found["2"], h.relu().mean((2, 3)))
    assert torch.allclose(found["3"], h.relu().flatten(1))  # one position
    assert TorchNetwork(model, ["1"]).activations(LEAVES)["1"].equal(h.flatten(1))
    line = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 2, stride=2), nn.ReLU())
    with pytest.raises(
        ValueError, match="layer '2' has 3 axes; for pool or positions give unit_axis"
    ):
        TorchNetwork(line, ["2"], pool="max").activations(LEAVES)
    shown = TorchNetwork(line, ["1", "2"], pool="max", unit_axis={"2": 1}).activations(LEAVES)
    assert shown["2"].equal(shown["1"].relu())


def test_positions_are_blocks_of_nodes():
    conv = nn.Conv1d(1, 4, 2, stride=2)
    model = nn.Sequential(nn.Unflatten(1, (1, 8)), conv)
    network = TorchNetwork(model, {"1": 1}, positions=True)
    found = network.activations(LEAVES)[1]
    assert found.shape == (50, 4, 4)  # (B, V, U)
    assert found.equal(conv(LEAVES.float()[:, None]).transpose(1, 2))
    table = measure(network, TREE, **OPTIONS)
    best = table[table["metric"] == "correlation"]
    assert (best["candidates"] == "own block").all()
    assert (best["value"] > 0.5).all()  # every position reads the children of its node
    model = Sequence("time first")
    network = TorchNetwork(model, {"body": 1}, encode="tokens", positions=[1, 3, 5, 7])
    assert network.activations(LEAVES)[1].equal(model.embed(LEAVES.long())[:, 1::2])
    whole = TorchNetwork(model, {"body": 1}, encode="tokens", positions="nodes")
    with pytest.raises(
        ValueError, match=r"\(600, U\) or \(600, 4, U\), a block for each node of level 1"
    ):
        measure(whole, TREE, **OPTIONS)
    bad = TorchNetwork(model, {"body": 1}, encode="tokens", positions=[1, 8])
    with pytest.raises(ValueError, match=r"has 8 positions, got positions=\[1, 8\]"):
        bad.activations(LEAVES)


def test_positions_of_an_image_are_in_the_order_of_a_quadtree():
    tree = hltm.symmetric_binary(depth=2, branching=4, polarity=0.9, seed=0)
    model = nn.Conv2d(1, 3, 2, stride=2)
    network = TorchNetwork(
        model, {"": 1}, encode=lambda x: hltm.encode.image(hltm.encode.bits(x)), positions=True
    )
    leaves = tree.sample(20, seed=0).leaves
    patches = leaves.float().unflatten(1, (4, 4))  # the children of each node, in reading order
    expected = patches @ model.weight.flatten(1).T + model.bias
    assert torch.allclose(network.activations(leaves)[1], expected, atol=1e-6)
    odd = torch.zeros(5, 3, 2, 3)
    with pytest.raises(ValueError, match=r"positions \(2, 3\), expected a square"):
        LayerAxes("conv", unit=1, positions=True)(odd, 5)
    assert LayerAxes("conv", unit=1, positions=[5, 0])(odd, 5).shape == (5, 2, 3)


def test_encodings_by_name():
    tree = hltm.balanced(depth=1, branching=4, cardinality=3, seed=0)
    leaves = tree.sample(9, seed=0).leaves
    hot = nn.functional.one_hot(leaves.long(), 3)

    def inputs(encode, states=3):
        return TorchNetwork(nn.Identity(), encode=encode, states=states).inputs(leaves)

    assert inputs("one-hot").equal(hot.flatten(1).float())
    assert inputs("one-hot-sequence").equal(hot.float())
    assert inputs("one_hot").equal(hot.flatten(1).float())
    assert inputs(hltm.encode.one_hot).equal(hot.float())
    assert inputs(partial(hltm.encode.one_hot, cardinality=5)).shape == (9, 4, 5)
    assert inputs("tokens").equal(leaves.long())
    assert inputs(lambda x: {"ids": x.long()})["ids"].equal(leaves.long())
    binary = TorchNetwork(nn.Identity(), encode="signs").inputs(LEAVES)
    assert binary.equal(2.0 * LEAVES - 1)
    flat = TorchNetwork(nn.Linear(12, 5), encode="one-hot")
    assert measure(flat, tree, **OPTIONS)["layer"].unique().tolist() == ["output"]
    with pytest.raises(ValueError, match="encode='one-hot' needs states="):
        flat.activations(leaves)
    for wrong in ("onehot", None, 3):
        with pytest.raises(ValueError, match="encode must be one of bits, signs, one-hot"):
            TorchNetwork(nn.Identity(), encode=wrong)
    with pytest.raises(ValueError, match="one_hot encodes nodes of more states"):
        measure(nn.Linear(4, 2), tree, **OPTIONS)
    with pytest.raises(ValueError, match="1 states are missing"):
        TorchNetwork(nn.Identity(), encode="tokens").inputs(torch.tensor([[0, -1]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_inputs_have_the_dtype_of_the_model(dtype):
    model = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6)).to(dtype)
    assert TorchNetwork(model).activations(LEAVES)["1"].dtype == dtype
    torch.manual_seed(0)
    embedded = Sequence("time first").to(dtype)
    assert (
        TorchNetwork(embedded, ["body"], encode="tokens").activations(LEAVES)["body"].dtype == dtype
    )
    table = measure(model, TREE, **OPTIONS)
    same = measure(copy.deepcopy(model).float(), TREE, **OPTIONS)
    best = table["metric"] == "correlation"
    assert np.allclose(table["value"][best], same["value"][best], atol=0.01)


@pytest.mark.parametrize(
    ("model", "encode", "message"),
    [
        (nn.Sequential(nn.Linear(16, 3), nn.ReLU()), "bits",
         r"the model does not take \(6, 8\) float32, which encode='bits' gives; its part '0', "
         r"Linear\(in_features=16, out_features=3\), was given \(6, 8\) float32"),
        (nn.Sequential(nn.Tanh(), nn.Linear(9, 3)), lambda x: x.float(), "encode='<lambda>'.*part '1'"),
        (nn.Sequential(nn.Embedding(2, 3)), "bits", "an embedding needs encode='tokens'"),
        (nn.Sequential(nn.Embedding(1, 3)), "tokens", r"Embedding\(1, 3\).*index out of range"),
        (nn.Sequential(nn.Conv2d(1, 3, 2)), "bits", "part '0', Conv2d"),
        (nn.Bilinear(8, 8, 2), "bits", "missing 1 required positional argument"),
    ],
)  # fmt: skip
def test_inputs_that_a_model_does_not_take_are_named(model, encode, message):
    with pytest.raises(ValueError, match=message) as refusal:
        TorchNetwork(model, encode=encode).activations(LEAVES)
    assert len(str(refusal.value)) < 300


def test_a_bare_module_shows_its_parts():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.ones(8))
            self.activations = nn.ReLU()  # a part, no method
            self.first, self.last, self.spare = nn.Linear(8, 6), nn.Linear(6, 3), nn.Linear(2, 2)
            self.act, self.rnn, self.drop = nn.Tanh(), nn.GRU(3, 2), nn.Dropout(0.5)
            self.buckets = nn.Identity()

        def forward(self, x):
            h = self.drop(self.act(self.activations(self.first(x))))
            self.rnn(h[:1, :3])
            self.buckets(self.place)
            return self.act(self.last(h))

    torch.manual_seed(0)
    model = Model()
    table = measure(model, TREE, **OPTIONS)
    # without those that do not run, run twice, return tuples, have no rows, or do nothing
    assert table["layer"].unique().tolist() == ["activations", "first", "last"]
    named = measure(TorchNetwork(model, ["activations", "first", "last"]), TREE, **OPTIONS)
    assert table.equals(named)
    with pytest.raises(ValueError, match="the output of layer '' is a tuple"):
        measure(nn.GRU(8, 3, batch_first=True), TREE, **OPTIONS)
    twice = nn.ReLU()
    with pytest.raises(ValueError, match=r"'0.0' runs more than once, 2 times"):
        measure(nn.Sequential(nn.Sequential(twice, twice)), TREE, **OPTIONS)
    with pytest.raises(ValueError, match="none of '0', '2' runs once and returns a tensor"):
        measure(nn.Sequential(twice, twice, nn.GRU(8, 3)), TREE, **OPTIONS)


def test_labels_are_names_or_levels():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    table = measure(TorchNetwork(model, ["0", "2"]), TREE, **OPTIONS)
    best = table[table["metric"] == "correlation"]
    assert best.groupby("layer").size().to_dict() == {"0": 7, "2": 7}  # all latents, not a level's
    level = measure(TorchNetwork(model, {"0": 2, "2": "02"}), TREE, **OPTIONS)
    assert (level["metric"] == "correlation").groupby(level["layer"]).sum().to_dict() == {
        2: 2,
        "02": 7,
    }
    with pytest.raises(ValueError, match="the model has no layer '5'; it has '0', '1', '2'"):
        TorchNetwork(model, ["5"])
    with pytest.raises(ValueError, match="labels of layers must be distinct"):
        TorchNetwork(model, {"0": 1, "2": 1})
    for label in (True, 0, -1, 1.0, None):
        with pytest.raises(ValueError, match="the label of layer '0' must be text or a level"):
            TorchNetwork(model, {"0": label})
    with pytest.raises(ValueError, match=r"layer 9 is neither a name .* nor a level of the tree"):
        measure(TorchNetwork(model, {"0": 9}), TREE, **OPTIONS)
    with pytest.raises(ValueError, match="model must be a torch module, got a str"):
        TorchNetwork("model", ["0"])
    with pytest.raises(ValueError, match="give pool or positions, not both"):
        TorchNetwork(model, {"0": 1}, pool="mean", positions=True)
    with pytest.raises(ValueError, match=r"positions of layer '0' need its level"):
        TorchNetwork(model, ["0"], positions=True)


def test_leaves_with_and_without_members():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 5))
    trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
    draw = trees.sample(9, seed=1)
    network = TorchNetwork(model, ["0", "2"], encode=hltm.encode.signs)
    found = network.activations(draw.leaves)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "0": (3, 9, 6),
        "2": (3, 9, 5),
    }
    one = network.activations(draw.leaves[2])["0"]
    assert torch.allclose(one, model[0](2.0 * draw.leaves[2] - 1))
    assert torch.allclose(found["0"][2], one)


@pytest.mark.parametrize("how", ["batch first", "time first", "features first"])
def test_units_go_back_into_the_layers_own_shape(how):
    model = Sequence(how)
    network = TorchNetwork(model, {"body": 1}, encode="tokens")
    axes = network.axes(LEAVES)[1]
    own = capture(model, network.inputs(LEAVES), "body")["body"]
    assert axes.back(network.activations(LEAVES)[1], own.shape).equal(own)
    with pytest.raises(ValueError, match=r"layer 'body' has shape .*, got units \(50, 7\)"):
        axes.back(torch.zeros(50, 7), own.shape)
    with pytest.raises(ValueError, match="has pool or positions, so its units are not all of it"):
        LayerAxes("body", unit=1, pool="mean").back(torch.zeros(50, 3), own.shape)
