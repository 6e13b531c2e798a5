"""What ablations share: one cell per variant, alignment and collapse together, paired comparisons.

An ablation is a set of named variants, each a handful of settings that differ. All variants train on
the same trees and read the same rows, so a comparison of two is paired tree by tree. Alignment
alone hides collapse, so spread and effective rank of what the loss compares stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch

from dualnets.evidence import (
    NOTHING,
    Estimate,
    Verdict,
    exceeds,
    gap_closed,
    mean_interval,
    verdict_of,
)
from dualnets.follow import follow
from dualnets.method_settings import MethodSettings
from dualnets.outcome import Grid, Outcome, Pinned, Progress
from dualnets.settings import (
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    check_augmentation,
    setting,
)
from dualnets.training import Snapshot, describe_frozen, log_spaced, trajectory
from hltm.philox import Stream
from hltm.probe.best_unit import PRE, Level, score
from hltm.probe.collapse import Collapse

if TYPE_CHECKING:
    from dualnets.methods.protocol import Method
    from hltm.ceiling import Ceiling
    from hltm.tree import LatentTree

GAP = "gap closed ≥ 2"  # the column: of the latents of levels >= 2
SPREAD, RANK = "spread", "effective_rank"
RATIO = "best_correlation_ratio"  # of latents of any number of states; for two, the same as PRE
ALIGNMENT = (PRE, RATIO)
HUGE = 1e15  # of a member on its way to infinity
COLLAPSE_ROWS = 1024  # samples behind a spread and a rank; batch statistics are theirs
FEWEST_TREES = 12  # with fewer, the exact test has no room for a correction over variants
SIGNIFICANCE = 0.01


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
    """One grid per variant: what makes it is pinned, what is common is a value or a list of values.

    Args:
        common: of all variants.
        variants: name -> what is its own.
        free: what a flag may replace although it is a variant's own: the rates, so that the command
            that tuned them can be given again.

    Example:
        >>> grids({"steps": 10}, {"wide": {"units": 20}})
        [{'steps': [10], 'variant': Pinned(value='wide'), 'units': Pinned(value=20)}]
    """
    shared = {k: list(v) if isinstance(v, list | tuple) else [v] for k, v in common.items()}
    return [
        {
            **shared,
            "variant": Pinned(name),
            **{k: [v] if k in free else Pinned(v) for k, v in changes.items()},
        }
        for name, changes in variants.items()
    ]


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
    progress: Progress,
    *,
    probe: Callable[..., dict[int, Level]] = score,
    metric: str = PRE,
    also: Callable[[Snapshot], pd.DataFrame] | None = None,
) -> Outcome:
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
    followed = follow(
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
    return Outcome(
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
        "embedding": method.embedding(snapshot.network, snapshot.state, leaves),
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


# what a table says


class Fared(NamedTuple):
    """How one variant fared, one value per tree: `(S,)` float64 each.

    Attributes:
        initial, value, ceiling: means over the latents asked for, of the best |correlation|.
        spread, rank: of the embedding, at the end.
        members: the trees.
    """

    initial: np.ndarray
    value: np.ndarray
    ceiling: np.ndarray
    spread: np.ndarray
    rank: np.ndarray
    members: np.ndarray

    @property
    def gap(self) -> Estimate:
        """Gap closed, with its interval over trees."""
        return gap_closed(self.initial, self.value, self.ceiling)


def fared(
    rows: pd.DataFrame, levels: Sequence[int] | None = None, step: int | None = None
) -> Fared:
    """The trees' numbers of one variant.

    Args:
        rows: of one cell.
        levels: whose latents; by default all >= 2, or the root's where the tree has one level.
        step: the last by default.
    """
    step = int(rows["step"].max()) if step is None else step
    now = rows[rows["step"] == step]
    scores = now[now["metric"].isin(ALIGNMENT)]
    if levels is None:
        levels = [level for level in scores["level"].unique() if level >= 2] or [1]
    kept = scores[scores["level"].isin(levels)]
    means = kept.groupby("member")[["initial", "value", "ceiling"]].mean()

    def collapse(name: str) -> np.ndarray:
        found = now[(now["metric"] == name) & (now["node"] == "embedding")]
        return found.set_index("member")["value"].reindex(means.index).to_numpy(np.float64)

    initial, value, ceiling = (
        means[name].to_numpy(np.float64) for name in ("initial", "value", "ceiling")
    )
    return Fared(initial, value, ceiling, collapse(SPREAD), collapse(RANK), means.index.to_numpy())


def of_root(rows: pd.DataFrame) -> Fared:
    """The root's numbers of one variant."""
    return fared(rows, [int(rows["level"].max())])


def by_variant(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Variant -> its rows, in order; cells of one variant that differ otherwise are named apart."""
    found: dict[str, pd.DataFrame] = {}
    free = _free_settings(table)
    for _, rows in table.groupby("cell", sort=False):
        first = rows.iloc[0]
        extra = ", ".join(f"{name.replace('_', ' ')} {first[name]}" for name in free)
        name = f"{first['variant']} ({extra})" if extra else str(first["variant"])
        found[name] = rows
    return found


def _free_settings(table: pd.DataFrame) -> list[str]:
    """Settings that differ between cells of one variant."""
    names = table.columns[: list(table.columns).index("variant")]
    cells = table.drop_duplicates("cell")
    return [
        name
        for name in names
        if name not in ("experiment", "run", "cell")
        and (cells.groupby("variant", sort=False)[name].nunique() > 1).any()
    ]


class Contrast(NamedTuple):
    """One variant against another on the same trees.

    Attributes:
        difference: a - b, the mean over trees with its 95% interval.
        p_more, p_less: exact one-sided P (Wilcoxon's signed ranks) that a is no more, no less than b.
    """

    difference: Estimate
    p_more: float
    p_less: float


def contrast(a: np.ndarray, b: np.ndarray) -> Contrast:
    """Compare two variants, one value per tree each, in the same order.

    Example:
        >>> found = contrast(np.arange(10) + 1.0, np.zeros(10))
        >>> found.difference.value, found.p_more < 0.01, found.p_less
        (5.5, True, 1.0)
    """
    return Contrast(mean_interval(a - b), exceeds(a, b), exceeds(b, a))


def emerges_everywhere(
    table: pd.DataFrame, claim: str, rule: str, what: str, *, only: Sequence[str] | None = None
) -> Verdict:
    """The verdict of a rule that asks each variant whether its latents emerge.

    A variant's latents emerge if, over trees, the mean best |correlation| of the levels >= 2 grows
    (exact one-sided signed-rank test, p < SIGNIFICANCE after Bonferroni over variants).

    Args:
        table: of a run.
        claim, rule: in words.
        what: what the variants are, in the plural.
        only: the variants that the claim is about; all by default.
    """
    variants = by_variant(table if only is None else table[table["variant"].isin(only)])
    if not variants:
        return verdict_of(claim, "open", rule, f"none of the {what} was run", "", NOTHING, [])
    details: list[dict[str, Any]] = []
    gaps = []
    for name, rows in variants.items():
        found = fared(rows)
        p = min(exceeds(found.value, found.initial) * len(variants), 1.0)
        gaps.append(found.gap)
        details.append(
            {"variant": name, "emerges": p < SIGNIFICANCE, "p_grown": p, "gap_closed":
             found.gap.value, "spread": float(found.spread.mean()), "n": found.gap.n}
        )  # fmt: skip
    emerged = [d["variant"] for d in details if d["emerges"]]
    not_emerged = [d["variant"] for d in details if not d["emerges"]]
    fewest = min(gap.n for gap in gaps)
    if fewest < FEWEST_TREES:
        outcome, reason = "open", f"{fewest} trees are fewer than {FEWEST_TREES}"
    elif not not_emerged:
        outcome, reason = "holds", f"latents emerge with all {len(variants)} {what}"
    elif not emerged:
        outcome, reason = "fails", f"latents emerge with none of {len(variants)} {what}"
    else:
        outcome, reason = "open", f"latents do not emerge with {', '.join(not_emerged)}"
    smallest = min(gaps, key=lambda gap: gap.value)
    return verdict_of(
        claim, outcome, rule, reason, f"smallest gap closed of all {what}", smallest, details
    )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the root before and after, its ceiling, gap closed, spread, rank, n."""
    found = []
    for name, rows in by_variant(table).items():
        upper = fared(rows)
        root = of_root(rows)
        found.append(
            {
                "variant": name,
                "before": root.initial.mean(),
                "root": root.value.mean(),
                "ceiling": root.ceiling.mean(),
                GAP: str(upper.gap),
                "spread": upper.spread.mean(),
                "rank": f"{upper.rank.mean():.1f}",
                "n": len(root.value),
            }
        )
    return pd.DataFrame(found)
