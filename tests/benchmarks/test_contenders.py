"""The contenders of the training benchmark compute the same steps, and its tables show what was measured."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OPTIMIZERS = ("sgd", "adamw", "lars")


@pytest.fixture(autouse=True)
def found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.slow
def test_modules_in_a_loop_train_as_ours():
    from contenders.rates import disagreement

    assert disagreement(["modules"], "byol", "sgd") < 1e-6


@pytest.mark.slow
def test_a_contender_that_trains_otherwise_is_refused(monkeypatch):
    from contenders.modules import Member
    from contenders.rates import disagreement

    monkeypatch.setattr(Member, "move", lambda *_: None)  # keys that do not follow
    with pytest.raises(RuntimeError, match=r"modules differs from ours by .*, moco"):
        disagreement(["modules"], "moco", "sgd")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_contenders_of_all_methods_train_as_ours(optimizer):
    from contenders.rates import disagreement
    from contenders.task import METHODS

    names = ["own", "modules"] + ["jax"] * (importlib.util.find_spec("jax") is not None)
    for method in METHODS:
        assert disagreement(names, method, optimizer) < 1e-5


@pytest.mark.slow
def test_products_of_a_step_are_counted():
    from contenders.rates import operations
    from contenders.task import BATCH, Task

    weights = [own[0].numel() for own in Task("simclr", "sgd", 1).network.weights]
    network = 2 * BATCH * (3 * sum(weights) - weights[0])  # of one view, forward and backward
    assert operations("simclr") == 3 * network
    keys = 2 * BATCH * sum(weights)
    assert operations("moco") == network + keys + 2 * 2 * BATCH * 1024 * 10


def test_saved_cells_become_tables(tmp_path):
    from contenders.tables import load, render, save

    common = {
        "optimizer": "sgd",
        "members": 1,
        "device": "cpu",
        "threads": 1,
        "matmul": 1e9,
        "versions": "",
    }
    rates = {"own": [40.0, 60.0, 50.0], "jax": [20.0, 20.0, 20.0]}
    cell = {"table": "peers", "rates": rates, "operations": 4e6, **common}
    for method, speed in (
        ("simclr", 1.0),
        ("vicreg", 0.5),
        ("vicreg", 0.25),
    ):  # the last one counts
        own = {name: [speed * rate for rate in each] for name, each in rates.items()}
        save(tmp_path / "cells", {**cell, "method": method, "rates": own})
    assert len(load([tmp_path / "cells"])) == 2
    before = [json.loads((tmp_path / "cells").read_text().splitlines()[1])]
    *_, first, second = render(load([tmp_path / "cells"]), before).splitlines()
    assert first == "| SimCLR, InfoNCE | sgd | 1 | 50 | 20 | 2.5 | 20.0% | 1.00 |  |  |"
    assert second == "| VICReg | sgd | 1 | 12 | 5 | 2.5 | 5.0% | 0.25 | 25 | 0.50 |"


def test_a_contender_is_timed_in_whole_calls():
    from contenders.rates import Contender, measure

    class Trainer:
        steps = 0

        def train(self, first_step, steps):
            assert first_step == self.steps
            self.steps += steps
            torch.ones(1)

        def check(self):
            assert self.steps > 0

    made = {"one": Contender(Trainer, 4, "cpu", seconds=1e-3)}
    rates = measure(made, repeats=2)
    assert len(rates["one"]) == 2
    assert min(rates["one"]) > 0
