"""Leaves and labels as pairs of tensors, for code that knows nothing of views."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Subset

import hltm

TREE = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)


def labelled(**changes):
    return hltm.LabelledDataset(TREE, **({"samples": 300, "seed": 3} | changes))


def test_rows_are_those_of_the_tree():
    draw = TREE.sample(340, seed=3)
    x, y = labelled(start=40)[:]
    assert x.equal(draw.leaves[40:])
    assert y.equal(draw.root[40:].long())
    _, both = labelled(targets=[1, "9"])[[5, -1]]
    assert both.equal(draw.states[[5, 299]][:, [1, 9]].long())
    x, y = labelled(encode=hltm.encode.signs)[7]
    assert x.equal(hltm.encode.signs(draw.leaves[7]))
    assert y == draw.root[7]
    other = labelled(stream=hltm.Stream.EVALUATION)[:]
    assert not other.inputs.equal(draw.leaves[:300])


def test_loaders_and_estimators_read_pairs():
    data = labelled(encode=hltm.encode.signs)
    for _ in range(2):  # nothing changes from pass to pass
        assert torch.cat([x for x, _ in DataLoader(data, batch_size=64)]).equal(data[:].inputs)
    batch = next(iter(DataLoader(Subset(data, [5, 2]), batch_size=2)))
    assert batch == data[[5, 2]]
    pairs = torch.utils.data.default_collate([data[5], data[2]])
    assert pairs == batch
    model = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    assert model.fit(*data[:200]).score(*data[200:]) > 0.9


def test_displays_copies_and_errors():
    data = labelled(targets=0)
    assert repr(data) == "LabelledDataset(300 rows, targets 7, 8, 9, 10, 11, …)"
    assert repr(data[:2]) == "LabelledBatch(inputs=(2, 8) uint8, targets=(2, 8) int64)"
    assert pickle.loads(pickle.dumps(data))[3] == data[3]
    assert len(data) == 300
    assert data[2:2].inputs.shape == (0, 8)
    with pytest.raises(IndexError, match=r"places must be in -300..299, got 300"):
        data[300]
    with pytest.raises(ValueError, match="targets must be"):
        labelled(targets=None)
