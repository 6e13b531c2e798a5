"""dualnets: dual deep networks trained on hierarchical latent trees, a whole ensemble at once.

Names are imported when they are first used, so that the command line answers without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualnets.checkpoint import Checkpoints
    from dualnets.execute import Run, run
    from dualnets.losses import (
        LOSSES,
        BatchwiseNCE,
        Detached,
        ExponentialWeights,
        InfoNCE,
        InverseDistanceWeights,
        NTXent,
        Simple,
        SpectralContrastive,
        Triplet,
    )
    from dualnets.methods._direct_predictor import DirectPredictor
    from dualnets.methods.barlow_twins import BarlowTwins
    from dualnets.methods.byol import BYOL
    from dualnets.methods.moco import MoCo
    from dualnets.methods.pirl import PIRL
    from dualnets.methods.protocol import Batch, Method, Needs, Setup
    from dualnets.methods.simclr import SimCLR
    from dualnets.methods.simsiam import SimSiam
    from dualnets.methods.supervised import Supervised
    from dualnets.methods.swav import SwAV
    from dualnets.methods.teacher_student import TeacherStudent
    from dualnets.methods.vicreg import VICReg
    from dualnets.networks.conv_tree import conv_tree
    from dualnets.networks.heads import Head
    from dualnets.networks.mlp import mlp
    from dualnets.networks.torch_ensemble import TorchEnsemble
    from dualnets.networks.tree_network import tree_network
    from dualnets.networks.wrong_tree import wrong_tree
    from dualnets.normalizations import BatchNorm, GroupNorm, LayerNorm
    from dualnets.optim import LARS, OPTIMIZERS, SGD, Adam, AdamW, Group, Schedule
    from dualnets.teacher_units import specialisation
    from dualnets.training import DivergedError, Snapshot, log_spaced, train, trajectory

_HOME = {
    "Checkpoints": "checkpoint",
    "Run": "execute",
    "run": "execute",
    "LOSSES": "losses",
    "BatchwiseNCE": "losses",
    "InfoNCE": "losses",
    "NTXent": "losses",
    "Simple": "losses",
    "Triplet": "losses",
    "BYOL": "methods.byol",
    "DirectPredictor": "methods._direct_predictor",
    "SimCLR": "methods.simclr",
    "Detached": "losses",
    "InverseDistanceWeights": "losses",
    "ExponentialWeights": "losses",
    "SpectralContrastive": "losses",
    "TeacherStudent": "methods.teacher_student",
    "Supervised": "methods.supervised",
    "VICReg": "methods.vicreg",
    "BarlowTwins": "methods.barlow_twins",
    "SimSiam": "methods.simsiam",
    "conv_tree": "networks.conv_tree",
    "MoCo": "methods.moco",
    "PIRL": "methods.pirl",
    "SwAV": "methods.swav",
    "Batch": "methods.protocol",
    "Method": "methods.protocol",
    "Needs": "methods.protocol",
    "Setup": "methods.protocol",
    "Head": "networks.heads",
    "mlp": "networks.mlp",
    "TorchEnsemble": "networks.torch_ensemble",
    "tree_network": "networks.tree_network",
    "wrong_tree": "networks.wrong_tree",
    "BatchNorm": "normalizations",
    "GroupNorm": "normalizations",
    "LayerNorm": "normalizations",
    "LARS": "optim",
    "OPTIMIZERS": "optim",
    "SGD": "optim",
    "Adam": "optim",
    "AdamW": "optim",
    "Group": "optim",
    "Schedule": "optim",
    "specialisation": "teacher_units",
    "DivergedError": "training",
    "Snapshot": "training",
    "log_spaced": "training",
    "train": "training",
    "trajectory": "training",
}
__all__ = [
    "BYOL",
    "LARS",
    "LOSSES",
    "OPTIMIZERS",
    "PIRL",
    "SGD",
    "Adam",
    "AdamW",
    "BarlowTwins",
    "Batch",
    "BatchNorm",
    "BatchwiseNCE",
    "Checkpoints",
    "Detached",
    "DirectPredictor",
    "DivergedError",
    "ExponentialWeights",
    "Group",
    "GroupNorm",
    "Head",
    "InfoNCE",
    "InverseDistanceWeights",
    "LayerNorm",
    "Method",
    "MoCo",
    "NTXent",
    "Needs",
    "Run",
    "Schedule",
    "Setup",
    "SimCLR",
    "SimSiam",
    "Simple",
    "Snapshot",
    "SpectralContrastive",
    "Supervised",
    "SwAV",
    "TeacherStudent",
    "TorchEnsemble",
    "Triplet",
    "VICReg",
    "conv_tree",
    "log_spaced",
    "mlp",
    "run",
    "specialisation",
    "train",
    "trajectory",
    "tree_network",
    "wrong_tree",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
