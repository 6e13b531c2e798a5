"""Most likely joint states and samples from the posterior, against enumeration."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import agreeing, all_leaves, enumerated, irregular_tree, some_leaves

import hltm


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), nodes=st.integers(2, 7), zeros=st.sampled_from([0.0, 0.3]))
def test_most_likely_states_equal_enumeration(seed, nodes, zeros):
    tree = irregular_tree(seed, nodes=nodes, zeros=zeros)
    leaves = some_leaves(tree, 6, seed)
    found = tree.most_likely(leaves)
    states = tree.joint().states
    for b, row in enumerate(leaves.tolist()):
        joint = enumerated(tree, row)[2]
        assert float(found.log_probability[b]) == pytest.approx(np.log(joint.max()), abs=1e-10)
        # the first of the best, in lexicographic order
        best = np.flatnonzero(joint >= joint.max() * (1 - 1e-9))[0]
        assert found.states[b].tolist() == states[best].tolist()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_ties_go_to_the_lowest_state_of_the_first_node_that_differs(depth):
    tree = hltm.symmetric_binary(depth=depth, polarity=0.6, signs="positive", seed=0)
    leaves = all_leaves(tree)
    states, probability = tree.joint()
    found = tree.most_likely(leaves)
    ties = 0
    for row, best in zip(leaves.tolist(), found.states.tolist(), strict=True):
        joint = np.where(agreeing(states, tree.leaves, row), probability, 0)
        equal = np.flatnonzero(joint > joint.max() * (1 - 1e-9))
        ties += len(equal) > 1
        assert best == states[equal[0]].tolist()
    assert ties > 0


def test_posterior_samples_follow_the_posterior():
    tree = irregular_tree(11, nodes=6, max_states=3)
    row = some_leaves(tree, 1, 5, missing=0.0)
    row[0, 0] = -1
    count = 10_000
    found = tree.posterior_samples(row.expand(count, -1), 1, seed=3)[0]
    states, _ = tree.joint()
    joint = enumerated(tree, row[0].tolist())[2]
    joint = joint / joint.sum()
    base = np.array(tree.tables.cardinality)
    number = np.ravel_multi_index(found.numpy().T, base)
    seen = np.bincount(number, minlength=len(joint))
    assert (seen[joint == 0] == 0).all()
    kept = joint * count > 5
    deviation = (seen - count * joint)[kept] / np.sqrt(count * joint * (1 - joint))[kept]
    limit = math.sqrt(2 * math.log(2 * kept.sum() / 1e-3))  # Bonferroni, a bound of the normal tail
    assert np.abs(deviation).max() < limit
    # the prior is another distribution, and the same test rejects it
    prior = np.asarray(tree.joint().probability)
    wrong = (seen - count * prior)[kept] / np.sqrt(count * prior * (1 - prior))[kept]
    assert np.abs(wrong).max() > limit
    assert len(states) == len(joint)


def test_posterior_samples_have_addresses():
    trees = irregular_tree(4, nodes=10, members=2)
    leaves = some_leaves(trees, 300, 2)
    whole = trees.posterior_samples(leaves, 3, seed=9)
    assert whole.shape == (2, 3, 300, 10)
    part = trees.posterior_samples(leaves[:, 101:240], 2, seed=9, start=101, first=1)
    assert part.equal(whole[:, 1:, 101:240])
    assert trees[1].posterior_samples(leaves[1], 3, seed=9).equal(whole[1])
    assert not trees.posterior_samples(leaves, 3, seed=10).equal(whole)
    assert not whole[:, 0].equal(whole[:, 1])
    seen = leaves >= 0
    assert (whole[:, 0][..., list(trees.leaves)][seen] == leaves[seen]).all()


def test_posterior_samples_read_no_numbers_of_the_data():
    """Four equally likely states everywhere: a state is the first two bits of its number."""
    even = np.full((4, 4), 0.25)
    topology = hltm.Topology.balanced(1, 2)
    tree = hltm.LatentTree.from_tables(topology, [even[0], even, even])
    data = tree.sample(4096, seed=5).states
    nothing = torch.full((4096, 2), -1)
    found = tree.posterior_samples(nothing, 1, seed=5)[0]
    assert abs(float((data == found).double().mean()) - 0.25) < 0.02
    assert abs(float((found[:, 0] == found[:, 1]).double().mean()) - 0.25) < 0.03
