"""The log probability of complete rows against enumeration and autograd; forms and refusals."""

import numpy as np
import pandas as pd
import pytest
import torch
from irregular_trees import irregular_tree

import hltm
from hltm.model import log_prob as module
from hltm.model.tables import Tables


@pytest.mark.parametrize("members", [None, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_every_joint_state_has_its_probability(seed, members):
    trees = irregular_tree(seed, nodes=6, max_states=3, members=members, zeros=0.2)
    states, probability = trees.joint()
    found = trees.log_prob(states)  # rows that members share
    torch.testing.assert_close(found.exp(), probability, atol=1e-14, rtol=1e-12)
    assert (found[probability == 0] == -torch.inf).all()
    assert found.exp().sum(-1).sub(1).abs().max() < 1e-12
    if members:
        assert trees.log_prob(states.expand(members, -1, -1)).equal(found)


def test_it_is_the_evidence_of_all_nodes_and_of_the_most_likely_state():
    trees = irregular_tree(3, nodes=12, members=2)
    draw = trees.sample(50, seed=0)
    every = {v: draw.node(v) for v in range(12)}
    torch.testing.assert_close(
        trees.log_prob(draw), trees.posterior(every).log_evidence, atol=1e-11, rtol=0
    )
    best = trees.most_likely(draw.leaves)
    torch.testing.assert_close(
        trees.log_prob(best.states), best.log_probability, atol=1e-11, rtol=0
    )


def test_forms_and_chunks(monkeypatch):
    tree = irregular_tree(1, nodes=9, max_states=300)
    draw = tree.sample(40, seed=1)
    names = tree.topology.names
    states = torch.from_numpy(draw.states.numpy().astype(np.int64))
    exact = tree.log_prob(draw)
    by_name = {name: states[:, v] for v, name in enumerate(names)}
    frame = pd.DataFrame(states.numpy(), columns=names)
    for form in (draw.states, states, states.numpy(), states.tolist(), by_name, frame):
        assert tree.log_prob(form).equal(exact)
    monkeypatch.setattr(module, "CHUNK", 9 * 7)
    assert tree.log_prob(draw).equal(exact)
    assert tree.log_prob(states[:0]).shape == (0,)
    assert tree.log_prob(frame[:0]).shape == (0,)
    assert tree.log_prob(dict.fromkeys(range(9), 0)).shape == (1,)
    first = tree.log_prob({v: 0 if v else states[:, 0] for v in range(9)})
    assert first.shape == (40,)


def test_the_gradient_reaches_the_tables_and_impossible_rows_have_none():
    tree = irregular_tree(2, nodes=5, max_states=3, members=2)
    states = tree.sample(6, seed=0).states.long()
    flat = tree.tables.flat.clone().requires_grad_()

    def total(flat):
        tables = Tables(tree.topology, tree.tables.cardinality, flat)
        return hltm.LatentTree(tables, tree.members, True).log_prob(states)

    assert torch.autograd.gradcheck(total, flat)
    certain = hltm.LatentTree.from_parents([None, 0], [[0.5, 0.5], [[1.0, 0.0], [0.5, 0.5]]])
    flat = certain.tables.flat.clone().requires_grad_()
    tables = Tables(certain.topology, certain.tables.cardinality, flat)
    found = hltm.LatentTree(tables).log_prob([[0, 1], [0, 0]])
    assert found.tolist() == [-torch.inf, np.log(0.5)]
    found.exp().sum().backward()
    assert flat.grad.tolist() == [[1, 0, 0.5, 0, 0, 0]]


@pytest.mark.parametrize(
    ("states", "match"),
    [
        ([[0, 1, -1]], "node 'wet' is missing in row 0, expected complete rows; posterior"),
        ([[0, 1, 2]], r"leaf 'wet' has state 2, expected 0\.\.1"),
        ([[3, 1, 0]], r"node 'sky' has state 3, expected 0\.\.2"),
        ([[0, 1]], r"states have shape \(1, 2\), expected \(B, 3\)"),
        ([[0.0, 1, 1]], r"states have dtype torch\.float64, expected integers; convert them"),
        ({"sky": 0, "rain": 1}, "node 'wet' has no states, expected complete rows"),
        (
            {"sky": 0, "rain": [0.5, 0.5], "wet": 1},
            "node 'rain' has floats, expected integer states",
        ),
        ({"sky": [0, 1], "rain": [1], "wet": 1}, "on 'sky' has 2 rows and on 'rain' 1"),
        (pd.DataFrame({"sky": [0], "rain": [1]}), "node 'wet' has no states"),
        (
            hltm.symmetric_binary(depth=2, seed=0).sample(2, seed=0),
            "a draw of all nodes of this tree",
        ),
    ],
)
def test_what_is_refused_is_named(states, match):
    tree = hltm.LatentTree.from_parents(
        {"sky": None, "rain": "sky", "wet": "rain"},
        {"sky": [0.2, 0.3, 0.5], "rain": [[0.5, 0.5]] * 3, "wet": [[0.9, 0.1], [0.2, 0.8]]},
    )
    with pytest.raises(ValueError, match=match) as found:
        tree.log_prob(states)
    assert len(str(found.value)) < 300


def test_a_mapping_may_mix_states_of_all_rows_of_all_trees_and_of_each_tree():
    trees = hltm.symmetric_binary(depth=1, polarity=0.8, members=2, seed=0)
    each = torch.tensor([[0, 1, 1], [1, 1, 0]])
    complete = torch.stack([torch.ones_like(each), torch.tensor([[0, 1, 1]] * 2), each], dim=-1)
    assert trees.log_prob({"0": 1, "1": [0, 1, 1], "2": each}).equal(trees.log_prob(complete))
