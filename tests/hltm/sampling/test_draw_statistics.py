"""Draws have the distribution of the tree, and share nothing they should not; broken samplers fail.

Every test has fixed seeds; p-values below 1e-3 over the number of comparisons of the file reject.
"""

import itertools

import numpy as np
import pytest
import torch
from draw_cases import BINARY, MIXED, PARENTS, random_tree
from scipy import stats

import hltm
from hltm.model.tables import make_tables
from hltm.sampling.kernels import reference
from hltm.sampling.kernels.request import DrawRequest
from hltm.sampling.philox import Stream

ROWS = 40_000
REJECT = 1e-3 / 40  # comparisons
SMALL = [3, 2, 2, 4, 2]
CHAIN = [-1, 0, 0, 1, 1]
KINDS = pytest.mark.parametrize(
    ("parents", "cardinality"),
    [(PARENTS, BINARY), (CHAIN, SMALL), (CHAIN, [2, 3, 2, 3, 2])],
    ids=["binary", "mixed", "mixed with a binary root"],
)


def index_of(states, cardinality):
    """The number of each row's joint state."""
    return np.ravel_multi_index(tuple(np.asarray(states).T), tuple(cardinality))


def joint_p_value(states, tree):
    """Chi-square of the joint states of all nodes against enumeration; rare ones are one cell."""
    joint = tree.joint()
    cardinality = tree.tables.cardinality
    expected = np.zeros(int(np.prod(cardinality)))
    expected[index_of(joint.states, cardinality)] = joint.probability.numpy()
    observed = np.bincount(index_of(states, cardinality), minlength=len(expected))
    if observed[expected == 0].any():
        return 0.0
    expected *= len(states)
    often = expected > 5
    rest = expected[~often].sum()
    observed, expected = (
        np.append(of[often], of[~often].sum()) if rest > 0 else of[often]
        for of in (observed, expected)
    )
    # scipy's own test refuses sums that differ by the rounding of an expected count
    statistic = ((observed - expected) ** 2 / expected).sum()
    return stats.chi2.sf(statistic, len(expected) - 1)


def independence_p_value(a, b):
    """Chi-square of the table of two variables against the product of their margins."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (np.asarray(a).ravel(), np.asarray(b).ravel()), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    return stats.chi2_contingency(table, correction=False).pvalue


@KINDS
def test_the_joint_is_the_enumerated_one(parents, cardinality):
    tree = random_tree(parents, cardinality, seed=4)
    assert joint_p_value(tree.sample(ROWS, seed=1).states, tree) > REJECT
    far = tree.sample(ROWS, seed=2**63 + 9, start=2**34 - ROWS)
    assert joint_p_value(far.states, tree) > REJECT


@KINDS
@pytest.mark.parametrize(
    "augmentation",
    [hltm.keep_root(), hltm.resample_leaves(0.5), hltm.keep_nothing(), hltm.keep_level(1)],
    ids=str,
)
def test_views_keep_the_distribution_of_the_data(parents, cardinality, augmentation):
    tree = random_tree(parents, cardinality, seed=4)
    for view in tree.views(tree.sample(ROWS, seed=2), augmentation):
        assert joint_p_value(view.states, tree) > REJECT


@KINDS
def test_a_redraw_keeps_the_distribution_of_the_data(parents, cardinality):
    tree = random_tree(parents, cardinality, seed=4)
    draw = tree.sample(ROWS, seed=2)
    again = tree.redraw(draw, 1)
    assert joint_p_value(again.states, tree) > REJECT
    assert joint_p_value(tree.redraw(again, 0).states, tree) > REJECT


@KINDS
def test_rows_members_streams_seeds_and_views_are_independent(parents, cardinality):
    """A row's joint state against that of other rows, and against the same row elsewhere."""
    trees = random_tree(parents, cardinality, seed=4, members=2)
    draw = trees.sample(ROWS, seed=1)

    def coded(other):  # root and first two leaves: enough to tell, few enough cells
        leaves = other.leaves[..., :2].long()
        return (other.root.long() * 5 + leaves[..., 0]) * 5 + leaves[..., 1]

    here = coded(draw)
    others = {f"row + {lag}": (here[0, :-lag], here[0, lag:]) for lag in (1, 2, 4, 32, 64, 128)}
    others["member"] = (here[0], here[1])
    others["seed"] = (here[0], coded(trees.sample(ROWS, seed=2))[0])
    others["high half of the seed"] = (here[0], coded(trees.sample(ROWS, seed=1 + 2**32))[0])
    for stream in (Stream.EVALUATION, Stream.NULL, Stream.TABLES):
        others[stream.name] = (here[0], coded(trees.draw(ROWS, seed=1, stream=stream))[0])
    first, second = trees.views(draw, hltm.keep_nothing())
    others["view"] = (here[0], coded(first)[0])
    others["two views"] = (coded(first)[0], coded(second)[0])
    low = {name: p for name, pair in others.items() if (p := independence_p_value(*pair)) < REJECT}
    assert not low


def test_redraw_decisions_are_independent_of_the_states():
    tree = random_tree(CHAIN, SMALL, seed=4)
    draw = tree.sample(ROWS, seed=1)
    (view,) = tree.views(draw, hltm.resample_leaves(0.5), count=1)
    for leaf in tree.leaves:
        # of a row whose leaf changed, the new state depends on the parent and on nothing else
        old, new = draw.node(leaf).long(), view.node(leaf).long()
        above = draw.node(int(tree.topology.parent[leaf])).long()
        for state in range(int(above.max()) + 1):
            table = tree.tables.of(leaf)[0, state].numpy()
            stay = 0.5 + 0.5 * table
            same = (new == old)[above == state]
            had = old[above == state]
            for k in range(len(table)):
                n, kept = int((had == k).sum()), int(same[had == k].sum())
                if n > 100:
                    assert stats.binomtest(kept, n, min(stay[k], 1)).pvalue > REJECT


# samplers that are wrong, each in one way, must be rejected by the tests above


def reference_states(tree, **request):
    (states,) = reference.draw(
        tree.tables,
        DrawRequest(
            tree.topology, seed=1, stream=1, members=(0,), start=0, samples=ROWS, **request
        ),
    )
    return states[0].T


def test_a_swapped_table_is_rejected():
    tree = random_tree(PARENTS, BINARY, seed=4)
    tables = [tree.tables.of(v)[0] for v in range(7)]
    tables[0] = tables[0][0]
    tables[3], tables[4] = tables[4], tables[3]
    wrong = hltm.LatentTree.of_members(make_tables(tree.topology, tables), None)
    assert joint_p_value(reference_states(tree), tree) > REJECT
    assert joint_p_value(reference_states(wrong), tree) < 1e-9


@KINDS
def test_a_transposed_table_is_rejected(parents, cardinality):
    tree = random_tree(parents, cardinality, seed=4)
    tables = [tree.tables.of(v)[0].flip(0) if v == 1 else tree.tables.of(v)[0] for v in range(5)]
    tables += [tree.tables.of(v)[0] for v in range(5, len(parents))]
    tables[0] = tables[0][0]
    wrong = hltm.LatentTree.of_members(make_tables(tree.topology, tables), None)
    assert joint_p_value(reference_states(wrong), tree) < 1e-9


@pytest.mark.parametrize(("parents", "cardinality"), [(PARENTS, BINARY), (CHAIN, [2, 3, 2, 3, 3])])
def test_a_word_shared_by_siblings_is_rejected(parents, cardinality, monkeypatch):
    tree = random_tree(parents, cardinality, seed=4)
    plain = reference.uniform_words

    def reused(seed, stream, members, nodes, *rest):
        return plain(seed, stream, members, nodes - (nodes == 4), *rest)

    monkeypatch.setattr(reference, "uniform_words", reused)
    assert joint_p_value(reference_states(tree), tree) < 1e-9


@pytest.mark.parametrize("cardinality", [BINARY, MIXED], ids=["binary", "mixed"])
def test_words_shared_by_rows_are_rejected(cardinality, monkeypatch):
    tree = random_tree(PARENTS, cardinality, seed=4)
    plain = reference.uniform_words

    def reused(*arguments):
        found = plain(*arguments)
        return torch.where(torch.arange(found.shape[-1]) % 2 == 1, found.roll(1, -1), found)

    good = reference_states(tree)[:, -1].long()
    monkeypatch.setattr(reference, "uniform_words", reused)
    bad = reference_states(tree)[:, -1].long()
    assert independence_p_value(good[:-1], good[1:]) > REJECT
    assert independence_p_value(bad[:-1], bad[1:]) < 1e-9


def test_streams_that_share_numbers_are_rejected(monkeypatch):
    tree = random_tree(PARENTS, BINARY, seed=4)
    plain = reference.uniform_words
    monkeypatch.setattr(
        reference, "uniform_words", lambda seed, stream, *rest: plain(seed, 1, *rest)
    )
    requests = [
        DrawRequest(tree.topology, seed=1, stream=s, members=(0,), start=0, samples=2000)
        for s in (1, 5)
    ]
    a, b = (reference.draw(tree.tables, request)[0][0, -1].long() for request in requests)
    assert independence_p_value(a, b) < 1e-9


def test_a_decision_that_uses_the_state_s_number_is_rejected(monkeypatch):
    tree = random_tree(PARENTS, BINARY, seed=4)
    rates = np.full(7, 0.5)
    plain = reference.uniform_words

    def views():
        request = DrawRequest(tree.topology, seed=1, stream=1, members=(0,), start=0, samples=ROWS,
                      views=(1,), rates=rates)  # fmt: skip
        return reference.draw(tree.tables, request)[0][0].T

    assert joint_p_value(views(), tree) > REJECT
    monkeypatch.setattr(
        reference, "uniform_words", lambda seed, stream, *rest: plain(seed, stream & 0x7F, *rest)
    )
    assert joint_p_value(views(), tree) < 1e-9


@pytest.mark.parametrize("shift", [1 << 26, -(1 << 26)])
def test_thresholds_that_are_off_are_rejected(shift, monkeypatch):
    """By 2^-6 here; `test_kernels` finds thresholds that are off by 2^-32."""
    tree = random_tree(PARENTS, BINARY, seed=4)
    plain = reference.uniform_words

    def shifted(*arguments):
        return (plain(*arguments) + shift).clamp(0, 2**32 - 1)

    monkeypatch.setattr(reference, "uniform_words", shifted)
    assert joint_p_value(reference_states(tree), tree) < 1e-9


def test_a_threshold_off_by_one_shows_at_the_edge():
    """State k is drawn for the 2^32 p_k numbers from its threshold on, no more and no fewer."""
    table = torch.tensor([[0.25, 0.0, 0.5, 0.25]], dtype=torch.float64)
    tables = make_tables(hltm.Topology.from_parents([-1, 0]), [table[0], torch.full((4, 2), 0.5)])
    edges = [0, 2**30 - 1, 2**30, 3 * 2**30 - 1, 3 * 2**30, 2**32 - 1]
    nodes, states = np.array([0]), torch.zeros(1, 2, len(edges), dtype=torch.int64)

    def drawn(off):
        return reference.next_states(tables, nodes, states, torch.tensor([[edges]]) + off)

    expected = [0, 0, 2, 2, 3, 3]
    assert drawn(0).flatten().tolist() == expected
    for off in (-1, 1):
        assert drawn(off).flatten().tolist() != expected


def test_cells_of_the_enumeration_are_the_cells_of_the_test():
    """The test's own numbering of joint states is one to one."""
    every = list(itertools.product(range(3), range(2), range(4)))
    assert index_of(every, [3, 2, 4]).tolist() == list(range(24))
