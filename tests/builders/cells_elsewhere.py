"""An experiment whose cells do what a test of executors needs; other processes import this file."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dualnets.lab import workers
from dualnets.lab.experiment import CellResult, Experiment
from dualnets.lab.grids import cell_name


@dataclass(frozen=True)
class Settings:
    """What a cell does: `fault` is a function of this file, which is given `folder`."""

    seed: int
    fault: str = "nothing"
    folder: str = ""
    steps: int = 3


def run_cell(settings, device, progress):
    progress.updated(settings.steps)
    globals()[settings.fault](Path(settings.folder))
    progress.probed(3, {1: 0.5})
    return CellResult(pd.DataFrame({"value": [settings.seed / 3]}))


def nothing(folder):
    pass


def refuse(folder):
    raise ValueError("no such luck")


def fail(folder):
    raise KeyError("no such luck")


class OfItsOwnError(Exception):
    """An error that cannot be sent to another process, as it cannot be made from its text."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def fail_oddly(folder):
    raise OfItsOwnError("no such", "luck")


def die(folder):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(folder):
    if not (folder / "died").exists():
        (folder / "died").touch()
        die(folder)


def leave(folder):
    """End the process, as far as this is in the hands of a cell."""
    sys.exit("no such luck")


def say_nothing(folder):
    raise ValueError


def write_number(folder):
    """Write the number of this process, and sleep much longer than any test."""
    (folder / f"{os.getpid()}.number").touch()
    time.sleep(600)


def move_away(folder):
    """Leave the folder, so that a file that is named from it is elsewhere."""
    os.chdir("/")


def meet(folder):
    """Tell which card this process has, when another has begun as well."""
    (folder / workers.own_card()).touch()
    deadline = time.monotonic() + 100
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return workers.own_card()


def report(name):
    """Report the length of a name, twice."""
    workers.report((name, len(name)))
    workers.report((name, -len(name)))
    return name


def cells_of(*settings):
    """Names and settings of cells, as `compute_all` takes them."""
    return [(cell_name(EXPERIMENT, own), own) for own in settings]


EXPERIMENT = Experiment(
    module=__name__,
    claims=(),
    summary="cells for tests of executors",
    result_version=1,
    Settings=Settings,
    grids={},
    code=__name__,
)
