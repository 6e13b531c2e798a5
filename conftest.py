"""For every test: one torch thread, the same examples of Hypothesis every time, no figures left open.

With pytest-xdist, whole folders are tested in several processes at once; files and single tests, and all
with `-n 0`, in this one.

Tests work on small tensors, where a second thread gives nothing, and on a busy machine torch's threads
spin while they wait for each other. Tests about threads set their own number. Speed is left to the
benchmarks. `pytest --hypothesis-profile=explore` tries other examples each time.
"""

import gc
import os
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# for the processes of pytest-xdist and those that tests start, a hundred: none should compile the same
# sources again, or rewrite the assertions of the same tests
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# kernels in Triton, an optional dependency, are imported only where it is there
FUSED = ("heads", "layers", "pairs_kernel", "siamese_kernel")
collect_ignore = [
    f"ssl/dualnets/training/fused/{name}.py" for name in FUSED if find_spec("triton") is None
]

MOST_PROCESSES = 4  # each takes 1.5 GB


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Run the tests of whole folders in a process per core, unless `-n` says how many."""
    option = config.option
    undecided = getattr(option, "numprocesses", 0) is None and not hasattr(config, "workerinput")
    seen = option.usepdb or option.capture == "no"  # what a test prints or asks, here alone
    if undecided and not seen and all(os.path.isdir(name) for name in config.args):
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
        if cores > 1:
            option.numprocesses, option.dist = min(cores, MOST_PROCESSES), "worksteal"


settings.register_profile("same", deadline=None, derandomize=True, max_examples=20)
settings.register_profile(
    "explore", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


def pytest_collection_modifyitems(items):
    """Of two processes one begins with `hltm` and one with `dualnets`, so that neither waits for kernels
    that the other one compiles."""
    items.sort(key=lambda item: "dualnets" in item.path.parts)


def pytest_collection_finish():
    """What is imported by now stays, so that collecting garbage need not look through it every time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def figures_closed():
    """What a test draws goes with it; matplotlib warns of twenty open figures."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
