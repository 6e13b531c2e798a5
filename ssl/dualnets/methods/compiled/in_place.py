"""What methods keep from step to step, changed where it lies, for `Method.in_place`.

S members, B samples, Q keys in a queue, P samples in a bank, K prototypes, U units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dualnets.methods._plain import SHORTEST
from dualnets.methods.compiled.operation import is_supported
from dualnets.optim.compiled import LIKE
from dualnets.optim.update_kernel import member_of
from hltm._compile import compiled, inner
from hltm.sampling.kernels.generator import LANES, philox_blocks
from hltm.sampling.philox import MASK, REAL_PLANE, Stream

_LOW = np.uint64(MASK)
_LEAST_LARGEST = 1e-30  # of the numbers of a prototype


class MovingAverage:
    """target <- (1 - rate) target + rate online, for pairs of tensors `(S, …)` that stay where they are.

    Args:
        targets, onlines: for which `are_averaged` holds; each target has the shape of its online twin.
    """

    def __init__(self, targets: Sequence[Tensor], onlines: Sequence[Tensor]) -> None:
        self._held = [*targets, *onlines]  # their addresses stay valid
        self._members = len(targets[0])
        rows = [
            (old.data_ptr(), new.data_ptr(), old.numel() // self._members)
            for old, new in zip(targets, onlines, strict=True)
        ]
        self._table = np.array(rows, dtype=np.int64)
        self._like = LIKE[targets[0].dtype]
        self._rates = np.empty(self._members)

    def __call__(self, rate: float | tuple[float, ...], factor: float = 1.0) -> None:
        """Move the targets; one rate in 0..1, or one per member, times a factor in 0..1."""
        self._rates[:] = rate
        self._rates *= factor
        _average(self._table, self._rates, self._like)


def are_averaged(targets: Sequence[Tensor], onlines: Sequence[Tensor]) -> bool:
    """Whether there is a `MovingAverage` of these tensors."""
    given = [*targets, *onlines]
    return bool(given) and is_supported(*given) and all(own.is_contiguous() for own in given)


# What stays where it is, is given as an array: an operation of torch takes as long as the work itself.


def push(queue: np.ndarray, keys: Tensor) -> None:
    """Put keys `(S, B, U)` in front of a queue `(S, Q, U)`, which loses its last ones; B is at most Q."""
    _push(queue, _batch_last(keys))


def remember(bank: np.ndarray, places: Tensor, outputs: Tensor, momentum: float) -> None:
    """Move vectors of a bank `(S, P, U)` towards outputs `(S, B, U)`, and scale them to length 1.

    `places` `(B,)` int64 are all different.
    """
    _remember(bank, np.ascontiguousarray(places.numpy()), _batch_last(outputs), momentum)


def scale(prototypes: np.ndarray, before: Tensor) -> None:
    """Scale prototypes `(S, K, U)` to length 1, but for those that are as they were before."""
    _scale(prototypes, np.ascontiguousarray(before.numpy()))


def _batch_last(values: Tensor) -> np.ndarray:
    """`(S, U, B)` of `(S, B, U)`, without a copy where storage is batch-last already."""
    return np.ascontiguousarray(values.detach().numpy().swapaxes(1, 2))


class Places:
    """Places `(S, N)` in 0 .. samples - 1 by the numbers of `hltm.sampling.philox.uniform`.

    Args:
        seed, members, stream: parts of the address of the numbers.
        samples: how many places there are.
    """

    def __init__(self, seed: int, members: Sequence[int], stream: Stream, samples: int) -> None:
        self._key = np.array([seed & MASK, seed >> 32], dtype=np.uint64)
        self._members = np.array(members, dtype=np.uint64)
        self._stream, self._samples = int(stream), samples

    def draw(self, node: int, view: int, found: np.ndarray) -> None:
        """Fill `found` `(S, N)` int64."""
        word = np.array([REAL_PLANE << 24 | view, node << 8 | self._stream], dtype=np.uint64)
        _draw_places(self._key, word, self._members, self._samples, found)


@compiled()
def _average(table, rates, like):  # type: ignore[no-untyped-def]
    """`MovingAverage`; this form is finite wherever both tensors are."""
    kind = like.dtype.type
    for s in range(len(rates)):
        kept, taken = kind(1 - rates[s]), kind(rates[s])
        for k in range(len(table)):
            target = member_of(table[k, 0], table[k, 2], s, like)
            online = member_of(table[k, 1], table[k, 2], s, like)
            for p in range(len(target)):
                target[p] = target[p] * kept + online[p] * taken


@compiled()
def _push(queue, keys):  # type: ignore[no-untyped-def]
    """`push` of keys `(S, U, B)`."""
    members, units, count = keys.shape
    for s in range(members):
        own, step = queue[s].reshape(-1), count * units
        low = len(own)
        while low > step:  # pieces that do not overlap those they come from, the oldest first
            high, low = low, max(low - step, step)
            there, here = own[low:high], own[low - step : high - step]
            for p in range(len(there)):
                there[p] = here[p]
        for b in range(count):
            for u in range(units):
                own[b * units + u] = keys[s, u, b]


@inner()
def _scale_vector(vector):  # type: ignore[no-untyped-def]
    """Scale a vector to length 1; zeros stay zeros."""
    kind = vector.dtype.type
    square = kind(0)
    for u in range(len(vector)):
        square += vector[u] * vector[u]
    length = max(np.sqrt(square), kind(SHORTEST))
    for u in range(len(vector)):
        vector[u] /= length


@compiled()
def _remember(bank, places, outputs, momentum):  # type: ignore[no-untyped-def]
    """`remember` of outputs `(S, U, B)`."""
    kind = bank.dtype.type
    kept, taken = kind(momentum), kind(1 - momentum)
    for s in range(len(bank)):
        for b in range(len(places)):
            vector = bank[s, places[b]]
            for u in range(len(vector)):
                vector[u] = kept * vector[u] + taken * outputs[s, u, b]
            _scale_vector(vector)


@compiled()
def _scale(prototypes, before):  # type: ignore[no-untyped-def]
    """`scale`, of vectors whose largest number is 1 first, so that no length overflows."""
    kind = prototypes.dtype.type
    for s in range(len(prototypes)):
        for k in range(prototypes.shape[1]):
            vector, changed, largest = prototypes[s, k], False, kind(_LEAST_LARGEST)
            for u in range(len(vector)):
                changed |= vector[u] != before[s, k, u]
                largest = max(largest, abs(vector[u]))
            if changed:
                for u in range(len(vector)):
                    vector[u] /= largest
                _scale_vector(vector)


@compiled()
def _draw_places(key, word, members, samples, found):  # type: ignore[no-untyped-def]
    """`Places.draw`: a call of the generator makes two numbers of 53 bits."""
    count = found.shape[1]
    calls = (count + 1) // 2
    blocks = np.arange((calls + LANES - 1) // LANES * LANES).astype(np.uint64)
    words = np.empty(2 * len(blocks), np.uint64)
    for s in range(len(members)):
        philox_blocks(key[0], key[1], word[0], blocks, word[1], members[s], calls, words)
        for i in range(count):
            # the high half comes from the first word of two, which is the low one
            number = (words[i] & _LOW) << np.uint64(21) | words[i] >> np.uint64(43)
            place = np.int64(np.float64(number) * 2.0**-53 * samples)
            found[s, i] = min(place, samples - 1)  # a number just below 1 may round to `samples`
