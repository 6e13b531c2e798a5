"""dualnets: dual deep networks trained on hierarchical latent trees, a whole ensemble at once.

The public names are listed in `__init__.pyi` and imported when they are first used.
"""

from hltm import __version__ as __version__
from hltm._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
