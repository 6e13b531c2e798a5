"""What branch lengths mean: closed forms of phylogenetics, rational arithmetic, matrix exponentials."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

import hltm
from hltm import LatentTree
from hltm.formats.branch_lengths import paralinear_lengths, symmetric_lengths


def star(length, **how):
    return LatentTree.from_newick(f"(A:{length},B:{length})r;", **how)


@pytest.mark.parametrize("t", [0, 1e-300, 1e-18, 1e-6, 0.01, 0.1, 0.5, 3, 700, float("inf")])
def test_two_states_are_cavender_farris_neyman(t):
    """P(change) = (1 - exp(-2 t)) / 2, also for the shortest branches."""
    table = star(t, lengths="expected-changes").table("A")
    expected = -math.expm1(-2 * t) / 2
    for row, parents in enumerate([[1 - expected, expected], [expected, 1 - expected]]):
        assert table[row].tolist() == pytest.approx(parents, rel=1e-15, abs=0)
    slow = star(t, lengths="expected-changes", rate=0.25).table("A")[0, 1]
    assert float(slow) == pytest.approx(-math.expm1(-t / 2) / 2, rel=1e-15, abs=0)
    today = star(t).table("A")[0, 1]
    assert float(today) == pytest.approx(-math.expm1(-t) / 2, rel=1e-15, abs=0)


@pytest.mark.parametrize("states", [2, 3, 4, 20, 61])
@pytest.mark.parametrize("t", [0.0, 0.01, 0.3, 2.0])
def test_any_number_of_states_is_mk(states, t):
    """The exponential of the rate matrix whose expected number of changes per unit of time is 1."""
    rates = np.full((states, states), 1 / (states - 1))
    np.fill_diagonal(rates, -1)
    expected = torch.from_numpy(expm(rates * t * 0.7))
    tree = star(t, lengths="expected-changes", states=states, rate=0.7)
    assert tree.tables.cardinality.tolist() == [states] * 3
    assert torch.allclose(tree.table("A"), expected, rtol=0, atol=1e-14)
    assert torch.allclose(tree.table("r"), torch.full((states,), 1 / states).double())
    same = 1 / states + (1 - 1 / states) * math.exp(-states * 0.7 * t / (states - 1))
    assert float(tree.table("A")[1, 1]) == pytest.approx(same, abs=1e-15)


def test_four_states_are_jukes_and_cantor():
    """The distance from the share p of sites that differ is -3/4 log(1 - 4 p / 3)."""
    tree = star(0.2, lengths="expected-changes", states=4)
    states, probability = tree.joint()
    differ = float(probability[states[:, 1] != states[:, 2]].sum())
    assert -0.75 * math.log(1 - 4 * differ / 3) == pytest.approx(0.4, rel=1e-12)


@pytest.mark.parametrize("states", [2, 3, 4])
def test_a_paralinear_length_is_the_determinant_s(states):
    """-log |det P|, and so K times the expected changes."""
    table = star(0.3, states=states).table("A")
    assert -float(torch.linalg.slogdet(table).logabsdet) == pytest.approx(0.3, rel=1e-12)
    same = star(0.3 / states, lengths="expected-changes", states=states).table("A")
    assert torch.allclose(table, same, rtol=1e-14)


@given(
    st.floats(1e-12, 1.5),
    st.sampled_from(["paralinear", "expected-changes"]),
    st.integers(2, 5),
    st.sampled_from([0.01, 1.0, 3.0]),
)
def test_lengths_are_written_as_they_are_read(t, lengths, states, rate):
    how = {"lengths": lengths, "rate": rate}
    tree = star(t, states=states, **how)
    for text in (tree.to_newick(**how), tree.to_newick(annotations=False, tables="drop", **how)):
        written = float(text[text.index(":") + 1 :].replace("[", ",").split(",")[0])
        assert written == pytest.approx(t, rel=1e-9)


def test_the_shortest_branches_keep_their_digits():
    stay, change = np.array([1.0, 1e-300]), np.array([1e-300, 1.0])
    for lengths, factor in (("paralinear", 2), ("expected-changes", 1)):
        found = symmetric_lengths(stay, change, lengths, 1.0, 2)
        assert found.tolist() == pytest.approx([factor * 1e-300] * 2, rel=1e-15, abs=0)
    tree = star(1e-18)
    assert tree.to_newick(annotations=False).startswith("(A:1e-18,")


@pytest.mark.parametrize("length", ["-0.0", "-1.7e-13", "-1e-6"])
def test_negative_lengths_by_rounding_are_zero(length):
    tree = LatentTree.from_newick(f"((A:1,B:1):{length},C:1);")
    assert tree.table("1").tolist() == [[1, 0], [0, 1]]


def test_clearly_negative_lengths_are_zero_on_request():
    """Negative by rounding means by the changes that they stand for, so the rate counts."""
    text = "((A:1,B:1):-0.01,C:1);"
    assert LatentTree.from_newick(text, negative="zero").table("1").tolist() == [[1, 0], [0, 1]]
    assert LatentTree.from_newick(text, rate=1e-5).table("1").tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match=r"node '1' has length -0\.01"):
        LatentTree.from_newick(text)
    with pytest.raises(ValueError, match=r"node '1' has length -0\.01"):
        LatentTree.from_newick(text, negative="refuse", lengths="expected-changes", states=4)


def exact_paralinear(prior, tables, parent):
    """Equation 4.9 of docs/theory.md in rational arithmetic, per node but the root."""

    def log(x):
        return math.log(x.numerator) - math.log(x.denominator)

    def det(m):
        if len(m) == 1:
            return m[0][0]
        minors = ([row[:j] + row[j + 1 :] for row in m[1:]] for j in range(len(m)))
        return sum((-1) ** j * m[0][j] * det(minor) for j, minor in enumerate(minors))

    priors, found = [prior], []
    for v, table in enumerate(tables, start=1):
        above = priors[parent[v]]
        own = [
            sum(a * row[k] for a, row in zip(above, table, strict=True)) for k in range(len(above))
        ]
        priors.append(own)
        value = abs(det(table))
        if value == 0 or min(above) == 0 or min(own) == 0:
            found.append(math.inf)
            continue
        scale = (sum(map(log, above)) - sum(map(log, own))) / 2
        found.append(-(log(value) + scale))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_paralinear_lengths_of_extreme_tables_are_exact(seed):
    """Entries down to 2^-1000 in chains of four, whose priors and determinants are below 1e-308."""
    rng = np.random.default_rng(seed)
    states = 2 + seed % 3

    def row():
        small = [
            Fraction(int(rng.integers(1, 8)), 2 ** int(rng.integers(25, 1000)))
            for _ in range(states)
        ]
        k = int(rng.integers(states))
        small[k] = Fraction(1)  # what it is in float64, too
        return small

    prior, tables = row(), [[row() for _ in range(states)] for _ in range(3)]
    parent = [None, 0, 1, 2]
    as_float = [[[float(x) for x in r] for r in table] for table in tables]
    tree = LatentTree.from_parents(
        parent, [[float(x) for x in prior], *as_float], names=list("abcd")
    )
    exact_tables = [[[Fraction(x) for x in r] for r in tree.table(v).tolist()] for v in (1, 2, 3)]
    exact_prior = [Fraction(x) for x in tree.table(0).tolist()]
    expected = exact_paralinear(exact_prior, exact_tables, parent)
    found = paralinear_lengths(tree.tables)
    assert found[0] == math.inf
    assert found[1:].tolist() == pytest.approx([max(0, x) for x in expected], rel=1e-9, abs=1e-9)


def test_a_prior_below_1e_308_is_not_zero():
    low = [[1.0, 1e-200], [1.0, 2e-200]]
    tree = LatentTree.from_parents([None, 0, 1], [[1.0, 1e-300], [[1.0, 0.0], [1.0, 1e-100]], low])
    # priors (1, 1e-300), (1, 1e-400) and (1, 1e-200); determinants 1e-100 and 1e-200
    expected = [100 + 300 / 2 - 400 / 2, 200 + 400 / 2 - 200 / 2]
    assert paralinear_lengths(tree.tables)[1:] == pytest.approx(np.log(10) * np.array(expected))
    assert tree.to_newick(tables="drop").count(":") == 2


def test_a_phylogeny_is_a_symmetric_tree_of_either_convention():
    text = "[a comment]((A:0.1,'B b':2e-1)0.95:0.3,C_c:.5):9;"
    tree = LatentTree.from_newick(text)
    assert float(tree.correlation("A", "B b")) == pytest.approx(np.exp(-0.3))
    assert float(tree.correlation("A", "C c")) == pytest.approx(np.exp(-0.9))
    assert tree.table(0).tolist() == [0.5, 0.5]
    sites = LatentTree.from_newick(text, lengths="expected-changes")
    assert float(sites.correlation("A", "B b")) == pytest.approx(np.exp(-0.6))
    assert hltm.trees_from_newick(text, lengths="expected-changes")[0].polarity.tolist() == (
        sites.polarity.tolist()
    )
