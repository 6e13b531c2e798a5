"""Nulls: their calibration, their twin, scales, and what they refuse."""

from functools import partial

import numpy as np
import pytest
import torch
from made_up_units import noisy_mixtures, streamed

from hltm.probe import METRICS, Correlation, MetricNull, NullSet, RocAuc, Selectivity
from hltm.probe.accumulators.histogram import BUFFER
from hltm.probe.accumulators.shifted import shuffle
from hltm.probe.null import KINDS, ChosenRows, upper_point


def same(found, expected):
    """Up to rounding: the order of sums depends on where numbers lie in memory."""
    return torch.allclose(found, expected, rtol=1e-6, atol=0)


def metrics_of(states):
    return {n: METRICS[n] for n in METRICS if states == 2 or not METRICS[n].two_states}


def sparse_units(members, units, rows, on, seed, states=2, targets=1):
    """ReLU units that are on in a share of rows, and states that know nothing of them, twice."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(members, units, rows, generator=generator)
    a = (x - x.flatten()[:100_000].quantile(1 - on)).relu()
    shares = torch.arange(1.0, states + 1)
    z = torch.multinomial(shares, 2 * members * targets * rows, True, generator=generator)
    return a, *z.view(2, members, targets, rows)


def rates(a, z, other, states, lags):
    """Metric -> shares of sets of units and of single units above their null."""
    nulls = streamed(NullSet(metrics_of(states), states, lags), a, other)
    found = {}
    for name, kind in metrics_of(states).items():
        strength = streamed(kind.for_states(states), a, z).strength()
        best = strength.amax(-2) > nulls.quantile(name)
        each = strength.amax(-1) > nulls.unit_quantile(name)
        found[name] = float(best.double().mean()), float(each.double().mean())
    return found


@pytest.mark.parametrize(("on", "states"), [(0.5, 5), (0.16, 2), (0.02, 2), (0.005, 5)])
def test_meaningless_units_beat_their_null_one_time_in_twenty(on, states):
    # 200 sets: binomial(200, .05) is in 3..19 but for one time in 500; 800 units: in 22..60
    found = rates(*sparse_units(200, 4, 1200, on, 0, states), states, 39)
    for best, each in found.values():
        assert 0.015 <= best <= 0.095
        assert 0.027 <= each <= 0.075


@pytest.mark.slow
@pytest.mark.parametrize("states", [2, 5])
@pytest.mark.parametrize("on", [0.5, 0.16, 0.05, 0.02, 0.005])
@pytest.mark.parametrize("binary", [False, True])
def test_it_is_one_in_twenty_at_every_sparsity(on, states, binary):
    a, z, other = sparse_units(300, 8, 4096, on, 1, states, targets=3)
    for best, each in rates((a > 0).float() if binary else a, z, other, states, 60).values():
        assert 0.03 <= best <= 0.075
        assert 0.03 <= each <= 0.07


def test_rows_in_the_order_of_a_unit_are_paired_at_random():
    a, z, other = sparse_units(400, 1, 500, 0.5, 0)
    a = a.sort(-1).values
    for best, each in rates(a, z, other, 2, 39).values():
        assert best == each
        assert 0.02 <= best <= 0.085


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [False, True])
def test_it_is_one_in_twenty_for_more_rows_than_are_kept(ordered):
    a, z, other = sparse_units(300, 2, 2 * BUFFER, 0.1, 2)
    a = a.sort(-1).values if ordered else a
    for best, each in rates(a, z, other, 2, 39).values():
        assert 0.02 <= best <= 0.085
        assert 0.025 <= each <= 0.08


@pytest.mark.parametrize("states", [2, 4])
def test_nulls_are_what_rolled_rows_give(states):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 6, 640, generator=generator)
    a[:, 1] = (a[:, 1] - 1).relu()
    a[:, 2] = (2 * a[:, 2]).round()
    a[:, 3] = 7.0
    z = torch.randint(states, (3, 2, 640), generator=generator)
    z[:, 1] *= z[:, 1] != states - 1  # a state that never comes
    kinds = metrics_of(states)
    nulls = streamed(NullSet(kinds, states, lags=16), a, z, sizes=100)  # not a multiple of lags
    for name, kind in kinds.items():
        twin = streamed(MetricNull(partial(kind.for_states, states), lags=16), a, z)
        assert torch.allclose(nulls.quantile(name), twin.quantile(), atol=1e-6), name
        assert torch.allclose(nulls.unit_quantile(name), twin.unit_quantile(), atol=1e-6), name
    known = {METRICS[name].null for name in METRICS} | {"signed_correlation"}
    assert known == set(KINDS)  # none was left out


def test_targets_may_be_numbers_and_the_best_correlation_signed():
    generator = torch.Generator().manual_seed(0)
    a, z = torch.randn(2, 3, 4, 80, generator=generator, dtype=torch.float64)

    class Signed(Correlation):
        null = "signed_correlation"

    null = NullSet({"correlation": Correlation, "signed": Signed}, lags=8)
    null.update(a, z)
    a = a[..., shuffle(80)]
    for signed in (False, True):
        best = []
        for lag in range(8):
            rolled = z.roll(10 * lag, -1)
            both = np.array([np.corrcoef(x, y)[:4, 4:] for x, y in zip(a, rolled, strict=True)])
            best.append((both if signed else abs(both)).max(1))
        expected = upper_point(torch.tensor(np.array(best)), 0)
        assert torch.allclose(
            null.quantile("signed" if signed else "correlation"), expected, atol=1e-12
        )


@pytest.mark.parametrize("rows", [500, BUFFER + 700])
def test_nulls_do_not_depend_on_batches(rows):
    a, z = noisy_mixtures(samples=rows, units=3, targets=1)
    once, parts = (NullSet(metrics_of(2), lags=20) for _ in range(2))
    streamed(once, a, z)
    streamed(parts, a, z, sizes=97)
    for name in metrics_of(2):
        assert same(once.quantile(name), parts.quantile(name))
        assert same(once.unit_quantile(name), parts.unit_quantile(name))


def test_beyond_the_rows_that_are_kept_nulls_shrink_as_they_should():
    a, z, _ = sparse_units(4, 6, 4 * BUFFER, 0.05, 0)
    few = streamed(NullSet(metrics_of(2), lags=99), a[..., :BUFFER], z[..., :BUFFER])
    many = streamed(NullSet(metrics_of(2), lags=99), a, z)
    for name, kind in metrics_of(2).items():
        less, more = (null.quantile(name) - kind.strength_range[0] for null in (many, few))
        ratio = float((less / more).mean())
        assert ratio == pytest.approx(0.25 if name == "mutual_information" else 0.5, rel=0.12)


@pytest.mark.parametrize("power", [-100, 66, 120])
def test_any_scale_gives_the_same_numbers(power):
    a, z = noisy_mixtures(samples=300)
    plain, scaled = (NullSet(metrics_of(2), lags=20) for _ in range(2))
    plain.update(a, z)
    scaled.update(a * 2.0**power, z)
    for name in metrics_of(2):
        factor = 2.0**power if name == "selectivity" else 1.0
        assert same(scaled.quantile(name), plain.quantile(name) * factor)


def test_double_precision_and_half_precision_are_taken():
    a, z = noisy_mixtures(samples=300)
    plain, huge, half, single = (NullSet(metrics_of(2), lags=20) for _ in range(4))
    plain.update(a, z)
    huge.update(a.double() * 2.0**900, z)
    half.update(a.bfloat16(), z)
    single.update(a.bfloat16().float(), z)
    for name in metrics_of(2):
        if name != "selectivity":
            assert same(huge.quantile(name), plain.quantile(name))
        assert same(half.quantile(name), single.quantile(name))


def test_one_member_that_is_not_finite_leaves_the_others_alone():
    a, z = noisy_mixtures(samples=300, members=3)
    plain, spoilt = (NullSet(metrics_of(2), lags=20) for _ in range(2))
    plain.update(a, z)
    a[1, 2, 17], a[2, 0, 3] = torch.nan, torch.inf
    spoilt.update(a, z)
    for name in metrics_of(2):
        assert same(spoilt.quantile(name)[0], plain.quantile(name)[0]), name
        assert spoilt.quantile(name)[1:].isnan().all(), name
        assert same(spoilt.unit_quantile(name)[1, 3:], plain.unit_quantile(name)[1, 3:]), name


def test_units_that_never_vary_do_not_beat_their_null():
    a, z = noisy_mixtures(samples=BUFFER + 600)
    a[:, 2:4], a[:, 4] = 1 / 3, 0.0
    nulls = streamed(NullSet(metrics_of(2), lags=20), a, z, sizes=900)
    for name, kind in metrics_of(2).items():
        strength = streamed(kind.for_states(2), a, z, sizes=900).strength()
        assert (nulls.unit_quantile(name)[:, 2:5] == kind.strength_range[0]).all(), name
        assert (strength.amax(-1)[:, 2:5] <= nulls.unit_quantile(name)[:, 2:5]).all()


@pytest.mark.parametrize("name", METRICS)
def test_copies_do_not_raise_the_null_but_more_units_do(name):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 1000, generator=generator)
    z = torch.randint(2, (2, 1000), generator=generator)

    def null(units):
        return streamed(NullSet({name: METRICS[name]}, lags=40), units, z).quantile(name)

    one = null(a[:1])
    assert torch.allclose(null(a[:1].expand(8, -1)), one, atol=1e-9)
    assert (null(a) > one).all()


def test_a_metric_that_does_not_say_how_has_the_null_of_any_metric():
    class Double(Selectivity):
        def strength(self):
            return 2 * super().strength()

    a, z = noisy_mixtures(samples=300)
    kinds = {"double": Double, "single": Selectivity}
    nulls = streamed(NullSet(kinds, lags=20), a, z)
    assert torch.allclose(nulls.quantile("double"), 2 * nulls.quantile("single"), atol=1e-6)
    assert torch.allclose(
        nulls.unit_quantile("double"), 2 * nulls.unit_quantile("single"), atol=1e-6
    )


def test_the_upper_point_is_exceeded_by_one_in_twenty_whatever_the_ties():
    generator = torch.Generator().manual_seed(0)
    for lags in (19, 60, 199):
        values = torch.randn(20_000, lags + 1, generator=generator)
        above = values[:, 0] > upper_point(values[:, 1:], -1)
        allowed = (lags + 1) // 20 / (lags + 1)
        assert float(above.double().mean()) == pytest.approx(allowed, abs=0.006)
        few = (2 * values).round()
        assert (few[:, 0] > upper_point(few[:, 1:], -1)).double().mean() <= allowed + 0.006


def test_a_choice_of_rows_is_random_and_does_not_depend_on_batches():
    rows = torch.arange(4.0 * BUFFER)[None]
    once, parts = (
        streamed(ChosenRows(), rows, rows.long(), sizes=size).rows() for size in (None, 333)
    )
    assert once[0].equal(parts[0])
    assert once[0].long().equal(once[1])
    assert len(once[0].unique()) == BUFFER
    assert float(once[0].mean()) == pytest.approx(2 * BUFFER, rel=0.03)


def test_a_null_needs_rows_for_its_lags():
    a, z = noisy_mixtures(samples=30)
    with pytest.raises(ValueError, match="a row for each of 31 lags, got 30"):
        MetricNull(Correlation, lags=31).update(a, z)
    nulls = streamed(NullSet({"roc_auc": RocAuc}, lags=31), a, z)
    with pytest.raises(ValueError, match="31 lags need as many rows, got 30"):
        nulls.quantile("roc_auc")
    for make in (partial(MetricNull, Correlation), partial(NullSet, {})):
        with pytest.raises(ValueError, match="lags must be at least 1, got 0"):
            make(lags=0)
