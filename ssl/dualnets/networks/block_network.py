"""An ensemble of bias-free ReLU networks whose layers are blocks of units: trees and dense networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dualnets.layers import initial_parameters, linear
from hltm.philox import check_seed


class BlockNetwork(nn.Module):
    """S networks of L layers; layer l has blocks[l-1] blocks of units[l-1] units each.

    A block reads the ReLU outputs of the blocks below it, taken in equal consecutive shares, so one
    block per layer is a dense network and one block per latent a tree network. There is no ReLU on
    top (theory, Section 1). Inside, storage is batch-last; public arrays are views of it.

    Attributes:
        members: S addresses.
        stacked: whether public arrays have the S axis.
        blocks, units: per layer.
        dense: whether activations are shown as `(B, U)` of a layer rather than `(B, V, U)` of blocks.
        normalize: whether the output is scaled to length 1.
    """

    def __init__(
        self,
        *,
        inputs: int,
        blocks: Sequence[int],
        units: Sequence[int],
        members: Sequence[int],
        stacked: bool,
        seed: int,
        dense: bool,
        bias: bool = False,
        normalize: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if min(units) < 1:
            raise ValueError(f"units must be at least 1, got {min(units)}")
        self.members = tuple(members)
        self.stacked = stacked
        self.inputs = inputs
        self.blocks, self.units = tuple(blocks), tuple(units)
        self.dense, self.normalize = dense, normalize
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList() if bias else None
        features = inputs
        for layer, (count, width) in enumerate(zip(blocks, units, strict=True), start=1):
            shape = (count, width, features // count)
            weight, shift = initial_parameters(
                shape, seed=check_seed(seed), members=members, layer=layer, bias=bias
            )
            self.weights.append(nn.Parameter(weight.to(device, dtype)))
            if self.biases is not None and shift is not None:
                self.biases.append(nn.Parameter(shift.to(device, dtype)))
            features = count * width

    def extra_repr(self) -> str:
        layers = " -> ".join(f"{v}x{u}" for v, u in zip(self.blocks, self.units, strict=True))
        return f"members={len(self.members)}, inputs={self.inputs}, {layers}"

    @property
    def depth(self) -> int:
        """L, the number of layers."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.weights[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.weights[0].dtype

    def forward(self, leaves: Tensor) -> Tensor:
        """The output of every network.

        Args:
            leaves: `(S, B, X)` numbers or bits, or `(B, X)` without the S axis.

        Returns:
            `(S, B, U)` or `(B, U)`.

        Raises:
            ValueError: leaves of the wrong shape.
        """
        hidden = self._inputs(leaves)
        for layer in range(self.depth):
            hidden = self._layer(layer, hidden)
            if layer < self.depth - 1:
                hidden = hidden.relu_()  # in place: pre-activations are not needed again
        output = hidden.view(len(self.members), -1, hidden.shape[-1])  # (S, U, B)
        if self.normalize:
            output = nn.functional.normalize(output, dim=1)
        output = output.transpose(1, 2)
        return output if self.stacked else output[0]

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Pre-activations of every level, before any normalisation of the output.

        Args:
            leaves: as for `forward`.

        Returns:
            Level 1..L -> `(S, B, V, U)` for blocks, `(S, B, U)` for dense layers; no S where the
            network has none.
        """
        found: dict[int, Tensor] = {}
        hidden = self._inputs(leaves)
        for layer, (blocks, units) in enumerate(zip(self.blocks, self.units, strict=True)):
            hidden = self._layer(layer, hidden.relu() if layer else hidden)
            shown = hidden.view(len(self.members), blocks, units, -1).permute(0, 3, 1, 2)
            shown = shown.flatten(2) if self.dense else shown
            found[layer + 1] = shown if self.stacked else shown[0]
        return found

    def rectify(self, activations: dict[int, Tensor]) -> dict[int, Tensor]:
        """What the layer above reads: ReLU of pre-activations, the top level as it is."""
        return {
            level: values.relu() if level < self.depth else values
            for level, values in activations.items()
        }

    def _layer(self, layer: int, hidden: Tensor) -> Tensor:
        """Pre-activations `(S * V, U, B)` of one layer."""
        bias = None if self.biases is None else self.biases[layer]
        return linear(hidden, self.weights[layer], bias)

    def _inputs(self, leaves: Tensor) -> Tensor:
        """`(S, X, B)` in the weights' dtype."""
        members = len(self.members)
        given = leaves if self.stacked else leaves[None]
        if given.ndim != 3 or given.shape[0] != members or given.shape[2] != self.inputs:
            expected = f"({members}, B, {self.inputs})" if self.stacked else f"(B, {self.inputs})"
            raise ValueError(f"leaves have shape {tuple(leaves.shape)}, expected {expected}")
        return given.transpose(1, 2).to(self.device, self.dtype)
