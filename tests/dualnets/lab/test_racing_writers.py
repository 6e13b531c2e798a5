"""Several processes write one folder at once: each ends well, and one whole folder stays."""

import subprocess
import sys
import time

import pytest
import racing_writers

WRITERS = 3


@pytest.mark.parametrize("rounds", [10, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["exchange", pytest.param("move", marks=pytest.mark.slow)])
def test_each_ends_well_and_a_whole_folder_stays(tmp_path, how, rounds):
    """`move`: as on file systems that cannot exchange two folders."""
    command = [sys.executable, racing_writers.__file__, str(tmp_path), str(rounds)]
    writers = [
        subprocess.Popen([*command, str(own), how], stderr=subprocess.PIPE)
        for own in range(WRITERS)
    ]
    while len(list(tmp_path.glob("ready-*"))) < WRITERS:
        time.sleep(0.01)
    partial = tmp_path / "begin.partial"
    partial.write_text(str(time.time() + 0.1))
    partial.rename(tmp_path / "begin")
    seen = missing = 0
    while any(writer.poll() is None for writer in writers):
        for target in tmp_path.glob("target-*"):
            seen += 1
            missing += not (target / "0").exists()
    for writer in writers:
        assert writer.communicate()[1] == b""
        assert writer.returncode == 0
    targets = sorted(tmp_path.glob("target-*"))
    assert len(targets) == min(7, rounds)
    for target in targets:
        assert len(list(target.iterdir())) == racing_writers.FILES
        assert len({file.read_text() for file in target.iterdir()}) == 1
    assert list(tmp_path.glob(".*")) == []  # nothing half written or half removed
    assert seen > 0
    assert missing == 0 or how == "move"  # there is a whole folder at any moment
