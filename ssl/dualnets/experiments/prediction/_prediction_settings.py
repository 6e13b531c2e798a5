"""Settings of networks that read leaves as tokens and predict them, on grammars or on binary trees."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

from dualnets.experiments.emergence.hierarchy import HierarchySettings
from dualnets.lab.ablation import NamedSettings
from dualnets.lab.fields import Conditions
from dualnets.lab.settings import (
    Checked,
    ProbeSettings,
    TreeSettings,
    check_augment_setting,
    setting,
)

if TYPE_CHECKING:
    import torch

    from hltm.tree import LatentTree

NETWORKS = {  # word -> the function that builds such networks, in a module of the same name
    "transformer": "transformer",
    "conv": "conv_sequence",
    "mlp": "mlp",
}
TOKENS = ("transformer", "conv")  # those with an output at each leaf's position


@dataclass(frozen=True, kw_only=True)
class TokenNetworkSettings(Checked):
    """A network whose inputs are the states of leaves, with an output at each, or with dense layers."""

    CONDITIONS: ClassVar[Conditions] = {
        "heads": [{"network": ("transformer",)}],
        "layers": [{"network": TOKENS}],
    }
    network: str = setting(
        "transformer", "attention, convolutions or dense layers", choices=tuple(NETWORKS)
    )
    width: int = setting(32, "units at each leaf, or per dense layer", low=1, high=1 << 16)
    layers: int = setting(2, "of attention or convolutions", low=1, high=64)
    heads: int = setting(2, "of attention; they divide the width", low=1, high=1 << 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "transformer" and self.width % self.heads:
            raise ValueError(f"heads must divide the width {self.width}, got {self.heads}")

    def build_network(self, trees: LatentTree, seed: int, device: torch.device) -> Any:
        """Untrained networks with the trees' addresses; causal ones where each leaf is the next."""
        name = NETWORKS[self.network]
        make = getattr(import_module(f"dualnets.networks.{name}"), name)
        given: dict[str, Any] = {"units": self.width, "bias": True}
        if self.network in TOKENS:
            causal = getattr(self, "method", "") == "next-leaf"
            given = {"width": self.width, "layers": self.layers, "causal": causal}
        if self.network == "transformer":
            given["heads"] = self.heads
        return make(trees, seed=seed, device=device, **given)


@dataclass(frozen=True, kw_only=True)
class PredictionSettings(NamedSettings, ProbeSettings, TokenNetworkSettings):
    """One variant: a network on each tree, a method, a budget; a subclass adds the trees.

    Raises:
        ValueError: also where the method, its data and the network do not fit each other.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_augment_setting(self.augment, cast("TreeSettings", self).build_topology())

    def check(self) -> None:
        """Start to train one network on its tree, as `check_training` does."""
        import torch

        settings = cast("TreeSettings", self)
        trees = settings.build_trees()[:1]
        self.check_training(trees, self.build_network(trees, settings.seed, torch.device("cpu")))


@dataclass(frozen=True, kw_only=True)
class GrammarPrediction(PredictionSettings, HierarchySettings):
    """One variant on Random Hierarchy Models."""


@dataclass(frozen=True, kw_only=True)
class BinaryPrediction(PredictionSettings, TreeSettings):
    """One variant on symmetric binary trees."""
