"""How fast trees are drawn, side by side with what else one could use, in one run.

    python benchmarks/draws.py [--rounds 15] [--no-pgmpy] [--cpu-time]

Contenders take turns, round after round, so that a machine that slows down slows all of them; a
ratio is the median of the rounds' ratios. Compilation and pgmpy's building of a model are outside
the clock. `--cpu-time` counts the seconds of this process alone, for machines that others use too;
what runs on two threads is then left out. Prints Markdown.

The generator is a contender, too: the words of Philox that a binary state needs at least, made by one
thread and thrown away, are all of its rate that a draw can reach.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

import hltm
from hltm.model.topology import Topology
from hltm.sampling.kernels.generator import philox_blocks

Clock = Callable[[], float]
CHUNK = 1 << 18  # states that numpy draws at a time: fewer or more are slower here
BITS = 128  # states whose random bits come from one call of the generator, which makes four words
WORDS = 10_000 * 512  # that the generator makes in a round
GENERATOR = "Philox 4x32-10"


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


def words_per_state() -> float:
    """32-bit words that a binary state needs on average.

    A state is decided when its random bits differ from those of its probability, after n bits but for
    2^-n of all; the states of a block are drawn until the last of them is.
    """
    planes = sum(1 - (1 - 2.0**-n) ** BITS for n in range(64))
    return 4 * planes / BITS


class Row(NamedTuple):
    """One contender: states per second, and medians of ratios; NaN where there is none."""

    name: str
    rate: float
    of_numpy: float
    of_pgmpy: float
    of_generator: float
    of_one_thread: float


def measure(case: Case, rounds: int, pgmpy: bool, clock: Clock) -> list[Row]:
    """Every contender's row."""
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
    contenders[GENERATOR] = generator()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values():
        work()
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(seconds(work, clock))
    spent = {name: np.array(own) for name, own in times.items()}
    possible = WORDS / words_per_state() / spent.pop(GENERATOR)  # states per second
    rows = []
    for name, own in spent.items():
        # of the generator's rate only where states are binary and made by one thread
        limited = tree.tables.binary and name.startswith("hltm") and "two" not in name
        single = spent[name.replace("two threads", "one thread")]
        rows.append(
            Row(
                name,
                count * nodes / float(np.median(own)),
                float(np.median(spent["numpy, level by level"] / own)),
                np.nan,
                float(np.median(count * nodes / own / possible)) if limited else np.nan,
                float(np.median(single / own)) if "two" in name else np.nan,
            )
        )
    if pgmpy:
        sampler = pgmpy_sampler(tree)
        sampler(2)
        took = min(seconds(lambda: sampler(case.pgmpy_rows), clock) for _ in range(2))
        rival = case.pgmpy_rows * nodes / took
        rows = [row._replace(of_pgmpy=row.rate / rival) for row in rows]
        of_numpy = rival / rows[-1].rate
        rows.append(Row("pgmpy, forward sampling", rival, of_numpy, 1.0, np.nan, np.nan))
    return rows


@njit
def generate(blocks, words, repeats):  # type: ignore[no-untyped-def]
    for r in range(repeats):
        philox_blocks(
            np.uint64(r), np.uint64(0), np.uint64(0), blocks, np.uint64(0), np.uint64(0),
            blocks.shape[0], words,
        )  # fmt: skip


def generator() -> Callable[[], None]:
    """Makes WORDS words in one thread."""
    blocks, words = np.arange(128, dtype=np.uint64), np.empty(256, dtype=np.uint64)
    return lambda: generate(blocks, words, WORDS // 512)


def ceilings(rounds: int, clock: Clock) -> list[tuple[str, float]]:
    """What the machine does at best: bytes and words per second of one thread."""
    torch.set_num_threads(1)
    size = 1 << 24
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    make = generator()
    make()
    works = {
        "copy 16 MiB, bytes": (lambda: np.copyto(target, source), size),
        "fill 16 MiB, bytes": (lambda: target.fill(1), size),
        "fill 16 MiB of new memory, bytes": (lambda: np.empty(size, np.uint8).fill(1), size),
        f"{GENERATOR}, 32-bit words": (make, WORDS),
    }
    return [
        (name, amount / float(np.median([seconds(work, clock) for _ in range(rounds)])))
        for name, (work, amount) in works.items()
    ]


def shown(number: float) -> str:
    """Two digits, or nothing."""
    return "" if np.isnan(number) else f"{number:.4g}" if number >= 100 else f"{number:.2g}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-pgmpy", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(f"{platform.machine()}, numpy {np.__version__}, torch {torch.__version__}\n")
    print(
        "| tree | contender | node-states/s | x numpy | x pgmpy | of the generator | x one thread |"
    )
    print("|---" * 7 + "|")
    for case in cases():
        for row in measure(case, options.rounds, not options.no_pgmpy, clock):
            ratios = [f"{row.of_numpy:.2g}", shown(row.of_pgmpy)]
            share = "" if np.isnan(row.of_generator) else f"{row.of_generator:.0%}"
            cells = [case.name, row.name, f"{row.rate:.2g}", *ratios, share]
            print("| " + " | ".join([*cells, shown(row.of_one_thread)]) + " |", flush=True)
    print(f"\nA binary state takes {words_per_state():.3f} words of the generator at least.")
    print("\n| ceiling of one thread | per second |\n|---|---|")
    for name, rate in ceilings(options.rounds, clock):
        print(f"| {name} | {rate:.2g} |")


if __name__ == "__main__":
    main()
