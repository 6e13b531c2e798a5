"""Layers of all members as one batched product.

Storage is batch-last: activations are (S, V, U, B), weights (S, V, U_out, U_in).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dualnets._lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from hltm.sampling.philox import Stream


def linear(inputs_SUB: Tensor, weight_SVOU: Tensor, bias_SVO: Tensor | None) -> Tensor:
    """Pre-activations of every block of every member, in one batched product.

    Args:
        inputs_SUB: `(S, V * U_in, B)`: block v reads U_in features from number v * U_in on. The
            blocks of a node's children lie side by side, so joining them is a reshape without a copy.
        weight_SVOU: `(S, V, U_out, U_in)`.
        bias_SVO: `(S, V, U_out)` or None.

    Returns:
        `(S * V, U_out, B)`, a new tensor and not a view, so that a ReLU in place costs autograd
        nothing.
    """
    blocks = weight_SVOU.flatten(0, 1)
    inputs = inputs_SUB.reshape(len(blocks), blocks.shape[2], inputs_SUB.shape[-1])
    if bias_SVO is None:
        return torch.bmm(blocks, inputs)
    return torch.baddbmm(bias_SVO.flatten(0, 1)[..., None], blocks, inputs)


def initial_parameters(
    shape: tuple[int, int, int],
    *,
    seed: int,
    members: Sequence[int],
    layer: int,
    bias: bool,
    stream: Stream | None = None,
    version: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor | None]:
    """Initial weights `(S, V, U_out, U_in)` and biases `(S, V, U_out)`, float64.

    As those of torch.nn.Linear, both are uniform in ±1/sqrt(U_in). The numbers of a member depend on
    its address alone, so it is the same network in an ensemble of any size.

    Args:
        shape: V, U_out, U_in.
        seed: 64 bits.
        members: S addresses.
        layer: number of the layer, a part of the address.
        bias: whether there are biases.
        stream: of the random numbers; that of initial weights by default, heads have their own.
        version: number of times this layer was drawn before, a part of the address.
        device: where to draw.
    """
    from hltm.sampling.philox import Stream, uniform

    stream = Stream.INIT if stream is None else stream
    blocks, outputs, inputs = shape
    bound = inputs**-0.5

    def draw(count: int, part: int) -> Tensor:
        numbers = uniform(
            count, seed=seed, stream=stream, members=members, node=layer, view=2 * version + part,
            device=device,
        )  # fmt: skip
        return (2 * numbers - 1) * bound

    weight = draw(blocks * outputs * inputs, 0).view(-1, blocks, outputs, inputs)
    return weight, draw(blocks * outputs, 1).view(-1, blocks, outputs) if bias else None
