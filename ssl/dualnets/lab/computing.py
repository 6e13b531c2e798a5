"""A cell is computed and stored, and what a run reports of its cells."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dualnets._memory_errors import name_memory_errors
from dualnets.lab.experiment import Experiment, ProgressListener
from dualnets.lab.fields import with_columns
from dualnets.lab.store import Store, now, versions

if TYPE_CHECKING:
    import pandas as pd
    import torch


def read_cell(store: Store, cell: str, settings: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stored cell, with the columns of its settings as they are named today."""
    table, manifest = store.read_cell(cell)
    return with_columns(table, settings), manifest


def compute(
    experiment: Experiment, out: str, cell: str, settings: Any, device: str, progress: ProgressListener
) -> None:  # fmt: skip
    """Compute one cell and store it; all arguments can be pickled, to be sent to another process."""
    import torch

    from hltm._devices import check_device

    start, cpu_start = time.perf_counter(), time.process_time()
    chosen = asdict(settings)
    where = check_device(device)
    several = where.type in ("cuda", "xpu") and where.index is not None
    current = getattr(torch, where.type).device(where) if several else contextlib.nullcontext()
    # some kernels run on the current card, whatever they are given
    with name_memory_errors(), current:
        result = experiment.run_cell(settings, where, progress)
    table = result.table
    table.insert(0, "cell", cell)
    table = with_columns(table, settings)
    manifest = {
        "experiment": experiment.name,
        "cell": cell,
        "result_version": experiment.result_version,
        "settings": chosen,
        "device": str(where),
        "date": now(),
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_seconds": round(time.process_time() - cpu_start, 3),
        "peak_memory": _peak_memory(where),
        "notes": result.notes,
        "versions": versions(),
    }
    Store(out, experiment.name).write_cell(cell, table, manifest, result.networks)


def _peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has had so far, on a card those of the card; None if not known."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
