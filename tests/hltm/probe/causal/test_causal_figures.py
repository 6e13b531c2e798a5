"""Figures of patched runs and of interventions: what stands in them."""

import pandas as pd
import pytest
import torch
from torch import nn

import hltm
from hltm.probe import intervention_effect, intervention_figure, patch, patching_figure
from hltm.probe.causal.figures import CROSSED

TREE = hltm.symmetric_binary(depth=2, seed=0)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return hltm.probe.TorchNetwork(model, {"0": "$x", "1": "hidden"})


def test_latents_by_layers_with_numbers_and_crossed_cells():
    table = patch(network(), TREE, samples=60, seed=1, units=2, draws=3)
    figure = patching_figure(table, metric="own_change")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "2"]
    assert [t.get_text() for t in axes.get_yticklabels()] == [r"\$x", "hidden"]
    own = table[table.metric == "own_change"]
    assert axes.images[0].get_array().shape == (2, 3)
    assert float(axes.images[0].get_array()[1, 0]) == pytest.approx(
        own[own.layer == "hidden"].value.iloc[0]
    )
    crossed = [line for line in axes.lines if line.get_color() == CROSSED]
    assert len(crossed) == int((own.value <= own.null).sum())
    with pytest.raises(ValueError, match="no metric 'drop'"):
        patching_figure(table, metric="drop")


def test_means_over_members_and_blank_cells():
    table = pd.DataFrame({
        "member": [0, 1, 0, 1], "layer": [1, 1, 2, 2], "level": [1, 1, 2, 2], "node": ["a", "a", "r", "r"],
        "metric": "drop", "value": [0.2, 0.4, 0.5, 0.7], "null": 0.1, "ceiling": 1.0,
    })  # fmt: skip
    shown = patching_figure(table).axes[0].images[0].get_array()
    assert float(shown[0, 1]) == pytest.approx(0.3)
    image = patching_figure(table.assign(value=-table.value)).axes[0].images[0]
    assert image.get_clim() == (-1, 1)  # what counteracts has a colour of its own
    assert bool(torch.as_tensor(shown.data).isnan()[0, 0])


def test_effects_beside_selectivities():
    found = intervention_effect(network(), TREE, samples=100, seed=1).table
    figure = intervention_figure(found, layer="hidden")
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "0 (level 2)",
        "1 (level 1)",
        "2 (level 1)",
    ]
    points = figure.axes[0].collections[0].get_offsets()
    own = found[(found.layer == "hidden") & (found.node == "0") & (found.metric == "effect")]
    assert points[:, 1].tolist() == pytest.approx(own.value.abs().tolist())
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "ceiling",
        "effect on the parent's posterior",
    ]
    bounds = own.ceiling.iloc[0], found.value.abs().max()
    assert figure.axes[0].get_ylim()[1] > min(max(bounds), 2 * bounds[1])
    with pytest.raises(ValueError, match="no layer 'none'"):
        intervention_figure(found, layer="none")


def test_figures_take_results_and_name_other_tables():
    found = intervention_effect(network(), TREE, samples=100, seed=1)
    assert len(intervention_figure(found).axes) == len(intervention_figure(found.table).axes)
    with pytest.raises(ValueError, match="expected a table of patch or ablate, got a DataFrame"):
        patching_figure(found.table)
    for other in (found.layers, found.table[["layer"]]):
        with pytest.raises(ValueError, match="expected what intervention_effect returns"):
            intervention_figure(other)
    with pytest.raises(TypeError, match="expected a Layer, one of those that probe_layers returns"):
        hltm.probe.heatmap_figure(found.table, TREE)
