"""Machine code for a kernel as a whole, in place of one for each function that is compiled into it.

numba optimises every function when it has compiled it and translates it to machine code, then joins what
a kernel calls, directly or not, into the kernel, and does all of it again for that. Most of this work is
on functions that are called from compiled code alone, numba's own for arrays among them. Here such a
function is only simplified by itself (without that, training a loss of pairs is 15 % slower) until somebody
asks for its address, which nobody does as a rule: a kernel is optimised once, with all that it calls.

This changes numba's insides, of which other versions may have others: then an ImportError says what is
missing, and `_compile` compiles as numba does.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from numba.core.codegen import JITCodeLibrary, JITCPUCodegen, JitEngine
from numba.core.compiler import Compiler

from hltm._shortcuts import shortcuts

NEEDED = {
    JITCPUCodegen: ("_library_class", "set_env"),
    JitEngine: ("is_symbol_defined",),
    JITCodeLibrary: (
        "codegen", "_ensure_finalized", "get_defined_functions", "get_pointer_to_function",
        "serialize_using_object_code", "_get_module_for_linking", "_optimize_final_module",
        "_finalize_final_module", "_finalized",
    ),
    Compiler: ("compile_extra",),
}  # fmt: skip
for owner, names in NEEDED.items():
    for name in names:
        if getattr(owner, name, None) is None:
            raise ImportError(f"{getattr(owner, '__name__', owner)} has no {name}")


class Library(JITCodeLibrary):
    """The code of one function, which becomes machine code when its address is asked for."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self._has_machine_code = False
        self._environments: dict[str, Any] = {}

    @property
    def codegen(self) -> Any:
        """What numba tells of environments: this library while there is no machine code to know them."""
        return self if self._finalized and not self._has_machine_code else self._codegen

    def set_env(self, name: str, environment: Any) -> None:
        """Keep the environment of a function: objects of Python for its machine code."""
        self._environments[name] = environment

    def get_pointer_to_function(self, name: str) -> int:
        """The address of a function; 0 if there is none of this name."""
        self._ensure_finalized()
        if not self._has_machine_code:
            if not any(found.name == name for found in self.get_defined_functions()):
                return 0
            self._make_machine_code()
        address: int = super().get_pointer_to_function(name)
        return address

    def serialize_using_object_code(self) -> Any:
        """What is stored on disk."""
        if not self._has_machine_code:
            self._make_machine_code()
        return super().serialize_using_object_code()

    def _get_module_for_linking(self) -> Any:
        """What is joined into a caller; numba's own libraries do not know its environment from this one."""
        codegen: Any = self._codegen
        if codegen._library_class is not Library and not self._has_machine_code:
            self._make_machine_code()
        return super()._get_module_for_linking()

    def _make_machine_code(self) -> None:
        self._has_machine_code = True
        super()._optimize_final_module()
        self._final_module.verify()
        super()._finalize_final_module()
        codegen: Any = self._codegen
        for name, environment in self._environments.items():
            if codegen._engine.is_symbol_defined(name):
                codegen.set_env(name, environment)

    # numba calls these when a function is compiled

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        for library in self._linking_libraries:
            self._environments.update(getattr(library, "_environments", {}))
        self._finalized = True


class Pipeline(Compiler):
    """numba's own steps, whose functions are each kept in a `Library`."""

    def compile_extra(self, function: Any) -> Any:
        codegen = self.state.targetctx.codegen()
        if not _fits(codegen):
            return super().compile_extra(function)
        with shortcuts(), _libraries(codegen), _no_collection():
            return super().compile_extra(function)


@cache
def _fits(codegen: Any) -> bool:
    """Whether objects of numba have the attributes that are used here."""
    names = ("_codegen", "_final_module", "_linking_libraries")
    own = JITCodeLibrary(codegen, "probe")
    return hasattr(codegen, "_engine") and all(hasattr(own, name) for name in names)


@contextmanager
def _libraries(codegen: Any) -> Iterator[None]:
    """Let numba make libraries of the class above; its lock is held while it compiles."""
    before = codegen._library_class
    codegen._library_class = Library
    try:
        yield
    finally:
        codegen._library_class = before


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which looks through all that is being compiled again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
