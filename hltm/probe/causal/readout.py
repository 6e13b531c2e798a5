"""What a network answers about a latent: a linear probe of its output, or any function of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hltm.probe.metrics.linear_probe import LinearProbe

Readout = Callable[[Tensor], Tensor] | Literal["output"] | None
Answer = Callable[[Tensor], Tensor]  # outputs (S, B, O) -> (S, B, K)


def check_readout(readout: Readout) -> None:
    """Raise for what is neither None, 'output' nor a function.

    Raises:
        ValueError: as described.
    """
    if not (readout is None or readout == "output" or callable(readout)):
        raise ValueError(f"readout must be None, 'output' or a function, got {readout!r}"[:290])


class AnswerFit:
    """The answer of a network about a latent of K states, `(S, B, K)` from outputs `(S, B, O)`.

    Args:
        readout: None for a linear probe, which is fitted to the rows of `update`; `output` where the
            K numbers of the output are the answer; or a function `(S, B, O) -> (S, B, K)` of float64
            outputs, where S is there for a single network too.
        states: K.
    """

    def __init__(self, readout: Readout, states: int) -> None:
        self.readout, self.states = readout, states
        self.probe = LinearProbe(states)

    def update(self, outputs: Tensor, states: Tensor) -> None:
        """Add outputs `(S, B, O)` and states `(S, B)` of rows to fit on."""
        if self.readout is None:
            self.probe.update(outputs.transpose(1, 2), states[:, None])

    def result(self) -> Answer:
        """The function, which checks the shape of what it returns."""
        if self.readout is None:
            fitted = self.probe.result()
            weight, intercept = (
                fitted.weight[..., 0, :],
                fitted.intercept[..., 0, :],
            )  # (S, O, K), (S, K)
            return lambda outputs: outputs @ weight + intercept[:, None]
        function = (lambda outputs: outputs) if self.readout == "output" else self.readout

        def answer(outputs: Tensor) -> Tensor:
            found = torch.as_tensor(function(outputs)).double()
            if found.shape != (*outputs.shape[:2], self.states):
                expected = (*outputs.shape[:2], self.states)
                raise ValueError(
                    f"the readout has shape {tuple(found.shape)}, expected {expected}: members, rows, "
                    "and the states of the target"
                )
            return found

        return answer
