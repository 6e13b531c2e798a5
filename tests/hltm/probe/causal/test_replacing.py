"""Torch modules with some units replaced, by hooks."""

import pytest
import torch
from torch import nn

import hltm
from hltm.probe import TorchNetwork, patch
from hltm.probe.causal.replacing import Replacement, run_replaced, run_with

TREES = hltm.symmetric_binary(depth=3, members=2, seed=0)
LEAVES = TREES.sample(30, seed=1).leaves


def build():
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def test_a_torch_module_like_its_formula_by_hand_and_as_it_was():
    model = build().train()
    network = TorchNetwork(model, {"2": "hidden"})
    leaves = LEAVES[0]
    hidden = network.activations(leaves)["hidden"]
    units = torch.zeros(1, 6, dtype=torch.bool)
    units[0, [1, 4]] = True
    found = run_with(network, leaves, {"hidden": Replacement(units, torch.zeros(1, 6))})
    expected = model[3](hidden.masked_fill(units, 0.0))
    torch.testing.assert_close(found, expected.detach())
    assert model.training
    assert model[1].training
    assert not model[2]._forward_hooks
    assert int(model[1].num_batches_tracked) == 0
    both = run_with(network, LEAVES, {"hidden": Replacement(units, torch.zeros(2, 1, 6))})
    assert both[0].equal(found)


def test_inputs_given_by_name_and_several_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.add = nn.Bilinear(2, 2, 1, bias=False)
            self.last = nn.Linear(1, 1, bias=False)

        def forward(self, a, b):
            return self.last(input=self.add(a, b))

    model = Two()
    one = Replacement(torch.tensor([True]), torch.ones(1, 1))
    found = run_replaced(model, (torch.ones(3, 2), torch.ones(3, 2)), {"last": one}, side="input")
    torch.testing.assert_close(found, model.last.weight.detach().expand(3, 1))


@pytest.mark.parametrize(
    ("model", "name", "units", "message"),
    [
        (build(), "nine", 6, "no layer 'nine'"),
        (build(), "0", 5, "has 6 units"),
        (nn.Sequential(nn.Linear(8, 8), nn.Identity()), "0", 8, None),
    ],
)
def test_refusals(model, name, units, message):
    replacement = Replacement(torch.ones(units, dtype=torch.bool), torch.zeros(1, units))
    if message is None:
        assert run_replaced(model, torch.ones(2, 8), {name: replacement}).eq(0).all()
        return
    with pytest.raises(ValueError, match=message):
        run_replaced(model, torch.ones(2, 8), {name: replacement})
    assert not any(part._forward_hooks for part in model.modules())


def test_layers_that_run_twice_or_never_and_outputs_that_are_no_tensors():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.never, self.pair = nn.Identity(), nn.Identity(), Pair()

        def forward(self, x):
            return self.pair(self.twice(self.twice(x)))

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    replacement = Replacement(torch.ones(2, dtype=torch.bool), torch.zeros(1, 2))
    for name, message in (
        ("twice", "more than once"),
        ("never", "did not run"),
        ("pair", "is a tuple"),
    ):
        with pytest.raises(ValueError, match=message):
            run_replaced(Odd(), torch.ones(3, 2), {name: replacement})
    pair = TorchNetwork(nn.Sequential(nn.Identity(), Pair()), ["0"])
    with pytest.raises(TypeError, match="returns a tuple"):
        run_with(pair, torch.ones(3, 2, dtype=torch.int64), {})
    with pytest.raises(TypeError, match="cannot be replaced"):
        run_with(object(), torch.ones(3, 2), {})


def test_pool_and_positions_are_refused_before_any_work_and_a_position_can_be_chosen(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(2, 4), nn.Flatten(), nn.Linear(32, 1))
    tree, options = TREES[0], {"samples": 40, "seed": 1, "draws": 2}
    for reading in ({"pool": "first"}, {"positions": "leaves"}):
        network = TorchNetwork(model, ["0", "2"], encode="tokens", **reading)
        with pytest.raises(
            ValueError, match=r"layer '0' cannot be replaced, .* leave these out, then"
        ):
            patch(network, tree, **options)
        mixed = TorchNetwork(
            model, ["0", "2"], encode="tokens", **{k: {"0": v} for k, v in reading.items()}
        )
        assert mixed.reduced == ["0"]
    monkeypatch.setattr("hltm.probe.causal.setup.FITTED", 256)
    network = TorchNetwork(model, ["0"], encode="tokens")
    left = tree.level(2)[0]  # above the first four of eight leaves
    table = patch(network, tree, nodes=[left], units={left: range(16)}, **options)
    share = table[table["metric"] == "own_share"]
    assert share["units"].item() == 16
    assert share["value"].item() == pytest.approx(1, abs=1e-9)  # these positions are all of it


def test_an_item_of_what_a_part_returns_and_rows_on_another_axis():
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.last = nn.RNN(1, 3), nn.Linear(3, 2)

        def forward(self, leaves):
            hidden, _ = self.rnn(leaves.T[..., None])  # (X, B, 3)
            return self.last(hidden[-1])

    network = TorchNetwork(Recurrent(), ["rnn[0]"])
    leaves, other = LEAVES[0], LEAVES[1]
    shown = network.activations(other)["rnn[0]"]
    assert shown.shape == (30, 24)
    every = torch.ones(1, 24, dtype=torch.bool)
    found = run_with(network, leaves, {"rnn[0]": Replacement(every, shown)})
    torch.testing.assert_close(found, run_with(network, other, {}))
    assert not found.allclose(run_with(network, leaves, {}))
    chosen = TorchNetwork(Recurrent(), ["rnn"], select=0)
    with pytest.raises(ValueError, match="select or call"):
        run_with(chosen, leaves, {"rnn": Replacement(every, shown)})
