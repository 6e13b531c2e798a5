"""Trees from leaf distances: 0 for every tree by both methods; draws; layers; what is refused."""

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hltm
from hltm.formats.newick import topology_from_newick
from hltm.probe import recover_table, recover_tree, robinson_foulds
from hltm.probe.tree_recovery.exact_distances import true_splits

METHODS = ("neighbour-joining", "recursive-grouping")
TREE = hltm.symmetric_binary(depth=4, polarity=(0.6, 0.95), seed=0)
DRAW = TREE.sample(20_000, seed=1)


def path_distances(tree):
    """Every pair of leaves by walking a graph whose edges hold -log |det| of tables, one at a time."""
    graph, names = nx.Graph(), tree.topology.names
    prior = {0: tree.table(names[0]).numpy()}
    for v in range(1, len(names)):
        p = int(tree.topology.parent[v])
        table = tree.table(names[v]).numpy()
        prior[v] = prior[p] @ table
        length = -np.log(abs(np.linalg.det(table)))
        length -= (np.log(prior[p]).sum() - np.log(prior[v]).sum()) / 2
        graph.add_edge(p, v, length=length)
    far = dict(nx.all_pairs_dijkstra_path_length(graph, weight="length"))
    return np.array([[far[a][b] for b in tree.leaves] for a in tree.leaves])


@given(
    seed=st.integers(0, 10**6),
    nodes=st.integers(4, 40),
    branching=st.integers(2, 6),
    states=st.integers(2, 5),
    concentration=st.sampled_from([0.3, 1.0, 5.0]),
)
def test_exact_distances_of_any_tree_give_that_tree(seed, nodes, branching, states, concentration):
    tree = hltm.random_tree(
        nodes=nodes, max_branching=branching, cardinality=states, concentration=concentration, seed=seed
    )  # fmt: skip
    if len(tree.leaves) < 2:
        return
    for method in METHODS:
        found = recover_tree(tree, tree, method=method, permutations=1)
        assert found.robinson_foulds == 0, str(found)
        assert found.splits == len(true_splits(tree.tables))
        assert bool(found.right.all())
        # the lengths are those of the paths: distances come back from the tree that was found
        graph = found.to_networkx()
        far = dict(nx.all_pairs_dijkstra_path_length(graph, weight="length"))
        names = [tree.topology.names[v] for v in tree.leaves]
        again = np.array([[far[a][b] for b in names] for a in names])
        assert np.allclose(again, found.distances, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_given_distances_of_floats_do_as_well(method):
    tree = hltm.random_tree(nodes=50, max_branching=4, cardinality=3, seed=5)
    distances = path_distances(tree)
    found = recover_tree(distances, tree, method=method)
    assert found.robinson_foulds == 0
    assert np.allclose(recover_tree(tree, tree).distances, distances, rtol=1e-9)
    shuffled = distances[::-1, ::-1].copy()  # of other leaves: a wrong tree
    assert recover_tree(shuffled, tree, method=method).robinson_foulds > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("polarity", [1e-15, 1e-8, 0.5, 1 - 1e-9, 1 - 1e-14])
def test_polarities_near_0_and_1(method, polarity):
    tree = hltm.symmetric_binary(depth=4, polarity=polarity, seed=0)
    assert recover_tree(tree, tree, method=method, permutations=1).robinson_foulds == 0


@pytest.mark.parametrize("method", METHODS)
def test_polarities_of_all_sizes_in_one_tree(method):
    random = np.random.default_rng(0)
    for seed in range(5):
        shape = hltm.random_tree(nodes=40, max_branching=4, seed=seed).topology
        change = 10.0 ** random.uniform(-13, 0, len(shape))
        rho = np.where(random.random(len(shape)) < 0.5, change, 1 - change)
        tables = [[0.5, 0.5]] + [
            [[(1 + p) / 2, (1 - p) / 2], [(1 - p) / 2, (1 + p) / 2]] for p in rho[1:]
        ]
        tree = hltm.LatentTree.from_tables(shape, tables)
        assert recover_tree(tree, tree, method=method, permutations=1).robinson_foulds == 0


def test_what_leaves_cannot_show_is_not_compared():
    copy, flip, noise = np.eye(2), 1 - np.eye(2), np.array([[0.8, 0.2], [0.3, 0.7]])
    parents = {
        "r": None,
        "a": "r",
        "b": "r",
        "c": "b",
        "A": "a",
        "B": "a",
        "C": "c",
        "D": "c",
        "E": "r",
    }
    tables = dict.fromkeys(parents, noise) | {"r": [0.4, 0.6], "a": flip, "A": copy}
    tree = hltm.LatentTree.from_parents(parents, tables)
    for method in METHODS:
        found = recover_tree(tree, tree, method=method)
        assert found.robinson_foulds == 0
        assert found.splits == 1  # {C, D}; a renames the states of r, and b has two neighbours
    same = hltm.LatentTree.from_parents(parents, dict.fromkeys(parents, copy) | {"r": [0.4, 0.6]})
    assert recover_tree(same, same).splits == 0


def test_two_and_three_leaves_have_no_splits():
    for leaves in (2, 3):
        tree = hltm.balanced(depth=1, branching=leaves, cardinality=3, seed=0)
        found = recover_tree(tree, tree)
        assert (found.robinson_foulds, found.normalised, found.null) == (0, 0.0, 0.0)
        assert len(found.topology) == leaves + 1


@pytest.mark.parametrize("method", METHODS)
def test_states_of_leaves_give_the_tree_and_permuted_columns_the_null(method):
    found = recover_tree(DRAW, TREE, method=method)
    assert found.robinson_foulds == 0
    assert found.null > 0.7
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    mixed = recover_tree(found.distances[order][:, order], TREE, method=method)
    assert mixed.normalised >= mixed.null


def test_edges_that_are_not_there_are_not_found_in_estimates():
    star = hltm.balanced(depth=1, branching=12, transition=[[0.85, 0.15], [0.15, 0.85]])
    wrong = [recover_tree(star.sample(5000, seed=s), star).wrong for s in range(5)]
    assert sum(wrong) <= 1
    draw = star.sample(5000, seed=0)
    assert recover_tree(draw, star, tolerance=0).wrong > 3  # the twin without standard errors


def layers():
    """A linear network on the tree, one unit per latent, and others that hold less or something else."""
    signs = DRAW.states.float() * 2 - 1
    generator = torch.Generator().manual_seed(0)
    for v in reversed(TREE.latents):
        below = TREE.topology.children[v]
        weight = 0.5 + torch.rand(len(below), generator=generator)
        signs[:, v] = signs[:, below] @ weight
    return {
        "linear": signs[:, :15],
        "latents": DRAW.states[:, :15].float(),
        "copies": DRAW.leaves.float(),
        "noise": torch.randn(20_000, 20, generator=generator),
        "constant": torch.ones(20_000, 2),
    }


def test_layers_show_the_trees_that_their_definitions_say():
    shown = layers()
    effect = recover_table(shown, TREE, draw=DRAW, by="effect").set_index("layer")
    prediction = recover_table(shown, TREE, draw=DRAW, by="prediction").set_index("layer")
    assert effect.loc["linear", "robinson_foulds"] == 0
    assert prediction.loc["latents", "robinson_foulds"] == 0
    assert prediction.loc["copies", "robinson_foulds"] == 0
    for nothing in ("copies", "noise", "constant"):
        assert effect.loc[nothing, "splits"] == 0
        assert effect.loc[nothing, "normalised"] == 1
    assert prediction.loc["noise", "splits"] == 0
    assert (effect["n"] == 20_000).all()
    scaled = {"linear": shown["linear"] * torch.logspace(-3, 6, 15) + 5}
    assert recover_tree(scaled, TREE, draw=DRAW).robinson_foulds == 0


def test_members_and_networks():
    trees = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.9), members=2, seed=0)
    draw = trees.sample(5000, seed=1)
    table = recover_table(draw, trees, draw=draw)
    assert table["member"].tolist() == [0, 1]
    assert (table["robinson_foulds"] == 0).all()

    class Sums(torch.nn.Module):
        def forward(self, x):
            pairs = x.unflatten(-1, (-1, 2)).sum(-1)
            return torch.cat([pairs, pairs.unflatten(-1, (-1, 2)).sum(-1)], -1)

    network = hltm.probe.TorchNetwork(torch.nn.Sequential(Sums()), ["0"])
    found = recover_tree(network, trees[0], samples=4000, seed=2)
    assert found.missing <= 1
    assert found.wrong == 0


def test_results_print_compare_and_are_written():
    found = recover_tree(TREE, TREE)
    assert found == recover_tree(TREE, TREE)
    assert found != recover_tree(DRAW, TREE)
    assert str(found).startswith(
        "16 leaves, 13 splits: Robinson-Foulds distance 0 (0 missing, 0 wrong)"
    )
    assert robinson_foulds(topology_from_newick(found.to_newick()), TREE).distance == 0
    assert len(found.figure().axes[0].lines) >= len(found.topology) - 1


def test_500_leaves_take_seconds():
    tree = hltm.random_tree(nodes=500, max_branching=4, seed=3)
    assert recover_tree(tree, tree, permutations=5).robinson_foulds == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_many_leaves_of_a_caterpillar_and_of_a_random_tree(method):
    for tree in (
        hltm.random_tree(nodes=1100, max_branching=5, seed=3),
        hltm.caterpillar(depth=250, seed=0),
    ):
        assert recover_tree(tree, tree, method=method, permutations=5).robinson_foulds == 0


def test_bad_input_is_refused():
    singular = hltm.symmetric_binary(depth=2, polarity=0.0, seed=0)
    mixed = hltm.random_tree(nodes=12, cardinality=(2, 4), seed=1)
    equal_rows = np.array([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.4, 0.25, 0.35]])  # of rank 2
    rank = hltm.balanced(depth=2, transition=equal_rows)
    rare = hltm.balanced(depth=1, branching=3, transition=[[1.0, 0.0], [1.0, 0.0]])
    d = np.ones((16, 16)) - np.eye(16)
    cases = [
        (singular, singular, {}, "singular"),
        (rank, rank, {}, "singular"),
        (mixed, mixed, {}, "one number of states"),
        (rare.sample(100, seed=0), rare, {}, "does not take each"),
        (d[:4, :4], TREE, {}, "shape"),
        (np.where(d > 0, np.inf, 0), TREE, {}, "finite"),
        (np.triu(d), TREE, {}, "symmetric"),
        (hltm.symmetric_binary(depth=4, seed=9).sample(99, seed=0), TREE, {}, "not of this tree"),
        (TREE, TREE, {"method": "upgma"}, "method"),
        (TREE, TREE, {"by": "flip"}, "by must be"),
        (TREE, TREE, {"tolerance": -1}, "tolerance"),
        (TREE, TREE, {"permutations": 0}, "permutations"),
        (layers(), TREE, {"draw": DRAW}, "choose one with layer="),
        (layers(), TREE, {"draw": DRAW, "layer": "x"}, "got layer='x'"),
        (hltm.symmetric_binary(depth=2, seed=0), TREE, {}, "same leaves"),
        (TREE, hltm.symmetric_binary(depth=4, members=2, seed=0), {}, "choose one"),
    ]
    for source, tree, options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            recover_tree(source, tree, **options)
        assert len(str(error.value)) < 300
