"""Loss, gradients and update of a step as one CUDA graph: recorded on the device once, then launched at once.

A step of a small ensemble is hundreds of short kernels, whose launches take longer than their work. A graph
has no inputs of its own: batch, state and the number of the step are copied into tensors that it reads,
and parameters and the optimiser's memory are changed where they lie. `after_step` stays outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Batch, State
from dualnets.training.eager import Update, differentiate
from dualnets.training.state import TrainConfig, TrainState, trained_tensors

WARM_UP = 3  # steps before the recording, in which torch and its libraries allocate what they keep
_alive: WeakSet[Graph] = WeakSet()


class Graph:
    """A step of a network on a CUDA device whose operations are the same every time.

    All graphs of a device have one stream and one pool of memory, in which what one writes on the way may
    lie where another's does: they are launched one after the other, and of what a graph gives, which is its
    own, copies are returned.

    Args:
        network, config, before: what is trained, in place; the recording leaves it as it is.
        batch: any, for shapes.

    Raises:
        RuntimeError: it cannot be recorded.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, before: TrainState, batch: Batch
    ) -> None:
        self.method, self.optimizer, self.context = config.method, config.optimizer, config.context
        self.device = before.frozen_at.device
        copies: dict[str, Any] = {
            name: own.clone() for name, own in batch._asdict().items() if isinstance(own, Tensor)
        }
        self.batch = batch._replace(**copies)
        self.state = {
            name: own if own.requires_grad else own.clone() for name, own in before.state.items()
        }
        self.step = torch.zeros((), dtype=torch.int64, device=self.device)
        self.frozen_at = before.frozen_at.clone()
        update = Update(network, config, before, self.frozen_at)
        self.fixed = _in_place(network, before)
        self.places = [own.data_ptr() for own in self.fixed]

        def advance() -> tuple[Tensor, State]:
            found = differentiate(network, config, self.state, self.batch)
            update(found, self.step)
            return found[0], found[2]

        kept = [own.detach().clone() for own in self.fixed]
        # streams and pools belong to the current device
        with torch.cuda.device(self.device):
            try:
                self._record(advance)
            finally:  # also where it cannot be recorded
                with torch.no_grad():
                    for own, value in zip(self.fixed, kept, strict=True):
                        own.copy_(value)
        _alive.add(self)

    def _record(self, advance: Callable[[], tuple[Tensor, State]]) -> None:
        """Warm up and record, on the same stream, which is not the one that others work on."""
        other = next((own for own in _alive if own.device == self.device), None)
        self.stream = torch.cuda.Stream() if other is None else other.stream
        self.graph = torch.cuda.CUDAGraph()
        now = torch.cuda.current_stream()
        # the outer one, as a recording that fails does not go back to the stream it came from
        with torch.cuda.stream(now):
            self.stream.wait_stream(now)
            with torch.cuda.stream(self.stream):
                for _ in range(WARM_UP):
                    advance()
            now.wait_stream(self.stream)
            with torch.cuda.graph(
                self.graph, pool=None if other is None else other.graph.pool(), stream=self.stream,
                # other threads, which draw ahead, may allocate and wait meanwhile
                capture_error_mode="thread_local",
            ):  # fmt: skip
                self.losses, self.carried = advance()

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
        with torch.cuda.device(self.device):
            self.graph.replay()
        frozen_at.copy_(self.frozen_at)
        # what the next launch overwrites is copied
        carried = {name: own.clone() for name, own in self.carried.items()}
        return self.losses.clone(), carried, False

    def fits(self, network: nn.Module, config: TrainConfig, before: TrainState) -> bool:
        """Whether this is a graph of that training, whose tensors still lie where they did."""
        now = _in_place(network, before)
        return (
            config.method is self.method
            and config.optimizer is self.optimizer
            and config.context is self.context
            and len(now) == len(self.fixed)
            and all(a is b for a, b in zip(now, self.fixed, strict=True))
            and [own.data_ptr() for own in now] == self.places
            and self.state.keys() == before.state.keys()
        )


def _in_place(network: nn.Module, before: TrainState) -> list[Tensor]:
    """What a step changes where it lies: trained tensors, the optimiser's memory, and buffers."""
    trained = trained_tensors(network, before.state)
    return [*trained.values(), *before.memory.values(), *network.buffers()]
