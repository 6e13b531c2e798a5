"""Effects of do(latent = state) on units, against enumeration of all leaves and on units of known causes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import hltm
from hltm.model.enumeration import all_states
from hltm.probe import intervention_effect
from hltm.probe.causal.contrasts import ContrastSums


class Table:
    """Units that are any functions of the leaves: one number per joint state of the leaves and unit."""

    def __init__(self, tree, units, seed=0, members=None):
        generator = torch.Generator().manual_seed(seed)
        self.counts = [int(k) for k in tree.tables.cardinality[list(tree.leaves)]]
        count = math.prod(self.counts)
        self.values = torch.randn(count, units, generator=generator, dtype=torch.float64)
        if members is not None:
            self.members, self.stacked = tuple(range(members)), True

    def activations(self, leaves):
        index = torch.zeros(leaves.shape[:-1], dtype=torch.int64)
        for x, k in enumerate(self.counts):
            index = index * k + leaves[..., x].long()
        return {"table": self.values[index]}


class Posterior:
    """One unit: the exact posterior of a node's state 1, given the leaves below some node."""

    def __init__(self, tree, node, below=0):
        self.tree, self.node = tree, node
        self.hidden = ~np.isin(np.array(tree.leaves), tree.topology.descendants(below))

    def activations(self, leaves):
        seen = leaves.short().clone()
        seen[..., self.hidden] = -1
        return {"unit": self.tree.posterior(seen, nodes=[self.node]).marginals[..., 0, 1:2]}


TREES = {
    "binary": hltm.symmetric_binary(depth=3, seed=0),
    "any": hltm.random_tree(nodes=8, cardinality=(2, 4), concentration=2.0, seed=5),
}


def exact(tree, source, node):
    """`(K, N)` P(leaves | do), the same given the state, `(N,)` P(leaves), and `(N, U)` activations."""
    leaves = all_states(np.array(source.counts))
    values = source.activations(torch.as_tensor(leaves))["table"]
    states = range(int(tree.tables.cardinality[node]))
    name = tree.topology.names[node]

    def distribution(made):
        return made.posterior(torch.as_tensor(leaves), nodes=[0]).log_evidence.exp()

    do = torch.stack([distribution(tree.intervene({name: s})) for s in states])
    plain = distribution(tree)
    seen = torch.stack([tree.leaf_distribution({name: s}) for s in states])
    return do, seen, plain, values


@pytest.mark.parametrize("name", TREES)
def test_effects_of_any_function_are_those_of_enumeration(name):
    tree = TREES[name]
    source = Table(tree, units=6)
    found = intervention_effect(source, tree, samples=2500, seed=1).layers["table"]
    for t, v in enumerate(found.nodes):
        do, seen, plain, values = exact(tree, source, v)
        mean = plain @ values
        deviation = (plain @ (values - mean).square()).sqrt()
        low, high = found.states["effect"][0, :, t].unbind(-1)
        unit = torch.arange(6)
        effect = ((do @ values)[high, unit] - (do @ values)[low, unit]) / deviation
        error = found.standard_error[0, :, t] + 0.03 * effect.abs()  # that of the deviation
        assert ((found.effect[0, :, t] - effect).abs() < 4.5 * error).all()
        observed = seen @ values / deviation
        pairs = [(a, b) for a in range(len(do)) for b in range(a + 1, len(do))]
        each = torch.stack([observed[b] - observed[a] for a, b in pairs])
        assert (found.selectivity[0, :, t].abs() - each.abs().amax(0)).abs().max() < 0.25
        ratios = {
            "effect": do / plain,
            "selectivity": seen / plain,
            "confounded": (seen - do) / plain,
        }
        for kind, ratio in ratios.items():
            bound = max(float(plain @ (ratio[b] - ratio[a]).square()) ** 0.5 for a, b in pairs)
            measured, wrong = (float(part[0, t]) for part in found.ceiling[kind])
            assert abs(measured - bound) < 5 * wrong + 1e-9
            assert getattr(found, kind)[0, :, t].abs().max() <= bound + 0.25
        # of the same pair of states, what is not the effect is confounded
        low, high = found.states["confounded"][0, :, t].unbind(-1)
        rest = ((seen - do) @ values / deviation)[high, unit] - ((seen - do) @ values / deviation)[
            low, unit
        ]
        assert (found.confounded[0, :, t] - rest).abs().max() < 0.25
    assert found.ceiling["confounded"].value[0, 0] == 0  # the root


def wide(table):
    """One row per unit: each metric's value in a column of its name, and the null of the effect."""
    made = table.pivot(index=["member", "node", "unit"], columns="metric", values="value")
    effect = table[table.metric == "effect"].set_index(["member", "node", "unit"])
    return effect[["standard_error", "null", "ceiling", "parent_baseline"]].join(made)


def test_the_best_function_of_a_latents_own_leaves_is_its_posterior_and_reaches_the_ceiling():
    tree = TREES["binary"]
    found = intervention_effect(
        Posterior(tree, 1, below=1), tree, samples=20_000, seed=1, nodes=["1"], leaves="own"
    )
    layer = found.layers["unit"]
    correlation = float(tree.ceiling([1]).value[0])
    assert abs(float(layer.ceiling["effect"].value[0, 0]) - 2 * correlation) < 5 * float(
        layer.ceiling["effect"].standard_error[0, 0]
    )
    assert abs(float(layer.effect[0, 0, 0]) - 2 * correlation) < 0.05
    assert (
        abs(float(layer.confounded[0, 0, 0])) < 0.05
    )  # its own leaves alone: nothing through the parent


def test_a_unit_of_the_parent_is_told_from_a_unit_of_the_latent():
    tree = hltm.symmetric_binary(depth=3, polarity=0.8, signs="positive", seed=0)
    sibling = intervention_effect(
        Posterior(tree, 0, below=2), tree, samples=4000, seed=1, nodes=["1"]
    )
    row = wide(sibling.table).iloc[0]
    assert row.effect == row.standard_error == row.null == 0  # none of its leaves is below node 1
    assert row.selectivity > 0.8
    assert row.confounded == row.selectivity
    parent = intervention_effect(
        Posterior(tree, 0), tree, samples=4000, seed=1, nodes=["1", "0"]
    ).table
    parent = wide(parent).reset_index("node").set_index("node")
    row = parent.loc["1"]
    assert abs(row.effect - row.parent_baseline) < 1e-9
    assert row.effect < row.selectivity - 0.3
    assert math.isnan(parent.loc["0"].parent_baseline)
    assert abs(parent.loc["0"].confounded) < 0.1
    own = intervention_effect(Posterior(tree, 1), tree, samples=4000, seed=1, nodes=["1"])
    own = wide(own.table).iloc[0]
    assert own.effect > own.parent_baseline + 0.2
    assert own.effect < own.ceiling


def test_the_null_is_met_by_one_in_twenty_units_without_effect():
    trees = hltm.symmetric_binary(depth=2, polarity=0.7, members=600, seed=0)

    class Product:
        def activations(
            self, leaves
        ):  # of two leaves of one latent: the mean is the same in either state
            return {"product": (2.0 * leaves[..., :1] - 1) * (2.0 * leaves[..., 1:2] - 1)}

    found = intervention_effect(Product(), trees, samples=200, seed=1, nodes=["1"]).table
    for kind, rows in found.groupby("metric"):
        share = float((rows.value.abs() > rows.null).mean())
        assert abs(share - 0.05) < 3.3 * (0.05 * 0.95 / 600) ** 0.5, kind
    found = found[found.metric == "effect"]
    unpaired = 1.96 * (2 / 200) ** 0.5  # a null of independent rows is another one
    assert abs(found.null.mean() - unpaired) > 0.01


@pytest.mark.parametrize("states", [2, 3, 4])
def test_the_null_is_that_of_states_exchanged_at_random(states):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(states, 200, generator=generator, dtype=torch.float64).exp()
    sums = ContrastSums()
    for part in numbers.split(60, 1):
        sums.update(part)
    best = []
    for _ in range(2000):
        order = torch.rand(states, 200, generator=generator).argsort(0)
        mean = numbers.gather(0, order).mean(1)
        best.append(float(mean.max() - mean.min()))
    found = sums.result()
    assert abs(float(found.null) / float(np.quantile(best, 0.95)) - 1) < 0.05
    mean = numbers.mean(1)
    assert math.isclose(abs(float(found.value)), float(mean.max() - mean.min()), rel_tol=1e-9)
    d = numbers[mean.argmax()] - numbers[mean.argmin()]
    assert math.isclose(float(found.standard_error), float(d.std() / 200**0.5), rel_tol=1e-9)


def test_members_blocks_and_splits_into_batches(monkeypatch):
    trees = hltm.symmetric_binary(depth=3, members=3, seed=0)

    class Blocks:  # of node v of level 1, the sum and the product of its two leaves
        def activations(self, leaves):
            pairs = leaves.double().unflatten(-1, (4, 2))
            return {1: torch.stack([pairs.sum(-1), pairs.prod(-1), 0 * pairs.sum(-1)], -1)}

    found = intervention_effect(Blocks(), trees, samples=200, seed=1)
    layer = found.layers[1]
    assert layer.effect.shape == (3, 12, 7)
    assert layer.leaves == "own"
    assert (
        len(found.table) == 3 * 4 * 3 * 3
    )  # members, latents of level 1, units of a block, metrics
    assert set(found.table.candidates) == {"own block"}
    assert set(found.table.unit) == {0, 1, 2}
    dead = found.table[found.table.unit == 2]
    assert not dead[["value", "null"]].to_numpy().any()
    # a block follows nothing that is not above or below its latent
    assert (layer.effect[:, :3, 4:] == 0).all()
    single = intervention_effect(Blocks(), trees[1], samples=200, seed=1).table
    other = found.table[found.table.member == 1].reset_index(drop=True)
    import pandas as pd

    pd.testing.assert_frame_equal(single, other)
    monkeypatch.setattr("hltm.probe.batches.ROWS", 90)
    again = intervention_effect(Blocks(), trees, samples=200, seed=1).table
    pd.testing.assert_frame_equal(again, found.table, atol=1e-9)


def test_networks_on_one_tree_and_states_to_set():
    tree = TREES["any"]
    found = intervention_effect(
        Table(tree, 2, members=2), tree, samples=300, seed=1, states=[1, 0]
    ).table
    assert set(found.member) == {0, 1}
    assert set(found.states) == {"0-1"}


def test_a_torch_module():
    tree = TREES["binary"]
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    network = hltm.probe.TorchNetwork(model, ["0", "2"])
    found = intervention_effect(network, tree, samples=100, seed=1, nodes=["0"], layers=["2"])
    assert list(found.layers) == ["2"]
    assert len(found.table) == 2 * 3
    assert " ".join(found.table.columns[:7]) == "member layer level node metric candidates unit"


def test_no_bound_where_an_intervention_makes_leaves_that_cannot_occur():
    tree = hltm.LatentTree.from_parents(
        {"r": None, "a": "r", "x": "a", "y": "r"},
        {"r": [0.5, 0.5], "a": [[1, 0], [0, 1]], "x": [[1, 0], [0, 1]], "y": [[1, 0], [0, 1]]},
    )
    source = Table(tree, units=2)
    every = intervention_effect(source, tree, samples=100, seed=1, nodes=["a"], leaves="all").table
    own = intervention_effect(source, tree, samples=100, seed=1, nodes=["a"], leaves="own").table
    infinite = np.isinf(every.ceiling)
    assert infinite.equals(every.metric != "selectivity")
    assert every.note.str.startswith("no ceiling").equals(infinite)
    assert np.allclose(own.ceiling[own.metric != "confounded"], 2, atol=0.1)
    assert (
        own.ceiling[own.metric == "confounded"] == 0
    ).all()  # own leaves know no more of the parent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 10}, "at least 40"),
        ({"nodes": [7]}, "nodes must be latents, got '7'"),
        ({"nodes": []}, "nodes must be latents, got none"),
        ({"states": [0]}, "two or more of the 2"),
        ({"states": [0, 2]}, "two or more of the 2"),
        ({"states": [0, 0, 1]}, "two or more of the 2"),
        ({"leaves": "some"}, "leaves must be"),
        ({"layers": ["none"]}, "no layer 'none'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refusals(options, message):
    tree = TREES["binary"]
    with pytest.raises(ValueError, match=message):
        intervention_effect(Posterior(tree, 0), tree, **{"samples": 100, "seed": 0, **options})


def test_arrays_and_numbers_that_are_not_finite_are_refused():
    tree = TREES["binary"]

    class Broken:
        def activations(self, leaves):
            return {"top": torch.full((len(leaves), 2), torch.nan)}

    with pytest.raises(TypeError, match="cannot be run on other leaves"):
        intervention_effect(torch.zeros(100, 3), tree, samples=100, seed=0)
    with pytest.raises(ValueError, match="layer 'top' has activation nan"):
        intervention_effect(Broken(), tree, samples=100, seed=0)
