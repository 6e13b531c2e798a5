"""Patched and ablated networks against exact answers, on a network whose use of every unit is known."""

import numpy as np
import pytest
import torch
from torch import nn

import hltm
from hltm.probe import ablate, patch
from hltm.probe.causal.chosen_units import other_units
from hltm.probe.causal.grouped_sums import GroupedSums
from hltm.probe.causal.scores import CHANGES


class OneLevel:
    """Belief propagation on a star: each leaf's message, a copy of it, and a constant."""

    def __init__(self, tree):
        self.tree = tree
        self.log = torch.stack([tree.table(v).log() for v in tree.leaves])  # (X, K, K)

    def activations(self, leaves):
        one_hot = nn.functional.one_hot(leaves.long(), 2).double()
        message = torch.einsum("...xj,xkj->...xk", one_hot, self.log).flatten(-2)
        return {"messages": torch.cat([message, message, 0 * message[..., :1]], -1)}

    def run_with(self, leaves, replace):
        shown = hltm.probe.causal.replacing.replaced(
            self.activations(leaves)["messages"], replace.get("messages")
        )
        read = shown[..., : shown.shape[-1] // 2].unflatten(-1, (-1, 2))
        return (read.sum(-2) + self.tree.table(0).log()).softmax(-1)


@pytest.fixture
def few(monkeypatch):
    """Fewer rows to choose units and to fit the readout on."""
    monkeypatch.setattr("hltm.probe.causal.setup.FITTED", 256)


STAR = hltm.symmetric_binary(depth=1, branching=4, polarity=(0.4, 0.8), seed=0)
ROOT = {"0": list(range(8))}  # the messages of all leaves


def value(table, metric, **where):
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    return table[table.metric == metric].iloc[0]


def test_all_messages_are_used_and_copies_of_them_are_not():
    source = OneLevel(STAR)
    used = patch(source, STAR, samples=400, seed=1, units=ROOT, readout="output")
    for metric in (
        "exact_change",
        "own_change",
        "own_share",
        "change_correlation",
        "interchange_accuracy",
    ):
        row = value(used, metric)
        assert abs(row.value - 1) < 1e-9
        assert abs(row.ceiling - 1) < 1e-9
        assert row.units == 8
        assert row.n == 400
        assert row.candidates == "given"
    copies = patch(
        source, STAR, samples=400, seed=1, units={"0": list(range(8, 16))}, readout="output"
    )
    assert value(copies, "exact_change").value == value(copies, "own_change").value == 0
    assert value(copies, "change_correlation").value == 0
    # other units in random sets are messages for half, so the null is above what is never read
    assert value(copies, "exact_change").null > 0
    # but both follow the latent equally well
    strength = hltm.probe.CorrelationRatio()
    draw = STAR.sample(1000, seed=3)
    strength.update(source.activations(draw.leaves)["messages"].T[None], draw.root[None, None])
    found = strength.result()[0, :, 0]
    assert found[:8].equal(found[8:16])
    assert found[:8].min() > 0.3
    assert found[16] == 0


def test_states_that_are_equally_likely_up_to_rounding_are_both_right():
    tree = hltm.symmetric_binary(
        depth=1, branching=4, polarity=0.6, seed=0
    )  # two leaves against two
    table = patch(OneLevel(tree), tree, samples=200, seed=1, units=ROOT, readout="output", draws=0)
    assert value(table, "interchange_accuracy").value == 1


def test_a_change_where_the_exact_one_is_almost_none_stays_a_number_to_read():
    numbers = torch.tensor([[[50.0, 1.0, 1e-9, 0.0, 1e-12, 0.0, 9.0]]], dtype=torch.float64)
    for name in ("exact_change", "change_correlation"):
        assert 0 <= float(CHANGES[name](numbers)) < 0.1
    assert CHANGES["own_change"](numbers).isnan()  # the network's own answer does not change at all
    away = numbers * torch.tensor([1, 1, -1e9, 0, 1e12, 0, 1])
    assert float(CHANGES["exact_change"](away)) == pytest.approx(-1)


def test_part_of_the_messages_makes_part_of_the_change():
    half = {"0": [0, 1, 2, 3]}
    table = patch(OneLevel(STAR), STAR, samples=400, seed=1, units=half, readout="output")
    row = value(table, "exact_change")
    assert 0.1 < row.value < 0.95
    assert 0 < row.standard_error < 0.1


def test_scores_are_those_of_the_formulas_by_hand():
    source, rows = OneLevel(STAR), 60
    table = patch(
        source, STAR, samples=rows, seed=7, units={"0": [0, 1, 5]}, readout="output", draws=0
    )
    draw = STAR.draw(2 * rows, seed=7, stream=hltm.Stream.EVALUATION)
    base, other = draw.leaves[:rows], draw.leaves[rows:]
    before = STAR.posterior(base, nodes=[0]).marginals[:, 0]
    exact = STAR.posterior(other, nodes=[0]).marginals[:, 0] - before
    log = source.activations(base)["messages"].clone()
    log[:, [0, 1, 5]] = source.activations(other)["messages"][:, [0, 1, 5]]
    after = (log[:, :8].unflatten(-1, (-1, 2)).sum(-2) + STAR.table(0).log()).softmax(-1)
    change = after - before
    expected = {
        "exact_change": 2 * (change * exact).sum() / (change.square().sum() + exact.square().sum()),
        "own_change": 2 * (change * exact).sum() / (change.square().sum() + exact.square().sum()),
        "own_share": (change * exact).sum() / exact.square().sum(),
        "change_correlation": (change * exact).sum() / (change.norm() * exact.norm()),
        "interchange_accuracy": (after.argmax(1) == (before + exact).argmax(1)).double().mean(),
    }
    for metric, number in expected.items():
        row = value(table, metric)
        assert abs(row.value - float(number)) < 1e-9
        assert np.isnan(row.null)
        assert row.note == "draws is 0"


def deep(tree, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(len(tree.leaves), 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)
    )


def test_a_torch_module_with_a_linear_probe_and_a_whole_layer(few):
    tree = hltm.symmetric_binary(depth=2, seed=0)
    network = hltm.probe.TorchNetwork(deep(tree), ["1", "3"])
    every = patch(network, tree, samples=300, seed=1, layers=["1"], units=12, nodes=["0"])
    assert (
        abs(value(every, "own_change").value - 1) < 1e-9
    )  # all that the network does of the root's leaves
    assert value(every, "own_change").note == "fewer other units than chosen ones"
    for units, draws, note in (
        (6, 2, "the null is of 1 other set of units"),
        (11, 2, "fewer other units than chosen ones"),
        (1, 12, "the null is of 11 other sets of units"),
        (1, 11, ""),
    ):
        options = {"samples": 40, "seed": 1, "layers": ["1"], "nodes": ["0"]}
        some = ablate(network, tree, units=units, draws=draws, **options)
        assert value(some, "drop").note == note
    assert np.isnan(value(some, "exact_drop").ceiling)
    assert 0.5 < value(every, "exact_change").value < 1  # of a linear probe of a random network
    table = patch(network, tree, samples=60, seed=1, units=2, draws=4)
    assert set(table.layer) == {"1", "3"}
    assert len(table) == 2 * 3 * 5
    assert set(table.candidates) == {"best 2"}
    assert table.null.notna().all()
    assert (table.note == "").all()
    same = patch(network, tree, samples=60, seed=1, units=2, draws=4)
    assert same.equals(table)


def test_a_bare_module_is_patched_in_all_of_its_parts(few):
    tree = hltm.symmetric_binary(depth=2, seed=0)
    model = deep(tree)
    options = {"samples": 100, "seed": 1, "draws": 2}
    found = patch(model, tree, **options)
    assert set(found.layer) == {"0", "1", "2", "3", "4"}
    named = patch(hltm.probe.TorchNetwork(model, ["3"]), tree, **options)
    same = found[found.layer == "3"].reset_index(drop=True)
    rows = same.metric.isin(["own_change", "own_share"])  # the random units are others
    assert same[rows].value.equals(named[rows].value)
    effects = hltm.probe.intervention_effect(model, tree, samples=100, seed=1, layers=["3"])
    assert len(effects.table) == 3 * 6 * 3


def test_the_best_units_are_those_of_the_metric():
    tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    network = hltm.probe.TorchNetwork(model, ["0"])
    table = patch(network, tree, samples=300, seed=1, units=2, nodes=["1"], metric="correlation")
    own = patch(network, tree, samples=300, seed=1, units={"1": [0, 1]})  # the leaves below node 1
    assert value(table, "own_change").value == value(own, "own_change").value == pytest.approx(1)


def test_shares_of_units_of_a_linear_layer_add_up_to_one(few):
    tree = hltm.symmetric_binary(depth=2, seed=0)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    network = hltm.probe.TorchNetwork(model, ["0"], encode=lambda leaves: leaves.double())
    options = {"samples": 200, "seed": 1, "leaves": "own", "draws": 0}
    shares = [
        value(patch(network, tree, units={"1": [u]}, **options), "own_share").value
        for u in range(5)
    ]
    assert sum(shares) == pytest.approx(1, abs=1e-9)
    assert max(map(abs, shares)) > 0.3
    every = patch(network, tree, units={"1": range(5)}, **options)  # no other leaves come along
    assert value(every, "own_change").value == pytest.approx(1)
    assert (
        value(
            patch(network, tree, units={"1": range(5)}, **{**options, "leaves": "all"}),
            "own_change",
        ).value
        < 0.5
    )


def test_members_are_those_of_single_runs():
    trees = hltm.symmetric_binary(depth=1, branching=4, polarity=0.6, members=3, seed=0)

    class Members:
        members, stacked = trees.members, True

        def __init__(self):
            self.single = [OneLevel(trees[s]) for s in range(3)]

        def activations(self, leaves):
            each = [
                one.activations(x)["messages"] for one, x in zip(self.single, leaves, strict=True)
            ]
            return {"messages": torch.stack(each)}

        def run_with(self, leaves, replace):
            found = []
            for s, one in enumerate(self.single):
                own = {
                    k: type(r)(*(part[s if len(part) > 1 else 0] for part in r))
                    for k, r in replace.items()
                }
                found.append(one.run_with(leaves[s], own))
            return torch.stack(found)

    options = {"samples": 200, "seed": 1, "units": {"0": [0, 3]}, "readout": "output", "draws": 0}
    together = patch(Members(), trees, **options)
    single = patch(OneLevel(trees[1]), trees[1], **options)
    # the member's address makes the rows
    found = together[together.member == 1].reset_index(drop=True)
    assert found.drop(columns="member").equals(single.drop(columns="member"))
    dropped = ablate(Members(), trees, **options)
    assert set(dropped.member) == {0, 1, 2}


def test_ablation_against_the_formula_by_hand_and_the_exact_drop():
    source, rows = OneLevel(STAR), 500
    draw = STAR.draw(rows, seed=7, stream=hltm.Stream.EVALUATION)
    shown = source.activations(draw.leaves)["messages"]
    before = STAR.posterior(draw.leaves, nodes=[0]).marginals[:, 0]

    def correlation(answer):
        return np.corrcoef(answer[:, 1], draw.root)[0, 1]

    for by, fill in (("zero", 0.0), ("mean", None)):
        table = ablate(
            source, STAR, samples=rows, seed=7, units={"0": [0, 1]}, by=by, readout="output"
        )
        row = value(table, "drop")
        changed = shown.clone()
        mean = source.activations(
            STAR.draw(2048, seed=7, stream=hltm.Stream.EVALUATION, start=2 * rows).leaves
        )["messages"].mean(0)
        changed[:, :2] = mean[:2] if fill is None else fill
        after = (changed[:, :8].unflatten(-1, (-1, 2)).sum(-2) + STAR.table(0).log()).softmax(-1)
        assert abs(row.value - (correlation(before) - correlation(after))) < 1e-9
        assert abs(row.ceiling - correlation(before)) < 1e-9  # all units out: one answer for all
        assert abs(value(table, "exact_drop").value - correlation(before)) < 1e-9
    copies = ablate(
        source, STAR, samples=rows, seed=7, units={"0": [8, 9]}, by="resample", readout="output"
    )
    assert value(copies, "drop").value == 0 < value(copies, "drop").null


def test_swapped_leaves_that_cannot_occur_are_left_out():
    tree = hltm.LatentTree.from_parents(
        {"r": None, "a": "r", "x": "a", "y": "r", "w": "r"},
        {
            "r": [0.5, 0.5],
            "a": [[1, 0], [0.2, 0.8]],
            "x": [[1, 0], [0, 1]],
            "y": [[0.9, 0.1], [0, 1]],
            "w": [[0.5, 0.5], [0.4, 0.6]],
        },
    )
    network = hltm.probe.TorchNetwork(deep(tree), ["1"])
    table = patch(network, tree, samples=400, seed=1, units=3)
    kept = {node: int(rows.n.iloc[0]) for node, rows in table.groupby("node")}
    assert kept["r"] == 400
    assert 200 < kept["a"] < 400
    assert table.value.notna().all()


def test_random_sets_have_the_same_size_and_leave_out_the_chosen():
    chosen = torch.zeros(2, 9, dtype=torch.bool)
    chosen[0, :2] = chosen[1, 2:4] = True
    block = torch.arange(9) < 5
    generator = torch.Generator().manual_seed(0)
    for candidates, reached in (
        (block, block),
        (torch.arange(9) < 3, torch.ones(9, dtype=torch.bool)),
    ):
        sets = other_units(chosen, candidates, 30, generator)
        assert all((each.sum(1) == 2).all() for each in sets)
        assert not any((each & chosen).any() for each in sets)
        assert (torch.stack(sets).any(0) | chosen).eq(reached).all()
    every = torch.ones(1, 4, dtype=torch.bool)
    assert other_units(every, every[0], 5, generator) == []


def test_the_jackknife_gives_the_standard_error_of_a_mean_and_a_ratio():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 1000, 2, generator=generator, dtype=torch.float64) + 0.5
    sums = GroupedSums()
    for part in x.split(300, 1):
        sums.update(part)
    found = sums.estimate(lambda f: f[..., 0] / f[..., 1])
    spread = float(found.value.std())  # over 400 members
    assert abs(float(found.standard_error.mean()) / spread - 1) < 0.12


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"samples": 20}, ValueError, "at least 40"),
        ({"nodes": ["1"]}, ValueError, "nodes must be latents"),
        ({"target": "1"}, ValueError, "nodes must be latents"),
        ({"units": 0}, ValueError, "at least 1"),
        ({"units": 40}, ValueError, "17 candidates"),
        ({"units": {"0": [17]}}, ValueError, "unit 17"),
        ({"units": {"0": []}}, ValueError, "no units"),
        ({"units": {"zero": [1]}}, KeyError, "zero"),
        ({"units": "best"}, TypeError, "a number"),
        ({"metric": "none"}, ValueError, "unknown metric"),
        ({"readout": "probe"}, ValueError, "readout must be"),
        ({"readout": lambda output: output[..., 0]}, ValueError, "expected"),
        ({"draws": -1}, ValueError, "draws"),
        ({"layers": ["none"]}, ValueError, "no layer"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"leaves": "some"}, ValueError, "leaves must be"),
    ],
)
def test_refusals(options, kind, message):
    with pytest.raises(kind, match=message):
        patch(OneLevel(STAR), STAR, **{"samples": 100, "seed": 0, **options})


def test_other_refusals():
    class Shown:
        def activations(self, leaves):
            return {"top": leaves.float()}

    with pytest.raises(TypeError, match="cannot be replaced"):
        patch(Shown(), STAR, samples=100, seed=0)
    with pytest.raises(ValueError, match="by must be"):
        ablate(OneLevel(STAR), STAR, samples=100, seed=0, by="noise")
    other = hltm.random_tree(nodes=6, cardinality=3, seed=0)
    with pytest.raises(ValueError, match="two states"):
        patch(Shown(), other, samples=100, seed=0, metric="correlation")
