"""The theory, executable: exact identities and dynamics of dual networks, one idea per file.

`updates` has Theorems 1 to 4 of arXiv 2010.00578, `hierarchy` the trees, lucky units and two layers,
`byol` BatchNorm and linear BYOL, `population` infinite batches. docs/theory.md states every theorem with
its assumptions; its table leads from a theorem to its function, test and experiment. The public names are
listed in `__init__.pyi` and imported when they are first used.
"""

from hltm._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
