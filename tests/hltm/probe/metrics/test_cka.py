"""Linear CKA against the kernels themselves, and on perfect, copied, meaningless and constant layers."""

import math

import numpy as np
import pytest
import torch
from made_up_units import streamed

import hltm
from hltm.probe import LinearCKA

GENERATOR = torch.Generator().manual_seed(0)
A = 5 + torch.randn(2, 5, 900, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("sizes", [None, 77])
def test_it_is_the_alignment_of_the_kernels(sizes):
    y = torch.randn(2, 3, 900, generator=GENERATOR, dtype=torch.float64) + A[:, :3]
    metric = streamed(LinearCKA(), A, y, sizes=sizes)
    centre = np.eye(900) - 1 / 900
    for s in range(2):
        k, q = (centre @ (x.T @ x) @ centre for x in (A[s].numpy(), y[s].numpy()))
        expected = (k * q).sum() / math.sqrt((k * k).sum() * (q * q).sum())
        assert float(metric.result()[s]) == pytest.approx(expected, abs=1e-9)


def test_perfect_duplicated_meaningless_and_constant_layers():
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    leaves = tree.sample(5000, seed=1).leaves
    posterior = tree.posterior(leaves, nodes=list(tree.latents)).marginals[..., 1].T

    def cka(a):
        metric = LinearCKA()
        metric.update(a, posterior)
        return float(metric.result())

    rotation = torch.linalg.qr(torch.randn(3, 3, generator=GENERATOR, dtype=torch.float64)).Q
    assert cka(5 + 3 * rotation @ posterior) == pytest.approx(1, abs=1e-9)
    assert cka(torch.cat([posterior, posterior])) == pytest.approx(1, abs=1e-9)
    assert cka(torch.randn(3, 5000, generator=GENERATOR)) < 0.01
    assert cka(torch.full((3, 5000), 0.1)) == 0
    assert 0.2 < cka(leaves.T.float()) < 1


def test_features_that_do_not_fit_or_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        LinearCKA().update(A, A[..., :-1])
    a = A.clone()
    a[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match=r"unit 2 at \(1,\)"):
        LinearCKA().update(a, A)
