"""Notebooks run from top to bottom, cell after cell, in one namespace."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    cells = json.loads(path.read_text())["cells"]
    code = [
        "".join(line for line in cell["source"] if not line.startswith("%"))  # no magics here
        for cell in cells
        if cell["cell_type"] == "code"
    ]
    assert code
    for i, text in enumerate(code):
        exec(compile(text, f"{path.name}, cell {i}", "exec"), names)
    if "found" not in names:  # the notebook has assertions of its own
        return
    found = names["found"]
    assert (found["value"] > found["untrained"]).all()
    assert (found["value"] < found["ceiling"]).all()
    assert (found["value"] > 3 * found["null"]).all()
