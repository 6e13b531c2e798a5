"""How views differ from a picture: random operations one after the other, with numbers by address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dualnets._checks import check_kind, check_whole
from dualnets._lazy import no_grad, torch
from dualnets.images.operations import Draws, Operation, parse_operation
from hltm._names import brief

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from hltm.sampling.philox import Stream

PRESETS = {
    "default": "crop:0.4+light:0.4",
    # arXiv 2002.05709, Appendix A
    "simclr": "crop:0.08+flip+jitter:0.8:0.8:0.2+grey+blur",
    # arXiv 2006.07733, Appendix B: its two kinds of views have blur:1 and blur:0.1, solarise:0 and 0.2
    "byol": "crop:0.08+flip+jitter:0.4:0.2:0.1+grey+blur:0.55+solarise:0.1",
    "none": "",
}
CHUNK = 1 << 17  # numbers that are changed at a time on a CPU: they stay in its cache
MAX_NUMBERED = 1 << 32  # rows with an address of their own
AGAIN, QUADS = 16, 1 << 16  # how often an operation may occur, and calls of the generator for each


@dataclass(frozen=True)
class ImageAugmentation:
    """Random operations that make a view of a picture, in their order.

    It pickles and compares by its operations, and `str` of it is what `parse_views` and a flag `--augment`
    read. The random numbers of a row of a data set are a function of (seed, stream, member, view, row,
    operation) alone: batches and ensembles of any size have the same views, and so has an operation whatever
    others are beside it.

    Attributes:
        operations: what is done to a picture.

    Raises:
        TypeError: anything but operations.
        ValueError: an operation more than 16 times.

    Example:
        >>> from dualnets.images import load
        >>> from hltm.sampling.philox import Stream
        >>> augment = parse_views("crop:0.5+noise:0.1")
        >>> pictures = load("digits").train.images[:100]
        >>> address = {"seed": 0, "stream": Stream.DATA, "members": [0, 1]}
        >>> views = augment.views(pictures, view=1, **address)
        >>> views.shape
        torch.Size([2, 100, 1, 8, 8])
        >>> again = augment.views(pictures[7:9], view=1, rows=[7, 8], **address)
        >>> again.equal(views[:, 7:9])
        True
    """

    operations: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.operations, tuple | list):
            raise TypeError(f"operations must be a tuple of operations, got {self.operations!r}")
        object.__setattr__(self, "operations", tuple(self.operations))
        for operation in self.operations:
            check_kind("an operation", operation, Operation, "dualnets.images.parse_views('flip')")
            if sum(type(other) is type(operation) for other in self.operations) > AGAIN:
                raise ValueError(
                    f"an operation may occur {AGAIN} times, {operation.word} is more often"
                )

    @property
    def name(self) -> str:
        """As `parse_views` reads it: the name of a preset, or the operations."""
        text = "+".join(map(str, self.operations))
        return next((name for name, preset in PRESETS.items() if preset == text), text)

    def __str__(self) -> str:
        return self.name

    def for_shape(self, shape: Sequence[int]) -> ImageAugmentation:
        """The augmentation for pictures of a shape (C, H, W): a preset for grey ones is without colour.

        Raises:
            ValueError: operations on colour that are no preset's, for pictures without three channels, or a
                shift by whole pictures.

        Example:
            >>> str(parse_views("simclr").for_shape((1, 28, 28)))
            'crop:0.08+flip+light:0.8:0.8+blur'
            >>> parse_views("flip+grey").for_shape((1, 28, 28))
            Traceback (most recent call last):
            ValueError: grey needs pictures of 3 channels, these have the shape (1, 28, 28)
        """
        for operation in self.operations:
            operation.check_shape(shape)
        if shape[0] == 3:
            return self
        left = tuple(filter(None, (operation.in_grey() for operation in self.operations)))
        if left != self.operations and self.name not in PRESETS:
            word = next(each.word for each in self.operations if each.in_grey() is not each)
            raise ValueError(
                f"{word} needs pictures of 3 channels, these have the shape {tuple(shape)}"
            )
        return ImageAugmentation(left)

    @no_grad
    def views(
        self,
        pictures: Tensor | np.ndarray,
        *,
        seed: int,
        stream: Stream,
        members: Sequence[int],
        view: int,
        rows: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """`(S, N, C, H, W)` float32: a view of each picture for each member.

        Args:
            pictures: `(N, C, H, W)` numbers in 0..1, or uint8 of which 255 is 1; the work is done on their
                device.
            seed, stream, members, view: of the address of all random numbers; S members.
            rows: `(N,)` the number of each picture in its data set, below 2^32; by default 0 .. N - 1.

        Raises:
            TypeError, ValueError: pictures of another shape or dtype, rows that are not as many or no whole
                numbers, rows on a CPU, a seed or a view out of range, or operations on colour that are no
                preset's, for grey pictures.
        """
        import numpy as np

        from hltm.sampling.philox import MAX_VIEWS, check_seed

        # copied: an array may be one that torch does not take, such as a memory map to be read only
        given = pictures if isinstance(pictures, torch.Tensor) else torch.tensor(np.array(pictures))
        if given.ndim != 4:
            raise ValueError(f"pictures must have the shape (N, C, H, W), got {tuple(given.shape)}")
        if not (given.is_floating_point() or given.dtype == torch.uint8):
            raise TypeError(f"pictures must be floating-point numbers or uint8, got {given.dtype}")
        if not 0 <= check_whole("view", view, low=0) < MAX_VIEWS:
            raise ValueError(f"view must be below 2^24, got {view}")
        count, device = len(given), given.device
        numbers = torch.arange(count) if rows is None else torch.as_tensor(rows)
        if numbers.shape != (count,):
            raise ValueError(
                f"rows must be {count} numbers, one for each picture, got {tuple(numbers.shape)}"
            )
        if numbers.is_floating_point():
            raise TypeError(f"rows must be whole numbers, got {numbers.dtype}")
        on_cpu = numbers.device.type == "cpu"  # elsewhere a look at them would wait for the device
        if on_cpu and count and not 0 <= int(numbers.min()) <= int(numbers.max()) < MAX_NUMBERED:
            raise ValueError(
                f"rows must be in 0..2^32-1, got {int(numbers.min())}..{int(numbers.max())}"
            )
        numbers = numbers.to(device, torch.int64)
        suited = self.for_shape(given.shape[1:])
        members = list(members)
        address = {"seed": check_seed(seed), "stream": stream, "members": members, "view": view}
        uniforms = suited._uniforms(numbers, address)
        each = max(1, len(members) * given[0].numel()) if count else 1
        size = max(CHUNK // each, 1) if device.type == "cpu" else max(count, 1)
        parts = [
            suited._changed(part, own, drawn, address)
            for part, own, drawn in zip(
                given.split(size), numbers.split(size), uniforms.split(size, dim=2), strict=True
            )
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _changed(
        self, pictures: Tensor, rows: Tensor, uniforms: Tensor, address: dict[str, Any]
    ) -> Tensor:
        """`(S, N, C, H, W)` views of some pictures."""
        numbers = pictures.to(torch.float32)
        if pictures.dtype == torch.uint8:
            numbers = numbers / 255
        members = len(address["members"])
        views = numbers.expand(members, *numbers.shape).flatten(0, 1)
        for operation, node, own in zip(self.operations, self._nodes, uniforms, strict=True):
            normals = partial(_normals, rows, node + 1, address)
            views = operation(views, Draws(own.flatten(0, 1), normals))
        return views.unflatten(0, (members, -1))

    @property
    def _nodes(self) -> list[int]:
        """Where the numbers of each operation begin; the first call of the generator is its uniforms."""
        kinds = [type(operation) for operation in self.operations]
        return [
            (operation.address * AGAIN + kinds[:at].count(type(operation))) * QUADS
            for at, operation in enumerate(self.operations)
        ]

    def _uniforms(self, rows: Tensor, address: dict[str, Any]) -> Tensor:
        """`(operations, S, N, 4)` float32 in [0, 1)."""
        from hltm.sampling.philox import four_words_at

        nodes = torch.tensor(self._nodes, dtype=torch.int64, device=rows.device)
        return _fractions(four_words_at(rows, nodes=nodes, **address)).permute(3, 1, 2, 0)


def parse_views(text: str) -> ImageAugmentation:
    """The augmentation that a text stands for: a preset, or operations with a `+` between them.

    Presets: `default`, a crop and light, for pictures whose left and right differ, such as digits; `simclr`
    and `byol`, as published (every view of `byol` has the mean probabilities of its two kinds of views);
    `none`. Operations: `crop:SCALE`, `shift:PIXELS`, `flip`, `blur`, `light:STRENGTH`, `colour`, `jitter`,
    `grey`, `solarise`, `noise:STD`; further numbers after colons, spaces around a `+` as you like.
    `help(dualnets.images.OPERATIONS["crop"])` says what the numbers of one mean, `hltm images` those of all.

    Raises:
        TypeError: not a text.
        ValueError: an unknown operation, or numbers that it does not take.

    Example:
        >>> augment = parse_views("crop:0.5+flip+blur:0.5")
        >>> str(augment)
        'crop:0.5+flip+blur'
        >>> parse_views(str(augment)) == augment
        True
    """
    if not isinstance(text, str):
        raise TypeError(f"an augmentation of pictures must be a text, got {text!r}")
    written = PRESETS.get(text.strip(), text)
    if not written and text:
        return ImageAugmentation()
    for part in written.split("+"):
        if not part.strip():
            raise ValueError(
                f"an operation is missing in {brief(repr(text))}, expected such as crop:0.5+blur, or none"
            )
        if part.strip() in PRESETS:
            raise ValueError(f"{part.strip()} is a preset, which stands alone, got {text!r}")
    return ImageAugmentation(tuple(map(parse_operation, written.split("+"))))


def _normals(rows: Tensor, node: int, address: dict[str, Any], count: int) -> Tensor:
    """`(S * N, count)` float32 normal numbers, by Box and Muller two of two uniform ones."""
    from hltm.sampling.philox import four_words_at

    quads = -(-count // 4)
    if quads >= QUADS:
        raise ValueError(
            f"noise is for pictures of at most {4 * (QUADS - 1):,} numbers, got {count:,}"
        )
    nodes = torch.arange(node, node + quads, device=rows.device)
    a, b, c, d = _fractions(four_words_at(rows, nodes=nodes, **address)).flatten(1, 2)
    radii = [torch.sqrt(-2 * torch.log(1 - each)) for each in (a, c)]
    angles = [each * (2 * torch.pi) for each in (b, d)]
    parts = [
        radius * wave(angle)
        for radius, angle in zip(radii, angles, strict=True)
        for wave in (torch.cos, torch.sin)
    ]
    return torch.cat(parts, dim=-1)[:, :count]


def _fractions(words: Tensor) -> Tensor:
    """float32 numbers in [0, 1) of 32-bit words, exact: of a word's 24 highest bits."""
    return (words >> 8).to(torch.float32) * 2.0**-24
