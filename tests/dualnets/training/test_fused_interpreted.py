"""Fused training against plain torch, in Triton's interpreter, in a process that `test_fused` starts."""

import os

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets import BYOL, SGD, BatchNorm, Head, InfoNCE, Schedule, SimCLR, Simple, SimSiam, Triplet
from dualnets.training.compiled import pairs as compiled_pairs
from dualnets.training.compiled import siamese as compiled_siamese
from dualnets.training.fused import pairs, siamese

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton's interpreter"
)
TREES = hltm.symmetric_binary(depth=2, members=2, seed=0)
SMALL = Head((6, 3), norm=BatchNorm())
EVERYTHING = SGD(
    [0.02, 0.05], momentum=[0.9, 0.5], weight_decay=[1e-3, 0.1], clip=0.5, nesterov=True,
    schedule=Schedule("cosine", warm_up=3),
)  # fmt: skip


def network(make=dualnets.tree_network, trees=TREES, **changes):
    given = {"units": 3, "seed": 1, "bias": True, "normalize": True, "dtype": torch.float64}
    return make(trees, **(given | changes))


def both(monkeypatch, method, given, *, optimizer, trees=TREES, steps=2, batch=13):
    """The fused training, on the CPU, and the eager one."""
    finals = []
    for fused in (True, False):
        calls = []
        with monkeypatch.context() as patch:
            for module, compiled in ((pairs, compiled_pairs), (siamese, compiled_siamese)):
                found = compiled.supported_kernel
                patch.setattr(
                    compiled, "supported_kernel",
                    lambda *given, found=found: found(*given) if given[-1] == "cpu" else None,
                )  # fmt: skip
                patch.setattr(module, "is_available", lambda *_, fused=fused: fused)
                train = module.train
                patch.setattr(
                    module, "train",
                    lambda *a, train=train, calls=calls, **k: calls.append(1) or train(*a, **k),
                )  # fmt: skip
            finals.append(
                dualnets.train(
                    given, method, trees, augment=hltm.resample_leaves(0.3), steps=steps, batch=batch,
                    optimizer=optimizer, seed=3,
                )
            )  # fmt: skip
        assert bool(calls) == fused
    return finals


def tensors(final):
    named = {n: p.detach() for n, p in final.network.named_parameters()}
    return named | {n: t.detach() for n, t in final.state.items()} | {"losses": final.losses}


def assert_close(ours, theirs, rtol=1e-9, atol=1e-11):
    assert ours.frozen_at.equal(theirs.frozen_at)
    ours, theirs = tensors(ours), tensors(theirs)
    assert [*ours] == [*theirs]
    for name, tensor in ours.items():
        assert (
            tensor.dtype == theirs[name].dtype
        )  # by numpy, since torch's own loads a thousand modules
        np.testing.assert_allclose(
            tensor, theirs[name], rtol=rtol, atol=atol, equal_nan=False, err_msg=name
        )


def test_pairs_in_several_tiles_with_rates_per_member(monkeypatch):
    monkeypatch.setattr(pairs, "ANCHORS", 16)
    method = SimCLR(InfoNCE(0.3, 2))
    assert_close(*both(monkeypatch, method, network(), optimizer=SGD([0.05, 0.1]), batch=19))


def test_byol_with_every_option_of_sgd(monkeypatch):
    assert_close(*both(monkeypatch, BYOL(SMALL, SMALL), network(), optimizer=EVERYTHING))


def test_a_target_with_a_gradient_and_parts_of_batch_norms(monkeypatch):
    norms = Head((4, 3), norm=BatchNorm(mean="stop"), last_norm=BatchNorm(std="stop"))
    method = BYOL(norms, SMALL, target="online", stop_gradient=False, normalized=False)
    assert_close(*both(monkeypatch, method, network(), optimizer=SGD(0.02)))


# numpy, in which the interpreter computes, warns of what a GPU does without a word
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_frozen_member_keeps_its_numbers(monkeypatch):
    plain = network(bias=False, normalize=False)
    optimizer = SGD([1e150, 0.05])
    ours, theirs = both(monkeypatch, SimCLR(Simple()), plain, optimizer=optimizer, steps=4)
    assert (ours.frozen_at >= 0).tolist() == [True, False]
    assert ours.frozen_at.equal(theirs.frozen_at)
    for a, b in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_a_wrong_moving_average_is_found_out(monkeypatch):
    """A broken twin: a method whose description has another EMA decay trains to another target."""

    class Broken(BYOL):
        @property
        def siamese(self):
            spec = super().siamese
            return type(spec)(**(vars(spec) | {"ema_decay": lambda step, steps: 0.8}))

    ours, theirs = both(
        monkeypatch, Broken(Head(), Head(), ema_decay=0.9), network(), optimizer=SGD(0.05), steps=1
    )
    name = "target.network.weights.0"
    assert not torch.allclose(ours.state[name], theirs.state[name], rtol=0, atol=1e-6)


LOSSES = [Simple(), Triplet(0.2, 0.5), InfoNCE(0.1), InfoNCE(0.3, 3)]
METHODS = [
    BYOL(Head(), SMALL),
    BYOL(SMALL, Head()),
    BYOL(Head(), Head(), target="online", stop_gradient=False),
    BYOL(SMALL, SMALL, symmetric=False),
    BYOL(SMALL, SMALL, symmetric=False, target="online"),
    BYOL(SMALL, SMALL, redraw_every=2, ema_schedule="cosine"),
    BYOL(SMALL, SMALL, target="copy", copy_every=2, predictor_lr=2.0),
    SimSiam(Head((6, 6, 3), norm=BatchNorm(), last_norm=BatchNorm()), Head((4, 3), bias=False)),
]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dense", [False, True])
def test_every_loss_of_pairs(monkeypatch, loss, dense):
    many = hltm.balanced(depth=2, branching=3, cardinality=3, members=2, seed=0)
    make = dualnets.mlp if dense else dualnets.tree_network
    given = network(make, many, units=17 if dense else 5)
    plan = {"optimizer": SGD([0.05, 0.1]), "steps": 3}
    assert_close(*both(monkeypatch, SimCLR(loss), given, trees=many, **plan))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
@pytest.mark.parametrize("optimizer", [SGD(0.02, momentum=0.9), EVERYTHING])
def test_every_siamese_method(monkeypatch, method, optimizer):
    assert_close(*both(monkeypatch, method, network(), optimizer=optimizer, steps=4))


@pytest.mark.slow
def test_single_precision(monkeypatch):
    short = network(dtype=torch.float32)
    for method in (SimCLR(InfoNCE(0.1)), BYOL(SMALL, SMALL)):
        found = both(monkeypatch, method, short, optimizer=SGD(0.02), batch=32)
        assert_close(*found, 1e-4, 1e-5)
