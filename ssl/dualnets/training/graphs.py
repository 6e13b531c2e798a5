"""Loss, gradients and update of a step as one CUDA graph: recorded on the device once, then launched at once.

A step of a small ensemble is hundreds of short kernels, whose launches take longer than their work. A graph
has no inputs of its own: batch, state and the number of the step are copied into tensors that it reads,
and parameters and the optimiser's memory are changed where they lie. `after_step` stays outside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Batch, State
from dualnets.training.eager import Gradients, Update, differentiate
from dualnets.training.state import TrainConfig, TrainState, trained_tensors

WARM_UP = 3  # steps before the recording, in which torch and its libraries allocate what they keep


class Graph:
    """A step of a network on a CUDA device whose operations are the same every time.

    Args:
        network, config, before: what is trained, in place; the recording leaves it as it is.
        batch: any, for shapes.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, before: TrainState, batch: Batch
    ) -> None:
        self.config = config
        copies: dict[str, Any] = {
            name: own.clone() for name, own in batch._asdict().items() if isinstance(own, Tensor)
        }
        self.batch = batch._replace(**copies)
        trained = trained_tensors(network, before.state)
        self.state = {
            name: own if own.requires_grad else own.clone() for name, own in before.state.items()
        }
        self.step = torch.zeros((), dtype=torch.int64, device=before.frozen_at.device)
        self.frozen_at = before.frozen_at.clone()
        self.update = Update(network, config, before, self.frozen_at)
        self.fixed = [*trained.values(), *before.memory.values(), *network.buffers()]
        kept = [own.detach().clone() for own in self.fixed]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._advance(network)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.found = self._advance(network)
        with torch.no_grad():
            for own, value in zip(self.fixed, kept, strict=True):
                own.copy_(value)

    def _advance(self, network: nn.Module) -> Gradients:
        found = differentiate(network, self.config, self.state, self.batch)
        self.update(found, self.step)
        return found

    @torch.no_grad()
    def __call__(
        self, state: State, batch: Batch, step: int, frozen_at: Tensor
    ) -> tuple[Tensor, State, bool]:
        """Advance by one step; see `eager.Advance`."""
        for name, own in self.state.items():
            if not own.requires_grad:
                own.copy_(state[name], non_blocking=True)
        for mine, given in zip(self.batch, batch, strict=True):
            if isinstance(mine, Tensor) and isinstance(given, Tensor):
                mine.copy_(given, non_blocking=True)
        self.step.fill_(step)
        self.frozen_at.copy_(frozen_at)
        self.graph.replay()
        frozen_at.copy_(self.frozen_at)
        losses, _, carried = self.found
        # what the next launch overwrites is copied
        return losses.clone(), {name: own.clone() for name, own in carried.items()}, False

    def fits(self, network: nn.Module, config: TrainConfig, before: TrainState) -> bool:
        """Whether this is a graph of that training, whose tensors still lie where they did."""
        now = [
            *trained_tensors(network, before.state).values(), *before.memory.values(), *network.buffers()
        ]  # fmt: skip
        return (
            config.method is self.config.method
            and len(now) == len(self.fixed)
            and all(a is b for a, b in zip(now, self.fixed, strict=True))
            and self.state.keys() == before.state.keys()
        )
