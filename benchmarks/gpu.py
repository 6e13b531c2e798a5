"""Parts of `gpu.sh`: the machine, drawing, and a profile of training, in Markdown.

    python benchmarks/gpu.py machine
    python benchmarks/gpu.py drawing --members 32 128 1024
    python benchmarks/gpu.py profile --members 128 --methods simclr byol

With `--device cpu` all of it runs without a GPU, so that it can be tried anywhere.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch
from contenders.rates import available, contenders, matmul_rate
from contenders.tables import markdown
from contenders.task import BATCH, METHODS, OPTIMIZERS, Task
from torch.profiler import ProfilerActivity, profile

import hltm
from dualnets.methods.protocol import Needs
from dualnets.training.data import FreshData

PACKAGES = ("torch", "triton", "numpy", "numba", "numba-cuda")
QUERIES = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem")


def synchronize(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    """The median of some calls."""
    work()
    times = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def machine(given: argparse.Namespace) -> None:
    """Device, driver, versions, clocks, memory, and what the device does at best."""
    rows = [
        ("machine", f"{platform.machine()}, {platform.system()}, {torch.get_num_threads()} threads")
    ]
    for package in PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    if given.device == "cuda":
        command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=20)
            rows += list(zip(QUERIES, found.stdout.strip().split(", "), strict=False))
        except (OSError, subprocess.TimeoutExpired) as error:
            rows.append(("nvidia-smi", str(error)))
        rows.append(("CUDA of torch", torch.version.cuda))
        about = torch.cuda.get_device_properties(0)
        rows.append(("device", f"{about.name}, {about.multi_processor_count} multiprocessors"))
    rows.append(("float32 matrix product", f"{matmul_rate(given.device) / 1e12:.2f} TFLOP/s"))
    one = torch.zeros(1, device=given.device)
    many = seconds(lambda: [one.add_(1) for _ in range(1000)], given.device)
    rows.append(("an operation of torch on one number", f"{1e3 * many:.1f} µs"))
    if given.device == "cuda":
        for name, pinned in (("pageable", False), ("pinned", True)):
            host = torch.empty(1 << 26, dtype=torch.uint8, pin_memory=pinned)
            took = seconds(lambda h=host: h.to("cuda", non_blocking=True), "cuda")
            rows.append((f"copy to the device, {name}", f"{host.numel() / took / 1e9:.1f} GB/s"))
    print(markdown(["what", "value"], rows))


def _copied(data: FreshData, needs: Needs, steps: int, device: str) -> list[torch.Tensor]:
    found = data.draw(needs, 0, steps)
    return [part.to(device) for part in (*found.views, found.negatives) if part is not None]


def drawing(given: argparse.Namespace) -> None:
    """Leaves of two views and a negative, as SimCLR reads them, in microseconds per member-step."""
    needs, rows = Needs(views=2, negatives=1), []
    for members in given.members:
        trees = hltm.symmetric_binary(depth=5, members=members, seed=0)
        steps = max(1, min(64, 4096 // members))

        here, there = (
            FreshData(trees, trees.members, hltm.keep_root(), BATCH, 2, True, torch.device(device))
            for device in ("cpu", given.device)
        )
        ways = {
            "on the CPU": partial(here.draw, needs, 0, steps),
            "on the CPU, and copied": partial(_copied, here, needs, steps, given.device),
            "on the device": partial(there.draw, needs, 0, steps),
        }
        each = {name: seconds(work, given.device) / steps / members for name, work in ways.items()}
        states = 3 * BATCH * len(trees.topology)
        rows += [
            [members, name, f"{1e6 * took:.3g}", f"{states / took:.2g}"]
            for name, took in each.items()
        ]
    print(markdown(["S", "drawn", "µs per member-step", "node-states/s"], rows))


def profiled(given: argparse.Namespace) -> None:
    """Launches, time on the device by kernel, bytes copied, and the time of drawing, per step."""
    known = available(given.device)
    names = [name for name in ("own", "unfused", "eager") if not known[name]]
    for method in given.methods:
        for members in given.members:
            for name in names:
                task = Task(method, given.optimizer, members, given.device)
                make, _ = contenders([name], lambda t=task: t, members, given.device)[name]
                print(f"\n**{METHODS[method].title}, {given.optimizer}, S = {members}, {name}**\n")
                print(_profile(make(), task, given.device, given.steps), flush=True)


def _profile(trainer: object, task: Task, device: str, steps: int) -> str:
    for call in range(2):  # compiles, captures
        trainer.train(call * steps, steps)
    plain = seconds(lambda: trainer.train(2 * steps, steps), device, 1) / steps
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=kinds) as profiler:
        trainer.train(4 * steps, steps)
        synchronize(device)
    drawn = seconds(lambda: task.data.draw(task.needs, 0, steps), device, 3) / steps
    events = profiler.events()
    calls = Counter(event.name for event in events)
    launches = sum(n for name, n in calls.items() if "Launch" in name and "Kernel" in name)
    graphs = calls["cudaGraphLaunch"]
    copies = sum(n for name, n in calls.items() if name.startswith("Memcpy HtoD"))
    rows = [
        ("µs per step, without the profiler", f"{1e6 * plain:,.0f}"),
        ("member-steps/s", f"{task.members / plain:,.0f}"),
        ("µs per step of drawing, by itself", f"{1e6 * drawn:,.0f}"),
        ("kernel launches per step", f"{launches / steps:.1f}"),
        ("graph launches per step", f"{graphs / steps:.2f}"),
        ("copies to the device per step", f"{copies / steps:.2f}"),
        ("bytes copied to the device per step", f"{_bytes_copied(profiler) / steps:,.0f}"),
    ]
    found = profiler.key_averages()
    where = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    if device == "cuda":  # kernels alone, not the operations that launch them
        found = [own for own in found if own.device_type == torch.autograd.DeviceType.CUDA]
        busy = sum(getattr(own, where) for own in found) / steps
        rows.append(("µs per step in which the device works", f"{busy:,.0f}"))
    for own in sorted(found, key=lambda own: -getattr(own, where))[:12]:
        took = getattr(own, where) / steps
        rows.append((f"`{own.key[:70]}`, {own.count / steps:.1f} a step", f"{took:,.1f} µs"))
    return markdown(["what", "value"], rows)


def _bytes_copied(profiler: profile) -> int:
    """Bytes of all copies to the device, which only the trace has."""
    trace = getattr(profiler.profiler, "kineto_results", None)
    events = trace.events() if trace is not None else []
    copied = [e for e in events if e.name().startswith("Memcpy HtoD")]
    return sum(getattr(e, "nbytes", lambda: 0)() for e in copied)


PARTS = {"machine": machine, "drawing": drawing, "profile": profiled}


def main() -> None:
    """Print one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--members", nargs="+", type=int, default=[32, 128, 1024])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["simclr", "byol"])
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="sgd")
    parser.add_argument("--steps", type=int, default=20, help="of the profile")
    given = parser.parse_args()
    PARTS[given.part](given)


if __name__ == "__main__":
    main()
