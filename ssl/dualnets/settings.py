"""Settings: frozen dataclasses of scalars and names that check themselves and build what they describe.

An experiment's `Settings` inherits the pieces it needs, so that every field is one flag of the
command line and one column of its results. Building imports what it needs when it is called: the
command line shows settings without loading torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from dualnets.losses import Loss
    from dualnets.methods.simclr import SimCLR
    from dualnets.networks.block_network import BlockNetwork
    from dualnets.normalizations import Normalization
    from dualnets.optim import SGD
    from hltm.augment import Augmentation
    from hltm.tree import LatentTree


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A field with its meaning and the values it takes: low <= value <= high, value > above, or a choice."""
    metadata = {"meaning": meaning, "low": low, "high": high, "above": above, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Fields made with `setting` are checked when an instance is made."""

    def __post_init__(self) -> None:
        for item in fields(self):
            self._check(item.name, getattr(self, item.name), item.metadata)

    @staticmethod
    def _check(name: str, value: Any, rule: Any) -> None:
        flag = name.replace("_", "-")
        choices, low, high, above = (rule.get(key) for key in ("choices", "low", "high", "above"))
        if choices is not None and value not in choices:
            raise ValueError(f"{flag} must be one of {', '.join(choices)}, got {value!r}")
        if low is not None and not value >= low:
            raise ValueError(f"{flag} must be at least {low}, got {value}")
        if high is not None and not value <= high:
            raise ValueError(f"{flag} must be at most {high}, got {value}")
        if above is not None and not above < value < float("inf"):
            raise ValueError(f"{flag} must be above {above} and finite, got {value}")


@dataclass(frozen=True, kw_only=True)
class TreeSettings(Checked):
    """Symmetric binary trees, one per member."""

    depth: int = setting(5, "levels of the tree below its root", low=1, high=16)
    branching: int = setting(2, "children per latent", low=2, high=64)
    polarity_low: float = setting(0.7, "smallest magnitude of an edge's polarity", low=0, high=1)
    polarity_high: float = setting(1.0, "largest magnitude of an edge's polarity", low=0, high=1)
    members: int = setting(16, "trees, each with a network of its own", low=1, high=1 << 20)
    seed: int = setting(0, "of trees, initial weights, data and probes", low=0, high=2**64 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.polarity_low > self.polarity_high:
            raise ValueError(
                f"polarity-low must not exceed polarity-high, got {self.polarity_low} "
                f"and {self.polarity_high}"
            )

    def build_trees(self) -> LatentTree:
        """S trees over one topology."""
        from hltm.families.symmetric_binary import symmetric_binary

        return symmetric_binary(
            depth=self.depth,
            branching=self.branching,
            polarity=(self.polarity_low, self.polarity_high),
            members=self.members,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Checked):
    """One network per member."""

    network: str = setting(
        "tree",
        "shape: a block of units per latent (tree), one block shared by the latents of a level "
        "(conv), a tree over shuffled leaves (wrong-tree), or dense layers (mlp)",
        choices=("tree", "conv", "wrong-tree", "mlp"),
    )
    units: int = setting(10, "units per latent, or per layer (mlp)", low=1, high=1 << 16)
    bias: bool = setting(False, "whether units have biases")
    normalize: bool = setting(True, "whether the output is scaled to length 1")
    norm: str = setting(
        "none",
        "normalisation of hidden pre-activations",
        choices=("none", "batch", "layer", "group"),
    )
    norm_mean: str = setting(
        "on", "a batch norm's mean; stop: no gradient through it", choices=("on", "off", "stop")
    )
    norm_std: str = setting(
        "on", "a batch norm's standard deviation, likewise", choices=("on", "off", "stop")
    )
    norm_affine: bool = setting(False, "whether a trained gain and shift follow a norm")
    norm_groups: int = setting(2, "equal groups of units, for a group norm", low=1, high=1 << 16)
    weight_standardization: bool = setting(False, "whether weights below the top are standardised")

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = {"layer": 1, "group": self.norm_groups}.get(self.norm)
        if groups is not None and (self.units % groups or self.units == groups):
            raise ValueError(
                f"a {self.norm} norm needs equal groups of 2 units or more, got {self.units} units "
                f"in {groups} group(s)"
            )

    def build_norm(self) -> Normalization | None:
        """The normalisation these settings describe; what it does not have is not used."""
        from dualnets.normalizations import BatchNorm, GroupNorm, LayerNorm

        if self.norm == "batch":
            return BatchNorm(mean=self.norm_mean, std=self.norm_std, affine=self.norm_affine)  # type: ignore[arg-type]
        if self.norm == "layer":
            return LayerNorm(affine=self.norm_affine)
        if self.norm == "group":
            return GroupNorm(self.norm_groups, affine=self.norm_affine)
        return None

    def build_network(self, trees: LatentTree, seed: int, device: torch.device) -> BlockNetwork:
        """Untrained networks with the trees' addresses."""
        from dualnets.networks.conv_tree import conv_tree
        from dualnets.networks.mlp import mlp
        from dualnets.networks.tree_network import tree_network
        from dualnets.networks.wrong_tree import wrong_tree

        kinds: dict[str, Callable[..., BlockNetwork]] = {
            "tree": tree_network,
            "conv": conv_tree,
            "wrong-tree": wrong_tree,
            "mlp": mlp,
        }
        make = kinds[self.network]
        return make(
            trees,
            units=self.units,
            bias=self.bias,
            normalize=self.normalize,
            norm=self.build_norm(),
            weight_standardization=self.weight_standardization,
            seed=seed,
            device=device,
        )


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(Checked):
    """SimCLR and its loss."""

    loss: str = setting(
        "infonce",
        "contrastive loss",
        choices=("simple", "triplet", "infonce", "ntxent", "batchwise-nce"),
    )
    temperature: float = setting(0.1, "of the loss; the simple loss has none", above=0)
    negatives: int = setting(1, "fresh negatives per anchor, for infonce", low=1, high=4096)
    margin: float = setting(1.0, "of the triplet loss")

    def build_loss(self) -> Loss:
        """The loss these settings describe; what a loss does not have is not used."""
        from dualnets.losses import LOSSES

        kind = LOSSES[self.loss]
        takes = {item.name for item in fields(kind)}
        given = {"temperature": self.temperature, "margin": self.margin}
        if self.loss == "infonce":
            given["negatives"] = self.negatives
        made: Loss = kind(**{name: value for name, value in given.items() if name in takes})
        return made

    def build_method(self) -> SimCLR:
        """SimCLR with this loss."""
        from dualnets.methods.simclr import SimCLR

        return SimCLR(self.build_loss())


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Checked):
    """Stochastic gradient descent on fresh data."""

    augment: str = setting(
        "keep-root",
        "what a view keeps: keep-root, keep-level:L, keep-nodes:A+B, resample-leaves:RATE, "
        "resample-subtrees:RATE:LEVEL, keep-nothing; joined by commas, one after the other",
    )
    steps: int = setting(2000, "updates", low=0, high=10**9)
    batch: int = setting(128, "samples per update and member", low=2, high=1 << 20)
    lr: float = setting(0.1, "learning rate of plain SGD", above=0)

    def build_augmentation(self) -> Augmentation:
        """The augmentation by name."""
        from hltm.augment import parse

        return parse(self.augment)

    def build_optimizer(self) -> SGD:
        """Plain SGD."""
        from dualnets.optim import SGD

        return SGD(lr=self.lr)


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(Checked):
    """How the networks are looked at."""

    snapshots: int = setting(
        12, "times the networks are probed, evenly in log steps", low=2, high=1000
    )
    evaluation_samples: int = setting(
        8192, "samples per probe and member, never trained on", low=512, high=1 << 30
    )
