"""How fast an ensemble trains: the compiled span beside the eager one, in one run.

    python benchmarks/training.py            # two threads; --threads 1 for one

Prints member-steps per second (median of alternating repeats), their ratio, and the share of the
machine's own single-precision matrix product that the compiled span reaches. The setting is that of
`hltm run emergence`: depth 5, 16 members, batch 128, three passes, plain SGD, float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import dualnets
import hltm
from dualnets import fused, span

MEMBERS, BATCH, PASSES = 16, 128, 3


def best_matmul_rate(size: int = 1024) -> float:
    """Floating-point operations per second of a large matrix product, the best of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(timed(lambda: a @ b) for _ in range(10))
    return 2 * size**3 / best


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def operations(network: torch.nn.Module) -> int:
    """Floating-point operations of one member's step: forward, and twice that backward."""
    weights = sum(weight[0].numel() for weight in network.weights)
    first = network.weights[0][0].numel()  # no gradient goes below the first layer
    return 2 * BATCH * PASSES * (3 * weights - first)


def rate(network, trees, steps: int, compiled: bool) -> float:
    """Member-steps per second."""
    offer = fused.offer
    span.fused.offer = offer if compiled else lambda network, loss: None
    try:
        seconds = timed(
            lambda: dualnets.train(
                network,
                dualnets.SimCLR(dualnets.InfoNCE(0.1)),
                trees,
                augment=hltm.keep_root(),
                steps=steps,
                batch=BATCH,
                optimizer=dualnets.SGD(0.1),
                seed=2,
            )
        )
    finally:
        span.fused.offer = offer
    return MEMBERS * steps / seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    trees = hltm.symmetric_binary(depth=5, members=MEMBERS, seed=0)
    limit = best_matmul_rate()
    print(f"{given.threads} thread(s); large matrix product {limit / 1e9:.0f} GFLOP/s\n")
    print("| network | compiled, member-steps/s | eager | ratio | compiled, share of matmul |")
    print("|---|---|---|---|---|")
    cases = [("tree", units, dualnets.tree_network) for units in (2, 5, 10, 20)]
    for name, units, make in [*cases, ("dense", 64, dualnets.mlp)]:
        network = make(trees, units=units, seed=1, normalize=True)
        for compiled in (True, False):
            rate(network, trees, 3, compiled)  # warm up
        pairs = [
            (rate(network, trees, given.steps, True), rate(network, trees, given.steps, False))
            for _ in range(given.repeats)
        ]
        fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        share = fast * operations(network) / limit
        print(f"| {name}, {units} units | {fast:,.0f} | {slow:,.0f} | {ratio:.1f} | {share:.0%} |")


if __name__ == "__main__":
    main()
