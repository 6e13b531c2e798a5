"""One-to-one matching of units with targets."""

import itertools
import math

import pytest
import torch

from hltm.probe import Correlation, match_units


def best_by_trial(table):
    """The largest total over all injections of the shorter side into the longer one."""
    units, targets = table.shape
    if units >= targets:
        ways = itertools.permutations(range(units), targets)
        return max(sum(table[u, t] for t, u in enumerate(way)) for way in ways)
    ways = itertools.permutations(range(targets), units)
    return max(sum(table[u, t] for u, t in enumerate(way)) for way in ways)


@pytest.mark.parametrize(("units", "targets"), [(5, 3), (3, 3), (2, 5)])
def test_no_other_matching_is_better(units, targets):
    strength = torch.rand(4, units, targets, generator=torch.Generator().manual_seed(0))
    found = match_units(strength)
    assert found.unit.shape == found.strength.shape == (4, targets)
    for s in range(4):
        assert float(found.strength[s].sum()) == pytest.approx(float(best_by_trial(strength[s])))
        used = [u for u in found.unit[s].tolist() if u >= 0]
        assert len(used) == len(set(used)) == min(units, targets)
        for t, u in enumerate(found.unit[s].tolist()):
            expected = strength[s, u, t] if u >= 0 else 0.0
            assert float(found.strength[s, t]) == pytest.approx(float(expected))


def test_perfect_meaningless_duplicated_and_constant_units():
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(2, (2, 3, 2000), generator=generator)
    a = torch.randn(2, 8, 2000, generator=generator)
    a[:, 4], a[:, 6], a[:, 1] = z[:, 0].float(), -z[:, 1].float(), z[:, 2].float()
    a[:, 7], a[:, 0] = a[:, 6], 3.0
    metric = Correlation()
    metric.update(a, z)
    found = match_units(metric.strength())
    assert found.unit[:, [0, 2]].tolist() == [[4, 1]] * 2
    assert set(found.unit[:, 1].tolist()) <= {6, 7}
    assert torch.allclose(found.strength, torch.ones(2, 3, dtype=torch.float64))


def test_one_unit_that_follows_everything_is_matched_once():
    strength = torch.tensor([[0.9, 0.9, 0.9], [0.1, 0.2, 0.1], [0.0, 0.1, 0.1]])
    found = match_units(strength)
    assert sorted(found.unit.tolist()) == [0, 1, 2]
    assert float(found.strength.sum()) == pytest.approx(1.2)


def test_units_may_be_kept_to_their_own_blocks():
    strength = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.9, 0.3]])
    allowed = torch.tensor([[True, False], [True, False], [False, True]])
    found = match_units(strength, allowed)
    assert found.unit.tolist() == [1, 2]
    assert match_units(strength, torch.zeros(3, 2, dtype=torch.bool)).unit.tolist() == [-1, -1]


def test_signed_strengths_and_pairs_that_are_not_measured():
    strength = torch.tensor([[-0.9, math.nan], [-0.2, math.nan], [math.nan, -7.0]])
    found = match_units(strength, ~strength.isnan())
    assert found.unit.tolist() == [1, 2]
    assert torch.allclose(found.strength, torch.tensor([-0.2, -7.0]).double())


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        match_units(torch.tensor([[math.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"allowed has shape \(1, 3\), expected \(1, 2\)"):
        match_units(torch.ones(1, 2), torch.ones(1, 3, dtype=torch.bool))
