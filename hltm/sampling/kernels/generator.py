"""Philox 4x32-10 for many blocks in a row, compiled by numba; it equals `hltm.sampling.philox.philox`.

A round takes two 64-bit products of 32-bit words; with hi and lo the halves of a product, M the
multipliers and k the round's key,

    x0', x1', x2', x3'  =  hi(M1 x2) ^ x1 ^ k0,  lo(M1 x2),  hi(M0 x0) ^ x3 ^ k1,  lo(M0 x0).

Words are kept in 64-bit integers. A product of two words is then one vector instruction, which reads
the low halves alone, so the high halves of x1 and x3 need not be cleared between rounds. In the last
round, a product rotated by 32 bits has its high half, for x0', below its low half, for x1': two output
words in their places with one rotation.
"""

from __future__ import annotations

import numpy as np

from hltm._compile import compiled
from hltm.sampling.philox import MULTIPLIER, ROUNDS, WEYL

LANES = 8  # blocks are padded to this many, so that no loop ends in a scalar remainder

_M0, _M1 = np.uint64(MULTIPLIER[0]), np.uint64(MULTIPLIER[1])
_W0, _W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
_WORD = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_LAST = ROUNDS - 1


@compiled()
def philox_blocks(key0, key1, c0, blocks, c2, c3, count, words):  # type: ignore[no-untyped-def]
    """Words of `count` calls: those of block j in words[2j] (0, then 1) and words[2j + 1] (2, 3).

    `count` is rounded up to LANES; keys and counters are uint64 that hold 32 bits.
    """
    for j in range((count + LANES - 1) // LANES * LANES):
        x0, x1, x2, x3 = c0, blocks[j], c2, c3
        k0, k1 = key0, key1
        for _ in range(_LAST):
            a = _M0 * (x0 & _WORD)
            b = _M1 * (x2 & _WORD)
            x0, x1, x2, x3 = (b >> _SHIFT) ^ x1 ^ k0, b, (a >> _SHIFT) ^ x3 ^ k1, a
            k0 = (k0 + _W0) & _WORD
            k1 = (k1 + _W1) & _WORD
        a = _M0 * (x0 & _WORD)
        b = _M1 * (x2 & _WORD)
        words[2 * j] = ((b >> _SHIFT) | (b << _SHIFT)) ^ (x1 & _WORD) ^ k0
        words[2 * j + 1] = ((a >> _SHIFT) | (a << _SHIFT)) ^ (x3 & _WORD) ^ k1
