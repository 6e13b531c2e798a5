"""Linear probes against scikit-learn, and on perfect, meaningless, duplicated and constant units."""

import math

import numpy as np
import pytest
import torch
from made_up_units import noisy_mixtures, streamed
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

import hltm
from hltm.probe import LinearProbe
from hltm.probe.metrics.linear_probe import BLOCK


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
    probe.update(*(part[..., :100] for part in data()))
    with pytest.raises(ValueError, match="2 rows to fit and 2 to test, got 100 and 0"):
        probe.result()
