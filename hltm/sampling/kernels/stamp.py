"""A stamp of the kernels' sources, so that a cache never serves what an older source compiled to.

numba caches a function by its own file's time alone and does not see that a function it calls
from another file has changed. It does see the types of the arguments: so what is cached takes an
empty array whose only field is named by a hash of all kernel sources.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np


@cache
def source_stamp() -> np.ndarray:
    """An empty array whose type differs for different sources of this folder."""
    hashed = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hashed.update(path.read_bytes())
    return np.empty(0, dtype=[("sources_" + hashed.hexdigest()[:16], np.uint8)])
