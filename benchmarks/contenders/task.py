"""What is trained: methods, optimisers, and the ensemble from which every contender starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dualnets
import hltm
from dualnets.methods.protocol import TrainContext
from dualnets.networks.running_moments import RUNNING
from dualnets.training.data import FixedData, FreshData
from dualnets.training.steps import TrainConfig, train_steps_eager, trained_tensors

DEPTH, UNITS, TEACHER_UNITS, BATCH = 5, 10, 5, 128
SAMPLES = 4096  # of a fixed data set, for methods that remember every sample
STEPS = 100_000  # of the whole training, which matters to schedules alone


class Method(NamedTuple):
    """A method of the benchmark.

    Attributes:
        title: as tables show it.
        make: (trees, dtype, device) -> the method.
        normalize: whether the network's outputs have length 1.
    """

    title: str
    make: Callable[[hltm.LatentTree, torch.dtype, str], Any]
    normalize: bool = False


def _contrastive(title: str, criterion: Any) -> Method:
    return Method(title, lambda *_: dualnets.SimCLR(criterion), True)


def _teacher_student(trees: hltm.LatentTree, dtype: torch.dtype, device: str) -> Any:
    teacher = dualnets.tree_network(trees, units=TEACHER_UNITS, seed=7, dtype=dtype, device=device)
    return dualnets.TeacherStudent(teacher, readout=dualnets.Head((TEACHER_UNITS,), bias=False))


METHODS = {
    "simclr": _contrastive("SimCLR, InfoNCE", dualnets.InfoNCE()),
    "simple": _contrastive("SimCLR, Simple", dualnets.Simple()),
    "triplet": _contrastive("SimCLR, Triplet", dualnets.Triplet()),
    "ntxent": _contrastive("SimCLR, NTXent", dualnets.NTXent()),
    "batchwise-nce": _contrastive("SimCLR, BatchwiseNCE", dualnets.BatchwiseNCE()),
    "byol": Method("BYOL", lambda *_: dualnets.BYOL()),
    "simsiam": Method("SimSiam", lambda *_: dualnets.SimSiam()),
    "moco": Method("MoCo", lambda *_: dualnets.MoCo()),
    "swav": Method("SwAV", lambda *_: dualnets.SwAV()),
    "pirl": Method("PIRL", lambda *_: dualnets.PIRL()),
    "barlow-twins": Method("Barlow Twins", lambda *_: dualnets.BarlowTwins()),
    "vicreg": Method("VICReg", lambda *_: dualnets.VICReg()),
    "supervised": Method("supervised", lambda *_: dualnets.Supervised()),
    "teacher-student": Method("teacher-student", _teacher_student),
}
OPTIMIZERS = {
    "sgd": dualnets.SGD(0.03, momentum=0.9, weight_decay=4e-4),
    "adamw": dualnets.AdamW(1e-3, weight_decay=0.01),
    "lars": dualnets.LARS(0.1, weight_decay=4e-4),
}
PLAIN = dualnets.SGD(0.1)  # as `hltm run emergence` trains SimCLR


def optimizer_of(method: str, optimizer: str) -> Any:
    """The optimiser; SGD is plain for contrastive losses and has momentum and weight decay elsewhere."""
    return PLAIN if optimizer == "sgd" and METHODS[method].normalize else OPTIMIZERS[optimizer]


@dataclass
class Task:
    """An ensemble to be trained: depth 5, 10 units, batch 128, views that share the root.

    Attributes:
        method, optimizer: keys of METHODS and OPTIMIZERS.
        members: S.
        make: (trees, keywords) -> network; a tree network of 10 units by default.
    """

    method: str
    optimizer: str
    members: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    make: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        trees = hltm.symmetric_binary(depth=DEPTH, members=self.members, seed=0)
        _, make_method, normalize = METHODS[self.method]
        method = make_method(trees, self.dtype, self.device)
        given = {"dtype": self.dtype, "device": self.device, "normalize": normalize, "seed": 1}
        make = self.make or (lambda own, **rest: dualnets.tree_network(own, units=UNITS, **rest))
        self.network = make(trees, **given)
        rows = (trees, trees.members, hltm.keep_root(), BATCH, 2, True, torch.device(self.device))
        samples = SAMPLES if method.needs.places else None
        self.data = FreshData(*rows) if samples is None else FixedData(*rows, samples=samples)
        context = TrainContext(trees, 2, STEPS, BATCH, samples)
        self.config = TrainConfig(
            method, optimizer_of(self.method, self.optimizer), self.data, context
        )
        self.needs = method.needs

    def initial(self) -> dict[str, Tensor]:
        """All tensors that a step needs or changes, by name, `(S, …)`."""
        return named(self.network, self.config.init(self.network).state)

    def trained(self) -> set[str]:
        """The names of those that the optimiser changes."""
        state = self.config.init(self.network).state
        return {n.removeprefix("state.") for n in trained_tensors(self.network, state)}


def named(network: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of a network and a method's state by one kind of name, copied."""
    found = {n.removeprefix("state."): t for n, t in trained_tensors(network, state).items()}
    # running moments are for evaluation, which is not timed: contenders need not have them
    state = {n: t for n, t in state.items() if not n.endswith(RUNNING)}
    return {n: t.detach().clone() for n, t in (found | state).items()}


class Own:
    """hltm as it runs by itself: `dualnets.trajectory`, asked for a network after every call's steps."""

    # a call ends with a copy of the ensemble, so it should have many steps and take longer than others
    most, longer = STEPS, 4

    def __init__(self, task: Task) -> None:
        self.task, self.stride = task, 0

    def train(self, first_step: int, steps: int) -> None:
        """Draw and train; with another number of steps than before, from the start again."""
        if steps != self.stride:
            task, self.stride = self.task, steps
            self.run = dualnets.trajectory(
                task.network, task.config.method, task.data.trees, augment=task.data.augment,
                steps=STEPS, batch=BATCH, optimizer=task.config.optimizer, seed=task.data.seed,
                samples=task.config.context.samples, snapshots=range(0, STEPS, steps),
            )  # fmt: skip
            next(self.run)
        self.now = next(self.run)

    def tensors(self) -> dict[str, Tensor]:
        """What has been trained, by name."""
        return named(self.now.network, self.now.state)

    def check(self) -> None:
        """Raise RuntimeError where a member has been frozen: its steps cost nothing."""
        _check_none_frozen(self.now.frozen_at, self.task)


class Eager:
    """hltm in plain eager torch, all members in one product."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.now = task.config.init(task.network)

    def train(self, first_step: int, steps: int) -> None:
        """Draw and train."""
        task = self.task
        self.now = train_steps_eager(task.network, task.config, self.now, first_step, steps)

    def tensors(self) -> dict[str, Tensor]:
        """What has been trained, by name."""
        return named(self.task.network, self.now.state)

    def check(self) -> None:
        """Raise RuntimeError where a member has been frozen."""
        _check_none_frozen(self.now.frozen_at, self.task)


def _check_none_frozen(frozen_at: Tensor, task: Task) -> None:
    if bool((frozen_at >= 0).any()):
        raise RuntimeError(f"members of {task.method} have diverged under {task.optimizer}")
