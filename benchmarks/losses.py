"""What a method's loss costs beside its network: loss, gradient of the network's outputs, `after_step`.

    python benchmarks/losses.py                       # S = 1, 8, 32
    python benchmarks/losses.py --against ../other    # and beside another working tree, in turns

The network is one whose outputs are its parameter, so that nothing but the method is timed. Batch 128,
10 units (32 where a projector of 32 usually follows), no heads, float32, microseconds per member and step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

BATCH = 128


class Outputs(nn.Module):
    """A network whose outputs are its parameter, `(S, P * B, U)` in batch-last storage."""

    def __init__(self, members: int, samples: int, units: int) -> None:
        super().__init__()
        self.members, self.stacked, self.inputs = tuple(range(members)), True, 1
        drawn = torch.randn(members, units, samples, generator=torch.Generator().manual_seed(0))
        self.values = nn.Parameter(drawn)

    def forward(self, leaves: Tensor) -> Tensor:
        return self.values[..., : leaves.shape[-2]].transpose(1, 2)


def cases() -> dict[str, tuple[object, int]]:
    """Method and number of units, by name."""
    import dualnets
    from dualnets import Head

    head = Head()
    return {
        "simclr": (dualnets.SimCLR(), 10),
        "ntxent": (dualnets.SimCLR(dualnets.NTXent()), 10),
        "batchwise": (dualnets.SimCLR(dualnets.BatchwiseNCE()), 10),
        "spectral": (dualnets.SimCLR(dualnets.SpectralContrastive()), 10),
        "moco": (dualnets.MoCo(projector=head), 10),
        "pirl": (dualnets.PIRL(projector=head), 10),
        "swav": (dualnets.SwAV(projector=head), 10),
        "byol": (dualnets.BYOL(projector=head, predictor=None), 16),
        "simsiam": (dualnets.SimSiam(projector=head, predictor=head), 16),
        "barlow": (dualnets.BarlowTwins(projector=head), 32),
        "vicreg": (dualnets.VICReg(projector=head), 32),
        "supervised": (dualnets.Supervised(), 10),
    }


def timed(name: str, members: int, seconds: float) -> dict[str, float]:
    """Microseconds per member and step of the loss with its gradient, and of `after_step`."""
    import hltm
    from dualnets.methods.protocol import Batch, TrainContext
    from dualnets.training.steps import trained_tensors

    method, units = cases()[name]
    trees = hltm.symmetric_binary(depth=2, members=members, seed=0)
    passes = method.needs.views + method.needs.negatives
    network = Outputs(members, passes * BATCH, units)
    context = TrainContext(trees, 0, 1000, BATCH, 1024)
    state = method.init(network, context)
    leaves = torch.zeros(members, passes * BATCH, 1, dtype=torch.uint8)
    targets = torch.zeros(members, BATCH, 1, dtype=torch.int64)
    batch = Batch(leaves, BATCH, targets, torch.arange(BATCH) if method.needs.places else None)
    spent: list[tuple[float, float]] = []
    end, step = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or len(spent) < 5:
        t0 = time.perf_counter()
        losses, carried = method.loss(network, state, batch)
        trained = list(trained_tensors(network, state).values())
        torch.autograd.grad(losses.sum(), trained, allow_unused=True)
        t1 = time.perf_counter()
        with torch.no_grad():
            state = method.after_step(network, state, carried, step, context)
        state = {n: t if t.requires_grad else t.detach() for n, t in state.items()}
        spent.append((t1 - t0, time.perf_counter() - t1))
        step += 1
    loss, after = (statistics.median(own) * 1e6 / members for own in zip(*spent, strict=True))
    return {"loss": loss, "after": after}


def measure(tree: Path, names: list[str], members: int, threads: int, seconds: float) -> dict:
    """`timed` of some methods, in a process that imports from another working tree."""
    command = [sys.executable, __file__, "--here", *names, "--members", str(members)]
    command += ["--threads", str(threads), "--seconds", str(seconds)]
    import os

    path = f"{tree}:{tree / 'ssl'}"
    found = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise RuntimeError(found.stderr)
    return json.loads(found.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--members", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--here", nargs="*")
    given = parser.parse_args()
    if given.here is not None:
        torch.set_num_threads(given.threads)
        found = {n: timed(n, given.members[0], given.seconds) for n in given.here}
        print(json.dumps(found))
        return
    names = given.methods or list(cases())
    own = Path(__file__).resolve().parents[1]
    trees = [own] if given.against is None else [given.against.resolve(), own]
    print("| method | S | " + " | ".join(f"{t.name}: loss | after" for t in trees) + " |")
    for members in given.members:
        found = [measure(t, names, members, given.threads, given.seconds) for t in trees]
        for name in names:
            cells = [f"{own[name]['loss']:.1f} | {own[name]['after']:.1f}" for own in found]
            print(f"| {name} | {members} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
