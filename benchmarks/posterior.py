"""Rows per second of exact posteriors, beside pgmpy and beside plain torch, in one run.

    python benchmarks/posterior.py            # about a minute
    python benchmarks/posterior.py --repeats 9

Each line is the median of several repeats; all methods take their turns, so that a busy machine
slows them alike. pgmpy answers one row at a time and is asked for few of them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

import hltm
from hltm.inference.posterior import row_chunks, torch_posterior

REST = 0.3  # seconds: torch's idle threads spin for a while after their work


def pgmpy_rows(tree: hltm.LatentTree, leaves: torch.Tensor) -> Callable[[], None]:
    """The root's posterior by pgmpy's variable elimination, one row after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pgmpy.factors.discrete import TabularCPD
        from pgmpy.inference import VariableElimination
        from pgmpy.models import DiscreteBayesianNetwork
    parent = tree.topology.parent
    count = len(parent)
    model = DiscreteBayesianNetwork([(str(parent[v]), str(v)) for v in range(1, count)])
    for v in range(count):
        table = tree.tables.of(v)[0].T.numpy()
        above = [str(parent[v])] if v else []
        sizes = [int(tree.tables.cardinality[parent[v]])] if v else []
        model.add_cpds(TabularCPD(str(v), len(table), table, above, sizes))
    infer = VariableElimination(model)
    names = [str(v) for v in tree.leaves]

    def run() -> None:
        for row in leaves.tolist():
            infer.query(["0"], dict(zip(names, row, strict=True)), show_progress=False)

    return run


def kernel_rows(
    tree: hltm.LatentTree, leaves: torch.Tensor, nodes: int | None, threads: int
) -> Callable[[], None]:
    """The public method, on so many threads."""

    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            tree.posterior(leaves, nodes=nodes)
        finally:
            torch.set_num_threads(before)

    return run


def torch_rows(tree: hltm.LatentTree, leaves: torch.Tensor) -> Callable[[], None]:
    """All nodes by the differentiable path, without a gradient."""
    leaves_SXB = leaves.T[None]
    ranges = row_chunks(tree.tables, leaves_SXB)
    every = np.arange(len(tree.topology))

    def run() -> None:
        for low, high in ranges:
            torch_posterior(tree.tables, leaves_SXB[..., low:high], every, torch.float64, own=False)

    return run


def mixed_tree(depth: int, branching: int, states: int) -> hltm.LatentTree:
    """A balanced tree of more than two states."""
    topology = hltm.Topology.balanced(depth, branching)
    random = np.random.default_rng(0)
    tables = [
        random.dirichlet(np.ones(states), None if v == 0 else states) for v in range(len(topology))
    ]
    return hltm.LatentTree.from_tables(topology, tables)


def star(leaves: int, noise: float) -> hltm.LatentTree:
    """A root with so many noisy copies: states fall far behind each other."""
    topology = hltm.Topology.from_parents([None] + [0] * leaves)
    copy = [[1 - noise, noise], [noise, 1 - noise]]
    return hltm.LatentTree.from_tables(topology, [[0.5, 0.5]] + [copy] * leaves)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows per second of exact posteriors.")
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    trees = {
        "binary, depth 5, 63 nodes": (hltm.symmetric_binary(depth=5, seed=0), 1 << 16, 20),
        "binary, depth 8, 511 nodes": (hltm.symmetric_binary(depth=8, seed=0), 1 << 13, 3),
        "8 states, 4-ary, 85 nodes": (mixed_tree(3, 4, 8), 1 << 13, 5),
        "star, 300 leaves of noise 0.05": (star(300, 0.05), 1 << 12, 2),
    }
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, float64")
    print(f"\n| tree | answer | rows/s | against pgmpy |\n{'|---' * 4}|")
    for name, (tree, rows, few) in trees.items():
        leaves = tree.sample(rows, seed=1).leaves
        ways = {
            "pgmpy, root": (pgmpy_rows(tree, leaves[:few]), few),
            "torch, all nodes": (torch_rows(tree, leaves), rows),
        }
        for threads in (1, 2):
            for what, nodes in (("root", 0), ("all nodes", None)):
                label = f"hltm, {what}, {threads} thread{'s' * (threads > 1)}"
                ways[label] = (kernel_rows(tree, leaves, nodes, threads), rows)
        seconds: dict[str, list[float]] = {label: [] for label in ways}
        for turn in range(repeats + 1):
            for label, (run, _) in ways.items():
                time.sleep(REST)
                start = time.perf_counter()
                run()
                if turn:  # the first turn compiles
                    seconds[label].append(time.perf_counter() - start)
        rates = {label: n / statistics.median(seconds[label]) for label, (_, n) in ways.items()}
        for label, rate in rates.items():
            print(f"| {name} | {label} | {rate:,.0f} | {rate / rates['pgmpy, root']:,.0f} |")


if __name__ == "__main__":
    main()
