"""What ablations share: named variants, one cell each, alignment and collapse measured together.

A variant is a handful of settings that differ. All variants train on the same trees and read the same
rows, so that `comparison.py` can set one beside another tree by tree. Alignment alone hides
collapse: spread and effective rank of what the loss compares are measured with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch

from dualnets.lab.experiment import CellResult, Fixed, Grid, ProgressListener
from dualnets.lab.learning_curves import learning_curves
from dualnets.lab.method_settings import MethodSettings
from dualnets.lab.settings import (
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    check_augmentation,
    setting,
)
from dualnets.lab.variants import RANK, SPREAD
from dualnets.training.trajectory import Snapshot, describe_frozen, log_spaced, trajectory
from hltm.probe.best_units import PRE, Level, best_units
from hltm.probe.metrics.collapse import Collapse
from hltm.sampling.philox import Stream

if TYPE_CHECKING:
    from dualnets.methods.protocol import Method
    from hltm.inference.ceiling import Ceiling
    from hltm.tree import LatentTree

HUGE = 1e15  # of a member on its way to infinity
COLLAPSE_ROWS = 1024  # samples behind a spread and a rank; batch statistics are theirs


@dataclass(frozen=True, kw_only=True)
class VariantSettings(ProbeSettings, TrainSettings, MethodSettings, NetworkSettings):
    """One variant: a network on each tree, a method, a budget; the trees are added to it."""

    variant: str = setting("given", "name of what is different")


@dataclass(frozen=True, kw_only=True)
class AblationSettings(VariantSettings, TreeSettings):
    """One variant on symmetric binary trees.

    Raises:
        ValueError: also where the method, its data and the network do not fit each other.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augmentation(self.augment, self.build_topology())

    def check(self) -> None:
        """Begin to train one network, which checks everything, and leave it at that.

        Raises:
            ValueError: what the method, the network or the data cannot do, in the flags' names.
        """
        method = self.build_method()
        trees = self.build_trees()[:1]
        network = self.build_network(trees, self.seed, torch.device("cpu"))
        try:
            trajectory(network, method, trees, **self.training(), seed=self.seed)
        except ValueError as error:
            raise ValueError(self.by_flags(str(error))) from None

    def build_teacher(self) -> Any:
        """A network as the student's, with `teacher_units` and weights of its own."""
        as_teacher = replace(self, method="simclr", units=self.teacher_units)
        seed = self.seed + self.teacher_seed
        return as_teacher.build_network(self.build_trees(), seed, torch.device("cpu"))


def grids(
    common: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]],
    free: Sequence[str] = ("lr",),
) -> list[Grid]:
    """One grid per variant: what tells variants apart is pinned in all of them.

    A field that one variant changes is what its name stands for, and its absence is what the names of
    the others stand for: a flag that set it where it is not changed would leave the names and falsify
    what they say. So every variant pins it, those that do not change it at its common value, or else
    at its default. What is common and no variant changes is a value or a list of values, and free; what
    is common and `Fixed` stays so.

    Args:
        common: of all variants.
        variants: name -> what is its own.
        free: what a flag may replace although it is a variant's own: the rates, so that the command
            that tuned them can be given again.

    Raises:
        ValueError: several common values of a field that variants change: each would need a name.

    Example:
        >>> grids({"steps": 10}, {"usual": {}, "wide": {"units": 20}})[0]
        {'steps': [10], 'variant': Fixed(value='usual'), 'units': Fixed(value=10)}
    """
    axes = {k: v if isinstance(v, Fixed) else _values(v) for k, v in common.items()}
    changed = dict.fromkeys(k for own in variants.values() for k in own if k not in free)
    usual = {item.name: item.default for item in fields(AblationSettings)}
    for name in changed:
        given = axes.pop(name, None)
        if isinstance(given, Fixed):
            usual[name] = given.value
        elif given is not None:
            if len(given) > 1:
                raise ValueError(
                    f"{name} makes variants and can have one common value only, got {given}"
                )
            usual[name] = given[0]
    return [
        {
            **axes,
            "variant": Fixed(name),
            # a field of an experiment's own settings has no default here and must be common
            **{k: Fixed(own.get(k, usual.get(k))) for k in changed if k in own or k in usual},
            **{k: [own[k]] for k in own if k in free},
        }
        for name, own in variants.items()
    ]


def _values(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


class CellSettings(Protocol):
    """What a cell's settings can do, whatever their trees."""

    @property
    def steps(self) -> int: ...
    @property
    def snapshots(self) -> int: ...
    @property
    def evaluation_samples(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def leaves_seen(self) -> Literal["own", "all"]: ...
    def build_trees(self) -> LatentTree: ...
    def build_ceilings(self, leaves: Literal["own", "all"]) -> dict[int, Ceiling]: ...
    def build_network(self, trees: LatentTree, seed: int, device: torch.device) -> Any: ...
    def build_method(self) -> Method: ...
    def training(self) -> dict[str, Any]: ...


def run_cell(
    settings: CellSettings,
    device: torch.device,
    progress: ProgressListener,
    *,
    probe: Callable[..., dict[int, Level]] = best_units,
    metric: str = PRE,
    also: Callable[[Snapshot], pd.DataFrame] | None = None,
) -> CellResult:
    """Train one ensemble, follow its latents, and see whether its embeddings collapse.

    Args:
        settings: of the cell, e.g. `AblationSettings`.
        device: where to train.
        progress: hears how it goes.
        probe, metric: what follows the latents, and its name in `ALIGNMENT`; see `follow`.
        also: more rows of every snapshot, in the columns of `collapse_rows`.
    """
    trees = settings.build_trees()
    method = settings.build_method()
    collapse: list[pd.DataFrame] = []

    def watched(snapshot: Snapshot) -> Snapshot:
        collapse.append(collapse_rows(snapshot, method, trees, settings.seed))
        if also is not None:
            collapse.append(also(snapshot))
        return snapshot

    snapshots = trajectory(
        settings.build_network(trees, settings.seed, device),
        method,
        trees,
        **settings.training(),
        seed=settings.seed,
        snapshots=log_spaced(settings.steps, settings.snapshots),
        progress=progress.updated,
    )
    followed = learning_curves(
        map(watched, snapshots),
        trees,
        last_step=settings.steps,
        n=settings.evaluation_samples,
        seed=settings.seed,
        ceilings=settings.build_ceilings(settings.leaves_seen),
        progress=progress,
        probe=probe,
        metric=metric,
    )
    seen = pd.concat(collapse, ignore_index=True)
    start = seen.groupby(["metric", "node", "member"], sort=False)["value"]
    seen["initial"] = start.transform("first")
    table = pd.concat([followed.table, seen], ignore_index=True)
    frozen = describe_frozen(trees.members, followed.frozen_at)
    return CellResult(
        table, {"final": dict(followed.last.named_parameters())}, [frozen] if frozen else []
    )


@torch.no_grad()
def collapse_rows(snapshot: Snapshot, method: Method, trees: LatentTree, seed: int) -> pd.DataFrame:
    """Spread and effective rank of the network's output and of what the loss compares.

    Columns: member, step, level, node (`output` or `embedding`), metric, value, n. A member whose
    numbers are not finite has NaN.
    """
    first = trees.leaves.start
    draw = trees.draw(COLLAPSE_ROWS, seed=seed, stream=Stream.EVALUATION, first=first)
    leaves = draw.leaves.to(next(snapshot.network.parameters()).device)
    outputs = snapshot.network(leaves)
    shown = {
        "output": outputs if outputs.ndim == 3 else outputs[None],
        "embedding": method.embedding(
            snapshot.network, snapshot.state, leaves, batch_statistics=True
        ),
    }
    parts = []
    for node, values in shown.items():
        finite = torch.isfinite(values).all(dim=(1, 2))
        metric = Collapse()
        kept = torch.where(finite[:, None, None], values, 0)
        # neither number has a scale; squares of values as large as these would overflow
        largest = kept.abs().amax(dim=(1, 2), keepdim=True)
        kept = torch.where(largest > HUGE, kept / largest.clamp(min=1), kept)
        metric.update(kept.transpose(1, 2))
        found = metric.result()
        for name, numbers in ((SPREAD, found.spread), (RANK, found.effective_rank)):
            parts.append(
                pd.DataFrame(
                    {
                        "member": np.array(trees.members),
                        "step": snapshot.step,
                        "level": trees.topology.depth,
                        "node": node,
                        "metric": name,
                        "candidates": "all",
                        "value": torch.where(finite, numbers, torch.nan).cpu().numpy(),
                        "n": COLLAPSE_ROWS,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)
