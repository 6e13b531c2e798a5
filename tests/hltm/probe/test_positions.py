"""Vectors at positions against direct computations: ancestors, ceilings of what a position sees, members."""

import numpy as np
import pytest
import torch
from torch import nn

import hltm
from hltm.probe import LinearProbe, TorchNetwork, measure_positions
from hltm.probe.visible import seen_posteriors

TREES = hltm.balanced(depth=2, branching=2, cardinality=3, concentration=0.4, members=2, seed=0)


class Stub:
    """A network of two members whose vectors at positions are what a function of its leaves gives."""

    stacked, members = True, (0, 1)

    def __init__(self, layers, causal=False):
        self.layers, self.causal = layers, causal

    def activations(self, leaves):
        return {label: make(leaves) for label, make in self.layers.items()}


def noisy(leaves):
    """`(S, B, X, 2)` two units that follow the leaf at their position and its neighbour to the right."""
    x = leaves.double()
    return torch.stack([x + 0.3 * x.roll(1, -1).sin(), x.roll(-1, -1) ** 2 - x], -1)


def joint(tree, node):
    """`(K, K_1, …, K_X)` P(node, leaves), by enumeration."""
    shape = tree.tables.cardinality[list(tree.leaves)].tolist()
    given = tree.leaf_distribution(node).unflatten(-1, shape)
    prior = tree.posterior({}, nodes=node).marginals.flatten()
    return prior.reshape(-1, *[1] * len(shape)) * given


@pytest.mark.parametrize("context", ["all", "before", "through"])
def test_posteriors_of_what_is_seen_are_those_of_the_enumerated_joint(context):
    draw = TREES.sample(40, seed=1)
    found = seen_posteriors(TREES, draw, [0, 2], context)
    for s, node, i in [(0, 0, 0), (0, 2, 3), (1, 2, 1), (1, 0, 2)]:
        probability = joint(TREES[s], node)
        seen = {"all": 4, "before": i, "through": i + 1}[context]
        if seen < 4:
            probability = probability.sum(tuple(range(1 + seen, 5)))
        leaves = draw.leaves[s, :, :seen].long()
        expected = probability[(slice(None), *leaves.T)].reshape(3, -1).expand(3, 40)
        expected = expected / expected.sum(0)
        place = 0 if context == "all" else i
        assert torch.allclose(found[s, place, [0, 2].index(node)], expected, rtol=1e-10, atol=1e-12)


def test_one_call_measures_every_position_against_its_own_ancestors():
    draw = TREES.sample(600, seed=1)
    network = Stub({1: noisy, 7: lambda x: noisy(x).flip(2), "whole": lambda x: x.double()})
    table = measure_positions(network, TREES, draw=draw, lags=20)
    assert table.layer.unique().tolist() == [1, 7]  # "whole" has no positions
    assert len(table) == 2 * 2 * 4 * 2 * 2  # members, layers, positions, levels, metrics
    a = noisy(draw.leaves)
    for row in table[table.layer == 1].itertuples():
        node = (row.position // 2 + 1) if row.level == 1 else 0
        assert row.node == TREES.topology.names[node]
        z = draw.states[row.member, :, node]
        own = a[row.member, :, row.position].T
        if row.metric == "linear_probe":
            probe = LinearProbe(3)
            probe.update(own, z[None].long())
            assert row.value == pytest.approx(float(probe.result().correlation[0]), abs=1e-9)
            assert row.unit == -1
        else:
            square = [
                sum(
                    (z == k).double().mean() * (u[z == k].mean() - u.mean()) ** 2
                    for k in z.unique()
                )
                / u.var(correction=0)
                for u in own
            ]
            assert row.value == pytest.approx(float(max(square)) ** 0.5, abs=1e-9)
            assert row.unit == int(torch.tensor(square).argmax())
        assert row.n == 600
    flipped = table[(table.layer == 7) & (table.position == 0) & (table.metric != "linear_probe")]
    assert set(flipped.node) == {"0", "1"}  # the vector of the last leaf, at the first position


@pytest.mark.parametrize("context", ["all", "before", "through"])
def test_ceilings_are_maximal_correlations_with_what_is_seen(context):
    draw = TREES.sample(20_000, seed=2)
    network = Stub({"x": noisy})
    table = measure_positions(network, TREES, draw=draw, lags=0, context=context)
    table = table[table.metric == "linear_probe"]
    for s in range(2):
        for node in (0, 1):
            p = joint(TREES[s], node)
            for i in range(2):
                seen = {"all": 4, "before": i, "through": i + 1}[context]
                q = p.sum(tuple(range(1 + seen, 5))) if seen < 4 else p
                q = q.reshape(3, -1)
                # the second singular value of P(z, x) / sqrt(P(z) P(x)) is the maximal correlation
                scale = (q.sum(1, keepdim=True) * q.sum(0)).sqrt()
                values = torch.linalg.svdvals(q / scale.where(scale > 0, 1.0))
                expected = float(values[1]) if len(values) > 1 else 0.0
                row = table[(table.member == s) & (table.position == i) & (table.node == str(node))]
                assert float(row.ceiling.iloc[0]) == pytest.approx(expected, abs=0.03)


def test_a_causal_network_is_compared_with_the_leaves_before_a_position():
    draw = TREES.sample(300, seed=1)
    causal = measure_positions(Stub({"x": noisy}, causal=True), TREES, draw=draw, lags=0)
    before = measure_positions(Stub({"x": noisy}), TREES, draw=draw, lags=0, context="before")
    assert causal.equals(before)
    assert (
        causal[causal.position == 0].ceiling.max() < 1e-6
    )  # nothing is known before the first leaf


def test_the_initial_source_has_the_context_of_the_source():
    draw = TREES.sample(300, seed=1)
    before = {1: noisy(draw.leaves).flip(2)}
    causal = Stub({1: noisy}, causal=True)
    table = measure_positions(causal, TREES, draw=draw, initial=before, lags=20)
    alone = measure_positions(before, TREES, draw=draw, context="before", lags=20)
    assert np.allclose(table.initial, alone.value, atol=1e-9)
    expected = (table.value - alone.value) / (alone.ceiling - alone.value)
    room = alone.ceiling > alone.value
    assert np.allclose(table.gap_closed[room], expected[room], atol=1e-9)
    assert table.gap_closed[~room].isna().all()


def test_leaves_at_different_depths_have_their_own_ancestors():
    tree = hltm.caterpillar(depth=3, seed=0)
    draw = tree.sample(200, seed=0)
    table = measure_positions({"x": draw.leaves[..., None].float()}, tree, draw=draw, lags=10)
    for i, leaf in enumerate(tree.leaves):
        node, expected = int(leaf), []
        while node:
            node = int(tree.topology.parent[node])
            expected.append(tree.topology.names[node])
        some = table[(table.position == i) & (table.metric == "correlation")]
        assert some.node.tolist() == expected


def test_a_torch_transformer_with_its_layers_by_name():
    tree = hltm.symmetric_binary(depth=2, seed=0)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=8, batch_first=True)
    model = nn.Sequential(nn.Embedding(2, 8), layer)
    network = TorchNetwork(model, ["0", "1"], encode="tokens", positions="leaves")
    table = measure_positions(network, tree, samples=300, seed=0, lags=10, metrics="selectivity")
    assert table.layer.unique().tolist() == ["0", "1"]
    assert table.position.unique().tolist() == [0, 1, 2, 3]
    assert table.ceiling.notna().all()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ({"x": torch.zeros(300, 5)}, {}, r"no layer has a vector at each of the 4 leaves"),
        ({"x": torch.zeros(300, 4, 2)}, {"context": "after"}, "context must be one of all, before"),
        ({"x": torch.zeros(300, 4, 2)}, {"lags": -1}, "lags must be at least 0, got -1"),
        ({"x": torch.full((300, 4, 2), torch.nan)}, {}, "expected finite numbers"),
        ({"x": torch.zeros(299, 4, 2)}, {}, "expected 300 rows on axis 0"),
        ({"x": torch.zeros(300, 4, 2)}, {"metrics": "magic"}, "unknown metric 'magic'"),
    ],
)
def test_bad_input_is_refused(source, options, message):
    tree = hltm.symmetric_binary(depth=2, seed=0)
    with pytest.raises(ValueError, match=message):
        measure_positions(source, tree, draw=tree.sample(300, seed=0), **{"lags": 20} | options)


def test_measure_takes_all_positions_of_a_levels_layer_together():
    class Positions(Stub):
        def positions(self, leaves):
            raise AssertionError("its activations are probed")

    options = {"draw": TREES.sample(500, seed=0), "lags": 20, "nodes": ["1", "2"]}
    by_level = hltm.probe.measure(Positions({1: noisy}), TREES, **options)
    named = hltm.probe.measure(Stub({"1": noisy}), TREES, **options)
    assert set(by_level.candidates) == {"whole layer"}
    assert by_level[by_level.node != ""].value.tolist() == named[named.node != ""].value.tolist()
    with pytest.raises(ValueError, match="a block for each node of level 1"):
        hltm.probe.measure(Stub({1: noisy}), TREES, **options)
