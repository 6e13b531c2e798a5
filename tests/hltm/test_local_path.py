"""URLs are refused wherever a path is taken, and never become a folder of that name."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import dualnets
import hltm
from dualnets.cli import main
from hltm._paths import local_path, safetensors_errors

TREE = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
URLS = [
    "memory://x",
    "s3://bucket/x",
    "file:///tmp/x",
    "HTTPS://a.b/x",
    "git+ssh://h/x",
    "hf://d/x",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(
    "use",
    [
        lambda path: hltm.export(TREE, path, 5, seed=0),
        hltm.load,
        hltm.verify,
        TREE.save,
        hltm.load_tree,
        lambda path: dualnets.run("emergence", scale="smoke", out=path),
        dualnets.Checkpoints,
    ],
    ids=["export", "load", "verify", "save", "load_tree", "run", "Checkpoints"],
)
def test_a_url_is_refused_in_a_sentence(tmp_path, monkeypatch, url, kind, use):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="is a URL, expected a path on this machine: copy"
    ) as error:
        use(kind(url))
    assert len(str(error.value)) < 300
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "sample -n 10 {}",
        "sample --verify {}",
        "sample --tree {} -n 10 out",
        "run emergence --scale smoke --out {}",
        "claims --out {}",
        "claims --scale smoke --out {}",
        "probe --data {} --activations a.npz",
        "probe --tree {} --activations a.npz --rows 0:10",
        "probe --tree t.json --activations a.npz --rows 0:10 --out {}",
        "tree --picture {}.png",
    ],
)
def test_every_command_refuses_it(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main(command.format("s3://bucket/x").split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "'s3://bucket/x" in printed.err
    assert "is a URL" in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["a:b", "a/b:/c", "C:/x", "x//y", ":/x", "/tmp/s3://x", "out/", "1a://x"]
)
def test_other_paths_are_paths(path):
    assert local_path(path) == local_path(Path(path)) == Path(path)


def test_long_urls_are_cut():
    with pytest.raises(ValueError, match="…'") as error:
        local_path("s3://" + "x" * 5000)
    assert len(str(error.value)) < 300


def test_what_safetensors_meets_on_the_disk_is_an_os_error(tmp_path):
    """As a folder that is gone, or a full disk, which it reports by an error of its own."""
    path = tmp_path / "none" / "a.safetensors"
    with pytest.raises(FileNotFoundError) as caught, safetensors_errors(path):
        save_file({"a": np.zeros(3)}, path)
    assert caught.value.filename == str(path)
