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


def unbiased_hsic(x, y):
    """Song et al. (2012), equation 5, times n (n - 3)."""
    n = x.shape[-1]
    k, q = (part.T @ part * (1 - np.eye(n)) for part in (x, y))
    both = k.sum() * q.sum() / ((n - 1) * (n - 2))
    return (k * q).sum() + both - 2 / (n - 2) * (k @ q).sum()


@pytest.mark.parametrize("sizes", [None, 77, [1, 199], [199, 1]])
def test_it_is_the_unbiased_alignment_of_the_kernels(sizes):
    a = A[..., :200]
    y = torch.randn(2, 3, 200, generator=GENERATOR, dtype=torch.float64) + a[:, :3]
    metric = streamed(LinearCKA(), a, y, sizes=sizes)
    for s in range(2):
        k, q = a[s].numpy(), y[s].numpy()
        norms = unbiased_hsic(k, k) * unbiased_hsic(q, q)
        expected = unbiased_hsic(k, q) / math.sqrt(norms)
        assert float(metric.result()[s]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["normal", "sparse", "one direction"])
def test_the_null_is_the_95_point_of_shifted_rows_and_the_mean_is_0(kind):
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(40, 400, generator=generator)
    if kind == "sparse":
        a *= torch.rand(40, 400, generator=generator) < 0.05
    if kind == "one direction":
        a = a[:, :1] * a[:1] + 0.1 * torch.randn(40, 400, generator=generator)
    y = torch.rand(6, 400, generator=generator)
    shifted = torch.stack([y.roll(lag, -1) for lag in range(400)])
    metric = LinearCKA()
    metric.update(a.expand(400, -1, -1), shifted)
    found = metric.result()
    # 400 shifts of one sample: the share has standard error 0.011, the mean 1/20 of the deviation
    assert abs(float((found > metric.null()).double().mean()) - 0.05) < 3.3 * 0.011
    assert abs(float(found.mean() / found.std())) < 3.3 / 20
    assert abs(float(metric.null()[0]) / (2**0.5 / 400) - 1.65) < 0.5


def test_many_units_that_know_nothing_score_nothing():
    a = torch.randn(300, 500, generator=GENERATOR)
    metric = LinearCKA()
    metric.update(a, torch.rand(4, 500, generator=GENERATOR))
    assert abs(float(metric.result())) < 0.02  # the biased one is 0.5
    few = LinearCKA()
    few.update(a[:, :3], a[:2, :3])
    assert few.result().isnan()


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
