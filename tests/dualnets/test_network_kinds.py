"""Every kind of network keeps the contract of `dualnets.networks`, on trees of every shape."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_networks import PlainNetwork, dense_topology

import dualnets
import hltm
from dualnets import fused
from dualnets.networks.network import leaf_states

# edges that skip levels, leaves below latents of every level, one to five children
PARENTS = [None, 0, 0, 0, 1, 1, 2, 4, 4, 4, 5, 6, 6, 0, 5]
IRREGULAR = hltm.Topology.from_parents(PARENTS)
BALANCED = hltm.Topology.balanced(depth=3)


def trees_of(topology: hltm.Topology, states: list[int] | int, members: int | None) -> Any:
    return hltm.random_tables(topology, cardinality=states, members=members, seed=0)


MIXED = [2 + v % 3 for v in range(len(IRREGULAR))]  # two to four states


class Kind(NamedTuple):
    """A way to make networks, the data they read, and the shape they have."""

    make: Callable[..., Any]
    data: hltm.Topology
    states: list[int] | int
    shape: Callable[[Any], hltm.Topology]
    whole_layers: bool = False
    compiled: bool = False

    def trees(self, members: int | None = 3) -> Any:
        return trees_of(self.data, self.states, members)

    def twin(self, network: Any, member: int) -> PlainNetwork:
        return PlainNetwork(network, member, self.shape(network), leaf_states(self.trees()))


tree, mlp, conv, wrong = (
    partial(make, units=3)
    for make in (dualnets.tree_network, dualnets.mlp, dualnets.conv_tree, dualnets.wrong_tree)
)


def dense(network: Any) -> hltm.Topology:
    return dense_topology(network.inputs, network.depth)


def same(topology: hltm.Topology) -> Callable[[Any], hltm.Topology]:
    return lambda network: topology


OTHER = hltm.Topology.from_parents([None, 0, 0, 1, 1, 1, 0, 2, 2, 6, 6, 6])  # eight leaves too
KINDS = {
    "tree": Kind(tree, BALANCED, 2, same(BALANCED), compiled=True),
    "tree of three states": Kind(tree, BALANCED, 3, same(BALANCED)),
    "irregular tree": Kind(tree, IRREGULAR, 2, same(IRREGULAR)),
    "irregular tree of mixed states": Kind(tree, IRREGULAR, MIXED, same(IRREGULAR)),
    "mlp": Kind(mlp, IRREGULAR, 2, dense, whole_layers=True, compiled=True),
    "mlp of mixed states": Kind(mlp, IRREGULAR, MIXED, dense, whole_layers=True),
    "conv": Kind(conv, BALANCED, 2, same(BALANCED)),
    "conv of three states": Kind(conv, BALANCED, 3, same(BALANCED)),
    "another topology": Kind(partial(tree, topology=OTHER), BALANCED, 2, same(OTHER), True),
    "wrong tree": Kind(wrong, BALANCED, 2, same(BALANCED), True),
    "wrong tree of mixed states": Kind(wrong, IRREGULAR, MIXED, same(IRREGULAR), True),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def rows(trees: Any, n: int = 9) -> torch.Tensor:
    return trees.sample(n, seed=1).leaves


@pytest.mark.parametrize(("bias", "normalize"), [(False, False), (True, True)])
@every_kind
def test_equals_plain_networks_and_their_gradients(kind, bias, normalize):
    trees = kind.trees()
    network = kind.make(trees, seed=2, bias=bias, normalize=normalize, dtype=torch.float64)
    leaves = rows(trees)
    output, shown = network(leaves), network.activations(leaves)
    push = torch.randn(output.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    (output * push).sum().backward()
    for s in range(3):
        twin = kind.twin(network, s)
        expected, layers = twin(leaves[s])
        torch.testing.assert_close(output[s], expected, rtol=1e-11, atol=1e-13)
        assert shown.keys() == layers.keys()
        for level, layer in layers.items():
            layer = layer.flatten(1) if kind.whole_layers else layer
            torch.testing.assert_close(shown[level][s], layer, rtol=1e-11, atol=1e-13)
        (expected * push[s]).sum().backward()
        for ours, its in zip(network.parameters(), twin.gradients(), strict=True):
            torch.testing.assert_close(ours.grad[s], its, rtol=1e-10, atol=1e-12)


@every_kind
def test_a_member_is_the_same_network_in_any_ensemble(kind):
    trees = kind.trees()
    whole = kind.make(trees, seed=2, bias=True, dtype=torch.float64)
    single = kind.make(trees[1], seed=2, bias=True, dtype=torch.float64)
    part = kind.make(trees[1:], seed=2, bias=True, dtype=torch.float64)
    for ours, its, others in zip(
        whole.parameters(), single.parameters(), part.parameters(), strict=True
    ):
        assert ours[1:2].equal(its)
        assert ours[1:].equal(others)
    leaves = rows(trees)
    output = whole(leaves)
    assert single(leaves[1]).shape == output.shape[1:]
    torch.testing.assert_close(single(leaves[1]), output[1], rtol=1e-12, atol=1e-14)
    for level, values in single.activations(leaves[1]).items():
        ours = whole.activations(leaves)[level][1]
        torch.testing.assert_close(values, ours, rtol=1e-12, atol=1e-14)


@every_kind
def test_says_what_it_is(kind):
    trees = kind.trees()
    network = kind.make(trees, seed=2)
    assert network.members == trees.members
    assert network.stacked
    assert network.inputs == len(trees.leaves)
    assert (network.device.type, network.dtype) == ("cpu", torch.float32)
    assert not network.batch_dependent
    leaves = rows(trees)
    output, shown = network(leaves), network.activations(leaves)
    assert list(shown) == list(range(1, network.depth + 1))
    torch.testing.assert_close(shown[network.depth].flatten(2), output)
    for level, values in shown.items():
        nodes = len(kind.shape(network).at_level(level))
        assert values.shape == ((3, 9, nodes * 3) if kind.whole_layers else (3, 9, nodes, 3))
    after = network.rectify(shown)
    assert after[1].equal(shown[1].relu())
    assert after[network.depth].equal(shown[network.depth])
    many = kind.make(trees[0], members=5, seed=2)
    assert many(rows(trees[0]).expand(5, -1, -1)).shape == (5, 9, 3)


@every_kind
def test_a_copy_is_a_network_of_its_own(kind):
    trees = kind.trees()
    network = kind.make(trees, seed=2, bias=True)
    leaves = rows(trees)
    before = network(leaves)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert network(leaves).equal(before)
    assert not twin(leaves).equal(before)
    twin.load_state_dict(network.state_dict())
    assert twin(leaves).equal(before)


@every_kind
def test_trains_and_is_probed(kind):
    trees = kind.trees()
    network = kind.make(trees, seed=2, dtype=torch.float64)
    final = dualnets.train(
        network,
        dualnets.SimCLR(dualnets.InfoNCE(0.5)),
        trees,
        augment=hltm.resample_leaves(0.3),
        steps=2,
        batch=8,
        optimizer=dualnets.SGD(0.1),
        seed=3,
    )
    assert (final.frozen_at < 0).all()
    assert not final.network.weights[0].equal(network.weights[0])
    if network.depth <= trees.topology.depth:
        found = hltm.probe.score(final.network, trees, n=64, seed=4, lags=0)
        whole = "whole layer" if kind.whole_layers else "own block"
        assert {level.candidates for level in found.values()} == {whole}


@every_kind
def test_the_compiled_span_takes_only_what_it_can_run(kind):
    offered = fused.offer(kind.make(kind.trees(), seed=2), dualnets.InfoNCE())
    assert (offered is not None) == kind.compiled


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


@every_kind
def test_bad_sizes_are_refused(kind):
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        kind.make(kind.trees(), units=0, seed=0)
    with pytest.raises(ValueError, match="members=4 is for a single tree"):
        kind.make(kind.trees(), members=4, seed=0)
    with pytest.raises(ValueError, match="seed must be in"):
        kind.make(kind.trees(), seed=-1)


# trees of any shape


@st.composite
def parent_lists(draw):
    return [None, *(draw(st.integers(0, v)) for v in range(draw(st.integers(1, 12))))]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(parents=parent_lists(), seed=st.integers(0, 99), bias=st.booleans())
def test_any_tree_makes_a_network(parents, seed, bias):
    topology = hltm.Topology.from_parents(parents)
    states = [2 + (v * seed) % 3 for v in range(len(topology))]
    trees = trees_of(topology, states, members=2)
    network = dualnets.tree_network(trees, units=2, seed=seed, bias=bias, dtype=torch.float64)
    leaves = rows(trees, 5)
    for s in range(2):
        expected, _ = PlainNetwork(network, s, topology, leaf_states(trees))(leaves[s])
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
        network,
        dualnets.SimCLR(),
        trees,
        augment=hltm.resample_leaves(0.3),
        steps=3,
        batch=8,
        optimizer=dualnets.SGD(0.3),
        seed=3,
    )
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
        (BALANCED, [2] * 14 + [3], r"leaves are read as \[1, 3\] numbers"),
    ],
)  # fmt: skip
def test_a_conv_tree_needs_equal_places(topology, states, reason):
    with pytest.raises(ValueError, match=f"equally branched levels, but {reason}"):
        dualnets.conv_tree(trees_of(topology, states, None), units=3, seed=0)


# wrong trees


def test_a_topology_of_other_leaves_is_refused():
    with pytest.raises(ValueError, match="the topology has 4 leaves, the tree 8"):
        dualnets.tree_network(
            trees_of(BALANCED, 2, None), units=3, topology=hltm.Topology.balanced(2), seed=0
        )


def test_a_wrong_tree_is_the_right_one_on_shuffled_leaves():
    trees = trees_of(BALANCED, 2, members=3)
    right = dualnets.tree_network(trees, units=3, seed=1)
    wrong = dualnets.wrong_tree(trees, units=3, seed=1)
    leaves = rows(trees)
    orders = wrong.leaf_order.tolist()
    shuffled = torch.stack([leaves[s][:, order] for s, order in enumerate(orders)])
    assert wrong(leaves).equal(right(shuffled))
    assert len(set(map(tuple, orders))) == 3  # a shuffle for each member
    assert dualnets.wrong_tree(trees, units=5, seed=1).leaf_order.equal(wrong.leaf_order)
    assert not dualnets.wrong_tree(trees, units=3, seed=2).leaf_order.equal(wrong.leaf_order)


def test_leaves_are_shuffled_evenly_among_those_of_as_many_states():
    states = [2, 3, 2, 3, 3, 2, 2]
    topology = hltm.Topology.from_parents([None, *[0] * 7])
    network = dualnets.wrong_tree(
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
