"""Rivals, partial correlations and rival baselines, against direct computations and exact trees."""

import math

import numpy as np
import pytest
import torch
from made_up_units import streamed

import hltm
from hltm.probe import RivalBaseline, Specificity

TREE = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.95), seed=3)
LATENTS = list(TREE.latents)
PARENTS = TREE.topology.parent[LATENTS].tolist()
DRAW = TREE.sample(20_000, seed=1)
Z = DRAW.states.T[LATENTS]


def measured(a, z=Z, parents=PARENTS, states=2, sizes=None):
    return streamed(Specificity(parents, states), a, z, sizes=sizes)


def test_a_latent_itself_is_specific():
    found = measured(Z.float()).result(torch.arange(7))
    assert torch.allclose(found.strength, torch.ones(7, dtype=torch.float64), atol=1e-5)
    assert (found.rival_strength < 0.96).all()
    assert torch.allclose(found.partial[1:], torch.ones(6, dtype=torch.float64), atol=1e-4)
    assert math.isnan(found.partial[0])
    exact = TREE.correlation(LATENTS, LATENTS).abs().fill_diagonal_(0)
    assert found.rival.tolist() == exact.argmax(-1).tolist()
    assert torch.allclose(found.rival_strength, exact.max(-1).values, atol=0.02)


def test_a_unit_that_follows_the_root_is_specific_to_nothing_else():
    a = torch.cat([3 - Z[:1].float(), torch.randn(1, 20_000)])
    found = measured(a).result(torch.zeros(7, dtype=torch.int64))
    assert (found.strength[1:] > 0.4).all()  # it scores on everything
    assert (found.rival[1:] == 0).all()
    assert (found.partial[1:3] == 0).all()  # their parent is the root itself
    assert (
        found.partial[3:] < 0.03
    ).all()  # given their parent, the root has no information on them


def test_partial_correlation_is_the_correlation_of_residuals():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(5, 7, generator=generator)
    a = (mix @ Z.float() + torch.randn(5, 20_000, generator=generator)).double()
    unit = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    whole, parts = measured(a), measured(a, sizes=777)
    found = whole.result(unit)
    assert torch.allclose(found.partial[1:], parts.result(unit).partial[1:], atol=1e-9)
    for t in range(1, 7):
        x, z, p = a[unit[t]].numpy(), Z[t].numpy(), Z[PARENTS[t]].numpy()
        left = x - np.choose(p, [x[p == k].mean() for k in (0, 1)])
        # what all four joint states explain of what is left
        joint = 2 * z + p
        fitted = np.choose(joint, [left[joint == k].mean() for k in range(4)])
        square = 1 - (1 - fitted.var() / left.var()) * (20_000 - 2) / (20_000 - 4)
        expected = math.sqrt(max(square, 0))
        assert float(found.partial[t]) == pytest.approx(expected, abs=1e-9)
        linear = np.corrcoef(left, z - np.choose(p, [z[p == k].mean() for k in (0, 1)]))[0, 1]
        assert float(found.partial[t]) == pytest.approx(abs(linear), abs=0.02)


def test_meaningless_duplicated_constant_and_missing_units():
    a = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0))
    a[2], a[3] = a[1], 5.0
    metric = measured(a)
    found = metric.result(torch.tensor([0, 1, 2, 3, 3, 1, -1]))
    assert (found.strength < 0.03).all()
    assert (found.partial[1:] < 0.03).all()
    for field in (found.strength, found.partial, found.rival_strength):
        assert (field[[3, 4, 6]] == 0).all()
    assert found.rival[6] == -1
    copies = metric.result(torch.full((7,), 2)), metric.result(torch.full((7,), 1))
    assert copies[0].strength.equal(copies[1].strength)


def test_more_states_than_two():
    tree = hltm.random_tables(hltm.Topology.balanced(2, 2), cardinality=3, seed=0)
    z = tree.sample(5000, seed=1).states.T[:3]
    generator = torch.Generator().manual_seed(0)
    a = torch.stack(
        [(z[1] == 2).float(), z[0].float() ** 2, torch.randn(5000, generator=generator)]
    )
    found = measured(a, z, [-1, 0, 0], states=3).result(torch.tensor([1, 0, 2]))
    assert float(found.strength[0]) == pytest.approx(1, abs=1e-5)
    assert float(found.partial[1]) == pytest.approx(1, abs=1e-5)
    assert float(found.partial[2]) < 0.06


def test_a_lone_target_has_no_rival():
    found = measured(Z[:1].float(), Z[:1], [-1]).result(torch.tensor([0]))
    assert found.rival.tolist() == [-1]
    assert found.rival_strength.tolist() == [0]


def test_the_rival_baseline_is_what_the_posteriors_score():
    posterior = TREE.posterior(DRAW.leaves, nodes=LATENTS).marginals  # (B, T, K)
    baseline = RivalBaseline()
    for rows in torch.arange(20_000).split(7000):
        baseline.update(posterior[rows].permute(1, 2, 0), Z[:, rows])
    expected = np.corrcoef(posterior[:, :, 1].T.numpy(), Z.numpy())[:7, 7:]
    assert np.abs(baseline.result().numpy() - np.abs(expected)).max() < 1e-9
    assert torch.allclose(
        baseline.result().diagonal(), TREE.ceiling(LATENTS, leaves="all").value, atol=0.02
    )
    # no rival beats the latent's own posterior
    assert (baseline.result() <= baseline.result().diagonal() + 0.01).all()


def test_nan_and_bad_parents_are_named():
    a = Z.float()
    a[4, 9] = math.nan
    with pytest.raises(ValueError, match="unit 4 has activation nan in row 9"):
        measured(a)
    with pytest.raises(ValueError, match=r"parents must be in -1\.\.1, got 2"):
        Specificity([-1, 2])
