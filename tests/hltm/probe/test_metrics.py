"""Every metric on perfect, meaningless, duplicated, constant and NaN units, and against a direct one."""

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score, roc_auc_score

from hltm.probe import (
    Correlation,
    CorrelationNull,
    CorrelationRatio,
    MetricNull,
    MutualInformation,
    RocAuc,
    Selectivity,
    StreamingHistogram,
)
from hltm.probe.accumulators.histogram import equal_shares

METRICS = {
    "correlation": Correlation,
    "selectivity": Selectivity,
    "ratio": CorrelationRatio,
    "auc": RocAuc,
    "information": MutualInformation,
}
NOTHING = {"auc": 0.5}  # the strength of a constant unit; 0 elsewhere
N = 3000


def data(members=2, units=6, targets=3, states=2, seed=0, n=N):
    """Activations (S, U, B) that follow the targets (S, T, B) more or less."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(states, (members, targets, n), generator=generator)
    z[:, 0] *= (torch.rand(members, n, generator=generator) < 0.6).long()  # an uneven prior
    mix = torch.randn(members, units, targets, generator=generator)
    a = mix @ z.float() + torch.randn(members, units, n, generator=generator)
    return a, z.to(torch.uint8)


def filled(name, a, z, sizes=(N,), **more):
    metric = METRICS[name](**more)
    for x, y in zip(a.split(sizes, -1), z.split(sizes, -1), strict=True):
        metric.update(x, y)
    return metric


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_unit_wins_and_its_copy_ties(name):
    a, z = data()
    a[:, 1] = 7 - 3 * z[:, 2].float()
    a[:, 4] = a[:, 1]
    found = filled(name, a, z)
    strength = found.strength()[..., 2]
    perfect = {"selectivity": 1.5, "information": None}.get(name, 1.0)
    for s in range(2):
        share = float(z[s, 2].double().mean())
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        assert float(strength[s, 1]) == pytest.approx(perfect or entropy, abs=1e-5)
        if name != "selectivity":  # it is in the unit's own scale
            assert (strength[s, 1] + 1e-9 >= strength[s]).all()
    assert strength[:, 4].equal(strength[:, 1])


@pytest.mark.parametrize("name", METRICS)
def test_a_constant_unit_scores_nothing_and_is_no_nan(name):
    a, z = data()
    a[:, 3], a[:, 5] = 1e4, 1 / 3  # a third has a mean that is rounded
    found = filled(name, a, z, sizes=(1001, 1999))
    assert (found.strength()[:, [3, 5]] == NOTHING.get(name, 0.0)).all()
    assert found.result().isfinite().all()


@pytest.mark.parametrize("name", METRICS)
def test_nan_and_infinity_are_named(name):
    for bad in (math.nan, math.inf):
        a, z = data()
        a[1, 4, 17] = bad
        with pytest.raises(ValueError, match=rf"unit 4 at \(1,\) has activation {bad} in row 17"):
            filled(name, a, z)


@pytest.mark.parametrize("name", METRICS)
def test_what_does_not_fit_is_refused(name):
    a, z = data()
    for targets in (z[:1], z[..., :-1], z[0]):
        with pytest.raises(ValueError, match="do not fit"):
            METRICS[name]().update(a, targets)


@pytest.mark.parametrize("name", ["selectivity", "ratio", "auc", "information"])
def test_states_that_a_target_does_not_have_are_refused(name):
    a, z = data(states=3)
    with pytest.raises(ValueError, match=r"targets have states 0\.\.2, expected 0\.\.1"):
        METRICS[name]().update(a, z)


@pytest.mark.parametrize("name", METRICS)
def test_meaningless_units_beat_their_null_one_time_in_twenty(name):
    above = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(40, 3, 1000, generator=generator)
        rows = torch.rand(2, 40, 1, 1000, generator=generator)
        z, other = (rows < 0.4).to(torch.uint8)
        few = {"bins": 16} if name in ("auc", "information") else {}
        metric = METRICS[name](**few)
        null = MetricNull(lambda few=few: METRICS[name](**few), lags=60)
        metric.update(a, z)
        null.update(a, other)
        above.append((metric.strength().amax(-2) > null.quantile()).double())
    rate = float(torch.cat(above).mean())  # of 120: binomial(120, .05)
    assert 0.005 < rate < 0.15


@pytest.mark.parametrize("name", METRICS)
def test_copies_do_not_raise_the_null_but_more_units_do(name):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 1000, generator=generator)
    z = torch.randint(2, (2, 1000), generator=generator)

    def null(units):
        found = MetricNull(METRICS[name], lags=40)
        found.update(units, z)
        return found.quantile()

    one = null(a[:1])
    assert torch.allclose(null(a[:1].expand(8, -1)), one, atol=1e-9)
    assert (null(a) > one).all()


def test_the_null_of_any_metric_agrees_with_the_fast_one_of_correlation():
    a, z = data(n=512)
    slow, fast = MetricNull(Correlation, lags=16), CorrelationNull(lags=16)
    slow.update(a, z.float())
    fast.update(a, z.float())
    # one takes the shifted activations, the other the shifted targets: the same pairs
    assert torch.allclose(slow.quantile(), fast.quantile(), atol=0.02)


def test_a_null_is_the_metric_of_rolled_rows():
    a, z = data(n=600)
    null = MetricNull(RocAuc, lags=5)
    null.update(a, z)
    best = []
    for lag in range(5):
        metric = RocAuc()
        metric.update(a, z.roll(lag * 120, -1))
        best.append(metric.strength().amax(-2))
    assert torch.allclose(null.quantile(), torch.stack(best).quantile(0.95, dim=0), atol=1e-12)


def test_a_unit_has_a_null_of_its_own():
    a, z = data(n=600, members=4, units=5)
    null = MetricNull(Correlation, lags=7)
    null.update(a, z)
    found = []
    for lag in range(7):
        metric = Correlation()
        metric.update(a, z.roll(lag * 85, -1))
        found.append(metric.strength().amax(-1))
    assert torch.allclose(null.unit_quantile(), torch.stack(found).quantile(0.95, dim=0))


def test_a_null_needs_rows_for_its_lags():
    a, z = data(n=30)
    with pytest.raises(ValueError, match="a row for each of 31 lags, got 30"):
        MetricNull(Correlation, lags=31).update(a, z)
    with pytest.raises(ValueError, match="lags must be at least 1, got 0"):
        MetricNull(Correlation, lags=0)


@pytest.mark.parametrize("sizes", [(N,), (700, 1, 1299, 1000)])
def test_moments_are_what_numpy_says_however_they_are_batched(sizes):
    a, z = data(states=4)
    a = 100 + a.double()
    ratio = filled("ratio", a, z, sizes, states=4).result()
    binary = (z > 1).to(torch.uint8)
    selectivity = filled("selectivity", a, binary, sizes).result()
    correlation = filled("correlation", a, binary, sizes).result()
    two = filled("ratio", a, binary, sizes).result()
    for s in range(2):
        for u in range(6):
            x = a[s, u].numpy()
            for t in range(3):
                y, b = z[s, t].numpy(), binary[s, t].numpy()
                fitted = np.choose(y, [x[y == k].mean() for k in range(4)])
                assert float(ratio[s, u, t]) == pytest.approx(
                    math.sqrt(fitted.var() / x.var()), abs=1e-9
                )
                half = (x[b == 1].mean() - x[b == 0].mean()) / 2
                assert float(selectivity[s, u, t]) == pytest.approx(half, abs=1e-9)
                assert float(correlation[s, u, t]) == pytest.approx(
                    np.corrcoef(x, b)[0, 1], abs=1e-9
                )
    assert torch.allclose(two, correlation.abs(), atol=1e-9)


def test_area_under_the_curve_is_scikit_learns_within_its_bound():
    a, z = data()
    a[:, 2] = a[:, 2].relu()  # many equal values
    a[:, 3] = a[:, 3].round()  # few values: exact
    found = filled("auc", a, z, (1000, 2000)).result()
    for s in range(2):
        for t in range(3):
            for u in range(6):
                expected = roc_auc_score(z[s, t].numpy(), a[s, u].numpy())
                assert float(found[s, u, t]) == pytest.approx(expected, abs=1e-3)
            # a bound that coarse bins must break: 4 bins are off by more
            expected = roc_auc_score(z[s, t].numpy(), a[s, 3].numpy())
            assert float(found[s, 3, t]) == pytest.approx(expected, abs=1e-12)
    coarse = filled("auc", a, z, bins=3).result()
    assert (coarse - filled("auc", a, z).result()).abs().max() > 5e-3


def test_information_is_scikit_learns_of_the_same_bins():
    a, z = data(states=3)
    metric = filled("information", a, z, (1000, 2000), states=3)
    edges = metric.histogram.edges
    for s in range(2):
        for u in range(6):
            place = np.digitize(a[s, u].numpy(), edges[s, u].numpy())
            for t in range(3):
                expected = mutual_info_score(place, z[s, t].numpy())
                assert float(metric.result()[s, u, t]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["auc", "information"])
def test_with_given_edges_streaming_equals_all_at_once(name):
    a, z = data()
    edges = equal_shares(a, 16)
    once = filled(name, a, z, bins=16, edges=edges).result()
    parts = filled(name, a, z, (10, 990, 2000), bins=16, edges=edges).result()
    assert torch.allclose(once, parts, atol=1e-12)
    assert torch.allclose(once, filled(name, a, z, bins=16).result(), atol=1e-12)


def test_bins_hold_equal_shares_and_few_values_keep_a_bin_each():
    a, z = data()
    a[:, 0] = torch.tensor([0.0, 5.0, 2.0]).repeat(N // 3)
    histogram = StreamingHistogram(8)
    histogram.update(a, z)
    share = histogram.result()[..., 0, :].sum(-1)
    assert ((share[:, 1:] - N / 8).abs() <= 1).all()
    assert (share[:, 0] > 0).sum(-1).tolist() == [3, 3]
    assert share[:, 0].max() == N // 3


def test_an_absent_state_says_nothing():
    a, z = data()
    z[:, 1] = 1
    assert (filled("auc", a, z).result()[..., 1] == 0.5).all()
    assert (filled("selectivity", a, z).result()[..., 1] == 0).all()
    assert (filled("ratio", a, z).result()[..., 1] < 1e-6).all()


@pytest.mark.parametrize("name", METRICS)
def test_memory_does_not_grow_with_the_rows(name):
    a, z = data()

    def size(metric):
        return len(pickle.dumps(metric))

    metric, null = METRICS[name](), MetricNull(METRICS[name], lags=10)
    sizes = []
    for _ in range(5):
        metric.update(a, z)
        null.update(a, z)
        sizes.append((size(metric), size((null.groups, null.metrics))))
    assert max(abs(x - y) for pair in sizes for x, y in zip(pair, sizes[0], strict=True)) < 16


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="bins and states must be at least 2, got 1 and 2"):
        RocAuc(bins=1)
    with pytest.raises(ValueError, match="states must be at least 2, got 1"):
        CorrelationRatio(states=1)
