"""Machine code of layers, which every kernel that trains networks calls by its address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import typeof, types

from dualnets.networks.compiled.blocks import backward, forward
from hltm._separate import compile_together

Code = tuple[int, int]  # addresses of `blocks.forward` and `blocks.backward`
_known: dict[Any, Code] = {}


def layer_code(dtype: Any, kernel: Any = None, arguments: Sequence[Any] = ()) -> Code:
    """Where the machine code of layers is, compiled first if it has to be.

    Args:
        dtype: numpy's float32 or float64.
        kernel, arguments: what will be called with this code, and then these arguments. It is compiled as
            well, beside the layers, so that of several processes each compiles a part.
    """
    if (dtype, kernel) not in _known:
        like = np.dtype(dtype).type(0)
        wanted = [(own.kernel, own.signature_of(typeof(like)).args) for own in (backward, forward)]
        if kernel is not None:
            kinds = types.UniTuple(types.int64, 2), *map(typeof, arguments)
            wanted.insert(0, (kernel, kinds))  # it takes longest
        compile_together(wanted)
        _known[dtype, kernel] = forward.address(like), backward.address(like)
    return _known[dtype, kernel]
