"""How fast an ensemble trains, beside torch modules in a loop and JAX, and compiled beside eager.

    python benchmarks/training.py                       # two threads; --threads 1 for one
    python benchmarks/training.py --compare peers       # or compiled: one table alone
    python benchmarks/training.py --device cuda

Prints finished tables in Markdown: member-steps per second (medians of alternating repeats in one
run) and ratios (medians of each repeat's ratio), drawing included. Before the clock starts, one step
of every contender is checked against ours in double precision. JAX is no dependency: without it, its
columns are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable

PASSES = 3
CPU_MEMBERS, CUDA_MEMBERS = (1, 8, 32, 128), (32, 128, 1024)
LOOPED = 128  # a loop over more members than this is timed with this many
SECONDS = 0.5  # that a repeat takes at least
STEPS = 64  # drawn and trained in one call, at most


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Contender:
    """A way of training, whose rate is measured."""

    def __init__(self, make: Callable[[], object], members: int, device: str) -> None:
        self.trainer, self.members, self.device = make(), members, device
        self.step = 0
        self.steps = max(1, min(STEPS, 1024 // members))
        self.first = self.run()  # compiles, where something does
        seconds = self.run()
        if type(self.trainer).__name__ != "Jax" and seconds > 2 * SECONDS:  # it would compile again
            self.steps = max(1, int(self.steps * SECONDS / seconds))
            seconds = self.run()
        self.calls = max(1, round(SECONDS / seconds))

    def run(self) -> float:
        """Seconds of one call."""
        seconds = timed(self._steps)
        self.step += self.steps
        return seconds

    def _steps(self) -> None:
        import torch

        self.trainer.train(self.step, self.steps)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def rate(self) -> float:
        """Member-steps per second."""
        seconds = sum(self.run() for _ in range(self.calls))
        return self.members * self.steps * self.calls / seconds


def contenders(method: str, members: int, device: str, dtype) -> dict[str, tuple]:
    """Name -> how it is made, and how many members it trains."""
    from training_modules import Modules
    from training_task import Ours, Task

    def task():
        return Task(method, members, device, dtype)

    looped = min(members, LOOPED)
    found = {
        "eager": (lambda: Ours(task(), eager=True), members),
        "modules": (lambda: Modules(task(), looped), looped),
    }
    if device == "cpu":
        found["compiled"] = (lambda: Ours(task()), members)
    if importlib.util.find_spec("jax") is not None:
        from training_jax import Jax

        found["jax"] = (lambda: Jax(task()), members)
    return found


def disagreement(method: str, device: str) -> float:
    """The largest difference of any number from ours after one step, in double precision.

    Raises:
        RuntimeError: above 1e-5, or a step that moves nothing.
    """
    import torch
    from training_task import Task

    after = {}
    for name, (make, _) in contenders(method, 4, device, torch.float64).items():
        trainer = make()
        trainer.train(0, 1)
        after[name] = {n: tensor.cpu() for n, tensor in trainer.tensors().items()}
    before = Task(method, 4, device, torch.float64).initial()
    ours = after.pop("eager")
    worst = 0.0
    for name, theirs in after.items():
        if set(theirs) != set(ours):
            raise RuntimeError(f"{name} trains {sorted(set(theirs) ^ set(ours))} otherwise")
        for n, tensor in ours.items():
            difference = float((tensor - theirs[n]).abs().max())
            if not difference <= 1e-5:
                raise RuntimeError(f"{name} differs from ours by {difference:.1e} in {n}")
            if tensor.equal(before[n].cpu()):
                raise RuntimeError(f"a step of {method} does not change {n}")
            worst = max(worst, difference)
    return worst


def compare_peers(device: str, repeats: int) -> None:
    """Print the table of member-steps per second beside the peers."""
    import torch

    with_jax = importlib.util.find_spec("jax") is not None
    compiled = device == "cpu"
    if with_jax:
        import jax

        if device == "cuda" and jax.default_backend() != "gpu":
            raise RuntimeError(f"JAX runs on {jax.default_backend()!r} here, expected 'gpu'")
        jax.config.update("jax_enable_x64", True)
        versions = f"torch {torch.__version__}, JAX {jax.__version__}"
    else:
        versions = f"torch {torch.__version__}; JAX is not installed, so its columns are left out"
    methods = ("SimCLR", "BYOL")
    found = {method: disagreement(method, device) for method in methods}
    if with_jax:
        jax.config.update("jax_enable_x64", False)
    shown = ", ".join(f"{method} {worst:.0e}" for method, worst in found.items())
    print(f"{versions}. After one step in double precision all agree: {shown}.\n")
    ours = ["compiled", "eager"] if compiled else ["eager"]
    columns = [*ours, "modules in a loop", *(["JAX"] if with_jax else [])]
    columns += [f"{own} / modules" for own in ours]
    columns += [f"{own} / JAX" for own in ours if with_jax]
    columns += ["JAX compiles, s"] * with_jax
    print(f"| method | S | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 2) + "|")
    for method in methods:
        for members in CPU_MEMBERS if compiled else CUDA_MEMBERS:
            made = {
                name: Contender(make, count, device)
                for name, (make, count) in contenders(
                    method, members, device, torch.float32
                ).items()
            }
            rounds = [{name: own.rate() for name, own in made.items()} for _ in range(repeats)]
            peers = ["modules", "jax"] if with_jax else ["modules"]
            row = [f"{statistics.median(r[n] for r in rounds):,.0f}" for n in [*ours, *peers]]
            for peer in peers:
                row += [f"{statistics.median(r[n] / r[peer] for r in rounds):.2g}" for n in ours]
            if with_jax:
                row.append(f"{made['jax'].first:.1f}")
            print(f"| {method} | {members} | {' | '.join(row)} |", flush=True)


def best_matmul_rate(size: int = 1024) -> float:
    """Floating-point operations per second of a large matrix product, the best of a few."""
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(timed(lambda: a @ b) for _ in range(10))
    return 2 * size**3 / best


def operations(network, batch: int) -> int:
    """Floating-point operations of one member's step: forward, and twice that backward."""
    weights = sum(weight[0].numel() for weight in network.weights)
    first = network.weights[0][0].numel()  # no gradient goes below the first layer
    return 2 * batch * PASSES * (3 * weights - first)


def compare_compiled(repeats: int, members: int = 16, steps: int = 64) -> None:
    """Print the table of compiled steps beside eager ones, over networks (SimCLR)."""
    from training_task import BATCH, Ours, Task

    import dualnets

    limit = best_matmul_rate()
    print(f"large matrix product {limit / 1e9:.0f} GFLOP/s\n")
    print("| network | compiled, member-steps/s | eager | ratio | compiled, share of matmul |")
    print("|---|---|---|---|---|")
    cases = [("tree", units, dualnets.tree_network) for units in (2, 5, 10, 20)]
    for name, units, make in [*cases, ("dense", 64, dualnets.mlp)]:
        pair = []
        for eager in (False, True):
            task = Task("SimCLR", members, "cpu")
            task.network = make(task.data.trees, units=units, seed=1, normalize=True)
            pair.append(Contender(lambda t=task, e=eager: Ours(t, eager=e), members, "cpu"))
        pairs = [tuple(own.rate() for own in pair) for _ in range(repeats)]
        fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        share = fast * operations(task.network, BATCH) / limit
        print(f"| {name}, {units} units | {fast:,.0f} | {slow:,.0f} | {ratio:.1f} | {share:.0%} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", choices=("peers", "compiled", "all"), default="all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.device == "cpu":
        # every contender, JAX's own pool included, gets as many cores; before any of them is loaded
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: given.threads])
    import torch

    torch.set_num_threads(given.threads)
    print(f"{given.device}, {given.threads} thread(s), depth 5, 10 units, batch 128, float32\n")
    if given.compare in ("peers", "all"):
        compare_peers(given.device, given.repeats)
    if given.compare == "all" and given.device == "cpu":
        print()
    if given.compare in ("compiled", "all") and given.device == "cpu":
        compare_compiled(given.repeats)


if __name__ == "__main__":
    main()
