"""What a training changes, and what it does not."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dualnets._precision import at_least_float32
from dualnets.methods.protocol import Method, State, TrainContext
from dualnets.optim.optimizers import Optimizer
from dualnets.training.rows import Rows

Precision = Literal["float32", "bfloat16"]


class TrainState(NamedTuple):
    """What changes during training, beside the network's parameters.

    Attributes:
        state: the method's.
        memory: the optimiser's.
        losses: `(S,)` of the last step; NaN before the first.
        frozen_at: `(S,)` int64, the step at which a loss, a gradient, or what an update makes of
            parameters and state was not finite, so that the member was frozen as it was before; -1 for a
            member that is trained.
    """

    state: State
    memory: dict[str, Tensor]
    losses: Tensor
    frozen_at: Tensor


class TrainConfig(NamedTuple):
    """What does not change during training.

    Attributes:
        method, optimizer: how to train.
        data: the rows to train on.
        context: what the method may know of the training.
        precision: `bfloat16` runs networks under autocast; parameters, heads and losses keep their
            own precision.
    """

    method: Method
    optimizer: Optimizer
    data: Rows
    context: TrainContext
    precision: Precision = "float32"

    def init(self, network: nn.Module) -> TrainState:
        """The state before the first step.

        Raises:
            ValueError: bfloat16 for a network of float64, which autocast leaves as it is.
        """
        parameter = next(network.parameters())
        if self.precision == "bfloat16" and parameter.dtype == torch.float64:
            raise ValueError(
                "precision bfloat16 is for networks of float32, the parameters are torch.float64"
            )
        state = self.method.init(network, self.context)
        members = len(parameter)
        return TrainState(
            state,
            self.optimizer.init(trained_tensors(network, state)),
            torch.full_like(at_least_float32(parameter.detach()).flatten(1)[:, 0], torch.nan),
            torch.full((members,), -1, device=parameter.device),
        )

    def of_members(self, low: int, high: int) -> TrainConfig:
        """The configuration for members low .. high - 1 alone."""
        data = self.data.of_members(low, high)
        return self._replace(
            method=self.method.of_members(low, high),
            optimizer=self.optimizer.of_members(low, high),
            data=data,
            context=self.context._replace(source=data.source),
        )


def trained_tensors(network: nn.Module, state: State) -> dict[str, Tensor]:
    """All tensors that the optimiser changes, under names `network.…` and `state.…`."""
    found: dict[str, Tensor] = {f"network.{name}": p for name, p in network.named_parameters()}
    return found | {f"state.{n}": tensor for n, tensor in state.items() if tensor.requires_grad}
