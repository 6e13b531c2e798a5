"""Do the units of a student specialise to those of its teacher, and do latents emerge in it?

The teacher is a random network on the same tree, every unit scaled and shifted so that over the data
it has mean 0 and variance 1 before its ReLU; the student answers its outputs, as wide or wider.
Whether a teacher's unit was found is the best correlation that a student's unit of the same latent
has with it, behind the ReLU (1: found), against other rows' teacher and the student before training.
A student as wide as the widest that learns by contrast shows what latents emerge without a teacher.

Found (12 trees of seed 0): by the rule students as wide as their teachers and twice as wide specialise;
of those four times as wide eleven come closer to their teachers and one goes far astray (units found .83
on average, from .66), which the test does not call specialising (p = .03). None has latents emerge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.lab import ablation_cell
from dualnets.lab.ablation import AblationSettings, grids
from dualnets.lab.experiment import CellResult, Grid, ProgressListener
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.specialisation import specialisation
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Verdict,
    exceeds,
    gap_closed,
    mean_interval,
    verdict_of,
)
from dualnets.lab.variants import GAP, INTERVALS, by_variant, spread_of, variant_stats
from hltm.probe.null import LAGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dualnets.networks.block_network import BlockNetwork
    from dualnets.training.trajectory import Snapshot
    from hltm.tree import LatentTree

__all__ = [
    "CLAIM",
    "GRIDS",
    "REFERENCE",
    "RESULT_VERSION",
    "RULE",
    "SUMMARY",
    "Settings",
    "plot",
    "run_cell",
    "summary_table",
    "verdict",
]  # fmt: skip

SUMMARY = "do students specialise, and do latents emerge in them?"
CLAIM = "A student's hidden units specialise to its teacher's, the more the wider it is"
REFERENCE = (
    "arXiv 2010.00578, Section 2: the pair with a fixed second network; the claim is that of arXiv "
    "1909.13458"
)
RESULT_VERSION = 1
SPECIALISATION = "specialisation"  # the teacher's units' best correlations, mean over a layer
CONTRAST = "contrast, x4"
ROWS = 2048  # that make the teacher's units vary


@dataclass(frozen=True, kw_only=True)
class Settings(AblationSettings):
    """One student: trees, a teacher and a student on each, a budget."""

    def build_teacher(self) -> BlockNetwork:
        """A random network whose units all vary."""
        seed = self.seed + self.teacher_seed
        return varying(super().build_teacher(), self.build_trees(), seed)


@torch.no_grad()
def varying(network: BlockNetwork, trees: LatentTree, seed: int) -> BlockNetwork:
    """The same network, changed in place: over the data, pre-activations have mean 0 and variance 1.

    As they are drawn, deep units hardly vary, and most are off for good: nothing could be found.
    Without biases the mean stays. A unit that never varies stays as it is.

    Args:
        network: one per tree, without norms.
        trees: the data.
        seed: of the rows.
    """
    leaves = trees.sample(ROWS, seed=seed).leaves
    for level in range(1, network.depth + 1):
        values = network.activations(leaves)[level]
        values = values.reshape(*values.shape[:2], network.blocks[level - 1], -1)  # (S, B, V, U)
        over = (1, 2) if network.shared else (1,)
        mean, std = (
            found if not network.shared else found[:, None]
            for found in (values.mean(over), values.std(over))
        )
        scale = torch.where(std > 1e-6, 1 / std, torch.ones_like(std))
        network.weights[level - 1].mul_(scale[..., None])
        if network.biases is not None:
            network.biases[level - 1].sub_(mean).mul_(scale)
    return network


_COMMON: dict[str, Any] = {
    "depth": 4, "members": 12, "steps": 800, "batch": 64, "bias": True, "momentum": 0.9, "snapshots": 7,
    "evaluation_samples": 4096, "teacher_units": 3, "augment": "resample-leaves:0",
}  # fmt: skip
_TAUGHT: dict[str, Any] = {"method": "teacher-student", "normalize": False}
# Rates are the best of 0.01, 0.03, 0.1, 0.3 by specialisation (contrast: by gap closed on levels >= 2),
# with `hltm run teacher-student --seed 1000 --members 8 --steps 400 --lr 0.01 0.03 0.1 0.3`:
# x1 .386 .393 .358 .218 · x2 .593 .645 .665, not finite · x4 .760 .831 .834, not finite · contrast
# .61 .69 .77 .80
_VARIANTS: dict[str, dict[str, Any]] = {
    "student x1": {**_TAUGHT, "units": 3, "lr": 0.03},
    "student x2": {**_TAUGHT, "units": 6, "lr": 0.1},
    "student x4": {**_TAUGHT, "units": 12, "lr": 0.1},
    CONTRAST: {
        "method": "simclr",
        "loss": "ntxent",
        "units": 12,
        "augment": "keep-root",
        "lr": 0.3,
    },
}
NARROW, WIDE = "student x1", "student x4"
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids({**_COMMON, "depth": 3, "steps": 150, "snapshots": 5, "evaluation_samples": 2048},
                   _VARIANTS),
    "default": grids(_COMMON, _VARIANTS),
    "paper": grids({**_COMMON, "depth": 5, "batch": 128, "members": 30, "steps": 20_000, "snapshots": 16},
                   _VARIANTS),
}  # fmt: skip
RULE = (
    "A tree's specialisation is the mean, over the teacher's hidden units, of the best correlation with "
    "a student's unit. A student specialises if over trees it is larger after training than before "
    f"(Wilcoxon's exact signed-rank test, one-sided, p < {SIGNIFICANCE} after Bonferroni over "
    "widths); a wider one more so if the share of the room to 1 that training closed is larger with x4 "
    "than with x1 (the same test, paired, both ways). Holds if students of every width specialise, and "
    "the widest more so; fails if the widest does so less, or if none specialises and the share of the "
    f"room that each closed is below {NEGLIGIBLE} with its whole 95% interval (all widths' at once, "
    f"Bonferroni); open otherwise, or with fewer than {FEWEST_TREES} trees."
)


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble; its rows also say how much of their teachers students have found."""
    if settings.method != "teacher-student":
        return ablation_cell.run_cell(settings, device, progress)
    trees, teacher = settings.build_trees(), settings.build_teacher().to(device)

    def found(snapshot: Snapshot) -> pd.DataFrame:
        last = snapshot.step == settings.steps
        return _rows(
            specialisation(
                snapshot.network, teacher, trees, n=settings.evaluation_samples, seed=settings.seed,
                lags=LAGS if last else 0,
            ),
            snapshot.step,
        )  # fmt: skip

    return ablation_cell.run_cell(settings, device, progress, also=found)


def _rows(units: pd.DataFrame, step: int) -> pd.DataFrame:
    """One row per member and layer, from one per teacher's unit; hidden layers under `hidden`."""
    by_layer = units.groupby(["member", "layer", "candidates"], sort=False)
    rows = by_layer[["value", "null", "n"]].mean().reset_index()
    rows = rows.rename(columns={"layer": "level"})
    rows["node"] = "teacher's layer " + rows["level"].astype(str)
    rows["n"] = rows["n"].astype(int)
    return rows.assign(step=step, metric=SPECIALISATION)


def hidden(rows: pd.DataFrame) -> tuple[Array, Array, Array]:
    """`(S,)` specialisation before and after training, and its null, mean over hidden layers.

    Args:
        rows: of one cell; a teacher of a single layer has no hidden one, and its top layer counts.
    """
    found = rows[(rows["metric"] == SPECIALISATION) & (rows["step"] == rows["step"].max())]
    if (below := found[found["level"] < found["level"].max()]).size:
        found = below
    means = found.groupby("member")[["initial", "value", "null"]].mean()
    before, after, null = (means[name].to_numpy(np.float64) for name in means)
    return before, after, null


def students(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Variant -> its rows, of those with a teacher."""
    found = by_variant(table)
    return {name: rows for name, rows in found.items() if SPECIALISATION in set(rows["metric"])}


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is how much more of its room the widest student closed.

    Details also say whether the latents of levels >= 2 emerge, without a teacher too.
    """
    details: list[dict[str, Any]] = []
    taught = students(table)
    shares: dict[str, Array] = {}
    for name, rows in taught.items():
        before, after, null = hidden(rows)
        shares[name] = (after - before) / (1 - before)
        p = min(exceeds(after, before) * len(taught), 1.0)
        closed = gap_closed(before, after, np.ones_like(before), len(taught))
        details.append(
            {"variant": name, "specialises": p < SIGNIFICANCE, "p_grown": p, "before":
             float(before.mean()), "after": float(after.mean()), "null": float(null.mean()),
             "room_closed": closed.value, "low": closed.low, "high": closed.high, "n": closed.n}
        )  # fmt: skip
    variants = by_variant(table)
    for name, rows in variants.items():
        latents = variant_stats(rows)
        p = min(exceeds(latents.value, latents.initial) * len(variants), 1.0)
        details.append(
            {"variant": name, "latents_emerge": p < SIGNIFICANCE, "p_grown": p,
             "gap_closed": latents.gap.value, "low": latents.gap.low, "high": latents.gap.high,
             "spread": float(latents.spread.mean()), "n": latents.gap.n}
        )  # fmt: skip
    effect = "share of the room to 1 that training closed, widest student less narrowest"
    if NARROW not in shares or WIDE not in shares:
        reason = f"{NARROW} and {WIDE} were not both run"
        return verdict_of(CLAIM, "open", RULE, reason, effect, NOTHING, details)
    if len(shares[WIDE]) != len(shares[NARROW]):
        raise ValueError(f"{NARROW} and {WIDE} must be run on the same trees")
    lead = mean_interval(shares[WIDE] - shares[NARROW])
    p_more, p_less = exceeds(shares[WIDE], shares[NARROW]), exceeds(shares[NARROW], shares[WIDE])
    details.append(
        {"variant": f"{WIDE} - {NARROW}", "room_closed": lead.value, "low": lead.low, "high":
         lead.high, "p_more": p_more, "p_less": p_less, "n": lead.n}
    )  # fmt: skip
    yes = [name for name, d in zip(taught, details, strict=False) if d["specialises"]]
    outcome: Any = "open"
    reason = f"hidden units specialise with {', '.join(yes) or 'no student'}"
    if lead.n < FEWEST_TREES:
        reason = f"{lead.n} trees are fewer than {FEWEST_TREES}"
    elif not yes and all(d["high"] < NEGLIGIBLE for d in details[: len(taught)]):
        outcome, reason = "fails", f"{reason}, and each closes less than {NEGLIGIBLE} of its room"
    elif p_less < SIGNIFICANCE:
        outcome, reason = "fails", f"{reason}, the widest less so"
    elif p_more >= SIGNIFICANCE:
        reason += ", the widest not more so"
    elif len(yes) == len(taught):
        outcome, reason = "holds", f"{reason}, the widest more so"
    return verdict_of(CLAIM, outcome, RULE, reason, effect, lead, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the teacher's hidden units, the latents, spread, rank, n."""
    found = []
    for name, rows in by_variant(table).items():
        upper = variant_stats(rows)
        row: dict[str, Any] = {"variant": name}
        blank = {"found before": "-", "found": "-", "null": "-"}
        if SPECIALISATION in set(rows["metric"]):
            before, after, null = hidden(rows)
            means = [mean_interval(values).brief for values in (before, after)]
            blank = dict(zip(blank, [*means, f"{null.mean():.2f}"], strict=True))
        row |= blank | {
            GAP: str(upper.gap), "spread": spread_of(upper),
            "rank": f"{upper.rank.mean():.1f}", "n": len(upper.value),
        }  # fmt: skip
        found.append(row)
    made = pd.DataFrame(found)
    made.attrs["caption"] = f"found: best correlation with a teacher's unit; {INTERVALS}"
    return made


def plot(table: pd.DataFrame) -> Figure:
    """What students found of their teachers by layer and over training; latents and spread."""
    from dualnets.experiments.objectives._teacher_student_figure import draw

    return draw(by_variant(table), SPECIALISATION)
