"""Every metric on perfect, constant and NaN units, and against a direct computation.

Every file that `METRICS` finds is held to the tests that have a name for a parameter.
"""

import math
import pickle

import numpy as np
import pytest
import torch
from few import few
from made_up_units import noisy_mixtures, streamed
from scipy.stats import mannwhitneyu, rankdata
from sklearn.metrics import mutual_info_score

import hltm
from hltm.probe import METRICS, CorrelationRatio, NullSet, RocAuc, probe_layers
from hltm.probe.accumulators.histogram import BUFFER

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


def distributions(rows, seed=0):
    """Name -> a unit `(B,)` that follows the states `(B,)`, which come first."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(2, (rows,), generator=generator)
    x = z / 2 + torch.randn(rows, generator=generator)
    atom = torch.rand(rows, generator=generator) < 0.5
    return z, {
        "Gaussian": x,
        "lognormal": (4 * x).exp(),
        "ReLU": (x - 0.2).relu(),
        "sparse ReLU": (x - 2.2).relu(),
        "atoms in the midst": x.where(atom, (2 * x).round()),
        "large mean": 1e5 + x,
        "float16": x.half(),
        "bfloat16": x.bfloat16(),
        "tiny": 1e-30 * x,
        "huge": 1e30 * x,
        "float64": 1e250 * x.double(),
        "few integers": (3 * x).round().int(),
        "one in a hundred is on": x > 2.6,
        "constants then numbers": torch.cat([torch.zeros(rows // 2), x[rows // 2 :]]),
        "shrinking": x * torch.logspace(0, -6, rows),
        "growing": x * torch.logspace(-6, 0, rows),
    }


def area(unit, z):
    """By ranks in double precision."""
    unit, z = unit.double().numpy(), z.numpy()
    first, second = unit[z == 1], unit[z == 0]
    return mannwhitneyu(first, second).statistic / (len(first) * len(second))


@pytest.mark.parametrize("order", ["as they come", "ascending", "descending", "outside first"])
@pytest.mark.parametrize("rows", few([2000, 20_000]))
def test_the_area_is_that_of_all_rows_within_its_bound(rows, order):
    z, units = distributions(rows)
    for kind in {unit.dtype for unit in units.values()}:
        names = [name for name, unit in units.items() if unit.dtype == kind]
        a = torch.stack([units[name] for name in names])
        place = {
            "as they come": torch.arange(rows).expand(len(a), -1),
            "ascending": a.argsort(),
            "descending": a.argsort(descending=True),
            "outside first": (a.double() - a.double().median(-1, keepdim=True).values)
            .abs()
            .argsort(descending=True),
        }[order]
        # each unit is a member of its own, since rows are in its order
        found = filled("roc_auc", a.gather(-1, place)[:, None], z[place][:, None], 1024)
        for name, unit, at, bound in zip(names, a, found.result(), found.bound(), strict=True):
            wrong = float(at) - area(unit, z)
            assert abs(wrong) <= float(bound) + 1e-12, name
            assert abs(wrong) < 1e-3, name
            if rows <= BUFFER or name in ("few integers", "one in a hundred is on"):
                assert float(bound) < 1e-12, name


@pytest.mark.parametrize("name", ["roc_auc", "mutual_information"])
@pytest.mark.parametrize("rows", [700, BUFFER + 1500])
def test_batches_make_no_difference_at_all(name, rows):
    z, units = distributions(rows)
    for unit in units.values():
        sizes = (rows, 97, [1, 2, 4, rows - 7])
        found = [filled(name, unit[None], z[None], size).result() for size in sizes]
        assert all(other.equal(found[0]) for other in found)


def test_one_row_at_a_time_is_enough():
    z, units = distributions(300)
    a = torch.stack([units["ReLU"], torch.zeros(300)])
    for name in ("roc_auc", "mutual_information"):
        found = filled(name, a, z[None], 1).result()
        assert found.equal(filled(name, a, z[None], 300).result())


def test_the_order_of_rows_makes_no_difference_to_information():
    z, units = distributions(40_000)
    for name, unit in units.items():
        first = filled("mutual_information", unit[None], z[None], 1024).result()
        place = unit.argsort()
        ordered = filled("mutual_information", unit[None, place], z[None, place], 1024).result()
        kept = unit[None, :2000], z[None, :2000]
        some = filled("mutual_information", *kept, 2000).result()
        flipped = filled("mutual_information", *(x.flip(-1) for x in kept), 2000).result()
        assert torch.allclose(some, flipped, atol=1e-12), name
        assert torch.allclose(first, ordered, rtol=0.03, atol=1e-4), name


@pytest.mark.parametrize("states", [2, 32])
@pytest.mark.parametrize("on", [0.5, 0.03, 0.002])
def test_a_sparse_unit_keeps_the_information_of_on_and_of_how_much(states, on):
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(states, (1, 6000), generator=generator)
    active = torch.rand(1, 6000, generator=generator) < on * (1 + (z == 1) * 0.5 - (z == 0) * 0.5)
    size = 1 + (z % 2) * torch.rand(1, 6000, generator=generator)
    found = [
        float(filled("mutual_information", x, z, 1000, states=states).result())
        for x in (active.float(), active * size, active * 1e-20, 3.0 - active.int())
    ]
    expected = mutual_info_score(z[0].numpy(), active[0].numpy())
    assert found[0] == pytest.approx(expected, abs=1e-12)
    assert found[2:] == pytest.approx([expected] * 2, abs=1e-12)
    assert found[1] > expected + on / 20


def test_one_unit_for_each_state_has_the_information_of_its_state():
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(32, (1, 8192), generator=generator)
    units = torch.cat(
        [(z == k) * (1 + 0.3 * torch.rand(1, 8192, generator=generator)) for k in range(32)]
    )
    found = filled("mutual_information", units, z, 4096, states=32).result()[:, 0]
    for k in range(32):
        # a unit that is on says which state it is, and how much it is on says nothing more
        expected = mutual_info_score(z[0].numpy(), (units[k] > 0).numpy())
        assert float(found[k]) == pytest.approx(expected, abs=1e-12)


def test_information_is_scikit_learns_of_equal_shares():
    a, z = noisy_mixtures(states=3)
    found = filled("mutual_information", a, z, (1000, 2000), states=3).result()
    for s in range(2):
        for u in range(6):
            place = rankdata(a[s, u].numpy(), "ordinal") - 1
            for t in range(3):
                expected = mutual_info_score(place.astype(int) * 16 // N, z[s, t].numpy())
                assert float(found[s, u, t]) == pytest.approx(expected, abs=1e-9)


def test_a_state_that_never_came_gives_no_strength():
    a, z = noisy_mixtures()
    z[:, 1] = 1
    assert (streamed(METRICS["roc_auc"](), a, z).result()[..., 1] == 0.5).all()
    assert (streamed(METRICS["selectivity"](), a, z).result()[..., 1] == 0).all()
    assert (streamed(METRICS["correlation_ratio"](), a, z).result()[..., 1] < 1e-6).all()


@pytest.mark.parametrize("name", METRICS)
def test_memory_does_not_grow_with_the_rows(name):
    a, z = noisy_mixtures(samples=BUFFER)

    def size(*objects):
        return len(
            pickle.dumps([{k: v for k, v in vars(x).items() if k != "random"} for x in objects])
        )

    metric, null = METRICS[name](), NullSet({name: METRICS[name]}, lags=10)
    sizes = []
    for _ in range(5):
        metric.update(a, z)
        null.update(a, z)
        sizes.append((size(metric), size(null)))
    assert (
        max(abs(x / y - 1) for pair in sizes[2:] for x, y in zip(pair, sizes[2], strict=True)) < 0.2
    )


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
