"""A draw is a function of its address: nothing else moves a bit, and no two addresses meet."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from draw_cases import BINARY, MIXED, PARENTS, random_tree

import hltm
from hltm.sampling import philox
from hltm.sampling.kernels import cpu, reference
from hltm.sampling.kernels.request import DrawRequest
from hltm.sampling.philox import DECISIONS, MULTIPLIER, WEYL, Stream

KINDS = pytest.mark.parametrize("cardinality", [BINARY, MIXED], ids=["binary", "mixed"])
HALF = hltm.resample_leaves(0.5).then(hltm.keep_level(1))


@pytest.fixture
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@KINDS
@pytest.mark.parametrize("start", [0, 1, 127, 4096, 2**34 - 1500])
def test_any_split_gives_the_same_rows(cardinality, start):
    tree = random_tree(PARENTS, cardinality, seed=0)
    whole = tree.sample(1500, seed=7, start=start)
    views = tree.views(whole, HALF)
    cuts = [0, 1, 3, 130, 131, 600, 1409, 1500]
    for low, high in pairwise(cuts):
        part = tree.sample(high - low, seed=7, start=start + low)
        assert torch.equal(part.states, whole.states[low:high])
        for view, one in zip(views, tree.views(part, HALF), strict=True):
            assert torch.equal(one.states, view.states[low:high])


@KINDS
@pytest.mark.usefixtures("_threads")
def test_threads_and_tiles_change_nothing(cardinality, monkeypatch):
    trees = random_tree(PARENTS, cardinality, seed=0, members=3)

    def draw():
        data = trees.sample(13_000, seed=7, start=50)
        return [data.states, *(view.states for view in trees.views(data, HALF))]

    monkeypatch.setattr(cpu, "PARALLEL_STATES", 1)
    torch.set_num_threads(1)
    expected = draw()
    for threads, most, size in ((2, 128, 1 << 22), (5, 8, 1 << 22), (1, 24, 1 << 22), (2, 128, 1)):
        torch.set_num_threads(threads)
        monkeypatch.setattr(cpu, "MOST_BLOCKS", most)
        monkeypatch.setattr(cpu, "TILE_BYTES", size)
        assert all(torch.equal(a, b) for a, b in zip(draw(), expected, strict=True))


@KINDS
def test_members_keep_their_rows_in_any_slice(cardinality):
    trees = random_tree(PARENTS, cardinality, seed=0, members=9)
    whole = trees.sample(300, seed=7)
    views = trees.views(whole, HALF, count=3)
    for index in (slice(2, 5), slice(None, None, -1), slice(8, 9)):
        part = trees[index].sample(300, seed=7)
        assert torch.equal(part.states, whole.states[list(range(9))[index]])
    one = trees[4].sample(300, seed=7)
    assert torch.equal(one.states, whole.states[4])
    assert torch.equal(
        trees[4].views(one, HALF, count=1, first_view=3)[0].states, views[2].states[4]
    )


@KINDS
def test_kept_nodes_do_not_depend_on_which_are_kept(cardinality):
    tree = random_tree(PARENTS, cardinality, seed=0)
    whole = tree.sample(300, seed=7)
    leaves = tree.draw(300, seed=7, first=tree.leaves.start)
    assert torch.equal(leaves.leaves, whole.leaves)


def test_one_set_of_tables_serves_members_as_copies_of_it_do():
    tree = random_tree(PARENTS, MIXED, seed=0)
    request = DrawRequest(tree.topology, seed=3, stream=1, members=(4, 6), start=0, samples=500)
    copies = type(tree.tables)(
        tree.topology, tree.tables.cardinality, tree.tables.flat.repeat(2, 1)
    )
    for kernel in (cpu, reference):
        (shared,), (copied,) = kernel.draw(tree.tables, request), kernel.draw(copies, request)
        assert torch.equal(shared, copied)
        assert not torch.equal(shared[0], shared[1])


def test_members_may_share_one_tree():
    tables = random_tree(PARENTS, MIXED, seed=0).tables
    trees = hltm.LatentTree.of_members(tables, 3)
    draw = trees.sample(500, seed=3)
    for member in range(3):
        assert torch.equal(trees[member].sample(500, seed=3).states, draw.states[member])
    assert not torch.equal(draw.states[0], draw.states[1])


def counters_used(monkeypatch, work):
    """`(N, 4)` counters that `work()` gives the generator, in order of use."""
    found = []
    plain = philox.philox

    def recording(counter, seed):
        words = torch.broadcast_tensors(*(torch.as_tensor(word) for word in counter))
        found.append(torch.stack(words, dim=-1).flatten(0, -2))
        return plain(counter, seed)

    with monkeypatch.context() as patch:
        patch.setattr(reference, "philox", recording)
        patch.setattr(philox, "philox", recording)
        work()
    return torch.cat(found)


@KINDS
def test_no_address_is_used_twice(cardinality, monkeypatch):
    """Across nodes, samples, members, views, decisions and streams, and the real numbers too."""
    tables = random_tree(PARENTS, cardinality, seed=0, members=2).tables
    rates = np.array([0, 0.5, 0, 1, 0.2, 0, 0.7])

    def work():
        for stream in (Stream.TABLES, Stream.DATA, Stream.NEGATIVES):
            for member in ((0, 1), (2**32 - 2, 2**32 - 1)):
                for start in (0, (1 << 34) - 130):
                    request = DrawRequest(
                        tables.topology, seed=3, stream=stream, members=member, start=start,
                        samples=130, views=(0, 1, 2**24 - 1), rates=rates,
                    )  # fmt: skip
                    reference.draw(tables, request)
                for node in (0, 1):
                    philox.uniform(20, seed=3, stream=stream, members=member, node=node)

    used = counters_used(monkeypatch, work)
    assert len(used) > 20_000
    assert 0 <= used.min() <= used.max() < 1 << 32
    # two words make one number of 64 bits, signed or not
    used = used.numpy()
    whole = np.stack([used[:, 0] << 32 | used[:, 1], used[:, 2] << 32 | used[:, 3]], axis=1)
    ordered = whole[np.lexsort(whole.T)]
    assert (np.diff(ordered, axis=0) != 0).any(1).all()


def test_every_field_of_an_address_has_its_own_bits():
    assert max(Stream) < DECISIONS <= 0x80
    assert len({stream.value for stream in Stream}) == len(Stream)


def plain_philox(counter, key):
    """Philox in Python's own integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = MULTIPLIER[0] * c[0], MULTIPLIER[1] * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + WEYL[0]) & 0xFFFFFFFF, (k[1] + WEYL[1]) & 0xFFFFFFFF]
    return c


def number_at(seed, stream, member, view, row, node, states):
    """u of one state, read off the published layout."""
    key = (seed & 0xFFFFFFFF, seed >> 32)
    if states > 2:
        return plain_philox((255 << 24 | view, row // 4, node << 8 | stream, member), key)[row % 4]
    u = 0
    for plane in range(32):
        counter = (plane << 24 | view, row // 128, node << 8 | stream, member)
        word = plain_philox(counter, key)[row % 128 // 32]
        u = u << 1 | word >> row % 32 & 1
    return u


@KINDS
def test_the_layout_by_hand(cardinality):
    """States of a few rows, computed one by one from the words of the layout."""
    seed, member = (9 << 40) + 5, 3
    trees = random_tree(PARENTS, cardinality, seed=0, members=4)
    draw = trees.sample(700, seed=seed)
    (view,) = trees.views(draw, hltm.keep_nothing(), count=1)
    tables = trees.tables
    for number, found in ((0, draw), (1, view)):
        for row in (0, 1, 127, 128, 333, 699):
            states = []
            for v, parent in enumerate(tables.topology.parent):
                count = int(tables.cardinality[v])
                u = number_at(seed, Stream.DATA, member, number, row, v, count)
                at = int(tables.threshold_start[v])
                at += 0 if v == 0 else states[parent] * (count - 1)
                states.append(int((tables.thresholds[member, at : at + count - 1] <= u).sum()))
            assert found.states[member, row].tolist() == states


def test_draw_format_1_is_these_states():
    """Known states pin the layout: if this fails, DRAW_FORMAT has changed and must be raised."""
    assert hltm.DRAW_FORMAT == 1
    binary = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
    draw = binary.sample(4, seed=2**40 + 1, start=126)
    (view,) = binary.views(draw, hltm.resample_leaves(0.5), count=1)
    sizes = [(3,), (3, 2), (3, 4), (2, 2), (2, 5), (4, 2), (4, 300)]
    counts = [np.arange(1, 1 + np.prod(size)).reshape(size) ** 2 for size in sizes]
    topology = hltm.Topology.from_parents(PARENTS)
    mixed = hltm.LatentTree.from_tables(topology, [c / c.sum(-1, keepdims=True) for c in counts])
    found = [draw.states, view.leaves, mixed.sample(4, seed=1, start=2**33).states]
    assert [[" ".join(map(str, row)) for row in part.tolist()] for part in found] == KNOWN


KNOWN: list[list[str]] = [
    [
        "0 1 1 1 1 0 0 0 1 0 0 1 1 0 1",
        "1 0 0 1 0 0 1 0 1 1 1 1 1 1 0",
        "0 1 1 1 0 0 0 0 1 0 1 1 1 0 1",
        "1 0 0 0 0 1 1 1 0 1 1 0 0 1 0",
    ],
    ["0 1 0 0 1 1 0 0", "0 1 1 1 1 0 1 0", "0 1 0 1 1 1 0 1", "1 0 1 1 0 0 1 0"],
    ["1 0 1 1 4 0 57", "2 0 2 0 4 1 252", "2 1 2 1 4 1 231", "2 1 0 0 2 1 278"],
]
