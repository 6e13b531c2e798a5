"""Optimisers against torch.optim and a plain LARS, member by member."""

import math

import pytest
import torch

from dualnets.optim.optimizers import LARS, OPTIMIZERS, SGD, Adam, AdamW
from dualnets.optim.per_member import Group
from dualnets.optim.schedule import Schedule

MEMBERS, STEPS = 3, 6
SHAPES = {"network.weights.0": (2, 3, 4), "network.biases.0": (2, 3), "state.head.0.gain": (5, 1)}


def start(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(MEMBERS, *shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def gradients(step: int, sizes=(1.0, 1.0, 1.0)) -> dict[str, torch.Tensor]:
    found = start(100 + step)
    return {
        name: g * torch.tensor(sizes, dtype=g.dtype).view(-1, *[1] * (g.ndim - 1))
        for name, g in found.items()
    }


def ours(optimizer, alive=(True, True, True), groups=None, sizes=(1.0, 1.0, 1.0)):
    parameters = start()
    memory = optimizer.init(parameters)
    for step in range(STEPS):
        optimizer.update(
            parameters, gradients(step, sizes), memory, torch.tensor(alive), step, STEPS, groups
        )
    return parameters


def torchs(make, s: int, factor=lambda step: 1.0, clip=None, sizes=(1.0, 1.0, 1.0)):
    """Member s alone, by torch.optim; `make(parameters)` gives the optimiser."""
    parameters = {name: p[s].clone().requires_grad_() for name, p in start().items()}
    optimizer = make(parameters)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(STEPS):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(step)
        for name, gradient in gradients(step, sizes).items():
            parameters[name].grad = gradient[s].clone()
        if clip is not None:
            length = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters.values()))
            for p in parameters.values():
                p.grad *= min(1.0, clip / length)
        optimizer.step()
    return parameters


def assert_member(found, s, expected):
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name][s], parameter.detach(), rtol=0, atol=1e-13)


def per_member(rates, s):
    return rates[s] if isinstance(rates, tuple) else rates


THREE = (0.1, 0.01, 0.3)
CASES = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd-decay": (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": (0.0, 0.1, 0.2)}),
    "sgd-momentum": (SGD, torch.optim.SGD, {"lr": THREE, "momentum": 0.9, "weight_decay": 0.05}),
    "sgd-momenta": (SGD, torch.optim.SGD, {"lr": THREE, "momentum": (0.9, 0.0, 0.5)}),
    "nesterov": (
        SGD, torch.optim.SGD,
        {"lr": THREE, "momentum": (0.9, 0.8, 0.5), "nesterov": True, "weight_decay": 0.05},
    ),
    "adam": (Adam, torch.optim.Adam, {"lr": THREE, "weight_decay": (0.1, 0.0, 0.3)}),
    "adam-betas": (
        Adam, torch.optim.Adam,
        {"lr": 0.1, "beta1": (0.9, 0.0, 0.5), "beta2": (0.99, 0.9, 0.999), "epsilon": 1e-3},
    ),
    "adamw": (AdamW, torch.optim.AdamW, {"lr": THREE}),
    "adamw-decay": (AdamW, torch.optim.AdamW, {"lr": 0.1, "weight_decay": (0.0, 0.1, 0.5)}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "theirs", "rates"), CASES.values(), ids=CASES)
def test_equals_torch_member_by_member(kind, theirs, rates):
    found = ours(kind(**rates))
    for s in range(MEMBERS):
        own = {
            {"epsilon": "eps"}.get(name, name): per_member(value, s)
            for name, value in rates.items()
            if name not in ("beta1", "beta2")
        }
        if "beta1" in rates:
            own["betas"] = (per_member(rates["beta1"], s), per_member(rates["beta2"], s))
        assert_member(found, s, torchs(lambda p, own=own: theirs(p.values(), **own), s))


def test_every_optimiser_has_a_case():
    assert {kind for kind, _, _ in CASES.values()} | {LARS} == set(OPTIMIZERS.values())


def plain_lars(s, lr, momentum, decay, trust):
    parameters = {name: p[s].clone() for name, p in start().items()}
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for step in range(STEPS):
        for name, w in parameters.items():
            g, rate = gradients(step)[name][s], lr
            if name == "network.weights.0":
                long, steep = w.norm().item(), g.norm().item()
                rate = lr * trust * long / (steep + decay * long)
                g = g + decay * w
            velocity[name] = momentum * velocity[name] + rate * g
            parameters[name] = w - velocity[name]
    return parameters


def test_lars_equals_its_formula_and_spares_biases_and_gains():
    lr, momentum, decay = (0.5, 0.1, 1.0), (0.9, 0.0, 0.5), (0.0, 0.1, 0.3)
    found = ours(LARS(lr=lr, momentum=momentum, weight_decay=decay, trust=0.02))
    for s in range(MEMBERS):
        assert_member(found, s, plain_lars(s, lr[s], momentum[s], decay[s], 0.02))


def test_lars_leaves_a_layer_of_zeros_or_without_gradient_finite():
    parameters = {"w": torch.zeros(1, 2, 2, dtype=torch.float64)}
    optimizer = LARS(lr=1.0, momentum=0.0)
    memory = optimizer.init(parameters)
    for gradient in (1.0, 0.0):  # no length, then no gradient
        given = {"w": torch.full((1, 2, 2), gradient, dtype=torch.float64)}
        optimizer.update(parameters, given, memory, torch.tensor([True]))
        assert parameters["w"].eq(-1).all()


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_clipping_is_by_a_members_own_length(kind):
    theirs = {SGD: torch.optim.SGD, Adam: torch.optim.Adam}[kind]
    clips, sizes = (0.5, 100.0, 2.0), (3.0, 1.0, 1e-3)
    found = ours(kind(lr=0.1, clip=clips), sizes=sizes)
    for s in range(MEMBERS):
        expected = torchs(lambda p: theirs(p.values(), lr=0.1), s, clip=clips[s], sizes=sizes)
        for name, parameter in expected.items():
            torch.testing.assert_close(found[name][s], parameter.detach(), rtol=0, atol=1e-12)


def test_a_member_without_a_limit_may_have_gradients_whose_length_overflows():
    optimizer, parameters = SGD(1e-30, clip=(1.0, math.inf)), {"w": torch.zeros(2, 1)}
    given = {"w": torch.full((2, 1), 1e30)}
    assert optimizer.update(parameters, given, {}, torch.tensor([True, True])).all()
    assert parameters["w"].tolist() == [[0.0], [-1.0]]


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize(
    "schedule", [Schedule("cosine", warm_up=2, final=0.1), Schedule(warm_up=3)], ids=str
)
def test_schedules_multiply_the_rate(kind, schedule):
    def factor(step):
        if step < schedule.warm_up:
            return (step + 1) / schedule.warm_up
        if schedule.kind == "constant":
            return 1
        share = (step - schedule.warm_up) / (STEPS - schedule.warm_up)
        return 0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2

    theirs = {SGD: torch.optim.SGD, AdamW: torch.optim.AdamW}[kind]
    found = ours(kind(lr=0.1, weight_decay=0.05, schedule=schedule))
    for s in range(MEMBERS):
        expected = torchs(lambda p: theirs(p.values(), lr=0.1, weight_decay=0.05), s, factor)
        assert_member(found, s, expected)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_groups_have_rates_of_their_own(kind):
    theirs = {SGD: torch.optim.SGD, Adam: torch.optim.Adam, AdamW: torch.optim.AdamW}[kind]
    groups = {
        "network.biases.0": Group(weight_decay=0.0),
        "state.head.0.gain": Group(lr=10.0, weight_decay=0.3),
    }
    found = ours(kind(lr=0.01, weight_decay=0.1), groups=groups)

    def make(p):
        return theirs([
            {"params": [p["network.weights.0"]], "lr": 0.01, "weight_decay": 0.1},
            {"params": [p["network.biases.0"]], "lr": 0.01, "weight_decay": 0.0},
            {"params": [p["state.head.0.gain"]], "lr": 0.1, "weight_decay": 0.3},
        ])  # fmt: skip

    for s in range(MEMBERS):
        assert_member(found, s, torchs(make, s))


@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.1), SGD(0.1, momentum=0.9, nesterov=True, clip=1.0), Adam(), AdamW(), LARS()],
    ids=repr,
)
@pytest.mark.parametrize("bad", [1.0, math.nan, math.inf])
def test_frozen_members_stay_as_they_are_bit_for_bit(optimizer, bad):
    found = ours(optimizer, alive=(True, False, True), sizes=(1.0, bad, 1.0))
    free = ours(optimizer)
    for name, given in start().items():
        assert found[name][1].equal(given[1])
        assert found[name][[0, 2]].equal(free[name][[0, 2]])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_of_an_ensemble_keep_their_rates(name):
    kind = OPTIMIZERS[name]
    names = {*kind._below_1, *kind._positive} - {"lr"}
    own = dict.fromkeys(names, (0.5, 0.6, 0.7))
    whole = kind(lr=(0.1, 0.2, 0.3), weight_decay=(0.0, 0.1, 0.2), clip=(1.0, 2.0, 3.0), **own)
    whole.check(3)
    last = whole.of_members(1, 3)
    last.check(2)
    assert (last.lr, last.weight_decay, last.clip) == ((0.2, 0.3), (0.1, 0.2), (2.0, 3.0))
    assert all(getattr(last, n) == (0.6, 0.7) for n in own)


def test_only_bare_descent_is_plain():
    assert SGD(0.1).is_plain
    assert SGD([0.1, 0.2], momentum=0.0).is_plain
    others = [
        SGD(momentum=0.1), SGD(weight_decay=0.1), SGD(clip=1.0), SGD(schedule=Schedule("cosine")),
        SGD(schedule=Schedule(warm_up=1)), Adam(), AdamW(), LARS(),
    ]  # fmt: skip
    assert not any(optimizer.is_plain for optimizer in others)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(lr=0), "a learning rate must be above 0 and finite, got 0"),
        (lambda: SGD(lr=[0.1, math.inf]), "above 0 and finite, got inf"),
        (lambda: SGD(lr=math.nan), "above 0 and finite, got nan"),
        (lambda: SGD(weight_decay=-0.1), "weight_decay must be at least 0 and finite, got -0.1"),
        (lambda: SGD(clip=0.0), "clip must be above 0, got 0.0"),
        (lambda: SGD(momentum=1.0), "momentum must be in 0 <= momentum < 1, got 1.0"),
        (lambda: SGD(nesterov=True), "nesterov needs a momentum above 0, got 0.0"),
        (lambda: Adam(beta1=1.0), "beta1 must be in 0 <= beta1 < 1, got 1.0"),
        (lambda: Adam(beta2=-0.1), "beta2 must be in 0 <= beta2 < 1, got -0.1"),
        (lambda: Adam(epsilon=0.0), "epsilon must be above 0 and finite, got 0.0"),
        (lambda: LARS(trust=0.0), "trust must be above 0 and finite, got 0.0"),
        (lambda: Schedule("linear"), "a schedule must be one of constant, cosine, got 'linear'"),
        (lambda: Schedule(warm_up=-1), "warm_up must be at least 0 steps, got -1"),
        (lambda: Schedule(final=1.5), "final must be in 0..1, got 1.5"),
        (lambda: Adam(beta1=[0.9]).check(3), "expected 3 values of beta1, one per member, got 1"),
        (lambda: SGD([0.1, 0.2]).check(3), "expected 3 learning rates, one per member, got 2"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_rates_of_groups_and_trust_may_differ_per_member():
    lr, decay, trust = (1.0, 10.0, 0.0), (0.0, 0.3, 0.1), (0.02, 0.5, 1.0)
    groups = {"network.weights.0": Group(lr, decay)}
    for kind, own in ((SGD, {}), (AdamW, {}), (LARS, {"trust": trust})):
        found = ours(kind(lr=0.01, weight_decay=0.1, **own), groups=groups)
        for s in range(MEMBERS):
            single = {name: rates[s] for name, rates in own.items()}
            alone = ours(
                kind(lr=0.01, weight_decay=0.1, **single),
                groups={"network.weights.0": Group(lr[s], decay[s])},
            )
            for name in SHAPES:
                torch.testing.assert_close(found[name][s], alone[name][s], rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "shape", "spared"),
    [
        ("network.model.unbiased.weight", (3, 4), False),
        ("network.model.1.weight", (4,), True),  # of a BatchNorm1d
        ("network.model.1.bias", (4,), True),
        ("network.model.0.weight", (4, 3), False),
        ("network.biases.0", (2, 3), True),
        ("network.norms.0.gain", (2, 3, 1), True),
        ("state.head.0.shift", (3, 1), True),
        ("state.gainful.0.weight", (1, 3, 3), False),
        ("state.prototypes", (5, 3), False),
    ],
)
def test_lars_spares_what_is_called_so_or_has_one_axis(name, shape, spared):
    """Shrinking a layer and its gradient together changes the step of what is adapted in another way."""
    steps = []
    for trust in (0.1, 0.2):
        parameters = {name: torch.ones(2, *shape, dtype=torch.float64)}
        optimizer = LARS(lr=1.0, momentum=0.0, trust=trust)
        memory = optimizer.init(parameters)
        given = {name: torch.ones(2, *shape, dtype=torch.float64)}
        optimizer.update(parameters, given, memory, torch.tensor([True, True]))
        steps.append(1 - parameters[name].flatten()[0])
    assert (steps[0] == steps[1]) == spared


def test_rates_per_member_are_copied_to_a_device_once(monkeypatch):
    made = []
    original = torch.tensor

    def spy(*given, **others):
        made.append(given)
        return original(*given, **others)

    monkeypatch.setattr(torch, "tensor", spy)
    optimizer = SGD(
        lr=(0.11, 0.012, 0.013),
        weight_decay=(0.014, 0.015, 0.016),
        momentum=(0.5, 0.6, 0.71),
        clip=(1.1, 2.2, 3.3),
    )
    parameters = start()
    memory = optimizer.init(parameters)
    alive = torch.ones(MEMBERS, dtype=torch.bool)
    given = gradients(0)
    made.clear()
    for step in range(STEPS):
        optimizer.update(parameters, given, memory, alive, step, STEPS)
    assert len(made) == 4
