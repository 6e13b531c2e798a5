"""Nulls: their calibration, what they are made of, and what they refuse."""

from functools import partial

import numpy as np
import pytest
import torch
from made_up_units import noisy_mixtures

from hltm.probe import METRICS, Correlation, CorrelationNull, MetricNull, RocAuc


@pytest.mark.parametrize("name", METRICS)
def test_meaningless_units_beat_their_null_one_time_in_twenty(name):
    above = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(40, 3, 1000, generator=generator)
        rows = torch.rand(2, 40, 1, 1000, generator=generator)
        z, other = (rows < 0.4).to(torch.uint8)
        make = partial(METRICS[name].for_null, 2)
        metric, null = make(), MetricNull(make, lags=60)
        metric.update(a, z)
        null.update(a, other)
        above.append((metric.strength().amax(-2) > null.quantile()).double())
    rate = float(torch.cat(above).mean())  # of 120: binomial(120, .05)
    assert 0.005 < rate < 0.15


@pytest.mark.parametrize("name", METRICS)
def test_copies_do_not_raise_the_null_but_more_units_do(name):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 1000, generator=generator)
    z = torch.randint(2, (2, 1000), generator=generator)

    def null(units):
        found = MetricNull(METRICS[name], lags=40)
        found.update(units, z)
        return found.quantile()

    one = null(a[:1])
    assert torch.allclose(null(a[:1].expand(8, -1)), one, atol=1e-9)
    assert (null(a) > one).all()


def test_the_null_of_any_metric_agrees_with_the_fast_one_of_correlation():
    a, z = noisy_mixtures(samples=512)
    slow, fast = MetricNull(Correlation, lags=16), CorrelationNull(lags=16)
    slow.update(a, z.float())
    fast.update(a, z.float())
    # one takes the shifted activations, the other the shifted targets: the same pairs
    assert torch.allclose(slow.quantile(), fast.quantile(), atol=0.02)


def test_a_null_is_the_metric_of_rolled_rows():
    a, z = noisy_mixtures(samples=600)
    null = MetricNull(RocAuc, lags=5)
    null.update(a, z)
    best = []
    for lag in range(5):
        metric = RocAuc()
        metric.update(a, z.roll(lag * 120, -1))
        best.append(metric.strength().amax(-2))
    assert torch.allclose(null.quantile(), torch.stack(best).quantile(0.95, dim=0), atol=1e-12)


def test_a_unit_has_a_null_of_its_own():
    a, z = noisy_mixtures(samples=600, members=4, units=5)
    null = MetricNull(Correlation, lags=7)
    null.update(a, z)
    found = []
    for lag in range(7):
        metric = Correlation()
        metric.update(a, z.roll(lag * 85, -1))
        found.append(metric.strength().amax(-1))
    assert torch.allclose(null.unit_quantile(), torch.stack(found).quantile(0.95, dim=0))


def test_a_null_needs_rows_for_its_lags():
    a, z = noisy_mixtures(samples=30)
    with pytest.raises(ValueError, match="a row for each of 31 lags, got 30"):
        MetricNull(Correlation, lags=31).update(a, z)
    with pytest.raises(ValueError, match="lags must be at least 1, got 0"):
        MetricNull(Correlation, lags=0)


def test_the_null_is_what_shifted_rows_give():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1, 4, 64, generator=generator, dtype=torch.float64)
    z = (torch.rand(1, 2, 64, generator=generator) < 0.5).double()
    null = CorrelationNull(lags=8)
    null.update(a, z)
    best = []
    for lag in range(0, 64, 8):
        shifted = torch.roll(a, -lag, dims=-1)
        both = np.corrcoef(shifted[0].numpy(), z[0].numpy())[:4, 4:]
        best.append(np.abs(both).max(0))
    expected = np.quantile(np.array(best), 0.95, axis=0)
    assert np.allclose(null.quantile()[0].numpy(), expected, atol=1e-12)
