"""The Random Hierarchy Model: its strings, counted one by one; its rules, unambiguous and uniform."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import hltm
from hltm.model.enumeration import all_states


def strings_of(rules, symbol, level):
    """Every string below a symbol, by rewriting: the stupid twin, with repetitions."""
    if level == 0:
        return [(symbol,)]
    found = []
    for rule in rules[level][symbol].tolist():
        parts = [strings_of(rules, below, level - 1) for below in rule]
        found.extend(sum(choice, ()) for choice in itertools.product(*parts))
    return found


SMALL = [
    {"v": 2, "m": 2, "s": 2, "L": 2, "classes": 2},
    {"v": 3, "m": 2, "s": 2, "L": 2, "classes": 3},
    {"v": 2, "m": 2, "s": 3, "L": 2, "classes": 3},
    {"v": 4, "m": 3, "s": 2, "L": 1, "classes": 5},
    {"v": 2, "m": 1, "s": 2, "L": 3, "classes": 2},
]


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_strings_of_a_class_are_distinct_and_uniform(shape, seed):
    v, m, s, L, classes = (shape[key] for key in ("v", "m", "s", "L", "classes"))
    tree = hltm.random_hierarchy(**shape, seed=seed)
    rules = hltm.production_rules(**shape, seed=seed)
    given_root = tree.leaf_distribution(tree.root)  # (classes * m, v ** leaves)
    given_class = given_root.unflatten(0, (classes, m)).mean(1)
    leaves = all_states(np.full(s**L, v)).tolist()
    count = m ** sum(s**level for level in range(L))  # distinct strings per class
    for label in range(classes):
        found = {
            tuple(leaves[i]): float(given_class[label, i])
            for i in given_class[label].nonzero()[:, 0].tolist()
        }
        expected = strings_of(rules, label, L)
        assert len(found) == len(expected) == count
        assert set(found) == set(expected)
        assert list(found.values()) == pytest.approx([1 / count] * count, rel=1e-12)
    owners = (given_class > 0).sum(0)
    assert int(owners.max()) == 1  # no string belongs to two classes
    assert tree.table(0).tolist() == pytest.approx([1 / (classes * m)] * (classes * m))


@given(
    v=st.integers(2, 5),
    m=st.integers(1, 4),
    s=st.integers(1, 3),
    L=st.integers(1, 3),
    classes=st.integers(2, 6),
    seed=st.integers(0, 2**64 - 1),
)
def test_rules_are_unambiguous_or_refused(v, m, s, L, classes, seed):
    pairs = max(classes, v if L > 1 else 0) * m
    if pairs > v**s:
        with pytest.raises(ValueError, match=rf"= {v**s} tuples"):
            hltm.production_rules(v=v, m=m, s=s, L=L, classes=classes, seed=seed)
        return
    rules = hltm.production_rules(v=v, m=m, s=s, L=L, classes=classes, seed=seed)
    assert sorted(rules) == list(range(1, L + 1))
    for level, found in rules.items():
        symbols = classes if level == L else v
        assert found.shape == (symbols, m, s)
        assert 0 <= int(found.min()) <= int(found.max()) < v
        assert len({tuple(t) for t in found.flatten(0, 1).tolist()}) == symbols * m


def test_rules_are_uniform_among_the_unambiguous_ones():
    rules = hltm.production_rules(v=2, m=1, s=2, L=1, classes=2, members=2400, seed=0)[1]
    codes = rules.flatten(1) @ torch.tensor([8, 4, 2, 1])
    counts = np.bincount(codes.numpy(), minlength=16)
    possible = [4 * a + b for a, b in itertools.permutations(range(4), 2)]
    assert sorted(np.flatnonzero(counts)) == sorted(possible)
    assert stats.chisquare(counts[possible]).pvalue > 1e-3


def test_levels_and_members_have_rules_of_their_own():
    rules = hltm.production_rules(v=8, m=4, s=2, L=3, classes=8, members=3, seed=0)
    assert not rules[1].equal(rules[2])
    assert not rules[2].equal(rules[3])
    assert not rules[1][0].equal(rules[1][2])
    one = hltm.production_rules(v=8, m=4, s=2, L=3, classes=8, seed=0)
    assert all(one[level].equal(rules[level][0]) for level in rules)


@pytest.mark.parametrize("members", [None, 2])
def test_every_intermediate_symbol_follows_its_parents_rule(members):
    shape = {"v": 5, "m": 3, "s": 3, "L": 3, "classes": 4, "members": members, "seed": 2}
    trees, rules = hltm.random_hierarchy(**shape), hltm.production_rules(**shape)
    draws = trees.sample(400, seed=1)
    used = []
    for i in range(members or 1):
        tree, draw = (trees, draws) if members is None else (trees[i], trees[i].sample(400, seed=1))
        symbols = hltm.symbols(draw, m=3)
        if members is not None:
            assert symbols.equal(hltm.symbols(draws, m=3)[i])
        for v in tree.latents:
            level = int(tree.topology.level[v])
            here = rules[level] if members is None else rules[level][i]
            state = draw.states[:, v].long()
            below = symbols[:, list(tree.topology.children[v])].long()
            assert below.equal(here[state // 3, state % 3])
            used.append(state % 3)
        for level in range(4):
            assert hltm.symbols(draw, m=3, level=level).equal(symbols[:, list(tree.level(level))])
        assert symbols[:, list(tree.leaves)].equal(draw.leaves)
    counts = np.bincount(torch.cat(used).numpy())
    assert stats.chisquare(counts).pvalue > 1e-3  # productions are uniform


def test_leaves_tell_every_latent():
    tree = hltm.random_hierarchy(v=3, m=2, s=2, L=2, classes=4, seed=0)
    for leaves in ("own", "all"):
        found = tree.ceiling(list(tree.latents), leaves=leaves)
        assert found.value.tolist() == pytest.approx([1.0] * 3)
        assert not found.standard_error.any()


def test_wide_states_and_rows_without_end():
    tree = hltm.random_hierarchy(v=40, m=10, s=2, L=2, classes=40, seed=0)
    draw = tree.sample(50, seed=3, start=2**34 - 50)
    assert draw.states.dtype == torch.int32
    symbols = hltm.symbols(draw, m=10)
    assert symbols.dtype == torch.int32
    assert symbols.to(torch.int64).max() < 40
    rules = hltm.production_rules(v=40, m=10, s=2, L=2, classes=40, seed=0)
    root = draw.root.long()
    assert symbols[:, 1:3].long().equal(rules[2][root // 10, root % 10])


def test_symbols_of_part_of_a_draw():
    tree = hltm.random_hierarchy(v=4, m=2, s=2, L=2, classes=4, seed=0)
    whole = hltm.symbols(tree.sample(9, seed=0), m=2)
    below = tree.draw(9, seed=0, first=1)
    assert hltm.symbols(below, m=2).equal(whole[:, 1:])
    leaves = tree.draw(9, seed=0, first=tree.leaves.start)
    assert hltm.symbols(leaves, m=2).equal(whole[:, 3:])
    with pytest.raises(ValueError, match="keeps nodes from"):
        hltm.symbols(leaves, m=2, level=1)
    with pytest.raises(TypeError, match="expected a draw, got list; of an exported folder give"):
        hltm.symbols([], m=2, level=1)
    with pytest.raises(ValueError, match="m must be at least 1, got 0"):
        hltm.symbols(leaves, m=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 1}, "v must be at least 2, got 1"),
        ({"m": 0}, "m must be at least 1, got 0"),
        ({"s": 0}, "s must be at least 1, got 0"),
        ({"L": 0}, "L must be at least 1, got 0"),
        ({"classes": 1}, "classes must be at least 2, got 1"),
        ({"m": 5, "classes": 2}, r"v \* m = 20 .* v\*\*s = 16 tuples"),
        ({"classes": 9}, r"classes \* m = 18 .* v\*\*s = 16 tuples"),
        ({"v": 300, "m": 300, "s": 3}, r"v \* m = 90000 states, expected at most 65536"),
        ({"v": 2**14, "s": 4}, "expected at most 2\\^53"),
    ],
)
def test_bad_hierarchies(change, message):
    arguments = {"v": 4, "m": 2, "s": 2, "L": 2, "classes": 4, "seed": 0} | change
    for make in (hltm.random_hierarchy, hltm.production_rules):
        with pytest.raises(ValueError, match=message):
            make(**arguments)


def weight_of(rules, weights, symbol, level, string):
    """The probability that a symbol becomes a string, by rewriting: the slow twin of the tables."""
    if level == 0:
        return float(string == (symbol,))
    part, total = len(string) // rules[level].shape[-1], 0.0
    for rule, share in zip(rules[level][symbol].tolist(), weights[level], strict=True):
        parts = [string[i * part : (i + 1) * part] for i in range(len(rule))]
        below = [
            weight_of(rules, weights, a, level - 1, x) for a, x in zip(rule, parts, strict=True)
        ]
        total += share * np.prod(below)
    return total


@pytest.mark.parametrize("zipf_level", [None, 1, 2])
def test_rules_follow_zipfs_law_at_the_levels_that_are_asked(zipf_level):
    shape = {"v": 3, "m": 3, "s": 2, "L": 2, "classes": 2, "seed": 3}
    tree = hltm.random_hierarchy(**shape, zipf=1.5, zipf_level=zipf_level)
    law = np.array([1, 2**-1.5, 3**-1.5])
    uniform = np.full(3, 1 / 3)
    weights = {k: law / law.sum() if zipf_level in (None, k) else uniform for k in (1, 2)}
    rules = hltm.production_rules(**shape)  # the same rules, whatever their probabilities
    found = tree.leaf_distribution({})
    leaves = all_states(np.full(4, 3)).tolist()
    for i in range(0, len(leaves), 5):
        expected = sum(weight_of(rules, weights, a, 2, tuple(leaves[i])) for a in range(2)) / 2
        assert float(found[i]) == pytest.approx(expected, abs=1e-15)
    # given the leaves, all latents are known: the posterior is of the symbols that were rewritten
    draw = tree.sample(50, seed=1)
    assert tree.posterior(draw.leaves).marginals.amax(-1).min() > 1 - 1e-12


def test_the_uniform_law_changes_no_bit():
    shape = {"v": 11, "m": 7, "s": 2, "L": 2, "classes": 13, "seed": 3}
    tree = hltm.random_hierarchy(**shape)
    for same in ({"zipf": 0}, {"zipf": 0.0, "zipf_level": 1}):
        assert hltm.random_hierarchy(**shape, **same).digest == tree.digest
    assert tree.table(0).tolist() == [1 / 91] * 91
    assert tree.digest.startswith("a8377dc5592d1eac")
    assert hltm.random_hierarchy(**shape, zipf=1).digest != tree.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zipf": -1}, "zipf must be at least 0 and finite, got -1"),
        ({"zipf": float("nan")}, "zipf must be at least 0 and finite, got nan"),
        ({"zipf": 1, "zipf_level": 0}, r"zipf_level must be in 1\.\.2, got 0"),
        ({"zipf": 1, "zipf_level": 3}, r"zipf_level must be in 1\.\.2, got 3"),
        ({"zipf": 1, "zipf_level": 1.5}, r"zipf_level must be an integer, got 1\.5"),
        ({"zipf": "1"}, "zipf must be a number, got '1'"),
    ],
)
def test_bad_laws_are_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        hltm.random_hierarchy(v=4, m=2, s=2, L=2, classes=4, seed=0, **change)
