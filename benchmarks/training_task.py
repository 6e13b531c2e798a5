"""What is trained in the benchmark, and ours: the contenders start from the same numbers and rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import dualnets
import hltm
from dualnets.methods.protocol import TrainContext
from dualnets.networks.heads import RUNNING
from dualnets.training.data import FreshData
from dualnets.training.steps import TrainConfig, train_steps, train_steps_eager, trained_tensors

DEPTH, UNITS, BATCH = 5, 10, 128
TEMPERATURE, MOMENTUM, DECAY, EMA = 0.1, 0.9, 4e-4, 0.99
METHODS = {
    "SimCLR": (dualnets.SimCLR(dualnets.InfoNCE(TEMPERATURE)), True, dualnets.SGD(0.1)),
    "BYOL": (
        dualnets.BYOL(
            dualnets.Head((32, 16), norm=dualnets.BatchNorm()),
            dualnets.Head((32, 16), norm=dualnets.BatchNorm()),
            ema_decay=EMA,
        ),
        False,
        dualnets.SGD(0.03, momentum=MOMENTUM, weight_decay=DECAY),
    ),
}


@dataclass
class Task:
    """An ensemble to be trained: depth 5, 10 units, batch 128, views that share the root."""

    method: str
    members: int
    device: str
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        trees = hltm.symmetric_binary(depth=DEPTH, members=self.members, seed=0)
        method, normalize, optimizer = METHODS[self.method]
        self.network = dualnets.tree_network(
            trees, units=UNITS, seed=1, normalize=normalize, dtype=self.dtype, device=self.device
        )
        self.data = FreshData(
            trees, trees.members, hltm.keep_root(), BATCH, 2, True, torch.device(self.device)
        )
        context = TrainContext(trees, 2, 100_000, BATCH)
        self.config = TrainConfig(method, optimizer, self.data, context)
        self.needs = method.needs

    def initial(self) -> dict[str, Tensor]:
        """All tensors that training changes, by name, `(S, …)`."""
        return _named(self.network, self.config.init(self.network).state)


def _named(network, state) -> dict[str, Tensor]:
    found = {n.removeprefix("state."): t for n, t in trained_tensors(network, state).items()}
    # running moments are for evaluation, which is not timed: contenders need not have them
    state = {n: t for n, t in state.items() if not n.endswith(RUNNING)}
    return {n: t.detach().clone() for n, t in (found | state).items()}


class Ours:
    """hltm, compiled where that is supported, or in plain torch."""

    def __init__(self, task: Task, *, eager: bool = False) -> None:
        self.task, self.run = task, train_steps_eager if eager else train_steps
        self.now = task.config.init(task.network)

    def train(self, first_step: int, steps: int) -> None:
        """Draw and train."""
        self.now = self.run(self.task.network, self.task.config, self.now, first_step, steps)

    def tensors(self) -> dict[str, Tensor]:
        """What has been trained, by name."""
        return _named(self.task.network, self.now.state)
