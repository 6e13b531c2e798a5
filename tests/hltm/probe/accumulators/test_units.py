"""Sums that neither overflow, underflow nor cancel, whatever the batches, and which units are dead."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hltm.probe import StreamingCorrelation, StreamingMoments
from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.conditional import StreamingConditional, state_sums
from hltm.probe.accumulators.units import StreamingUnits

ROWS = 60
X = torch.randn(2, 4, ROWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Z = torch.randint(3, (2, 2, ROWS), generator=torch.Generator().manual_seed(1))
SPLITS = st.lists(st.integers(1, ROWS - 1), max_size=5, unique=True).map(sorted)


def parts(cuts, *arrays):
    return zip(*(x.tensor_split(cuts, -1) for x in arrays), strict=True)


def close(found, expected, size):
    return bool(((found - expected).abs() <= 1e-12 * size).all())


@settings(max_examples=25, deadline=None)
@given(SPLITS, st.permutations(range(ROWS)), st.integers(-1000, 1000), st.integers(-300, 300))
def test_moments_do_not_depend_on_batches_order_or_scale(cuts, order, offset, power):
    x, y = X[..., order] + offset, Z[..., order].double()
    a = x * 10.0**power
    moments, conditional, correlation = StreamingMoments(), StreamingConditional(3), None
    correlation = StreamingCorrelation()
    for p, q in parts(cuts, a, y):
        moments.update(p, q)
        conditional.update(p, q)
        correlation.update(p, q)
    found, given_state = moments.result(scaled=True), conditional.result()
    scale = moments.x.scale() / 10.0**power
    centred = X - X.mean(-1, keepdim=True)
    # an offset of 1000 leaves 13 digits of the differences
    rounding = 1 + offset**2
    assert close(found.xx * scale[..., None] * scale[..., None, :], X @ X.mT / ROWS - X.mean(-1)[..., None]
                 * X.mean(-1)[..., None, :], rounding)  # fmt: skip
    assert close(moments.x.mean * scale, X.mean(-1) + offset, 1 + abs(offset))
    assert not moments.x.dead().any()
    for s in range(2):
        expected = np.corrcoef(X[s].numpy(), Z[s].numpy())[:4, 4:]
        assert close(correlation.correlation()[s], torch.from_numpy(expected), rounding)
    for k in range(3):
        rows = (k == Z).double()
        expected = centred @ rows.mT / rows.sum(-1)[..., None, :]
        assert close(given_state.mean[..., k] * scale[..., None], expected, rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_a_mean_far_above_the_spread_is_not_dead_and_changes_nothing(dtype, offset):
    x = (X + offset).to(dtype)
    tracker = StreamingCorrelation()
    for p, q in parts([7, 30], x, Z):
        tracker.update(p, q)
    assert not tracker.dead().any()
    for s in range(2):  # of the numbers that the dtype holds
        expected = np.corrcoef(x[s].double().numpy() - offset, Z[s].numpy())[:4, 4:]
        assert np.abs(tracker.correlation()[s].numpy() - expected).max() < 1e-6


def test_dead_units_differ_by_no_more_than_rounding():
    eps = torch.finfo(torch.float32).eps
    x = torch.full((5, 9), 1 / 3)
    x[1, ::2] *= 1 + eps  # the last place
    x[2, ::2] *= 1 + 8 * eps
    x[3] = 0
    x[4, 3] = 1e-44  # the only number that is not 0
    units = StreamingUnits()
    for part in x.split(4, -1):
        units.take(part)
    assert units.dead().tolist() == [True, True, False, True, False]
    wide = StreamingUnits()
    wide.take(x.double())
    assert wide.dead().tolist() == [True, False, False, True, False]
    assert (units.variance() > 0).tolist() == [False, False, True, False, True]


def test_a_member_that_diverged_is_nan_and_changes_no_other():
    clean, spoilt = StreamingCorrelation(), StreamingCorrelation()
    x = X.float()
    bad = x.clone()
    bad[1, 0, 40], bad[1, 1, 3], bad[1, 2, 50] = math.nan, math.inf, -math.inf
    for p, q, z in parts([20], x, bad, Z):
        clean.update(p, z)
        spoilt.update(q, z)
    found = spoilt.correlation()
    assert found[0].equal(clean.correlation()[0])
    assert found[1, 3].equal(clean.correlation()[1, 3])
    assert found[1, :3].isnan().all()
    assert not spoilt.dead().any()
    moments = StreamingMoments()
    for q, z in parts([20], bad, Z):
        moments.update(q, z)
    assert moments.result().xx[1, :3].isnan().all()
    assert moments.result().xx[0].isfinite().all()


def test_units_that_are_zero_at_first_lose_no_digits_later():
    x = torch.cat([torch.zeros(1, 10, dtype=torch.float64), 1e-300 * X[0, :1]], -1)
    z = torch.arange(70).double()[None]
    tracker = StreamingCorrelation()
    for p, q in parts([10], x, z):
        tracker.update(p, q)
    expected = np.corrcoef(1e300 * x.numpy(), z.numpy())[0, 1]
    assert float(tracker.correlation()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_sums_of_any_dtype_are_those_of_its_numbers(dtype):
    x = (100 * X).to(dtype) if dtype != torch.bool else X > 0
    found, expected = StreamingCorrelation(), StreamingCorrelation()
    for p, z in parts([13], x, Z):
        found.update(p.repeat(1, 1, 400), z.repeat(1, 1, 400))  # longer than float16 can sum
        expected.update(p.double(), z)
    assert torch.allclose(found.correlation(), expected.correlation(), atol=1e-6)


def test_every_number_that_is_not_finite_is_found_and_named():
    check_finite(torch.full((3, 1000), 6e4, dtype=torch.float16))  # the sum is infinite
    x = torch.zeros(2, 3, 5)
    x[1, 2, 3], x[1, 2, 4] = math.inf, -math.inf  # the sum is NaN
    for values in (x, x.half(), x.bfloat16(), x.double()):
        with pytest.raises(
            ValueError, match=r"unit 2 at \(1,\) of layer 'h' has activation inf in row 3"
        ):
            check_finite(values, "h")  # fmt: skip
    with pytest.raises(ValueError, match="complex64, expected real numbers"):
        check_finite(torch.zeros(2, 3, dtype=torch.complex64))
    for values in (np.array([["a", "b"]]), np.array([[None]])):
        with pytest.raises(ValueError, match=f"dtype {values.dtype}, expected real numbers"):
            check_finite(values)


def test_accumulators_share_batches_from_the_first_on():
    shared, own, late = StreamingUnits(), StreamingConditional(3), StreamingConditional(3)
    conditional = StreamingConditional(3)
    for p, z in parts([13, 40], X, Z):
        batch = shared.take(p)
        conditional.update(batch, z)
        own.update(p, z)
    assert conditional.result().mean.equal(own.result().mean)
    with pytest.raises(ValueError, match="follows 40 rows was given to an accumulator of 0 others"):
        late.update(batch, z)


@pytest.mark.parametrize("states", [17, 40])
def test_sums_row_by_row_are_the_products_with_indicators(states):
    z = torch.randint(states, (2, 3, 2, ROWS), generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 3, 5, ROWS, dtype=torch.float64)
    count, sums = state_sums(x, z, states)
    indicator = torch.nn.functional.one_hot(z, states).double()  # (2, 3, T, B, K)
    assert torch.equal(count, indicator.sum(-2))
    assert torch.allclose(sums, torch.einsum("abux,abtxk->abutk", x, indicator), atol=1e-12)
    flat = state_sums(x[0, 0], z[0, 0], states)
    assert torch.allclose(flat[1], sums[0, 0], atol=1e-12)


@pytest.mark.parametrize("kind", [StreamingCorrelation, StreamingMoments])
def test_both_sides_have_the_same_rows(kind):
    with pytest.raises(ValueError, match="expected as many rows of both, got 5 and 4"):
        kind().update(torch.ones(2, 5), torch.ones(2, 4))


def test_products_of_a_batch_are_made_of_those_of_parts():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 90, generator=random, dtype=torch.float64) + 1000
    x[:, 1] = 1e5 + torch.arange(90) // 30  # all of its variance is between the parts
    whole, sides = StreamingUnits(), [StreamingUnits() for _ in range(3)]
    for _ in range(2):  # the second batch moves all means
        batch = whole.take(x)
        expected = batch.values @ batch.values.mT
        batch.join([side.take(x[..., 30 * i : 30 * i + 30]) for i, side in enumerate(sides)])
        assert "products" in vars(batch)
        torch.testing.assert_close(batch.products, expected, rtol=1e-9, atol=1e-8)
        x = 2 * x + 1
    batch = whole.take(x * 1e30)
    batch.join([StreamingUnits().take(x)])  # of another scale
    assert "products" not in vars(batch)
