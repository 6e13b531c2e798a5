"""dualnets: dual deep networks trained on hierarchical latent trees, a whole ensemble at once.

Names are imported when they are first used, so that the command line answers without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualnets.experiments import run
    from dualnets.lab.runner import Run
    from dualnets.lab.specialisation import specialisation
    from dualnets.methods._direct_predictor import DirectPredictor
    from dualnets.methods.barlow_twins import BarlowTwins
    from dualnets.methods.byol import BYOL
    from dualnets.methods.losses import (
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
    from dualnets.methods.moco import MoCo
    from dualnets.methods.pirl import PIRL
    from dualnets.methods.protocol import Batch, Method, Needs, TrainContext
    from dualnets.methods.simclr import SimCLR
    from dualnets.methods.simsiam import SimSiam
    from dualnets.methods.supervised import Supervised
    from dualnets.methods.swav import SwAV
    from dualnets.methods.teacher_student import TeacherStudent
    from dualnets.methods.vicreg import VICReg
    from dualnets.networks.conv_tree import conv_tree
    from dualnets.networks.heads import Head
    from dualnets.networks.mlp import mlp
    from dualnets.networks.normalizations import BatchNorm, GroupNorm, LayerNorm
    from dualnets.networks.shuffled_tree import shuffled_tree
    from dualnets.networks.torch_ensemble import TorchEnsemble
    from dualnets.networks.tree_network import tree_network
    from dualnets.optim.optimizers import LARS, OPTIMIZERS, SGD, Adam, AdamW, Group, Schedule
    from dualnets.training.checkpoint import Checkpoints
    from dualnets.training.trajectory import DivergedError, Snapshot, log_spaced, train, trajectory

_HOME = {
    "Run": "lab.runner",
    "run": "experiments",
    "specialisation": "lab.specialisation",
    "DirectPredictor": "methods._direct_predictor",
    "BarlowTwins": "methods.barlow_twins",
    "BYOL": "methods.byol",
    "LOSSES": "methods.losses",
    "BatchwiseNCE": "methods.losses",
    "Detached": "methods.losses",
    "ExponentialWeights": "methods.losses",
    "InfoNCE": "methods.losses",
    "InverseDistanceWeights": "methods.losses",
    "NTXent": "methods.losses",
    "Simple": "methods.losses",
    "SpectralContrastive": "methods.losses",
    "Triplet": "methods.losses",
    "MoCo": "methods.moco",
    "PIRL": "methods.pirl",
    "Batch": "methods.protocol",
    "Method": "methods.protocol",
    "Needs": "methods.protocol",
    "TrainContext": "methods.protocol",
    "SimCLR": "methods.simclr",
    "SimSiam": "methods.simsiam",
    "Supervised": "methods.supervised",
    "SwAV": "methods.swav",
    "TeacherStudent": "methods.teacher_student",
    "VICReg": "methods.vicreg",
    "conv_tree": "networks.conv_tree",
    "Head": "networks.heads",
    "mlp": "networks.mlp",
    "BatchNorm": "networks.normalizations",
    "GroupNorm": "networks.normalizations",
    "LayerNorm": "networks.normalizations",
    "shuffled_tree": "networks.shuffled_tree",
    "TorchEnsemble": "networks.torch_ensemble",
    "tree_network": "networks.tree_network",
    "LARS": "optim.optimizers",
    "OPTIMIZERS": "optim.optimizers",
    "SGD": "optim.optimizers",
    "Adam": "optim.optimizers",
    "AdamW": "optim.optimizers",
    "Group": "optim.optimizers",
    "Schedule": "optim.optimizers",
    "Checkpoints": "training.checkpoint",
    "DivergedError": "training.trajectory",
    "Snapshot": "training.trajectory",
    "log_spaced": "training.trajectory",
    "train": "training.trajectory",
    "trajectory": "training.trajectory",
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
    "SimCLR",
    "SimSiam",
    "Simple",
    "Snapshot",
    "SpectralContrastive",
    "Supervised",
    "SwAV",
    "TeacherStudent",
    "TorchEnsemble",
    "TrainContext",
    "Triplet",
    "VICReg",
    "conv_tree",
    "log_spaced",
    "mlp",
    "run",
    "shuffled_tree",
    "specialisation",
    "train",
    "trajectory",
    "tree_network",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
