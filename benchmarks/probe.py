"""Seconds of `hltm.probe.measure` on wide layers, beside numpy and another checkout of hltm, in turns.

    python benchmarks/probe.py                      # a few minutes
    python benchmarks/probe.py --beside ../before   # the same by the checkout in that folder

Three layers of 512 ReLU units on 8,192 rows, one member, one thread. numpy has the correlations, their null
by one product of matrices for each lag, and nothing else. Each line is the median of CPU seconds over the
repeats; the ratio is the median of each repeat's ratio to the whole table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import hltm

ROWS, UNITS, LAYERS, LAGS = 8192, 512, 3, 200


def activations(depth: int) -> tuple[hltm.LatentTree, hltm.Draw, dict[str, torch.Tensor]]:
    """A tree, rows of it, and layers that mix the leaves with noise."""
    tree = hltm.symmetric_binary(depth=depth, polarity=0.9, seed=0)
    draw = tree.sample(ROWS, seed=1)
    generator = torch.Generator().manual_seed(0)
    leaves = draw.leaves.float()
    layers = {}
    for k in range(LAYERS):
        mix = torch.randn(leaves.shape[1], UNITS, generator=generator)
        noise = torch.randn(ROWS, UNITS, generator=generator)
        layers[f"layer {k}"] = (leaves @ mix + noise).relu()
    return tree, draw, layers


def by_numpy(draw: hltm.Draw, layers: dict[str, torch.Tensor], latents: int) -> None:
    """The best |correlation| with every latent, and the 95% point of it over shifted rows."""
    z = draw.states[:, :latents].numpy().astype(np.float32)
    z = (z - z.mean(0)) / z.std(0)
    for values in layers.values():
        a = values.numpy()
        a = (a - a.mean(0)) / a.std(0)
        np.abs(a.T @ z / ROWS).max(0)
        shifted = (np.roll(z, lag * ROWS // LAGS, axis=0) for lag in range(LAGS))
        np.quantile([np.abs(a.T @ other / ROWS).max(0) for other in shifted], 0.95, axis=0)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def contenders(depth: int, beside: str | None) -> dict[str, Callable[[], float]]:
    """Name -> what gives the CPU seconds of one turn."""
    tree, draw, layers = activations(depth)

    def table(**options: object) -> Callable[[], float]:
        return lambda: seconds(lambda: hltm.probe.measure(layers, tree, draw=draw, **options))  # type: ignore[arg-type]

    found = {
        "hltm, whole table": table(),
        "hltm, details=False": table(details=False),
        "hltm, with ROC area and information": table(
            metrics=["correlation", "selectivity", "roc_auc", "mutual_information"]
        ),
        "numpy, correlation and its null": lambda: seconds(
            lambda: by_numpy(draw, layers, len(tree.latents))
        ),
    }
    if beside is not None:
        found[f"hltm of {Path(beside).name}, whole table"] = lambda: elsewhere(beside, depth)
    return found


def elsewhere(folder: str, depth: int) -> float:
    """The whole table by another checkout, in a process of its own, which warms up first."""
    path = os.pathsep.join([folder, str(Path(folder) / "ssl")])
    command = [sys.executable, "-W", "ignore", __file__, "--once", str(depth)]
    given = os.environ | {"PYTHONPATH": path}
    return float(subprocess.run(command, env=given, check=True, capture_output=True).stdout)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside", help="folder of another checkout")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.once is not None:
        tree, draw, layers = activations(options.once)
        for _ in range(2):
            taken = seconds(lambda: hltm.probe.measure(layers, tree, draw=draw))
        print(taken)
        return
    print("| tree | contender | CPU s | x the whole table |\n|---|---|---|---|")
    for depth in (3, 5):
        turns = contenders(depth, options.beside)
        taken = {name: [turn()] for name, turn in turns.items()}  # not counted: it warms up
        for _ in range(options.repeats):
            for name, turn in turns.items():
                taken[name].append(turn())
        first = next(iter(taken.values()))
        for name, values in taken.items():
            ratio = statistics.median(a / b for a, b in zip(values[1:], first[1:], strict=True))
            print(f"| depth {depth} | {name} | {statistics.median(values[1:]):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
