"""One tidy table over stored runs."""

import re
import shutil
import textwrap

import pandas as pd
import pytest
from made_up_runs import edit, store_run

import dualnets
from dualnets.lab.store import RENAMED
from dualnets.lab.stored_runs import find_runs


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Three runs of two experiments, of which two share a cell: do not change them."""
    out = tmp_path_factory.mktemp("runs")
    store_run(out, "losses", day=2, only=["simple"], value=0.25)
    store_run(out, "losses", day=1, only=["simple", "triplet"], value=0.5)
    store_run(out, "supervised", day=3, value=0.75, steps=[7])
    return out


@pytest.fixture
def copied(stored, tmp_path):
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_every_row_of_every_run_is_there_from_old_to_new(stored):
    table = dualnets.results(stored)
    runs = find_runs(stored)[::-1]
    assert table["run"].drop_duplicates().tolist() == [run.name for run in runs]
    parts = [pd.read_parquet(run.folder / "results.parquet") for run in runs]
    assert len(table) == sum(map(len, parts))
    for name in ("cell", "member", "step", "level", "node", "metric", "value"):
        assert table[name].tolist() == [value for part in parts for value in part[name]]
    assert table["date"].iloc[0] == pd.Timestamp("2026-11-01T05:30:00Z")
    assert set(table["scale"]) == {"smoke"}


def test_settings_that_vary_stand_behind_the_run_and_no_others(stored):
    table = dualnets.results(stored)
    columns = list(table.columns)
    assert columns[:4] == ["experiment", "run", "date", "scale"]
    settings = columns[4 : columns.index("cell")]
    every = [own for run in find_runs(stored) for own in run.settings]
    varying = {n for n in {*every[0]} if len({str(own.get(n)) for own in every}) > 1}
    assert {"variant", "loss", "steps", "method"} <= varying
    assert set(settings) == varying
    by_cell = {c["cell"]: c["settings"] for run in find_runs(stored) for c in run.manifest["cells"]}
    for name in ("variant", "steps", "lr", "loss"):
        assert table[name].tolist() == [by_cell[cell][name] for cell in table["cell"]]
    one = dualnets.results(stored, "supervised")
    assert set(one["experiment"]) == {"supervised"}
    assert "steps" not in one
    assert "depth" not in table


def test_texts_take_little_memory_and_numbers_are_numbers(stored):
    table = dualnets.results(stored)
    for name in ("experiment", "run", "scale", "variant", "loss", "cell", "node", "metric"):
        assert isinstance(table[name].dtype, pd.CategoricalDtype)
    assert table["lr"].dtype == "float64"
    assert table["steps"].dtype == "int64"


def test_a_damaged_run_is_left_out_with_one_warning(copied):
    newest, older, oldest = find_runs(copied)
    (newest.folder / "manifest.json").write_text("{")
    content = (older.folder / "results.parquet").read_bytes()
    (older.folder / "results.parquet").write_bytes(
        content[:4] + b"x" * (len(content) - 12) + content[-8:]
    )
    with pytest.warns(UserWarning, match="is left out") as seen:
        table = dualnets.results(copied)
    assert len(seen) == 2
    assert f"{newest.folder} is left out: manifest.json is no JSON" in str(seen[0].message)
    assert f"{older.folder} is left out: results.parquet: " in str(seen[1].message)
    assert set(table["run"]) == {oldest.name}
    assert all(warning.filename == __file__ for warning in seen)


def test_a_folder_without_runs_gives_a_table_without_rows(tmp_path):
    table = dualnets.results(tmp_path)
    assert list(table.columns) == ["experiment", "run", "date", "scale"]
    assert len(table) == 0
    assert len(dualnets.results(tmp_path, "byol-target")) == 0
    with pytest.raises(ValueError, match="none does not exist"):
        dualnets.results(tmp_path / "none")
    with pytest.raises(ValueError, match=r"unknown experiment 'loses' \(did you mean losses\?\)"):
        dualnets.results(tmp_path, "loses")


def test_runs_of_earlier_versions_are_read_with_the_names_of_today(copied):
    newest, *_ = find_runs(copied)
    manifest = newest.folder / "manifest.json"
    cells = newest.manifest["cells"]
    for at, cell in enumerate(cells):
        cell["settings"]["target_momentum"] = cell["settings"].pop("ema_decay")
        cell["settings"].pop("precision")  # added later
        cell["settings"]["network"] = "wrong-tree" if at else "tree"
    edit(manifest, cells=cells)
    rows = pd.read_parquet(newest.folder / "results.parquet")
    rows["metric"] = rows["metric"].replace({"correlation": "best_abs_correlation"})
    rows.assign(target_momentum=0.99, precision="x").to_parquet(newest.folder / "results.parquet")
    table = dualnets.results(copied)
    assert {"target_momentum", "ema_decay", "precision"}.isdisjoint(table.columns)
    assert set(table["network"]) == {"tree", "shuffled-tree"}
    assert set(table["metric"].cat.categories) == {"correlation", "spread"}
    assert not RENAMED.keys() & set(table["metric"])


def test_an_experiment_that_is_gone_is_read_as_it_was(copied):
    shutil.move(copied / "supervised", copied / "gone")
    (run,) = (run for run in find_runs(copied) if run.experiment == "gone")
    edit(run.folder / "manifest.json", experiment="gone")
    table = dualnets.results(copied, "gone")
    assert len(table) == 4 * 24
    assert set(table["experiment"]) == {"gone"}


def test_columns_of_other_kinds_stand_beside_each_other(copied):
    newest, *_ = find_runs(copied)
    rows = pd.read_parquet(newest.folder / "results.parquet")
    rows.assign(node=7, extra=True, level="top").to_parquet(newest.folder / "results.parquet")
    table = dualnets.results(copied)
    mine = table["run"] == newest.name
    assert set(table["node"][mine]) == {"7"}
    assert set(table["level"]) == {"top", "1"}
    assert table["extra"][mine].all()
    assert table["extra"][~mine].isna().all()


def test_duckdb_queries_it_as_the_documentation_says(stored):
    duckdb = pytest.importorskip("duckdb")
    query = re.search(r"duckdb\.sql\('''(.*?)'''\)", dualnets.results.__doc__, re.DOTALL)[1]
    runs = dualnets.results(stored)  # the query names it
    found = duckdb.sql(textwrap.dedent(query)).df()
    assert list(found.columns) == ["run", "variant", "correlation"]
    rows = runs[(runs["metric"] == "correlation") & (runs["experiment"] == "losses")]
    means = rows.groupby(["run", "variant"], observed=True)["value"].mean()
    assert found.set_index(["run", "variant"])["correlation"].to_dict() == pytest.approx(
        means.to_dict()
    )
    assert found["correlation"].is_monotonic_decreasing


@pytest.mark.parametrize("column", ["cell", "metric"])
def test_a_table_whose_cells_or_metrics_are_numbers_is_left_out(copied, column):
    path = find_runs(copied)[0].folder / "results.parquet"
    pd.read_parquet(path).assign(**{column: 1.5}).to_parquet(path)
    with pytest.warns(UserWarning, match="its cells or metrics are no names"):
        assert path.parent.name not in {*dualnets.results(copied)["run"]}
