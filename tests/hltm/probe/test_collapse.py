"""Feature spread, effective rank and dead units; linear CKA; both against numpy."""

import math

import numpy as np
import pytest
import torch

import hltm
from hltm.probe import Collapse, LinearCKA

GENERATOR = torch.Generator().manual_seed(0)
A = (
    torch.randn(2, 5, 900, generator=GENERATOR, dtype=torch.float64)
    * torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])[:, None]
    + torch.tensor([[0.0], [5.0]])[:, :, None]
)


def collapse(a, sizes=None):
    metric = Collapse()
    for part in a.split(sizes or a.shape[-1], -1):
        metric.update(part)
    return metric.result()


@pytest.mark.parametrize("sizes", [None, 77])
def test_figures_are_what_numpy_says(sizes):
    found = collapse(A, sizes)
    for s in range(2):
        x = A[s].numpy()
        unit = x / np.linalg.norm(x, axis=0)
        assert float(found.spread[s]) == pytest.approx(unit.std(1).mean() * math.sqrt(5), abs=1e-9)
        values = np.linalg.svd(np.cov(x), compute_uv=False)
        p = values / values.sum()
        assert float(found.effective_rank[s]) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert not found.dead.any()


def test_even_directions_have_spread_one_and_full_rank():
    a = torch.randn(16, 20_000, generator=torch.Generator().manual_seed(1))
    found = collapse(a)
    assert float(found.spread) == pytest.approx(1, abs=0.01)
    assert float(found.effective_rank) == pytest.approx(16, abs=0.05)


def test_a_collapsed_layer_says_so():
    a = torch.full((6, 500), 3.7)
    found = collapse(a, 100)
    assert float(found.spread) == pytest.approx(0, abs=1e-5)
    assert float(found.effective_rank) == 0
    assert found.dead.all()
    along = torch.randn(1, 500, generator=GENERATOR) * torch.ones(6, 1)
    assert float(collapse(along).effective_rank) == pytest.approx(1, abs=1e-4)


def test_copies_add_no_rank_and_dead_units_are_counted():
    a = A.clone()
    a[:, 3], a[:, 1] = a[:, 0], 1e3
    found = collapse(a, 100)
    assert found.dead.tolist() == [[False, True, False, False, False]] * 2
    assert (found.effective_rank < 3).all()
    zeros = collapse(torch.zeros(3, 50))
    assert zeros.dead.all()
    assert float(zeros.spread) == 0


def test_nan_is_named():
    a = A.clone()
    a[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match=r"unit 2 at \(1,\) has activation nan in row 3"):
        collapse(a)
    with pytest.raises(ValueError, match=r"unit 2 at \(1,\)"):
        LinearCKA().update(a, A)


@pytest.mark.parametrize("sizes", [None, 77])
def test_alignment_of_kernels_is_what_the_kernels_say(sizes):
    y = torch.randn(2, 3, 900, generator=GENERATOR, dtype=torch.float64) + A[:, :3]
    metric = LinearCKA()
    for a, b in zip(A.split(sizes or 900, -1), y.split(sizes or 900, -1), strict=True):
        metric.update(a, b)
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


def test_kernels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        LinearCKA().update(A, A[..., :-1])
