"""A small transformer over leaves: all members in one batched product, causal or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from dualnets._checks import check_choice, check_switch, check_whole
from dualnets.networks.layers import initial_parameters
from dualnets.networks.network import network_members
from dualnets.networks.sequence_network import Scale, SequenceNetwork, standardised
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

Places = Literal["learned", "rotary"]
BASE = 10000.0  # of the wavelengths of rotary positions


class TransformerBlock(nn.Module):
    """h ← h + W_o attention(norm(h)), then h ← h + W_down ReLU(W_up norm(h)), of S members at once.

    Args:
        heads: of attention, each with U / heads of the units.
        width, mlp_width: U and the hidden units of the second part.
        leaves: X, their number.
        causal: whether position i reads positions up to i alone.
        rotary: whether queries and keys are rotated by their positions.
        seed, members: of the weights, uniform in ±1/sqrt(inputs) as torch.nn.Linear's.
        layer: the number of the block, from 1, a part of the weights' address.

    Attributes:
        read: `(S, 3 U, U)`, the rows of queries, keys and values, each head by head.
        write: `(S, U, U)`, W_o.
        up, down: `(S, mlp_width, U)` and `(S, U, mlp_width)`.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_width: int,
        leaves: int,
        causal: bool,
        rotary: bool,
        seed: int,
        members: Sequence[int],
        layer: int,
    ) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        # cosines and sines, `(X, U / heads / 2)` each; no buffers, since every buffer has S in front
        self.turns: tuple[Tensor, Tensor] | None = None
        if rotary:
            angles = rotary_angles(leaves, width // heads)
            self.turns = angles.cos(), angles.sin()

        def weight(version: int, outputs: int, inputs: int) -> nn.Parameter:
            drawn, _ = initial_parameters(
                (1, outputs, inputs), seed=seed, members=members, layer=layer, bias=False,
                version=version,
            )  # fmt: skip
            return nn.Parameter(drawn[:, 0])

        self.before_attention = Scale(len(members), width)
        self.read, self.write = weight(0, 3 * width, width), weight(1, width, width)
        self.before_mlp = Scale(len(members), width)
        self.up, self.down = weight(2, mlp_width, width), weight(3, width, mlp_width)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(S, B, X, U)` of the same shape."""
        flat = hidden.flatten(1, 2)  # (S, B * X, U)
        read = standardised(flat), self.before_attention.into(self.read)
        flat = torch.baddbmm(flat, self._attended(*read, hidden.shape), self.write.mT)
        inner = torch.bmm(standardised(flat), self.before_mlp.into(self.up).mT).relu_()
        return torch.baddbmm(flat, inner, self.down.mT).view(hidden.shape)

    def _attended(self, flat: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """`(S, B * X, U)` of values `(S, B * X, U)` by weights of queries, keys and values `(S, 3 U, U)`."""
        query, key, value = (  # each contiguous, so that its gradient is, too
            torch.bmm(flat, own.mT)
            .view(shape[0] * shape[1], shape[2], self.heads, shape[3] // self.heads)
            .transpose(1, 2)  # (S * B, heads, X, U / heads)
            for own in weight.chunk(3, 1)
        )
        if self.turns is not None:
            query, key = rotated(query, *self.turns), rotated(key, *self.turns)
        found = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return found.transpose(1, 2).reshape(flat.shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self.turns is not None:
            self.turns = fn(self.turns[0]), fn(self.turns[1])
        return super()._apply(fn, recurse)


def rotary_angles(leaves: int, units: int) -> Tensor:
    """`(X, units / 2)` float64: x · 10000^(-2 i / units), the angle of pair i at position x."""
    rates = BASE ** (-torch.arange(0, units, 2, dtype=torch.float64) / units)
    return torch.arange(leaves, dtype=torch.float64)[:, None] * rates


def rotated(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`(…, X, U)` values, unit i and unit i + U / 2 turned as a pair by the angles `(X, U / 2)`."""
    first, second = values.chunk(2, -1)
    turned = first * cosine - second * sine, second * cosine + first * sine
    return torch.cat(turned, -1)


def transformer(
    tree: LatentTree,
    *,
    width: int = 64,
    layers: int = 4,
    heads: int = 4,
    mlp_width: int | None = None,
    causal: bool = False,
    positions: Places = "learned",
    members: int | None = None,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SequenceNetwork:
    """A transformer whose tokens are the leaves, in the tree's order.

    Blocks are attention and a ReLU layer, each behind a layer normalisation and added to what it reads
    (Vaswani and others, arXiv 1706.03762; the order of norms is that of Xiong and others, arXiv 2002.04745);
    the output has a norm, too. Neither linear layers nor norms have biases (as in Chowdhery and others, arXiv
    2204.02311). Weights start uniform in ±1/sqrt(inputs), vectors of tokens and positions uniform in ±1.
    `SequenceNetwork` describes tokens, missing leaves and outputs. Forward-mode differentiation of torch's
    attention needs `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.

    Args:
        tree: one tree or S trees; S trees make S networks with the trees' addresses.
        width: U, of the vector at each position.
        layers: L, the number of blocks.
        heads: of attention; they divide the width.
        mlp_width: ReLU units of a block at each position; 4 times the width by default.
        causal: whether the output at a leaf depends on the leaves before it alone, so that it can predict
            the leaf.
        positions: `learned` vectors of each position, or `rotary`: queries and keys are rotated by angles
            that grow with the position (Su and others, arXiv 2104.09864).
        members: for one tree only: this many networks on it.
        seed: of the initial weights.
        dtype, device: of the weights.

    Returns:
        A network whose output at the leaves is `network.positions(leaves)`, `(S, B, X, U)`, and whose
        `activations` are the values behind each block.

    Raises:
        ValueError: a size below 1, heads that do not divide the width, an odd number of units of each head
            with rotary positions, or `members` beside several trees.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> leaves = tree.sample(7, seed=2).leaves
        >>> network = transformer(tree, width=16, layers=2, members=5, seed=1)
        >>> network.positions(leaves.expand(5, -1, -1)).shape
        torch.Size([5, 7, 8, 16])
        >>> network = transformer(tree, width=16, layers=2, causal=True, seed=1)
        >>> {level: tuple(a.shape) for level, a in network.activations(leaves).items()}
        {1: (7, 8, 16), 2: (7, 8, 16)}
    """
    for name, size in (("width", width), ("layers", layers), ("heads", heads)):
        check_whole(name, size, low=1)
    inner = check_whole("mlp_width", 4 * width if mlp_width is None else mlp_width, low=1)
    if width % heads:
        raise ValueError(f"heads must divide the width {width}, got {heads}")
    rotary = check_choice("positions", positions, get_args(Places)) == "rotary"
    if rotary and width // heads % 2:
        raise ValueError(
            f"rotary positions need an even number of units of each head, got {width // heads}"
        )
    check_switch("causal", causal)
    addresses, stacked = network_members(tree, members)
    blocks = [
        TransformerBlock(
            width=width,
            heads=heads,
            mlp_width=inner,
            leaves=len(tree.leaves),
            causal=causal,
            rotary=rotary,
            seed=check_seed(seed),
            members=addresses,
            layer=layer,
        )
        for layer in range(1, layers + 1)
    ]
    return SequenceNetwork(
        tree, width=width, blocks=blocks, norm=Scale(len(addresses), width), places=not rotary,
        causal=causal, members=addresses, stacked=stacked, seed=seed, dtype=dtype, device=device,
    )  # fmt: skip
