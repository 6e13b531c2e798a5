"""Compiled code replaces only what it computes exactly: anything overridden or hooked trains eagerly."""

import dataclasses
from types import MethodType

import pytest
import torch

import dualnets
import hltm
from dualnets import BYOL, SGD, BatchNorm, Head, InfoNCE, Schedule, SimCLR, SimSiam
from dualnets.networks.block_network import BlockNetwork
from dualnets.training.compiled import pairs, siamese
from dualnets.training.data import FreshData
from dualnets.training.steps import train_steps_eager

TREES = hltm.symmetric_binary(depth=2, members=3, seed=0)
SMALL = Head((6, 4), norm=BatchNorm())


class Scaled(InfoNCE):
    def __call__(self, anchor, positive, negatives):
        return 1000 * super().__call__(anchor, positive, negatives)


class SimCLRTimes1000(SimCLR):
    def loss(self, network, state, batch):
        losses, carried = super().loss(network, state, batch)
        return 1000 * losses, carried


class Inherits(SimCLRTimes1000):
    pass


class BYOLTimes2(BYOL):
    def loss(self, network, state, batch):
        losses, carried = super().loss(network, state, batch)
        return 2 * losses, carried


class Forgetful(BYOL):
    def after_step(self, network, state, carried, step, setup):
        return state  # the target stays where it is


class SimSiamTimes2(SimSiam):
    def loss(self, network, state, batch):
        losses, carried = super().loss(network, state, batch)
        return 2 * losses, carried


class Halved(BatchNorm):
    def with_moments(self, values):
        found, moments = super().with_moments(values)
        return found / 2, moments

    def __call__(self, values, moments=None):
        return super().__call__(values, moments) / 2


class Doubled(Head):
    def __call__(self, *given, **named):
        return 2 * super().__call__(*given, **named)


class Backwards(SGD):
    def _change(self, one):
        return -super()._change(one)


class Slower(Schedule):
    def factor(self, step, steps):
        return 0.1


class Shifted(BlockNetwork):
    def forward(self, leaves):
        return super().forward(leaves) ** 2


def network():
    return dualnets.tree_network(TREES, units=4, bias=True, seed=1, dtype=torch.float64)


def squared():
    found = network()
    found.__class__ = Shifted
    return found


def replaced():
    found = network()
    found.forward = MethodType(lambda own, leaves: BlockNetwork.forward(own, leaves) ** 2, found)
    return found


def hooked(how):
    found = network()
    if how == "forward":
        found.register_forward_hook(lambda module, given, output: output**2)
    elif how == "pre":
        found.register_forward_pre_hook(lambda module, given: (1 - given[0],))
    else:
        found.weights.register_full_backward_hook(lambda module, given, output: None)
    return found


def train(net, method, optimizer=None, steps=4):
    return dualnets.train(
        net, method, TREES, augment=hltm.keep_root(), steps=steps, batch=8,
        optimizer=optimizer or SGD(0.05), seed=3,
    )  # fmt: skip


def tensors(final):
    found = {n: p.detach() for n, p in final.network.named_parameters()}
    return found | {n: t.detach() for n, t in final.state.items()} | {"losses": final.losses}


# what is overridden, and the same without
CASES = {
    "a loss's subclass": (network, SimCLR(Scaled()), None, SimCLR()),
    "a method's loss": (network, SimCLRTimes1000(), None, SimCLR()),
    "an inherited loss": (network, Inherits(), None, SimCLR()),
    "BYOL's loss": (network, BYOLTimes2(SMALL, SMALL), None, BYOL(SMALL, SMALL)),
    "BYOL's after_step": (network, Forgetful(SMALL, SMALL), None, BYOL(SMALL, SMALL)),
    "SimSiam's loss": (network, SimSiamTimes2(SMALL, SMALL), None, SimSiam(SMALL, SMALL)),
    "a norm": (
        network, BYOL(SMALL, Head((6, 4), norm=Halved())), None, BYOL(SMALL, SMALL),
    ),
    "a last norm": (
        network, BYOL(dataclasses.replace(SMALL, last_norm=Halved()), SMALL, normalized=False),
        None, BYOL(dataclasses.replace(SMALL, last_norm=BatchNorm()), SMALL, normalized=False),
    ),
    "a head": (
        network, BYOL(SMALL, Doubled(SMALL.widths, norm=BatchNorm()), normalized=False), None,
        BYOL(SMALL, SMALL, normalized=False),
    ),
    "an optimiser": (network, SimCLR(), Backwards(0.05), SimCLR()),
    "an optimiser of BYOL": (network, BYOL(SMALL, SMALL), Backwards(0.05), BYOL(SMALL, SMALL)),
    "a schedule": (network, SimCLR(), SGD(0.05, schedule=Slower()), SimCLR()),
    "a network's subclass": (squared, SimCLR(), None, SimCLR()),
    "a network's subclass in BYOL": (squared, BYOL(SMALL, SMALL), None, BYOL(SMALL, SMALL)),
    "a replaced forward pass": (replaced, SimCLR(), None, SimCLR()),
    "a hook": (lambda: hooked("forward"), SimCLR(), None, SimCLR()),
    "a hook in BYOL": (lambda: hooked("forward"), BYOL(SMALL, SMALL), None, BYOL(SMALL, SMALL)),
    "a hook before": (lambda: hooked("pre"), SimCLR(), None, SimCLR()),
}  # fmt: skip


@pytest.mark.parametrize("label", CASES)
def test_what_is_overridden_takes_effect(monkeypatch, label):
    make, method, optimizer, usual = CASES[label]
    ours = tensors(train(make(), method, optimizer))
    plain = tensors(train(network(), usual))
    assert any(not torch.allclose(ours[n], t, rtol=0, atol=1e-9) for n, t in plain.items())
    monkeypatch.setattr("dualnets.training.trajectory.train_steps", train_steps_eager)
    for name, tensor in tensors(train(make(), method, optimizer)).items():
        assert ours[name].equal(tensor), name


def is_compiled(monkeypatch, net, method, optimizer=None):
    """Whether training runs compiled code."""
    calls = []
    for module in (pairs, siamese):
        original = module.train

        def spy(*given, own=original, **named):
            calls.append(own)
            return own(*given, **named)

        monkeypatch.setattr(module, "train", spy)
    train(net, method, optimizer, steps=1)
    return bool(calls)


@pytest.mark.parametrize("method", [SimCLR(), BYOL(SMALL, SMALL), SimSiam(SMALL, SMALL)])
def test_unmodified_methods_are_compiled(monkeypatch, method):
    assert is_compiled(monkeypatch, network(), method)


@pytest.mark.parametrize("method", [SimCLR(), BYOL(SMALL, SMALL)], ids=["pairs", "siamese"])
def test_with_a_hook_anywhere_nothing_is_compiled(monkeypatch, method):
    assert not is_compiled(monkeypatch, hooked("backward"), method)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *given: None)
    try:
        assert not is_compiled(monkeypatch, network(), method)
    finally:
        handle.remove()
    assert is_compiled(monkeypatch, network(), method)


def test_a_network_with_a_fixed_parameter_is_not_compiled():
    net = network()
    net.weights[0].requires_grad_(False)
    with pytest.raises(RuntimeError):  # as for any network: all parameters are trained
        train(net, SimCLR())


def test_rows_of_another_class_make_their_own_batches(monkeypatch):
    class Upside(FreshData):
        def batches(self, needs, first_step, steps):
            for batch in super().batches(needs, first_step, steps):
                yield batch._replace(leaves=1 - batch.leaves)

    found = []
    for kind in (FreshData, Upside):
        monkeypatch.setattr("dualnets.training.data.FreshData", kind)
        found.append(tensors(train(network(), SimCLR())))
    assert any(not t.equal(found[1][n]) for n, t in found[0].items())
