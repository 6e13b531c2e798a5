"""Rows a second that torch loaders get from the data sets, in one process, in turns.

    python benchmarks/loaders.py                # wall time, half a minute
    python benchmarks/loaders.py --cpu-time     # seconds of the process, on a machine others use too
    python benchmarks/loaders.py --workers 2    # the same read by workers

The tree is binary of depth 5, with two views and signs as inputs. `item by item` is what a collate
function of one's own costs, and what every loader cost while items were joined again; `drawn alone`
draws the same rows without a loader.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate, random_split

import hltm

TREE = hltm.symmetric_binary(depth=5, polarity=(0.7, 1.0), seed=0)
AUGMENT = hltm.resample_leaves(0.3)


def ways(rows: int, batch: int, workers: int) -> dict[str, Callable[[], Iterable[object]]]:
    """Functions that make a pass over the rows, batch by batch."""
    options = {"seed": 1, "encode": hltm.encode.signs}
    data = hltm.ViewDataset(TREE, AUGMENT, samples=rows, **options)
    half, _ = random_split(
        hltm.ViewDataset(TREE, AUGMENT, samples=2 * rows, **options), [rows, rows]
    )
    stream = hltm.ViewStream(TREE, AUGMENT, batch=batch, samples=rows, **options)
    by_item = {"collate_fn": lambda items: default_collate(list(items))}
    common = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    loaders = {
        "in order": DataLoader(data, batch, **common),
        "shuffled": DataLoader(data, batch, shuffle=True, **common),
        "a random half": DataLoader(half, batch, **common),
        "in order, item by item": DataLoader(data, batch, **by_item, **common),
        "shuffled, item by item": DataLoader(data, batch, shuffle=True, **by_item, **common),
        "stream": DataLoader(stream, None, **common),
    }
    order = np.random.default_rng(0).permutation(rows)
    places = {"in order, drawn alone": np.arange(rows), "shuffled, drawn alone": order}
    alone = {
        name: lambda given=given: (data.batch(given[i : i + batch]) for i in range(0, rows, batch))
        for name, given in places.items()
    }
    return {name: lambda loader=loader: loader for name, loader in loaders.items()} | alone


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows a second of torch loaders.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if options.cpu_time else time.perf_counter
    passes = ways(options.rows, options.batch, options.workers)
    seconds: dict[str, list[float]] = {way: [] for way in passes}
    for turn in range(options.repeats + 1):
        for way, batches in passes.items():
            start = clock()
            for _ in batches():
                pass
            if turn:  # the first turn compiles
                seconds[way].append(clock() - start)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, one torch thread, batches of {options.batch}, {options.workers} workers\n")
    print("| read | rows/s |\n|---|---|")
    for way, found in seconds.items():
        print(f"| {way} | {options.rows / statistics.median(found):,.0f} |")


if __name__ == "__main__":
    main()
