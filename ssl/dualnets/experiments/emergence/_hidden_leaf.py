"""An augmentation that hides the last leaf of every view, the one that a network is to predict."""

from __future__ import annotations

import numpy as np

from hltm.model.topology import Topology
from hltm.sampling.augment import Augmentation
from hltm.sampling.rules import nowhere


def last_leaf(topology: Topology) -> np.ndarray:
    """`(V,)` 1 for the last leaf, 0 for all other nodes."""
    found = np.zeros(len(topology))
    found[-1] = 1.0
    return found


def hide_last_leaf() -> Augmentation:
    """Redraw nothing, and miss the last leaf."""
    return Augmentation("hide-last-leaf", nowhere, last_leaf)
