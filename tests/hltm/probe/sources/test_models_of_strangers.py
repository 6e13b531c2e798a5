"""Models as people bring them: what is read is right, what cannot is one sentence, nothing changes."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import hltm
from hltm.probe import LearningCurves, TorchNetwork, capture, measure
from hltm.probe.sources.undisturbed import kept_state

TREE = hltm.symmetric_binary(depth=3, polarity=0.8, seed=0)
LEAVES = TREE.sample(9, seed=1).leaves
OPTIONS = {"samples": 60, "seed": 0, "lags": 3, "details": False, "metrics": ["correlation"]}


class Between(nn.Module):
    """A linear part, a function of it, and a part that shows what it gives."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.shown, self.function = nn.Linear(8, 6), nn.Identity(), function

    def forward(self, x):
        return self.shown(self.function(self.linear(x)))


class First(nn.Module):
    def forward(self, items):
        return items[0]


def deep():
    parts = [nn.Linear(4, 4) for _ in range(9)]
    return nn.Sequential(nn.Unflatten(1, (8, 1)), nn.GRU(1, 4, batch_first=True), First(), *parts)


def test_an_item_is_meant_also_where_a_name_fits_it_as_a_pattern():
    model = deep()  # "1[0]" as a pattern is "10"
    expected = model[1](LEAVES.float()[..., None])[0].detach()
    assert capture(model, LEAVES.float(), "1[0]")["1[0]"].equal(expected)
    network = TorchNetwork(model, {"1[0]": 1, "10": "last"}, pool={"1[0]": "mean"})
    found = network.activations(LEAVES)
    assert torch.allclose(found[1], expected.mean(1))
    assert found["last"].shape == (9, 8 * 4)
    with pytest.raises(ValueError, match=r"pool names no layer '1\[0\]', expected '10'"):
        TorchNetwork(model, ["10"], pool={"1[0]": "mean"})


@pytest.mark.parametrize(
    "function",
    [lambda a: a.flip(0), lambda a: a.roll(1, 0), lambda a: a - a.mean(0), lambda a: a.softmax(0)],
)
@pytest.mark.parametrize("rows", [LEAVES, torch.arange(8)[None] % 2 ^ torch.arange(2)[:, None]])
def test_rows_that_are_moved_or_mixed_are_refused(function, rows):
    with pytest.raises(ValueError, match="'shown' depends on other rows of its batch"):
        TorchNetwork(Between(function), ["shown"]).activations(rows.to(torch.uint8))


class Counts(nn.Module):
    """Buffers that change in place, are replaced, grow and appear when it runs."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(4)
        for name in ("count", "replaced"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("seen", torch.zeros(0, 4))
        self.register_buffer("empty", None)

    def forward(self, x):
        shown = self.linear(x)
        self.count += 1
        self.replaced = self.replaced + torch.rand(())
        self.seen, self.empty = torch.cat([self.seen, shown.detach()]), torch.ones(1)
        self.register_buffer("late", torch.ones(1), persistent=False)
        random.random(), np.random.rand()  # noqa: NPY002
        return nn.functional.batch_norm(
            shown, self.norm.running_mean, self.norm.running_var, training=True
        )


def test_buffers_and_random_states_are_what_they_were():
    model = Counts()
    buffers = dict(model.named_buffers())
    state = {name: b.clone() for name, b in buffers.items()}
    numbers = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]  # noqa: NPY002
    measure(TorchNetwork(model, ["linear"]), TREE, **OPTIONS)
    capture(model.linear, LEAVES.float(), "")
    assert torch.get_rng_state().equal(numbers[0])
    assert (random.getstate(), np.random.get_state()[2]) == numbers[1:]  # noqa: NPY002
    capture(model, LEAVES.float(), "linear")
    assert dict(model.named_buffers()).keys() == buffers.keys()
    assert model._buffers["empty"] is None
    assert not model._non_persistent_buffers_set
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name]
        assert buffer.equal(state[name])
    with kept_state(nn.LazyBatchNorm1d()):
        pass


def test_numbers_are_not_those_of_autocast():
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh())
    with torch.autocast("cpu", torch.bfloat16):
        within = measure(model, TREE, **OPTIONS)
    assert within["value"].equals(measure(model, TREE, **OPTIONS)["value"])


@pytest.mark.parametrize(
    "error", [KeyError("k"), OSError("disk"), StopIteration(), ValueError("x" * 400)]
)
def test_whatever_a_model_raises_is_one_sentence(error):
    def fails(a):
        raise error

    model = Between(fails)
    with pytest.raises(ValueError, match="its part 'linear'") as refusal:
        TorchNetwork(model).activations(LEAVES)
    assert len(str(refusal.value)) < 300
    assert not any(part._forward_hooks for part in model.modules())
    with pytest.raises(ValueError, match=r"^encode fails on leaves of shape \(6, 8\): |^x*$"):
        TorchNetwork(model, encode=fails).activations(LEAVES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"select": lambda a: {}["k"]},
            r"select of layer 'shown' raised KeyError.*the output has \(6, 6\)",
        ),
        ({"select": {"shown": (0, "x")}}, r"has no \[0\]\[x\], expected one of \(6, 6\)"),
        ({"call": "x"}, "call of layer 'shown' must be a whole number, got 'x'"),
        ({"batch_axis": "0"}, "batch_axis must be a whole number, got '0'"),
        ({"batch_axis": {0: 0}}, "batch_axis names no layer 0, expected 'shown'"),
        (
            {"pool": "mean", "unit_axis": 7},
            r"shape \(6, 6\) for 6 rows, so there is no unit_axis=7",
        ),
        ({"pool": 3.5}, "pool must be a name, a place or a function, got 3.5"),
        ({"pool": lambda a: 1 / 0}, "pool of layer 'shown' fails on .*ZeroDivisionError"),
    ],
)
def test_options_that_cannot_be_meant_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TorchNetwork(Between(torch.relu), ["shown"], **options).activations(LEAVES)


@pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested", "ignore:.torch.jit:DeprecationWarning"
)
def test_models_without_numbers_or_parts_are_named():
    with pytest.raises(ValueError, match=r"parameter '0.weight' is not initialized"):
        TorchNetwork(nn.Sequential(nn.LazyLinear(3))).activations(LEAVES)
    with pytest.raises(ValueError, match="device 'meta', which holds no numbers"):
        TorchNetwork(nn.Linear(8, 2, device="meta")).activations(LEAVES)
    ragged = Between(lambda a: torch.nested.nested_tensor(list(a)))
    with pytest.raises(ValueError, match="layer 'shown' is a nested tensor, expected one shape"):
        TorchNetwork(ragged, ["shown"]).activations(LEAVES)
    traced = torch.jit.trace(nn.Tanh(), torch.zeros(1, 8), check_trace=False)
    with pytest.raises(ValueError, match=r"no part that can be read; torch\.jit has"):
        TorchNetwork(traced)


def test_parts_with_computed_parameters_are_parts():
    scaled = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
    found = TorchNetwork(nn.Sequential(scaled, nn.ReLU())).activations(LEAVES)
    assert list(found) == ["0", "1"]
    assert found["0"].equal(scaled(LEAVES.float()))


def test_what_learning_curves_cannot_take_is_named():
    def curves(**options):
        given = {name: own for name, own in OPTIONS.items() if name != "details"}
        return LearningCurves(nn.Linear(8, 2), TREE, **{**given, **options})

    for name in ("every", "samples"):
        with pytest.raises(TypeError, match=f"{name} must be an integer, got 1.5"):
            curves(**{name: 1.5})
    for step in (float("nan"), None, "a", True):
        with pytest.raises(TypeError, match="step must be a finite number"):
            curves().record(step)
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        curves().record(-1)
    with pytest.raises(TypeError, match=r"or call step\(\) yourself, got a int"):
        curves().watch(5)


@pytest.mark.parametrize(
    "leaves", [LEAVES[0], LEAVES[None, None], LEAVES[None][:0], LEAVES.numpy(), [[0]]]
)
def test_leaves_of_another_shape_are_named(leaves):
    with pytest.raises(ValueError, match=r"leaves must be a tensor \(B, X\) or \(S, B, X\), got"):
        TorchNetwork(nn.Linear(8, 2)).activations(leaves)


def test_layers_keep_their_units_and_samples_are_integers():
    class Growing:
        width = 1

        def activations(self, leaves):
            self.width += 1
            return {"h": leaves[:, : self.width].float()}

    with pytest.raises(
        ValueError, match=r"'h' changed from \(2,\) to \(3,\) units between batches"
    ):
        measure(Growing(), TREE, **{**OPTIONS, "samples": 600})
    with pytest.raises(TypeError, match=r"samples must be an integer, got 60\.0"):
        measure(nn.Linear(8, 2), TREE, **{**OPTIONS, "samples": 60.0})
