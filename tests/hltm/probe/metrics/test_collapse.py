"""Feature spread, effective rank and dead units, against numpy."""

import math

import numpy as np
import pytest
import torch
from made_up_units import streamed

from hltm.probe import Collapse

GENERATOR = torch.Generator().manual_seed(0)
A = (
    torch.randn(2, 5, 900, generator=GENERATOR, dtype=torch.float64)
    * torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])[:, None]
    + torch.tensor([[0.0], [5.0]])[:, :, None]
)


def collapse(a, sizes=None):
    return streamed(Collapse(), a, sizes=sizes).result()


@pytest.mark.parametrize("sizes", [None, 77])
def test_spread_and_rank_are_those_of_numpy(sizes):
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


def test_a_collapsed_layer_has_neither_spread_nor_rank():
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


def test_a_member_of_another_size_changes_no_bit_of_the_others() -> None:
    members = torch.randn(3, 5, 200, generator=torch.Generator().manual_seed(0))
    other = members.clone()
    other[1] = 3e37 * (1 + 1e-6 * other[1])
    first, second = Collapse(), Collapse()
    first.update(members)
    second.update(other)
    for a, b in zip(first.result(), second.result(), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
