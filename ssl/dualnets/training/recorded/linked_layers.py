"""In recorded operations, the layers of a network or head and their gradients, called without a dispatcher.

A forward pass keeps for its backward pass what that would compute again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from dualnets.networks.compiled import operation  # noqa: F401, registers the operators
from dualnets.networks.compiled.passes import BackwardPass, Forward, ForwardPass, Passes


class LinkedForward:
    """`hltm::layers` of certain passes, and third what the backward pass needs.

    Attributes:
        passes, count: the passes, and how many lie side by side.
        keep: whether a backward pass follows.
    """

    __name__ = "layers"  # as graphs call it

    def __init__(self, passes: Passes, count: int) -> None:
        self.passes, self.count, self.keep = passes, count, False

    def __call__(self, features: Tensor, parameters: Sequence[Tensor]) -> Forward:
        return self.passes.forward(features, parameters, self.count, keep=self.keep)

    def bind(self, parameters: Sequence[Tensor], columns: int) -> ForwardPass:
        """The same for parameters that stay where they are and so many columns, in memory of its own."""
        return ForwardPass(self.passes, parameters, columns, self.count, keep=self.keep)


class LinkedBackward:
    """`hltm::layers_backward`, after the forward pass that found this."""

    __name__ = "layers_backward"

    def __init__(self, passes: Passes, count: int, of_inputs: bool) -> None:
        self.passes, self.count, self.of_inputs = passes, count, of_inputs

    def __call__(
        self, features: Tensor, parameters: Sequence[Tensor], arrived: Tensor, found: Forward | None
    ) -> list[Tensor]:
        gradients, inputs = self.passes.backward(
            features, parameters, arrived, self.count, found=found, of_inputs=self.of_inputs
        )
        return gradients if inputs is None else [*gradients, inputs]

    def bind(
        self, parameters: Sequence[Tensor], columns: int, found: ForwardPass | None
    ) -> BackwardPass:
        """The same for parameters that stay where they are and so many columns, in memory of its own."""
        return BackwardPass(
            self.passes, parameters, columns, self.count, found, of_inputs=self.of_inputs
        )


def link_layers(graph: fx.Graph) -> None:
    """Replace the operators of layers in a graph, in place, by the functions above."""
    passes: dict[Any, fx.Node] = {}
    for node in [*graph.nodes]:
        if node.target is torch.ops.hltm.layers.default:
            passes[str(node.args)] = node
            features, parameters, number, count = node.args
            node.target = LinkedForward(Passes.numbered(number), count)
            node.args = features, parameters
        elif node.target is torch.ops.hltm.layers_backward.default:
            features, parameters, arrived, number, count, of_inputs = node.args
            own = passes.get(str((features, parameters, number, count)))
            if own is not None:
                own.target.keep = True  # type: ignore[union-attr]
            node.target = LinkedBackward(Passes.numbered(number), count, of_inputs)
            node.args = features, parameters, arrived, own
