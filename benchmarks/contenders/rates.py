"""Rates of contenders that take turns in one run, and the proof that they compute the same."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from contenders.task import Eager, Own, Task

Make = Callable[[], Any]
LOOPED = 32  # a loop over more members than this is timed with this many: they cost the same each
STEPS = 64  # drawn and trained in one call, at most
TOLERANCE = (
    1e-5  # of the check; only biases below a BatchNorm under AdamW come near (see training.md)
)


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Contender:
    """A way of training, whose rate is measured.

    Args:
        make: makes the trainer.
        members: that it trains.
        device: `cpu` or `cuda`.
        seconds: that a repeat takes about.
        steps: in one call, where they are given by what is compiled.
    """

    def __init__(
        self, make: Make, members: int, device: str, seconds: float, steps: int | None = None
    ) -> None:
        self.trainer, self.members, self.device, self.seconds = make(), members, device, seconds
        self.step, self.given, self.steps, self.calls = 0, steps, steps or 1, 1
        self.first = self.run()  # compiles, where something does

    def calibrate(self) -> None:
        """Choose the steps of a call and the calls of a repeat by the time that they take now."""
        wanted = self.seconds * getattr(self.trainer, "longer", 1)
        if self.given is None:  # from one step to as many as fit
            default = max(1, min(STEPS, 512 // self.members))
            most = getattr(self.trainer, "most", default)
            self.steps = 1
            self.run()
            for _ in range(2):  # the first steps of all are slow
                self.steps = max(1, min(most, int(self.steps * wanted / self.run())))
                self.run()
        self.calls = max(1, round(wanted / self.run()))

    def run(self) -> float:
        """Seconds of one call."""
        seconds = timed(self._steps)
        self.step += self.steps
        return seconds

    def _steps(self) -> None:
        self.trainer.train(self.step, self.steps)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def rate(self) -> float:
        """Member-steps per second."""
        seconds = sum(self.run() for _ in range(self.calls))
        return self.members * self.steps * self.calls / seconds


def available(device: str) -> dict[str, str]:
    """Name of a contender -> why it cannot run here; empty where it can."""
    found = {"own": "", "unfused": "", "eager": "", "modules": "", "jax": ""}
    if importlib.util.find_spec("jax") is None:
        found["jax"] = "JAX is not installed"
    elif device == "cuda":
        import jax

        if jax.default_backend() != "gpu":
            found["jax"] = f"JAX runs on {jax.default_backend()!r} here"
    if device != "cuda" or importlib.util.find_spec("dualnets.training.fused") is None:
        found["unfused"] = "there are no fused steps here"
    return found


def contenders(
    names: list[str], task: Callable[[], Task], members: int, device: str
) -> dict[str, tuple[Make, int]]:
    """Name -> how it is made, and how many members it trains."""
    from contenders.modules import Modules

    looped = min(members, LOOPED)
    known: dict[str, tuple[Make, int]] = {
        "own": (lambda: Own(task()), members),
        "unfused": (lambda: Unfused(task()), members),
        "eager": (lambda: Eager(task()), members),
        "modules": (lambda: Modules(task(), looped), looped),
        "jax": (lambda: _jax(task()), members),
    }
    return {name: known[name] for name in names}


class Unfused(Own):
    """hltm by itself where Triton's fused steps are not used: on CUDA, the graph of a step."""

    def train(self, first_step: int, steps: int) -> None:
        """Draw and train."""
        from dualnets.training.fused import pairs, siamese

        kept = pairs.supported_kernel, siamese.supported_kernel
        pairs.supported_kernel = siamese.supported_kernel = lambda *_: None
        try:
            super().train(first_step, steps)
        finally:
            pairs.supported_kernel, siamese.supported_kernel = kept


def _jax(task: Task) -> Any:
    from contenders.in_jax import Jax

    return Jax(task)


@contextmanager
def double_precision(names: list[str]) -> Iterator[None]:
    """JAX with 64 bits, where it is among the contenders."""
    if "jax" not in names:
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def disagreement(names: list[str], method: str, optimizer: str, device: str = "cpu") -> float:
    """The largest difference of any number from eager torch's after a few steps in double precision.

    Three steps, so that momentum, targets and queues matter; one of PIRL, whose peers draw later
    negatives by themselves.

    Raises:
        RuntimeError: above `TOLERANCE`, other tensors than ours, or a step that changes nothing.
    """
    steps = 1 if method == "pirl" else 3

    def task() -> Task:
        return Task(method, optimizer, 3, device, torch.float64)

    after = {}
    with double_precision(names):
        for name, (make, _) in contenders(["eager", *names], task, 3, device).items():
            trainer = make()
            trainer.train(0, steps)
            after[name] = _floats(trainer.tensors())
        ours, before = after.pop("eager"), _floats(task().initial())
    still = [
        n for n, tensor in ours.items() if n.startswith("network.") and tensor.equal(before[n])
    ]
    if still:
        raise RuntimeError(f"a step of {method} does not change {still}")
    worst = 0.0
    for name, theirs in after.items():
        if set(theirs) != set(ours):
            raise RuntimeError(f"{name} differs from ours in {sorted(set(theirs) ^ set(ours))}")
        for n, tensor in ours.items():
            difference = float((tensor - theirs[n]).abs().max())
            if not difference <= TOLERANCE:
                raise RuntimeError(f"{name} differs from ours by {difference:.1e} in {n}, {method}")
            worst = max(worst, difference)
    return worst


def _floats(tensors: dict[str, Any]) -> dict[str, Any]:
    return {n: own.detach().cpu() for n, own in tensors.items() if own.is_floating_point()}


def measure(
    made: dict[str, Contender], repeats: int, calibrated: bool = False
) -> dict[str, list[float]]:
    """Member-steps per second of every contender in every repeat, in turns."""
    for own in () if calibrated else made.values():
        own.calibrate()
    rounds = [{name: own.rate() for name, own in made.items()} for _ in range(repeats)]
    for own in made.values():
        own.trainer.check()
    return {name: [each[name] for each in rounds] for name in made}


def operations(method: str) -> int:
    """Floating-point operations in the matrix products of one member's step, as torch counts them.

    They are counted in the step written with torch's modules: network, heads and losses, forward and
    backward; elementwise work does not count.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from contenders.modules import Modules

    trainer = Modules(Task(method, "sgd", 1))
    with FlopCounterMode(display=False) as counter:
        trainer.train(0, 1)
    return counter.get_total_flops()


def matmul_rate(device: str = "cpu", size: int = 1024) -> float:
    """Floating-point operations per second of a large float32 matrix product, the best of some."""
    size = size if device == "cpu" else 8 * size
    a, b = (torch.randn(size, size, device=device) for _ in range(2))

    def product() -> None:
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * size**3 / min(timed(product) for _ in range(20))


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that keeps a core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"], env=dict(os.environ))
    try:
        time.sleep(0.5)
        yield
    finally:
        other.terminate()
        other.wait()
