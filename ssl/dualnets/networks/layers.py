"""Member-batched building blocks, batch-last: activations are (S, V, U, B), weights (S, V, U_out, U_in)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hltm.sampling.philox import Stream, uniform


def linear(inputs_SUB: Tensor, weight_SVOU: Tensor, bias_SVO: Tensor | None) -> Tensor:
    """Pre-activations of every block of every member, in one batched product.

    Args:
        inputs_SUB: `(S, V * U_in, B)`: block v reads its share, features v * U_in and up. Children's
            blocks lie side by side, so joining them is a reshape without a copy.
        weight_SVOU: `(S, V, U_out, U_in)`.
        bias_SVO: `(S, V, U_out)` or None.

    Returns:
        `(S * V, U_out, B)`, a tensor of its own and not a view of one, so that a ReLU in place costs
        autograd nothing.
    """
    blocks = weight_SVOU.flatten(0, 1)
    inputs = inputs_SUB.reshape(len(blocks), blocks.shape[2], -1)
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
    stream: Stream = Stream.INIT,
    version: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor | None]:
    """Weights `(S, V, U_out, U_in)` and biases `(S, V, U_out)`, float64, as torch.nn.Linear draws them.

    Both are uniform in ±1/sqrt(U_in). A member's numbers depend on its address alone, so it is the
    same network in an ensemble of any size.

    Args:
        shape: V, U_out, U_in.
        seed: 64 bits.
        members: S addresses.
        layer: which layer, a part of the address.
        bias: whether there are biases.
        stream: another stream's layers are other numbers; heads have one of their own.
        version: how many times this layer was drawn before.
        device: where to draw.
    """
    blocks, outputs, inputs = shape
    bound = inputs**-0.5

    def draw(count: int, part: int) -> Tensor:
        numbers = uniform(
            count,
            seed=seed,
            stream=stream,
            members=members,
            node=layer,
            view=2 * version + part,
            device=device,
        )
        return (2 * numbers - 1) * bound

    weight = draw(blocks * outputs * inputs, 0).view(-1, blocks, outputs, inputs)
    return weight, draw(blocks * outputs, 1).view(-1, blocks, outputs) if bias else None
