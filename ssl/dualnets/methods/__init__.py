"""Training methods, one file each, with one interface (`protocol.Method`).

Every module here holds one method, except those of SHARED and private ones. Its name is the method's name
on the command line, its dataclass holds the method's flags.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualnets.methods.protocol import Method

SHARED = ("compiled", "losses", "protocol", "siamese", "source")  # parts that several methods share


def names() -> list[str]:
    """Names of all methods, sorted; answers without importing torch.

    Example:
        >>> "simclr" in names()
        True
    """
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(n.replace("_", "-") for n in found if n not in SHARED and not n.startswith("_"))


def discover() -> dict[str, type[Method]]:
    """Name -> class of every method: the one public class of its module.

    Raises:
        TypeError: a module without a method, or with several.

    Example:
        >>> discover()["simclr"].__name__
        'SimCLR'
    """
    from dualnets.methods.protocol import Method

    found: dict[str, type[Method]] = {}
    for name in names():
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
        own = [
            item
            for item in vars(module).values()
            if isinstance(item, type)
            and issubclass(item, Method)
            and item.__module__ == module.__name__
            and not item.__name__.startswith("_")
        ]
        if len(own) != 1:
            raise TypeError(f"{module.__name__} must have exactly one public method, it has {own}")
        found[name] = own[0]
    return found
