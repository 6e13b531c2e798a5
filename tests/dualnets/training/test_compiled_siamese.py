"""Compiled training of Siamese methods against the eager one: switches, heads, optimisers."""

import copy
import dataclasses

import plain_byol
import plain_simsiam
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import dualnets
import hltm
from dualnets import (
    BYOL,
    SGD,
    BatchNorm,
    DirectPredictor,
    Head,
    LayerNorm,
    Schedule,
    SimSiam,
)
from dualnets.methods._cosine import cosine_similarity
from dualnets.training.compiled import siamese as compiled

TREES = hltm.symmetric_binary(depth=3, members=3, seed=0)
SMALL = Head((6, 3), norm=BatchNorm())
DEEP = Head((5, 7, 3), norm=BatchNorm(), last_norm=BatchNorm())
CASES = {
    label: method
    for label, method in {**plain_byol.CASES, **plain_simsiam.CASES}.items()
    if compiled.supported_kernel(dualnets.tree_network(TREES, units=2, seed=0), method.siamese)
}
EVERYTHING = SGD(
    [0.02, 0.05, 0.01], momentum=[0.9, 0.5, 0.0], weight_decay=[1e-3, 0.0, 0.1], clip=0.5,
    nesterov=True, schedule=Schedule("cosine", warm_up=3),
)  # fmt: skip


def train(method, network, *, steps=20, batch=16, optimizer, trees=TREES, **others):
    return dualnets.train(
        network, method, trees, augment=hltm.resample_leaves(0.3).then(hltm.keep_level(1)),
        steps=steps, batch=batch, optimizer=optimizer, seed=3, **others,
    )  # fmt: skip


def network(**changes):
    given = {"units": 5, "bias": True, "seed": 1, "dtype": torch.float64} | changes
    return dualnets.tree_network(TREES, **given)


def eagerly(monkeypatch, *given, **others):
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "supported_kernel", lambda *_: None)
        return train(*given, **others)


def tensors(final):
    named = {n: p.detach() for n, p in final.network.named_parameters()}
    return named | {n: t.detach() for n, t in final.state.items()} | {"losses": final.losses}


def assert_close(ours, theirs, rtol=1e-9, atol=1e-9):
    ours, theirs = tensors(ours), tensors(theirs)
    assert [*ours] == [*theirs]
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=rtol, atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


def test_most_of_the_methods_cases_are_supported():
    assert len(CASES) == 15
    assert {type(method) for method in CASES.values()} == {BYOL, SimSiam}


@pytest.mark.parametrize("label", CASES)
@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(SGD(0.02, momentum=0.9, weight_decay=1e-3), marks=pytest.mark.slow),
        EVERYTHING,
    ],
)
def test_gives_the_eager_numbers_after_twenty_steps(monkeypatch, label, optimizer):
    method = CASES[label]
    ours = train(method, network(), batch=32, optimizer=optimizer)
    theirs = eagerly(monkeypatch, method, network(), batch=32, optimizer=optimizer)
    assert_close(ours, theirs)
    assert ours.frozen_at.eq(-1).all()
    for name, tensor in ours.state.items():
        assert tensor.requires_grad == theirs.state[name].requires_grad


@pytest.mark.parametrize(
    "optimizer",
    [  # a large epsilon, since Adam enlarges the rounding of small gradients
        dualnets.Adam([0.01, 0.02, 0.005], weight_decay=0.1, clip=0.5, epsilon=1e-2),
        dualnets.AdamW(0.01, schedule=Schedule("cosine", warm_up=3), epsilon=1e-2),
        dualnets.LARS([0.5, 0.2, 0.1], weight_decay=0.1, trust=0.1, clip=0.5),
    ],
    ids=lambda own: type(own).__name__,
)
def test_gives_the_eager_numbers_with_any_optimizer(monkeypatch, optimizer):
    rates = {"predictor_lr": [0.5, 2.0, 0.0], "predictor_weight_decay": [0.2, 0.0, 0.1]}
    for method in (BYOL(SMALL, SMALL, redraw_every=6, **rates), SimSiam(SMALL, SMALL)):
        assert method.groups or isinstance(method, SimSiam)
        for steps, close in ((1, 1e-12), (20, 1e-9)):
            given = (method, network())
            ours = train(*given, steps=steps, batch=32, optimizer=optimizer)
            theirs = eagerly(monkeypatch, *given, steps=steps, batch=32, optimizer=optimizer)
            assert_close(ours, theirs, close, close)


parts = st.sampled_from(["on", "off", "stop"])
norms = st.one_of(
    st.none(), st.builds(BatchNorm, mean=parts, std=parts, epsilon=st.sampled_from([1e-2, 1e-1]))
)


def heads(outputs):
    hidden = st.lists(st.integers(1, 7), max_size=2)
    return st.builds(
        lambda hidden, **rest: Head((*hidden, outputs), **rest),
        hidden, norm=norms, last_norm=norms, bias=st.booleans(),
    )  # fmt: skip


def eagerly_if_calm(monkeypatch, method, given, *, lr, **others):
    """An eager training; None where rounding decides its numbers, so that no other can agree.

    That is so where an output of nearly nothing is normalised, as behind a dead layer, from which a
    batch's mean takes all away; where a unit stands on its kink; and where weights run away.
    """
    lengths = [torch.inf]
    nearly = copy.deepcopy(given)
    with torch.no_grad():
        for weight in nearly.parameters():
            weight *= 1 + 1e-14 * torch.rand(weight.shape, generator=torch.Generator())

    def watched(a, b):
        lengths.extend(own.detach().norm(dim=-1).min().item() for own in (a, b))
        return cosine_similarity(a, b)

    with monkeypatch.context() as patch:
        patch.setattr("dualnets.methods.byol.cosine_similarity", watched)
        found, moved = (
            eagerly(monkeypatch, method, start, optimizer=SGD(rate, momentum=0.9), **others)
            for start, rate in ((given, lr), (nearly, lr * (1 + 1e-13)))
        )
    pairs = zip(tensors(found).values(), tensors(moved).values(), strict=True)
    apart = max((a - b).abs().nan_to_num(torch.inf).max().item() for a, b in pairs)
    return found if min(lengths) > 1e-4 and apart < 1e-10 else None


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    projector=st.one_of(st.just(Head()), heads(5)),
    predictor=st.one_of(st.just(Head()), st.none(), heads(5)),
    target=st.sampled_from(["ema", "online", "random"]),
    normalized=st.booleans(),
    symmetric=st.booleans(),
    stop_gradient=st.booleans(),
    dense=st.booleans(),
    bias=st.booleans(),
    normalize=st.booleans(),
    batch=st.integers(4, 40),  # of fewer, equal rows put whole layers on their kink
)
def test_gives_the_eager_numbers_for_any_heads(
    monkeypatch, projector, predictor, target, normalized, symmetric, stop_gradient, dense, bias,
    normalize, batch,
):  # fmt: skip
    method = BYOL(
        projector, predictor, target=target, ema_decay=0.8, normalized=normalized,
        symmetric=symmetric, stop_gradient=stop_gradient or target != "online",
    )  # fmt: skip
    make = dualnets.mlp if dense else dualnets.tree_network
    net = make(TREES, units=5, seed=1, bias=bias, normalize=normalize, dtype=torch.float64)
    plan = {"steps": 3, "batch": batch}
    theirs = eagerly_if_calm(monkeypatch, method, net, lr=0.02, **plan)
    assume(theirs is not None)
    ours = train(method, net, **plan, optimizer=SGD(0.02, momentum=0.9))
    assert_close(ours, theirs, 1e-8, 1e-9)


def test_single_precision_agrees_to_single_precision(monkeypatch):
    calm = Head((6, 3), norm=BatchNorm(epsilon=1e-2))  # small deviations enlarge what was rounded
    method = BYOL(calm, calm)
    net = network(dtype=torch.float32)
    plan = {"steps": 3, "batch": 64, "optimizer": SGD(0.02, momentum=0.9)}
    ours = train(method, net, **plan)
    assert all(t.dtype == torch.float32 for t in tensors(ours).values() if t.is_floating_point())
    assert_close(ours, eagerly(monkeypatch, method, net, **plan), 1e-4, 1e-5)


def test_neither_threads_nor_chunks_of_steps_change_a_bit(monkeypatch):
    method = BYOL(SMALL, SMALL, redraw_every=4, ema_schedule="cosine")
    plan = {"steps": 11, "optimizer": EVERYTHING}
    usual = tensors(train(method, network(), **plan))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threaded = tensors(train(method, network(), **plan))
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr("dualnets.training.trajectory.STEPS_AT_ONCE", 3)
    cut = tensors(train(method, network(), **plan))
    for name, tensor in usual.items():
        assert tensor.equal(threaded[name]), name
        assert tensor.equal(cut[name]), name


def test_the_given_state_of_the_target_is_not_changed_in_place():
    method = BYOL(SMALL, SMALL)
    found = list(
        dualnets.trajectory(
            network(), method, TREES, augment=hltm.keep_root(), steps=4, batch=8,
            optimizer=SGD(0.05), seed=3, snapshots=[0, 2, 4],
        )
    )  # fmt: skip
    weights = [snapshot.state["target.projector.0.weight"] for snapshot in found]
    assert not weights[0].equal(weights[1])
    assert not weights[1].equal(weights[2])


def test_a_frozen_member_keeps_its_numbers_and_does_not_touch_the_others(monkeypatch):
    method = BYOL(SMALL, SMALL, redraw_every=2, normalized=False)
    plan = {"steps": 9, "optimizer": SGD([0.02, 1e150, 0.03], momentum=0.9)}
    ours = train(method, network(), **plan)
    assert ours.frozen_at.equal(eagerly(monkeypatch, method, network(), **plan).frozen_at)
    assert (ours.frozen_at >= 0).tolist() == [False, True, False]
    before = tensors(train(method, network(), **(plan | {"steps": int(ours.frozen_at[1])})))
    healthy = tensors(
        train(method, network(), **(plan | {"optimizer": SGD([0.02, 0.02, 0.03], momentum=0.9)}))
    )
    for name, tensor in tensors(ours).items():
        assert tensor[[0, 2]].equal(healthy[name][[0, 2]]), name
        if name != "losses":
            assert tensor[1].isfinite().all(), name
            assert tensor[1].equal(before[name][1]), name


LAYER = Head((6, 3), norm=LayerNorm())
GAIN = Head((6, 3), norm=BatchNorm(affine=True))
STANDARD = Head((6, 3), weight_standardization=True)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (BYOL(SMALL, DirectPredictor()), {}),
        (BYOL(SMALL, LAYER), {}),
        (BYOL(GAIN, SMALL), {}),
        (BYOL(STANDARD, SMALL), {}),
        (BYOL(SMALL, SMALL), {"norm": BatchNorm()}),
        (BYOL(SMALL, SMALL), {"dtype": torch.float16}),
        (dualnets.SimCLR(), {}),
    ],
    ids=lambda given: type(given).__name__,
)
def test_other_heads_and_norms_are_not_supported(method, changes):
    assert compiled.supported_kernel(network(**changes), method.siamese) is None


@pytest.mark.parametrize(
    "change",
    [
        {"stop_gradient": False},
        {"symmetric": False},
        {"normalized": False},
        {"scale": 0.5},
        {"predictor": dataclasses.replace(SMALL, norm=BatchNorm(std="stop"))},
        {"projector": dataclasses.replace(SMALL, norm=BatchNorm(mean="stop"))},
        {"projector": dataclasses.replace(SMALL, norm=BatchNorm(epsilon=1e-3))},
    ],
    ids=str,
)
def test_every_field_of_the_spec_has_an_effect(monkeypatch, change):
    """Broken twins: a method with a wrong spec trains to other numbers."""
    method = BYOL(SMALL, SMALL, target="online")
    wrong = dataclasses.replace(method.siamese, **change)

    class Broken(BYOL):
        siamese = wrong

    plan = {"steps": 2, "optimizer": SGD(0.05)}
    ours = train(Broken(SMALL, SMALL, target="online"), network(), **plan)
    theirs = eagerly(monkeypatch, method, network(), **plan)
    assert max(float((a - tensors(theirs)[n]).abs().max()) for n, a in tensors(ours).items()) > 1e-6


def test_the_targets_decay_has_an_effect(monkeypatch):
    method = BYOL(SMALL, SMALL, ema_decay=0.9)
    wrong = dataclasses.replace(method.siamese, ema_decay=lambda step, steps: 0.8)

    class Broken(BYOL):
        siamese = wrong

    plan = {"steps": 2, "optimizer": SGD(0.05)}
    ours = train(Broken(SMALL, SMALL, ema_decay=0.9), network(), **plan)
    theirs = eagerly(monkeypatch, method, network(), **plan)
    name = "target.projector.0.weight"
    assert not torch.allclose(ours.state[name], theirs.state[name], rtol=0, atol=1e-6)
