"""hltm: hierarchical latent tree models whose every latent, posterior and bound is known exactly.

The public names are listed in `__init__.pyi` and imported when they are first used.
"""

from hltm._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

__version__ = "0.1.0"
