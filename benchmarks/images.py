"""How fast ensembles train on pictures, beside plain torch modules in a loop and lightly's BYOL.

    python benchmarks/images.py                          # about five minutes
    python benchmarks/images.py --lightly PYTHON         # and lightly, in an environment that has it
    python benchmarks/images.py --cases conv-1x28x28 --threads 1 2

A step is one update of BYOL on two views of 128 pictures (ResNet-18: 32): network, projector and predictor
with BatchNorm, both directions, SGD with momentum, and the moving average. Every contender runs in a process
of its own, on one thread and on two where both are asked for; they take turns. Views are drawn before the
clock starts; drawing them is benchmarked elsewhere.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

DRAWN = 8  # batches that are used again and again
LR, MOMENTUM, WEIGHT_DECAY, EMA = 0.03, 0.9, 4e-4, 0.99
HEAD = (32, 16)


class Case(NamedTuple):
    """What is trained: a kind of network, the shape of a picture, S, B, and steps per turn."""

    kind: str
    shape: tuple[int, int, int]
    members: int
    batch: int
    steps: int


CASES = {
    "conv-1x28x28": Case("conv", (1, 28, 28), 4, 128, 5),
    "conv-3x32x32": Case("conv", (3, 32, 32), 4, 128, 5),
    "resnet18-3x32x32": Case("resnet18", (3, 32, 32), 1, 32, 1),
}


def views(
    case: Case, dtype: torch.dtype = torch.float32, members: slice = slice(None)
) -> Iterator[Tensor]:
    """`(S, 2 * B, X)` pictures of some members, a few batches again and again."""
    drawn = torch.Generator().manual_seed(0)
    size = torch.Size(case.shape).numel()
    shape = case.members, 2 * case.batch, size
    held = [torch.randn(shape, generator=drawn)[members].clone() for _ in range(DRAWN)]
    while True:
        yield from (own.to(dtype) for own in held)


# hltm


class Stored:
    """What the engine asks of the rows that it trains on."""

    def __init__(self, case: Case, dtype: torch.dtype, members: slice = slice(None)) -> None:
        self.case, self.dtype = case, dtype
        self.batch = case.batch
        self.given, self.members = views(case, dtype, members), tuple(range(case.members))[members]
        self.inputs = torch.Size(case.shape).numel()
        self.leaves, self.source = range(self.inputs), self

    def of_members(self, low: int, high: int) -> Stored:
        return Stored(self.case, self.dtype, slice(low, high))

    def batches(self, needs: Any, first: int, count: int) -> Iterator[Any]:
        from dualnets.methods.protocol import Batch

        return (Batch(next(self.given), self.batch) for _ in range(count))


def ensemble(case: Case, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any, Any]:
    """The network, the configuration and the state of a training by hltm."""
    import dualnets
    from dualnets.methods.protocol import TrainContext
    from dualnets.training.state import TrainConfig

    make: Any = dualnets.resnet18 if case.kind == "resnet18" else dualnets.conv_net
    network = make(case.shape, members=case.members, norm=dualnets.BatchNorm(), seed=0, dtype=dtype)
    data: Any = Stored(case, dtype)
    config = TrainConfig(
        dualnets.BYOL(ema_decay=EMA),
        dualnets.SGD(LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
        data,
        TrainContext(data, 1, 1000, case.batch),
    )
    return network, config, config.init(network)


def by_hltm(case: Case) -> Callable[[int], object]:
    """As `dualnets.train` does it: in parts of the ensemble, which threads share."""
    from dualnets.training import ensemble as parts_of
    from dualnets.training.eager import train_steps_eager
    from dualnets.training.threads import on_threads

    network, config, _ = ensemble(case)
    each = parts_of.members_per_part(network, case.members, case.members)
    parts = parts_of.split(network, config, each)
    threads = min(len(parts), torch.get_num_threads())

    def run(steps: int) -> None:
        def advance(part: Any) -> None:
            part.state = train_steps_eager(part.network, part.config, part.state, 0, steps)

        on_threads(advance, parts, threads)

    return run


# plain modules


def block(inputs: int, channels: int, stride: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, stride, 1, bias=bias),
        nn.BatchNorm2d(channels, affine=False),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two convolutions, and a shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        second = [
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        ]
        self.body = nn.Sequential(block(inputs, channels, stride, False), *second)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != channels:
            conv = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels, affine=False))

    def forward(self, below: Tensor) -> Tensor:
        return functional.relu(self.body(below) + self.shortcut(below), inplace=True)


def backbone(case: Case) -> tuple[nn.Sequential, int]:
    """A network as one would write it by hand, and the number of its outputs."""
    if case.kind == "conv":
        widths = (case.shape[0], 32, 64, 80)
        layers = [block(i, o, 2, True) for i, o in pairwise(widths)]
    else:
        widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
        layers = [block(case.shape[0], 64, 1, False)]
        layers += [Residual(i, o, 1 + (i != o)) for i, o in pairwise(widths)]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
    return nn.Sequential(*layers, *pooled), widths[-1]


def head(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HEAD[0]), nn.BatchNorm1d(HEAD[0], affine=False), nn.ReLU(inplace=True),
        nn.Linear(*HEAD),
    )  # fmt: skip


class Modules:
    """BYOL of one member in plain torch."""

    def __init__(self, case: Case, channels_last: bool) -> None:
        network, outputs = backbone(case)
        self.online = nn.Sequential(network, head(outputs))
        self.predictor, self.shape = head(HEAD[1]), case.shape
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.online.to(memory_format=self.format)

    def in_our_order(self) -> list[nn.Parameter]:
        """The parameters in the order of hltm's: all weights, all biases, then the heads layer by layer."""
        own = [part for part in self.online.modules() if isinstance(part, nn.Conv2d)]
        found = [part.weight for part in own] + [part.bias for part in own if part.bias is not None]
        linear = [
            p
            for h in (self.online, self.predictor)
            for p in h.modules()
            if isinstance(p, nn.Linear)
        ]
        return found + [own for part in linear for own in (part.weight, part.bias)]

    def start(self) -> Modules:
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        trained = [*self.online.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.SGD(trained, LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        return self

    def step(self, given: Tensor) -> None:
        pictures = given.unflatten(1, self.shape).contiguous(memory_format=self.format)
        first, second = pictures.split(len(pictures) // 2)
        predicted = [self.predictor(self.online(view)) for view in (first, second)]
        with torch.no_grad():
            expected = [self.target(view) for view in (second, first)]
        loss = sum(
            (2 - 2 * functional.cosine_similarity(p, e, eps=1e-12)).mean()
            for p, e in zip(predicted, expected, strict=True)
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            pairs = [*self.target.parameters()], [*self.online.parameters()]
            torch._foreach_lerp_(*pairs, 1 - EMA)


def in_a_loop(case: Case, channels_last: bool) -> Callable[[int], object]:
    members = [Modules(case, channels_last).start() for _ in range(case.members)]
    given = views(case)

    def run(steps: int) -> None:
        for _ in range(steps):
            pictures = next(given)
            for member, own in zip(members, pictures, strict=True):
                member.step(own)

    return run


def by_lightly(case: Case) -> Callable[[int], object]:
    """As lightly's own example (examples/pytorch/byol.py), with our network, heads' widths and optimiser."""
    if torch.version.cuda is None:  # of torchvision, whose compiled part may be for CUDA
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    class BYOL(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, outputs = backbone(case)
            self.projection_head = BYOLProjectionHead(outputs, *HEAD)
            self.prediction_head = BYOLPredictionHead(HEAD[1], *HEAD)
            self.backbone_momentum = copy.deepcopy(self.backbone)
            self.projection_head_momentum = copy.deepcopy(self.projection_head)
            deactivate_requires_grad(self.backbone_momentum)
            deactivate_requires_grad(self.projection_head_momentum)

        def forward(self, x: Tensor) -> Tensor:
            return self.prediction_head(self.projection_head(self.backbone(x).flatten(start_dim=1)))

        def forward_momentum(self, x: Tensor) -> Tensor:
            y = self.backbone_momentum(x).flatten(start_dim=1)
            return self.projection_head_momentum(y).detach()

    criterion, given, members = NegativeCosineSimilarity(), views(case), []
    for _ in range(case.members):
        model = BYOL()
        sgd = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        members.append((model, sgd))

    def run(steps: int) -> None:
        for _ in range(steps):
            pictures = next(given)
            for (model, optimizer), own in zip(members, pictures, strict=True):
                x0, x1 = own.unflatten(1, case.shape).split(case.batch)
                update_momentum(model.backbone, model.backbone_momentum, m=EMA)
                update_momentum(model.projection_head, model.projection_head_momentum, m=EMA)
                p0, z0 = model(x0), model.forward_momentum(x0)
                p1, z1 = model(x1), model.forward_momentum(x1)
                loss = 0.5 * (criterion(p0, z1) + criterion(p1, z0))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    return run


CONTENDERS: dict[str, Callable[[Case], Callable[[int], object]]] = {
    "hltm": by_hltm,
    "modules in a loop": lambda case: in_a_loop(case, False),
    "modules, channels-last": lambda case: in_a_loop(case, True),
    "lightly": by_lightly,
}


# that they compute the same


def check(case: Case) -> float:
    """The largest relative difference of parameters after three steps of hltm and of modules, in float64."""
    from dualnets.training.eager import train_steps_eager

    network, config, state = ensemble(case, torch.float64)
    plain = [Modules(case, False) for _ in range(case.members)]
    ours = {**dict(network.named_parameters())}
    ours |= {name: tensor for name, tensor in state.state.items() if tensor.requires_grad}
    for s, member in enumerate(plain):
        for twin, start in zip(member.in_our_order(), ours.values(), strict=True):
            twin.data = start[s].detach().reshape(twin.shape).clone()
        member.online.double()
        member.predictor.double()
        member.start()
    state = train_steps_eager(network, config, state, 0, 3)
    given = views(case, torch.float64)
    for _ in range(3):
        for member, own in zip(plain, next(given), strict=True):
            member.step(own)
    ours = {
        **dict(network.named_parameters()),
        **{n: state.state[n] for n in ours if n in state.state},
    }
    return max(
        float(((found[s].reshape(twin.shape) - twin).abs().max() / twin.abs().max()).detach())
        for s, member in enumerate(plain)
        for twin, found in zip(member.in_our_order(), ours.values(), strict=True)
    )


# the measurement


def work(contender: str, case: Case) -> None:
    """Answer every line with what a turn took, in a process of its own."""
    run = CONTENDERS[contender](case)
    run(2)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run(case.steps)
        spent = time.perf_counter() - wall, time.process_time() - cpu
        peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**10
        rates = [case.steps * case.members / own for own in spent]
        print(json.dumps({"wall": rates[0], "cpu": rates[1], "MiB": peak}), flush=True)


def limit(case: Case, contender: Callable[[Case], Callable[[int], object]]) -> float:
    """Member-steps per second if the products of a step ran at the rate of a large product, one thread."""
    from torch.utils.flop_counter import FlopCounterMode

    run = contender(case._replace(members=1))
    with FlopCounterMode(display=False) as counter:
        run(1)
    a, b = torch.randn(2, 1024, 1024)
    spent = []
    for _ in range(20):
        start = time.process_time()
        a @ b
        spent.append(time.process_time() - start)
    rate = 2 * 1024**3 / min(spent)
    print(f"{counter.get_total_flops() / 1e9:.2f} GFLOP a step, {rate / 1e9:.0f} GFLOP/s")
    return rate / counter.get_total_flops()


def compare(
    name: str, contenders: list[str], threads: list[int], turns: int, lightly: str | None
) -> None:
    """Print the table of one case; contenders on all numbers of threads take turns."""
    case = CASES[name]
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    processes = {}
    for key in [(count, contender) for count in threads for contender in contenders]:
        count, contender = key
        python = lightly if contender == "lightly" else sys.executable
        command = [str(python), __file__, "--work", contender, "--cases", name]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes[key] = subprocess.Popen([*command, "--threads", str(count)], **pipes)
        found[key] = []
    for process in processes.values():
        _answer(process)
    for _ in range(turns):
        for key, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            found[key].append(_answer(process))
    for process in processes.values():
        process.communicate()
    print(
        f"\n{name}, S = {case.members}, B = {case.batch}, {turns} turns of {case.steps} step(s)\n"
    )
    print("| threads | contender | per CPU second | per second | hltm is faster, CPU | … by the clock "
          "| peak memory, MiB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for (count, contender), own in found.items():
        cpu, wall = (statistics.median(turn[kind] for turn in own) for kind in ("cpu", "wall"))
        pairs = list(zip(found[count, "hltm"], own, strict=True))
        by_cpu, by_wall = (
            statistics.median(ours[kind] / theirs[kind] for ours, theirs in pairs)
            for kind in ("cpu", "wall")
        )
        print(
            f"| {count} | {contender} | {cpu:.2f} | {wall:.2f} | {by_cpu:.2f} | {by_wall:.2f} "
            f"| {own[-1]['MiB']:.0f} |",
            flush=True,
        )


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = process.stdout.readline()  # type: ignore[union-attr]
    if not line:
        raise RuntimeError(f"{process.args} ended")
    return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--lightly", metavar="PYTHON", help="the interpreter of an environment with lightly"
    )
    parser.add_argument("--work", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads[0])
    if given.work:
        work(given.work, CASES[given.cases[0]])
        return
    contenders = [own for own in CONTENDERS if own != "lightly" or given.lightly]
    for name in given.cases:
        small = CASES[name]._replace(members=1, batch=8)
        print(f"\n{name}: parameters differ by {check(small):.1e} after three steps in float64")
        most = limit(CASES[name], CONTENDERS["modules in a loop"])
        print(f"matrix products alone: {most:.1f} member-steps per second and thread")
        compare(name, contenders, given.threads, given.turns, given.lightly)


if __name__ == "__main__":
    main()
