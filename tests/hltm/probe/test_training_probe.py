"""Learning curves: what the table says, and that training stays what it would have been."""

import random
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import hltm
from hltm.probe import LearningCurves, TorchNetwork, measure

TREE = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
OPTIONS = {"samples": 400, "seed": 5, "lags": 20}


def made():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(6, 1)
    )


class Restless(nn.Module):
    """Draws random numbers of all kinds in evaluation, too, and counts its runs in a buffer."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x):
        self.runs += 1
        noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002
        return self.model(x) + 0 * noise


def trained(curves_of, steps=9):
    """The state of a model, its optimiser and all generators after some steps."""
    random.seed(1), np.random.seed(1)  # noqa: NPY002
    model = Restless(made())
    model.model[3].eval()  # a mode of its own
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    curves = curves_of(model)
    torch.manual_seed(2)
    with curves.watch(optimizer) if curves else torch.enable_grad():
        for step in range(steps):
            x = TREE.sample(32, seed=1, start=32 * step).leaves.float() + 0.1 * torch.randn(32, 4)
            optimizer.zero_grad()
            loss = model(x).square().mean()
            if curves and step == 5:
                curves.record(5.5)  # between forward and backward
            loss.backward()
            optimizer.step()
    modes = [part.training for part in model.modules()]
    kept = [*model.state_dict().values(), *(s["exp_avg"] for s in optimizer.state.values())]
    return kept, modes, (torch.rand(1).item(), random.random(), np.random.rand()), curves  # noqa: NPY002


def test_training_is_the_same_with_and_without_it():
    alone = trained(lambda model: None)
    probed = trained(
        lambda model: LearningCurves(model, TREE, layers=["model.4"], every=4, **OPTIONS)
    )
    assert all(a.equal(b) for a, b in zip(alone[0], probed[0], strict=True))
    assert alone[1:3] == probed[1:3]
    assert probed[3].table()["step"].unique().tolist() == [0, 4, 5.5, 8, 9]


def test_the_table_is_that_of_measure_step_by_step():
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    curves = LearningCurves(TorchNetwork(model, {"0": 1, "4": "out"}), TREE, every=1, **OPTIONS)
    expected = {}
    for step in (0, 3):
        curves.record(step)
        network = TorchNetwork(model, {"0": 1, "4": "out"})
        expected[step] = measure(network, TREE, details=False, **OPTIONS)
        model(TREE.sample(50, seed=1).leaves.float())[:, 0].var().neg().backward()
        optimizer.step()
    table = curves.table()
    assert list(table.columns) == [
        "member", "step", "layer", "level", "node", "metric", "value", "null", "initial", "ceiling",
        "gap_closed", "n",
    ]  # fmt: skip
    for step, own in expected.items():
        rows = table[table["step"] == step].reset_index(drop=True)
        for column in ("member", "layer", "level", "node", "metric", "n"):
            assert rows[column].tolist() == own[column].tolist()
        for column in ("value", "null", "ceiling"):
            assert np.allclose(rows[column], own[column], equal_nan=True)
        assert np.allclose(rows["initial"], expected[0]["value"], equal_nan=True)
    last = table[(table["step"] == 3) & (table["metric"] == "correlation")]
    gap = (last["value"] - last["initial"]) / (last["ceiling"] - last["initial"])
    assert np.allclose(last["gap_closed"], gap)
    assert (table["gap_closed"][table["step"] == 0].dropna() == 0).all()
    with pytest.raises(ValueError, match="step 3 is recorded, expected a later one, got 3"):
        curves.record(3)


def test_figures_have_a_panel_for_each_layer_or_level(monkeypatch):
    trees = hltm.symmetric_binary(depth=2, polarity=0.9, members=2, seed=0)
    curves = LearningCurves(made(), trees, layers={"0": "a$b", "4": "out"}, **OPTIONS)
    for step in (0, 10):
        curves.record(step)
    table = curves.table()
    rows = table[(table["metric"] == "correlation") & (table["level"] == 1)]
    by_layer = curves.figure()
    assert len(by_layer.axes) == 2
    lines = by_layer.axes[0].get_lines()
    shown = rows[rows["layer"] == "a$b"].groupby("step")[["value", "null", "ceiling"]].mean()
    for line, column in zip(lines, shown, strict=False):
        assert line.get_xdata().tolist() == [0, 10]
        assert np.allclose(line.get_ydata(), shown[column])
    assert (
        len(lines) == 2 * (3 + 2) + 2
    )  # value, null and ceiling; members; two lines of the legend
    by_layer.draw_without_rendering()
    assert len(curves.figure("correlation", by="level").axes) == 2
    monkeypatch.setattr("hltm.probe.training.COLUMNS_OF_PANELS", 1)
    wrapped = curves.figure()
    assert len(wrapped.axes) == 2
    assert wrapped.get_figheight() == 2 * by_layer.get_figheight()
    with pytest.raises(
        ValueError, match="no latent has the metric 'dead_units', expected one of corr"
    ):
        curves.figure("dead_units")
    with pytest.raises(ValueError, match="by must be 'layer' or 'level', got 'node'"):
        curves.figure(by="node")


def test_a_callback_of_lightning(monkeypatch):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    curves = LearningCurves(made(), TREE, layers=["0"], every=2, **OPTIONS)
    with pytest.raises(RuntimeError, match="import lightning or pytorch_lightning before"):
        curves.callback()
    fake = types.SimpleNamespace(Callback=type("Callback", (), {}))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", fake)
    callback = curves.callback()
    assert isinstance(callback, fake.Callback)
    callback.on_train_start("trainer", "module")
    for batch in range(3):
        callback.on_train_batch_end("trainer", "module", outputs=None, batch=None, batch_idx=batch)
    callback.on_train_end("trainer", "module")
    assert curves.table()["step"].unique().tolist() == [0, 2, 3]


def test_a_context_that_fails_records_nothing_more_and_leaves_no_hook():
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    curves = LearningCurves(model, TREE, layers=["0"], **OPTIONS)

    def failing():
        with curves.watch(optimizer):
            optimizer.step()
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    optimizer.step()
    assert curves.steps == 1
    assert curves.table()["step"].unique().tolist() == [0]


def test_what_is_refused():
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        LearningCurves(made(), TREE, every=0, seed=0)
    with pytest.raises(
        ValueError, match="a TorchNetwork has its own layers and encode, got layers="
    ):
        LearningCurves(TorchNetwork(made(), ["0"]), TREE, layers=["0"], seed=0)
    with pytest.raises(ValueError, match="layers and encode, got encode='signs'"):
        LearningCurves(TorchNetwork(made(), ["0"]), TREE, encode="signs", seed=0)
    assert LearningCurves(made(), TREE, encode="signs", seed=0).network.encode == "signs"
    with pytest.raises(ValueError, match="nothing is recorded"):
        LearningCurves(made(), TREE, seed=0).table()
