"""Compiled kernels are never older than their sources, and need no folder for a cache."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# a kernel in a file of its own: numba compiles `row_products` of blocks.py, and SCALE, into it
CALLER = """
from dualnets.training.compiled import blocks
from hltm._compile import compiled
from settings import SCALE

@compiled(fastmath=blocks.FAST)
def inner(g, rows, out):
    blocks.row_products(g, rows, out)
    for i in range(len(out)):
        out[i] *= SCALE

@compiled()
def outer(g, rows, out):
    inner(g, rows, out)
"""
RUN = """
import numpy as np
from caller import outer
out = np.empty(2)
outer(np.array([1.0, 2.0]), np.array([[1.0, 1.0], [0.0, 1.0]]), out)
print(*out, "from the cache" if outer.stats.cache_hits else "compiled")
"""


@pytest.fixture
def project(tmp_path):
    """A copy of both packages with a kernel beside them; `run` calls it in a process of its own."""
    for package in ("hltm", "ssl/dualnets"):
        target = tmp_path / Path(package).name
        shutil.copytree(ROOT / package, target, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "settings.py").write_text("SCALE = 1.0\n")
    return tmp_path


def run(project, *options, **environment):
    """What the kernel computed and where it came from; what went to standard error."""
    given = {n: v for n, v in os.environ.items() if not n.startswith(("NUMBA", "XDG"))}
    done = subprocess.run(
        [sys.executable, *options, "-c", RUN], cwd=project, text=True, capture_output=True,
        check=True, env=given | {"PYTHONPATH": str(project)} | environment,
    )  # fmt: skip
    return done.stdout.strip(), done.stderr


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_a_kernel_calls_or_reads_is_compiled_again_when_it_changes(project):
    strict = ("-W", "error")
    assert run(project, *strict) == ("3.0 2.0 compiled", "")
    assert run(project, *strict) == ("3.0 2.0 from the cache", "")
    # a block that is called by a function that the kernel calls, three files away
    blocks = project / "dualnets/training/compiled/blocks.py"
    edit(blocks, "out[i] = s0\n        i += 1", "out[i] = s0 + 10\n        i += 1")
    assert run(project, *strict) == ("13.0 12.0 compiled", "")
    # a constant of a module that holds no kernel
    edit(project / "settings.py", "1.0", "2.0")
    assert run(project, *strict) == ("26.0 24.0 compiled", "")
    # a file that has no part in the kernel
    edit(
        project / "dualnets/training/compiled/heads.py",
        "import numpy as np",
        "import numpy as np\n",
    )
    assert run(project, *strict) == ("26.0 24.0 from the cache", "")


def test_where_no_folder_can_be_written_kernels_run_and_one_line_says_what_to_do(project):
    (project / "nothing").touch()
    (project / "__pycache__").touch()  # a file, so that there can be no such folder, even for root
    (project / "dualnets/training/compiled/__pycache__").touch()
    nowhere = str(project / "nothing" / "below")
    found, errors = run(project, HOME=nowhere, NUMBA_CACHE_DIR=nowhere)
    assert found == "3.0 2.0 compiled"
    assert len(errors.splitlines()) == 1
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in errors
    somewhere = str(project / "somewhere")
    for expected in ("3.0 2.0 compiled", "3.0 2.0 from the cache"):
        assert run(project, HOME=nowhere, NUMBA_CACHE_DIR=somewhere) == (expected, "")


def test_a_folder_that_can_no_longer_be_written_does_not_matter(project):
    """A disk may fill between the moment the cache is opened and the end of a compilation."""
    edit(
        project / "caller.py",
        "\n@compiled(fastmath",
        "\nimport numba.core.caching as caching\n"
        "def full(*given): raise OSError('disk full')\n"
        "caching.IndexDataCacheFile.save = full\n\n@compiled(fastmath",
    )
    found, errors = run(project)
    assert found == "3.0 2.0 compiled"
    assert len(errors.splitlines()) == 1
    assert "NUMBA_CACHE_DIR" in errors
