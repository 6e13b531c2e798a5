"""hltm: hierarchical latent tree models whose every latent, posterior and bound is known exactly."""

from hltm import plot as picture
from hltm import probe
from hltm.data import adapters, encode
from hltm.data.dataset import ViewDataset, ViewStream
from hltm.data.export.read import Column, DataFolder, load
from hltm.data.export.verify import Verification, verify
from hltm.data.export.write import export
from hltm.data.view_batches import ViewBatch
from hltm.families import FAMILIES
from hltm.families.balanced import balanced
from hltm.families.caterpillar import caterpillar
from hltm.families.random_hierarchy import production_rules, random_hierarchy, symbols
from hltm.families.random_tables import random_tables
from hltm.families.random_tree import random_tree
from hltm.families.suite import SuiteTree, suite
from hltm.families.symmetric_binary import symmetric_binary
from hltm.formats.json import load as load_tree
from hltm.formats.newick import topology_from_newick
from hltm.inference.ceiling import Ceiling
from hltm.inference.most_probable import MostLikely
from hltm.inference.posterior import Posterior
from hltm.model.topology import Topology
from hltm.sampling.augment import (
    Augmentation,
    drop_leaves,
    keep_level,
    keep_nodes,
    keep_nothing,
    keep_root,
    resample_leaves,
    resample_subtrees,
)
from hltm.sampling.draw import Draw
from hltm.sampling.packed import PackedDraw
from hltm.sampling.philox import DRAW_FORMAT, Stream
from hltm.tree import LatentTree

__all__ = [
    "DRAW_FORMAT",
    "FAMILIES",
    "Augmentation",
    "Ceiling",
    "Column",
    "DataFolder",
    "Draw",
    "LatentTree",
    "MostLikely",
    "PackedDraw",
    "Posterior",
    "Stream",
    "SuiteTree",
    "Topology",
    "Verification",
    "ViewBatch",
    "ViewDataset",
    "ViewStream",
    "adapters",
    "balanced",
    "caterpillar",
    "drop_leaves",
    "encode",
    "export",
    "keep_level",
    "keep_nodes",
    "keep_nothing",
    "keep_root",
    "load",
    "load_tree",
    "picture",
    "probe",
    "production_rules",
    "random_hierarchy",
    "random_tables",
    "random_tree",
    "resample_leaves",
    "resample_subtrees",
    "suite",
    "symbols",
    "symmetric_binary",
    "topology_from_newick",
    "verify",
]
__version__ = "0.1.0"
