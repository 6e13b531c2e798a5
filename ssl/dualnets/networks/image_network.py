"""An ensemble of convolutional ReLU networks on pictures, in blocks with or without shortcuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnets._checks import check_kind, check_switch
from dualnets._precision import with_bounded_slopes
from dualnets.networks.channel_norm import ChannelNorm, pooled
from dualnets.networks.convolutions import Block, convolutions
from dualnets.networks.layers import initial_parameters
from dualnets.networks.network import Network
from dualnets.networks.normalizations import BatchNorm, Moments, Normalization, standardize
from hltm._devices import check_device
from hltm.probe.causal.replacing import Replacement, replaced
from hltm.sampling.philox import check_members, check_seed

# members that a CPU computes in one operation where pictures have few places (benchmarks/images.md)
PER_PART, FEW_PLACES = 12, 256
# per convolution the moments of each part's batch, and of how many values they are
Record = list[list[tuple[Moments, int]]]


class ImageNetwork(Network):
    """S convolutional networks; the output is the mean over places of the last block's ReLU.

    Level l is what block l computes before its last ReLU. A ReLU follows every block. On a CPU members run
    one after the other, but for small pictures; else several at once, as one grouped convolution.

    Args:
        shape: `(C, H, W)` of a picture.
        blocks: from the picture up.
        members: number of networks, with addresses 0..S-1; None for one without an S axis.
        seed: of the initial weights.
        norm: normalisation of every convolution's maps (`ChannelNorm`); None for none.
        bias: whether channels have biases.
        weight_standardization: whether the weights of a channel are standardised over their inputs.
        normalize: whether the output is scaled to length 1.
        dtype, device: of the weights.

    Attributes:
        weights: per convolution `(S, C_out, C_in, 3, 3)`, in the order of computation; a block's 1x1
            convolution is its last.
        biases: per convolution `(S, C_out)`, or None.
        norms: per convolution a `ChannelNorm`; none without a norm.

    Raises:
        TypeError, ValueError: settings of another type, sizes below 1, or a norm that cannot normalise so
            many channels.
    """

    sizes: ClassVar[str] = "width"
    reads: ClassVar[str] = "pictures"

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        blocks: Sequence[Block],
        members: int | None,
        seed: int,
        norm: Normalization | None = None,
        bias: bool = False,
        weight_standardization: bool = False,
        normalize: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if norm is not None:
            check_kind("norm", norm, Normalization, "dualnets.BatchNorm()")
        addresses = range(check_members(members))
        channels, height, width = shape
        super().__init__(
            states=[2] * (channels * height * width), members=addresses, stacked=members is not None
        )
        self.shape, self.blocks, self.norm = shape, tuple(blocks), norm
        self.normalize = check_switch("normalize", normalize)
        self.weight_standardization = check_switch("weight_standardization", weight_standardization)
        self.convolutions = list(convolutions(channels, self.blocks))
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList() if check_switch("bias", bias) else None
        self.norms = nn.ModuleList()
        for layer, own in enumerate(self.convolutions):
            weight, shift = initial_parameters(
                (1, own.channels, own.inputs * own.size**2), seed=check_seed(seed), members=addresses,
                layer=layer, bias=bias,
            )  # fmt: skip
            shaped = weight[:, 0].unflatten(-1, (own.inputs, own.size, own.size))
            self.weights.append(nn.Parameter(shaped.to(dtype)))
            if self.biases is not None and shift is not None:
                self.biases.append(nn.Parameter(shift[:, 0].to(dtype)))
            if norm is not None:
                made = ChannelNorm(norm, members=len(addresses), channels=own.channels)
                self.norms.append(made.to(dtype))
        self.to(check_device(device, dtype))

    def extra_repr(self) -> str:
        blocks = " -> ".join(
            f"{block.convolutions}x{block.channels}{'/2' * (block.stride == 2)}"
            for block in self.blocks
        )
        true = [name for name in ("normalize", "weight_standardization") if getattr(self, name)]
        return ", ".join([f"members={len(self.members)}, shape={self.shape}, {blocks}", *true])

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def batch_dependent(self) -> bool:
        """Whether a sample's output in training depends on the other samples of its batch."""
        return self.norm is not None and self.norm.batch_dependent

    @property
    def members_per_part(self) -> int:
        """How many members run in one operation: one, or several of small pictures; off a CPU all."""
        if self.device.type != "cpu":
            return len(self.members)
        return PER_PART if self.shape[1] * self.shape[2] <= FEW_PLACES else 1

    def forward(self, leaves: Tensor) -> Tensor:
        """The output of every network.

        Args:
            leaves: pictures, `(S, B, X)` with X = C * H * W, channel after channel, or `(S, B, C, H, W)`;
                without the S axis where the network has none. Floating-point numbers are taken as they are,
                uint8 is divided by 255; `train` and `evaluate` give it `(uint8 / 255 - mean) / std`, with
                the `mean` and `std` of the data set.

        Returns:
            `(S, B, U)` or `(B, U)`.

        Raises:
            ValueError: pictures of the wrong shape.
            TypeError: pictures of another dtype, or no tensor.
        """
        record = self._empty_record() if self.training else []
        tops = self._run(leaves, record)
        for norm, found in zip(self.norms, record, strict=False):
            if found:
                norm.update_running(*_joined(found))  # type: ignore[operator]
        return self._output(tops)

    @torch.no_grad()
    def take_moments(self, batches: Sequence[Tensor]) -> None:
        """Give BatchNorms that have seen no batch the moments of all these pictures, as one batch would.

        The moments of a layer depend on those below, so that the batches are read once for every layer, up to
        it. The memory is that of one of them.

        Args:
            batches: each as for `forward`.

        Example:
            >>> import dualnets
            >>> network = dualnets.conv_net((1, 8, 8), members=2, norm=dualnets.BatchNorm(), seed=0)
            >>> network.take_moments(torch.rand(2, 100, 64).split(40, dim=1))
            >>> network.norms[0].batches.tolist()
            [1, 1]
        """
        norms: Any = self.norms if isinstance(self.norm, BatchNorm) else ()
        taken = []
        for layer, norm in enumerate(norms):
            if not bool((norm.batches > 0).any()):
                records = [self._empty_record() for _ in batches]
                for record, leaves in zip(records, batches, strict=True):
                    self._run(leaves, record, only=layer)
                moments, count = pooled([_joined(record[layer]) for record in records])
                norm.update_running(moments, count)
                # layers above read what a batch in training gives them: by the biased variance
                norm.variance.copy_(moments.variance)
                taken.append((norm, count))
        for norm, count in taken:
            norm.variance.mul_(count / (count - 1))

    def _empty_record(self) -> Record:
        return [[] for _ in self.norms]

    @torch.no_grad()
    def run_with(self, leaves: Tensor, replace: Mapping[int, Replacement]) -> Tensor:
        """The output in evaluation where some units are replaced; see `hltm.probe.causal.replacing`.

        Args:
            leaves: as for `forward`.
            replace: level -> units and values, which broadcast against its `activations`.

        Returns:
            As `forward`.
        """
        return self._output(self._run(leaves, replace=replace))

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """What every block computes before its last ReLU, after its norms.

        As in evaluation, a BatchNorm uses its running statistics and does not change them.

        Args:
            leaves: as for `forward`.

        Returns:
            Level 1..L -> `(S, B, V, U)`: V places, row after row, of U channels; no S where the network has
            none. The output is the mean over V of the last level's ReLU.
        """
        found: dict[int, list[Tensor]] = {level: [] for level in range(1, self.depth + 1)}
        self._run(leaves, shown=found)
        joined = {level: torch.cat(parts) for level, parts in found.items()}
        return joined if self.stacked else {level: values[0] for level, values in joined.items()}

    def rectify(self, activations: dict[int, Tensor]) -> dict[int, Tensor]:
        """What the blocks above, and the mean over places, receive: ReLU of every level."""
        return {level: values.relu() for level, values in activations.items()}

    def _pictures(self, leaves: Tensor) -> Tensor:
        """The pictures as `(S, B, C, H, W)` in the weights' dtype."""
        lead = int(self.stacked)
        check_kind("pictures", leaves, torch.Tensor, "torch.rand(2, 16, 64)")
        flat = leaves.flatten(1 + lead) if leaves.shape[1 + lead :] == self.shape else leaves
        if not (flat.is_floating_point() or flat.dtype == torch.uint8):
            raise TypeError(f"pictures must be floating-point numbers or uint8, got {flat.dtype}")
        given = self._checked(flat).to(self.device)
        found = given.to(self.dtype)
        found = found if given.is_floating_point() else found / 255
        return found.unflatten(-1, self.shape)

    def _output(self, tops: list[Tensor]) -> Tensor:
        """`(S, B, U)` or `(B, U)` from the maps of all parts."""
        channels = self.blocks[-1].channels
        means = (top.movedim(1, 3).mean((1, 2)) for top in tops)  # (B, s * C)
        output = torch.cat([own.unflatten(1, (-1, channels)).transpose(0, 1) for own in means])
        if self.normalize:
            output = functional.normalize(with_bounded_slopes(output), dim=-1).to(output.dtype)
        return output if self.stacked else output[0]

    def _run(
        self,
        leaves: Tensor,
        record: Record | tuple[()] = (),
        *,
        only: int | None = None,
        replace: Mapping[int, Replacement] | None = None,
        shown: dict[int, list[Tensor]] | None = None,
    ) -> list[Tensor]:
        """The top's maps `(B, s * C, H, W)` of each part of s members.

        Args:
            leaves: as for `forward`.
            record: gets the batch's moments, by which BatchNorms then normalise; empty in evaluation.
            only: the one convolution of which that is so; the run ends behind its block.
            replace: as for `run_with`.
            shown: lists that get the levels' maps.
        """
        pictures, each = self._pictures(leaves), self.members_per_part
        parameters = [self._in_parts(layer, each) for layer in range(len(self.convolutions))]
        tops = []
        for part, given in enumerate(pictures.split(each)):
            low, own = part * each, [parts[part] for parts in parameters]
            convolved = partial(self._convolved, low=low, record=record, only=only)
            below, layer = given.transpose(0, 1).flatten(1, 2), 0  # (B, s * C, H, W)
            for level, block in enumerate(self.blocks, start=1):
                maps, first, layer = below, layer, layer + block.convolutions
                for n in range(first, layer):
                    maps = convolved(n, maps.relu_() if n > first else maps, own[n])
                if block.projects(self.convolutions[first].inputs):
                    maps = maps + convolved(layer, below, own[layer])
                    layer += 1
                elif block.residual:
                    maps = maps + below
                if replace and level in replace:
                    maps = self._replaced(level, maps, low, replace[level])
                if shown is not None:
                    shown[level].append(self._shown(level, maps))
                below = maps.relu() if shown is not None else maps.relu_()
                if only is not None and only < layer:
                    break
            tops.append(below)
        return tops

    def _convolved(
        self,
        layer: int,
        below: Tensor,
        own: Sequence[Any],
        *,
        low: int,
        record: Record | tuple[()],
        only: int | None,
    ) -> Tensor:
        """The normalised maps of one convolution of a part, whose first member is number `low`."""
        weight, bias, gain, shift = own
        shape, members = self.convolutions[layer], len(weight)
        weight = weight.flatten(0, 1)
        maps = functional.conv2d(
            below,
            _channels_last(weight) if weight.device.type == "cpu" else weight,
            None if bias is None else bias.flatten(),
            shape.stride,
            padding=shape.size // 2,
            groups=members,
        )
        if not self.norms:
            return maps
        norm: Any = self.norms[layer]
        training = bool(record) and only in (None, layer)
        maps, moments = norm.normalize(maps, low, gain, shift, training=training)
        if record and moments is not None:
            record[layer].append((moments, maps.numel() // maps.shape[1]))
        return maps

    def _in_parts(self, layer: int, each: int) -> list[tuple[Tensor | None, ...]]:
        """Weight, bias, gain and shift of every part of so many members."""
        weight = self.weights[layer]
        if self.weight_standardization:
            weight = standardize(weight.flatten(2)).view_as(weight)
        norm: Any = self.norms[layer] if self.norms else None
        gain, shift = (None, None) if norm is None else (norm.gain, norm.shift)
        bias = None if self.biases is None else self.biases[layer]
        parts = len(weight.split(each))
        return list(
            zip(
                *(
                    [None] * parts if own is None else own.split(each)
                    for own in (weight, bias, gain, shift)
                ),
                strict=True,
            )
        )

    def _shown(self, level: int, maps: Tensor) -> Tensor:
        """The public activations of a level, `(s, B, V, C)`, from maps `(B, s * C, H, W)`."""
        split = maps.unflatten(1, (-1, self.blocks[level - 1].channels))
        return split.flatten(3).permute(1, 0, 3, 2)

    def _replaced(self, level: int, maps: Tensor, low: int, replacement: Replacement) -> Tensor:
        """Maps `(B, s * C, H, W)` of a level with some units replaced."""
        shown = self._shown(level, maps)
        whole = (len(self.members), *shown.shape[1:])
        own = (
            part.broadcast_to(whole if self.stacked else whole[1:]).view(whole)[
                low : low + len(shown)
            ]
            for part in replacement
        )
        return replaced(shown, Replacement(*own)).permute(1, 0, 3, 2).reshape(maps.shape)


def _joined(parts: Sequence[tuple[Moments, int]]) -> tuple[Moments, int]:
    """The moments of all members, of those of parts of them, and of how many values they are."""
    moments, counts = zip(*parts, strict=True)
    return Moments(*(torch.cat(own) for own in zip(*moments, strict=True))), counts[0]


def _channels_last(weight: Tensor) -> Tensor:
    """The same weights `(C_out, C_in, k, k)`, stored as `(C_out, k, k, C_in)`.

    torch then keeps maps in that order, too, and computes their norms twice as fast.
    """
    ordered = weight.permute(0, 2, 3, 1)
    # with one channel only strides differ, which `contiguous` would leave as they are
    return ordered.flatten(1).view(ordered.shape).permute(0, 3, 1, 2)
