"""Checkpoints under real kills, of other trainings, and what stays of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_training import EVERY, SNAPSHOTS, STEPS, train
from mutants import check_reader, json_mutant, mutant
from safetensors.torch import load_file, save_file

import dualnets
import hltm
from dualnets.training import checkpoint, trajectory
from hltm._paths import alone

KILLS = 7
TREES = hltm.symmetric_binary(depth=2, members=2, seed=0)


@pytest.fixture
def nursery(tmp_path):
    """A process that forks trainings: `begin()` starts one and returns its id, `end()` its exit status."""
    script = Path(__file__).parent / "killed_training.py"
    folder, result = tmp_path / "checkpoints", tmp_path / "result"
    process = subprocess.Popen(
        [sys.executable, script, folder, result],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def begin() -> int:
        process.stdin.write("again\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield begin, lambda: int(process.stdout.readline()), folder, result
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


def whole(folder: Path) -> list[int]:
    """The steps of all checkpoints in sight, each of which must be complete."""
    steps = dualnets.Checkpoints(folder).steps()
    sizes = {len(load_file(folder / f"step-{step:010d}" / checkpoint.TENSORS)) for step in steps}
    assert len(sizes) <= 1
    return steps


@pytest.mark.slow
def test_killed_at_any_time_and_resumed_equals_never_killed(nursery):
    begin, end, folder, result = nursery
    rng = np.random.default_rng(0)
    expected = train()
    reached = [0]
    writing = 0
    for kill in range(KILLS):
        pid = begin()
        further = int(rng.integers(0, 3))  # checkpoints that it may write in peace
        _wait(lambda f=further: newest(folder) >= reached[-1] + f * EVERY, result)
        time.sleep(rng.uniform(0, 0.02))
        if kill % 2:  # while something is being written or removed
            _wait(lambda: any(folder.glob(".step-*")), result)
            time.sleep(rng.uniform(0, 1e-3))
        if result.exists():
            assert end() == 0
            break
        os.kill(pid, signal.SIGKILL)
        assert end() == -signal.SIGKILL
        writing += any(folder.glob(".step-*"))
        whole(folder)
        assert newest(folder) >= reached[-1]
        reached.append(newest(folder))
    else:
        begin()
        assert end() == 0
    assert writing >= 2
    assert len({*reached} - {STEPS}) >= 3, "the kills should have come at different times"
    found = load_file(result)
    assert [*sorted(found)] == [*sorted(expected)]
    for name, tensor in expected.items():
        assert same_bits(tensor, found[name]), name
    # once more from the end: all snapshots come again, and nothing is left lying about
    result.unlink()
    begin()
    assert end() == 0
    again = load_file(result)
    assert all(same_bits(tensor, again[name]) for name, tensor in expected.items())
    assert not [*folder.glob(".step-*")]
    passing = [s for s in range(0, STEPS, EVERY) if s not in SNAPSHOTS]
    assert whole(folder) == sorted({*SNAPSHOTS, *passing[-2:]})


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.contiguous().view(torch.uint8).equal(b.contiguous().view(torch.uint8))


def newest(folder: Path) -> int:
    return max(dualnets.Checkpoints(folder).steps(), default=0)


def _wait(seen, result, seconds=100.0):
    until = time.monotonic() + seconds
    while not (seen() or result.exists()):
        assert time.monotonic() < until
        time.sleep(2e-4)


def run(folder, steps=6, trees=TREES, network=None, method=None, every=1, keep=2, **changes):
    if network is None:
        network = dualnets.tree_network(trees, units=3, seed=1)
    given = {
        "augment": hltm.keep_root(), "batch": 4, "optimizer": dualnets.SGD(0.1), "seed": 2,
        "snapshots": [steps], "checkpoints": dualnets.Checkpoints(folder, every, keep),
    }  # fmt: skip
    *_, last = dualnets.trajectory(
        network, method or dualnets.SimCLR(), trees, steps=steps, **(given | changes)
    )
    return last


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 3}, "seed is 2, here 3"),
        ({"steps": 7}, "steps is 6, here 7"),
        ({"batch": 5}, "batch is 4, here 5"),
        ({"samples": 9}, "samples is None, here 9"),
        ({"snapshots": [1, 6]}, r"snapshots is \[6\], here \[1, 6\]"),
        ({"members_at_once": 1}, "members_at_once is 2, here 1"),
        ({"optimizer": dualnets.SGD(0.2)}, "optimizer is SGD"),
        ({"method": dualnets.SimCLR(dualnets.Simple())}, "method is SimCLR"),
        ({"augment": hltm.keep_level(1)}, "augment is keep-root"),
        (
            {"network": dualnets.tree_network(TREES, units=4, seed=1)},
            "network is .*3.*here .*4",
        ),
        ({"network": dualnets.tree_network(TREES, units=3, seed=9)}, "initial parameters is"),
        ({"trees": hltm.symmetric_binary(depth=2, members=2, seed=9)}, "trees is 2 with 7 nodes"),
    ],
)
def test_checkpoints_of_another_training_are_refused(tmp_path, changes, what):
    run(tmp_path)
    with pytest.raises(ValueError, match=f"another training: there {what}"):
        run(tmp_path, **changes)
    assert run(tmp_path).step == 6


def test_how_to_train_further_is_said_where_it_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(
        ValueError, match=r"another folder .*train the last snapshot's network anew"
    ):
        run(tmp_path, steps=7)


def test_an_interrupted_training_says_from_where_it_goes_on(tmp_path):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as found:
        run(tmp_path, every=2, progress=interrupt)
    (note,) = found.value.__notes__
    assert note.endswith(f"the same call goes on from step 0, with the checkpoints in {tmp_path}.")
    with pytest.raises(KeyboardInterrupt) as found:
        run(tmp_path, checkpoints=None, progress=interrupt)
    assert not hasattr(found.value, "__notes__")


@pytest.mark.parametrize(
    "method",
    [
        dualnets.BYOL(dualnets.Head((4, 3)), dualnets.Head((4, 3), norm=dualnets.BatchNorm())),
        pytest.param(dualnets.MoCo(queue=8), marks=pytest.mark.slow),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_checkpoint_with_former_names_of_a_methods_fields_goes_on(tmp_path, method):
    run(tmp_path, method=method)
    for manifest in tmp_path.glob(f"*/{checkpoint.MANIFEST}"):
        text = manifest.read_text()
        former = text.replace("ema_decay=", "momentum=").replace(
            "ema_schedule=", "momentum_schedule="
        )
        assert "momentum=0.99" in former
        content = json.loads(former)  # of then, without checksums
        manifest.write_text(json.dumps({k: v for k, v in content.items() if "checksum" not in k}))
    assert run(tmp_path, method=method).step == 6
    with pytest.raises(ValueError, match="another training: there method is"):
        run(tmp_path, method=type(method)())


@pytest.mark.parametrize("keep", [1, 3])
def test_keep_is_how_many_stay_beside_the_snapshots(tmp_path, keep):
    run(tmp_path, steps=8, keep=keep, snapshots=[2, 8])
    assert whole(tmp_path) == sorted({2, 8, *range(8 - keep, 8)})


def test_a_resumed_training_reads_only_what_comes_after_the_newest(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(steps):
        if steps == 2 and len(whole(tmp_path)) == 3:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path, steps=10, every=2, keep=9, progress=stop)
    assert whole(tmp_path) == [0, 2, 4]
    seen = []
    original = trajectory.train_steps

    def spy(network, config, before, first_step, steps):
        seen.append(first_step)
        return original(network, config, before, first_step, steps)

    monkeypatch.setattr(trajectory, "train_steps", spy)
    run(tmp_path, steps=10, every=2, keep=9)
    assert seen == [4, 6, 8]


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path, monkeypatch):
    run(tmp_path, steps=2, every=2)
    before = whole(tmp_path)

    def fail(path, content):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        run(tmp_path / "other", steps=2)
    assert whole(tmp_path / "other") == []
    assert not [*(tmp_path / "other").iterdir()]
    assert whole(tmp_path) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "every must be at least 1 update, got 0"),
        ({"keep": 0}, "keep must be at least 1 checkpoint, got 0"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        dualnets.Checkpoints("nowhere", **given)


def test_frozen_members_and_what_is_trained_come_back(tmp_path):
    network = dualnets.tree_network(TREES, units=3, seed=1)
    with torch.no_grad():
        network.weights[0][1] = torch.nan
    never = run(tmp_path / "a", network=network)
    assert never.frozen_at.tolist() == [-1, 0]
    again = run(tmp_path / "a", network=network)
    assert again.frozen_at.tolist() == [-1, 0]
    for a, b in zip(never.network.parameters(), again.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def damage(folder: Path, what: str) -> None:
    """Spoil the newest checkpoint in a folder."""
    home = folder / f"step-{newest(folder):010d}"
    manifest = home / checkpoint.MANIFEST
    written = json.loads(manifest.read_text())
    changed = {
        "another format": written | {"format": 99},
        "no format": {},
        "no origin": {"format": checkpoint.FORMAT, "step": written["step"], "snapshot": True},
        "another step": written | {"step": 3},
        "a list": [1],
    }
    if what in changed:
        manifest.write_text(json.dumps(changed[what]))
    elif what == "garbage":
        manifest.write_text("{not json")
    elif what == "bytes":
        manifest.write_bytes(b"\xff\xfe\x00")
    elif what == "a stray folder":
        (folder / "step-abc").mkdir()
        (folder / "step-abc" / checkpoint.MANIFEST).write_text("{}")
    elif what == "an odd number":
        shutil.copytree(home, folder / "step-7")
    elif what == "no tensors":
        (home / checkpoint.TENSORS).unlink()
    elif what == "short":
        whole_file = (home / checkpoint.TENSORS).read_bytes()
        (home / checkpoint.TENSORS).write_bytes(whole_file[: len(whole_file) // 2])
    elif what == "a bit":
        content = bytearray((home / checkpoint.TENSORS).read_bytes())
        content[-5] ^= 4
        (home / checkpoint.TENSORS).write_bytes(content)
    elif what == "a bit of the manifest":
        manifest.write_text(manifest.read_text().replace('"snapshot": true', '"snapshot": false'))
    else:
        rest = {name: value for name, value in written.items() if "checksum" not in name}
        manifest.write_text(json.dumps(rest))
        found = load_file(home / checkpoint.TENSORS)
        if what == "a missing tensor":
            del found["network/weights.0"]
        else:
            found["network/weights.0"] = found["network/weights.0"][:1].clone()
        save_file(found, home / checkpoint.TENSORS)


REFUSED = {
    "another format": r"manifest\.json .* format is 99, this version reads 2; go on with the version",
    "a stray folder": r"step-abc .* its name is not that of a step; move it elsewhere",
    "an odd number": r"step-7 .* its name is not that of a step; move it elsewhere",
    # of an earlier version, without checksums
    "a missing tensor": r"tensors\.safetensors .* network/weights\.0 is missing, expected \(2, 2, 3, 2\)",
    "one member": r"tensors\.safetensors .* network/weights\.0 is \(1, 2, 3, 2\), expected \(2, 2, 3",
}
SET_ASIDE = {
    "no format": r"manifest\.json .* has no format",
    "no origin": r"manifest\.json .* made_with is None",
    "another step": r"manifest\.json .* it is of step 3",
    "a list": r"manifest\.json .* has no format",
    "garbage": r"manifest\.json .* it is not JSON .*",
    "bytes": r"manifest\.json .* it is not JSON .*",
    "no tensors": r"tensors\.safetensors is missing",
    "short": r"tensors\.safetensors was changed: its SHA-256 checksum does not fit",
    "a bit": r"tensors\.safetensors was changed: its SHA-256 checksum does not fit",
    "a bit of the manifest": r"it was changed: its checksum does not fit",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_checkpoint_of_this_training_is_named_with_what_to_do(tmp_path, what):
    run(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(ValueError, match=REFUSED[what]) as caught:
        run(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", SET_ASIDE)
def test_a_damaged_checkpoint_is_set_aside_and_training_goes_on_from_the_one_before(tmp_path, what):
    expected = run(tmp_path, keep=3)
    last, before = newest(tmp_path), dualnets.Checkpoints(tmp_path).steps()[-2]
    (tmp_path / ".step-mine").mkdir()  # a folder of someone else
    damage(tmp_path, what)
    with pytest.warns(UserWarning, match=SET_ASIDE[what]) as caught:
        again = run(tmp_path, keep=3)
    assert str(caught[0].message).endswith(f", and training goes on from step {before}")
    for a, b in zip(expected.network.parameters(), again.network.parameters(), strict=True):
        assert same_bits(a.detach(), b.detach())
    assert newest(tmp_path) == last
    assert len([*tmp_path.glob(f"damaged-step-{last:010d}-*")]) == 1
    assert (tmp_path / ".step-mine").is_dir()
    run(tmp_path, keep=3)  # and nothing is damaged any more


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    with alone(tmp_path), pytest.raises(OSError, match=f"another process is writing to {tmp_path}"):
        run(tmp_path)
    run(tmp_path)


def small() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))


def test_a_network_that_reads_leaves_otherwise_is_another_training(tmp_path):
    def network(factor):
        return dualnets.TorchEnsemble(
            TREES,
            small,
            activations={1: "0"},
            seed=0,
            encode=lambda leaves: factor * leaves.float(),
        )

    assert repr(network(1)) == repr(network(3))
    run(tmp_path, network=network(1))
    with pytest.raises(ValueError, match="another training: there initial outputs is"):
        run(tmp_path, network=network(3))
    # the same up to another machine's rounding
    assert run(tmp_path, network=network(1 + 1e-6)).step == 6


def test_what_a_layer_shows_belongs_to_a_training(tmp_path):
    given = {"activations": {1: "2"}, "seed": 0}
    run(tmp_path, network=dualnets.TorchEnsemble(TREES, small, **given))
    with pytest.raises(ValueError, match=r"there network is .*side='output'.*here .*side='input'"):
        run(tmp_path, network=dualnets.TorchEnsemble(TREES, small, side="input", **given))


def test_the_error_for_another_training_is_one_line(tmp_path):
    trees = hltm.symmetric_binary(depth=6, members=2, seed=0)
    run(tmp_path, trees=trees)
    with pytest.raises(ValueError, match="another training") as caught:
        run(tmp_path, trees=trees, network=dualnets.tree_network(trees, units=4, seed=1))
    text = str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in text
    assert len(text) < 250


def check_damaged_checkpoints(folder, monkeypatch, count):
    """A changed file of the newest checkpoint is never resumed from; the one before it is."""
    run(folder)
    given, original = [], dualnets.Checkpoints.check
    monkeypatch.setattr(
        dualnets.Checkpoints, "check", lambda self, made: given.append(made) or original(self, made)
    )
    run(folder)
    monkeypatch.undo()
    store, steps = dualnets.Checkpoints(folder), dualnets.Checkpoints(folder).steps()
    home = folder / f"step-{steps[-1]:010d}"
    for path in sorted(home.iterdir()):
        whole = path.read_bytes()

        def check(path=path, whole=whole):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                usable = store.check(given[0])
            for aside in folder.glob("damaged-*"):
                aside.replace(home)
            assert usable == steps[: len(usable)]
            assert len(usable) >= len(steps) - 1
            assert len(caught) == (usable != steps)
            if usable != steps:
                raise checkpoint.DamagedError(str(caught[0].message))
            same = path.read_bytes() == whole
            assert same or json.loads(path.read_bytes()) == json.loads(whole)

        change = json_mutant if path.suffix == ".json" else mutant
        assert check_reader(path, check, ValueError, count, change=change) > 0.8 * count


def test_damaged_checkpoints_are_set_aside(tmp_path, monkeypatch):
    check_damaged_checkpoints(tmp_path, monkeypatch, 40)


@pytest.mark.slow
def test_thousands_of_damaged_checkpoints(tmp_path, monkeypatch):
    check_damaged_checkpoints(tmp_path, monkeypatch, 1500)


def test_a_checkpoint_that_is_damaged_in_the_middle_of_training_stops_nothing(tmp_path):
    """It is left to the next training, which looks at all of them."""

    def spoil(done):
        first = tmp_path / "step-0000000001" / checkpoint.MANIFEST
        if first.exists():
            first.write_text("{")

    last = run(tmp_path, progress=spoil)
    assert last.step == 6
