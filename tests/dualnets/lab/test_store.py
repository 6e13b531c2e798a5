"""Results appear whole or not at all."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dualnets._files import replace_folder
from dualnets.lab.store import RENAMED, Store, identity, versions

MANIFEST = {"cell": "abc", "settings": {}, "seconds": 1.0}
TABLE = pd.DataFrame({"value": [1.0, 2.0]})


def write(target, text, error=None):
    with replace_folder(target) as folder:
        (folder / "file").write_text(text)
        if error is not None:
            raise error


def test_a_cell_is_read_back(tmp_path):
    store = Store(tmp_path, "emergence")
    weights = {"weights.0": torch.arange(6.0).view(2, 3).T}
    store.write_cell("abc", TABLE, MANIFEST | {"bad": float("nan")}, {"final": weights})
    table, manifest = store.read_cell("abc")
    assert table.equals(TABLE)
    assert {n: v for n, v in manifest.items() if "checksum" not in n} == MANIFEST | {"bad": None}
    found = load_file(store.cell("abc") / "networks" / "final.safetensors")
    assert found["weights.0"].equal(weights["weights.0"])


def test_metrics_of_earlier_versions_have_the_names_of_today(tmp_path):
    store = Store(tmp_path, "emergence")
    store.write_cell("abc", pd.DataFrame({"metric": [*RENAMED, "spread"]}), MANIFEST, {})
    table, _ = store.read_cell("abc")
    assert table["metric"].tolist() == [*RENAMED.values(), "spread"]
    assert not set(RENAMED) & set(RENAMED.values())


def test_a_failure_while_writing_leaves_nothing_and_keeps_the_old(tmp_path):
    target = tmp_path / "cell"
    with pytest.raises(KeyboardInterrupt):
        write(target, "half", KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []
    write(target, "old")
    with pytest.raises(RuntimeError):
        write(target, "new", RuntimeError)
    assert (target / "file").read_text() == "old"
    write(target, "new")
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


def test_a_cell_without_its_manifest_does_not_count(tmp_path):
    store = Store(tmp_path, "emergence")
    store.cell("abc").mkdir(parents=True)
    assert not store.has_cell("abc")


def test_equal_settings_have_equal_names():
    assert identity("e", 1, {"a": 1, "b": 2.5}) == identity("e", 1, {"b": 2.5, "a": 1})
    assert identity("e", 1, {"a": 1}) != identity("e", 2, {"a": 1})


def test_an_unwritable_folder_is_refused_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*file"):
        Store(tmp_path / "file", "emergence").check_writable()


def test_versions_say_what_made_a_result():
    found = versions()
    assert found["draw_format"] == "1"
    assert found["torch"]
    assert json.dumps(found)


def test_a_path_that_is_no_utf_8_is_refused_before_any_work(tmp_path):
    with pytest.raises(OSError, match=r"\\udcff/losses: its name is no UTF-8"):
        Store(tmp_path / "\udcff", "losses").check_writable()
