"""Views: whole subtrees are redrawn, and leaves are missing by address."""

import numpy as np
import torch
from draw_cases import random_tree
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import hltm
from hltm.sampling.philox import philox


def test_a_crop_redraws_whole_subtrees_or_nothing():
    # of 50 states, a redraw rarely gives the same one
    tree = random_tree([-1, *(v // 2 for v in range(14))], [50] * 15, seed=0)
    draw = tree.sample(400, seed=1)
    (view,) = tree.views(draw, hltm.resample_subtrees(0.4, 2), count=1)
    changed = (view.states != draw.states).float()
    assert not changed[:, 0].any()
    for top in tree.level(2):
        below = changed[:, tree.topology.descendants(top)].mean(1)
        assert ((below == 0) | (below > 0.5)).all()
        assert abs((below > 0).float().mean() - 0.4) < 4 * (0.4 * 0.6 / 400) ** 0.5


def test_missing_leaves_are_hidden_in_leaves_alone():
    tree = random_tree([-1, 0, 0, 1, 1], [2, 3, 2, 4, 2], seed=0)
    draw = tree.sample(500, seed=1)
    a, b = tree.views(draw, hltm.drop_leaves(0.3))
    assert a.leaves.dtype == torch.int16
    assert a.states.equal(draw.states)
    assert ((a.leaves == -1) == a.missing).all()
    assert a.leaves[~a.missing].equal(draw.leaves.short()[~a.missing])
    assert not a.missing.equal(b.missing)
    assert draw.leaves.dtype == torch.uint8
    assert draw.missing.shape == draw.leaves.shape
    assert not draw.missing.any()


def test_posteriors_read_missing_leaves():
    tree = random_tree([-1, 0, 0, 1, 1], [2, 3, 2, 4, 2], seed=0)
    draw = tree.sample(50, seed=1)
    (none,) = tree.views(draw, hltm.drop_leaves(1), count=1)
    prior = tree.posterior(none.leaves)
    assert prior.log_evidence.abs().max() < 1e-12
    (some,) = tree.views(draw, hltm.drop_leaves(0.5), count=1)
    assert not tree.posterior(some.leaves).marginals.equal(tree.posterior(draw.leaves).marginals)


@given(st.integers(0, 300), st.integers(1, 200), st.integers(0, 2**64 - 1))
def test_missing_leaves_have_addresses(start, count, seed):
    trees = random_tree([-1, 0, 0, 1, 1], [2, 3, 2, 4, 2], seed=0, members=3)
    augmentation = hltm.drop_leaves(0.4).then(hltm.resample_leaves(0.5))
    whole = trees.views(trees.sample(500, seed=seed), augmentation, first_view=4)
    part = trees.views(trees.sample(count, seed=seed, start=start), augmentation, first_view=4)
    alone = trees[2].views(trees[2].sample(500, seed=seed), augmentation, first_view=4)
    for a, b, c in zip(whole, part, alone, strict=True):
        assert a.leaves[:, start : start + count].equal(b.leaves)
        assert a.leaves[2].equal(c.leaves)
    assert not whole[0].missing.equal(whole[1].missing)
    assert not whole[0].missing[0].equal(whole[0].missing[1])


def test_missing_decisions_are_independent_of_each_other_and_of_redraws():
    # at polarity 0 a redrawn leaf changes half the time
    tree = hltm.symmetric_binary(depth=3, polarity=0.0, seed=0)
    draw = tree.sample(20_000, seed=1)
    augmentation = hltm.drop_leaves(0.3).then(hltm.resample_leaves(0.3))
    a, b = tree.views(draw, augmentation)
    shown = [a.missing, b.missing, a.states[:, 7:] != draw.states[:, 7:], draw.states[:, 7:] == 1]
    flat = torch.cat([part.double() for part in shown], dim=1).T
    together = torch.corrcoef(flat).fill_diagonal_(0).abs().max() * 20_000**0.5
    assert together < stats.norm.isf(1e-3 / flat.shape[0] ** 2)
    rate = a.missing.double().mean(0)
    assert (rate - 0.3).abs().max() < stats.norm.isf(1e-3 / 16) * (0.3 * 0.7 / 20_000) ** 0.5


def test_a_rate_is_of_its_own_leaf():
    rates = np.array([0, 0, 1.0, 0.0, 0.5, 0.0])
    one = hltm.Augmentation("one", lambda t: np.zeros(6), lambda t: rates)
    tree = random_tree([-1, 0, 0, 1, 1, 1], [3] * 6, seed=0)
    (view,) = tree.views(tree.sample(2000, seed=1), one, count=1)
    share = view.missing.double().mean(0)
    assert share[[0, 1, 3]].tolist() == [1, 0, 0]
    assert abs(share[2] - 0.5) < 0.05


def test_a_subtree_is_missing_as_a_whole_and_what_is_missing_alone_besides():
    tree = random_tree([-1, 0, 0, 1, 1, 2, 3, 3], [3] * 8, seed=0)  # leaves of two levels
    draw = tree.sample(4000, seed=1)
    leaves = tree.leaves.start
    (whole,) = tree.views(draw, hltm.drop_subtrees(0.3, 1), count=1)
    (both,) = tree.views(draw, hltm.drop_subtrees(0.3, 1).then(hltm.drop_leaves(0.5)), count=1)
    (alone,) = tree.views(draw, hltm.drop_leaves(0.5), count=1)
    for top in tree.level(1):
        below = tree.topology.descendants(top)
        own = whole.missing[:, below[below >= leaves] - leaves]
        assert own.all(1).equal(own.any(1))
        assert abs(own[:, 0].double().mean() - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    assert both.missing.equal(whole.missing | alone.missing)
    assert whole.states.equal(draw.states)
    (none,) = tree.views(draw, hltm.drop_subtrees(1, tree.topology.depth), count=1)
    assert none.missing.all()


def test_known_missing_leaves():
    # the layout of missing-leaf decisions is part of DRAW_FORMAT 1
    tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
    (view,) = tree.views(tree.sample(4, seed=7, start=3), hltm.drop_leaves(0.5), count=1)
    assert view.missing.int().tolist() == [[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 0, 1], [0, 1, 0, 0]]
    words = philox((255 << 24 | 1, torch.tensor(1), 5 << 8 | 0x81, 0), seed=7)  # rows 4..7, node 5
    assert view.missing[1:, 2].tolist() == [bool(word >= 1 << 31) for word in words[:3]]


def test_a_redraw_of_a_view_misses_what_the_view_missed():
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    (view,) = tree.views(tree.sample(50, seed=1), hltm.drop_leaves(0.5), count=1)
    again = tree.redraw(view, tree.root)
    assert again.missing.equal(view.missing)
    assert not again.states.equal(view.states)
