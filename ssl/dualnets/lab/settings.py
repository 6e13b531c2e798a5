"""Settings: frozen dataclasses of scalars and names that check themselves and build what they describe.

An experiment's `Settings` inherits the pieces it needs, so that every field is one flag of the
command line and one column of its results. Building imports what it needs when it is called: the
command line shows settings without loading torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import torch

    from dualnets.methods.losses import Loss
    from dualnets.methods.protocol import Method
    from dualnets.networks.block_network import BlockNetwork
    from dualnets.networks.normalizations import Normalization, Part
    from dualnets.optim.optimizers import Optimizer
    from hltm.inference.ceiling import Ceiling
    from hltm.model.topology import Topology
    from hltm.sampling.augment import Augmentation
    from hltm.tree import LatentTree


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    later: bool = False,
) -> Any:
    """A field with its meaning and the values it takes: low <= value <= high, value > above, or a choice.

    A `later` field came when results were stored already: a cell that has its default keeps the name
    it had without it.
    """
    metadata = {"meaning": meaning, "low": low, "high": high, "above": above, "choices": choices,
                "later": later}  # fmt: skip
    return field(default=default, metadata=metadata)


_NUMBERS = (int, int | float)
KINDS: dict[str, tuple[Any, str]] = {  # annotation -> what a value must be, in types and in words
    "int": (int, "a whole number"),
    "float": (int | float, "a number"),
    "bool": (bool, "True or False"),
    "str": (str, "a text"),
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Fields made with `setting` are checked when an instance is made."""

    def __post_init__(self) -> None:
        for item in fields(self):
            self._check_kind(item.name, getattr(self, item.name), item.type)
            self._check(item.name, getattr(self, item.name), item.metadata)

    def unused(self) -> dict[str, str]:
        """Field -> of what it is, where the other fields say that it is not used."""
        return {}

    @staticmethod
    def _check_kind(name: str, value: Any, declared: Any) -> None:
        kind, expected = KINDS.get(getattr(declared, "__name__", declared), (object, ""))
        # True is an int to Python, but no number of units
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in _NUMBERS):
            raise ValueError(f"{name.replace('_', '-')} must be {expected}, got {value!r}")

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
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{flag} must be finite, got {value}")


def check_augmentation(augment: str, topology: Topology) -> None:
    """Raise ValueError unless the augmentation of this name fits trees of this shape."""
    from hltm.sampling.augment import parse

    try:
        parse(augment).rates(topology)
    except (KeyError, IndexError) as error:  # a node that the trees do not have
        raise ValueError(error.args[0]) from error


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

    def build_topology(self) -> Topology:
        """The shape of the trees."""
        return _balanced(self.depth, self.branching)

    def build_ceilings(self, leaves: Literal["own", "all"]) -> dict[int, Ceiling]:
        """Level -> `(S, V)` ceilings of its latents; found once for equal trees.

        Args:
            leaves: what a unit can see: those below its latent, or all.
        """
        own = {item.name: getattr(self, item.name) for item in fields(TreeSettings)}
        return _ceilings(TreeSettings(**own), leaves)

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


@functools.lru_cache(maxsize=16)
def _balanced(depth: int, branching: int) -> Topology:
    from hltm.model.topology import Topology

    return Topology.balanced(depth, branching)


@functools.lru_cache(maxsize=16)
def _ceilings(settings: TreeSettings, leaves: Literal["own", "all"]) -> dict[int, Ceiling]:
    from hltm.inference.ceiling import Ceiling

    trees = settings.build_trees()
    bound = trees.ceiling(trees.latents, leaves=leaves, seed=settings.seed)
    return {
        level: Ceiling(*(part[:, list(trees.level(level))] for part in bound))
        for level in range(1, settings.depth + 1)
    }


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
    network_norm: str = setting(
        "none",
        "normalisation of hidden pre-activations",
        choices=("none", "batch", "layer", "group"),
    )
    network_norm_mean: str = setting(
        "on", "a batch norm's mean; stop: no gradient through it", choices=("on", "off", "stop")
    )
    network_norm_std: str = setting(
        "on", "a batch norm's standard deviation, likewise", choices=("on", "off", "stop")
    )
    network_norm_affine: bool = setting(False, "whether a trained gain and shift follow a norm")
    network_norm_groups: int = setting(
        2, "equal groups of units, for a group norm", low=1, high=1 << 16
    )
    network_weight_standardization: bool = setting(
        False, "whether weights below the top are standardised"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = {"layer": 1, "group": self.network_norm_groups}.get(self.network_norm)
        if groups is not None and (self.units % groups or self.units == groups):
            raise ValueError(
                f"a {self.network_norm} norm needs equal groups of 2 units or more, got "
                f"{self.units} units in {groups} group(s)"
            )

    def unused(self) -> dict[str, str]:
        parts = {
            "network_norm_mean": ("batch",),
            "network_norm_std": ("batch",),
            "network_norm_affine": ("batch", "layer", "group"),
            "network_norm_groups": ("group",),
        }
        return super().unused() | {
            name: f"network-norm {' or '.join(kinds)}, and network-norm is {self.network_norm}"
            for name, kinds in parts.items()
            if self.network_norm not in kinds
        }

    def build_network_norm(self) -> Normalization | None:
        """The normalisation these settings describe; what it does not have is not used."""
        from dualnets.networks.normalizations import BatchNorm, GroupNorm, LayerNorm

        affine = self.network_norm_affine
        kinds: dict[str, Callable[[], Normalization | None]] = {
            "none": lambda: None,
            "batch": lambda: BatchNorm(
                mean=cast("Part", self.network_norm_mean),
                std=cast("Part", self.network_norm_std),
                affine=affine,
            ),
            "layer": lambda: LayerNorm(affine=affine),
            "group": lambda: GroupNorm(self.network_norm_groups, affine=affine),
        }
        return kinds[self.network_norm]()

    @property
    def leaves_seen(self) -> Literal["own", "all"]:
        """Which leaves a unit sees: those below its latent, or all."""
        return "own" if self.network in ("tree", "conv") else "all"

    def build_network(self, trees: LatentTree, seed: int, device: torch.device) -> BlockNetwork:
        """Untrained networks with the trees' addresses."""
        from dualnets.networks.conv_tree import conv_tree
        from dualnets.networks.mlp import mlp
        from dualnets.networks.shuffled_tree import shuffled_tree
        from dualnets.networks.tree_network import tree_network

        kinds: dict[str, Callable[..., BlockNetwork]] = {
            "tree": tree_network,
            "conv": conv_tree,
            "wrong-tree": shuffled_tree,
            "mlp": mlp,
        }
        return self._build(kinds[self.network], self.units, trees, seed, device)

    def _build(
        self,
        make: Callable[..., BlockNetwork],
        units: int | list[int],
        trees: LatentTree,
        seed: int,
        device: torch.device,
    ) -> BlockNetwork:
        """A network of one kind with what these settings say of all kinds."""
        return make(
            trees,
            units=units,
            bias=self.bias,
            normalize=self.normalize,
            norm=self.build_network_norm(),
            weight_standardization=self.network_weight_standardization,
            seed=seed,
            device=device,
        )


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(Checked):
    """SimCLR and its loss."""

    loss: str = setting(
        "infonce",
        "contrastive loss",
        choices=(
            "simple",
            "triplet",
            "infonce",
            "ntxent",
            "batchwise-nce",
            "spectral",
            "exponential",
            "inverse-distance",
        ),
    )
    temperature: float = setting(0.1, "of the loss; the simple loss has none", above=0)
    negatives: int = setting(
        1, "fresh negatives per anchor, where a loss takes any number", low=1, high=4096
    )
    margin: float = setting(1.0, "of the triplet loss")

    def unused(self) -> dict[str, str]:
        return super().unused() | {
            name: f"other losses, and loss is {self.loss}"
            for name in ("temperature", "negatives", "margin")
            if name not in self._loss_takes
        }

    @property
    def _loss_takes(self) -> set[str]:
        """The fields that the loss is built from."""
        from dualnets.methods.losses import LOSSES

        if self.loss not in LOSSES:  # an experiment's own
            return {"temperature", "negatives", "margin"}
        takes = {item.name for item in fields(LOSSES[self.loss])}
        takes_any_number = self.loss in ("infonce", "spectral", "exponential", "inverse-distance")
        return takes if takes_any_number else takes - {"negatives"}

    def build_loss(self) -> Loss:
        """The loss these settings describe; what a loss does not have is not used."""
        from dualnets.methods.losses import LOSSES

        given = {name: getattr(self, name) for name in ("temperature", "negatives", "margin")}
        kind = LOSSES[self.loss]
        made: Loss = kind(**{n: value for n, value in given.items() if n in self._loss_takes})
        return made

    def build_method(self) -> Method:
        """SimCLR with this loss."""
        from dualnets.methods.simclr import SimCLR

        return SimCLR(self.build_loss())


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Checked):
    """An optimiser on fresh data, or on a fixed set of samples."""

    augment: str = setting(
        "keep-root",
        "what a view keeps: keep-root, keep-level:L, keep-nodes:A+B, resample-leaves:RATE, "
        "resample-subtrees:RATE:LEVEL, keep-nothing; joined by commas, one after the other",
    )
    steps: int = setting(2000, "updates", low=0, high=10**9)
    batch: int = setting(128, "samples per update and member", low=2, high=1 << 20)
    samples: int = setting(
        0, "size of a fixed data set, seen in epochs; 0 for fresh data", low=0, high=1 << 30
    )
    optimizer: str = setting("sgd", "rule of the updates", choices=("sgd", "adam", "adamw", "lars"))
    lr: float = setting(0.1, "learning rate", above=0)
    momentum: float = setting(0.0, "of sgd and lars", low=0, high=1)
    weight_decay: float = setting(0.0, "of all trained parameters", low=0)
    schedule: str = setting("constant", "of the learning rate", choices=("constant", "cosine"))
    warm_up: int = setting(0, "first updates, in which the rate rises from 0", low=0)
    final_rate: float = setting(
        0.0, "where a cosine schedule ends, as a share of the rate", low=0, high=1, later=True
    )
    nesterov: bool = setting(False, "whether sgd looks ahead along its momentum", later=True)
    clip: float = setting(
        0.0, "longest gradient of a member; a longer one is scaled down; 0: none", low=0, later=True
    )
    precision: str = setting(
        "float32",
        "bfloat16: the networks' products under autocast, on CUDA",
        choices=("float32", "bfloat16"),
        later=True,
    )

    def unused(self) -> dict[str, str]:
        from dualnets.optim.optimizers import OPTIMIZERS

        takes = {item.name for item in fields(OPTIMIZERS[self.optimizer])}
        found = {
            name: f"other optimizers, and optimizer is {self.optimizer}"
            for name in ("momentum", "nesterov")
            if name not in takes
        }
        if self.schedule == "constant":
            found["final_rate"] = "schedule cosine, and schedule is constant"
        return super().unused() | found

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.samples < self.batch:
            raise ValueError(
                f"a batch of {self.batch} does not fit a fixed data set of {self.samples} samples"
            )
        self.build_optimizer()

    def build_augmentation(self) -> Augmentation:
        """The augmentation by name."""
        from hltm.sampling.augment import parse

        return parse(self.augment)

    def build_optimizer(self) -> Optimizer:
        """The optimiser; what it does not have is not used."""
        from dualnets.optim.optimizers import OPTIMIZERS, Schedule

        kind = OPTIMIZERS[self.optimizer]
        given: dict[str, Any] = {
            "lr": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "schedule": Schedule(self.schedule, self.warm_up, self.final_rate),  # type: ignore[arg-type]
            "nesterov": self.nesterov,
            "clip": self.clip or None,
        }
        takes = {item.name for item in fields(kind)}
        return kind(**{name: value for name, value in given.items() if name in takes})

    def training(self) -> dict[str, Any]:
        """What `dualnets.trajectory` is given."""
        return {
            "augment": self.build_augmentation(),
            "steps": self.steps,
            "batch": self.batch,
            "samples": self.samples or None,
            "optimizer": self.build_optimizer(),
            "precision": self.precision,
        }


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(Checked):
    """How the networks are looked at."""

    snapshots: int = setting(
        12, "times the networks are probed, evenly in log steps", low=2, high=1000
    )
    evaluation_samples: int = setting(
        8192, "samples per probe and member, never trained on", low=512, high=1 << 30
    )
