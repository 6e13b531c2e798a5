"""Files of an export as other programs read them; the manifest and the card."""

import json

import numpy as np
import pytest
from exports import SETTINGS, TREE

import hltm
from hltm._paths import checksum


def test_the_manifest_has_the_origin_of_everything(tmp_path):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, **SETTINGS)
    manifest = json.loads((out / "manifest.json").read_text())
    # those of version 1 alone, so that exports without missing leaves keep every byte
    assert list(manifest) == [
        "format", "version", "hltm", "complete", "file_format", "draw_format", "seed", "stream",
        "start", "n", "views", "augmentation", "leaves", "latents", "rows_per_shard", "tree", "shards",
    ]  # fmt: skip
    assert list(manifest["augmentation"]) == ["name", "rates"]
    assert manifest["draw_format"] == hltm.DRAW_FORMAT
    assert manifest["hltm"] == hltm.__version__
    assert manifest["stream"] == "data"
    assert manifest["complete"] is True
    assert manifest["augmentation"]["rates"] == SETTINGS["augment"].rates(TREE).tolist()
    assert manifest["leaves"] == [str(v) for v in range(7, 15)]
    shards = manifest["shards"]
    assert [(s["start"], s["rows"]) for s in shards] == [
        (77, 300),
        (377, 300),
        (677, 300),
        (977, 100),
    ]
    for entry in shards:
        assert entry["sha256"] == checksum(out / entry["file"])
    TREE.save(tmp_path / "tree.json")
    assert manifest["tree"] == json.loads((tmp_path / "tree.json").read_text())


def test_parquet_reaches_the_entropy_of_random_bits(tmp_path):
    tree = hltm.symmetric_binary(depth=5, polarity=0.0, seed=0)
    hltm.export(tree, tmp_path / "out", 1 << 16, seed=0, format="parquet")
    size = next((tmp_path / "out/data").iterdir()).stat().st_size
    assert size < 1.15 * 63 * (1 << 16) / 8


def test_pandas_reads_parquet_as_it_is(tmp_path):
    import pandas as pd

    hltm.export(TREE, tmp_path / "out", 1000, format="parquet", **SETTINGS)
    table = pd.concat([pd.read_parquet(path) for path in sorted((tmp_path / "out/data").iterdir())])
    assert list(table) == ["row", "leaves", "latents", "view_1", "view_2"]
    draw = TREE.sample(1000, seed=5, start=77)
    assert table["row"].tolist() == list(range(77, 1077))
    assert np.array_equal(np.stack(table["leaves"]), draw.leaves)
    assert table["leaves"].iloc[0].dtype == np.uint8


@pytest.mark.filterwarnings("ignore")  # of the other library
def test_hugging_face_datasets_load_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, format="huggingface", **SETTINGS)
    files = [str(path) for path in sorted((out / "data").iterdir())]
    arguments = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    rows = datasets.load_dataset("parquet", data_files=files, **arguments)
    draw = TREE.sample(1000, seed=5, start=77)
    assert np.array_equal(np.array(rows["leaves"]), draw.leaves)
    assert rows["row"][:2] == [77, 78]
    by_card = datasets.load_dataset(str(out), **arguments)  # the card has the paths of the data
    assert by_card.column_names == ["row", "leaves", "latents", "view_1", "view_2"]
    assert np.array_equal(np.array(by_card["view_1"]), np.array(rows["view_1"]))


def test_the_card_has_the_generators_settings(tmp_path):
    hltm.export(TREE, tmp_path / "out", 1000, format="huggingface", **SETTINGS)
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\n")
    for setting in (
        "data/*.parquet",
        "77..1,076 of seed 5",
        "resample-leaves:0.4",
        "15 nodes, 8 leaves",
    ):
        assert setting in card
