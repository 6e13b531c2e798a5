"""Sums of shifted products against the sums themselves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hltm.probe.accumulators import shifted
from hltm.probe.accumulators.shifted import ShiftedCorrelation, shifted_products, used_rows


@given(st.integers(1, 12), st.integers(1, 90), st.integers(1, 3))
def test_products_are_those_of_rolled_rows(lags, more, units):
    rows = used_rows(lags + more, lags)
    step = (lags + more) // lags
    assert rows % step == 0
    assert lags * step <= rows <= lags + more
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(2, units, rows, generator=generator, dtype=torch.float64)
    z = torch.randn(2, 2, rows, generator=generator, dtype=torch.float64)
    found = shifted_products(a, z, lags)
    for lag in range(lags):
        expected = a @ z.roll(lag * step, -1).mT
        assert torch.allclose(found[:, lag], expected, atol=1e-10)


def test_tiles_make_no_difference(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, z = torch.randn(2, 3, 2, 7, 60, generator=generator, dtype=torch.float64)
    found = []
    for size in (1 << 22, 1000, 100):
        monkeypatch.setattr(shifted, "TILE", size)
        sums = ShiftedCorrelation(lags=6)
        sums.update(a, z)
        found.append(sums.correlation())
    assert torch.allclose(found[0], found[1], atol=1e-14)
    assert torch.allclose(found[0], found[2], atol=1e-14)


def test_deviations_are_over_all_rows_though_means_move():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1, 4, 90, generator=generator, dtype=torch.float64) + torch.arange(90.0)
    sums = ShiftedCorrelation(lags=5)
    for part in a.split(30, -1):
        sums.update(part, part[:, :2])
    for found, expected in zip(sums.deviation(), (a, a[:, :2]), strict=True):
        assert torch.allclose(found, expected.std(-1, correction=0), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_never_varies_has_no_correlation(dtype):
    a = torch.full((1, 2, 40), 0.1, dtype=dtype)
    a[:, 1, 3] = 0.2
    sums = ShiftedCorrelation(lags=4)
    sums.update(a, torch.arange(40.0)[None, None])
    assert (sums.correlation()[:, 0] == 0).all()
    assert (sums.correlation()[:, 1] != 0).all()
