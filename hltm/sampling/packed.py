"""Draws of binary trees with one bit per state: an eighth of the memory, and faster to make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.draw import Addressed, Draw, Origin, shown_rows
from hltm.sampling.kernels import on_device
from hltm.sampling.kernels.request import BLOCK
from hltm.sampling.philox import DRAW_FORMAT, Stream
from hltm.sampling.sample import data_request


@dataclass(frozen=True, eq=False)
class PackedDraw(Addressed):
    """States of all nodes of binary trees for B samples, one bit each, and their address.

    Bit i % 8, the least significant being bit 0, of byte i // 8 is sample start + i. Bits after the
    last sample are 0. This is `numpy.packbits(..., bitorder="little")` along the samples.

    Attributes:
        bits_SVW: `(S, V, W)` uint8, W = ceil(B / 8); S is 1 where `stacked` is False.
        samples: B, how many samples.
        topology: the shape of the trees.
        stacked: whether `bits` has the S axis.
        seed, stream, members, start: the address; samples are start .. start + B - 1.
        origin: the trees that it is of; see `Draw`.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
        >>> packed = tree.sample(1000, seed=1, packed=True)
        >>> packed.bits.shape
        torch.Size([15, 125])
        >>> packed.unpack().states.equal(tree.sample(1000, seed=1).states)
        True
    """

    bits_SVW: Tensor
    samples: int
    topology: Topology
    stacked: bool
    seed: int
    stream: Stream
    members: tuple[int, ...]
    start: int
    draw_format: int = DRAW_FORMAT
    origin: Origin | None = None

    def __repr__(self) -> str:
        return (
            f"PackedDraw(bits {tuple(self.bits.shape)}, seed={self.seed}, "
            f"stream={self.stream.name.lower()}, {shown_rows(self.rows)})"
        )

    @property
    def rows(self) -> range:
        """The numbers of the samples: their rows in the endless data set of the seed."""
        return range(self.start, self.start + self.samples)

    @property
    def bits(self) -> Tensor:
        """`(V, W)` or `(S, V, W)` uint8, nodes in storage order."""
        return self.bits_SVW if self.stacked else self.bits_SVW[0]

    def unpack(self) -> Draw:
        """The same draw with one byte per state."""
        return Draw(
            unpack_bits(self.bits_SVW, self.samples), self.topology, self.stacked, self.seed,
            self.stream, self.members, self.start, draw_format=self.draw_format, origin=self.origin,
        )  # fmt: skip


def sample_packed(
    tables: Tables,
    members: Sequence[int],
    samples: int,
    *,
    seed: int,
    start: int = 0,
    stream: Stream = Stream.DATA,
    stacked: bool = True,
    device: torch.device | str = "cpu",
) -> PackedDraw:
    """`hltm.sampling.sample.sample` of binary trees with one bit per state.

    Raises:
        ValueError: a node of more than two states, and what `sample` raises.
    """
    tables.check_binary("packed states need binary nodes")
    request = data_request(tables, members, samples, seed, start, stream, 0, device)
    if request.samples == 0:
        shape = (len(request.members), len(tables.topology), 0)
        bits = torch.empty(shape, dtype=torch.uint8, device=request.device)
    elif request.device.type == "cpu":
        from hltm.sampling.kernels import cpu  # compiles: at the first draw, not at import

        bits = _bits_from(
            cpu.draw_packed(tables, request)[0], request.start % BLOCK, request.samples
        )
    else:
        bits = pack_bits(on_device.draw(tables, request)[0])
    return PackedDraw(
        bits, request.samples, tables.topology, stacked, request.seed, stream, request.members,
        request.start, origin=Origin(tables.digest, request.members),
    )  # fmt: skip


def _bits_from(words: np.ndarray, offset: int, count: int) -> Tensor:
    """Bits offset .. offset + count - 1 of the last axis of 64-bit words, as bytes."""
    found: np.ndarray = words.view(np.uint8)[..., offset // 8 :]
    wanted, shift = -(-count // 8), offset % 8
    if shift:
        # a byte takes its highest bits from the next one; after the last sample these do not matter
        following = np.pad(found[..., 1 : wanted + 1], ((0, 0), (0, 0), (0, 1)))[..., :wanted]
        found = found[..., :wanted] >> shift | following << (8 - shift)
    found = found[..., :wanted]
    if count % 8:
        found[..., -1] &= np.uint8((1 << count % 8) - 1)
    return torch.from_numpy(found)


def pack_bits(states: Tensor) -> Tensor:
    """`(..., B)` states 0 and 1 to `(..., ceil(B / 8))` uint8, least significant bit first.

    Example:
        >>> pack_bits(torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 1, 1])).tolist()
        [1, 3]
    """
    padded = torch.nn.functional.pad(states.to(torch.uint8), (0, -states.shape[-1] % 8))
    place = torch.arange(8, dtype=torch.uint8, device=states.device)
    return (padded.unflatten(-1, (-1, 8)) << place).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, count: int) -> Tensor:
    """`(..., W)` uint8 to `(..., count)` uint8 states 0 and 1, the reverse of `pack_bits`.

    Raises:
        ValueError: fewer bits than `count`.

    Example:
        >>> unpack_bits(torch.tensor([1, 3], dtype=torch.uint8), 10).tolist()
        [1, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    """
    if count > 8 * bits.shape[-1]:
        raise ValueError(
            f"{bits.shape[-1]} bytes hold {8 * bits.shape[-1]} states, expected at least {count}"
        )
    place = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> place) & 1).flatten(-2)[..., :count].contiguous()
