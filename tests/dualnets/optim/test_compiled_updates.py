"""Compiled updates against the rules in plain torch, and all or nothing for every member."""

import math

import pytest
import torch

from dualnets.optim.compiled import CompiledUpdate, all_finite, is_compiled
from dualnets.optim.optimizers import LARS, SGD, Adam, AdamW
from dualnets.optim.per_member import Group
from dualnets.optim.schedule import Schedule

SHAPES = {"network.weights.0": (2, 3, 5), "network.biases.0": (2, 3), "state.head.gain": (17, 1)}
GROUPS = {"state.head.gain": Group(lr=(2.0, 0.0, 1.0), weight_decay=0.3)}
COSINE = Schedule("cosine", warm_up=2, final=0.1)
RULES = [
    SGD(0.1),
    SGD(
        (0.1, 0.2, 0.3),
        momentum=(0.9, 0.0, 0.5),
        weight_decay=(0.1, 0.0, 0.2),
        clip=(1.0, 9.0, 2.0),
    ),
    SGD(0.1, momentum=0.9, nesterov=True, schedule=COSINE),
    Adam(0.1, weight_decay=0.1, beta1=(0.9, 0.5, 0.0), clip=1.0),
    AdamW((0.1, 0.2, 0.3), schedule=COSINE),
    LARS(0.5, weight_decay=(0.1, 0.0, 0.2), trust=(0.1, 0.2, 0.3), clip=2.0),
]


def numbers(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(3, *shape, generator=generator) for n, shape in SHAPES.items()}
    return {name: own.to(dtype) for name, own in made.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_updates_equal_the_rules(rule, dtype):
    ours, theirs = numbers(0, dtype), numbers(0, dtype)
    memory, plain = rule.init(ours), rule.init(theirs)
    assert is_compiled(rule, ours, memory)
    update, frozen_at = CompiledUpdate(rule, ours, memory, GROUPS), torch.tensor([-1, 3, -1])
    alive = frozen_at < 0
    for step in range(6):
        given = numbers(10 + step, dtype)
        assert not update([*given.values()], torch.zeros(3), frozen_at, step, 6)
        rule.update(theirs, given, plain, alive, step, 6, GROUPS)
    assert frozen_at.tolist() == [-1, 3, -1]
    for name, own in {**ours, **memory}.items():
        expected = theirs[name] if name in theirs else plain[name]
        # in float32 the rules compute 1 - beta2^t to four digits, the kernel in float64
        double = dtype == torch.float64
        close = {"rtol": 1e-12, "atol": 1e-13} if double else {"rtol": 1e-3, "atol": 3e-5}
        torch.testing.assert_close(own, expected, **close)
    assert all(own[1].equal(numbers(0, dtype)[name][1]) for name, own in ours.items())


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("rule", [SGD(10.0, momentum=0.9), Adam(10.0), LARS(1e38)], ids=repr)
def test_an_update_is_made_whole_or_not_at_all(rule, bad, compiled):
    """One number of the last tensor of one member is bad; 1e38 only where it makes something infinite."""
    dtype = torch.float32
    parameters, given = numbers(0, dtype), numbers(1, dtype)
    given["state.head.gain"][1, -1] = bad
    memory = rule.init(parameters)
    before = {name: own.clone() for name, own in {**parameters, **memory}.items()}
    frozen_at = torch.full((3,), -1)
    if compiled:
        CompiledUpdate(rule, parameters, memory, {})(
            [*given.values()], torch.zeros(3), frozen_at, 5, 9
        )
        updated = frozen_at < 0
    else:
        finite = torch.tensor([True, math.isfinite(bad), True])
        updated = rule.update(parameters, given, memory, finite, 5, 9)
    assert updated.tolist() == [True, False, True] or isinstance(rule, LARS)
    for name, own in {**parameters, **memory}.items():
        assert own.isfinite().all()
        if not updated[1]:
            assert own[1].equal(before[name][1])
            assert not own[0].equal(before[name][0]) or not updated[0]


def test_a_single_number_is_found():
    for dtype in (torch.float32, torch.float64, torch.float16):
        for size in (1, 7, 33):
            values = torch.ones(size, dtype=dtype)
            assert all_finite([values, torch.ones(3, dtype=torch.int64)])
            values[-1] = -math.inf
            assert not all_finite([torch.ones(4), values])
