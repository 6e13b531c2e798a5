"""Pictures as rows: each once per epoch, views by address, the same in any spans and parts of an ensemble."""

from dataclasses import replace

import pytest
import torch

import hltm
from dualnets.images import load, parse_views
from dualnets.images import rows as image_rows
from dualnets.methods.protocol import Needs
from hltm.sampling.philox import Stream

DIGITS = load("digits")
SAMPLES, BATCH, MEMBERS = 23, 5, (1, 2, 3)
AUGMENT = parse_views("crop:0.5+noise:0.1")
MEAN, STD = DIGITS.mean[0], DIGITS.std[0]
EVERYTHING = Needs(views=2, negatives=3, targets="label", places=True, original=True)


def rows(images=DIGITS, **changes):
    given = {
        "members": MEMBERS, "augment": AUGMENT, "batch": BATCH, "seed": 9, "stacked": True,
        "device": torch.device("cpu"), "samples": SAMPLES,
    }  # fmt: skip
    return images.rows(**(given | changes))


def view(places, number, members=MEMBERS):
    """`(S, N, X)` standardised views of samples, directly."""
    chosen = image_rows.fixed_order(len(DIGITS.train.labels))[places]
    pictures = torch.from_numpy(DIGITS.train.images[chosen]).float() / 255
    found = AUGMENT.views(
        pictures, seed=9, stream=Stream.DATA, members=members, view=number, rows=places
    )
    return ((found - MEAN) / STD).flatten(2)


def test_the_passes_of_every_batch_are_views_by_address():
    data = rows()
    for step, batch in enumerate(data.batches(EVERYTHING, 3, 8), start=3):
        epoch, at = divmod(step, SAMPLES // BATCH)
        order = data.order(epoch)
        places = order[at * BATCH : (at + 1) * BATCH]
        assert batch.places.equal(places)
        assert batch.size == BATCH
        assert batch.leaves.dtype == torch.float32
        passes = batch.leaves.split(BATCH, dim=1)
        assert len(passes) == 6
        first = 2 * epoch + 1
        for number, found in zip((first, first + 1), passes, strict=False):
            torch.testing.assert_close(found, view(places, number))
        chosen = image_rows.fixed_order(len(DIGITS.train.labels))[places]
        own = torch.from_numpy(DIGITS.train.images[chosen]).flatten(1).double() / 255
        expected = ((own - MEAN) / STD).float().expand(3, -1, -1)
        torch.testing.assert_close(passes[2], expected, atol=1e-5, rtol=0)
        for h in range(3):
            others = order[(torch.arange(at * BATCH, (at + 1) * BATCH) + h + 1) % SAMPLES]
            torch.testing.assert_close(passes[3 + h], view(others, first + 1))
        labels = torch.from_numpy(DIGITS.train.labels[chosen])
        assert batch.targets.equal(labels[None, :, None].expand(3, -1, -1))


def test_an_epoch_reads_every_sample_once_and_epochs_differ():
    data = rows(samples=20)
    places = [batch.places for batch in data.batches(Needs(places=True), 0, 8)]
    epochs = torch.stack(places).view(2, -1)
    assert epochs.sort().values.equal(torch.arange(20).expand(2, -1))
    assert not epochs[0].equal(epochs[1])


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.leaves.equal(other.leaves)
        assert one.targets.equal(other.targets)
        assert one.places.equal(other.places)


def test_steps_are_the_same_in_any_spans():
    whole = list(rows().batches(EVERYTHING, 0, 12))
    assert_same([next(iter(rows().batches(EVERYTHING, step, 1))) for step in range(12)], whole)
    pieces = [batch for low in (0, 7) for batch in rows().batches(EVERYTHING, low, 7 - low // 3)]
    assert_same(pieces, whole)
    assert rows().steps_at_once(EVERYTHING) > rows(members=range(9)).steps_at_once(EVERYTHING) > 1
    assert rows(batch=10**6).steps_at_once(EVERYTHING) == 1


def test_members_have_the_same_views_in_any_part():
    whole = list(rows().batches(EVERYTHING, 2, 4))
    part = rows().of_members(1, 3)
    assert part.members == (2, 3)
    for own, batch in zip(part.batches(EVERYTHING, 2, 4), whole, strict=True):
        assert own.leaves.equal(batch.leaves[1:])
        assert own.places.equal(batch.places)
    alone = replace(rows().of_members(1, 2), stacked=False)
    for own, batch in zip(alone.batches(EVERYTHING, 2, 4), whole, strict=True):
        assert own.leaves.equal(batch.leaves[1])
    assert not whole[0].leaves[0].equal(whole[0].leaves[1])


def test_fewer_samples_are_the_first_of_more():
    few = rows(samples=10)
    assert list(few._chosen) == list(rows(samples=40)._chosen[:10])
    assert sorted(rows(samples=None)._chosen) == list(range(len(DIGITS.train.labels)))
    assert rows(samples=None).samples == len(DIGITS.train.labels)


def test_what_rows_take_is_counted():
    data, needs = rows(), EVERYTHING
    batch = next(iter(data.batches(needs, 0, 1)))
    assert batch.leaves.nbytes < data.step_bytes(needs) <= 3 * batch.leaves.nbytes
    assert data.kept_bytes(needs)[1] > SAMPLES * 8
    assert data.target_count(needs) == batch.targets.shape[-1] == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rows(samples=2000), ValueError, "samples must be at most the 1297 training.*got 2000"),
        (lambda: rows(augment=hltm.keep_root()), TypeError, "augment must be such as .*parse_views"),
        (lambda: rows().check(Needs(targets="root"), 1), ValueError, "of pictures is 'label', got 'root'"),
        (lambda: rows(samples=3).check(Needs(), 1), ValueError, "a batch of 5 does not fit .* of 3"),
        (lambda: rows().check(Needs(negatives=30), 1), ValueError, "30 negatives per anchor need more"),
        (lambda: rows().check(Needs(views=99), 10**6), ValueError, "only 2.24 views of a sample"),
    ],
)  # fmt: skip
def test_what_pictures_do_not_have_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
