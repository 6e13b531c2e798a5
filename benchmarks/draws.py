"""How fast trees are drawn, side by side with what else one could use, in one run.

    python benchmarks/draws.py [--rounds 15] [--no-pgmpy] [--cpu-time]

Contenders take turns, round after round, so that a machine that slows down slows all of them; a
ratio is the median of the rounds' ratios. Compilation and pgmpy's building of a model are outside
the clock. `--cpu-time` counts the seconds of this process alone, for machines that others use too;
what runs on two threads is then left out. Prints Markdown.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit

import hltm
from hltm.model.topology import Topology
from hltm.sampling.kernels.generator import philox_blocks

Clock = Callable[[], float]
CHUNK = 1 << 18  # states that numpy draws at a time: fewer or more are slower here


@dataclass(frozen=True)
class Case:
    """One tree and how many rows to draw of it."""

    name: str
    tree: hltm.LatentTree
    rows: int
    pgmpy_rows: int


def cases() -> list[Case]:
    """The trees of the table."""

    def binary(depth: int) -> hltm.LatentTree:
        return hltm.symmetric_binary(depth=depth, polarity=(0.7, 1.0), seed=0)

    rng = np.random.default_rng(0)
    topology = Topology.balanced(depth=5, branching=4)
    prior, rows = rng.dirichlet(np.ones(8)), rng.dirichlet(np.ones(8), size=(len(topology), 8))
    wide = hltm.LatentTree.from_tables(topology, [prior, *rows[1:]])
    return [
        Case("binary, depth 5, 63 nodes", binary(5), 1 << 18, 20_000),
        Case("binary, depth 10, 2047 nodes", binary(10), 1 << 13, 4000),
        Case("8 states, 4-ary, depth 5, 1365 nodes", wide, 1 << 13, 2000),
    ]


def numpy_binary(tree: hltm.LatentTree) -> Callable[[int], np.ndarray]:
    """Level by level, all nodes of a level in one comparison, in chunks that stay in the cache."""
    rng, topology = np.random.Generator(np.random.SFC64(0)), tree.topology
    table = tree.tables.of(np.arange(1, len(topology)))[0, :, :, 1].numpy().astype(np.float32)
    first, step = table[:, :1], table[:, 1:] - table[:, :1]
    prior = tree.tables.flat[0, 1].item()

    rows = max(CHUNK // len(topology), 256)

    def draw(count: int) -> np.ndarray:
        out = np.empty((len(topology), count), dtype=np.uint8)
        for low in range(0, count, rows):
            part = out[:, low : low + rows]
            part[0] = rng.random(part.shape[1], dtype=np.float32) < prior
            for level in range(topology.depth - 1, -1, -1):
                nodes = topology.at_level(level)
                edges = slice(nodes.start - 1, nodes.stop - 1)
                above = part[topology.parent[nodes.start : nodes.stop]]
                high = above * step[edges] + first[edges]  # P(state 1); faster than np.where
                u = rng.random(above.shape, dtype=np.float32)
                np.less(u, high, out=part[nodes.start : nodes.stop].view(bool))
        return out

    return draw


def numpy_states(tree: hltm.LatentTree) -> Callable[[int], np.ndarray]:
    """Level by level: how many cumulative probabilities of the parent's row are below a uniform."""
    rng, topology = np.random.Generator(np.random.SFC64(0)), tree.topology
    states = int(tree.tables.cardinality[0])
    nodes = np.arange(1, len(topology))
    cumulative = tree.tables.of(nodes)[0].numpy().cumsum(-1).astype(np.float32)[..., :-1]
    prior = tree.tables.of(0)[0, 0].numpy().cumsum()[:-1].astype(np.float32)

    rows = max(CHUNK // len(topology), 256)

    def draw(count: int) -> np.ndarray:
        out = np.empty((len(topology), count), dtype=np.uint8)
        for low in range(0, count, rows):
            part = out[:, low : low + rows]
            part[0] = np.searchsorted(prior, rng.random(part.shape[1], dtype=np.float32), "right")
            for level in range(topology.depth - 1, -1, -1):
                nodes = topology.at_level(level)
                table = cumulative[nodes.start - 1 : nodes.stop - 1]
                above = part[topology.parent[nodes.start : nodes.stop]].astype(np.intp)
                u = rng.random(above.shape, dtype=np.float32)
                found = np.zeros(above.shape, dtype=np.uint8)
                for k in range(states - 1):
                    found += u >= np.take_along_axis(table[:, :, k], above, axis=1)
                part[nodes.start : nodes.stop] = found
        return out

    return draw


def pgmpy_sampler(tree: hltm.LatentTree) -> Callable[[int], object]:
    """Forward sampling of the same tree."""
    logging.disable(logging.WARNING)
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.models import DiscreteBayesianNetwork
    from pgmpy.sampling import BayesianModelSampling

    topology, tables = tree.topology, tree.tables
    edges = [(str(p), str(v)) for v, p in enumerate(topology.parent) if p >= 0]
    model = DiscreteBayesianNetwork(edges)
    for v, p in enumerate(topology.parent):
        table = tables.of(v)[0].numpy().T
        above = {} if p < 0 else {"evidence": [str(p)], "evidence_card": [table.shape[1]]}
        model.add_cpds(TabularCPD(str(v), len(table), table, **above))
    sampler = BayesianModelSampling(model)
    return lambda count: sampler.forward_sample(size=count, show_progress=False)


def seconds(work: Callable[[], object], clock: Clock) -> float:
    begin = clock()
    work()
    return clock() - begin


def measure(
    case: Case, rounds: int, pgmpy: bool, clock: Clock
) -> list[tuple[str, float, float, float]]:
    """Name, node-states per second, and ratio to numpy and to pgmpy of every contender."""
    tree, count = case.tree, case.rows
    nodes = len(tree.topology)

    def hltm_draw(threads: int, packed: bool) -> Callable[[], object]:
        def work() -> object:
            torch.set_num_threads(threads)
            if packed:
                return tree.sample(count, seed=1, packed=True)
            return tree.sample(count, seed=1)

        return work

    contenders: dict[str, Callable[[], object]] = {}
    for name, threads in (("one thread", 1), ("two threads", 2)):
        if threads > 1 and clock is time.process_time:
            continue
        contenders[f"hltm, {name}"] = hltm_draw(threads, False)
        if tree.tables.binary:
            contenders[f"hltm packed, {name}"] = hltm_draw(threads, True)
    baseline = (numpy_binary if tree.tables.binary else numpy_states)(tree)
    contenders["numpy, level by level"] = lambda: baseline(count)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values():
        work()
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(seconds(work, clock))
    rate = {name: count * nodes / np.median(spent) for name, spent in times.items()}
    reference = np.array(times["numpy, level by level"])
    ratio = {name: float(np.median(reference / spent)) for name, spent in times.items()}
    rival = np.nan
    if pgmpy:
        sampler = pgmpy_sampler(tree)
        sampler(2)
        spent = min(seconds(lambda: sampler(case.pgmpy_rows), clock) for _ in range(2))
        rival = case.pgmpy_rows * nodes / spent
        rate["pgmpy, forward sampling"] = rival
        ratio["pgmpy, forward sampling"] = rival / rate["numpy, level by level"]
    return [(name, rate[name], ratio[name], rate[name] / rival) for name in rate]


@njit
def generate(blocks, words, repeats):  # type: ignore[no-untyped-def]
    for r in range(repeats):
        philox_blocks(
            np.uint64(r), np.uint64(0), np.uint64(0), blocks, np.uint64(0), np.uint64(0),
            blocks.shape[0], words,
        )  # fmt: skip


def ceilings(rounds: int, clock: Clock) -> list[tuple[str, float]]:
    """What the machine does at best: bytes and words per second of one thread."""
    torch.set_num_threads(1)
    size = 1 << 24
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    blocks, words = np.arange(128, dtype=np.uint64), np.empty(256, dtype=np.uint64)
    repeats = 10_000

    def generator() -> None:
        generate(blocks, words, repeats)

    generator()
    works = {
        "copy 16 MiB, bytes": (lambda: np.copyto(target, source), size),
        "fill 16 MiB, bytes": (lambda: target.fill(1), size),
        "fill 16 MiB of new memory, bytes": (lambda: np.empty(size, np.uint8).fill(1), size),
        "Philox 4x32-10, 32-bit words": (generator, repeats * 512),
    }
    return [
        (name, amount / float(np.median([seconds(work, clock) for _ in range(rounds)])))
        for name, (work, amount) in works.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-pgmpy", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(f"{platform.machine()}, numpy {np.__version__}, torch {torch.__version__}\n")
    print("| tree | contender | node-states/s | x numpy | x pgmpy |\n|---|---|---|---|---|")
    for case in cases():
        for name, rate, ratio, rival in measure(case, options.rounds, not options.no_pgmpy, clock):
            shown = "" if np.isnan(rival) else f"{rival:.0f}"
            print(f"| {case.name} | {name} | {rate:.2g} | {ratio:.2g} | {shown} |", flush=True)
    print("\n| ceiling of one thread | per second |\n|---|---|")
    for name, rate in ceilings(options.rounds, clock):
        print(f"| {name} | {rate:.2g} |")


if __name__ == "__main__":
    main()
