"""Families of trees, one file each; a file's name is the name of the function that makes a tree.

    balanced          the same number of children everywhere; given or Dirichlet tables
    caterpillar       a path of latents with leaves along it
    random_hierarchy  the Random Hierarchy Model: production rules as a latent tree
    random_tables     Dirichlet tables for a tree of any shape
    random_tree       a random shape with Dirichlet tables
    symmetric_binary  balanced binary trees with one polarity per edge

Two files are no families: `grammar` has the strings of a Random Hierarchy Model, drawn without
repetition or enumerated, and `suite` holds named trees of these families as benchmark sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hltm.tree import LatentTree

NAMES = (
    "balanced", "caterpillar", "random_hierarchy", "random_tables", "random_tree", "symmetric_binary",
)  # fmt: skip


class Families(Mapping[str, Callable[..., "LatentTree"]]):
    """Every family by name; its file is imported when it is first used.

    Raises:
        KeyError: an unknown name.

    Example:
        >>> list(FAMILIES)[:3]
        ['balanced', 'caterpillar', 'random_hierarchy']
        >>> FAMILIES["balanced"](depth=2, branching=3, seed=0)
        LatentTree(13 nodes, 9 leaves, depth 2, 2 states)
    """

    def __getitem__(self, name: str) -> Callable[..., LatentTree]:
        if name not in NAMES:
            raise KeyError(f"unknown family {name!r}, expected one of {', '.join(NAMES)}")
        return getattr(import_module(f"{__name__}.{name}"), name)

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


FAMILIES = Families()
