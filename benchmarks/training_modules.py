"""The same step with torch's own modules: one network per member, one nn.Linear per latent, in a loop."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize, softplus
from training_task import BATCH, DECAY, EMA, MOMENTUM, TEMPERATURE, Task


class Tree(nn.Module):
    """A node reads the units of its children."""

    def __init__(self, weights: list[Tensor], normalized: bool) -> None:
        super().__init__()
        self.normalized = normalized
        self.levels = nn.ModuleList(nn.ModuleList(_linear(w) for w in level) for level in weights)

    def forward(self, leaves: Tensor) -> Tensor:
        hidden = leaves.to(self.levels[0][0].weight.dtype)
        for depth, level in enumerate(self.levels):
            if depth > 0:
                hidden = hidden.relu()
            shares = hidden.chunk(len(level), dim=1)
            outputs = [node(share) for node, share in zip(level, shares, strict=True)]
            hidden = torch.cat(outputs, dim=1)
        return normalize(hidden, dim=1) if self.normalized else hidden


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer of given numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


class Modules:
    """Members one after the other, an optimiser each; data drawn for all of them at once, by hltm."""

    def __init__(self, task: Task, at_most: int | None = None) -> None:
        self.task = task
        given = task.initial()
        self.members = range(min(task.members, at_most or task.members))
        self.parts = [self._member(given, s) for s in self.members]
        self.optimizers = [self._optimizer(part) for part in self.parts]

    def _member(self, given: dict[str, Tensor], s: int) -> nn.ModuleDict:
        layers = len(self.task.network.weights)
        weights = [given[f"network.weights.{layer}"][s] for layer in range(layers)]
        found = {"tree": Tree(weights, self.task.network.normalize)}
        if self.task.method == "BYOL":
            for name in ("projector", "predictor"):
                first, second = (
                    _linear(
                        given[f"{name}.{layer}.weight"][s, 0], given[f"{name}.{layer}.bias"][s, 0]
                    )
                    for layer in (0, 1)
                )
                norm = nn.BatchNorm1d(32, affine=False, track_running_stats=False)
                found[name] = nn.Sequential(first, norm, nn.ReLU(), second)
            found["target_tree"] = copy.deepcopy(found["tree"]).requires_grad_(False)
            found["target_projector"] = copy.deepcopy(found["projector"]).requires_grad_(False)
        return nn.ModuleDict(found).to(self.task.device)

    def _optimizer(self, part: nn.ModuleDict) -> torch.optim.SGD:
        trained = [p for p in part.parameters() if p.requires_grad]
        if self.task.method == "SimCLR":
            return torch.optim.SGD(trained, lr=0.1)
        return torch.optim.SGD(trained, lr=0.03, momentum=MOMENTUM, weight_decay=DECAY)

    def train(self, first_step: int, steps: int) -> None:
        """Draw and train."""
        data = self.task.data
        if len(self.members) < self.task.members:
            data = data.of_members(0, len(self.members))
        loss_of = self._simclr if self.task.method == "SimCLR" else self._byol
        for batch in data.batches(self.task.needs, first_step, steps):
            for part, optimizer, leaves in zip(
                self.parts, self.optimizers, batch.leaves, strict=True
            ):
                loss = loss_of(part, leaves)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if self.task.method == "BYOL":
                    self._follow(part)

    @staticmethod
    def _simclr(part: nn.ModuleDict, leaves: Tensor) -> Tensor:
        anchor, positive, negative = part["tree"](leaves).split(BATCH)
        near, far = ((anchor - other).square().sum(1) / 2 for other in (positive, negative))
        return TEMPERATURE * softplus((near - far) / TEMPERATURE).mean()

    @staticmethod
    def _byol(part: nn.ModuleDict, leaves: Tensor) -> Tensor:
        first, second = (part["projector"](y) for y in part["tree"](leaves).split(BATCH))
        with torch.no_grad():
            outputs = part["target_tree"](leaves).split(BATCH)
            slow_first, slow_second = (part["target_projector"](y) for y in outputs)
        total = 0
        for online, target in ((first, slow_second), (second, slow_first)):
            total += (2 - 2 * cosine_similarity(part["predictor"](online), target)).mean()
        return total

    @staticmethod
    @torch.no_grad()
    def _follow(part: nn.ModuleDict) -> None:
        for name in ("tree", "projector"):
            own, slow = part[name].parameters(), part[f"target_{name}"].parameters()
            for p, q in zip(own, slow, strict=True):
                q.lerp_(p, 1 - EMA)

    def tensors(self) -> dict[str, Tensor]:
        """What has been trained, by the names of ours."""
        members = [self._named(part) for part in self.parts]
        return {name: torch.stack([m[name] for m in members]) for name in members[0]}

    @staticmethod
    def _named(part: nn.ModuleDict) -> dict[str, Tensor]:
        found = {}
        for name, module in part.items():
            prefix = "target." if name.startswith("target_") else ""
            name = name.removeprefix("target_")
            if name == "tree":
                for layer, level in enumerate(module.levels):
                    weights = [node.weight.detach() for node in level]
                    found[f"{prefix}network.weights.{layer}"] = torch.stack(weights)
                continue
            for layer, linear in enumerate((module[0], module[3])):
                found[f"{prefix}{name}.{layer}.weight"] = linear.weight.detach()[None]
                found[f"{prefix}{name}.{layer}.bias"] = linear.bias.detach()[None]
        return found
