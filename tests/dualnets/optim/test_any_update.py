"""Compiled updates with any settings, against the rules in plain torch and torch.optim, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualnets.optim.compiled import CompiledUpdate, is_compiled
from dualnets.optim.optimizers import LARS, SGD, Adam, AdamW, finite_members
from dualnets.optim.per_member import Group
from dualnets.optim.schedule import Schedule

MEMBERS, STEPS = 3, 5
SHAPES = {"network.weights.0": (2, 3, 5), "network.biases.0": (1,), "state.head.gain": (17, 1)}
DOUBLE = {"rtol": 1e-12, "atol": 1e-13}


def per_member(numbers):
    """One number, or one per member."""
    return numbers | st.tuples(*[numbers] * MEMBERS)


def between(low, high):
    return per_member(st.floats(low, high, allow_subnormal=False))


RATES = per_member(st.sampled_from([1e-8, 1e-3, 0.1, 3.0]))
DECAYS = per_member(st.sampled_from([0.0, 0.0, 1e-4, 0.5]))
COMMON = {
    "weight_decay": DECAYS,
    "clip": st.none() | per_member(st.sampled_from([1e-6, 1.0, 1e9, math.inf])),
    "schedule": st.builds(
        Schedule, st.sampled_from(["constant", "cosine"]), st.integers(0, 7), st.floats(0, 1)
    ),
}
AVERAGES = {"beta1": between(0, 0.99), "beta2": between(0, 0.9999)}
EPSILONS = st.sampled_from([1e-300, 1e-30, 1e-8, 1.0])
RULES = st.one_of(
    st.builds(SGD, RATES, momentum=between(0, 0.99), **COMMON),
    st.builds(SGD, RATES, momentum=between(0.1, 0.99), nesterov=st.just(True), **COMMON),
    *(st.builds(kind, RATES, epsilon=EPSILONS, **AVERAGES, **COMMON) for kind in (Adam, AdamW)),
    st.builds(LARS, RATES, momentum=between(0, 0.99), trust=between(1e-6, 10), **COMMON),
)
GROUPS = st.dictionaries(
    st.sampled_from([*SHAPES]),
    st.builds(Group, per_member(st.sampled_from([0.0, 0.5, 2.0])), st.none() | DECAYS),
)
# of a gradient, where a member is to be lost: step, member, tensor, and the number
LOSSES = st.lists(
    st.tuples(
        st.integers(0, STEPS - 1), st.integers(0, MEMBERS - 1), st.sampled_from([*SHAPES, "loss"]),
        st.sampled_from([math.nan, math.inf, -math.inf, 1e200, 1e308]),
    ),
    max_size=3,
)  # fmt: skip


def numbers(seed):
    generator = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(MEMBERS, *shape, generator=generator) for n, shape in SHAPES.items()}
    return {name: own.double() for name, own in made.items()}


def gradients_of(step, bad, zeros=()):
    """Gradients and losses of a step, with the bad numbers of that step."""
    found, losses = numbers(10 + step), torch.zeros(MEMBERS, dtype=torch.float64)
    for name in zeros:
        found[name].zero_()
    for at, member, name, number in bad:
        if at == step:
            (losses if name == "loss" else found[name][:, -1].reshape(MEMBERS, -1)[:, -1])[
                member
            ] = number
    return found, losses


def plain_steps(rule, groups, bad, zeros):
    parameters = numbers(0)
    memory, frozen_at = rule.init(parameters), torch.full((MEMBERS,), -1)
    for step in range(STEPS):
        found, losses = gradients_of(step, bad, zeros)
        alive = (frozen_at < 0) & finite_members([losses, *found.values()], losses)
        updated = rule.update(parameters, found, memory, alive, step, STEPS, groups)
        frozen_at[(frozen_at < 0) & ~updated] = step
    return {**parameters, **memory}, frozen_at


def compiled_steps(rule, groups, bad, zeros, resumed_at=STEPS):
    parameters = numbers(0)
    memory, frozen_at = rule.init(parameters), torch.full((MEMBERS,), -1)
    assert is_compiled(rule, parameters, memory)
    update = CompiledUpdate(rule, parameters, memory, groups)
    for step in range(STEPS):
        if step == resumed_at:  # as from a checkpoint: other tensors of the same numbers
            parameters = {name: own.clone() for name, own in parameters.items()}
            memory = {name: own.clone() for name, own in memory.items()}
            update = CompiledUpdate(rule, parameters, memory, groups)
        found, losses = gradients_of(step, bad, zeros)
        alive = update([*found.values()], losses, frozen_at, step, STEPS)
        assert alive == bool((frozen_at < 0).all())
    return {**parameters, **memory}, frozen_at


@settings(max_examples=40)
@given(RULES, GROUPS, LOSSES, st.sets(st.sampled_from([*SHAPES])), st.integers(0, STEPS))
def test_any_update_equals_the_rules(rule, groups, bad, zeros, resumed_at):
    """Members are lost at the same steps, and all numbers are the same; a resumed run has the same bits."""
    expected, expected_frozen = plain_steps(rule, groups, bad, zeros)
    found, frozen = compiled_steps(rule, groups, bad, zeros)
    assert frozen.equal(expected_frozen)
    for name, own in found.items():
        assert own.isfinite().all()
        scale = max(float(expected[name].abs().max()), 1.0)
        torch.testing.assert_close(own / scale, expected[name] / scale, **DOUBLE)
    again, frozen_again = compiled_steps(rule, groups, bad, zeros, resumed_at)
    assert frozen_again.equal(frozen)
    assert all(own.equal(again[name]) for name, own in found.items())


TORCH = {
    SGD: (torch.optim.SGD, {"momentum": st.floats(0.1, 0.99), "nesterov": st.booleans()}),
    Adam: (torch.optim.Adam, {"beta1": st.floats(0, 0.99), "beta2": st.floats(0, 0.9999)}),
    AdamW: (torch.optim.AdamW, {"beta1": st.floats(0, 0.99), "beta2": st.floats(0, 0.9999)}),
}


@pytest.mark.parametrize("kind", TORCH)
@settings(max_examples=10)
@given(st.data())
def test_any_update_equals_torch_optim(kind, data):
    """One tensor has a rate of its own and no weight decay, as one excludes biases."""
    theirs, options = TORCH[kind]
    rates = {name: data.draw(own) for name, own in options.items()}
    lr, decay = data.draw(st.floats(1e-4, 1)), data.draw(st.floats(0, 0.5))
    epsilon = data.draw(st.sampled_from([1e-12, 1e-8, 0.1]))
    own = {} if kind is SGD else {"epsilon": epsilon}
    rule = kind(lr, weight_decay=decay, **rates, **own)
    groups = {"network.biases.0": Group(0.5, 0.0)}
    found, _ = compiled_steps(rule, groups, [], [])
    if kind is not SGD:
        rates = {"betas": (rates["beta1"], rates["beta2"]), "eps": epsilon}
    plain = numbers(0)
    spared = plain["network.biases.0"]
    others = [own for name, own in plain.items() if own is not spared]
    optimizer = theirs(
        [{"params": others}, {"params": [spared], "lr": lr / 2, "weight_decay": 0.0}],
        lr=lr, weight_decay=decay, **rates,
    )  # fmt: skip
    for step in range(STEPS):
        for name, own in gradients_of(step, [])[0].items():
            plain[name].grad = own
        optimizer.step()
    for name, own in plain.items():
        torch.testing.assert_close(found[name], own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "rule", [SGD(0.1, momentum=0.5), Adam(0.1, beta2=0.5), LARS(0.1)], ids=repr
)
def test_averages_without_gradient_end_at_zero(rule):
    """Products of the smallest numbers take a hundred times as long, and never become 0 by themselves."""
    parameters = numbers(0)
    memory, frozen_at = rule.init(parameters), torch.full((MEMBERS,), -1)
    update = CompiledUpdate(rule, parameters, memory, {})
    zeros = [torch.zeros_like(own) for own in parameters.values()]
    losses = torch.zeros(MEMBERS, dtype=torch.float64)
    update([*numbers(1).values()], losses, frozen_at, 0, 9000)
    for step in range(1, 9000):
        update(zeros, losses, frozen_at, step, 9000)
    for name, own in memory.items():
        assert "updates" in name or not own.any(), name


@pytest.mark.parametrize(
    ("kind", "rates"),
    [(SGD, {"lr": 0.0}), (AdamW, {"lr": math.inf}), (Adam, {"epsilon": 0.0}), (LARS, {"trust": 0.0})],
)  # fmt: skip
def test_rates_without_a_meaning_are_refused(kind, rates):
    with pytest.raises(ValueError, match=r"above 0|finite"):
        kind(**rates)


def test_tensors_that_must_be_finite_are_looked_at_in_any_storage():
    rule, losses = SGD(0.1), torch.zeros(MEMBERS, dtype=torch.float64)
    for change in (
        lambda own: own,
        lambda own: own.mT,
        lambda own: own[..., ::2],
        torch.Tensor.half,
    ):
        for lost in (None, 1):
            parameters, frozen_at = numbers(0), torch.full((MEMBERS,), -1)
            other = torch.ones(MEMBERS, 4, 6, dtype=torch.float64)
            if lost is not None:
                other[lost, 3, 4] = math.nan
            update = CompiledUpdate(rule, parameters, {}, {})
            whole = [change(other), torch.ones(MEMBERS, 2), torch.ones(MEMBERS, dtype=torch.int64)]
            alive = update([*numbers(1).values()], losses, frozen_at, 4, 9, whole)
            assert alive == (lost is None)
            assert frozen_at.tolist() == [-1, 4 if lost else -1, -1]
            same = parameters["network.biases.0"][1].equal(numbers(0)["network.biases.0"][1])
            assert same == (lost is not None)
