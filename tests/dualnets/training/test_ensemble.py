"""Ensembles in parts: taken apart and joined again."""

import torch

import dualnets
import hltm
from dualnets.methods.protocol import TrainContext
from dualnets.training.data import FreshData
from dualnets.training.ensemble import join, join_states
from dualnets.training.memory import take
from dualnets.training.steps import TrainConfig, train_steps_eager

TREES = hltm.symmetric_binary(depth=3, members=5, seed=0)
METHOD = dualnets.SimCLR(
    dualnets.NTXent(0.5), dualnets.Head((6, 3), norm=dualnets.BatchNorm(affine=True))
)


def network(trees=TREES, units=4):
    return dualnets.tree_network(trees, units=units, seed=1, bias=True)


def config():
    data = FreshData(TREES, TREES.members, hltm.keep_root(), 16, 5, True, torch.device("cpu"))
    return TrainConfig(METHOD, dualnets.Adam(), data, TrainContext(TREES, 5, 10, 16))


def test_what_is_taken_apart_joins_to_the_same():
    whole = network()
    parts = [take(whole, low, high) for low, high in ((0, 2), (2, 3), (3, 5))]
    assert [part.members for part in parts] == [(0, 1), (2,), (3, 4)]
    again = join(parts, whole)
    leaves = TREES.sample(6, seed=2).leaves
    assert again(leaves).equal(whole(leaves))
    assert parts[1](leaves[2:3]).equal(whole(leaves)[2:3])
    with torch.no_grad():  # copies, not views
        parts[0].weights[0].zero_()
    assert again(leaves).equal(whole(leaves))


def test_states_of_parts_join_in_order():
    whole = network()
    settings = config()
    after = train_steps_eager(whole, settings, settings.init(whole), 0, 3)
    found = []
    for low, high in ((0, 2), (2, 5)):
        part = take(network(), low, high)
        own = settings.of_members(low, high)
        found.append(train_steps_eager(part, own, own.init(part), 0, 3))
    joined = join_states(found)
    for ours, theirs in ((joined.state, after.state), (joined.memory, after.memory)):
        assert set(ours) == set(theirs)
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name].detach(), rtol=0, atol=1e-6)
    assert joined.frozen_at.equal(after.frozen_at)


def test_taking_members_copies_no_others(monkeypatch):
    """A part of an ensemble is made without a copy of the whole."""
    whole = network()
    sizes = []
    original = torch.Tensor.__deepcopy__

    def spy(self, memo):
        sizes.append(self.numel())
        return original(self, memo)

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", spy)
    assert take(whole, 1, 3).members == (1, 2)
    assert sizes == []
