"""In recorded operations, the layers of a network or head and their gradients, called without a dispatcher.

A forward pass keeps for its backward pass what that would compute again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from dualnets.networks.compiled import operation  # noqa: F401, registers the operators
from dualnets.networks.compiled.passes import Forward, Passes


def forward(
    features: Tensor, parameters: Sequence[Tensor], number: int, count: int, keep: bool
) -> Forward:
    """`hltm::layers`, and third what the backward pass needs."""
    return Passes.numbered(number).forward(features, parameters, count, keep=keep)


def backward(
    features: Tensor, parameters: Sequence[Tensor], arrived: Tensor, number: int, count: int,
    of_inputs: bool, found: Forward | None,
) -> list[Tensor]:  # fmt: skip
    """`hltm::layers_backward`, after the `forward` that found this."""
    gradients, inputs = Passes.numbered(number).backward(
        features, parameters, arrived, count, of_inputs=of_inputs, found=found
    )
    return gradients if inputs is None else [*gradients, inputs]


def link_layers(graph: fx.Graph) -> None:
    """Replace the operators of layers in a graph, in place, by the functions above."""
    passes: dict[Any, fx.Node] = {}
    for node in [*graph.nodes]:
        if node.target is torch.ops.hltm.layers.default:
            node.target, node.args = forward, (*node.args, False)
            passes[str(node.args[:4])] = node
        elif node.target is torch.ops.hltm.layers_backward.default:
            features, parameters, _, *rest = node.args
            own = passes.get(str((features, parameters, *rest[:2])))
            if own is not None:
                own.update_arg(4, True)
            node.target, node.args = backward, (*node.args, own)
