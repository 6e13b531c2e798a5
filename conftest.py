"""For every test: one torch thread, the same examples of Hypothesis every time, no figures left open.

Tests work on small tensors, where a second thread gives nothing, and on a busy machine torch's threads
spin while they wait for each other. Tests about threads set their own number. Speed is left to the
benchmarks. `pytest --hypothesis-profile=explore` tries other examples each time.
"""

import os
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

# kernels in Triton, an optional dependency, are imported only where it is there
FUSED = ("heads", "layers", "pairs_kernel", "siamese_kernel")
collect_ignore = [
    f"ssl/dualnets/training/fused/{name}.py" for name in FUSED if find_spec("triton") is None
]

settings.register_profile("same", deadline=None, derandomize=True, max_examples=30)
settings.register_profile(
    "explore", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def figures_closed():
    """What a test draws goes with it; matplotlib warns of twenty open figures."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
