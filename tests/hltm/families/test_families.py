"""Families: the shapes they promise, Dirichlet tables that are Dirichlet, numbers by address."""

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tree_strategies import assert_same_tree

import hltm
from hltm import FAMILIES, LatentTree, Topology
from hltm.sampling.philox import Stream, uniform

STAR = Topology.from_parents({"root": None, "a": "root", "b": "root", "c": "root"})
SMALL = {
    "balanced": {"depth": 2, "branching": 3, "cardinality": 3},
    "caterpillar": {"depth": 3},
    "random_hierarchy": {"v": 4, "m": 2, "s": 2, "L": 2, "classes": 3},
    "random_tables": {"topology": STAR, "cardinality": 3},
    "random_tree": {"nodes": 9, "cardinality": (2, 4)},
    "symmetric_binary": {"depth": 2},
}


def test_every_family_is_found_by_its_name():
    folder = Path(hltm.families.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "grammar", "suite"}
    assert set(FAMILIES) == set(SMALL) == files
    assert len(FAMILIES) == len(SMALL)
    for name in FAMILIES:
        assert FAMILIES[name] is getattr(hltm, name)
        assert FAMILIES[name].__name__ == name
    with pytest.raises(KeyError, match="unknown family 'star', expected one of balanced, "):
        FAMILIES["star"]


@pytest.mark.parametrize("name", SMALL)
def test_members_are_independent_trees_with_addresses(name):
    def make(**more):
        return FAMILIES[name](**SMALL[name], **({"seed": 5} | more))

    one, few, many = make(), make(members=1), make(members=4)
    assert (one.stacked, few.stacked, many.stacked) == (False, True, True)
    assert (one.members, many.members) == ((0,), (0, 1, 2, 3))
    assert_same_tree(few[0], one)
    assert_same_tree(many[:1], few)
    assert not many.tables.flat[0].equal(many.tables.flat[3])
    assert_same_tree(make(), one)
    other = make(seed=6).tables.flat
    assert other.shape != one.tables.flat.shape or not other.equal(one.tables.flat)
    assert make(seed=2**64 - 1).sample(2, seed=0).leaves.shape[0] == 2
    with pytest.raises(ValueError, match="seed must be in"):
        make(seed=-1)
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        make(members=0)


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"balanced"}))
def test_the_seed_is_a_required_keyword(name):
    seed = inspect.signature(FAMILIES[name]).parameters["seed"]
    assert seed.kind is inspect.Parameter.KEYWORD_ONLY
    assert seed.default is inspect.Parameter.empty


# Dirichlet tables


def rows_of(concentration, states, members=3000):
    pair = Topology.from_parents([None, 0])
    trees = hltm.random_tables(
        pair, cardinality=states, concentration=concentration, members=members, seed=1
    )
    return trees.table(1)[:, 1].numpy()  # one row of each member: independent


def distance_from_beta(found, a, b):
    """p-value of Kolmogorov and Smirnov below one half: nearer 1, float64 has too few digits."""
    law = stats.beta(a, b)
    return stats.kstest(found[found < 0.5], lambda x: law.cdf(x) / law.cdf(0.5)).pvalue


@pytest.mark.parametrize("concentration", [0.05, 0.5, 1.0, 7.5])
@pytest.mark.parametrize("states", [2, 5])
def test_rows_are_dirichlet(concentration, states):
    rows = rows_of(concentration, states)
    shape = (concentration, (states - 1) * concentration)
    for column in (0, states - 1):
        assert distance_from_beta(rows[:, column], *shape) > 1e-3 / 16
        below = int((rows[:, column] < 0.5).sum())
        chance = stats.beta.cdf(0.5, *shape)
        assert stats.binomtest(below, len(rows), chance).pvalue > 1e-3 / 16
    covariance = np.cov(rows.T)[0, 1]
    assert covariance == pytest.approx(-1 / (states**2 * (states * concentration + 1)), rel=0.15)
    assert distance_from_beta(rows[:, 0], 1.8 * shape[0], 1.8 * shape[1]) < 1e-3 / 16


def test_tables_are_a_function_of_the_addressed_numbers():
    trees = hltm.random_tables(
        STAR, cardinality={"root": 2, "a": 3, "b": 2, "c": 4}, members=2, seed=9
    )
    numbers = uniform(2 + 6 + 4 + 8, seed=9, stream=Stream.TABLES, members=range(2), node=0)
    for member in range(2):
        row = -torch.log(1 - numbers[member, 12:16])
        assert trees[member].table("c")[0].numpy() == pytest.approx(row / row.sum(), rel=1e-12)


def test_a_tiny_concentration_gives_rules_not_nan():
    tree = hltm.random_tables(STAR, cardinality=6, concentration=1e-4, members=50, seed=0)
    flat = tree.tables.flat.unflatten(1, (-1, 6))
    assert flat.isfinite().all()
    assert flat.sum(-1).allclose(torch.ones((), dtype=torch.float64))
    assert float((flat.amax(-1) > 1 - 1e-9).double().mean()) > 0.98
    # a gamma variable grows with its uniform number, also where it is too small for float64
    numbers = uniform(6 * 19, seed=0, stream=Stream.TABLES, members=range(50), node=0)
    assert flat.argmax(-1).equal(numbers.unflatten(1, (-1, 6)).argmax(-1))


def test_a_huge_concentration_gives_uniform_rows():
    tree = hltm.random_tables(STAR, cardinality=4, concentration=1e8, seed=0)
    assert tree.tables.flat.numpy() == pytest.approx(0.25, abs=1e-3)


BAD_TABLES = {
    "one state": ({"cardinality": 1}, "node 'root' has 1 state"),
    "too many": ({"cardinality": (2, 2, 65537, 2)}, "node 'b' has 65537 state"),
    "fraction": ({"cardinality": (2, 2.5, 2, 2)}, "node 'a' has 2.5 state"),
    "too few": ({"cardinality": (2, 2, 2)}, r"expected 4 cardinalities, .* got shape \(3,\)"),
    "missing": ({"cardinality": {"root": 2, "a": 2, "b": 2}}, "got none for node 'c'"),
    "unknown": ({"cardinality": dict.fromkeys(["root", *"abcd"], 2)}, "unknown node 'd'"),
    "zero": ({"concentration": 0.0}, r"concentration must be positive and finite, got 0\.0"),
    "nan": ({"concentration": float("nan")}, "concentration .* got nan"),
    "infinite": ({"concentration": float("inf")}, "concentration .* got inf"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_arguments_of_random_tables(case):
    arguments, message = BAD_TABLES[case]
    with pytest.raises(ValueError, match=message):
        hltm.random_tables(STAR, **arguments, seed=0)


# balanced


def test_balanced_trees_have_the_states_of_their_level():
    tree = hltm.balanced(depth=2, branching=2, cardinality=(5, 3, 2), seed=0)
    assert tree.tables.cardinality.tolist() == [5, 3, 3, 2, 2, 2, 2]
    assert_same_tree(
        hltm.balanced(depth=2, cardinality=3, seed=4),
        hltm.random_tables(Topology.balanced(2), cardinality=3, seed=4),
    )


def test_a_given_transition_is_on_every_edge():
    transition = [[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]
    tree = hltm.balanced(depth=2, branching=3, transition=transition)
    assert tree.table(0).tolist() == pytest.approx([1 / 3] * 3)
    assert all(tree.table(v).tolist() == transition for v in range(1, 13))
    skewed = hltm.balanced(depth=1, transition=transition, prior=[0.5, 0.25, 0.25])
    assert skewed.table(0).tolist() == [0.5, 0.25, 0.25]
    stacked = torch.stack([torch.eye(2), 1 - torch.eye(2)])
    trees = hltm.balanced(depth=1, transition=stacked, members=2)
    assert trees[1].table(2).tolist() == [[0, 1], [1, 0]]
    assert hltm.balanced(depth=1, transition=transition, members=5).tables.flat.shape[0] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0, "seed": 0}, "depth must be at least 1, got 0"),
        ({"depth": 2}, "random tables need a seed"),
        ({"depth": 2, "seed": 0, "cardinality": (2, 2)}, r"expected 1 or 3 cardinalities"),
        ({"depth": 2, "seed": 0, "cardinality": (2, 1, 2)}, "node '1' has 1 state"),
        ({"depth": 2, "seed": 0, "prior": [0.5, 0.5]}, "a prior needs a transition"),
        ({"depth": 2, "transition": [[0.5, 0.5]]}, r"node '1' has shape \(1, 2\)"),
        ({"depth": 2, "transition": 0.5}, "1 state"),
        ({"depth": 2, "transition": [[0.5, 0.6], [0.5, 0.5]]}, r"'1' sums to 1\.1"),
        ({"depth": 2, "transition": np.full((3, 2, 2), 0.5)}, "for 3 trees, members is None"),
    ],
)
def test_bad_balanced_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        hltm.balanced(**arguments)


# caterpillar


@pytest.mark.parametrize(("depth", "branching"), [(1, 2), (4, 2), (3, 4)])
def test_caterpillars_have_a_spine_with_leaves_along_it(depth, branching):
    tree = hltm.caterpillar(depth=depth, branching=branching, cardinality=3, seed=0)
    topology = tree.topology
    assert len(tree.latents) == depth
    assert len(tree.leaves) == depth * (branching - 1) + 1
    assert topology.names == tuple(map(str, range(len(topology))))
    for v in range(depth):
        latent = [c for c in topology.children[v] if c in tree.latents]
        assert latent == ([v + 1] if v + 1 < depth else [])
        assert len(topology.children[v]) == branching
    assert tree.tables.cardinality.tolist() == [3] * len(topology)


@pytest.mark.parametrize(("name", "value"), [("depth", 0), ("branching", 1)])
def test_bad_caterpillars(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least {value + 1}, got {value}"):
        hltm.caterpillar(**({"depth": 3, "seed": 0} | {name: value}))


# random trees


@given(
    nodes=st.integers(2, 60),
    max_branching=st.integers(1, 4),
    low=st.integers(2, 4),
    more=st.integers(0, 3),
    seed=st.integers(0, 2**64 - 1),
)
def test_random_trees_keep_their_bounds(nodes, max_branching, low, more, seed):
    tree = hltm.random_tree(
        nodes=nodes, max_branching=max_branching, cardinality=(low, low + more), seed=seed
    )
    topology = tree.topology
    assert len(topology) == nodes
    assert max(map(len, topology.children)) <= max_branching
    assert set(tree.tables.cardinality.tolist()) <= set(range(low, low + more + 1))
    assert topology.names == tuple(map(str, range(nodes)))
    again = Topology.from_parents(topology.parent)  # names stand in storage order
    assert again.names == topology.names
    if max_branching == 1:
        assert topology.depth == nodes - 1


def test_members_of_a_random_tree_share_one_shape():
    one = hltm.random_tree(nodes=30, cardinality=(2, 9), seed=3)
    many = hltm.random_tree(nodes=30, cardinality=(2, 9), members=3, seed=3)
    assert many.topology.parent.tolist() == one.topology.parent.tolist()
    assert many.tables.cardinality.tolist() == one.tables.cardinality.tolist()
    assert_same_tree(many[0], one)


@pytest.mark.slow
def test_random_shapes_are_random_recursive_trees(monkeypatch):
    def without_tables(topology, *, cardinality, **_):
        return SimpleNamespace(topology=topology, cardinality=cardinality)

    family = sys.modules[hltm.random_tree.__module__]
    monkeypatch.setattr(family, "random_tables", without_tables)  # they take most of the time
    trees = [hltm.random_tree(nodes=4, max_branching=2, seed=seed) for seed in range(400)]
    chains = sum(tree.topology.depth == 3 for tree in trees)
    # node 2 joins node 1 or 0; then node 3 joins any of three, or of two where the root is full
    chance = 1 / 2 * 1 / 3
    assert stats.binomtest(chains, len(trees), chance).pvalue > 1e-3 / 2
    two_and_one = sum(tree.topology.depth == 2 for tree in trees)
    assert two_and_one == len(trees) - chains
    assert stats.binomtest(chains, len(trees), 1 / 4).pvalue < 1e-3  # a bias would show
    sizes = np.concatenate(
        [
            hltm.random_tree(nodes=50, cardinality=(2, 5), seed=seed).cardinality
            for seed in range(40)
        ]
    )
    assert stats.chisquare(np.bincount(sizes, minlength=6)[2:]).pvalue > 1e-3 / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 1}, r"nodes must be in 2\.\.16777216, got 1"),
        ({"nodes": 1 << 25}, "got 33554432"),
        ({"nodes": 5, "max_branching": 0}, "max_branching must be at least 1, got 0"),
        ({"nodes": 5, "cardinality": (4, 3)}, r"empty: \(4, 3\)"),
        ({"nodes": 5, "cardinality": 1}, "has 1 state"),
        ({"nodes": 5, "concentration": -1}, "concentration must be positive and finite, got -1"),
    ],
)
def test_bad_random_trees(arguments, message):
    with pytest.raises(ValueError, match=message):
        hltm.random_tree(**arguments, seed=0)


def test_a_large_random_tree_draws_and_answers():
    tree = hltm.random_tree(nodes=10_000, max_branching=3, cardinality=2, seed=0)
    assert isinstance(tree, LatentTree)
    assert tree.sample(3, seed=0).states.shape == (3, 10_000)
