"""The heatmap of units by latents: its order, its marks, and what it refuses."""

import io

import numpy as np
import pytest
import torch

import hltm
from hltm.probe import heatmap_figure, probe_layers
from hltm.probe.heatmap import sorted_units

TREE = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.9), seed=0)
DRAW = TREE.sample(2000, seed=1)
Z = DRAW.states[:, :7].float()
ORDER = [4, 0, 6, 2, 5, 1, 3]  # unit i follows latent ORDER[i]


def layer(lags=20, **more):
    noise = torch.randn(2000, 7, generator=torch.Generator().manual_seed(0))
    a = torch.cat([Z[:, ORDER] + 0.3 * noise, torch.ones(2000, 1)], dim=1)
    return probe_layers({"h": a}, TREE, draw=DRAW, lags=lags, **more)["h"]


def drawn(figure):
    """The picture as it is saved, and its two panels."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        assert len(file.getvalue()) > 5000
    above, main = figure.axes[:2]
    return above, main


def test_units_make_a_staircase_and_the_dead_come_last():
    found = layer()
    _, main = drawn(heatmap_figure(found, TREE))
    labels = [text.get_text() for text in main.get_yticklabels()]
    assert labels == [str(ORDER.index(t)) for t in range(7)] + ["7 dead"]
    shown = np.asarray(main.images[0].get_array())
    assert shown.argmax(-1)[:7].tolist() == list(range(7))
    assert (shown[7] == 0).all()
    frames = sorted((round(p.get_x() + 0.5), round(p.get_y() + 0.5)) for p in main.patches)
    assert frames == [(t, t) for t in range(7)]
    assert [text.get_text() for text in main.get_xticklabels()] == list(TREE.topology.names[:7])
    assert len(main.lines) == 2  # between three levels


def test_ceiling_and_null_are_marked():
    found = layer()
    above, _ = drawn(heatmap_figure(found, TREE))
    bars = [patch.get_height() for patch in above.patches]
    assert np.allclose(bars, found.scores["correlation"].best[0])
    ceiling, null = (np.array(lines.get_segments())[:, 0, 1] for lines in above.collections)
    assert np.allclose(ceiling, TREE.ceiling(range(7), leaves="all").value)
    assert np.allclose(null, found.scores["correlation"].null[0])
    without, _ = drawn(heatmap_figure(layer(lags=0), TREE))
    assert len(without.collections) == 1


@pytest.mark.parametrize("metric", ["selectivity", "roc_auc", "mutual_information"])
def test_every_metric_can_be_shown(metric):
    found = layer(lags=0, metrics=["correlation", metric])
    above, main = drawn(heatmap_figure(found, TREE, metric=metric, title="mine"))
    assert np.allclose(
        np.sort(np.asarray(main.images[0].get_array()), axis=None),
        np.sort(found.scores[metric].strength[0].numpy(), axis=None),
    )
    assert len(above.collections) == 1  # all have a ceiling


def test_blocks_of_an_ensemble():
    trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
    draw = trees.sample(1000, seed=1)
    a = draw.level(2).float()[..., None] + torch.randn(2, 1000, 2, 3)
    found = probe_layers(a, trees, draw=draw, lags=0)[2]
    _, main = drawn(heatmap_figure(found, trees, member=1))
    labels = [text.get_text() for text in main.get_yticklabels()]
    assert sorted(labels) == ["1:0", "1:1", "1:2", "2:0", "2:1", "2:2"]


def test_too_many_units_go_without_names():
    a = torch.randn(2000, 100)
    found = probe_layers(a, TREE, draw=DRAW, lags=0)["activations"]
    _, main = drawn(heatmap_figure(found, TREE))
    assert len(main.get_yticks()) == 0


def test_order_of_units():
    strength = np.array([[0.1, 0.9], [0.5, 0.2], [0.0, 0.0], [0.7, 0.1]])
    dead = np.array([False, False, True, False])
    assert sorted_units(strength, dead).tolist() == [3, 1, 0, 2]


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="no metric 'accuracy', expected correlation, selectivity"):
        heatmap_figure(layer(lags=0), TREE, metric="accuracy")
    with pytest.raises(ValueError, match=r"member must be in 0\.\.0, got 1"):
        heatmap_figure(layer(lags=0), TREE, member=1)
