"""Every metric on perfect, constant and NaN units, and against a direct computation.

Every file that `METRICS` finds is held to the tests that have a name for a parameter.
"""

import math
import pickle

import numpy as np
import pytest
import torch
from made_up_units import noisy_mixtures, streamed
from sklearn.metrics import mutual_info_score, roc_auc_score

import hltm
from hltm.probe import METRICS, CorrelationRatio, MetricNull, RocAuc, probe_layers
from hltm.probe.accumulators.histogram import equal_shares

N = 3000


def filled(name, a, z, sizes=(N,), **more):
    return streamed(METRICS[name](**more), a, z, sizes=sizes)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_unit_wins_and_its_copy_ties(name):
    a, z = noisy_mixtures()
    a[:, 1] = 7 - 3 * z[:, 2].float()
    a[:, 4] = a[:, 1]
    found = filled(name, a, z)
    strength = found.strength()[..., 2]
    perfect = 1.5 if name == "selectivity" else METRICS[name].strength_range[1]
    for s in range(2):
        share = float(z[s, 2].double().mean())
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        assert float(strength[s, 1]) == pytest.approx(perfect or entropy, abs=1e-5)
        if name != "selectivity":  # it is in the unit's own scale
            assert (strength[s, 1] + 1e-9 >= strength[s]).all()
    assert strength[:, 4].equal(strength[:, 1])


@pytest.mark.parametrize("name", METRICS)
def test_a_constant_unit_scores_nothing_and_is_no_nan(name):
    a, z = noisy_mixtures()
    a[:, 3], a[:, 5] = 1e4, 1 / 3  # a third has a mean that is rounded
    found = filled(name, a, z, sizes=(1001, 1999))
    assert (found.strength()[:, [3, 5]] == METRICS[name].strength_range[0]).all()
    assert found.result().isfinite().all()


@pytest.mark.parametrize("name", METRICS)
def test_nan_and_infinity_are_named(name):
    for bad in (math.nan, math.inf):
        a, z = noisy_mixtures()
        a[1, 4, 17] = bad
        with pytest.raises(ValueError, match=rf"unit 4 at \(1,\) has activation {bad} in row 17"):
            filled(name, a, z)


@pytest.mark.parametrize("name", METRICS)
def test_what_does_not_fit_is_refused(name):
    a, z = noisy_mixtures()
    for targets in (z[:1], z[..., :-1], z[0]):
        with pytest.raises(ValueError, match="do not fit"):
            METRICS[name]().update(a, targets)


@pytest.mark.parametrize(
    "name", ["selectivity", "correlation_ratio", "roc_auc", "mutual_information"]
)
def test_states_that_a_target_does_not_have_are_refused(name):
    a, z = noisy_mixtures(states=3)
    with pytest.raises(ValueError, match=r"targets have states 0\.\.2, expected 0\.\.1"):
        METRICS[name]().update(a, z)


@pytest.mark.parametrize("sizes", [(N,), (700, 1, 1299, 1000)])
def test_moments_are_those_of_numpy_however_they_are_batched(sizes):
    a, z = noisy_mixtures(states=4)
    a = 100 + a.double()
    ratio = filled("correlation_ratio", a, z, sizes, states=4).result()
    binary = (z > 1).to(torch.uint8)
    selectivity = filled("selectivity", a, binary, sizes).result()
    correlation = filled("correlation", a, binary, sizes).result()
    two = filled("correlation_ratio", a, binary, sizes).result()
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
    a, z = noisy_mixtures()
    a[:, 2] = a[:, 2].relu()  # many equal values
    a[:, 3] = a[:, 3].round()  # few values: exact
    found = filled("roc_auc", a, z, (1000, 2000)).result()
    for s in range(2):
        for t in range(3):
            for u in range(6):
                expected = roc_auc_score(z[s, t].numpy(), a[s, u].numpy())
                assert float(found[s, u, t]) == pytest.approx(expected, abs=1e-3)
            # a bound that coarse bins must break: 4 bins are off by more
            expected = roc_auc_score(z[s, t].numpy(), a[s, 3].numpy())
            assert float(found[s, 3, t]) == pytest.approx(expected, abs=1e-12)
    coarse = filled("roc_auc", a, z, bins=3).result()
    assert (coarse - streamed(METRICS["roc_auc"](), a, z).result()).abs().max() > 5e-3


def test_information_is_scikit_learns_of_the_same_bins():
    a, z = noisy_mixtures(states=3)
    metric = filled("mutual_information", a, z, (1000, 2000), states=3)
    edges = metric.sums.edges
    for s in range(2):
        for u in range(6):
            place = np.digitize(a[s, u].numpy(), edges[s, u].numpy())
            for t in range(3):
                expected = mutual_info_score(place, z[s, t].numpy())
                assert float(metric.result()[s, u, t]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["roc_auc", "mutual_information"])
def test_with_given_edges_streaming_equals_all_at_once(name):
    a, z = noisy_mixtures()
    edges = equal_shares(a, 16)
    once = filled(name, a, z, bins=16, edges=edges).result()
    parts = filled(name, a, z, (10, 990, 2000), bins=16, edges=edges).result()
    assert torch.allclose(once, parts, atol=1e-12)
    assert torch.allclose(once, filled(name, a, z, bins=16).result(), atol=1e-12)


def test_a_state_that_never_came_gives_no_strength():
    a, z = noisy_mixtures()
    z[:, 1] = 1
    assert (streamed(METRICS["roc_auc"](), a, z).result()[..., 1] == 0.5).all()
    assert (streamed(METRICS["selectivity"](), a, z).result()[..., 1] == 0).all()
    assert (streamed(METRICS["correlation_ratio"](), a, z).result()[..., 1] < 1e-6).all()


@pytest.mark.parametrize("name", METRICS)
def test_memory_does_not_grow_with_the_rows(name):
    a, z = noisy_mixtures()

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


MEAN_DIFFERENCE = """
from hltm.probe.metrics.selectivity import Selectivity

class MeanDifference(Selectivity):
    def result(self):
        return 2 * super().result()
"""


def test_a_file_beside_the_others_is_a_metric_everywhere(tmp_path, monkeypatch):
    (tmp_path / "mean_difference.py").write_text(MEAN_DIFFERENCE)
    monkeypatch.setattr(
        "hltm.probe.metrics.__path__", [*hltm.probe.metrics.__path__, str(tmp_path)]
    )
    assert set(METRICS) > {"mean_difference", "selectivity"}
    tree = hltm.symmetric_binary(depth=2, seed=0)
    draw = tree.sample(500, seed=1)
    names = ["selectivity", "mean_difference"]
    layers = probe_layers(draw.leaves.float(), tree, draw=draw, metrics=names, lags=10)
    table = hltm.probe.to_frame(layers, tree)
    half, whole = (table[table["metric"] == name] for name in names)
    assert np.allclose(2 * half[["value", "null"]], whole[["value", "null"]])
    hltm.probe.heatmap_figure(layers["activations"], tree, metric="mean_difference")
    with pytest.raises(KeyError, match="unknown metric 'matching', expected one of correlation,"):
        METRICS["matching"]  # a file of another kind
