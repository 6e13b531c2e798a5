"""The heatmap of units by latents: its order, its marks, and what it refuses."""

import io

import numpy as np
import pytest
import torch
from few import few

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


def named(*names):
    """A binary tree of nodes with these names."""
    table = [[0.9, 0.1], [0.1, 0.9]]
    parents = [-1, 0, 0, 1, 1][: len(names)]
    return hltm.LatentTree.from_parents(
        parents, [[0.5, 0.5], *[table] * (len(names) - 1)], names=list(names)
    )


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


@pytest.mark.parametrize(
    "metric",
    [
        "selectivity",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("roc_auc", "mutual_information")),
    ],
)
def test_every_metric_can_be_shown(metric):
    found = layer(lags=0, metrics=["correlation", metric])
    above, main = drawn(heatmap_figure(found, TREE, metric=metric, title="mine"))
    assert np.allclose(
        np.sort(np.asarray(main.images[0].get_array()), axis=None),
        np.sort(found.scores[metric].strength[0].numpy(), axis=None),
    )
    assert len(above.collections) == (metric in found.ceilings)


def test_blocks_of_an_ensemble():
    trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
    draw = trees.sample(1000, seed=1)
    a = draw.level(2).float()[..., None] + torch.randn(2, 1000, 2, 3)
    found = probe_layers(a, trees, draw=draw, lags=0)[2]
    _, main = drawn(heatmap_figure(found, trees, member=1))
    labels = [text.get_text() for text in main.get_yticklabels()]
    assert sorted(labels) == ["1:0", "1:1", "1:2", "2:0", "2:1", "2:2"]


def test_of_many_units_those_that_matter_have_names():
    a = 0.1 * torch.randn(2000, 600, generator=torch.Generator().manual_seed(1))
    a[:, [100, 200, 300, 400]] += Z[:, :4]
    a[:, 500:] = 0
    found = probe_layers(a, TREE, draw=DRAW, lags=20, details=False)["activations"]
    figure = heatmap_figure(found, TREE)
    _, main = drawn(figure)
    names = [text.get_text() for text in main.get_yticklabels()]
    assert len(names) == 64
    assert names[:1] == ["100"]
    assert {"100", "200", "300", "400"} <= set(names)
    band = figure.axes[2]
    assert band.get_ylabel() == "536 other units,\n100 of them dead"
    assert len(band.images[0].get_array()) == 200
    assert figure.get_size_inches().max() < 11.7  # a page


def test_order_of_units():
    strength = np.array([[0.1, 0.9], [0.5, 0.2], [0.0, 0.0], [0.7, 0.1]])
    dead = np.array([False, False, True, False])
    assert sorted_units(strength, dead).tolist() == [3, 1, 0, 2]


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="no metric 'accuracy', expected correlation, selectivity"):
        heatmap_figure(layer(lags=0), TREE, metric="accuracy")
    with pytest.raises(ValueError, match=r"member must be in 0\.\.0, got 1"):
        heatmap_figure(layer(lags=0), TREE, member=1)


@pytest.mark.parametrize("name", few(["$\\frac{1$", "\\input{x}", "a\nb", "é_" * 150, "#%&{}^"], 2))
def test_names_are_text(name):
    import matplotlib as mpl

    tree = named(name, "b", "c", "d", "e")
    draw = tree.sample(300, seed=1)
    found = probe_layers({name: draw.leaves.float()}, tree, draw=draw, lags=5)[name]
    with mpl.rc_context({"text.usetex": True}):
        main = heatmap_figure(found, tree).axes[1]
    assert not main.get_xticklabels()[0].get_usetex()  # TeX is never asked to read a name
    figure = heatmap_figure(found, tree)
    _, main = drawn(figure)
    shown = main.get_xticklabels()[0].get_text()
    assert len(shown) <= 24
    assert shown[:5] == name.replace("\n", "\\n")[:5]
    assert figure.get_suptitle().startswith("layer ")
    assert "\n" not in figure.get_suptitle()


def test_a_function_of_all_units_together_has_one_line():
    def share(activations, states):
        return (activations.mean(-1)[:, None] * states).double().mean(0).abs()

    found = layer(lags=5, metrics=["correlation", share])
    _, main = drawn(heatmap_figure(found, TREE, metric="share"))
    assert [text.get_text() for text in main.get_yticklabels()] == ["all"]
    assert np.asarray(main.images[0].get_array()).shape == (1, 7)


def test_blocks_without_details_lie_along_the_diagonal():
    a = torch.randn(2000, 2, 40, generator=torch.Generator().manual_seed(2))
    found = probe_layers({2: a}, TREE, draw=DRAW, lags=5, details=False)[2]
    figure = heatmap_figure(found, TREE)
    _, main = drawn(figure)
    shown = np.asarray(main.images[0].get_array())
    assert shown.shape == (64, 2)
    assert np.isnan(shown).sum() == 64
    blocks = [text.get_text()[:2] for text in main.get_yticklabels()]
    assert blocks == sorted(blocks)
    assert set(blocks) == {"1:", "2:"}


def test_the_layer_of_another_tree_is_refused():
    other = named("x", "y", "z")
    draw = other.sample(100, seed=1)
    found = probe_layers(draw.leaves.float(), other, draw=draw, lags=5)["activations"]
    with pytest.raises(ValueError, match="measured on another tree"):
        heatmap_figure(found, TREE)
