"""Missing rates that differ from row to row: their definition, their distribution, data sets and exports."""

import numpy as np
import pytest
import torch

import hltm
from hltm.sampling.augment import parse
from hltm.sampling.philox import DECISIONS, RATES, Stream, words_at

TREES = hltm.random_tree(nodes=14, cardinality=(2, 4), members=2, seed=1)
TREE = TREES[0]
ANY = hltm.drop_leaves((0.1, 0.9))


@pytest.mark.parametrize("also", [0.0, 0.3])
def test_a_row_misses_leaves_at_a_rate_of_its_own(also):
    augment = ANY.then(hltm.drop_leaves(also))
    draw = TREES.sample(9, seed=3, start=6)
    for view in TREES.views(draw, augment):
        address = {"seed": 3, "members": TREES.members, "view": view.view}
        rows = torch.tensor([*draw.rows])
        rate = words_at(rows, nodes=[0], stream=Stream.DATA | RATES, **address)
        u = words_at(rows, nodes=[*TREES.leaves], stream=Stream.DATA | DECISIONS, **address)
        for s, i, x in np.ndindex(*view.leaves.shape):
            own = 0.1 + 0.8 * (int(rate[s, 0, i]) + 0.5) / 2**32
            own = 1 - (1 - own) * (1 - also)
            assert view.missing[s, i, x] == (int(u[s, x, i]) >= (1 - own) * 2**32)


def spread_score(missing):
    """χ² of the numbers of missing leaves, all of 0..X equally likely, as a z score."""
    many = missing.sum(1).double()
    count = missing.shape[1] + 1
    chi = ((torch.bincount(many.long(), minlength=count) - len(many) / count) ** 2).sum()
    chi = chi / (len(many) / count)
    return float((chi - (count - 1)) / (2 * (count - 1)) ** 0.5)


def test_at_any_rate_every_number_of_missing_leaves_is_equally_likely():
    draw = TREE.sample(8000, seed=5)
    one, two = TREE.views(draw, hltm.drop_leaves((0, 1)))
    assert spread_score(one.missing) < 4.5
    assert spread_score(TREE.views(draw, hltm.drop_leaves(0.5))[0].missing) > 50
    # the rates of two views of a row are independent
    pair = torch.stack([one.missing.sum(1), two.missing.sum(1)]).double()
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 3.3 / 8000**0.5


def test_data_sets_and_exports_miss_the_same_leaves(tmp_path):
    views = [view.leaves for view in TREE.views(TREE.sample(50, seed=3), ANY)]
    batch = hltm.ViewDataset(TREE, ANY, samples=50, seed=3).batch(np.arange(50))
    assert all(map(torch.equal, batch.views, views))
    hltm.export(TREE, tmp_path / "out", 50, seed=3, views=2, augment=ANY)
    assert hltm.verify(tmp_path / "out").ok
    again = hltm.load(tmp_path / "out")
    assert all(torch.as_tensor(again.views[i][:]).equal(views[i]) for i in range(2))


def test_names_and_what_is_refused():
    topology = hltm.Topology.balanced(1)
    assert parse("drop-leaves:0.1-0.9") == ANY
    assert parse("drop-leaves:1e-3-1") == hltm.drop_leaves((0.001, 1))
    assert parse("drop-leaves:1e-3") == hltm.drop_leaves(0.001)
    assert ANY.missing_rates(topology).tolist() == [[0, 0.1, 0.1], [0, 0.9, 0.9]]
    for text, message in (
        ("drop-leaves:0.9-0.1", r"two rates must be a least and a largest one, got \(0.9, 0.1\)"),
        ("drop-leaves:0-1-1", "two rates must be"),
        ("drop-leaves:0.1-", "takes an argument, e.g. drop-leaves:0.2, got 'drop-leaves:0.1-'"),
        ("drop-leaves:0.5-1.5", r"a rate must be in \[0, 1\], got 1.5"),
        ("drop-leaves:0-1,drop-leaves:0.2-0.3", "only one part may have missing rates that differ"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(text)
    for rate in ("0.5", None, True, ("a", 1), (0.5,), np.array([0.1, 0.5])):
        with pytest.raises(ValueError, match=r"a rate must be in \[0, 1\], got|two rates must be"):
            hltm.drop_leaves(rate)
