"""Compiled kernels are never older than their sources, and need no folder for a cache."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit, types
from numba.core import config
from numba.core.compiler import Flags, run_frontend
from numba.core.registry import cpu_target
from numba.core.targetconfig import TargetConfig

from hltm._compile import _digest, compiled, inner, source_stamp
from hltm._separate import compile_together, separate
from hltm._shortcuts import shortcuts

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "settings": "SCALE = SHIFT = ADDED = 1.0; TERM = 0",
    "writer": """
from settings import TERM

class Writer:
    def sum_of(self, builder, x):
        return builder.fadd(x, x.type(TERM))
""",
    "instructions": """
from writer import Writer

def sum_of(builder, x):
    return Writer().sum_of(builder, x)
""",
    "unrelated": "",
    "callee": """
import settings
from hltm._compile import compiled

@compiled()
def double(x):
    return 2 * x
""",
    "caller": """
import callee
import unrelated
from hltm._compile import compiled
from instructions import sum_of
from numba import types
from numba.extending import intrinsic
from settings import ADDED, SCALE

@intrinsic
def more(typing, x):
    def generate(context, builder, signature, arguments):
        return sum_of(builder, arguments[0])
    return types.float64(types.float64), generate

def plus(number):
    @compiled()
    def add(x):
        return x + number
    return add

added = plus(ADDED)

@compiled()
def inner(x):
    return SCALE * callee.double(x) + callee.settings.SHIFT

@compiled()
def outer(x):
    return added(more(inner(x)))
""",
}
RUN = """
from caller import outer
print(outer(1.0), "from the cache" if outer.stats.cache_hits else "compiled")
"""


@pytest.fixture
def project(tmp_path):
    """Files of kernels that call and read each other; `run` calls one in a process of its own."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def start(project, *options, **environment):
    given = {n: v for n, v in os.environ.items() if not n.startswith(("NUMBA", "XDG"))}
    path = os.pathsep.join(map(str, (project, ROOT)))
    # sources that are edited twice in a second are the same to Python's own cache
    given["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.Popen(
        [sys.executable, *options, "-c", RUN], cwd=project, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=given | {"PYTHONPATH": path} | environment,
    )  # fmt: skip


def run(project, *options, **environment):
    """What the kernel computed and where it came from; what went to standard error."""
    process = start(project, *options, **environment)
    found, errors = process.communicate()
    assert process.returncode == 0, errors
    return found.strip(), errors


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def fresh(project, monkeypatch):
    """What the kernel computes and where it comes from, with all sources read again in this process."""
    monkeypatch.setattr(config, "CACHE_DIR", "")  # beside the sources, as in a process without it
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(project))
    before = {name: module for name, module in sys.modules.items() if name in FILES}

    def run():
        for name in FILES:
            sys.modules.pop(name, None)
        _digest.cache_clear()
        space = {}
        exec("from caller import outer", space)
        found = space["outer"](1.0)
        return found, bool(space["outer"].stats.cache_hits)

    yield run
    for name in FILES:
        sys.modules.pop(name, None)
    sys.modules.update(before)
    _digest.cache_clear()


def test_what_a_kernel_calls_or_reads_is_compiled_again_when_it_changes(project, fresh):
    assert fresh() == (4.0, False)
    assert fresh() == (4.0, True)
    for file, old, new, expected in (
        ("callee", "2 * x", "2 * x + 10", 14.0),  # called by a function that the kernel calls
        ("settings", "SCALE =", "SCALE = 2.0;", 26.0),  # a constant of a file without a kernel
        ("settings", "SHIFT =", "SHIFT = 100.0;", 125.0),  # reached through another module
        ("settings", "ADDED =", "ADDED = 1000.0;", 1124.0),  # kept in a closure
        ("settings", "TERM = 0", "TERM = 2", 1126.0),  # of a class that an intrinsic uses
        ("writer", "fadd", "fsub", 1122.0),  # that class itself
        ("instructions", "return", "return x or", 1124.0),  # a function that uses it
    ):
        edit(project / f"{file}.py", old, new)
        assert fresh() == (expected, False)
    edit(project / "unrelated.py", "", "x = 1")
    assert fresh() == (1124.0, True)
    assert run(project, "-W", "error") == ("1124.0 from the cache", "")  # in another process, too


def test_code_that_was_edited_after_it_was_imported_is_not_stored_as_the_new_code(tmp_path):
    """A run may be starting while its files are edited."""
    file = tmp_path / "edited.py"
    stamps = []
    for number in (1, 2):
        text = f"def half(x):\n    return x / 2 + {number}\ndef kernel(x):\n    return half(x)\n"
        file.write_text(text)
        space = {"__name__": "edited"}
        exec(compile(text, str(file), "exec"), space)
        _digest.cache_clear()
        file.write_text(text.replace("1", "2"))
        stamps.append(source_stamp(compiled()(space["kernel"])))
    assert stamps[0] != stamps[1]


@pytest.mark.parametrize(
    "missing",
    [
        "codegen.JITCPUCodegen._library_class",
        "codegen.JITCodeLibrary._finalize_final_module",
        "compiler.Compiler.compile_extra",
        "targetconfig.TargetConfig.values",
        "ir.Inst._rec_list_vars",
    ],
)
def test_a_numba_with_other_insides_compiles_in_its_own_way(monkeypatch, missing):
    """hltm replaces parts of numba where they are as it knows them, and nowhere else."""
    for module in ("hltm._linking", "hltm._shortcuts"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(f"numba.core.{missing}", None)
    with pytest.raises(ImportError, match=missing.rpartition(".")[2]):
        importlib.import_module("hltm._linking")


def test_shortcuts_give_what_numba_gives():
    statements = [
        statement for block in run_frontend(edit).blocks.values() for statement in block.body
    ]
    flags = [Flags(), Flags()]
    flags[1].nrt, flags[1].fastmath = True, {"contract"}

    def found():
        names = [sorted(own.name for own in statement.list_vars()) for statement in statements]
        return names, [own.values() for own in flags], flags[0] == flags[1], hash(flags[1])

    expected = found()
    with shortcuts():
        assert found() == expected
        assert TargetConfig.values.__module__ == "hltm._shortcuts"
    assert TargetConfig.values.__module__ == "numba.core.targetconfig"


def test_an_array_of_another_shape_than_its_slice_is_refused():
    @compiled()
    def assign(target, source):
        target[1:] = source

    target = np.zeros(4)
    assign(target, np.ones(3))
    assert target.tolist() == [0, 1, 1, 1]
    with pytest.raises(ValueError, match="a slice an array of another shape"):
        assign(target, np.ones(2))


def test_objects_of_numba_with_other_attributes_compile_in_its_own_way(monkeypatch):
    linking = importlib.import_module("hltm._linking")
    monkeypatch.setattr(linking, "_fits", lambda codegen: False)
    monkeypatch.setattr(linking, "_libraries", None)

    @compiled()
    def double(x):
        return 2 * x

    assert double(1.5) == 3
    monkeypatch.undo()
    codegen = cpu_target.target_context.codegen()
    assert linking._fits.__wrapped__(codegen)
    monkeypatch.setattr(linking, "JITCodeLibrary", lambda *_: object())
    assert not linking._fits.__wrapped__(codegen)


def test_kernels_that_numba_compiles_in_its_own_way_compute_the_same(project):
    without = "import numba.core.codegen as codegen\ndel codegen.JITCodeLibrary\n"
    edit(project / "settings.py", "SCALE", f"{without}SCALE")
    check = (
        "import hltm._compile\nassert hltm._compile.Pipeline.__module__ == 'numba.core.compiler'\n"
    )
    edit(project / "unrelated.py", "", check)
    assert run(project, "-W", "error") == ("4.0 compiled", "")


@pytest.mark.slow
def test_where_no_folder_can_be_written_kernels_run_and_one_line_says_what_to_do(project):
    (project / "nothing").touch()
    (project / "__pycache__").touch()  # a file, so that there can be no such folder, even for root
    nowhere = str(project / "nothing" / "below")
    found, errors = run(project, HOME=nowhere, NUMBA_CACHE_DIR=nowhere)
    assert found == "4.0 compiled"
    assert len(errors.splitlines()) == 1
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in errors
    somewhere = str(project / "somewhere")
    for expected in ("4.0 compiled", "4.0 from the cache"):
        assert run(project, HOME=nowhere, NUMBA_CACHE_DIR=somewhere) == (expected, "")


def test_a_folder_that_can_no_longer_be_written_does_not_matter(project):
    """A disk may fill between the moment the cache is opened and the end of a compilation."""
    edit(
        project / "caller.py",
        "\n@compiled()\ndef inner",
        "\nimport numba.core.caching as caching\n"
        "def full(*given): raise OSError('disk full')\n"
        "caching.IndexDataCacheFile.save = full\n\n@compiled()\ndef inner",
    )
    found, errors = run(project)
    assert found == "4.0 compiled"
    assert len(errors.splitlines()) == 1
    assert "NUMBA_CACHE_DIR" in errors


@pytest.mark.slow
def test_processes_that_share_a_cache_and_damaged_files_do_no_harm(project):
    folder = str(project / "cache")
    both = [start(project, "-W", "error", NUMBA_CACHE_DIR=folder) for _ in range(2)]
    found = [process.communicate() for process in both]
    # one of them compiles, and the other waits for it
    assert sorted(found) == [("4.0 compiled\n", ""), ("4.0 from the cache\n", "")]
    for suffix in ("nbi", "nbc"):  # the index, and machine code
        files = [*Path(folder).rglob(f"*.{suffix}")]
        assert files
        for path in files:
            os.truncate(path, 30)
        assert run(project, NUMBA_CACHE_DIR=folder) == ("4.0 compiled", "")
        assert run(project, NUMBA_CACHE_DIR=folder) == ("4.0 from the cache", "")


def test_what_only_kernels_call_is_refused_from_python():
    """Compiled or not yet: without what Python needs, a call would end the process."""

    @inner()
    def double(x):
        return 2 * x

    @compiled()
    def quadruple(x):
        return double(double(x))

    for _ in range(2):
        with pytest.raises(TypeError, match="double can be called from compiled code alone"):
            double(3.0)
        assert quadruple(3.0) == 12


def test_a_separate_function_is_called_by_its_address():
    """With arguments of other types, which become its own; errors pass through."""

    @separate(lambda like: types.float64(like, types.int64, types.float64[::1]))
    def total(like, count, values):
        if count > len(values):
            raise ValueError("too many")
        found = like
        for i in range(count):
            found += values[i]
        return found

    call = total.call

    @compiled()
    def twice(at, like, count, values):
        return 2 * call(at, (like, count, values))

    compile_together([(total.kernel, total.signature_of(types.float64).args)] * 2)
    at = total.address(0.5)
    assert at == total.address(1.5) > 0
    assert twice(at, 0.5, np.uint8(2), np.arange(5.0)) == 3
    assert twice(at, 1.0, True, np.arange(5.0)) == 2
    with pytest.raises(ValueError, match="too many"):
        twice(at, 0.5, 6, np.arange(5.0))


def test_functions_that_others_compile_call_what_kernels_call(capfd):
    """To print takes objects of Python, which the code of a caller must find, be it a kernel or not."""

    @inner()
    def told(x):
        print("told")
        return x

    @compiled()
    def kernel(x):
        return told(x)

    @njit
    def other(x):
        return told(x)

    assert kernel(1.0) == other(1.0) == 1
    assert capfd.readouterr().out.split() == ["told", "told"]


def test_what_kernels_call_has_no_machine_code_of_its_own():
    @compiled()
    def double(x):
        return 2 * x

    @compiled()
    def quadruple(x):
        return double(double(x))

    assert quadruple(1.5) == 6
    assert not double.overloads  # asked for from Python, it gets some
    assert double(1.5) == 3


def test_options_of_a_function_are_its_own():
    """numba's would be those of the function that called it first."""

    @inner()
    def rest(x):
        return (x + 1e16) - 1e16

    @compiled(fastmath=True)
    def fast(x):
        return rest(x)

    @compiled()
    def exact(x):
        return rest(x) + 1 / (x - x)

    assert fast(1.0) == 0.0  # 1 where sums may be reordered
    assert exact(1.0) == np.inf
