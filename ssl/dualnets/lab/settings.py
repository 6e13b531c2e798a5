"""Settings: frozen dataclasses of scalars and words that check themselves and build what they describe.

An experiment's `Settings` inherits the parts it needs. Every field is one flag of the command line and one
column of the results. Nothing here imports torch before something is built.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from dualnets._options import options
from dualnets.lab.fields import LATER, Stored, given_options, with_options
from dualnets.lab.fields import Checked as Checked
from dualnets.lab.fields import setting as setting
from dualnets.methods.losses import LOSSES, IntraPair
from dualnets.networks.normalizations import NORMS
from dualnets.optim.optimizers import OPTIMIZERS
from dualnets.optim.schedule import Schedule

if TYPE_CHECKING:
    import torch

    from dualnets.methods.losses import Loss
    from dualnets.methods.protocol import Method
    from dualnets.networks.block_network import BlockNetwork
    from dualnets.networks.normalizations import Normalization
    from dualnets.optim.optimizers import Optimizer
    from hltm.inference.ceiling import Ceiling
    from hltm.model.topology import Topology
    from hltm.sampling.augment import Augmentation
    from hltm.tree import LatentTree

NETWORKS = {  # word -> the function that builds such networks, in a module of the same name
    "tree": "tree_network",
    "conv": "conv_tree",
    "shuffled-tree": "shuffled_tree",
    "mlp": "mlp",
}


def in_flags(kind: type, make: Callable[[], Any], prefix: str = "") -> Any:
    """What `make` returns; an error of a dataclass names its fields as the flags do."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(by_flags(kind, str(error), prefix)) from None


def by_flags(kind: type, message: str, prefix: str = "") -> str:
    """A message in which the fields of a dataclass have the names of their flags."""
    for option in options(kind):
        pattern = rf"(?<![\w-]){option.field}(?![\w-])"
        message = re.sub(pattern, (prefix + option.flag).replace("_", "-"), message)
    return message


def check_augment_setting(augment: str, topology: Topology) -> None:
    """Raise ValueError unless the augmentation of this name fits trees of this shape."""
    from hltm.sampling.augment import parse

    made = parse(augment)
    try:
        made.rates(topology)
    except (KeyError, IndexError, ValueError) as error:  # no such node or level
        raise ValueError(f"augmentation {augment!r}: {error.args[0]}") from error


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
            leaves: the leaves that a unit can see: those below its latent, or all.
        """
        return _ceilings(self._of_trees(), leaves)

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

    def compile_kernels(self) -> None:
        """Compile what drawing and ceilings of these trees need, where it is not stored compiled."""
        _compile_kernels(self._of_trees(), getattr(self, "leaves_seen", "own"))

    def _of_trees(self) -> TreeSettings:
        """The settings of trees alone, which are equal for equal trees."""
        return TreeSettings(
            **{item.name: getattr(self, item.name) for item in fields(TreeSettings)}
        )


@functools.lru_cache(maxsize=16)
def _balanced(depth: int, branching: int) -> Topology:
    from hltm.model.topology import Topology

    return Topology.balanced(depth, branching)


@functools.lru_cache(maxsize=16)
def _compile_kernels(settings: TreeSettings, leaves: Literal["own", "all"]) -> None:
    trees = settings.build_trees()
    drawn = trees.sample(1, seed=settings.seed).leaves
    trees.posterior(drawn, nodes=trees.latents, given=leaves)


@functools.lru_cache(maxsize=16)
def _ceilings(settings: TreeSettings, leaves: Literal["own", "all"]) -> dict[int, Ceiling]:
    from hltm.inference.ceiling import Ceiling

    trees = settings.build_trees()
    bound = trees.ceiling(trees.latents, leaves=leaves, seed=settings.seed)
    return {
        level: Ceiling(*(part[:, list(trees.level(level))] for part in bound))
        for level in range(1, settings.depth + 1)
    }


def build_norm(settings: Any, prefix: str) -> Normalization | None:
    """The normalisation that the fields of a prefix, `network_norm` or `head_norm`, describe."""
    word = getattr(settings, prefix)
    if word == "none":
        return None
    kind, prefix = NORMS[word], f"{prefix}_"
    norm: Normalization = in_flags(
        kind, lambda: kind(**given_options(kind, settings, prefix)), prefix
    )
    return norm


@dataclass(frozen=True, kw_only=True)
@with_options(
    NORMS,
    "network_norm",
    prefix="network_norm_",
    stored={f"network_norm_{name}": Stored() for name in ("mean", "std", "affine", "groups")},
)
class NormSettings(Checked):
    """The normalisation inside a network."""

    network_norm: str = setting(
        "none", "normalisation of hidden pre-activations", choices=("none", *NORMS)
    )
    network_weight_standardization: bool = setting(
        False, "whether weights below the top are standardised"
    )

    def build_network_norm(self) -> Normalization | None:
        """The normalisation of the network's hidden layers."""
        return build_norm(self, "network_norm")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(NormSettings):
    """One network per member."""

    network: str = setting(
        "tree",
        "shape: a block of units per latent (tree), one block shared by the latents of a level "
        "(conv), a tree over shuffled leaves (shuffled-tree), or dense layers (mlp)",
        choices=tuple(NETWORKS),
        stored=Stored(values={"shuffled-tree": "wrong-tree"}),
    )
    units: int = setting(10, "units per latent, or per layer (mlp)", low=1, high=1 << 16)
    bias: bool = setting(False, "whether units have biases")
    normalize: bool = setting(True, "whether the output is scaled to length 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        norm = self.build_network_norm()
        if norm is not None:
            norm.check_units(self.units)

    @property
    def leaves_seen(self) -> Literal["own", "all"]:
        """The leaves that a unit can see: those below its latent, or all."""
        return "own" if self.network in ("tree", "conv") else "all"

    def build_network(self, trees: LatentTree, seed: int, device: torch.device) -> BlockNetwork:
        """Untrained networks with the trees' addresses."""
        name = NETWORKS[self.network]
        make = getattr(import_module(f"dualnets.networks.{name}"), name)
        return self._build(make, self.units, trees, seed, device)

    def _build(
        self,
        make: Callable[..., BlockNetwork],
        units: int | list[int],
        trees: LatentTree,
        seed: int,
        device: torch.device,
    ) -> BlockNetwork:
        """A network of any shape, with the settings that all shapes have."""
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


_CONTRASTIVE = {word: kind for word, kind in LOSSES.items() if word != "detached"}


@dataclass(frozen=True, kw_only=True)
@with_options(
    _CONTRASTIVE, "loss", stored=dict.fromkeys(("temperature", "negatives", "margin"), Stored())
)
class ContrastSettings(Checked):
    """SimCLR and its loss."""

    loss: str = setting("infonce", "contrastive loss", choices=tuple(_CONTRASTIVE))
    intra_pair: float = setting(
        0.0, "β of an additional attraction β r_+ between the two views of a sample", stored=LATER
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss in LOSSES:  # an experiment may have a loss of its own
            self.build_loss()

    def build_loss(self) -> Loss:
        """The contrastive loss."""
        kind = LOSSES[self.loss]
        made: Loss = in_flags(kind, lambda: kind(**given_options(kind, self)))
        return IntraPair(made, self.intra_pair) if self.intra_pair else made

    def build_method(self) -> Method:
        """SimCLR with this loss."""
        from dualnets.methods.simclr import SimCLR

        return SimCLR(self.build_loss())


@dataclass(frozen=True, kw_only=True)
@with_options(OPTIMIZERS, "optimizer")
@with_options({"": Schedule}, stored=dict.fromkeys(("schedule", "warm_up"), Stored()))
class TrainSettings(Checked):
    """An optimiser on fresh data, or on a fixed set of samples."""

    augment: str = setting(
        "keep-root",
        "what a view keeps: keep-root, keep-level:L, keep-nodes:A+B, resample-leaves:RATE, "
        "resample-subtrees:RATE:LEVEL, keep-nothing, drop-leaves:RATE or :LOW-HIGH, "
        "drop-subtrees:RATE:LEVEL, flip-leaves:RATE; several, joined by commas, are applied in order; a "
        "control keeps its own",
    )
    steps: int = setting(2000, "number of updates", low=0, high=10**9)
    batch: int = setting(128, "samples per update and member", low=2, high=1 << 20)
    samples: int = setting(
        0, "size of a fixed data set, used in epochs; 0 for fresh data", low=0, high=1 << 30
    )
    optimizer: str = setting("sgd", "optimiser", choices=tuple(OPTIMIZERS))
    # the same defaults for all optimisers, unlike their own, so that these are compared at equal rates
    lr: float = setting(0.1, "learning rate", above=0)
    momentum: float = setting(0.0, "momentum", low=0, high=1)
    weight_decay: float = setting(0.0, "weight decay of all trained parameters", low=0)
    precision: str = setting(
        "float32",
        "precision of the networks' products; bfloat16, under autocast, needs CUDA",
        choices=("float32", "bfloat16"),
        stored=LATER,
    )

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
        """The optimiser, with its schedule."""
        kind = OPTIMIZERS[self.optimizer]
        schedule = in_flags(Schedule, lambda: Schedule(**given_options(Schedule, self)))
        return in_flags(kind, lambda: kind(**given_options(kind, self), schedule=schedule))

    def training(self) -> dict[str, Any]:
        """Arguments of `dualnets.trajectory`."""
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
    """When and on how many samples the networks are probed."""

    snapshots: int = setting(
        12, "number of times the networks are probed, evenly in log steps", low=2, high=1000
    )
    evaluation_samples: int = setting(
        8192, "samples per probe and member; none is trained on", low=512, high=1 << 30
    )
