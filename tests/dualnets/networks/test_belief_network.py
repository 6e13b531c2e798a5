"""The network that does belief propagation: its answers are the tree's posteriors, for any tables."""

import pytest
import torch

import hltm
from dualnets.networks.belief_network import belief_network
from hltm.probe.causal.replacing import Replacement


def with_zeros(tree):
    """The same tree with every probability below .2 set to 0."""
    tables = [
        torch.where(t < 0.2, 0.0, t) / torch.where(t < 0.2, 0.0, t).sum(-1, keepdim=True)
        for t in (tree.table(v) for v in range(len(tree.topology)))
    ]
    members = len(tree.members) if tree.stacked else None
    return hltm.LatentTree.from_tables(tree.topology, tables, members)


TREES = {
    "binary": hltm.symmetric_binary(depth=3, members=3, seed=0),
    "any": hltm.random_tree(nodes=14, cardinality=(2, 4), members=2, seed=1),
    "single": hltm.caterpillar(depth=4, seed=2),
    "zeros": with_zeros(hltm.random_tree(nodes=18, cardinality=(2, 4), seed=3)),
    "chain": hltm.random_tree(nodes=5, max_branching=1, cardinality=3, seed=4),
    "extreme": hltm.random_tree(nodes=16, cardinality=3, concentration=0.02, seed=5),
}


def answers(network, leaves, nodes):
    return network(leaves).unflatten(-1, (len(nodes), -1))


@pytest.mark.parametrize("name", TREES)
def test_the_output_is_the_posterior_of_every_latent(name):
    tree = TREES[name]
    nodes = list(tree.latents)
    leaves = tree.sample(40, seed=1).leaves
    found = answers(belief_network(tree, readout=nodes, distractors=2, copies=1), leaves, nodes)
    torch.testing.assert_close(
        found, tree.posterior(leaves, nodes=nodes).marginals, atol=1e-12, rtol=0
    )
    root = belief_network(tree)(leaves)
    exact = tree.posterior(leaves, nodes=[0]).marginals[..., 0, :]
    torch.testing.assert_close(root, exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["any", "zeros"])
def test_missing_leaves_say_nothing(name):
    tree = TREES[name]
    leaves = tree.sample(40, seed=1).leaves.short()
    leaves[..., ::2] = -1
    exact = tree.posterior(leaves, nodes=[0]).marginals[..., 0, :]
    torch.testing.assert_close(belief_network(tree)(leaves), exact, atol=1e-12, rtol=0)


def test_leaves_that_cannot_occur_give_nan_and_no_other_row_does():
    tree = TREES["zeros"]
    cardinality = tree.tables.cardinality[list(tree.leaves)]
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(500, len(cardinality), generator=generator)
    leaves = (numbers * torch.as_tensor(cardinality)).long()
    exact = tree.posterior(leaves, nodes=[0])
    network = belief_network(tree)
    assert (exact.log_evidence == -torch.inf).any()
    assert exact.log_evidence.isfinite().any()
    torch.testing.assert_close(
        network(leaves), exact.marginals[:, 0], atol=1e-12, rtol=0, equal_nan=True
    )
    assert all(a.isfinite().all() for a in network.activations(leaves).values())


@pytest.mark.parametrize("name", ["binary", "any", "zeros"])
def test_units_are_log_likelihoods_of_a_latents_own_leaves(name):
    tree = TREES[name]
    leaves = tree.sample(20, seed=1).leaves
    network = belief_network(tree)
    prior = tree.posterior({}, nodes=list(tree.latents)).marginals
    own = tree.posterior(leaves, nodes=list(tree.latents), given="own").marginals
    for level, shown in network.activations(leaves).items():
        for i, v in enumerate(tree.level(level)):
            k = int(tree.tables.cardinality[v])
            likelihood = torch.where(own[..., v, :k] > 0, own[..., v, :k] / prior[..., v, :k], 0.0)
            likelihood = likelihood / likelihood.amax(-1, keepdim=True)
            found = torch.where(prior[..., v, :k] > 0, shown[..., i, :k].exp(), 0.0)
            found = found / found.amax(-1, keepdim=True)
            torch.testing.assert_close(found, likelihood, atol=1e-12, rtol=0)
            assert (shown[..., i, k:] == 0).all()


@pytest.mark.parametrize("name", TREES)
def test_messages_of_other_leaves_give_the_posterior_of_swapped_leaves(name):
    tree = TREES[name]
    network = belief_network(tree, distractors=1, copies=1)
    base, source = tree.sample(60, seed=1).leaves, tree.sample(60, seed=2).leaves
    shown = network.activations(source)
    for v in tree.latents:
        level = int(tree.topology.level[v])
        at = list(tree.level(level)).index(v)
        units = torch.zeros(shown[level].shape[-2:], dtype=torch.bool)
        k = max(int(tree.tables.cardinality[u]) for u in tree.level(level))
        units[at, :k] = True
        own = [x for x, leaf in enumerate(tree.leaves) if leaf in tree.topology.descendants(v)]
        mixed = base.clone()
        mixed[..., own] = source[..., own]
        exact = tree.posterior(mixed, nodes=[0]).marginals[..., 0, :]
        found = network.run_with(base, {level: Replacement(units, shown[level])})
        torch.testing.assert_close(found, exact, atol=1e-12, rtol=0, equal_nan=True)
        others = network.run_with(base, {level: Replacement(~units, shown[level])})
        units[at] = True  # with distractors and copies, which nothing reads
        same = network.run_with(base, {level: Replacement(units, shown[level])})
        assert same.equal(found) or name == "zeros"
        if len(tree.level(level)) == 1:
            assert others.equal(network(base))


def test_copies_are_as_informative_as_messages_and_distractors_less():
    trees = TREES["binary"]
    network = belief_network(trees, distractors=1, copies=1)
    shown = network.activations(trees.sample(100, seed=1).leaves)[
        2
    ]  # 2 messages, 1 distractor, 2 copies
    assert shown.shape == (3, 100, 2, 5)
    assert shown[..., :2].equal(shown[..., 3:])
    assert not shown[..., 1].equal(shown[..., 2])


@pytest.mark.parametrize("states", [2, (3, 4)])
def test_patching_finds_what_is_used_and_what_only_follows_the_latent(states, monkeypatch):
    monkeypatch.setattr("hltm.probe.causal.setup.FITTED", 60)
    tree = hltm.random_tree(nodes=12, cardinality=states, members=2, seed=1)
    network = belief_network(tree, distractors=1, copies=1)
    options = {"samples": 60, "seed": 1, "readout": "output", "draws": 1}
    score = {}
    for kind in ("messages", "distractor", "copy"):
        units = {}
        for v in tree.latents:
            k = max(
                int(tree.tables.cardinality[u]) for u in tree.level(int(tree.topology.level[v]))
            )
            places = {"messages": range(k), "distractor": [k], "copy": range(k + 1, 2 * k + 1)}
            units[v] = list(places[kind])
        table = hltm.probe.patch(network, tree, units=units, **options)
        found = table[table.metric.isin(["exact_change", "own_share"])].dropna(subset="value")
        score[kind] = found.value
        assert (found[found.metric == "exact_change"].ceiling - 1).abs().max() < 1e-6
    assert (score["messages"] - 1).abs().max() < 1e-6
    assert (score["distractor"] == 0).all()
    assert (score["copy"] == 0).all()
    shown = {1: network.activations(tree.sample(500, seed=1).leaves)[1]}
    strength = (
        hltm.probe.probe_layers(
            shown, tree, draw=tree.sample(500, seed=1), metrics=["correlation_ratio"], lags=0
        )[1]
        .scores["correlation_ratio"]
        .strength
    )
    k = (shown[1].shape[-1] - 1) // 2
    assert strength[:, :k, 0].equal(strength[:, k + 1 : 2 * k + 1, 0])  # as aligned as what is read


def test_units_of_another_row_that_contradict_the_leaves_are_left_out(monkeypatch):
    monkeypatch.setattr("hltm.probe.causal.setup.FITTED", 60)
    tree = with_zeros(hltm.random_tree(nodes=9, cardinality=3, seed=3))
    network = belief_network(tree, copies=1)
    table = hltm.probe.patch(network, tree, samples=80, seed=1, readout="output", draws=3, units=1)
    counts = table.groupby("node").n.agg("nunique")
    assert counts.eq(1).all()
    rows = table[table.metric == "interchange_accuracy"]
    assert rows.value.between(0, 1).all()
    assert rows.null.between(0, 1).all()
    assert rows.n.min() < 80


def test_members_on_one_tree_and_float32():
    tree = TREES["single"]
    network = belief_network(tree, members=2, dtype=torch.float32)
    leaves = torch.stack([tree.sample(9, seed=s).leaves for s in (1, 2)])
    found = network(leaves)
    assert found.shape == (2, 9, 2)
    assert found.dtype == torch.float32
    exact = torch.stack([tree.posterior(x, nodes=[0]).marginals[:, 0] for x in leaves])
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{"distractors": -1}, {"copies": -1}, {"readout": []}])
def test_refusals(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        belief_network(TREES["single"], **options)


def hidden_leaves(tree, marked, rate=0.5):
    """Leaves `(…, B, X)` int64, the same with some of them `marked`, and which."""
    leaves = tree.sample(30, seed=1).leaves.long()
    hidden = torch.rand(leaves.shape, generator=torch.manual_seed(3)) < rate
    return leaves, leaves.masked_fill(hidden, marked), hidden


def given_others(tree, leaves, kept):
    """`(…, B, X, K)` P(leaf x | leaves x' with kept[x, x']) by `tree.posterior`, one leaf at a time."""
    found = []
    for x, leaf in enumerate(tree.leaves):
        evidence = leaves.masked_fill(~kept[x], -1)
        found.append(tree.posterior(evidence, nodes=[leaf]).marginals[..., 0, :])
    most = max(own.shape[-1] for own in found)
    return torch.stack(
        [torch.nn.functional.pad(own, (0, most - own.shape[-1])) for own in found], -2
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", TREES)
def test_it_attains_the_bayes_loss_of_missing_leaves(name, dtype):
    tree = TREES[name]
    leaves, marked, hidden = hidden_leaves(tree, -1)
    exact = tree.posterior(marked, nodes=tree.leaves).marginals
    network = belief_network(tree, readout=tree.leaves, dtype=dtype)
    tolerance = {"atol": 1e-12 if dtype == torch.float64 else 1e-6, "rtol": 0}

    def losses(probabilities):
        return -probabilities.double().gather(-1, leaves[..., None])[..., 0].log()[hidden]

    for missing in (marked, hidden_leaves(tree, 255)[1], hidden_leaves(tree, 65535)[1]):
        found = answers(network, missing, tree.leaves)
        torch.testing.assert_close(found.double(), exact[..., : found.shape[-1]], **tolerance)
        precise = {"atol": 1e-9 if dtype == torch.float64 else 1e-5, "rtol": 0}
        torch.testing.assert_close(losses(found).mean(), losses(exact).mean(), **precise)
        at_leaves = network.positions(missing).exp()
        torch.testing.assert_close(losses(at_leaves).mean(), losses(exact).mean(), **precise)
    missing = tree.sample(30, seed=1).leaves.masked_fill(hidden, 255)  # as training marks them
    assert missing.dtype == torch.uint8
    assert network(missing).equal(network(marked))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", TREES)
def test_positions_are_exact_given_the_other_leaves_or_those_before(name, causal):
    tree = TREES[name]
    leaves, marked, _ = hidden_leaves(tree, -1, rate=0.3)
    count = len(tree.leaves)
    kept = torch.ones(count, count, dtype=torch.bool)
    kept = kept.tril(-1) if causal else ~torch.eye(count, dtype=torch.bool)
    network = belief_network(tree, copies=1, causal=causal)
    for given in (leaves, marked):
        exact = given_others(tree, given, kept)
        found = network.positions(given)
        assert found.shape == exact.shape
        torch.testing.assert_close(found.exp(), exact, atol=1e-12, rtol=0)
    short = belief_network(tree, causal=causal, dtype=torch.float32).positions(marked)
    torch.testing.assert_close(short.exp().double(), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TREES)
def test_leaf_by_leaf_the_probabilities_multiply_to_that_of_all(name):
    tree = TREES[name]
    leaves = tree.sample(30, seed=1).leaves.long()
    found = belief_network(tree, causal=True).positions(leaves).gather(-1, leaves[..., None])
    exact = tree.posterior(leaves, nodes=[0]).log_evidence
    torch.testing.assert_close(found.sum((-2, -1)), exact, atol=1e-10, rtol=0)


def test_positions_given_leaves_that_cannot_occur_are_nan():
    equal = torch.eye(3).double()
    tables = [torch.ones(1, 3).double() / 3, equal, equal, equal]
    tree = hltm.LatentTree.from_tables(hltm.Topology.balanced(1, branching=3), tables)
    rows = torch.tensor([[0, 0, 0], [0, 1, 0]])
    known = torch.tensor([1.0, 0, 0]).double()
    both = belief_network(tree).positions(rows)
    before = belief_network(tree, causal=True).positions(rows)
    assert both[0].exp().equal(known.expand(3, 3))
    assert both[1, 0].isnan().all()
    assert both[1, 1].exp().equal(known)
    assert before[0, 1:].exp().equal(known.expand(2, 3))
    assert before[1, 1].exp().equal(known)
    assert before[1, 2].isnan().all()
