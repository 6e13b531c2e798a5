"""Receivers of the progress of a run: one's own, several at once, and TensorBoard."""

import contextlib
import dataclasses
import inspect
import re
import sys
import textwrap
import types

import pandas as pd
import pytest
from tiny_runs import blank_figures, tiny_run

import dualnets
from dualnets import experiments
from dualnets.lab.reporter import Reporters, as_reporter
from dualnets.lab.tensorboard import TensorBoardReporter

EMERGENCE = experiments.load("emergence")
CELL = {"variant": "wide", "lr": 0.5}
ROWS = pd.DataFrame({
    "metric": ["correlation"] * 4, "level": [1, 1, 2, 2], "step": [0, 10, 0, 10],
    "value": [0.25, 0.75, 0.5, 1.0],
})  # fmt: skip


class Recorder(dualnets.Reporter):
    """Keeps everything that it receives."""

    def __init__(self):
        self.seen = []

    def plan(self, cells, stored):
        self.seen.append(("plan", len(cells), stored))

    def cell_started(self, settings, steps):
        self.seen.append(("started", settings["units"], steps))
        listener = dualnets.ProgressListener()
        listener.probed = lambda step, found: self.seen.append(("probed", step, sorted(found)))
        listener.updated = lambda steps: self.seen.append(("updated", steps))
        return listener

    def cell_done(self, settings, table, seconds):
        self.seen.append(("done", settings["units"], len(table) > 0))

    def run_done(self, run):
        self.seen.append(("run", run.name, run.reused))


def test_all_of_several_reporters_receive_the_whole_run(tmp_path):
    first, second = Recorder(), Recorder()
    with blank_figures("emergence"):
        run = tiny_run(tmp_path, reporter=[first, second], network="mlp", units=[3, 5])
    assert first.seen == second.seen
    kinds = [entry[0] for entry in first.seen]
    assert kinds[0] == "plan"
    assert kinds[-1] == "run"
    assert first.seen[0] == ("plan", len(run.table["cell"].unique()), 0)
    assert kinds.count("started") == kinds.count("done") == first.seen[0][1]
    assert first.seen[-1] == ("run", run.name, False)
    assert ("probed", 20, [1, 2]) in first.seen
    updates = [entry[1] for entry in first.seen if entry[0] == "updated"]
    assert sum(updates) == 20 * first.seen[0][1]
    again = Recorder()
    tiny_run(tmp_path, reporter=again, network="mlp", units=[3, 5])
    assert again.seen == [("run", run.name, True)]


@pytest.mark.parametrize("given", [3, "tensorboard", [dualnets.Reporter], [None], print])
def test_what_is_no_reporter_is_refused_before_any_work(tmp_path, given):
    with pytest.raises(
        ValueError, match=r"reporter must be a dualnets\.Reporter or a list of them"
    ):
        dualnets.run("emergence", out=tmp_path / "new", reporter=given)
    assert not (tmp_path / "new").exists()


def test_no_reporter_and_an_empty_list_ignore_everything():
    for given in (None, []):
        reporter = as_reporter(given)
        reporter.plan([], 0)
        reporter.cell_started({}, 3).updated(1)


def documented(name):
    """The class of the docstring of `Reporter`, and the module that it uses, which records its calls."""
    text = inspect.getdoc(dualnets.Reporter)
    code = text[text.index(f"    class {name}") :].partition("\n\n    dualnets.run")[0]
    code = re.split(r"\n\n(?=\S)", code)[0]  # up to the next paragraph
    module = name.removeprefix("To").lower()
    names = {"dualnets": dualnets, module: types.SimpleNamespace()}
    exec(textwrap.dedent(code), names)
    return names[name](), names[module]


def test_the_documented_reporter_for_weights_and_biases_works():
    reporter, wandb = documented("ToWandb")
    logged = []
    own = types.SimpleNamespace(log=lambda values, step: logged.append((values, step)),
                                finish=lambda: logged.append("finished"))  # fmt: skip
    wandb.init = lambda **options: logged.append(options["config"]) or own
    reporter.plan([CELL], 0)
    assert isinstance(reporter.cell_started(CELL, 10), dualnets.ProgressListener)
    reporter.cell_done(CELL, ROWS, 1.0)
    assert logged == [CELL, ({"correlation": 0.375}, 0), ({"correlation": 0.875}, 10), "finished"]


def test_the_documented_reporter_for_mlflow_works():
    reporter, mlflow = documented("ToMlflow")
    logged = []
    mlflow.start_run = lambda run_name: contextlib.nullcontext(logged.append(run_name))
    mlflow.log_params = logged.append
    mlflow.log_metric = lambda name, value, step: logged.append((name, value, step))
    reporter.cell_started(CELL, 10).updated(1)
    reporter.cell_done(CELL, ROWS, 1.0)
    assert logged == [
        "wide", CELL, ("correlation/level_1", 0.25, 0), ("correlation/level_1", 0.75, 10),
        ("correlation/level_2", 0.5, 0), ("correlation/level_2", 1.0, 10),
    ]  # fmt: skip


def scalars(folder):
    """Tag -> [(step, value)] of the event files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


@pytest.mark.slow
def test_tensorboard_has_the_curves_of_every_cell(tmp_path):
    pytest.importorskip("tensorboard")
    recorder = Recorder()
    reporter = TensorBoardReporter(tmp_path, EMERGENCE)
    with blank_figures("emergence"):
        run = tiny_run(tmp_path, reporter=[reporter, recorder], network="mlp", units=[3])
    folders = sorted((tmp_path / "emergence" / "tensorboard").iterdir())
    cells = run.table.drop_duplicates("cell")["cell"].tolist()
    assert sorted(folder.name[-12:] for folder in folders) == sorted(cells)
    for folder in folders:
        found = scalars(folder)
        assert found["training/level_1"][-1][0] == 20
        rows = run.table[run.table["cell"] == folder.name[-12:]]
        means = rows.dropna(subset=["value"]).groupby(["metric", "level", "step"])["value"].mean()
        assert {tag for tag in found if "training" not in tag} == {
            f"{metric}/level_{level}" for metric, level, _ in means.index
        }
        curve = means["correlation"][2]
        assert found["correlation/level_2"] == [
            (step, pytest.approx(value)) for step, value in curve.items()
        ]


def test_cells_that_were_stored_before_follow_at_the_end(tmp_path, stored):
    pytest.importorskip("tensorboard")
    run = stored[0]
    for _ in range(2):  # once is enough
        TensorBoardReporter(tmp_path, EMERGENCE).run_done(run)
        folders = sorted((tmp_path / "emergence" / "tensorboard").iterdir())
    assert sorted(f.name[-12:] for f in folders) == sorted(run.table["cell"].unique())
    assert all("network=" in f.name and "units=" in f.name for f in folders)
    assert all(len(list(f.iterdir())) == 1 for f in folders)
    rows = run.table[run.table["cell"] == folders[0].name[-12:]]
    first = rows[(rows["metric"] == "correlation") & (rows["level"] == 1)]
    assert scalars(folders[0])["correlation/level_1"] == [
        (step, pytest.approx(value))
        for step, value in first.groupby("step")["value"].mean().items()
    ]


def test_a_cell_that_is_computed_again_replaces_its_curves(tmp_path):
    pytest.importorskip("tensorboard")
    settings = dataclasses.asdict(EMERGENCE.Settings())
    for shift in (0.0, 0.125):
        reporter = TensorBoardReporter(tmp_path, EMERGENCE)
        reporter.plan([settings], 0)
        reporter.cell_started(settings, 10).probed(0, {1: shift})
        reporter.cell_done(settings, ROWS.assign(value=ROWS["value"] + shift), 1.0)
    (folder,) = (tmp_path / "emergence" / "tensorboard").iterdir()
    assert scalars(folder)["correlation/level_1"] == [(0, 0.375), (10, 0.875)]


def test_names_of_folders_are_plain_whatever_varies(tmp_path):
    pytest.importorskip("tensorboard")
    losses = experiments.load("losses")
    cells = [{**vars(losses.Settings()), "variant": name} for name in ("a/../b [c]\n", "w" * 300)]
    reporter = TensorBoardReporter(tmp_path, losses)
    reporter.plan(cells, 0)
    for settings in cells:
        reporter.cell_started(settings, 1)
        reporter.cell_done(settings, pd.DataFrame({"other": [1]}), 1.0)
    names = sorted(path.name for path in (tmp_path / "losses" / "tensorboard").iterdir())
    assert [re.sub("[0-9a-f]{12}$", "", name) for name in names] == [
        "variant=a_.._b_c_-", f"variant={'w' * 72}-",
    ]  # fmt: skip


def test_without_tensorboard_one_line_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("dualnets.lab.tensorboard.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        TensorBoardReporter(tmp_path, EMERGENCE)


def test_reporters_of_reporters_pass_everything_on():
    recorder = Recorder()
    Reporters([Reporters([recorder])]).cell_started({"units": 3}, 4).updated(2)
    assert recorder.seen == [("started", 3, 4), ("updated", 2)]
