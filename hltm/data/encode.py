"""States as inputs of a network; a missing leaf (-1) is never encoded by accident.

Every encoder takes states of any integer type, or bools, and refuses floats and states out of range.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm.inference.leaves import as_states
from hltm.model.states import MISSING
from hltm.model.topology import MAX_NODES
from hltm.sampling.philox import (
    MAX_MEMBERS,
    MAX_ROWS,
    MAX_VIEWS,
    REAL_PLANE,
    Stream,
    check_seed,
    philox,
    words_at,
)

CHUNK = 1 << 20  # numbers of noise made at a time, to bound memory


def bits(
    states: Tensor, dtype: torch.dtype = torch.float32, *, missing: float | None = None
) -> Tensor:
    """Binary states as 0 and 1, in the shape they have.

    Args:
        states: integers 0 and 1, and -1 where missing.
        dtype: of the result.
        missing: the number for a missing leaf, e.g. 0.5.

    Raises:
        ValueError: other states, floats, a dtype that does not hold the numbers, or missing leaves, but
            no number for them.

    Example:
        >>> bits(torch.tensor([0, 1, -1]), missing=0.5)
        tensor([0.0000, 1.0000, 0.5000])
    """
    states = _binary(states)
    return _replaced(states, states.to(dtype), missing)


def signs(
    states: Tensor, dtype: torch.dtype = torch.float32, *, missing: float | None = None
) -> Tensor:
    """Binary states as -1 and +1, in the shape they have; arguments and errors are those of `bits`.

    Example:
        >>> signs(torch.tensor([0, 1], dtype=torch.uint8))
        tensor([-1.,  1.])
        >>> signs(torch.tensor([0, 1, -1]), missing=0)
        tensor([-1.,  1.,  0.])
    """
    states = _binary(states)
    if not dtype.is_signed:
        raise ValueError(f"dtype {dtype} does not hold -1, expected a signed one")
    return _replaced(states, states.to(dtype, copy=True).mul_(2).sub_(1), missing)


def one_hot(
    states: Tensor,
    cardinality: int | Sequence[int] | np.ndarray,
    dtype: torch.dtype = torch.float32,
    *,
    padded: bool = True,
) -> Tensor:
    """States as a 1 in the place of the state; a missing leaf is all zeros.

    Args:
        states: `(…, V)` integers, -1 where missing.
        cardinality: K, or the number of states of each of the V nodes, e.g.
            `tree.tables.cardinality[list(tree.leaves)]`.
        padded: whether every node has K places, K the largest number of states; otherwise each node
            has one place per state, one node after the other.

    Returns:
        `(…, V, K)` where padded, else `(…, K_1 + ... + K_V)`.

    Raises:
        ValueError: not one cardinality per node, or a state that a node does not have.

    Example:
        >>> one_hot(torch.tensor([[1, 2], [0, -1]]), [2, 3])
        tensor([[[0., 1., 0.],
                 [0., 0., 1.]],
        <BLANKLINE>
                [[1., 0., 0.],
                 [0., 0., 0.]]])
        >>> one_hot(torch.tensor([[1, 2], [0, -1]]), [2, 3], padded=False)
        tensor([[0., 1., 0., 0., 1.],
                [1., 0., 0., 0., 0.]])
    """
    states, each = _within(states, cardinality)
    place = torch.arange(int(each.max(initial=1)), device=states.device)
    found = (states.to(torch.int64)[..., None] == place).to(dtype)
    if padded:
        return found
    own = place < torch.as_tensor(each, device=states.device)[:, None]
    return found.flatten(-2)[..., own.flatten()]


def embeddings(
    leaves: Tensor,
    cardinality: int | Sequence[int] | np.ndarray,
    *,
    dimension: int,
    seed: int,
    noise: float = 0.0,
    rows: Sequence[int] | Tensor | range | None = None,
    view: int = 0,
    member: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A random vector for each state of each leaf, plus Gaussian noise for each row.

    Leaf x in state k becomes e[x, k] + noise · g[row, view, x], where all entries of e and g are
    standard normal and functions of their addresses: the same rows have the same noise however they
    are split into batches. A missing leaf is noise alone.

    Args:
        leaves: `(B, X)` integer states, -1 where missing.
        cardinality: K, or the number of states of each of the X leaves.
        dimension: D, the length of a vector.
        seed: 64 bits, of vectors and noise.
        noise: standard deviation of each entry's noise, at least 0.
        rows: `(B,)` numbers of the rows, e.g. `draw.rows`; required where there is noise.
        view: the number of the view, e.g. `draw.view`; each view has its own noise.
        member: the address of the member; each has its own vectors and noise.

    Returns:
        `(B, X, D)`.

    Raises:
        ValueError: leaves that are not `(B, X)`, a dimension below 1, noise below 0 or without
            rows, rows, a view, a member or D · X numbers that have no address, or a state that a leaf
            does not have.
        TypeError: a dimension, view or member that is no integer.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> draw = tree.sample(100, seed=1, start=50)
        >>> arguments = {"cardinality": 2, "dimension": 4, "seed": 3, "noise": 0.1}
        >>> inputs = embeddings(draw.leaves, rows=draw.rows, **arguments)
        >>> inputs.shape
        torch.Size([100, 8, 4])
        >>> inputs[60:].equal(embeddings(draw.leaves[60:], rows=range(110, 150), **arguments))
        True
    """
    leaves, each = _within(leaves, cardinality)
    if leaves.ndim != 2:
        raise ValueError(f"leaves have shape {tuple(leaves.shape)}, expected (B, X)")
    width = leaves.shape[1] * as_integer("dimension", dimension, 1, MAX_NODES)
    as_integer("the number of leaves times dimension", width, 0, MAX_NODES)
    view = as_integer("view", view, 0, MAX_VIEWS - 1)
    member = as_integer("member", member, 0, MAX_MEMBERS - 1)
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be at least 0 and finite, got {noise}")
    device, states = leaves.device, int(each.max(initial=1))
    vectors = _vectors(len(each), states, dimension, check_seed(seed), member, device)
    shown = torch.where(leaves == MISSING, states, leaves.to(torch.int64))  # a last, empty state
    empty = torch.nn.functional.pad(vectors, (0, 0, 0, 1)).to(dtype)  # (X, K + 1, D)
    found = empty[torch.arange(len(each), device=device), shown]
    if noise > 0:
        if rows is None:
            raise ValueError("noise needs the numbers of the rows, e.g. rows=draw.rows")
        numbers = as_states(rows, "numbers of rows").to(device, torch.int64)
        if numbers.shape != leaves.shape[:1]:
            raise ValueError(f"expected {len(leaves)} rows, got shape {tuple(numbers.shape)}")
        for number in numbers[(numbers < 0) | (numbers >= MAX_ROWS)][:1].tolist():
            raise ValueError(f"rows must lie in 0..2^34-1, got {number}")
        for part in torch.arange(len(leaves), device=device).split(max(CHUNK // width, 1)):
            # every number of a row has the address of a node of its own
            words = words_at(
                numbers[part], seed=seed, stream=Stream.EMBEDDING, members=[member],
                nodes=np.arange(width), view=view,
            )  # fmt: skip
            made = _normal(words[0].T.contiguous()).unflatten(1, (len(each), dimension))
            found[part] += noise * made.to(dtype)
    return found


def image(values: Tensor, *, channels: int | None = None) -> Tensor:
    """Leaves as pixels, or patches, of a square image: a 4-ary balanced tree is a quadtree.

    The four children of a node are the quarters of its square, in reading order: upper left, upper
    right, lower left, lower right. (A binary balanced tree of even depth fits too: every second
    level of it is a quadtree.)

    Args:
        values: encoded leaves: `(…, X)`, one pixel each; or with `channels`, `(…, X, F)`, where
            the F = C · p · p numbers of a leaf are a patch of C channels and p × p pixels. X is a
            power of 4.
        channels: C, for leaves of several numbers.

    Returns:
        `(…, C, H, W)` with H = W = p · √X.

    Raises:
        ValueError: a number of leaves that is no power of 4, or numbers of a leaf that are not
            channels times a square.

    Example:
        >>> image(torch.arange(16))
        tensor([[[ 0,  1,  4,  5],
                 [ 2,  3,  6,  7],
                 [ 8,  9, 12, 13],
                 [10, 11, 14, 15]]])
        >>> image(torch.zeros(8, 64, 12), channels=3).shape  # 2 x 2 pixels to a leaf
        torch.Size([8, 3, 16, 16])
    """
    values = torch.as_tensor(values)
    if channels is None:
        values, channels = values[..., None], 1
    channels = operator.index(channels)
    if values.ndim < 2:
        raise ValueError(f"values have shape {tuple(values.shape)}, expected (…, X, F)")
    leaves, numbers = values.shape[-2:]
    depth = (leaves.bit_length() - 1) // 2
    if leaves != 4**depth:
        raise ValueError(f"expected a power of 4 leaves (a quadtree), got {leaves}")
    side = round((numbers / channels) ** 0.5) if channels > 0 else 0
    if side < 1 or numbers != channels * side * side:
        raise ValueError(
            f"a leaf has {numbers} numbers, expected channels times a square, with channels = {channels}"
        )
    lead = values.shape[:-2]
    patches = values.reshape(*lead, *[2] * (2 * depth), channels, side, side)
    at = len(lead)
    # level by level a leaf's number is (lower half, right half); rows take the first of each
    rows = [at + 2 * level for level in range(depth)]
    columns = [axis + 1 for axis in rows]
    last = at + 2 * depth
    order = [*range(at), last, *rows, last + 1, *columns, last + 2]
    width = 2**depth * side
    return patches.permute(order).reshape(*lead, channels, width, width)


def _binary(states: Tensor) -> Tensor:
    """States after the check that they are 0 and 1, and -1 where missing."""
    states = as_states(states, "states")
    # the least and the greatest are found many times as fast as states are compared
    low, high = map(int, states.aminmax()) if states.numel() else (0, 0)
    if low < MISSING or high > 1:
        bad = high if high > 1 else low
        raise ValueError(
            f"state {bad} is not binary, expected 0 or 1, or -1 if missing; one_hot encodes nodes of "
            "more states"
        )
    return states


def _replaced(states: Tensor, encoded: Tensor, missing: float | None) -> Tensor:
    """Encoded states with the number `missing` in place of missing states."""
    if not states.dtype.is_signed:  # -1 cannot occur
        return encoded
    gone = states == MISSING
    if not gone.any():
        return encoded
    if missing is None:
        raise ValueError(
            f"{int(gone.sum())} of {states.numel()} states are missing (-1); set "
            "missing to the number that replaces them, in a data set by "
            "encode=functools.partial(…, missing=…)"
        )
    dtype = encoded.dtype
    if not dtype.is_floating_point and torch.tensor(missing).to(dtype).item() != missing:
        raise ValueError(f"dtype {dtype} does not hold {missing}, the number for missing states")
    return encoded.masked_fill(gone, missing)


def _within(
    states: Tensor, cardinality: int | Sequence[int] | np.ndarray
) -> tuple[Tensor, np.ndarray]:
    """States as integers, and `(V,)` the number of states of each node, after a check of both."""
    states = as_states(states, "states")
    if states.ndim < 1:
        raise ValueError("states have shape (), expected (…, V)")
    given = as_states(cardinality, "cardinalities").cpu().numpy().astype(np.int64)
    if given.ndim and given.shape != states.shape[-1:]:
        raise ValueError(f"expected {states.shape[-1]} cardinalities, got shape {given.shape}")
    each = np.broadcast_to(given, states.shape[-1:]).copy()
    if (each < 1).any():
        raise ValueError(f"cardinality must be at least 1, got {int(each.min())}")
    whole = states.to(torch.int64)
    bad = (whole < MISSING) | (whole >= torch.as_tensor(each, device=states.device))
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"position {where[-1]} has state {int(whole[where])}, expected 0..{each[where[-1]] - 1}, "
            "or -1 if missing"
        )
    return states, each


def _vectors(
    leaves: int, states: int, dimension: int, seed: int, member: int, device: torch.device
) -> Tensor:
    """`(X, K, D)` float64 standard normal vectors, a function of leaf, state, seed and member."""
    node = torch.arange(leaves, device=device)[:, None, None] << 8 | Stream.EMBEDDING
    # a state is where rows have their view, so that neither K nor D moves a number
    plane = REAL_PLANE << 24 | torch.arange(states, device=device)[:, None]
    block = torch.arange(dimension, device=device)
    return _normal(philox((plane, block, node, member), seed)[0])


def _normal(words: Tensor) -> Tensor:
    """Standard normal numbers from 32-bit words, by the inverse of the distribution function.

    The middle of each word's interval is taken, so the numbers are finite: at most 6.3 from 0.
    """
    return torch.special.ndtri((words.to(torch.float64) + 0.5) * 2.0**-32)
