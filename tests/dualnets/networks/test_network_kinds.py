"""Every kind of network keeps the contract of `dualnets.networks`, on trees of every shape."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from node_by_node import PlainModule, PlainNetwork, dense_topology
from torch import nn

import dualnets
import hltm
from dualnets.networks.network import leaf_states
from dualnets.training.compiled import pairs

# edges that skip levels, leaves below latents of every level, one to five children
PARENTS = [None, 0, 0, 0, 1, 1, 2, 4, 4, 4, 5, 6, 6, 0, 5]
IRREGULAR = hltm.Topology.from_parents(PARENTS)
BALANCED = hltm.Topology.balanced(depth=3)


def trees_of(topology: hltm.Topology, states: list[int] | int, members: int | None) -> Any:
    return hltm.random_tables(topology, cardinality=states, members=members, seed=0)


MIXED = [2 + v % 3 for v in range(len(IRREGULAR))]  # two to four states


UNITS = 4
VARIANTS = {
    "plain": {},
    "biases, length 1": {"bias": True, "normalize": True},
    "BatchNorm": {"norm": dualnets.BatchNorm(affine=True), "bias": True},
    "LayerNorm, standardised weights": {
        "norm": dualnets.LayerNorm(affine=True),
        "weight_standardization": True,
        "bias": True,  # else pre-activations of two bits are exactly 0, where a ReLU has no slope
    },
    "GroupNorm": {"norm": dualnets.GroupNorm(2), "bias": True},
}


class Kind(NamedTuple):
    """A way to make networks, the data they read, and the shape they have."""

    make: Callable[..., Any]
    data: hltm.Topology
    states: list[int] | int
    shape: Callable[[Any], hltm.Topology] | None
    whole_layers: bool = False
    compiled: bool = False
    every_variant: bool = False

    def trees(self, members: int | None = 3) -> Any:
        return trees_of(self.data, self.states, members)

    def twin(self, network: Any, member: int) -> PlainNetwork | PlainModule:
        if self.shape is None:
            return PlainModule(network, member, build)
        return PlainNetwork(network, member, self.shape(network), leaf_states(self.trees()))

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        if self.shape is None:
            return {"module": {}}
        few = ("plain", "biases, length 1")
        return VARIANTS if self.every_variant else {name: VARIANTS[name] for name in few}


tree, mlp, conv, shuffled = (
    partial(make, units=UNITS)
    for make in (dualnets.tree_network, dualnets.mlp, dualnets.conv_tree, dualnets.shuffled_tree)
)


def build() -> nn.Module:
    """What a user might bring: two dimensions inside, a BatchNorm, a parameter without any axis."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.scale * values

    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv1d(1, 5, 3),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(30, 6),
        nn.ReLU(inplace=True),
        nn.Linear(6, UNITS),
        Scaled(),
    )


torch_module = partial(dualnets.TorchEnsemble, build=build, activations={1: "1", 2: "5", 3: "8"})


def dense(network: Any) -> hltm.Topology:
    return dense_topology(network.inputs, network.depth)


def same(topology: hltm.Topology) -> Callable[[Any], hltm.Topology]:
    return lambda network: topology


OTHER = hltm.Topology.from_parents([None, 0, 0, 1, 1, 1, 0, 2, 2, 6, 6, 6])  # eight leaves too
KINDS = {
    "tree": Kind(tree, BALANCED, 2, same(BALANCED), compiled=True, every_variant=True),
    "tree of three states": Kind(tree, BALANCED, 3, same(BALANCED), compiled=True),
    "irregular tree": Kind(tree, IRREGULAR, 2, same(IRREGULAR)),
    "irregular tree of mixed states": Kind(
        tree, IRREGULAR, MIXED, same(IRREGULAR), every_variant=True
    ),
    "mlp": Kind(mlp, IRREGULAR, 2, dense, whole_layers=True, compiled=True),
    "mlp of mixed states": Kind(
        mlp, IRREGULAR, MIXED, dense, whole_layers=True, compiled=True, every_variant=True
    ),
    "conv": Kind(conv, BALANCED, 2, same(BALANCED), every_variant=True),
    "conv of three states": Kind(conv, BALANCED, 3, same(BALANCED)),
    "another topology": Kind(partial(tree, topology=OTHER), BALANCED, 2, same(OTHER), True),
    "shuffled tree": Kind(shuffled, BALANCED, 2, same(BALANCED), True, compiled=True),
    "shuffled tree of mixed states": Kind(
        shuffled, IRREGULAR, MIXED, same(IRREGULAR), True, every_variant=True
    ),
    "torch module": Kind(torch_module, BALANCED, 2, None, True),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def variants(fast):
    """All kinds in all variants, of which those that are not fast are slow."""
    return pytest.mark.parametrize(
        ("kind", "options"),
        [
            pytest.param(
                kind, options, id=f"{name}, {variant}",
                marks=[] if variant in fast else pytest.mark.slow,
            )
            for name, kind in KINDS.items()
            for variant, options in kind.variants.items()
        ],
    )  # fmt: skip


every_variant = variants({*VARIANTS, "module"})
some_variants = variants({"biases, length 1", "BatchNorm", "module"})


def rows(trees: Any, n: int = 9, start: int = 0) -> torch.Tensor:
    return trees.sample(n, seed=1, start=start).leaves


close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)


@every_variant
def test_equals_plain_networks_and_their_gradients(kind, options):
    trees = kind.trees()
    network = kind.make(trees, seed=2, dtype=torch.float64, **options)
    twins = [kind.twin(network, s) for s in range(3)]
    leaves, others = rows(trees), rows(trees, 11, start=9)
    output, second = network(leaves), network(others)
    push = torch.randn(output.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    (output * push).sum().backward()
    assert output.dtype == torch.float64
    shown = network.activations(leaves)
    evaluated = network.eval()(leaves)
    for s, twin in enumerate(twins):
        expected = twin.output(leaves[s])
        close(output[s], expected)
        close(second[s], twin.output(others[s]))
        (expected * push[s]).sum().backward()
        gradients = twin.gradients()
        for name, parameter in network.named_parameters():
            close(parameter.grad[s], gradients[name])
        layers = twin.shown(leaves[s])
        assert shown.keys() == layers.keys()
        for level, layer in layers.items():
            close(shown[level][s], layer.flatten(1) if kind.whole_layers else layer)
        close(evaluated[s], twin.output(leaves[s], training=False))


@pytest.mark.parametrize("make", [dualnets.tree_network, dualnets.mlp])
def test_a_batch_of_no_rows_has_an_output_of_none(make):
    trees = hltm.symmetric_binary(depth=2, members=2, seed=0)
    network = make(trees, units=3, seed=1).eval()
    none = torch.zeros(2, 0, 4, dtype=torch.int16)
    assert network(none).shape == (2, 0, 3)
    assert all(shown.shape[:2] == (2, 0) for shown in network.activations(none).values())


@some_variants
def test_a_member_is_the_same_network_in_any_ensemble(kind, options):
    trees = kind.trees()
    make = partial(kind.make, seed=2, dtype=torch.float64, **options)
    whole, single, part = make(trees), make(trees[1]), make(trees[1:])
    for ours, its, others in zip(
        whole.parameters(), single.parameters(), part.parameters(), strict=True
    ):
        assert ours[1:2].equal(its)
        assert ours[1:].equal(others)
    leaves = rows(trees)
    output, alone, some = whole(leaves), single(leaves[1]), part(leaves[1:])
    assert alone.shape == output.shape[1:]
    close(alone, output[1])
    close(some, output[1:])
    for level, values in single.activations(leaves[1]).items():
        close(values, whole.activations(leaves)[level][1])


@some_variants
def test_says_what_it_is(kind, options):
    trees = kind.trees()
    network = kind.make(trees, seed=2, **options)
    assert network.members == trees.members
    assert network.stacked
    assert network.inputs == len(trees.leaves)
    assert (network.device.type, network.dtype) == ("cpu", torch.float32)
    named = [*network.named_parameters(), *network.named_buffers()]
    assert all(len(tensor) == 3 for _, tensor in named)
    leaves = rows(trees)
    output = network(leaves)
    assert output.shape == (3, 9, UNITS)
    held = {name: tensor.clone() for name, tensor in named}
    shown = network.activations(leaves)
    for name, tensor in named:  # looking changes nothing
        assert tensor.equal(held[name])
    assert network.training
    assert list(shown) == list(range(1, network.depth + 1))
    evaluated = network.eval()(leaves)
    if not options.get("normalize"):
        torch.testing.assert_close(shown[network.depth].flatten(2), evaluated)
    torch.testing.assert_close(network(leaves[:, :1]), evaluated[:, :1])  # each sample by itself
    alone = network.train()(leaves[:, :5])
    assert torch.allclose(alone, output[:, :5], atol=1e-5) != network.batch_dependent
    if kind.shape is not None:
        for level, values in shown.items():
            nodes = len(kind.shape(network).at_level(level))
            own = (3, 9, nodes, UNITS)
            assert values.shape == ((3, 9, nodes * UNITS) if kind.whole_layers else own)
        after = network.rectify(shown)
        assert after[1].equal(shown[1].relu())
        assert after[network.depth].equal(shown[network.depth])
    many = kind.make(trees[0], members=5, seed=2, **options)
    assert many(rows(trees[0]).expand(5, -1, -1)).shape == (5, 9, UNITS)


@every_variant
def test_a_copy_is_a_network_of_its_own(kind, options):
    trees = kind.trees()
    network = kind.make(trees, seed=2, **options)
    leaves = rows(trees)
    network(leaves)
    before = network.eval()(leaves)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5 * parameter.square() + 0.1)
        twin.train()(leaves)
    assert network(leaves).equal(before)
    assert not twin.eval()(leaves).equal(before)
    twin.load_state_dict(network.state_dict())
    assert twin(leaves).equal(before)


@some_variants
def test_trains_in_parts_and_is_probed(kind, options):
    trees = kind.trees()
    network = kind.make(trees, seed=2, dtype=torch.float64, **options)
    finals = [
        dualnets.train(
            network,
            dualnets.SimCLR(dualnets.InfoNCE(0.5)),
            trees,
            augment=hltm.resample_leaves(0.3),
            steps=2,
            batch=8,
            optimizer=dualnets.SGD(0.1, momentum=0.9),
            seed=3,
            members_at_once=count,
        )
        for count in (None, 1)
    ]
    assert (finals[0].frozen_at < 0).all()
    states = [final.network.state_dict() for final in finals]
    for name, tensor in states[0].items():
        close(tensor, states[1][name], rtol=1e-7)
    assert not next(finals[0].network.parameters()).equal(next(network.parameters()))
    if network.depth <= trees.topology.depth:
        found = hltm.probe.probe_layers(
            finals[0].network, trees, samples=64, seed=4, lags=0, details=False,
            metrics=["correlation_ratio"],
        )  # fmt: skip
        whole = "whole layer" if kind.whole_layers else "own block"
        assert {level.candidates for level in found.values()} == {whole}


@every_variant
def test_compiled_training_takes_only_what_it_supports(kind, options):
    kernel = pairs.supported_kernel(kind.make(kind.trees(), seed=2, **options), dualnets.InfoNCE())
    plain = "norm" not in options and "weight_standardization" not in options
    assert (kernel is not None) == (kind.compiled and plain)


@every_kind
def test_leaves_of_the_wrong_shape_are_named(kind):
    trees = kind.trees()
    network = kind.make(trees, seed=2)
    count = len(trees.leaves)
    with pytest.raises(
        ValueError, match=rf"shape \(3, 9, {count - 1}\), expected \(3, B, {count}\)"
    ):
        network(rows(trees)[..., 1:])
    with pytest.raises(ValueError, match=rf"expected \(3, B, {count}\)"):
        network.activations(rows(trees)[0])


def test_networks_on_trees_refuse_pictures():
    digits = dualnets.images.load("digits")
    for make, options in [
        (dualnets.tree_network, {"units": 4}),
        (dualnets.shuffled_tree, {"units": 4}),
        (dualnets.conv_tree, {"units": 4}),
        (dualnets.mlp, {"units": 4}),
        (dualnets.mlp, {"units": [8, 4]}),
        (dualnets.transformer, {}),
        (dualnets.conv_sequence, {}),
    ]:
        with pytest.raises(
            TypeError, match="got LabelledImages; networks on pictures are dualnets"
        ):
            make(digits, seed=0, **options)
    with pytest.raises(TypeError, match=r"tree must be such as hltm.symmetric_binary.*, got str$"):
        dualnets.mlp("tree", units=4, seed=0)


@every_kind
def test_bad_sizes_are_refused(kind):
    with pytest.raises(ValueError, match="members=4 is for a single tree"):
        kind.make(kind.trees(), members=4, seed=0)
    with pytest.raises(ValueError, match="seed must be in"):
        kind.make(kind.trees(), seed=-1)
    if kind.shape is None:
        return
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        kind.make(kind.trees(), units=0, seed=0)
    with pytest.raises(ValueError, match=r"GroupNorm needs equal .* got 4 units in 3 group"):
        kind.make(kind.trees(), norm=dualnets.GroupNorm(3), seed=0)
    with pytest.raises(ValueError, match=r"LayerNorm needs .* got 1 units in 1 group"):
        kind.make(kind.trees(), units=1, norm=dualnets.LayerNorm(), seed=0)
    network = kind.make(kind.trees(), norm=dualnets.BatchNorm(), seed=0)
    if network.shared:
        return
    with pytest.raises(ValueError, match="BatchNorm in training needs at least 2 samples, got 1"):
        network(rows(kind.trees(), 1))


# trees of any shape


@st.composite
def parent_lists(draw):
    return [None, *(draw(st.integers(0, v)) for v in range(draw(st.integers(1, 12))))]


@settings(max_examples=30)
@given(parents=parent_lists(), seed=st.integers(0, 99), bias=st.booleans())
def test_any_tree_makes_a_network(parents, seed, bias):
    topology = hltm.Topology.from_parents(parents)
    states = [2 + (v * seed) % 3 for v in range(len(topology))]
    trees = trees_of(topology, states, members=2)
    network = dualnets.tree_network(trees, units=2, seed=seed, bias=bias, dtype=torch.float64)
    leaves = rows(trees, 5)
    for s in range(2):
        expected = PlainNetwork(network, s, topology, leaf_states(trees)).output(leaves[s])
        torch.testing.assert_close(network(leaves)[s], expected, rtol=1e-11, atol=1e-13)


def test_a_block_starts_within_the_bound_of_its_own_fan_in():
    trees = trees_of(IRREGULAR, MIXED, members=400)
    network = dualnets.tree_network(trees, units=2, bias=True, seed=5)
    twin = PlainNetwork(network, 0, IRREGULAR, leaf_states(trees))
    for v in IRREGULAR.latents:
        level = int(IRREGULAR.level[v])
        place = v - IRREGULAR.at_level(level).start
        for part in (network.weights[level - 1], network.biases[level - 1]):
            bound = twin.fan_in(v) ** -0.5
            assert 0.97 * bound < part[:, place].abs().max() <= bound * (1 + 1e-6)


def test_padding_stays_zero_in_training():
    trees = trees_of(IRREGULAR, 2, members=2)
    network = dualnets.tree_network(trees, units=3, seed=1)
    final = dualnets.train(
        network, dualnets.SimCLR(), trees, augment=hltm.resample_leaves(0.3), steps=3, batch=8,
        optimizer=dualnets.SGD(0.3), seed=3,
    )  # fmt: skip
    for level, weight in enumerate(final.network.weights, start=1):
        for place, v in enumerate(IRREGULAR.at_level(level)):
            children = IRREGULAR.children[v]
            fan_in = sum(1 if c in IRREGULAR.leaves else 3 for c in children)
            assert (weight[:, place, :, fan_in:] == 0).all()
            assert (weight[:, place, :, :fan_in] != 0).all()


def test_a_regular_tree_is_the_same_network_wired(monkeypatch):
    trees = trees_of(BALANCED, 2, members=2)
    plain = dualnets.tree_network(trees, units=3, bias=True, seed=1, dtype=torch.float64)
    monkeypatch.setattr("dualnets.networks.tree_network.irregularity", lambda *_: "forced")
    wired = dualnets.tree_network(trees, units=3, bias=True, seed=1, dtype=torch.float64)
    assert wired.wiring is not None
    for a, b in zip(plain.parameters(), wired.parameters(), strict=True):
        assert a.equal(b)
    torch.testing.assert_close(plain(rows(trees)), wired(rows(trees)), rtol=1e-12, atol=1e-14)


# shared weights


def test_a_conv_tree_knows_no_place():
    trees = trees_of(BALANCED, 2, members=1)
    network = dualnets.conv_tree(trees, units=4, seed=1, bias=True, dtype=torch.float64)
    leaves = rows(trees)
    low = network.activations(leaves)[2]
    swapped = network.activations(leaves.roll(4, dims=2))[2]
    torch.testing.assert_close(low, swapped.roll(1, dims=2), rtol=1e-12, atol=1e-14)
    assert network.weights[1].shape == (1, 1, 4, 8)


@pytest.mark.parametrize(
    ("topology", "states", "reason"),
    [
        (hltm.Topology.from_parents([None, 0, 0, 1, 1, 2]), 2, r"level 1 has nodes of \[1, 2\]"),
        (hltm.Topology.from_parents([None, 0, 0, 1, 1]), 2, r"level 2 has children at levels \[0, 1\]"),
        (BALANCED, [2] * 14 + [3], r"leaves have \[1, 3\] features"),
    ],
)  # fmt: skip
def test_a_conv_tree_needs_equal_places(topology, states, reason):
    with pytest.raises(ValueError, match=f"equally branched levels, but {reason}"):
        dualnets.conv_tree(trees_of(topology, states, None), units=3, seed=0)


# shuffled trees


def test_a_topology_of_other_leaves_is_refused():
    with pytest.raises(ValueError, match="the topology has 4 leaves, the tree 8"):
        dualnets.tree_network(
            trees_of(BALANCED, 2, None), units=3, topology=hltm.Topology.balanced(2), seed=0
        )


def test_a_shuffled_tree_is_the_tree_network_on_shuffled_leaves():
    trees = trees_of(BALANCED, 2, members=3)
    right = dualnets.tree_network(trees, units=3, seed=1)
    wrong = dualnets.shuffled_tree(trees, units=3, seed=1)
    leaves = rows(trees)
    orders = wrong.leaf_order.tolist()
    shuffled = torch.stack([leaves[s][:, order] for s, order in enumerate(orders)])
    assert wrong(leaves).equal(right(shuffled))
    assert len(set(map(tuple, orders))) == 3  # a shuffle for each member
    assert dualnets.shuffled_tree(trees, units=5, seed=1).leaf_order.equal(wrong.leaf_order)
    assert not dualnets.shuffled_tree(trees, units=3, seed=2).leaf_order.equal(wrong.leaf_order)


def test_leaves_are_shuffled_evenly_among_those_of_as_many_states():
    states = [2, 3, 2, 3, 3, 2, 2]
    topology = hltm.Topology.from_parents([None, *[0] * 7])
    network = dualnets.shuffled_tree(
        trees_of(topology, [2, *states], None), units=1, members=4000, seed=1
    )
    order = network.leaf_order
    assert order.sort(dim=1).values.equal(torch.arange(7).expand(4000, 7))
    for x, count in enumerate(states):
        same = [y for y, other in enumerate(states) if other == count]
        seen = torch.bincount(order[:, x], minlength=7)
        assert seen[same].sum() == 4000
        expected = 4000 / len(same)
        assert ((seen[same] - expected).abs() < 4.5 * expected**0.5).all()


# devices


@every_variant
def test_whatever_a_network_holds_moves_with_it(kind, options):
    network = kind.make(kind.trees(), seed=2, **options).to("meta")
    held = [*network.parameters(), *network.buffers(), *network.constants.values()]
    assert all(tensor.is_meta for tensor in held)
    assert network.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")
@every_variant
def test_cuda_gives_the_cpus_numbers(kind, options):
    trees = kind.trees()
    make = partial(kind.make, trees, seed=2, dtype=torch.float64, **options)
    leaves = rows(trees)
    expected = make()
    output = expected(leaves)
    for network in (make(device="cuda"), make().to("cuda")):
        close(network(leaves.to("cuda")).cpu(), output)
        for level, values in network.activations(leaves.to("cuda")).items():
            close(values.cpu(), expected.activations(leaves)[level])
