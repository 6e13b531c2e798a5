"""dualnets: dual deep networks trained on hierarchical latent trees, a whole ensemble at once.

    optim/        optimisers; every rate may differ per member
    networks/     networks on trees, dense ones, heads, norms, any torch module
    methods/      losses, and one file per method
    training/     trajectory and train, checkpoints, memory, compiled steps
    images/       data sets of real pictures that are found on this machine, and their random views
    theory/       the theorems as functions (docs/theory.md)
    lab/          what an experiment is; from settings to cells, runs and verdicts
    experiments/  one file per claim
    cli/          the command `hltm`

A package imports only what stands above it. The public names are listed in `__init__.pyi` and
imported when they are first used.
"""

from hltm import __version__ as __version__
from hltm._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
