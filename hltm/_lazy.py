"""Names that are imported when they are first used, so that importing a package costs nothing.

A package lists its public names once, in its stub `__init__.pyi`, which type checkers read too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def attach_stub(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the imports of its stub.

    Args:
        package: its `__name__`.
        file: its `__file__`; the stub lies beside it.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    homes = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, attribute = homes[name]
        # threads that import parts of torch at once break it; this one import they wait for
        import_module("torch")
        if home != package and hasattr(module := import_module(home), attribute):
            found = getattr(module, attribute)
        else:
            found = import_module(f"{home}.{attribute}")
        setattr(sys.modules[package], name, found)  # so that it is looked up here once
        return found

    return get, lambda: sorted(homes), sorted(homes)


class LazyModule:
    """A module that is imported when an attribute of it is first used.

    A plain object: a subclass of ModuleType looks attributes up four times as slowly.

    Example:
        >>> math = LazyModule("math")
        >>> math.sqrt(4)
        2.0
    """

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if self._module is None:
            self._module = import_module(self.__name__)
        return getattr(self._module, name)
