"""A user's metric works wherever the library's own do: table, null, matching, heatmap, blocks, members."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from made_up_units import noise_and_latents
from sklearn.feature_selection import mutual_info_classif

import hltm
from hltm.probe import METRICS, Correlation, Metric, heatmap_figure, measure, probe_layers
from hltm.probe.metric_kinds import metric_kinds
from hltm.probe.metrics.correlation_ratio import CorrelationRatio

TREES = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.95), members=2, seed=0)
TREE = TREES[0]
N = 1000
DRAW, DRAWS = TREE.sample(N, seed=1), TREES.sample(N, seed=1)


def pearson(activations, states):
    a = activations.double() - activations.double().mean(0)
    z = states.double() - states.double().mean(0)
    size = a.norm(dim=0)[:, None] * z.norm(dim=0)
    return torch.where(size > 0, a.T @ z / size, 0.0)


def strength(activations, states):
    return pearson(activations, states).abs()


class Covariance(Metric):
    def __init__(self):
        self.parts = []

    def update(self, activations, targets):
        self.parts.append((activations.double(), targets.double()))

    def result(self):
        a, z = (torch.cat(part, -1) for part in zip(*self.parts, strict=True))
        z = z - z.mean(-1, keepdim=True)
        return a @ z.mT / z.shape[-1]

    def strength(self):
        return self.result().abs()


def only(table, metric):
    return table[table["metric"] == metric].reset_index(drop=True)


@pytest.mark.parametrize("kind", ["shared", "blocks"])
def test_a_function_is_measured_as_the_metric_that_it_is(kind):
    """The same number by a plain function: every column but the null's chance and the ceiling agrees."""
    source = noise_and_latents(DRAWS)
    if kind == "blocks":
        noise = torch.randn(2, N, 4, 3, generator=torch.Generator().manual_seed(0))
        noise[..., 1] += DRAWS.level(1).float()
        source = {1: noise}
    options = {"draw": DRAWS, "lags": 39}
    mine = measure(source, TREES, metrics={"mine": strength}, **options)
    ours = measure(source, TREES, metrics="correlation", **options)
    assert len(mine) == len(ours)
    for metric in ("", "matched_"):
        a, b = only(mine, f"{metric}mine"), only(ours, f"{metric}correlation")
        for column in ("member", "layer", "level", "node", "candidates", "unit", "n"):
            assert a[column].equals(b[column])
        assert np.allclose(a["value"], b["value"], atol=1e-6)
        assert np.allclose(a["null"], b["null"], atol=1e-5)
        assert (a["note"] == "no ceiling is known of this metric").all()
    for metric in ("rival", "below_null", "units_below_null", "dead_units"):
        assert np.allclose(only(mine, metric)["value"], only(ours, metric)["value"], atol=1e-6)


def test_functions_classes_names_and_mappings_stand_side_by_side():
    source = noise_and_latents(DRAW)
    table = measure(
        source, TREE, draw=DRAW, metrics=["correlation", strength, Covariance], lags=19,
        initial=torch.randn(N, 3, generator=torch.Generator().manual_seed(0)),
    )  # fmt: skip
    scored = ["correlation", "strength", "covariance"]
    assert [m for m in table["metric"].unique() if m in scored] == scored
    rows = only(table, "covariance")
    assert np.allclose(rows["value"][1:], 0.25, atol=0.02)  # of a state with itself
    assert (rows["null"] < 0.07).all()
    assert (only(table, "strength")["initial"] < 0.2).all()
    figure = heatmap_figure(
        probe_layers(source, TREE, draw=DRAW, metrics={"mine": Covariance}, lags=0)["activations"],
        TREE,
    )
    assert figure.axes


def test_a_function_of_all_units_together_has_no_unit():
    def joint(activations, states):
        found = np.linalg.lstsq(activations.numpy(), states.double().numpy(), rcond=None)
        rest = states.numpy() - activations.numpy() @ found[0]
        return 1 - rest.var(0) / states.numpy().var(0)

    source = noise_and_latents(DRAW).double()
    asked = ["correlation", joint]
    table = measure(source, TREE, draw=DRAW, metrics=asked, lags=19, details=False)
    rows = only(table, "joint")
    assert np.allclose(rows["value"], 1)
    assert (rows["unit"] == -1).all()
    assert (rows["null"] < 0.1).all()
    first = measure(source, TREE, draw=DRAW, metrics=joint, lags=0)
    assert only(first, "rival")["value"].tolist() == [0.0] * 7  # no unit, so no rival
    assert only(first, "matched_joint").empty


def test_a_metric_of_another_library_has_a_null():
    def information(activations, states):
        columns = [
            mutual_info_classif(activations, z, random_state=0, n_neighbors=3) for z in states.T
        ]
        return np.stack(columns, 1)

    source = torch.cat([DRAW.leaves.float()[:, :2], torch.randn(N, 1)], 1)
    found = probe_layers(
        source[:300], TREE, draw=TREE.sample(300, seed=1), metrics=information, lags=5, nodes=[3]
    )
    score = found["activations"].scores["information"]
    assert score.unit.tolist() in ([[0]], [[1]])
    assert score.best.item() > score.null.item()
    assert score.units_below_null[0, 2] or score.strength[0, 2, 0] < 0.1


def test_a_subclass_of_a_metric_has_a_null_of_its_own():
    class Signed(Correlation):
        def strength(self):
            return self.result()

    noise = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    source = torch.cat([noise, -DRAW.states[:, :7].float()], 1)
    table = measure(source, TREE, draw=DRAW, metrics=[Signed, "correlation"], lags=99)
    mine, ours = only(table, "signed"), only(table, "correlation")
    assert (mine["value"] < 0.95).all()  # the copies have correlation -1
    assert np.allclose(ours["value"], 1)
    assert (mine["null"] < ours["null"]).all()  # of the largest of 11, not of the largest of 22


def test_results_of_another_shape_or_without_a_number_are_refused():
    a = noise_and_latents(DRAW)
    cases = [
        (lambda x, z: torch.zeros(3, 3), r"gave shape \(3, 3\) for 14 units and 7 latents"),
        (lambda x, z: 1.0, r"gave shape \(\) for 14 units"),
        (lambda x, z: torch.full((14, 7), math.nan), "gave nan for unit 0 and target 0"),
    ]
    for function, message in cases:
        with pytest.raises(ValueError, match=message):
            measure(a, TREE, draw=DRAW, metrics={"mine": function}, lags=0)


def test_what_is_no_metric_is_refused():
    def rival(activations, states):
        return activations.T @ states.double()

    cases = [
        ([], "metrics is empty"),
        (["accuracy"], "unknown metric 'accuracy', expected one of correlation,"),
        ([lambda a, z: a], "a function without a name needs one"),
        ([partial(rival)], "a function without a name needs one"),
        ([rival], "the table has another number named 'rival'"),
        ({"correlation": rival}, "the table has another number named 'correlation'"),
        ({"matched_mine": rival}, "the table has another number named 'matched_mine'"),
        (["correlation", Correlation], "two metrics are named 'correlation'"),
        ([3], "a metric must be a name, a subclass of Metric or a function, got 3"),
        ([Correlation()], "a metric must be a name, a subclass of Metric or a function"),
        ([dict], "a metric must be a name, a subclass of Metric or a function"),
        ({3: rival}, "a metric's name must be text, got 3"),
    ]
    for metrics, message in cases:
        with pytest.raises(ValueError, match=message):
            metric_kinds(metrics)


def test_metrics_are_named_as_they_are_known():
    assert metric_kinds([CorrelationRatio, Covariance]) == {
        "correlation_ratio": METRICS["correlation_ratio"], "covariance": Covariance,
    }  # fmt: skip
    assert list(metric_kinds("roc_auc")) == ["roc_auc"]
    assert list(metric_kinds({"mine": "roc_auc"})) == ["mine"]
