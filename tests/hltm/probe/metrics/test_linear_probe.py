"""Linear probes against scikit-learn, and on perfect, meaningless, duplicated and constant units."""

import itertools
import math

import numpy as np
import pytest
import torch
from made_up_units import noisy_mixtures, streamed
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

import hltm
from hltm.probe import Correlation, LinearProbe
from hltm.probe.metrics import linear_probe
from hltm.probe.metrics.linear_probe import BLOCK, RIDGES


def data(states=2):
    a, z = noisy_mixtures(units=7, states=states, samples=2000)
    return 3 + a.double(), z


def split(n):
    side = np.arange(n) // BLOCK % 2
    return side == 0, side == 1


@pytest.mark.parametrize(("states", "ridge"), [(2, 1e-4), (3, 0.3)])
@pytest.mark.parametrize("sizes", [(2000,), (1, 300, 999, 700)])
def test_it_is_scikit_learns_ridge(states, ridge, sizes):
    a, z = data(states)
    found = streamed(LinearProbe(states, ridge), a, z, sizes=sizes).result()
    train, test = split(2000)
    assert (found.train_samples, found.test_samples) == (train.sum(), test.sum())
    for s in range(2):
        x = a[s].numpy().T
        scaler = StandardScaler().fit(x[train])
        for t in range(3):
            hot = np.eye(states)[z[s, t].numpy()]
            oracle = Ridge(alpha=ridge * train.sum()).fit(scaler.transform(x[train]), hot[train])
            predicted = oracle.predict(scaler.transform(x[test]))
            assert np.allclose(
                found.weight[s, :, t].numpy(), oracle.coef_.T / scaler.scale_[:, None], atol=1e-9
            )
            at_zero = oracle.predict(scaler.transform(np.zeros((1, 7))))[0]
            assert np.allclose(found.intercept[s, t].numpy(), at_zero, atol=1e-9)
            centred, truth = predicted - predicted.mean(0), hot[test] - hot[test].mean(0)
            expected = (centred * truth).sum() / math.sqrt((centred**2).sum() * (truth**2).sum())
            assert float(found.correlation[s, t]) == pytest.approx(expected, abs=1e-9)
            pooled = r2_score(hot[test], predicted, multioutput="variance_weighted")
            if states == 2:  # both columns weigh the same
                assert float(found.r2[s, t]) == pytest.approx(pooled, abs=1e-9)
                flat = np.corrcoef(predicted[:, 1], z[s, t].numpy()[test])[0, 1]
                assert float(found.correlation[s, t]) == pytest.approx(flat, abs=1e-9)
            direct = 1 - ((hot[test] - predicted) ** 2).sum() / (truth**2).sum()
            assert float(found.r2[s, t]) == pytest.approx(direct, abs=1e-9)


def test_perfect_duplicated_constant_and_meaningless_units():
    a, z = data()
    a[:, 0] = 1e3 - 2 * z[:, 1]
    a[:, 5] = a[:, 0]
    a[:, 2] = 1e4
    probe = LinearProbe()
    probe.update(a, z)
    found = probe.result()
    assert (found.correlation[:, 1] > 1 - 1e-6).all()
    assert (found.weight[:, 2] == 0).all()
    assert torch.allclose(found.weight[:, 0], found.weight[:, 5], atol=1e-6)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(3))
    probe = LinearProbe()
    probe.update(noise, z)
    assert (probe.result().correlation.abs() < 4 / math.sqrt(1000)).all()
    assert (probe.result().r2 < 0.01).all()


def test_constant_units_predict_nothing():
    _, z = data()
    probe = LinearProbe()
    probe.update(torch.full((2, 4, 2000), 0.1), z)
    assert (probe.result().correlation == 0).all()
    assert (probe.result().r2.abs() < 0.02).all()


def test_a_probe_of_all_leaves_stays_below_the_ceiling():
    tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.9), seed=0)
    draw = tree.sample(20_000, seed=1)
    probe = LinearProbe()
    probe.update(draw.leaves.T.float(), draw.states.T[: len(tree.latents)])
    bound = tree.ceiling(tree.latents, leaves="all").value
    found = probe.result().correlation
    assert (found < bound + 0.02).all()
    assert (found > 0.85 * bound).all()


def test_nan_and_bad_settings_are_named():
    a, z = data()
    a[0, 3, 5] = math.nan
    with pytest.raises(ValueError, match=r"unit 3 at \(0,\) has activation nan"):
        LinearProbe().update(a, z)
    with pytest.raises(ValueError, match=r"ridge must be above 0, got 0"):
        LinearProbe(ridge=0)
    with pytest.raises(ValueError, match="states must be at least 2"):
        LinearProbe(states=1)
    probe = LinearProbe()
    a, z = data()
    probe.update(a[..., :95], z[..., :95])
    assert not probe.enough
    with pytest.raises(ValueError, match=r"needs 96 rows to choose its penalty.*got 95"):
        probe.result()
    probe.update(a[..., 95:96], z[..., 95:96])
    assert probe.enough
    assert probe.result().correlation.isfinite().all()


@pytest.mark.parametrize(("rows", "units"), [(512, 8), (512, 120), (200, 400)])
def test_the_penalty_is_chosen_on_the_training_side(rows, units):
    generator = torch.Generator().manual_seed(units)
    z = torch.randint(2, (2, 1, rows), generator=generator)
    mix = torch.randn(2, units, 1, generator=generator).double()
    a = mix * z + 2 * torch.randn(2, units, rows, generator=generator).double()
    found = streamed(LinearProbe(), a, z, sizes=(100, rows - 100)).result()
    train, _ = split(rows)
    for s in range(2):
        x, y = a[s].numpy().T[train], z[s, 0].numpy()[train]
        halves = np.arange(rows)[train] // BLOCK % 4 == 0, np.arange(rows)[train] // BLOCK % 4 == 2
        wrong = dict.fromkeys(RIDGES, 0.0)
        for own, other in (halves, halves[::-1]):
            scaler = StandardScaler().fit(x[own])
            for ridge in RIDGES:
                fit = Ridge(alpha=ridge * own.sum()).fit(scaler.transform(x[own]), y[own])
                guess = fit.predict(scaler.transform(x[other]))
                wrong[ridge] += ((guess - y[other]) ** 2).mean()
        best = min(wrong, key=wrong.get)
        assert float(found.ridge[s, 0]) == pytest.approx(best / 2)
        fixed = streamed(LinearProbe(ridge=best / 2), a, z).result()
        assert torch.allclose(found.weight[s], fixed.weight[s], atol=1e-9)
        small = streamed(LinearProbe(ridge=1e-4), a, z).result()
        assert found.r2[s, 0] > small.r2[s, 0] - 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvectors_give_what_a_factorisation_for_each_penalty_gives(monkeypatch, dtype):
    """Also where copies of a unit make the moments singular, and the smallest penalties their rounding."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(3, (2, 4, 400), generator=generator)
    mix, noise = (torch.randn(2, 30, n, generator=generator) for n in (4, 400))
    a = (mix @ z.float() + noise).to(dtype)
    a = torch.cat([a, a[:, :3], torch.zeros_like(a[:, :1])], 1)
    found = streamed(LinearProbe(3), a, z).result()
    monkeypatch.setattr(linear_probe, "MANY", 99)
    expected = streamed(LinearProbe(3), a, z).result()
    assert (found.ridge == expected.ridge).all()
    for name in ("correlation", "null", "r2"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-9), name


def test_a_readout_of_as_many_units_as_rows_is_above_its_best_unit():
    tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
    draw = tree.sample(1024, seed=1)
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(512, 8, generator=generator)
    a = mix @ draw.leaves.T.float() + 0.5 * torch.randn(512, 1024, generator=generator)
    z = draw.states.T[:1]
    best = streamed(Correlation(), a, z).strength().max()
    assert streamed(LinearProbe(), a, z).result().correlation > best
    assert streamed(LinearProbe(ridge=1e-4), a, z).result().correlation < best


def test_the_penalty_belongs_to_each_target():
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(2, (2, 1000), generator=generator)
    a = torch.randn(100, 1000, generator=generator, dtype=torch.float64)
    a[:3] += 5 * z[0]  # target 0 is easy to read, target 1 is not there
    both = streamed(LinearProbe(), a, z).result()
    for t in range(2):
        alone = streamed(LinearProbe(), a, z[t : t + 1]).result()
        assert alone.ridge == both.ridge[t]
        assert torch.allclose(alone.correlation, both.correlation[t : t + 1], atol=1e-12)
    assert both.ridge[0] < both.ridge[1]


@pytest.mark.parametrize("states", [2, 4])
@pytest.mark.parametrize("sparse", [False, True])
def test_one_in_twenty_meaningless_readouts_is_above_its_null(states, sparse):
    generator = torch.Generator().manual_seed(states)
    z = torch.randint(states, (400, 2, 512), generator=generator)
    z[:, 1] = z[:, 1].clamp(max=1)  # uneven, and fewer states
    a = torch.randn(400, 6, 512, generator=generator)
    a = (a - 1.5).relu() if sparse else a
    found = streamed(LinearProbe(states), a, z).result()
    above = (found.correlation > found.null).double().mean(0)
    assert ((above - 0.05).abs() < 3.3 * math.sqrt(0.05 * 0.95 / 400)).all(), above


def test_the_null_is_the_spread_over_random_orders():
    a, z = data(states=3)
    rows = split(2000)[1]
    found = streamed(LinearProbe(3), a, z).result()
    guess = torch.einsum("utk,ub->tkb", found.weight[0], a[0][:, rows])
    hot = torch.nn.functional.one_hot(z[0][:, rows].long(), 3).double().transpose(1, 2)
    p, h = (x - x.mean(-1, keepdim=True) for x in (guess, hot))
    size = (p.square().sum((1, 2)) * h.square().sum((1, 2))).sqrt()
    generator = torch.Generator().manual_seed(1)
    shuffled = torch.stack(
        [
            (p * h[..., torch.randperm(p.shape[-1], generator=generator)]).sum((1, 2))
            for _ in range(4000)
        ]
    )
    spread = (shuffled / size).std(0)
    assert torch.allclose(found.null[0] / 1.6449, spread, rtol=0.05)


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_a_unit_is_dead_for_the_readout_where_it_is_for_every_metric(offset):
    z = torch.randint(2, (1, 500), generator=torch.Generator().manual_seed(0))
    probe = LinearProbe()
    probe.update(torch.cat([z, torch.zeros_like(z)]).double() + offset, z)
    found = probe.result()
    assert float(found.correlation) > 0.99
    assert found.weight[0].abs().min() > 0 == found.weight[1].abs().max()


def test_further_readouts_are_those_of_targets_rolled_within_each_side():
    """In batches of whole sides, by the same moments as without; one readout is of the rows' own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 896, generator=generator, dtype=torch.float64)
    y = torch.stack([x[:, :3].tanh(), x[:, 1:4] + 300.0], -2)  # (S, T, K, B)
    y = y + 0.3 * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    probe, cuts = LinearProbe(lags=3), (0, 384, 896)
    side = torch.arange(896) // BLOCK % 4
    side = side.where(side != 3, 1)  # blocks 1 and 3 are those tested
    apart = [y.clone() for _ in range(4)]
    for low, high in itertools.pairwise(cuts):
        probe.update_numbers(x[..., low:high], y[..., low:high])
        for which in range(3):
            rows = low + (side[low:high] == which).nonzero()[:, 0]
            for lag in range(4):
                apart[lag][..., rows] = y[..., rows.roll(lag * len(rows) // 4)]
    found = probe.result()
    for lag, numbers in enumerate(apart):
        alone = LinearProbe()
        alone.update_numbers(x, numbers)
        expected = alone.result()
        for name in ("correlation", "r2", "null", "weight", "intercept", "ridge"):
            torch.testing.assert_close(
                getattr(found, name)[lag], getattr(expected, name), rtol=1e-8, atol=1e-9
            )
        torch.testing.assert_close(found.variance, expected.variance)
    assert found.r2[0].min() > 0.5
    assert found.r2[1:].max() < 0.1
