"""How fast an ensemble trains: every method and optimiser, beside torch modules in a loop and JAX.

    python benchmarks/training.py                                # all: an hour; or a part of it
    python benchmarks/training.py --methods byol --members 1 32  # all optimisers: about a minute
    python benchmarks/training.py --compare width                # or busy, or profile
    python benchmarks/training.py … --save cells.jsonl           # several runs add to one file
    python benchmarks/training.py --render cells.jsonl --before old.jsonl

Prints finished tables in Markdown: member-steps per second (medians of alternating repeats in one
run) and ratios (medians of each repeat's ratio), drawing included. Before the clock starts, some steps
of every contender are checked against ours in double precision. JAX is no dependency: without it, its
columns are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders.profile import parts
from contenders.rates import (
    STEPS,
    Contender,
    available,
    busy_core,
    contenders,
    disagreement,
    matmul_rate,
    measure,
    operations,
)
from contenders.tables import TABLES, load, render, save
from contenders.task import BATCH, METHODS, OPTIMIZERS, Task

import dualnets

CPU_MEMBERS, CUDA_MEMBERS = (1, 8, 32, 128), (32, 128, 1024)
NETWORKS = [*(("tree", units) for units in (2, 5, 10, 20)), ("dense", 64), ("dense", 512)]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--compare", nargs="+", choices=list(TABLES), default=["peers"], help="tables to measure")
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    add("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    add("--members", nargs="+", type=int, help="S; 1 8 32 128 on a CPU, 32 128 1024 on a GPU")
    add("--contenders", nargs="+", choices=("own", "eager", "unfused", "modules", "jax"))
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, help="2 on a CPU; beside a GPU as many as torch takes")
    add("--repeats", type=int, default=5)
    add("--seconds", type=float, default=0.2, help="of a contender in every repeat")
    add("--no-check", action="store_true", help="do not check that contenders agree")
    add("--save", type=Path, metavar="FILE", help="append what is measured as JSON lines")
    add("--render", type=Path, nargs="+", metavar="FILE", help="only print the tables of files")
    add("--before", type=Path, metavar="FILE", help="show these rates beside the others")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    given = options()
    if given.threads is None:
        given.threads = 2 if given.device == "cpu" else torch.get_num_threads()
    if given.device == "cpu" and not given.render and hasattr(os, "sched_setaffinity"):
        # every contender, JAX's own pool included, gets as many cores; before any of them starts
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: given.threads])
    before = [] if given.before is None else load([given.before])
    if given.render:
        print(render(load(given.render), before))
        return
    torch.set_num_threads(given.threads)
    run = Run(given)
    for name in given.compare:
        getattr(run, name)()
    print(render(run.cells, before))


class Run:
    """One run of the benchmark."""

    def __init__(self, given: argparse.Namespace) -> None:

        self.given, self.cells = given, []
        missing = {name: why for name, why in available(given.device).items() if why}
        wanted = given.contenders or ["own", "eager", "unfused", "modules", "jax"]
        for name in wanted:
            if name in missing and (given.contenders or name != "unfused"):
                note(f"{name} is left out: {missing[name]}")
        self.contenders = [name for name in wanted if name not in missing]
        self.common = {
            "device": given.device, "threads": given.threads, "versions": versions(),
            "matmul": matmul_rate(given.device),
        }  # fmt: skip
        default = CPU_MEMBERS if given.device == "cpu" else CUDA_MEMBERS
        self.members = given.members or default

    def add(self, **cell: Any) -> None:
        """Keep and save a cell."""
        self.cells.append(cell | self.common)
        save(self.given.save, self.cells[-1])

    def make(self, name: str, members: int, task: Any, seconds: float | None = None) -> Any:
        """One contender, warm."""
        make, count = contenders([name], task, members, self.given.device)[name]
        steps = max(1, min(STEPS, 512 // members)) if name == "jax" else None
        return Contender(make, count, self.given.device, seconds or self.given.seconds, steps)

    def peers(self) -> None:
        """Methods x optimisers x S x contenders."""
        for method in self.given.methods:
            flops = operations(method)
            for optimizer in self.given.optimizers:
                if not self.given.no_check:
                    names = [name for name in self.contenders if name not in ("eager", "unfused")]
                    worst = disagreement(names, method, optimizer, self.given.device)
                    note(f"{method}, {optimizer}: contenders agree to {worst:.0e}")
                for members in self.members:
                    task = partial(Task, method, optimizer, members, self.given.device)
                    made = {name: self.make(name, members, task) for name in self.contenders}
                    rates = measure(made, self.given.repeats)
                    compiles = made["jax"].first if "jax" in made else None
                    self.add(
                        table="peers", method=method, optimizer=optimizer, members=members,
                        rates=rates, operations=flops, jax_compiles=compiles,
                    )  # fmt: skip
                    shown = ", ".join(
                        f"{n} {sorted(r)[len(r) // 2]:,.0f}" for n, r in rates.items()
                    )
                    note(f"{method}, {optimizer}, S = {members}: {shown}")

    def width(self, members: int = 16) -> None:
        """SimCLR with plain SGD over networks."""
        for kind, units in NETWORKS:
            make = partial(dualnets.tree_network if kind == "tree" else dualnets.mlp, units=units)
            task = partial(Task, "simclr", "sgd", members, self.given.device, make=make)
            rates = measure(
                {n: self.make(n, members, task) for n in ("own", "eager")}, self.given.repeats
            )
            weights = [own[0].numel() for own in task().network.weights]
            # three passes; no gradient goes below the first layer
            flops = 2 * BATCH * 3 * (3 * sum(weights) - weights[0])
            name = f"{kind}, {units} units"
            self.add(table="width", method=name, members=members, rates=rates, operations=flops)

    def busy(self) -> None:
        """Ours while another process keeps a core busy."""
        for method in self.given.methods:
            for optimizer in self.given.optimizers:
                for members in self.given.members or (32,):
                    task = partial(Task, method, optimizer, members, self.given.device)
                    made = {n: self.make(n, members, task, 0.05) for n in ("own", "eager")}
                    quiet = measure(made, self.given.repeats)
                    with busy_core():
                        busy = measure(made, self.given.repeats, calibrated=True)
                    rates = quiet | {f"{name}, busy": found for name, found in busy.items()}
                    self.add(
                        table="busy",
                        method=method,
                        optimizer=optimizer,
                        members=members,
                        rates=rates,
                    )

    def profile(self) -> None:
        """Parts of a step."""
        for method in self.given.methods:
            for optimizer in self.given.optimizers:
                for members in self.given.members or (32,):
                    task = Task(method, optimizer, members, self.given.device)
                    found = parts(task, self.given.seconds)
                    self.add(
                        table="profile",
                        method=method,
                        optimizer=optimizer,
                        members=members,
                        parts=found,
                    )


def versions() -> str:
    """torch, and JAX where it is there."""
    from importlib.metadata import version

    found = ["torch", *(["jax"] if importlib.util.find_spec("jax") else [])]
    return ", ".join(f"{name} {version(name)}" for name in found)


def note(text: str) -> None:
    """Progress, beside the tables."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
