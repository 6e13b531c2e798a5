"""Families of trees, one file each; a file's name is the name of the function that makes a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from hltm.tree import LatentTree


class Families(Mapping[str, Callable[..., LatentTree]]):
    """Every family by name; a file in this folder is a family, imported when it is asked for.

    Raises:
        KeyError: an unknown name.

    Example:
        >>> sorted(FAMILIES)[:3]
        ['balanced', 'caterpillar', 'random_hierarchy']
        >>> FAMILIES["balanced"](depth=2, branching=3, seed=0)
        LatentTree(13 nodes, 9 leaves, depth 2, 2 states)
    """

    def __getitem__(self, name: str) -> Callable[..., LatentTree]:
        if name not in list(self):
            raise KeyError(f"unknown family {name!r}, expected one of {', '.join(self)}")
        return getattr(import_module(f"{__name__}.{name}"), name)

    def __iter__(self) -> Iterator[str]:
        return (found.name for found in iter_modules(__path__) if found.name != "suite")

    def __len__(self) -> int:
        return sum(1 for _ in self)


FAMILIES = Families()
