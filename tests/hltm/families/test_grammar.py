"""Strings of a grammar: each once, the right ones, and in a random order that can be cut anywhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import hltm
from hltm.sampling import permutation
from hltm.sampling.permutation import permuted_choices

SMALL = {"v": 3, "m": 2, "s": 2, "L": 2, "classes": 3, "seed": 0}
MANY_SYNONYMS = {"v": 64, "m": 64, "s": 2, "L": 2, "classes": 64, "seed": 0}


@pytest.mark.parametrize("shape", [SMALL, SMALL | {"v": 2, "s": 3, "L": 1, "classes": 4}])
def test_all_strings_are_those_that_the_tree_can_draw(shape):
    grammar = hltm.Grammar(**shape)
    every = grammar.strings()
    assert len(every.leaves) == grammar.count == len(every.leaves.unique(dim=0))
    probability = grammar.tree.leaf_distribution({})
    place = np.ravel_multi_index(
        tuple(every.leaves.T.numpy()), [shape["v"]] * every.leaves.shape[1]
    )
    assert (probability > 0).sum() == grammar.count
    np.testing.assert_allclose(probability[place], 1 / grammar.count, rtol=1e-12)
    # the latents are the ones that the leaves determine
    states = grammar.tree.most_likely(every.leaves).states
    assert states.equal(every.states)
    assert every.label.equal(states[:, 0] // shape["m"])


@pytest.mark.parametrize("small", [True, False])
def test_strings_are_drawn_once_each_and_in_any_pieces(small, monkeypatch):
    if not small:
        monkeypatch.setattr(permutation, "SMALL", 1)
    grammar = hltm.Grammar(**SMALL)
    found = grammar.distinct(grammar.count, seed=4)
    assert len(found.leaves.unique(dim=0)) == grammar.count
    parts = [grammar.distinct(8, seed=4, start=start) for start in range(0, grammar.count, 8)]
    assert torch.cat([part.states for part in parts]).equal(found.states)
    assert not found.states.equal(grammar.distinct(grammar.count, seed=5).states)
    with pytest.raises(ValueError, match="there are 24 combinations"):
        grammar.distinct(25, seed=0)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=st.integers(0, 2**64 - 1),
    small=st.booleans(),
)
def test_every_combination_comes_once(sizes, seed, small):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permutation, "SMALL", permutation.SMALL if small else 0)
        patch.setattr(permutation, "CHUNK", 1000)
        total = int(np.prod(sizes))
        found = permuted_choices(sizes, total, seed=seed)
    assert len(found.unique(dim=0)) == total
    assert (found < torch.tensor(sizes)).all()
    assert (found >= 0).all()


@pytest.mark.parametrize("small", [True, False])
def test_the_order_is_random(small, monkeypatch):
    # over seeds, the first two rows of 6 combinations are any two alike
    if not small:
        monkeypatch.setattr(permutation, "SMALL", 1)
    count = np.zeros((6, 6))
    for seed in range(240):
        a, b = permuted_choices([2, 3], 2, seed=seed) @ torch.tensor([3, 1])
        count[a, b] += 1
    assert count.diagonal().sum() == 0
    pairs = count[~np.eye(6, dtype=bool)]
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_strings_of_a_large_grammar_are_uniform_in_every_choice():
    grammar = hltm.Grammar(v=8, m=4, s=2, L=6, classes=8, seed=0)  # 8 · 4^63 strings, above 2^62
    found = grammar.distinct(20_000, seed=0)
    assert len(found.leaves.unique(dim=0)) == 20_000
    latents = found.states[:, : len(grammar.choices) - 1]
    rules = latents % 4
    p = [stats.chisquare(torch.bincount(rules[:, v]).numpy()).pvalue for v in range(rules.shape[1])]
    p.append(stats.chisquare(torch.bincount(found.label).numpy()).pvalue)
    assert min(p) > 1e-3 / len(p)
    # nor do the choices of two latents depend on each other
    both = torch.bincount(rules[:, 0] * 4 + rules[:, 1], minlength=16)
    assert stats.chisquare(both.numpy()).pvalue > 1e-3


def test_grammars_with_many_synonyms_need_only_their_rules():
    tree = hltm.random_hierarchy(**MANY_SYNONYMS)
    rules = hltm.production_rules(**MANY_SYNONYMS)
    draw = tree.sample(2000, seed=0)
    assert "flat" not in vars(tree.tables)  # the 0.3 GB of all tables were never made
    states = draw.states.to(torch.int64)
    top, pairs = states[:, 0], states[:, 1:3]
    below = rules[2].flatten(0, 1)[top]
    assert (pairs // 64).equal(below)
    assert draw.leaves.to(torch.int64).equal(rules[1].flatten(0, 1)[pairs].flatten(1))
    p = stats.chisquare(torch.bincount((pairs % 64).flatten(), minlength=64).numpy()).pvalue
    assert p > 1e-3
    (view,) = tree.views(draw, hltm.resample_leaves(0.5), count=1)
    assert view.leaves.equal(draw.leaves)  # leaves are certain given their parents
    with pytest.raises(ValueError, match=r"1.678e\+07 strings, more than the 1048576"):
        hltm.Grammar(**MANY_SYNONYMS).strings()
    with pytest.raises(ValueError, match="more than 1e300 strings"):
        hltm.Grammar(v=8, m=4, s=2, L=10, classes=8, seed=0).strings()


@pytest.mark.parametrize("members", [None, 3])
def test_rows_that_are_stored_once_draw_what_whole_tables_draw(members):
    shape = SMALL | {"v": 4, "m": 3, "classes": 5, "members": members}
    tree = hltm.random_hierarchy(**shape)
    whole = hltm.LatentTree.from_tables(
        tree.topology, [tree.table(v) for v in range(len(tree.topology))], members
    )
    assert tree.tables.flat.equal(whole.tables.flat)
    assert tree.sample(500, seed=1).states.equal(whole.sample(500, seed=1).states)
    if members:
        assert tree[1].sample(50, seed=1).states.equal(whole[1].sample(50, seed=1).states)
        assert tree[1:].tables.flat.equal(whole[1:].tables.flat)
