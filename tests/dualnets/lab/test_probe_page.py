"""The tables of a probe by level, and its page."""

import numpy as np
import pandas as pd
import pytest

import hltm
from dualnets.lab.report.probe_page import by_level, numbered, overview, write
from hltm.probe import measure

TREES = hltm.symmetric_binary(depth=2, polarity=0.9, members=2, seed=0)


@pytest.fixture(scope="module")
def table():
    draw = TREES.sample(400, seed=1)
    a = draw.leaves.float()
    noise = np.random.default_rng(0).normal(size=a.shape)
    return measure({"a": a, "b": 2 * a}, TREES, draw=draw, lags=5, initial={"a": noise, "b": noise})


def test_means_are_of_one_level(table):
    short = by_level(table)
    assert list(short.columns) == [
        "layer", "metric", "level", "value", "null", "initial", "ceiling", "gap_closed", "note",
    ]  # fmt: skip
    own = table[(table["layer"] == "a") & (table["metric"] == "correlation")]
    row = short[(short["layer"] == "a") & (short["metric"] == "correlation")].set_index("level")
    assert row.index.tolist() == [2, 1]
    for level in (1, 2):
        assert row["value"][level] == pytest.approx(own[own["level"] == level]["value"].mean())
        sums = own[own["level"] == level][["value", "initial", "ceiling"]].sum()
        gap = (sums["value"] - sums["initial"]) / (sums["ceiling"] - sums["initial"])
        assert row["gap_closed"][level] == pytest.approx(gap, abs=1e-9)
        assert row["null"][level] == pytest.approx(own[own["level"] == level]["null"].mean())


def test_numbers_of_a_layer_stand_beneath_those_of_latents(table):
    short = by_level(table)
    for _, rows in short.groupby("layer"):
        whole = (rows["level"] < 0).tolist()
        assert whole == sorted(whole)
        assert rows[whole]["metric"].tolist()[-2:] == ["dead_units", "units_below_null"]
    shown, _ = numbered(short)
    assert shown[shown["metric"] == "dead_units"]["value"].tolist() == ["0", "0"]
    assert set(shown["level"]) == {"2", "1", ""}


def test_notes_are_numbered_once(table):
    short = by_level(table)
    shown, notes = numbered(short)
    assert len(set(notes)) == len(notes) > 1
    for note, mark in zip(short["note"], shown["note"], strict=True):
        assert mark == (str(notes.index(note) + 1) if note else "")
    assert "note" not in numbered(short[short["note"] == ""])[0]


def test_an_overview_has_one_metric_of_all_layers(table):
    first = overview(by_level(table))
    assert first["layer"].tolist() == ["a", "a", "b", "b"]
    assert "metric" not in first


@pytest.mark.parametrize("layers", [2, 6])
def test_a_page_has_a_part_for_each_layer(table, tmp_path, layers):
    names = [f"a{at}" for at in range(layers)]
    parts = [table[table["layer"] == "a"].assign(layer=name) for name in names]
    pictures = {name: tmp_path / f"{name}.png" for name in names}
    for path in pictures.values():
        path.write_bytes(b"picture")
    write(tmp_path / "index.html", pd.concat(parts), pictures, "a <tree>")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == layers
    assert page.count("<h2>Layer a") == layers
    assert page.count("<details>") == 1 + (layers if layers > 4 else 0)
    assert 'href="table.csv"' in page
    assert "a &lt;tree&gt;, n = 400 rows, 2 members" in page
    assert "gap closed" in page
    assert "http" not in page  # nothing is loaded from elsewhere
