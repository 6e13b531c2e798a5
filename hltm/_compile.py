"""Compiled kernels: numba with a cache on disk that never runs an older version of the source.

numba compiles the functions that a kernel calls into the kernel, yet its own cache looks at the
file of the kernel alone: after an edit in another file it would go on running the old code. Here
the cache of a kernel depends on everything that is compiled into it (`source_stamp`).

Of several processes that need one kernel at once, one compiles it and the others wait for its file.

Where no folder for the cache can be written, as in a read-only container, kernels are compiled
again in every process, and one warning says so.
"""

from __future__ import annotations

import hashlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from numba import njit, types
from numba.core.caching import FunctionCache, NullCache

try:
    from hltm._linking import Pipeline
except ImportError:  # a numba with other insides, whose own way of compiling takes longer
    from numba.core.compiler import Compiler as Pipeline  # type: ignore[assignment]
try:
    import fcntl
except ImportError:  # on Windows, where processes that start together compile the same twice
    fcntl = None  # type: ignore[assignment]

Function = TypeVar("Function", bound=Callable[..., Any])
LONGEST = 60.0  # seconds for which a process waits for another one that compiles
# packages whose functions change with their versions, of which numba takes notice
OTHERS = sys.stdlib_module_names | {"llvmlite", "numba", "numpy", "torch"}
CONSTANTS = (bool, int, float, complex, str, bytes, np.generic, np.dtype, Enum)


def compiled(**options: Any) -> Callable[[Function], Function]:
    """A decorator that compiles a function to machine code, run without the interpreter's lock.

    It takes the options of `numba.njit`, e.g. `@compiled(fastmath=True)`. Where compiled code calls the
    function, it is compiled into its caller, as by `inner`.
    """

    def decorate(function: Function) -> Function:
        kernel: Any = stored(function, **options)
        if hasattr(kernel, "py_func"):  # with NUMBA_DISABLE_JIT=1 it is the function itself
            callee: Any = inner(**options)(function)
            kernel.get_call_template = callee.get_call_template
            kernel.get_overload = callee.get_overload
        return kernel

    return decorate


def inner(**options: Any) -> Callable[[Function], Function]:
    """As `compiled`, for a function that only compiled code calls.

    It takes less time to compile, since nothing is made for callers from Python. A call from Python would
    jump to nowhere, so it is refused with a TypeError.
    """

    def decorate(function: Function) -> Function:
        kernel: Any = _jit(function, no_cpython_wrapper=True, **options)
        if hasattr(kernel, "py_func"):

            def refuse(*_: Any, **__: Any) -> None:
                raise TypeError(f"{function.__name__} can be called from compiled code alone")

            # numba's table of compiled forms for calls from Python stays empty, so that it asks for one
            kernel.add_overload = lambda found: kernel.overloads.update(
                {tuple(found.signature.args): found}
            )
            kernel._compile_for_args = refuse
            # one compiled form for an argument, be it a constant or not
            template = kernel.get_call_template
            kernel.get_call_template = lambda args, kws: template(
                tuple(types.unliteral(own) for own in args), kws
            )
        return kernel

    return decorate


def stored(function: Callable[..., Any], **options: Any) -> Any:
    """numba's compiled function, whose machine code is kept on disk."""
    kernel = _jit(function, **options)
    if hasattr(kernel, "py_func"):
        kernel._cache = KernelCache(kernel)
    return kernel


def _jit(function: Callable[..., Any], *, fastmath: Any = False, **options: Any) -> Any:
    """As `numba.njit`.

    An option that is not given would be that of the function which happens to call this one first. Divisions
    by 0 give infinity or NaN, as numpy's do: to raise errors takes many instructions.
    """
    jit: Any = njit  # its types do not know all of its options
    return jit(
        nogil=True, no_cfunc_wrapper=True, pipeline_class=Pipeline, fastmath=fastmath,
        error_model="numpy", **options,
    )(function)  # fmt: skip


class KernelCache(NullCache):
    """numba's cache of one compiled function on disk, opened when the function is first called."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._turn: Any = None  # the locked file while this process compiles

    @cached_property
    def _disk(self) -> Any:
        try:
            disk = FunctionCache(self._kernel.py_func)
        except RuntimeError:  # numba: "cannot cache function …: no locator available"
            _warn_of_no_cache()
            return NullCache()
        disk._cache_file._source_stamp = source_stamp(self._kernel)
        return disk

    @property
    def cache_path(self) -> str | None:
        """The folder of the cache; None where none can be written."""
        return self._disk.cache_path

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for arguments of these types; None if it is not stored, or damaged."""
        found = self._load(sig, target_context)
        if found is None:
            self._take_turn()
            found = self._load(sig, target_context)  # another process may have stored it meanwhile
            if found is not None:
                self._end_turn()
        return found

    def _load(self, sig: Any, target_context: Any) -> Any:
        try:
            return self._disk.load_overload(sig, target_context)
        except Exception:  # of many kinds: what is in a damaged file is anything
            with suppress(OSError):
                self._disk.flush()  # else numba cannot store anything beside it
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store machine code; without effect where the folder can no longer be written."""
        try:
            self._disk.save_overload(sig, data)
        except OSError:
            _warn_of_no_cache()
        finally:
            self._end_turn()

    def is_taken(self) -> bool:
        """Whether another process compiles this function now."""
        if fcntl is None or self.cache_path is None or not self._lock_path.exists():
            return False
        try:
            with self._lock_path.open("w") as turn:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends as it is closed
        except OSError:
            return True
        return False

    @property
    def _lock_path(self) -> Path:
        return Path(self.cache_path or "", self._disk._cache_file._index_name).with_suffix(".lock")

    def _take_turn(self) -> None:
        """Wait until no other process compiles this function, where the system has such locks.

        A turn ends when the machine code is stored, or with the process. Nobody waits forever for one
        that failed to compile.
        """
        self._end_turn()
        if fcntl is None or self.cache_path is None:
            return
        with suppress(OSError):  # a folder that cannot be written, a file system without locks
            turn = self._lock_path.open("w")
            end = time.monotonic() + LONGEST
            while time.monotonic() < end:
                try:
                    fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.02)
                else:
                    self._turn = turn
                    return
            turn.close()

    def _end_turn(self) -> None:
        if self._turn is not None:
            with suppress(OSError):
                fcntl.flock(self._turn, fcntl.LOCK_UN)  # a forked process may hold the file, too
            self._turn.close()
            self._turn = None


def source_stamp(kernel: Any) -> str:
    """A hash of all that is compiled into a kernel.

    That is the code, source files and options of its function and of all functions and classes that it
    uses, directly or not, and the constants that any of them reads from a module or from a function
    around it. A file alone does not do: it may have been edited since this process imported it.
    """
    hashed = hashlib.sha256()
    for ingredient in sorted(set(_ingredients("", kernel, set()))):
        hashed.update(ingredient.encode())
    return hashed.hexdigest()


def _ingredients(name: str, value: Any, seen: set[Any]) -> Iterator[str]:
    """Of a value of this name: hashes of files, code, options, and constants with their names."""
    own = value
    # of a compiled function, an intrinsic, which writes instructions of the machine itself, or a method
    for inside in ("py_func", "_defn", "__func__", "fget"):
        own = getattr(own, inside, None) or own
    if isinstance(value, CONSTANTS):
        yield f"{name} = {value!r}"
    elif isinstance(value, np.ndarray):
        yield f"{name} = {value.dtype} {value.shape} {value.tobytes()!r}"
    elif isinstance(value, tuple | list | dict):
        for at, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _ingredients(f"{name}[{at}]", part, seen)
    elif isinstance(own, FunctionType | type):
        yield f"{name} = {own.__module__}.{own.__qualname__}"
        if own in seen or str(own.__module__).partition(".")[0] in OTHERS:
            return
        seen.add(own)
        for option, chosen in getattr(value, "targetoptions", {}).items():
            yield f"{option}: {sorted(chosen) if isinstance(chosen, set) else chosen}"
        for at, part in _parts(own).items():
            yield from _ingredients(at, part, seen)


def _parts(own: FunctionType | type) -> dict[str, Any]:
    """What a function or class consists of and what it reads, by name."""
    if isinstance(own, type):
        parts = {
            name: part for name, part in vars(own).items() if name[:2] != "__" or callable(part)
        }
        return {"bases": own.__bases__, **parts}
    codes = [own.__code__]
    for code in codes:  # grows by the functions that are defined inside
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    names = {name for code in codes for name in code.co_names}
    values = {name: own.__globals__[name] for name in names & {*own.__globals__}}
    cells = zip(codes[0].co_freevars, own.__closure__ or (), strict=True)
    values |= {name: cell.cell_contents for name, cell in cells}
    modules = [value for value in values.values() if isinstance(value, ModuleType)]
    for module in modules:  # grows: a module may be reached through another
        found = {f"{module.__name__}.{name}": vars(module).get(name) for name in names}
        inner = [value for value in found.values() if isinstance(value, ModuleType)]
        modules += [value for value in inner if value not in modules]
        values |= found
    return values | {
        "file": _digest(codes[0].co_filename),
        "code": [(code.co_code, code.co_names, code.co_consts) for code in codes],
        "defaults": own.__defaults__,
    }


@cache
def _digest(file: str) -> str:
    """A hash of a file's content, as it was when first asked for.

    Where it cannot be read, as in a zip archive, it counts as changed in every process; where there is
    none, as for what a named tuple is made of, it has none.
    """
    if file.startswith("<"):
        return ""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return uuid4().hex


@cache
def _warn_of_no_cache() -> None:
    """Warn once per process."""
    # in angle brackets, which no file has, Python shows one line, without the source beneath it
    warnings.warn_explicit(
        "no folder for compiled kernels can be written, so every process compiles them again, which "
        "takes seconds; set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        filename="<hltm>",
        lineno=1,
    )
