"""A random order of all combinations of some choices, by address: drawing without repetition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hltm.sampling.philox import Stream, check_seed, philox, uniform

SMALL = 1 << 16  # up to so many combinations are put in order outright
MOST = 1 << 62  # combinations that the rounds permute
ROUNDS = 12
CHUNK = 1 << 16  # rows at a time, to bound memory


def permuted_choices(sizes: Sequence[int], samples: int, *, seed: int, start: int = 0) -> Tensor:
    """`(samples, D)` int64: D choices for each row, choice d in 0..sizes[d] - 1, all rows different.

    Row i is a function of (sizes, seed, i) alone, so ranges of rows that do not overlap never share a
    combination. Up to 2^16 combinations are shuffled, uniformly over all orders. More are permuted by
    a Feistel network of twelve rounds: split in two halves, each half in turn is shifted, modulo its
    size, by a random number that is a function of the other half (Luby and Rackoff 1988; Black and
    Rogaway 2002 for sizes that are not powers of two). Each round can be undone, so no two rows are
    equal. Of more than 2^62 combinations, the first choices, as many as have at most 2^62, are permuted
    and the others drawn independently: rows still differ, and any two draws without repetition that
    agree in the first choices, of which there are hardly any, are left out.

    Raises:
        TypeError: samples, start or a seed that are not integers.
        ValueError: rows outside 0 .. N - 1, N the number of combinations.

    Example:
        >>> found = permuted_choices([3, 2], 6, seed=0)
        >>> sorted(map(tuple, found.tolist()))
        [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
        >>> found[4:].equal(permuted_choices([3, 2], 2, seed=0, start=4))
        True
    """
    seed = check_seed(seed)
    for name, value in (("the number of samples", samples), ("start", start)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an integer, got {value!r:.80}")
    samples, start = int(samples), int(start)  # integers of a few bits would overflow
    total = 1
    for size in sizes:
        total *= int(size)
    if samples < 0 or start < 0 or start + samples > total:
        raise ValueError(
            f"there are {total} combinations, numbered from 0, got {samples} from number {start} on"
        )
    if total <= SMALL:
        (numbers,) = uniform(total, seed=seed, stream=Stream.PERMUTATION, members=[0], node=0)
        order = numbers.argsort(stable=True)[start : start + samples]
        return torch.from_numpy(np.stack(np.unravel_index(order.numpy(), sizes), axis=1))
    rows = torch.arange(start, start + samples)
    parts = [_permuted(sizes, part, seed) for part in rows.split(CHUNK)]
    return torch.cat(parts) if parts else rows.new_empty(0, len(sizes))


def _permuted(sizes: Sequence[int], rows: Tensor, seed: int) -> Tensor:
    permuted, total = 0, 1  # the first choices, and the number of their combinations
    while permuted < len(sizes) and total * sizes[permuted] <= MOST:
        total *= sizes[permuted]
        permuted += 1
    halves: tuple[list[int], list[int]] = ([], [])
    widths = [1, 1]
    for d in sorted(range(permuted), key=lambda d: -sizes[d]):  # the larger first, to balance them
        smaller = 0 if widths[0] <= widths[1] else 1
        halves[smaller].append(d)
        widths[smaller] *= sizes[d]
    left, right = rows // widths[1], rows % widths[1]
    for number in range(ROUNDS // 2):
        left = (left + _mixed(right, 2 * number, seed) % widths[0]) % widths[0]
        right = (right + _mixed(left, 2 * number + 1, seed) % widths[1]) % widths[1]
    found = rows.new_empty(len(rows), len(sizes))
    for value, half in zip((left, right), halves, strict=True):
        for d in half:
            found[:, d] = value % sizes[d]
            value = value // sizes[d]
    for d in range(permuted, len(sizes)):
        found[:, d] = _mixed(rows, ROUNDS + d, seed) % sizes[d]
    return found


def _mixed(value: Tensor, number: int, seed: int) -> Tensor:
    """53 random bits that are a function of each value, of a round's number and of the seed."""
    low, high = value & 0xFFFFFFFF, value >> 32
    words = philox((low, high, number << 8 | Stream.PERMUTATION, 1), seed)
    return words[0] << 21 | words[1] >> 11
