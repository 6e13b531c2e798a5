"""Processes that write one folder at the same time; they import this file, and little else."""

import sys
import time
from pathlib import Path

from dualnets import _files

FILES = 5


def write(target: Path, word: str) -> None:
    """Write a folder of several files with the same word in each."""
    with _files.replace_folder(target) as folder:
        for i in range(FILES):
            (folder / str(i)).write_text(word)


def main(home: str, rounds: int, own: str, exchange: bool) -> None:
    """Write the targets of all rounds, each at the time at which the other processes do."""
    if not exchange:
        _files._exchange = lambda one, other: False
    Path(home, f"ready-{own}").touch()
    while not Path(home, "begin").exists():
        time.sleep(0.001)
    begin = float(Path(home, "begin").read_text())
    for i in range(rounds):
        while time.time() < begin + i * 0.01:
            pass
        write(Path(home, f"target-{i % 7}"), own)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "exchange")
