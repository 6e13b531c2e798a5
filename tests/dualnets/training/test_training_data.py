"""The rows of every step: their addresses, each sample once per epoch, negatives of other samples."""

from dataclasses import replace

import pytest
import torch

import dualnets
import hltm
from dualnets.methods.protocol import Needs
from dualnets.training import data as training_data
from dualnets.training.data import FixedData, FreshData
from hltm.sampling.philox import Stream

TREES = hltm.symmetric_binary(depth=3, members=4, seed=0)[1:]
AUGMENT = hltm.resample_leaves(0.4)
SAMPLES, BATCH = 23, 5


def rows(kind, trees=TREES, **changes):
    given = {
        "source": trees, "members": trees.members, "augment": AUGMENT, "batch": BATCH, "seed": 9,
        "stacked": trees.stacked, "device": torch.device("cpu"),
    }  # fmt: skip
    return kind(**(given | changes))


def fixed(**changes):
    return rows(FixedData, **({"samples": SAMPLES} | changes))


def views_of(first, count=2, augment=AUGMENT, trees=TREES, samples=SAMPLES):
    base = trees.sample(samples, seed=9)
    return [v.leaves for v in trees.views(base, augment, count=count, first_view=first)]


def test_fresh_rows_and_views_are_the_trees_own():
    data = rows(FreshData)
    needs = Needs(views=3, negatives=2, targets="latents")
    base = TREES.sample(10 * BATCH, seed=9)
    views = TREES.views(base, AUGMENT, count=3)
    other = TREES.draw(2 * 10 * BATCH, seed=9, stream=Stream.NEGATIVES)
    (negatives,) = TREES.views(other, AUGMENT, count=1)
    for step, batch in enumerate(data.batches(needs, 2, 8), start=2):
        here = slice(step * BATCH, (step + 1) * BATCH)
        passes = batch.leaves.split(BATCH, dim=1)
        assert len(passes) == 5
        for view, found in zip(views, passes, strict=False):
            assert found.equal(view.leaves[:, here])
        for h in range(2):
            assert passes[3 + h].equal(negatives.leaves[:, 2 * here.start + h : 2 * here.stop : 2])
        states = base.states[:, here][..., list(TREES.topology.latents)]
        assert batch.targets.equal(states.long())
        assert batch.places is None


@pytest.mark.parametrize("make", [lambda: rows(FreshData), lambda: fixed()])
def test_the_sample_itself_stands_behind_its_views(make):
    """With it, views and negatives are those without it."""
    data, needs = make(), Needs(negatives=2)
    assert needs._replace(original=True).passes == needs.passes + 1
    both = (data.batches(own, 0, 9) for own in (needs, needs._replace(original=True)))
    base = TREES.sample(SAMPLES if isinstance(data, FixedData) else 9 * BATCH, seed=9).leaves
    for step, (without, given) in enumerate(zip(*both, strict=True)):
        expected, passes = (b.leaves.split(BATCH, dim=1) for b in (without, given))
        assert all(map(torch.equal, expected, (*passes[:2], *passes[3:])))
        if isinstance(data, FixedData):
            epoch, at = divmod(step, data.steps_per_epoch)
            here = data.order(epoch)[at * BATCH : (at + 1) * BATCH]
        else:
            here = torch.arange(step * BATCH, (step + 1) * BATCH)
        assert passes[2].equal(base[:, here])


def test_missing_and_flipped_leaves_are_those_of_the_views_and_missing_ones_read_as_zeros():
    trees = hltm.random_hierarchy(v=3, m=2, s=2, L=2, classes=3, members=2, seed=0)
    augment = hltm.drop_subtrees(0.4, 1).then(hltm.drop_leaves(0.2)).then(hltm.flip_leaves(0.3))
    network = dualnets.tree_network(trees, units=3, seed=0)
    views = trees.views(trees.sample(4 * BATCH, seed=9), augment)
    batches = rows(FreshData, trees, augment=augment).batches(Needs(views=2, original=True), 0, 4)
    for step, batch in enumerate(batches):
        here = slice(step * BATCH, (step + 1) * BATCH)
        *seen, itself = batch.leaves.split(BATCH, dim=1)
        assert itself.equal(
            trees.sample(4 * BATCH, seed=9).leaves[:, here]
        )  # misses nothing, flips nothing
        for view, found in zip(views, seen, strict=True):
            shown = view.leaves[:, here]
            assert found.dtype == torch.uint8
            assert torch.where(found == 255, -1, found.short()).equal(shown)
            read = network.read(found.transpose(1, 2)).unflatten(1, (4, 3)).sum(2)  # (S, X, B)
            assert read.transpose(1, 2).equal((shown >= 0).to(read.dtype))
    few = rows(FixedData, trees, augment=augment, samples=BATCH).batches(Needs(views=2), 1, 1)
    second = trees.views(trees.sample(BATCH, seed=9), augment, first_view=3)
    (batch,) = few
    for view, found in zip(second, batch.leaves.split(BATCH, dim=1), strict=True):
        given = sorted(map(tuple, view.leaves[0].tolist()))
        assert sorted(map(tuple, torch.where(found == 255, -1, found.short())[0].tolist())) == given


def test_leaves_of_which_no_number_is_left_cannot_be_missing():
    tree = hltm.LatentTree.from_tables(
        hltm.Topology.balanced(1), [torch.ones(1, 2) / 2, *[torch.ones(1, 2, 256) / 256] * 2]
    )
    with pytest.raises(ValueError, match="leaves of 256 states, expected at most 255"):
        training_data.check_missing(tree, hltm.drop_leaves(0.1), [])


def test_every_sample_once_per_epoch_in_another_order_each():
    data = fixed(batch=SAMPLES)
    needs = Needs(places=True)
    orders = [batch.places for batch in data.batches(needs, 0, 6)]
    for order in orders:
        assert order.sort().values.equal(torch.arange(SAMPLES))
    assert len({tuple(order.tolist()) for order in orders}) == 6
    # a batch that does not divide the samples: whole batches, each sample at most once
    data = fixed()
    assert data.steps_per_epoch == 4
    seen = torch.cat([batch.places for batch in data.batches(needs, 4, 4)])
    assert len(seen.unique()) == 20
    left = [
        set(range(SAMPLES)) - {int(p) for b in data.batches(needs, 4 * e, 4) for p in b.places}
        for e in range(3)
    ]
    assert len({frozenset(s) for s in left}) > 1, "the samples left over should change"


def test_orders_are_uniform():
    """Over 800 epochs: where sample 0 comes, and which two come first, by chi-squared."""
    data = fixed(samples=6, batch=2)
    orders = torch.stack([data.order(epoch) for epoch in range(800)])
    for counts in (
        (orders == 0).sum(0),
        torch.bincount(orders[:, 0] * 6 + orders[:, 1], minlength=36).view(6, 6)[
            ~torch.eye(6, dtype=torch.bool)
        ],
    ):
        expected = 800 / len(counts)
        chi = float(((counts - expected) ** 2 / expected).sum())
        freedom = len(counts) - 1
        assert chi < freedom + 6 * (2 * freedom) ** 0.5  # six standard deviations


@pytest.mark.parametrize("views", [1, 2, 3])
def test_an_epochs_views_are_numbered_on(views):
    """Epoch e shows the samples' views V e + 1 .. V e + V, for two views 2e + 1 and 2e + 2."""
    needs = Needs(views=views, targets="root", places=True)
    base = TREES.sample(SAMPLES, seed=9)
    for step, batch in enumerate(fixed().batches(needs, 0, 12)):
        epoch = step // 4
        for found, view in zip(
            batch.leaves.split(BATCH, dim=1), views_of(views * epoch + 1, views), strict=True
        ):
            assert found.equal(view[:, batch.places])
        assert batch.targets.equal(base.root[:, batch.places, None].long())


@pytest.mark.parametrize("many", [1, 4, SAMPLES - 1])
def test_negatives_are_other_samples_of_the_same_epoch(many):
    needs = Needs(negatives=many, places=True)
    data = fixed()
    for step, batch in enumerate(data.batches(needs, 0, 8)):
        epoch, at = divmod(step, 4)
        order, (_, last) = data.order(epoch), views_of(2 * epoch + 1)
        for h, found in enumerate(batch.leaves.split(BATCH, dim=1)[2:]):
            others = order[(torch.arange(BATCH) + at * BATCH + h + 1) % SAMPLES]
            assert not others.eq(batch.places).any()
            assert found.equal(last[:, others])


@pytest.mark.parametrize("data", [rows(FreshData), fixed()], ids=["fresh", "fixed"])
def test_a_member_reads_the_same_rows_in_any_ensemble(data):
    needs = Needs(negatives=2, targets="latents")
    whole = list(data.batches(needs, 0, 7))
    alone = replace(data, source=TREES[1], members=TREES[1].members, stacked=False)
    if isinstance(data, FixedData):
        alone = replace(alone, _epochs={})
    for batch, single, part in zip(
        whole, alone.batches(needs, 0, 7), data.of_members(1, 3).batches(needs, 0, 7), strict=True
    ):
        assert batch.leaves[1].equal(single.leaves)
        assert batch.targets[1:2].equal(single.targets)
        assert batch.leaves[1:3].equal(part.leaves)
    # one tree, several networks: rows of their own
    many = replace(data, source=TREES[1], members=(0, 1), stacked=True)
    (batch, *_) = many.batches(needs, 0, 1)
    assert not batch.leaves[0].equal(batch.leaves[1])


@pytest.mark.parametrize("data", [rows(FreshData), fixed()], ids=["fresh", "fixed"])
def test_chunks_of_steps_do_not_matter(data):
    needs = Needs(negatives=1, targets="root")
    at_once = list(data.batches(needs, 3, 9))
    for cut in (1, 4, 8):
        pieces = [*data.batches(needs, 3, cut), *data.batches(needs, 3 + cut, 9 - cut)]
        for a, b in zip(at_once, pieces, strict=True):
            assert a.leaves.equal(b.leaves)
            assert a.targets.equal(b.targets)


def test_chunks_are_as_long_as_the_memory_set_aside(monkeypatch):
    data, needs = rows(FreshData), Needs(negatives=1)
    monkeypatch.setattr(training_data, "DRAWN_BYTES", 3 * 8 * 5 * 3 * 10)
    assert data.steps_at_once(needs) == 10
    monkeypatch.setattr(training_data, "DRAWN_BYTES", 1)
    assert data.steps_at_once(needs) == 1


@pytest.mark.parametrize(
    ("data", "needs", "steps", "message"),
    [
        (rows(FreshData), Needs(places=True), 1, "needs a fixed data set: give samples="),
        (fixed(batch=24), Needs(), 1, "a batch of 24 does not fit a fixed data set of 23 samples"),
        (fixed(), Needs(negatives=23), 1, "23 negatives per anchor need more than 23 samples"),
        (fixed(), Needs(), 4 << 23, "there are only 2\\^24 views"),
        (fixed(augment=hltm.keep_nothing()), Needs(targets="root"), 1, "root|redraw|keep"),
        (rows(FreshData), Needs(targets="leaf"), 1, "targets must be 'root', 'latents'"),
    ],
)
def test_what_cannot_be_given_is_refused(data, needs, steps, message):
    with pytest.raises(ValueError, match=message):
        data.check(needs, steps)
