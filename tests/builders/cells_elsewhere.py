"""Work for other processes, each of which imports this file, so that it imports little itself."""

import os
import signal
import time
from pathlib import Path

from dualnets.lab.experiment import ProgressListener


def report(name: str, device: str, progress: ProgressListener) -> None:
    """Work that reports the length of its name as steps."""
    progress.updated(len(name))
    progress.probed(3, {1: 0.5})


def fail(name: str, device: str, progress: ProgressListener) -> None:
    """Work that fails."""
    raise {"refused": ValueError, "failed": KeyError}[name]("no such luck")


def die(name: str, device: str, progress: ProgressListener) -> None:
    """Work whose process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def meet(folder: str, device: str, progress: ProgressListener) -> None:
    """Work that reports the number of its card, when another card has begun as well."""
    (Path(folder) / device).touch()
    deadline = time.monotonic() + 100
    while len(list(Path(folder).iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    progress.updated(int(device.removeprefix("cuda:")))
