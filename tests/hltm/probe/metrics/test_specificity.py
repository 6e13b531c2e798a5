"""Rivals, partial correlations and rival baselines, against direct computations and exact trees."""

import math

import numpy as np
import pytest
import torch
from made_up_units import streamed

import hltm
from hltm.probe import RivalBaseline, Specificity
from hltm.probe.metrics.correlation_ratio import ratio_square

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


def test_what_chance_explains_is_taken_off_whatever_the_number_of_states():
    generator = torch.Generator().manual_seed(0)
    for states in (2, 12, 40):
        z = torch.randint(states, (3, 4000), generator=generator)
        metric = Specificity([-1, 0, 0], states, lags=0)
        metric.update(torch.randn(40, 4000, generator=generator), z)
        units = torch.arange(40)[:, None].expand(-1, 3)
        found = torch.stack([metric.result(unit).partial[1:] for unit in units])
        assert (found == 0).double().mean() > 0.4  # half are below 0 and set to it
        assert found.square().mean() < 3 / 4000 * states
        # without the adjustment it is about (K² - K) / n
    few = Specificity([-1, 0], 40, lags=0)
    few.update(torch.randn(2, 300, generator=generator), torch.randint(40, (2, 300)).sort().values)
    few.update(torch.randn(2, 3), torch.tensor([[0, 1, 2], [3, 4, 5]]))
    assert 0 <= few.result(torch.tensor([0, 1])).partial[1] <= 1
    none = Specificity([-1, 0], 40, lags=0)
    none.update(torch.randn(2, 5), torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]))
    assert none.result(torch.tensor([0, 1])).partial[1].isnan()  # a joint state for every row


def best_units_of_rows(kind, trial, rows=400, units=12):
    """Units that follow the root more or less, the best of each latent, and its specificity."""
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    z = tree.sample(rows, seed=trial).states.T[:3]
    generator = torch.Generator().manual_seed(trial)
    a, root = torch.randn(units, rows, generator=generator), z[:1].float()
    if kind == "partly":
        a += root * torch.rand(units, 1, generator=generator)
    if kind == "perfectly":
        a = root * a[:, :1]
    if kind == "sparse":
        a = a.abs() * (torch.rand(units, rows, generator=generator) < 0.05)
    if kind == "sparse, by the root":
        a = a.abs() * (torch.rand(units, rows, generator=generator) < 0.1) * root
    metric = Specificity([-1, 0, 0])
    metric.update(a, z)
    unit = ratio_square(metric.alone.result()).argmax(-2)
    return metric.result(unit)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["not", "partly", "perfectly", "sparse", "sparse, by the root"])
def test_a_best_unit_that_knows_nothing_more_beats_the_null_in_5_percent_of_cases(kind):
    found = [best_units_of_rows(kind, trial) for trial in range(300)]
    partial = torch.stack([x.partial[1:] > x.partial_null[1:] for x in found]).double()
    rival = torch.stack([x.rival_strength > x.rival_null for x in found]).double()
    assert float(partial.mean()) < 0.05 + 3.3 * (0.05 * 0.95 / 600) ** 0.5
    assert float(partial.mean()) > (0 if kind == "perfectly" else 0.02) - 1e-9
    if kind in ("not", "sparse"):
        assert abs(float(rival.mean()) - 0.05) < 0.03
    else:
        assert rival.mean() > 0.5  # they know the root


def test_the_null_shifts_a_latent_among_rows_with_the_same_state_of_its_parent():
    generator = torch.Generator().manual_seed(0)
    for states in (2, 3, 5):
        z = torch.randint(states, (2, 2, 120), generator=generator)
        a = torch.randn(2, 4, 120, generator=generator) + z[:, :1]
        metric = streamed(Specificity([-1, 0], states, lags=3), a, z, sizes=50)
        found = metric.result(torch.zeros(2, 2, dtype=torch.int64)).partial_null[:, 1]
        for s in range(2):
            point = []
            for lag in (1, 2, 3):
                new = z[s, 1].clone()
                for p in range(states):
                    rows = (z[s, 0] == p).nonzero()[:, 0]
                    new[rows] = z[s, 1, rows.roll(-(lag * len(rows) // 4))]
                again = Specificity([-1, 0], states, lags=0)
                again.update(a[s], torch.stack([z[s, 0], new]))
                best = ratio_square(again.alone.result())[:, 1].argmax()
                point.append(again.result(torch.stack([best, best])).partial[1])
            assert float(found[s]) == pytest.approx(float(max(point)), abs=1e-5)


def test_a_unit_of_its_own_block_has_the_null_of_its_block():
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(2, (2, 2000), generator=generator)
    metric = Specificity([-1, 0])
    metric.update(torch.randn(60, 2000, generator=generator), z)
    unit = torch.tensor([0, 1])
    whole = metric.result(unit)
    own = metric.result(unit, torch.eye(60, 2, dtype=torch.bool))
    assert (own.rival_null < whole.rival_null).all() or own.partial_null[1] < whole.partial_null[1]
    assert Specificity([-1, 0], lags=0).lags == 0
    with pytest.raises(ValueError, match="lags must be at least 0, got -1"):
        Specificity([-1], lags=-1)
