"""Flipped leaves: their definition, their distribution, and that all that reads views agrees."""

import numpy as np
import pytest
import torch

import hltm
from hltm.sampling.augment import Augmentation, parse
from hltm.sampling.philox import FLIPS, Stream, words_at
from hltm.sampling.rules import AtLevel

TREES = hltm.random_tree(nodes=14, cardinality=(2, 4), members=2, seed=1)
TREE = TREES[0]
FLIP = hltm.flip_leaves(0.4)
STATES = TREE.tables.cardinality[list(TREE.leaves)]


def by_definition(leaves, rate, view, rows, seed=3):
    """One leaf at a time: flipped where its number is among the highest, to a state by its place there."""
    found = leaves.clone()
    address = {"seed": seed, "stream": Stream.DATA | FLIPS, "members": TREES.members, "view": view}
    u = words_at(torch.tensor([*rows]), nodes=[*TREES.leaves], **address)
    limit = round((1 - rate) * 2**32)
    for s, i, x in np.ndindex(*leaves.shape):
        number = int(u[s, x, i])
        if number >= limit:
            found[s, i, x] = (number - limit) * int(STATES[x]) // (2**32 - limit)
    return found


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_flips_are_as_defined_and_states_stay(rate):
    draw = TREES.sample(9, seed=3, start=6)
    one, two = TREES.views(draw, hltm.flip_leaves(rate))
    for view in (one, two):
        expected = by_definition(draw.leaves, rate, view.view, draw.rows)
        assert view.leaves.equal(expected)
        assert view.leaves.dtype == draw.leaves.dtype
        assert view.states.equal(draw.states)
    assert (one.observed_SXB is None) == (rate == 0)


def test_redraws_come_first_and_missing_leaves_last():
    draw = TREES.sample(40, seed=3)
    resampled = TREES.views(draw, hltm.resample_leaves(0.5), count=1)[0]
    augment = hltm.drop_leaves(0.3).then(FLIP).then(hltm.resample_leaves(0.5))
    (view,) = TREES.views(draw, augment, count=1)
    assert view.states.equal(resampled.states)
    flipped = by_definition(resampled.leaves, 0.4, 1, draw.rows)
    (missing,) = TREES.views(draw, hltm.drop_leaves(0.3), count=1)
    assert view.leaves.equal(torch.where(missing.missing, -1, flipped.to(view.leaves.dtype)))


def z_scores(leaves, before, rate):
    """Of the counts of (state before, state after) beside those of flips, leaf by leaf."""
    found = []
    for x, many in enumerate(STATES):
        for a in range(many):
            after = leaves[:, x][before[:, x] == a].long()
            for b in range(many):
                p = (1 - rate) * (a == b) + rate / int(many)
                count = int((after == b).sum())
                found.append((count - len(after) * p) / (len(after) * p * (1 - p)) ** 0.5)
    return np.abs(found)


def test_flipped_leaves_are_uniform():
    draw = TREE.sample(20_000, seed=5)
    (view,) = TREE.views(draw, FLIP, count=1)
    scores = z_scores(view.leaves, draw.leaves, 0.4)
    assert scores.max() < 4.6  # p = 1e-3 over up to 240 of them
    # a flip that never keeps the state is another one
    other = torch.from_numpy(STATES.astype(np.int64))
    again = torch.where(view.leaves != draw.leaves, view.leaves, (draw.leaves + 1) % other)
    broken = torch.where(
        torch.rand(again.shape, generator=torch.manual_seed(0)) < 0.4, again, draw.leaves
    )
    assert z_scores(broken, draw.leaves, 0.4).max() > 10


def test_flips_do_not_depend_on_the_batch_or_on_what_else_views_do():
    whole = TREES.views(TREES.sample(300, seed=3), FLIP, count=1)[0].leaves
    part = TREES.views(TREES.sample(70, seed=3, start=130), FLIP, count=1)[0].leaves
    assert part.equal(whole[:, 130:200])
    assert TREES[1].views(TREES[1].sample(300, seed=3), FLIP, count=1)[0].leaves.equal(whole[1])


def test_data_sets_and_exports_flip_the_same_leaves(tmp_path):
    augment = FLIP.then(hltm.resample_leaves(0.2)).then(hltm.drop_leaves(0.1))
    draw = TREE.sample(50, seed=3)
    views = [view.leaves for view in TREE.views(draw, augment)]
    data = hltm.ViewDataset(TREE, augment, samples=50, seed=3)
    batch = data.batch(np.arange(50))
    for one, two in zip(batch.views, views, strict=True):
        assert torch.equal(one, two)
    folder = hltm.export(TREE, tmp_path / "out", 50, seed=3, views=2, augment=augment)
    assert hltm.verify(tmp_path / "out").ok
    again = hltm.load(tmp_path / "out")
    for i in range(2):
        assert torch.equal(torch.as_tensor(again.views[i][:]), views[i])
    assert str(folder) == str(again)
    table = TREE.views(draw, FLIP)[0].to_pandas()
    names = [TREE.topology.names[v] for v in TREE.leaves]
    assert (table[names].to_numpy() == TREE.views(draw, FLIP)[0].leaves.numpy()).all()


def test_more_than_256_states():
    tree = hltm.random_tree(nodes=5, cardinality=(300, 400), seed=1)
    (view,) = tree.views(tree.sample(200, seed=3), hltm.flip_leaves(1.0), count=1)
    most = torch.from_numpy(tree.tables.cardinality[list(tree.leaves)].astype(np.int64))
    assert view.observed_SXB.dtype == torch.uint16
    assert (view.leaves < most).all()
    assert (view.leaves.double().mean(0) / most - 0.5).abs().max() < 0.1


def test_names_combinations_and_what_is_refused():
    topology = hltm.Topology.balanced(2)
    assert parse("flip-leaves:0.2,keep-root") == hltm.flip_leaves(0.2).then(hltm.keep_root())
    both = hltm.flip_leaves(0.5).then(hltm.flip_leaves(0.2))
    assert both.flip_rates(topology).tolist() == [0] * 3 + [0.6] * 4
    assert not both.rates(topology).any()
    assert not both.may_redraw(topology).any()
    with pytest.raises(ValueError, match=r"a rate must be in \[0, 1\], got 1.5"):
        hltm.flip_leaves(1.5)
    inner = Augmentation("mine", hltm.keep_root().rule, flips=AtLevel(0.3, 1))
    with pytest.raises(
        ValueError, match=r"node '1' the flip rate 0.3, but only leaves are flipped"
    ):
        inner.flip_rates(topology)
    (view,) = TREE.views(TREE.sample(100, seed=3), FLIP, count=1)
    with pytest.raises(ValueError, match="leaves of the draw are flipped"):
        hltm.probe.measure(view.leaves.double(), TREE, draw=view)
