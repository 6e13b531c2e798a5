"""Cells in parallel: the same results as one after the other, failures reported, no process left."""

import json
import os
import threading

import pandas as pd
import pytest
import torch
from cells_elsewhere import die, fail, meet, report
from tiny_runs import blank_figures, tiny_run

from dualnets.lab import workers
from dualnets.lab.computing import _compile_kernels


def test_every_cell_is_done_and_reported():
    events = []
    cells = [("a",), ("bb",), ("ccc",)]
    workers.run(report, cells, 2, lambda at, kind, details: events.append((at, kind, details)))
    for at, (name,) in enumerate(cells):
        own = [(kind, details) for where, kind, details in events if where == at]
        assert own == [
            ("started", ()),
            ("updated", (len(name),)),
            ("probed", (3, {1: 0.5})),
            ("done", ()),
        ]


@pytest.mark.parametrize(
    ("work", "name", "error", "words"),
    [
        (fail, "refused", ValueError, "^no such luck$"),
        (fail, "failed", workers.WorkerError, "KeyError: 'no such luck'"),
        (die, "", workers.WorkerDiedError, "exit status -9"),
    ],
)
def test_a_cell_that_fails_ends_the_run_and_says_why(work, name, error, words):
    with pytest.raises(error, match=words):
        workers.run(work, [(name,)], 1, lambda *_: None)


def test_a_run_has_the_same_results_whatever_the_workers_and_cards(stored, tmp_path, monkeypatch):
    """The CPU by two of its names stands in for two cards."""
    monkeypatch.setattr(workers, "cards_of", lambda device: ["cpu", "cpu:0"])
    with blank_figures("emergence"):
        parallel = tiny_run(tmp_path, workers=2)
    manifest = json.loads((parallel.folder / "manifest.json").read_text())
    assert {cell["device"] for cell in manifest["cells"]} <= {"cpu", "cpu:0"}
    tables = [parallel.table, stored[0].table.copy()]  # other tests read the second, too
    # gap closed divides by what is left to the ceiling, where there may be little: rounding grows in it
    gaps = [table.pop("gap_closed") for table in tables]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-5)
    pd.testing.assert_series_equal(*gaps, check_exact=False, atol=1e-4)


def test_the_number_of_workers():
    cores = min(os.cpu_count(), workers.MAX_WORKERS)
    cards = ["cuda:0", "cuda:1", "cuda:2"]
    assert workers.worker_count(None, 100, ["cpu"], "default") == cores
    assert workers.worker_count(None, 1, ["cpu"], "default") == 1
    assert workers.worker_count(None, 100, ["cpu"], "smoke") == 1
    assert workers.worker_count(4, 0, ["cpu"], "default") == 1
    assert workers.worker_count(None, 100, cards, "default") == 3
    assert workers.worker_count(None, 2, cards, "default") == 2
    assert workers.worker_count(None, 100, ["cuda:1"], "default") == 1
    assert workers.worker_count(6, 100, cards, "default") == 6
    with pytest.raises(ValueError, match="at least 1, got -1"):
        workers.worker_count(-1, 3, ["cpu"], "default")


def test_cuda_without_a_number_is_all_cards(monkeypatch):
    cuda = torch.device("cuda")
    for count, expected in ((0, ["cuda"]), (1, ["cuda"]), (2, ["cuda:0", "cuda:1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert workers.cards_of(cuda) == expected
    assert workers.cards_of(torch.device("cuda:1")) == ["cuda:1"]
    assert workers.cards_of(torch.device("mps")) == ["mps"]


def test_every_card_takes_cells(tmp_path):
    cards = []
    workers.run(
        meet, [(str(tmp_path),)] * 2, 2,
        lambda at, kind, details: cards.extend(details if kind == "updated" else ()),
        ["cuda:0", "cuda:1"],
    )  # fmt: skip
    assert sorted(cards) == [0, 1]


def test_compiling_ahead_ends_with_the_run_and_leaves_errors_to_the_cells():
    class Settings:
        compiled = 0

        def compile_kernels(self):
            Settings.compiled += 1
            raise ValueError("refused")

    begun, over = threading.Event(), threading.Event()
    _compile_kernels([Settings()] * 2, 2, begun, over)
    assert Settings.compiled == 2
    ahead = threading.Thread(target=_compile_kernels, args=([Settings()] * 3, 2, begun, over))
    ahead.start()  # the third waits for a first cell
    over.set()  # as when a cell fails
    begun.set()
    ahead.join()
    assert Settings.compiled <= 4
