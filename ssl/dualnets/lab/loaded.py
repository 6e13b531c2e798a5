"""What every process that computes cells loads, imported once by the process that is copied (`workers.load`).

Threads that libraries start as they are loaded, of OpenBLAS and jemalloc, prepare themselves for copies of
their process; nothing else here may start one, which a copy would not have.
"""

import pyarrow.parquet  # noqa: F401
import safetensors.torch  # noqa: F401
from numba.core.registry import cpu_target

import dualnets.lab.learning_curves
import dualnets.lab.store
import dualnets.training.trajectory  # noqa: F401
import hltm.inference.ceiling
import hltm.inference.posterior  # noqa: F401

# numba's own functions by type, which it looks up when it first compiles or loads a function
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
