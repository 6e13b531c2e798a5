"""The command `hltm probe`: activations and models of one's own, and how it refuses."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import hltm
from dualnets.cli import commands, main

TREE = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.95), seed=0)
SOURCE = """
import torch
def build():
    return torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
def sequence():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(2, 5), torch.nn.GRU(5, 6, batch_first=True))
def leaves():
    return torch.nn.Identity()
def mine(activations, states):
    return (activations.double().T @ states.double()).abs() / len(states)
def fails(activations, states):
    return activations.nothing
number = 3
def wrong():
    return 3
def elsewhere():
    import os
    os.chdir("/")
    return torch.nn.Identity()
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TREE.save("tree.json")
    (tmp_path / "probed_model.py").write_text(SOURCE)
    draw = TREE.sample(1000, seed=4, start=500)
    units = torch.cat([draw.states[:, :7].float(), torch.zeros(1000, 1)], dim=1)
    np.savez("acts.npz", **{"hidden": units.numpy(), "2": draw.level(2).float()[..., None].numpy()})
    return tmp_path


def run(capsys, *arguments):
    status = main(["probe", *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_it_is_a_command_with_a_line_of_help(capsys):
    assert commands()["probe"].startswith("Probe activations or a torch model")
    assert main(["probe", "--help"]) == 0
    assert "--activations FILE" in capsys.readouterr().out


def test_activations_are_held_against_their_own_rows(home, capsys):
    arguments = ("--activations", "acts.npz", "--tree", "tree.json", "--seed", "4")
    status, out, _ = run(
        capsys, *arguments, "--rows", "500:1500", "--lags", "20", "--out", "probed"
    )
    assert status == 0
    assert "layer hidden" in out
    assert "layer 2" in out
    table = pd.read_csv("probed/table.csv", dtype={"layer": str, "node": str})
    best = table[table["metric"] == "correlation"]
    assert np.allclose(best["value"], 1)
    assert len(best) == 7 + 2
    assert sorted(path.name for path in (home / "probed").iterdir()) == [
        "heatmap-2.png", "heatmap-hidden.png", "index.html", "table.csv",
    ]  # fmt: skip
    run(capsys, *arguments, "--rows", "0:1000", "--lags", "20", "--out", "other")
    other = pd.read_csv("other/table.csv")
    assert other[other["metric"] == "correlation"]["value"].max() < 0.3  # not their rows


def test_the_tree_of_another_programs_file(home, capsys):
    TREE.save("tree.bif")
    given = ("--activations", "acts.npz", "--seed", "4", "--rows", "500:1500", "--lags", "20")
    expected = run(capsys, *given, "--tree", "tree.json")
    assert run(capsys, *given, "--tree", "tree.bif") == expected
    status, _, err = run(capsys, *given, "--tree", "tree.bif", "--rate", "2")
    assert (status, err) == (2, "hltm: tree.bif: BIF has no option 'rate'; it has none\n")


def test_an_exported_folder_says_which_rows_and_which_tree(home, capsys):
    hltm.export(TREE, "data", 1000, seed=4, start=500, rows_per_shard=300)
    given = ("--activations", "acts.npz", "--data", "data", "--lags", "20", "--out", "probed")
    assert run(capsys, *given)[0] == 0
    table = pd.read_csv("probed/table.csv")
    assert np.allclose(table[table["metric"] == "correlation"]["value"], 1)
    page = (home / "probed" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "Layer hidden" in page
    assert "1.000" in page
    status, _, err = run(capsys, *given, "--tree", "tree.json")
    assert (status, err) == (2, "hltm: name either --tree or --data\n")
    status, _, err = run(capsys, *given, "--seed", "5")
    assert (status, err) == (2, "hltm: --seed 5 is not that of data, 4; leave it out\n")
    (home / "few.npy").touch()
    np.save("few.npy", TREE.sample(200, seed=4, start=600).states[:, :7].numpy())
    given = ("--activations", "few.npy", "--data", "data", "--lags", "5", "--seed", "4")
    assert run(capsys, *given, "--rows", "600:800")[0] == 0
    status, _, err = run(capsys, *given)
    assert status == 2
    assert "shape (200, 7), expected 1000 rows on axis 0: rows 500:1500" in err


def test_a_forgotten_seed_gets_a_hint(home, capsys):
    given = ("--activations", "acts.npz", "--tree", "tree.json", "--lags", "20")
    _, out, err = run(capsys, *given, "--rows", "500:1500")
    below = "hint: every latent is below its null"
    assert out.splitlines()[-1].startswith(
        f"{below}, and no --seed was given, so the rows are those"
    )
    assert err == ""
    _, out, _ = run(capsys, *given, "--rows", "500:1500", "--seed", "0")
    assert "no --seed" not in out
    assert out.splitlines()[-1].startswith(f"{below}: are the arrays of these rows, in this order")
    wide = np.random.default_rng(0).normal(size=(1000, 9))
    np.savez("wide.npz", **{f"layer{at}": wide + at for at in range(4)})  # 28 comparisons
    _, out, err = run(
        capsys, "--activations", "wide.npz", *given[2:], "--rows", "0:1000", "--seed", "1"
    )
    assert out.splitlines()[-1].startswith("hint: no unit of any layer follows a latent")
    assert err == ""


def test_the_untrained_network_stands_beside_the_trained(home, capsys):
    noise = np.random.default_rng(0).normal(size=(1000, 8))
    np.savez("before.npz", **{"hidden": noise, "2": noise[:, :2, None]})
    given = ("--activations", "acts.npz", "--tree", "tree.json", "--rows", "500:1500", "--lags", "20",
             "--seed", "4", "--initial")  # fmt: skip
    status, out, _ = run(capsys, *given, "before.npz", "--out", "probed")
    assert status == 0
    assert "hint" not in out
    assert "layers named by a level are compared with its latents alone: 2" in out
    assert "best units of layer hidden, by correlation" in out
    table = pd.read_csv("probed/table.csv", dtype={"layer": str, "node": str})
    best = table[table["metric"] == "correlation"]
    assert best["initial"].between(0, 0.2).all()
    assert (best["initial"] > 0).all()
    assert np.allclose(
        best["gap_closed"] * (best["ceiling"] - best["initial"]), 1 - best["initial"]
    )
    np.savez("before.npz", other=noise)
    status, _, err = run(capsys, *given, "before.npz")
    assert (status, err.count("\n")) == (2, 1)
    assert "the initial source has layers ['other'], expected" in err


def test_weights_before_and_after(home, capsys):
    nn = torch.nn
    model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    save_file(model.state_dict(), "w.safetensors")
    given = ("--model", "probed_model:net", "--weights", "w.safetensors", "--tree", "tree.json", "--layers",
             "0", "--samples", "200", "--lags", "5", "--out", "probed", "--initial")  # fmt: skip
    (home / "probed_model.py").write_text(f"{SOURCE}\nnet = build()\nnet[0].weight.data.zero_()\n")
    sys.modules.pop("probed_model", None)
    assert (
        run(capsys, *given, "none")[0] == 0
    )  # a module is changed by its weights: measured before
    table = pd.read_csv("probed/table.csv")
    best = table[table["metric"] == "correlation"]
    assert (best["initial"] == 0).all()
    assert (best["value"] > 0).all()


def test_an_axis_is_named_as_on_the_command_line(home, capsys):
    np.save("turned.npy", np.zeros((3, 1000)))
    given = (
        "--activations",
        "turned.npy",
        "--tree",
        "tree.json",
        "--rows",
        "0:1000",
        "--seed",
        "4",
    )
    status, _, err = run(capsys, *given)
    assert status == 2
    assert "if axis 1 is that of the rows, give --batch-axis 1" in err


def test_layers_of_a_file_are_chosen_in_order(home, capsys):
    given = ("--activations", "acts.npz", "--tree", "tree.json", "--rows", "500:1500", "--lags", "5",
             "--seed", "4")  # fmt: skip
    _, out, _ = run(capsys, *given, "--layers", "2", "h*")
    assert out.index("layer 2") < out.index("layer hidden")
    _, out, _ = run(capsys, *given, "--layers", "hidden")
    assert "layer 2" not in out
    status, _, err = run(capsys, *given, "--layers", "fc")
    assert (status, err) == (
        2,
        "hltm: acts.npz: has no layer 'fc', expected some of 'hidden', '2'\n",
    )


def test_a_model_that_takes_tokens_and_returns_a_sequence(home, capsys):
    given = ("--model", "probed_model:sequence", "--tree", "tree.json", "--samples", "400", "--lags", "5",
             "--encode", "tokens", "--layers", "1", "--pool", "last")  # fmt: skip
    mine = ("--metrics", "correlation", "probed_model:mine")
    status, out, err = run(capsys, *given, "--select", "0", *mine)
    assert (status, err) == (0, "")
    assert "layer 1" in out
    assert "mine" in out
    status, _, err = run(capsys, *given)
    assert (status, err.count("\n")) == (2, 1)
    assert "is a tuple, expected a tensor" in err


def test_a_model_is_run_on_rows_of_the_data(home, capsys):
    given = (
        "--model",
        "probed_model:elsewhere",
        "--tree",
        "tree.json",
        "--seed",
        "4",
        "--lags",
        "5",
        "--out",
        "o",
    )
    assert run(capsys, *given, "--rows", "500:1500")[0] == 0
    table = pd.read_csv("o/table.csv", dtype={"layer": str})
    draw = TREE.sample(1000, seed=4, start=500)
    expected = hltm.probe.measure(draw.leaves.float(), TREE, draw=draw, lags=5)
    assert np.allclose(table["value"], expected["value"], equal_nan=True)


def test_a_model_is_read_by_name_with_its_weights(home, capsys):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    save_file(model.state_dict(), "w.safetensors")
    status, _, _ = run(
        capsys, "--model", "probed_model:build", "--weights", "w.safetensors", "--tree", "tree.json",
        "--layers", "0", "2", "--samples", "600", "--seed", "3", "--lags", "20", "--out", "probed",
        "--metrics", "correlation", "roc_auc",
    )  # fmt: skip
    assert status == 0
    table = pd.read_csv("probed/table.csv", dtype={"layer": str, "node": str})
    network = hltm.probe.TorchNetwork(model, ["0", "2"])
    expected = hltm.probe.measure(
        network, TREE, samples=600, seed=3, lags=20, metrics=["correlation", "roc_auc"]
    )
    assert table["metric"].tolist() == expected["metric"].tolist()
    assert np.allclose(table["value"], expected["value"], equal_nan=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name either --activations or --model"),
        (["--activations", "acts.npz"], "--rows must be start:stop"),
        (
            ["--activations", "acts.npz", "--rows", "9:3"],
            "start below stop, at most 2^34, got '9:3'",
        ),
        (["--activations", "acts.npz", "--rows", "0:999"], "expected 999 rows on axis 0"),
        (["--activations", "none.npz", "--rows", "0:9"], "none.npz: no such file"),
        (["--model", "probed_model", "--layers", "0"], "module:function, got 'probed_model'"),
        (["--model", "no_such_module:build", "--layers", "0"], "No module named"),
        (["--model", "probed_model:number", "--layers", "0"], "has no function 'number'"),
        (["--model", "probed_model:wrong", "--layers", "0"], "made a int, expected a torch module"),
        (["--model", "probed_model:build", "--layers", "9"], "no layer '9'"),
        (
            ["--model", "probed_model:build", "--encode", "no"],
            "--encode must be one of bits, signs",
        ),
        (
            [
                "--model",
                "probed_model:build",
                "--metrics",
                "probed_model:fails",
                "--samples",
                "400",
            ],
            "--metrics probed_model:fails: AttributeError: 'Tensor' object has no attribute 'nothing'",
        ),
        (
            ["--model", "probed_model:build", "--rows", "0:9", "--samples", "9"],
            "--rows or --samples",
        ),
        (["--model", "probed_model:build", "--rows", "0:16000000000"], "the memory has 100,000"),
        (
            ["--model", "probed_model:build", "--rows", "0:17179869185"],
            "at most 2^34, got '0:17179",
        ),
        (
            ["--model", "probed_model:build", "--samples", "9" * 20],
            "--samples must be at most 2^34",
        ),
        (
            ["--activations", "acts.npz", "--rows", "0:9999999999999999999"],
            "at most 2^34, got '0:9",
        ),
        (
            ["--data", "tree.json", "--tree", "", "--model", "m:f", "--root", "a"],
            "--root is for a --tree, not for --data",
        ),
        (
            ["--activations", "acts.npz", "--rows", "0:9", "--pool", "mean"],
            "--pool is for a --model",
        ),
        (["--activations", "acts.npz", "--rows", "0:9", "--out", "tree.json"], "expected a folder"),
        (
            ["--model", "probed_model:build", "--layers", "0", "--weights", "tree.json"],
            "tree.json: ",
        ),
    ],
)
def test_bad_requests_are_refused_in_one_line(home, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("dualnets.cli._foreign_files.memory", lambda: 10**5)
    status, _, error = run(capsys, "--tree", "tree.json", *arguments)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_pickled_arrays_are_not_read(home, capsys):
    np.savez("bad.npz", hidden=np.array([{"a": 1}], dtype=object))
    status, _, error = run(
        capsys, "--tree", "tree.json", "--activations", "bad.npz", "--rows", "0:1"
    )
    assert status == 2
    assert "Python objects" in error


def test_the_help_names_the_default_of_measure(capsys):
    from hltm.probe.null import LAGS

    lags = run(capsys, "--help")[1].split("--lags")[1].split("--")[0]
    assert f"(default: {LAGS})" in " ".join(lags.split())
