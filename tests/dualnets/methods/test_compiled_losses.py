"""Compiled losses against their plain twins in float64: values, gradients, and when they are not used."""

import functools
import itertools

import numpy as np
import pytest
import torch

from dualnets._vectors import LANES, exponential, load, store
from dualnets.methods._directions import direction
from dualnets.methods._matching import matching_losses
from dualnets.methods._plain import (
    plain_cross_entropies,
    plain_direction,
    plain_losses,
    plain_ntxent,
    plain_sinkhorn,
)
from dualnets.methods.compiled import operation
from dualnets.methods.losses import NTXent
from dualnets.methods.swav import cross_entropies, sinkhorn
from hltm._compile import compiled

KINDS = (torch.float32, torch.float64)
# torch's softplus is x beyond 20, which is 2e-9 too little
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-8}


def draw(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """`(…, B, U)` in batch-last storage, as networks return it."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(*shape[:-2], shape[-1], shape[-2], generator=generator, dtype=torch.float64)
    return found.to(dtype).mT


def matching(places: bool, classify: bool):
    """A function of queries with everything else fixed, and its plain twin."""

    @functools.cache  # so that a recorded loss does not record the drawing
    def drawn(members, batch, units, dtype):
        parts = [draw(members, n, units, dtype=dtype, seed=n) for n in (batch, 19)]
        generator = torch.Generator().manual_seed(3)
        theirs = torch.randint(0, batch, (members, 19), generator=generator)
        return parts, (torch.arange(batch), theirs) if places else None

    def fast(queries):
        (positives, candidates), where = drawn(*queries.shape, queries.dtype)
        return matching_losses(
            queries, positives, candidates, 0.5, places=where, classify=classify
        )  # fmt: skip

    def slow(queries):
        (positives, candidates), where = drawn(*queries.shape, queries.dtype)
        none = torch.empty(len(queries), 0, dtype=torch.int64)
        where = where or (none[0], none)
        return plain_losses(queries, positives, candidates, *where, 0.5, classify)

    return fast, slow


def exchanged(assigned):
    return (
        lambda own: cross_entropies(own, assigned(own), 0.1),
        lambda own: plain_cross_entropies(own, assigned(own), 0.1),
    )


# name -> compiled, plain, how many arguments (S, B, U)
LOSSES = {
    "queue": (*matching(False, False), 1),
    "bank": (*matching(True, True), 1),
    "bank, positives alone": (*matching(True, False), 1),
    "ntxent": (lambda a, p: NTXent(0.5)(a, p, None), lambda a, p: plain_ntxent(a, p, 0.5), 2),
    "direction": (direction, plain_direction, 1),
    "assignments": (*exchanged(lambda own: own.detach().roll(1, 1).softmax(-1)), 1),
}


def arguments(name: str, members: int, batch: int, units: int, dtype: torch.dtype) -> list:
    many = LOSSES[name][2]
    found = [draw(members, batch, units, dtype=dtype, seed=i) for i in range(many)]
    return [own.requires_grad_() for own in found]


def with_gradients(function, given):
    """Values, and gradients of a sum of values weighted by fixed numbers."""
    found = function(*given)
    weights = torch.linspace(0.5, 1.5, found.numel(), dtype=found.dtype).view(found.shape)
    return found.detach(), torch.autograd.grad((found * weights).sum(), given)


def assert_same(ours, right, tolerance):
    for own, expected in zip((ours[0], *ours[1]), (right[0], *right[1]), strict=True):
        scale = max(float(expected.abs().max()), 0.1)
        assert own.shape == expected.shape
        assert float((own - expected).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_exponentials_are_exact_to_two_digits_of_the_last_place(dtype):
    @compiled()
    def every(x, y):
        for i in range(0, len(x), LANES):
            store(y, i, exponential(load(x, i)))

    kind = np.dtype(str(dtype).removeprefix("torch."))
    lowest, highest = (-69.0, 88.7) if kind == np.float32 else (-693.0, 709.7)
    x = np.linspace(lowest, highest, LANES * 4096).astype(kind)
    y = np.empty_like(x)
    every(x, y)
    right = np.exp(x.astype(np.longdouble))
    unit = np.spacing(right.astype(kind)).astype(np.longdouble)
    assert (np.abs(y - right) / unit).max() < 2
    x[:6] = [np.nan, np.inf, -np.inf, 0, 10 * highest, 10 * lowest]
    every(x, y)
    np.testing.assert_array_equal(y[:6], np.array([np.nan, np.inf, 0, 1, np.inf, 0], kind))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_equals_the_plain_loss_in_float64(name, dtype):
    fast, slow = LOSSES[name][:2]
    for members, batch, units in ((3, LANES + 1, 5), (1, 2, 1), (2, 2 * LANES, 17), (2, 3, 4)):
        given = arguments(name, members, batch, units, dtype)
        assert operation.is_supported(*given)
        long = [own.detach().double().requires_grad_() for own in given]
        ours, right = with_gradients(fast, given), with_gradients(slow, long)
        assert ours[0].dtype == dtype
        assert_same(ours, right, TOLERANCE[dtype])


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_nt_xent_is_as_exact_far_from_0(offset):
    given = [own.detach() + offset for own in arguments("ntxent", 2, 20, 6, torch.float32)]
    long = [own.double().requires_grad_() for own in given]
    ours = with_gradients(LOSSES["ntxent"][0], [own.requires_grad_() for own in given])
    assert_same(ours, with_gradients(LOSSES["ntxent"][1], long), 1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_is_found_and_stays_in_its_member(name, value):
    given = arguments(name, 3, LANES + 1, 5, torch.float32)
    expected, slopes = with_gradients(LOSSES[name][0], given)
    with torch.no_grad():
        given[0][1, 4, 2] = value
    found, gradients = with_gradients(LOSSES[name][0], given)
    assert not torch.isfinite(found[1]).all() or not torch.isfinite(gradients[0][1]).all()
    for s in (0, 2):
        assert found[s].equal(expected[s])
        assert gradients[0][s].equal(slopes[0][s])


@pytest.mark.parametrize("name", LOSSES)
def test_same_bits_for_any_number_of_threads_and_members(name, monkeypatch):
    monkeypatch.setattr(operation, "GRAIN", 0)
    given = arguments(name, 5, LANES + 1, 5, torch.float32)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(LOSSES[name][0](*given).detach())
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1])
    if not name.startswith(("queue", "bank")):  # whose candidates are drawn for all members at once
        assert LOSSES[name][0](*(own[3:4] for own in given)).equal(found[0][3:4])


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_can_be_differentiated_again(name):
    found = []
    for function in LOSSES[name][:2]:
        given = arguments(name, 2, 5, 3, torch.float64)
        first = torch.autograd.grad(function(*given).square().sum(), given, create_graph=True)
        length = sum(own.square().sum() for own in first)
        found.append((length.detach(), torch.autograd.grad(length, given)))
    assert_same(*found, 1e-7)


def test_plain_torch_is_used_where_compiled_code_is_not_exact():
    fast, slow = LOSSES["ntxent"][:2]
    given = [own.detach() for own in arguments("ntxent", 2, 5, 3, torch.float64)]

    def slope_of(function):
        return torch.func.grad(lambda *own: function(*own).sum())(*given)

    assert slope_of(fast).equal(slope_of(slow))
    with torch.autograd.forward_ad.dual_level():
        assert not operation.is_supported(given[0])
    assert operation.is_supported(given[0])
    assert not operation.is_supported(given[0].to("meta"))
    assert not operation.is_supported(given[0].bfloat16())
    assert not operation.is_supported(given[0], given[1].float())


@pytest.mark.parametrize("name", LOSSES)
def test_an_operation_can_be_recorded_and_knows_its_shapes(name):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    given = arguments(name, 2, 5, 3, torch.float32)
    fast = LOSSES[name][0]
    expected = with_gradients(fast, given)
    recorded = make_fx(lambda *own: with_gradients(fast, own))(*given)
    assert any("dualnets" in str(node.target) for node in recorded.graph.nodes)
    with torch.no_grad():
        found = recorded(*given)
    assert found[0].equal(expected[0])
    assert all(a.equal(b) for a, b in zip(found[1], expected[1], strict=True))
    if not name.startswith(("queue", "bank", "assignments")):
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(own) for own in given]
            values, slopes = with_gradients(fast, fake)
        assert values.shape == expected[0].shape
        for ours, right in itertools.zip_longest(slopes, expected[1]):
            assert (ours.shape, ours.stride()) == (right.shape, right.stride())


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("epsilon", [0.3, 0.05, 1e-3])  # the last one is not compiled
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_sinkhorn_equals_sums_in_logarithms(dtype, epsilon, iterations):
    scores = plain_direction(draw(3, LANES + 3, 5, dtype=dtype))
    used = torch.rand(3, LANES + 3, generator=torch.Generator().manual_seed(0)) < 0.6
    for counted in (None, used):
        found = sinkhorn(scores, epsilon, iterations, counted)
        right = plain_sinkhorn(scores.double(), epsilon, iterations, counted)
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.double(), right, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12
        )
    with_nan = scores.clone()
    with_nan[1, 2, 3] = torch.nan
    found = sinkhorn(with_nan, epsilon, iterations)
    assert found[1].isnan().any()
    assert found[0].equal(sinkhorn(scores, epsilon, iterations)[0])
