"""The same step with torch's own modules: one network and one optimiser per member, in a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from contenders.task import BATCH, Task

Given = dict[str, Tensor]


class Tree(nn.Module):
    """One nn.Linear per node, which reads the units of its children."""

    def __init__(self, weights: Sequence[Tensor], normalized: bool) -> None:
        super().__init__()
        self.normalized = normalized
        self.levels = nn.ModuleList(nn.ModuleList(map(linear, level)) for level in weights)

    def forward(self, leaves: Tensor) -> Tensor:
        hidden = leaves.to(self.levels[0][0].weight.dtype)
        for depth, level in enumerate(self.levels):
            if depth > 0:
                hidden = hidden.relu()
            shares = hidden.chunk(len(level), dim=1)
            outputs = [node(share) for node, share in zip(level, shares, strict=True)]
            hidden = torch.cat(outputs, dim=1)
        return normalize(hidden, dim=1) if self.normalized else hidden

    def tensors(self) -> Given:
        """Parameters by the names of ours, `(V, U_out, U_in)`."""
        return {
            f"weights.{layer}": torch.stack([node.weight.detach() for node in level])
            for layer, level in enumerate(self.levels)
        }

    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters that share a norm in LARS."""
        return [[node.weight for node in level] for level in self.levels]


class Dense(nn.Sequential):
    """A head: linear layers with a BatchNorm1d and a ReLU between them."""

    def tensors(self) -> Given:
        """Parameters by the names of ours, with a block axis in front."""
        linears = [part for part in self if isinstance(part, nn.Linear)]
        return {
            f"{layer}.{name}": own.detach()[None]
            for layer, part in enumerate(linears)
            for name, own in part.named_parameters()
        }

    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters that share a norm in LARS."""
        return [[own] for own in self.parameters()]


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer of given numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


class Member(nn.Module):
    """One member of an ensemble; a method is a subclass.

    Attributes:
        trees: where ours keeps a tree's parameters; those of `network` are trained.
        heads: name of a head -> whether its output is normalised.
    """

    trees: ClassVar[tuple[str, ...]] = ("network",)
    heads: ClassVar[dict[str, bool]] = {}

    def __init__(self, given: Given, method: Any, normalized: bool, trained: set[str]) -> None:
        super().__init__()
        self.method = method
        self.parts = nn.ModuleDict()
        for name in self.trees:
            own = _under(given, f"{name}.weights")
            self.parts[name.replace(".", "/")] = Tree(list(own.values()), normalized)
        for name, last in self.heads.items():
            self.parts[name.replace(".", "/")] = self._head(_under(given, name), last)
        whole = (*self.trees, *self.heads)
        for name, tensor in given.items():
            if not name.startswith(tuple(f"{part}." for part in whole)):
                if name in trained:
                    self.register_parameter(name, nn.Parameter(tensor.clone()))
                else:
                    self.register_buffer(name, tensor.clone())
        for name in whole:
            if not any(own.startswith(f"{name}.") for own in trained):
                self.part(name).requires_grad_(False)

    @staticmethod
    def _head(given: Given, last_norm: bool) -> Dense:
        count = len([name for name in given if name.endswith("weight")])
        parts: list[nn.Module] = []
        for layer in range(count):
            weight, bias = given[f"{layer}.weight"][0], given.get(f"{layer}.bias")
            parts.append(linear(weight, None if bias is None else bias[0]))
            last = layer == count - 1
            if not last or last_norm:
                width = len(weight)
                parts.append(nn.BatchNorm1d(width, affine=False, track_running_stats=False))
            if not last:
                parts.append(nn.ReLU())
        return Dense(*parts)

    def part(self, name: str) -> nn.Module:
        """A tree or a head by the name that ours has for it."""
        return self.parts[name.replace(".", "/")]

    def outputs(self, views: Sequence[Tensor], name: str = "network") -> list[Tensor]:
        """`(B, U)` of every view."""
        return list(self.part(name)(torch.cat(list(views))).split(BATCH))

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        """The loss of `(B, X)` views."""
        raise NotImplementedError

    @torch.no_grad()
    def after(self) -> None:
        """What follows the optimiser's update."""

    def move(self, slow: str, online: str, decay: float) -> None:
        """Move the parameters of a part towards another part's: the moving average of a target."""
        pairs = zip(self.part(slow).parameters(), self.part(online).parameters(), strict=True)
        for target, own in pairs:
            target.lerp_(own, 1 - decay)

    def layers(self) -> list[list[nn.Parameter]]:
        """All trained parameters, in the groups that share a norm in LARS."""
        found = [own for part in self.parts.values() for own in part.layers()]
        found += [[own] for own in self.parameters(recurse=False)]
        return [own for own in found if own[0].requires_grad]

    def tensors(self) -> Given:
        """Everything that training changes, by the names of ours."""
        found = {
            f"{name.replace('/', '.')}.{rest}": tensor
            for name, part in self.parts.items()
            for rest, tensor in part.tensors().items()
        }
        own = (*self.named_parameters(recurse=False), *self.named_buffers(recurse=False))
        return found | {name: tensor.detach().clone() for name, tensor in own}


def _under(given: Given, prefix: str) -> Given:
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in given.items() if n.startswith(start)}


class LARS:
    """You, Gitman, Ginsburg (arXiv 1708.03888), which torch does not have; biases have plain momentum."""

    def __init__(self, layers: list[list[nn.Parameter]], given: Any) -> None:
        self.given = given
        self.layers = [(own, [torch.zeros_like(p) for p in own]) for own in layers]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameters, _ in self.layers:
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        lr, decay, trust = self.given.lr, self.given.weight_decay, self.given.trust
        for parameters, velocities in self.layers:
            gradients = [parameter.grad for parameter in parameters]
            if parameters[0].ndim > 1:
                size, slope = (
                    torch.stack(torch._foreach_norm(own)).norm() for own in (parameters, gradients)
                )
                gradients = torch._foreach_add(gradients, parameters, alpha=decay)
                torch._foreach_mul_(gradients, trust * size / (slope + decay * size))
            torch._foreach_mul_(velocities, self.given.momentum)
            torch._foreach_add_(velocities, gradients, alpha=lr)
            torch._foreach_sub_(parameters, velocities)


def make_optimizer(name: str, given: Any, layers: list[list[nn.Parameter]]) -> Any:
    """torch's own optimiser with the settings of ours."""
    trained = [parameter for own in layers for parameter in own]
    if name == "lars":
        return LARS(layers, given)
    if name == "adamw":
        betas = (given.beta1, given.beta2)
        return torch.optim.AdamW(
            trained, given.lr, betas, given.epsilon, weight_decay=given.weight_decay
        )
    return torch.optim.SGD(trained, given.lr, given.momentum, weight_decay=given.weight_decay)


class Modules:
    """Members one after the other, an optimiser each; data drawn for all of them at once, by hltm."""

    def __init__(self, task: Task, at_most: int | None = None) -> None:
        from contenders.modules_methods import METHODS

        self.task = task
        given, method = task.initial(), task.config.method
        self.members = range(min(task.members, at_most or task.members))
        self.parts = [
            METHODS[task.method](
                {name: tensor[s] for name, tensor in given.items()},
                method,
                task.network.normalize,
                task.trained(),
            ).to(task.device)
            for s in self.members
        ]
        self.optimizers = [
            make_optimizer(task.optimizer, task.config.optimizer, part.layers())
            for part in self.parts
        ]
        self.data = task.data.of_members(0, len(self.members))

    def train(self, first_step: int, steps: int) -> None:
        """Draw and train."""
        count = self.task.needs.views + self.task.needs.negatives
        for batch in self.data.batches(self.task.needs, first_step, steps):
            for s, (part, optimizer) in enumerate(zip(self.parts, self.optimizers, strict=True)):
                views = batch.leaves[s].split(BATCH)
                assert len(views) == count
                targets = None if batch.targets is None else batch.targets[s]
                loss = part.loss(views, batch._replace(targets=targets))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                part.after()

    def tensors(self) -> Given:
        """What has been trained, by the names of ours."""
        members = [part.tensors() for part in self.parts]
        return {name: torch.stack([m[name] for m in members]) for name in members[0]}

    def check(self) -> None:
        """Raise RuntimeError where a member is not finite."""
        floats = (own for own in self.tensors().values() if own.is_floating_point())
        if not all(bool(own.isfinite().all()) for own in floats):
            raise RuntimeError(f"members of {self.task.method} have diverged")
