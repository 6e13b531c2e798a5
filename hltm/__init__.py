"""hltm: hierarchical latent tree models whose every latent, posterior and bound is known exactly.

    model/      what a tree is: shape, probabilities, closed forms, enumeration
    sampling/   draws of states by address, views, augmentations
    inference/  posteriors, most likely states and ceilings given leaves
    tree        LatentTree, the class with all of these as methods
    families/   functions that make trees, and benchmark suites
    formats/    trees as JSON, networkx graphs, Newick, NEXUS and BIF, in text and in files
    data/       data sets for training, and their export to files
    plot        figures of a tree
    display     what notebooks show of a tree
    probe/      how well the units of a network represent the latents

A package imports only what stands above it. The public names are listed in `__init__.pyi` and are
imported when they are first used.
"""

from hltm._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

__version__ = "0.1.0"
