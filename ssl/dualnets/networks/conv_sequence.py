"""A convolutional network over the leaves in their order, at stride 1, causal or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dualnets._checks import check_switch, check_whole
from dualnets.networks.layers import initial_parameters
from dualnets.networks.network import network_members
from dualnets.networks.sequence_network import SequenceNetwork
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree


class ConvolutionBlock(nn.Module):
    """W * ReLU(h) + b of S members at once, added to h where residual; the first block has no ReLU.

    Args:
        width, kernel: units U and leaves that each output reads.
        causal: whether an output reads no later position.
        residual: whether the block's input is added to its output.
        seed, members: of weights and biases, uniform in ±1/sqrt(inputs) as torch.nn.Conv1d's.
        layer: the number of the block, from 1, a part of their address.

    Attributes:
        weight: `(S, U_out, U_in, kernel)`.
        bias: `(S, U)`.
    """

    def __init__(
        self,
        *,
        width: int,
        kernel: int,
        causal: bool,
        residual: bool,
        seed: int,
        members: Sequence[int],
        layer: int,
    ) -> None:
        super().__init__()
        self.first, self.residual = layer == 1, residual
        self.before = kernel - 1 if causal else (kernel - 1) // 2  # positions of zeros
        self.behind = kernel - 1 - self.before
        weight, bias = initial_parameters(
            (1, width, width * kernel), seed=seed, members=members, layer=layer, bias=True
        )
        assert bias is not None
        self.weight = nn.Parameter(weight[:, 0].unflatten(-1, (width, kernel)))
        self.bias = nn.Parameter(bias[:, 0])

    def forward(self, hidden: Tensor) -> Tensor:
        """`(S, B, X, U)` of the same shape."""
        read = hidden if self.first else hidden.relu()
        kernel = self.weight.shape[-1]
        padded = nn.functional.pad(read, (0, 0, self.before, self.behind))
        windows = padded.unfold(2, kernel, 1).flatten(3).flatten(1, 2)  # (S, B * X, U * kernel)
        found = torch.baddbmm(self.bias[:, None], windows, self.weight.flatten(2).mT)
        found = found.view(hidden.shape)
        return hidden + found if self.residual else found


def conv_sequence(
    tree: LatentTree,
    *,
    width: int = 64,
    layers: int = 4,
    kernel: int = 3,
    residual: bool = True,
    causal: bool = False,
    members: int | None = None,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SequenceNetwork:
    """Convolutions over the leaves as a sequence of tokens, in the tree's order, with an output at each.

    Unlike `conv_tree` it knows nothing of the tree's blocks: layer l reads l (kernel - 1) + 1 leaves around
    each position, zeros beyond the first and the last. There is no ReLU on top. `SequenceNetwork` describes
    tokens, missing leaves and outputs; vectors of tokens start uniform in ±1.

    Args:
        tree: one tree or S trees; S trees make S networks with the trees' addresses.
        width: U, of the vector at each position.
        layers: L, the number of convolutions.
        kernel: positions that a convolution reads; odd unless causal.
        residual: whether each layer is added to the one below (He and others, arXiv 1603.05027), or plain.
        causal: whether the output at a leaf depends on the leaves before it alone, so that it can predict
            the leaf (van den Oord and others, arXiv 1609.03499).
        members, seed, dtype, device: as for `dualnets.transformer`.

    Returns:
        A network whose output at the leaves is `network.positions(leaves)`, `(S, B, X, U)`, and whose
        `activations` are the values of each layer, before the ReLU of the next.

    Raises:
        ValueError: a size below 1, an even kernel unless causal, or `members` beside several trees.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> leaves = tree.sample(7, seed=2).leaves
        >>> network = conv_sequence(tree, width=16, layers=2, seed=1)
        >>> network.positions(leaves).shape, network(leaves).shape
        (torch.Size([7, 8, 16]), torch.Size([7, 16]))
    """
    for name, size in (("width", width), ("layers", layers), ("kernel", kernel)):
        check_whole(name, size, low=1)
    check_switch("residual", residual)
    if not check_switch("causal", causal) and kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, or the network causal, got {kernel}")
    addresses, stacked = network_members(tree, members)
    blocks = [
        ConvolutionBlock(
            width=width, kernel=kernel, causal=causal, residual=residual, seed=check_seed(seed),
            members=addresses, layer=layer,
        )
        for layer in range(1, layers + 1)
    ]  # fmt: skip
    return SequenceNetwork(
        tree, width=width, blocks=blocks, norm=None, places=False, causal=causal,
        members=addresses, stacked=stacked, seed=seed, dtype=dtype, device=device,
    )  # fmt: skip
