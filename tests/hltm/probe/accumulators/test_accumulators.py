"""Streaming sums, whatever the batches."""

import numpy as np
import pytest
import torch
from made_up_units import noisy_mixtures

from hltm.probe import StreamingCorrelation, StreamingHistogram

N = 3000


def test_streaming_equals_all_at_once():
    generator = torch.Generator().manual_seed(0)
    a = 1e3 + torch.randn(2, 5, 900, generator=generator, dtype=torch.float64)
    z = (torch.rand(2, 3, 900, generator=generator) < 0.3).double()
    tracker = StreamingCorrelation()
    for part in torch.arange(900).split(70):
        tracker.update(a[..., part], z[..., part])
    for s in range(2):
        expected = np.corrcoef(a[s].numpy(), z[s].numpy())[:5, 5:]
        assert np.abs(tracker.correlation()[s].numpy() - expected).max() < 1e-12


@pytest.mark.slow
def test_bins_hold_equal_shares_and_few_values_keep_a_bin_each():
    a, z = noisy_mixtures()
    a[:, 0] = torch.tensor([0.0, 5.0, 2.0]).repeat(N // 3)
    histogram = StreamingHistogram(8)
    histogram.update(a, z)
    share = histogram.result()[..., 0, :].sum(-1)
    assert ((share[:, 1:] - N / 8).abs() <= 1).all()
    assert (share[:, 0] > 0).sum(-1).tolist() == [3, 3]
    assert share[:, 0].max() == N // 3
