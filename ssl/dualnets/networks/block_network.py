"""An ensemble of ReLU networks with layers of blocks of units: trees of any shape and dense networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from dualnets._checks import check_kind, check_whole
from dualnets._precision import with_bounded_slopes
from dualnets.networks.layers import initial_parameters, linear
from dualnets.networks.network import Network
from dualnets.networks.norm_layer import NormLayer
from dualnets.networks.normalizations import Normalization, standardize
from dualnets.networks.wiring import Wires, standardize_own
from hltm._devices import check_device
from hltm.probe.causal.replacing import Replacement, replaced
from hltm.sampling.philox import check_seed


class BlockNetwork(Network):
    """S networks of L layers; layer l has blocks[l-1] blocks of units[l-1] units each.

    The inputs of a block are the ReLU outputs of the layer below, taken in equal consecutive shares, so
    one block per layer is a dense network and one block per latent a tree network; or those that its
    wires name. There is no ReLU on top (docs/theory.md, Section 1). Internal storage is batch-last; public
    arrays are views of it.

    Args:
        states: the number of states of each leaf.
        blocks, units: per layer.
        members: S addresses.
        stacked: whether public arrays have the S axis.
        seed: of the initial weights.
        dense: whether activations are `(B, U)` of a layer rather than `(B, V, U)` of blocks.
        wiring: the inputs of the blocks of each layer; None for equal consecutive shares.
        shared: whether the blocks of a layer have one set of weights.
        one_hot: whether leaves of two states are one-hot, as others are.
        bias: whether units have biases.
        normalize: whether the output is scaled to length 1.
        norm: normalisation of the hidden layers' pre-activations; None for none.
        weight_standardization: whether the weights of hidden layers are standardised.
        dtype, device: of the weights.

    Attributes:
        weights: per layer `(S, V, U_out, U_in)`, V = 1 where shared.
        biases: per layer `(S, V, U_out)`, or None.
        leaf_order: `(S, X)` int64, the leaf that is a member's x-th input; None for the trees' own order.

    Raises:
        ValueError: units below 1, a norm that cannot normalise so many units, or standardised weights
            of a unit with one input, which would be zero.
    """

    leaf_order: Tensor | None

    def __init__(
        self,
        *,
        states: Sequence[int],
        blocks: Sequence[int],
        units: Sequence[int],
        members: Sequence[int],
        stacked: bool,
        seed: int,
        dense: bool,
        wiring: Sequence[Wires] | None = None,
        shared: bool = False,
        one_hot: bool = False,
        bias: bool = False,
        normalize: bool = False,
        norm: Normalization | None = None,
        weight_standardization: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        for width in units:
            check_whole("units", width, low=1)
        if norm is not None:
            check_kind("norm", norm, Normalization, "dualnets.BatchNorm()")
        super().__init__(states=states, members=members, stacked=stacked, one_hot=one_hot)
        self.blocks, self.units = tuple(blocks), tuple(units)
        self.dense, self.shared, self.normalize = dense, shared, normalize
        self.norm, self.weight_standardization = norm, weight_standardization
        self.wiring = None if wiring is None else [wires.sources for wires in wiring]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList() if bias else None
        self.norms = nn.ModuleList()
        self.register_buffer("leaf_order", None)
        features = self.features
        for layer, (count, width) in enumerate(zip(blocks, units, strict=True), start=1):
            wires = None if wiring is None else wiring[layer - 1]
            fan_in = features // count if wires is None else wires.places.shape[1]
            weight, shift = initial_parameters(
                (1 if shared else count, width, fan_in), seed=check_seed(seed), members=members,
                layer=layer, bias=bias,
            )  # fmt: skip
            if wires is not None:
                weight = wires.own_bounds(weight)
                shift = None if shift is None else wires.own_bounds(shift)
                self.constants[f"places{layer}"] = wires.places.flatten()
                self.constants[f"fan_in{layer}"] = wires.fan_in
            self.weights.append(nn.Parameter(weight.to(dtype)))
            if self.biases is not None and shift is not None:
                self.biases.append(nn.Parameter(shift.to(dtype)))
            features = count * width
            hidden = layer < len(self.blocks)
            smallest = fan_in if wires is None else int(wires.fan_in.min())
            if weight_standardization and hidden and smallest < 2:
                raise ValueError(
                    f"standardised weights need at least 2 inputs per unit, level {layer} has a "
                    f"block with {smallest}"
                )
            if norm is not None and hidden:
                made = NormLayer(
                    norm, members=len(self.members), blocks=count, units=width, shared=shared
                )
                self.norms.append(made.to(dtype))
        self.to(check_device(device, dtype))

    def extra_repr(self) -> str:
        layers = " -> ".join(f"{v}x{u}" for v, u in zip(self.blocks, self.units, strict=True))
        others = ["dense", "shared", "normalize", "weight_standardization"]
        true = [name for name in others if getattr(self, name)]
        return ", ".join([f"members={len(self.members)}, inputs={self.inputs}, {layers}", *true])

    @property
    def depth(self) -> int:
        """L, the number of layers."""
        return len(self.blocks)

    @property
    def batch_dependent(self) -> bool:
        """Whether a sample's output in training depends on the other samples of its batch."""
        return len(self.norms) > 0 and self.norm is not None and self.norm.batch_dependent

    @property
    def equal_shares(self) -> bool:
        """Whether every block has weights of its own on an equal share of the layer below, without a norm.

        Compiled training runs such networks.
        """
        normed = len(self.norms) > 0 or self.weight_standardization
        return self.wiring is None and not self.shared and not normed

    @property
    def plain(self) -> bool:
        """Whether shares are equal and the first layer's inputs are the leaves' bits in their order."""
        bits = self.features == self.inputs
        return self.equal_shares and bits and self.leaf_order is None

    def read(self, leaves_SXB: Tensor) -> Tensor:
        """`(S, F, B)` input features, in a short dtype, of leaves `(S, X, B)` on the network's device."""
        given = leaves_SXB
        if self.leaf_order is not None:
            given = given.gather(1, self.leaf_order[:, :, None].expand_as(given))
        return self._featured(given)

    def forward(self, leaves: Tensor) -> Tensor:
        """The output of every network.

        Args:
            leaves: `(S, B, X)` states, or `(B, X)` without the S axis; where all leaves are bits,
                any numbers.

        Returns:
            `(S, B, U)` or `(B, U)`.

        Raises:
            ValueError: leaves of the wrong shape.
        """
        # a subclass may compute something else; in evaluation the output has the same bits as that of
        # `run_with`
        if type(self) is BlockNetwork and self.training:
            from dualnets.networks.compiled.network_pass import network_output

            output = network_output(self, leaves)
            if output is not None:
                output = output.transpose(1, 2)
                return output if self.stacked else output[0]
        for hidden in self._layers(leaves, training=self.training, in_place=True):
            top = hidden
        return self._output(top)

    @torch.no_grad()
    def run_with(self, leaves: Tensor, replace: Mapping[int, Replacement]) -> Tensor:
        """The output in evaluation where some units are replaced; see `hltm.probe.causal.replacing`.

        Args:
            leaves: as for `forward`.
            replace: level -> units and values, which broadcast against its `activations`.

        Returns:
            As `forward`.
        """
        for hidden in self._layers(leaves, training=False, replace=replace):
            top = hidden
        return self._output(top)

    def _by_member(self, blocks: Tensor) -> Tensor:
        """`(S, V * U, B)` from `(S * V, U, B)`."""
        members, (count, units, rows) = len(self.members), blocks.shape
        return blocks.view(members, count // members * units, rows)

    def _output(self, top: Tensor) -> Tensor:
        """`(S, B, U)` or `(B, U)` from pre-activations `(S * V, U, B)` of the top layer."""
        output = self._by_member(top)
        if self.normalize:
            long = nn.functional.normalize(with_bounded_slopes(output), dim=1)
            output = long.to(output.dtype)
        output = output.transpose(1, 2)
        return output if self.stacked else output[0]

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Pre-activations of every level, after their norm and before any normalisation of the output.

        As in evaluation, a BatchNorm uses its running statistics and does not change them.

        Args:
            leaves: as for `forward`.

        Returns:
            Level 1..L -> `(S, B, V, U)` for blocks, `(S, B, U)` for dense layers; no S where the
            network has none.
        """
        found: dict[int, Tensor] = {}
        for level, hidden in enumerate(self._layers(leaves, training=False), start=1):
            found[level] = self._shown(level, hidden)
        return found

    def _shown(self, level: int, hidden: Tensor) -> Tensor:
        """The public activations of a level, from pre-activations `(S * V, U, B)`."""
        blocks, units = self.blocks[level - 1], self.units[level - 1]
        shown = hidden.view(len(self.members), blocks, units, hidden.shape[-1]).permute(0, 3, 1, 2)
        shown = shown.flatten(2) if self.dense else shown
        return shown if self.stacked else shown[0]

    def _replaced(self, level: int, hidden: Tensor, replacement: Replacement) -> Tensor:
        """Pre-activations `(S * V, U, B)` of a level with some units replaced."""
        shown = replaced(self._shown(level, hidden), replacement)
        shown = shown.reshape(len(self.members), hidden.shape[-1], self.blocks[level - 1], -1)
        return shown.permute(0, 2, 3, 1).reshape(hidden.shape)

    def rectify(self, activations: dict[int, Tensor]) -> dict[int, Tensor]:
        """The inputs of the layers above: ReLU of pre-activations; the top level is unchanged."""
        return {
            level: values.relu() if level < self.depth else values
            for level, values in activations.items()
        }

    def _layers(
        self,
        leaves: Tensor,
        *,
        training: bool,
        in_place: bool = False,
        replace: Mapping[int, Replacement] | None = None,
    ) -> Iterator[Tensor]:
        """Pre-activations `(S * V, U, B)` of one layer after the other.

        With `in_place`, the ReLU overwrites them when the next layer is computed. Units of the levels
        of `replace` are replaced.
        """
        below = [self._features(leaves)]
        for layer in range(self.depth):
            hidden = self._layer(layer, below)
            if layer < len(self.norms):
                split = hidden.unflatten(0, (len(self.members), -1))
                hidden = self.norms[layer](split, training=training).flatten(0, 1)
            if replace and layer + 1 in replace:
                hidden = self._replaced(layer + 1, hidden, replace[layer + 1])
            yield hidden
            if layer < self.depth - 1:
                rectified = hidden.relu_() if in_place else hidden.relu()
                rectified = self._by_member(rectified)
                below = [rectified] if self.wiring is None else [*below, rectified]

    def _layer(self, layer: int, below: list[Tensor]) -> Tensor:
        """Pre-activations `(S * V, U, B)` of one layer, from the features `(S, F, B)` of those below."""
        weight = self._weight(layer)
        bias = None if self.biases is None else self.biases[layer]
        if self.shared:
            weight = weight.expand(-1, self.blocks[layer], -1, -1)
            bias = None if bias is None else bias.expand(-1, self.blocks[layer], -1)
        return linear(self._joined(layer, below), weight, bias)

    def _weight(self, layer: int) -> Tensor:
        """`(S, V, U_out, U_in)` as products use it."""
        weight = self.weights[layer]
        if not self.weight_standardization or layer == self.depth - 1:
            return weight
        if self.wiring is None:
            return standardize(weight)
        return standardize_own(weight, self.constants[f"fan_in{layer + 1}"])

    def _joined(self, layer: int, below: list[Tensor]) -> Tensor:
        """`(S, V * U_in, B)`: the inputs of all blocks of a layer, side by side."""
        if self.wiring is None:
            return below[-1]
        zero = below[0].new_zeros(len(self.members), 1, below[0].shape[2])
        features = torch.cat([zero, *(below[source] for source in self.wiring[layer])], dim=1)
        return features.index_select(1, self.constants[f"places{layer + 1}"])

    def _features(self, leaves: Tensor) -> Tensor:
        """`(S, F, B)` input features in the weights' dtype."""
        return self.read(self._checked(leaves).transpose(1, 2).to(self.device)).to(self.dtype)
