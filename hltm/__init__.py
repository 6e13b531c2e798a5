"""hltm: hierarchical latent tree models whose every latent, posterior and bound is known exactly."""

from hltm import encode, probe
from hltm.augment import (
    Augmentation,
    keep_level,
    keep_nodes,
    keep_nothing,
    keep_root,
    resample_leaves,
)
from hltm.ceiling import Ceiling
from hltm.families.symmetric_binary import symmetric_binary
from hltm.inference import Posterior
from hltm.packed import PackedDraw
from hltm.philox import DRAW_FORMAT, Stream
from hltm.sample import Draw
from hltm.topology import Topology
from hltm.tree import LatentTree

__all__ = [
    "DRAW_FORMAT",
    "Augmentation",
    "Ceiling",
    "Draw",
    "LatentTree",
    "PackedDraw",
    "Posterior",
    "Stream",
    "Topology",
    "encode",
    "keep_level",
    "keep_nodes",
    "keep_nothing",
    "keep_root",
    "probe",
    "resample_leaves",
    "symmetric_binary",
]
__version__ = "0.1.0"
