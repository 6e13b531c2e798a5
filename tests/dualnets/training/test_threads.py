"""Parts of an ensemble on threads: same bits for any number of them, and errors that arrive."""

import pytest
import torch

import dualnets
import hltm
from dualnets.training import ensemble
from dualnets.training.threads import on_threads


@pytest.fixture(autouse=True)
def restored():
    given = torch.get_num_threads()
    yield
    torch.set_num_threads(given)


def test_every_item_is_done_once_and_torchs_threads_are_as_before():
    torch.set_num_threads(2)
    for threads in (1, 2, 3):
        done, seen = [], set()

        def work(item, done=done, seen=seen):
            done.append(item)
            seen.add(torch.get_num_threads())

        on_threads(work, range(7), threads)
        assert sorted(done) == [*range(7)]
        assert seen == {2 if threads == 1 else 1}
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [MemoryError("full"), KeyboardInterrupt()], ids=repr)
def test_an_error_arrives_and_nothing_more_is_begun(error):
    done = []

    def work(item):
        done.append(item)
        if item == 1:
            raise error

    with pytest.raises(type(error)):
        on_threads(work, range(1000), 2)
    assert len(done) < 1000
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize(
    ("members", "at_once", "expected"),
    [(1, 1, 1), (8, 8, 8), (16, 16, 16), (31, 31, 31), (32, 32, 16), (50, 50, 17), (128, 5, 5)],
)
def test_parts_depend_on_the_ensemble_alone(members, at_once, expected):
    network = dualnets.tree_network(hltm.symmetric_binary(depth=2, seed=0), units=2, seed=1)
    assert ensemble.members_per_part(network, members, at_once) == expected


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(ensemble, "PER_PART", 2)
    trees = hltm.symmetric_binary(depth=2, members=5, seed=0)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        final = dualnets.train(
            dualnets.tree_network(trees, units=3, seed=1), dualnets.VICReg(), trees, steps=4, batch=8,
            augment=hltm.keep_root(), optimizer=dualnets.AdamW(0.01), seed=2,
        )  # fmt: skip
        found.append([*final.network.parameters(), final.losses])
    assert all(a.equal(b) for a, b in zip(*found, strict=True))
    alone = dualnets.train(
        dualnets.tree_network(trees[3:4], units=3, seed=1), dualnets.VICReg(), trees[3:4], steps=4,
        batch=8, augment=hltm.keep_root(), optimizer=dualnets.AdamW(0.01), seed=2,
    )  # fmt: skip
    torch.testing.assert_close(found[0][-1][3:4], alone.losses)


@pytest.mark.parametrize(
    ("make", "method", "augment", "exact"),
    [
        (lambda t: dualnets.mlp(t, units=64, seed=1), dualnets.SimCLR(), hltm.keep_root(), True),
        pytest.param(
            lambda t: dualnets.transformer(t, width=16, layers=1, heads=2, seed=1),
            dualnets.MaskedPrediction(), hltm.drop_leaves(0.3), False, marks=pytest.mark.slow,
        ),
    ],
    ids=["compiled", "torch"],
)  # fmt: skip
def test_a_single_network_on_two_threads(make, method, augment, exact):
    """Compiled steps have the same bits; torch adds in another order, the same for one number of threads."""
    tree, found = hltm.symmetric_binary(depth=4, seed=0), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        final = dualnets.train(
            make(tree), method, tree, steps=4, batch=64, augment=augment,
            optimizer=dualnets.SGD(0.01), seed=2,
        )  # fmt: skip
        found.append([*final.network.parameters(), final.losses])
    one, two, again = found
    assert all(a.equal(b) for a, b in zip(two, again, strict=True))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if exact else 1e-5)
