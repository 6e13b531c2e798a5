"""The samples that each level needs, by objective: cells, numbers, and the rules applied."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dualnets.experiments.emergence._samples import median_between, slopes
from dualnets.experiments.emergence.samples import TOLERANCE
from dualnets.experiments.prediction.complexity import BY_READOUT, LABEL, Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import snapshot_steps
from dualnets.lab.rules import NEGLIGIBLE, Deferred
from dualnets.lab.stats import NOTHING, Array, Estimate, Judgement, Outcome, too_few
from dualnets.lab.tidy import tidy
from dualnets.lab.time_to_threshold import median_time, member_times, time_in_words
from dualnets.lab.variants import by_variant
from dualnets.training.evaluate_loss import evaluate_loss
from dualnets.training.trajectory import describe_frozen, trajectory
from hltm.families.random_hierarchy import symbols
from hltm.sampling.philox import Stream
from hltm.tree import LatentTree

SHARE, LOSS, READOUT = "share learned", "loss", "readout R²"
EXACT_SAMPLES = 4096  # behind exact losses that are not summed over all leaves
EVALUATED = 1 << 32  # added to the seed of training for rows that are not trained on
RIDGE = 1e-3


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble; measure how much of each level it has learned, on fresh rows."""
    trees, method, seed = settings.build_trees(), settings.build_method(), settings.seed
    by_loss = settings.method in ("supervised", "masked-prediction", "next-leaf")
    bounds = exact_losses(settings) if by_loss else {}
    initial: dict[int, Array] = {}
    parts: list[pd.DataFrame] = []

    def rows(level: int, metric: str, value: Any, ceiling: Any) -> None:
        index = {"member": trees.members, "step": snapshot.step, "level": level, "node": f"level {level}",
                 "metric": metric, "candidates": "all"}  # fmt: skip
        parts.append(
            tidy(index, {"value": value, "ceiling": ceiling, "n": settings.evaluation_samples})
        )

    for snapshot in trajectory(
        settings.build_network(trees, seed, device), method, trees, seed=seed,
        snapshots=snapshot_steps(settings), progress=progress.updated, **settings.training(),
    ):  # fmt: skip
        shares = {}
        if by_loss:
            loss = evaluate_loss(
                snapshot.network, method, snapshot.state, trees, augment=settings.build_augmentation(),
                samples=settings.evaluation_samples, seed=seed + EVALUATED,
            ).value.cpu().numpy()  # fmt: skip
            shares = {level: (a - loss) / (a - b) for level, (a, b) in bounds.items()}
            for level, (_, best) in bounds.items():
                rows(level, LOSS, loss, best)
        else:
            for level, found in readouts(snapshot.network, trees, settings).items():
                first = initial.setdefault(level, found)
                shares[level] = (found - first) / (1 - first)
                rows(level, READOUT, found, 1.0)
        for level, share in shares.items():
            rows(level, SHARE, share, 1.0)
        progress.probed(snapshot.step, {level: float(own.mean()) for level, own in shares.items()})
    table = pd.concat(parts, ignore_index=True)
    table["initial"] = table.groupby(["metric", "level", "member"])["value"].transform("first")
    frozen = describe_frozen(trees.members, snapshot.frozen_at)
    return CellResult(
        table, {"final": dict(snapshot.network.named_parameters())}, [frozen] if frozen else []
    )


def headline(table: pd.DataFrame) -> str:
    """The largest share of each level along a cell, mean over trees."""
    best = table[table["metric"] == SHARE].groupby(["level", "member"])["value"].max()
    means = best.groupby("level").mean()
    return "learned " + ", ".join(f"{value:.2f} (level {at})" for at, value in means.items())


def exact_losses(settings: Settings) -> dict[int, tuple[Array, Array]]:
    """Level -> `(S,)` losses of who knows the levels below it, and of who knows it, too.

    Where the root is the label, leaves determine it, and there is one level.
    """
    if settings.method == "supervised":
        zero = np.zeros(settings.members)
        return {settings.depth: (zero + np.log(settings.symbols * settings.rules), zero)}
    mask = settings.augment if settings.method == "masked-prediction" else ""
    key = (settings.symbols, settings.rules, settings.branching, settings.depth, settings.members)
    found = _filtered_losses(key, settings.seed, mask)
    return {level: (found[level - 1], found[level]) for level in range(1, settings.depth + 1)}


@functools.lru_cache(maxsize=16)
def _filtered_losses(key: tuple[int, ...], seed: int, mask: str) -> list[Array]:
    """`(S,)` losses of masked leaves, or of the next ones, by the tree that is filtered at each level."""
    from hltm.families.random_hierarchy import random_hierarchy
    from hltm.sampling.augment import parse

    v, m, s, depth, members = key
    trees = random_hierarchy(v=v, m=m, s=s, L=depth, classes=v, members=members, seed=seed)
    asked: dict[str, Any] = {"mask": parse(mask)} if mask else {"order": "natural"}
    found = []
    for level in range(depth + 1):
        loss = trees.bayes_loss(
            predictor=trees.filtered(level), seed=seed, samples=EXACT_SAMPLES, **asked
        ).value
        found.append((loss if mask else loss.mean(-1)).numpy())
    return found


@torch.no_grad()
def readouts(network: Any, trees: LatentTree, settings: Settings) -> dict[int, Array]:
    """Level -> `(S,)` R² of a ridge readout of its symbols from the output, fitted on half of the rows."""
    draw = trees.draw(settings.evaluation_samples, seed=settings.seed, stream=Stream.EVALUATION)
    output = network(draw.leaves).double().cpu()
    output = torch.nn.functional.pad(output, (0, 1), value=1.0)  # (S, B, U + 1)
    half = output.shape[1] // 2
    found = {}
    for level in range(1, settings.depth + 1):
        states = symbols(draw, m=settings.rules, level=level).long().cpu()  # (S, B, V)
        wanted = torch.nn.functional.one_hot(states, settings.symbols).flatten(2).double()
        found[level] = _r2(output[:, :half], wanted[:, :half], output[:, half:], wanted[:, half:])
    return found


def _r2(x: Tensor, y: Tensor, other_x: Tensor, other_y: Tensor) -> Array:
    """`(S,)` share of the variance of `other_y` that a ridge regression of y on x explains, at least 0."""
    gram = x.mT @ x
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    weight = torch.linalg.solve(gram + RIDGE * scale * torch.eye(x.shape[-1]), x.mT @ y)
    left = (other_y - other_x @ weight).square().sum((1, 2))
    spread = (other_y - y.mean(1, keepdim=True)).square().sum((1, 2))
    return (1 - left / spread).clamp(min=0).numpy()


class Learned(NamedTuple):
    """What one objective learned with one number of rules from sets of samples.

    Attributes:
        name: of the variant.
        objective, rules: the objective, and m.
        symbols, branching, depth: v, s and L.
        samples: sizes of the sets, growing.
        best: level -> `(S, P)` largest shares along training.
    """

    name: str
    objective: str
    rules: int
    symbols: int
    branching: int
    depth: int
    samples: list[int]
    best: dict[int, Array]

    def needed(self, level: int) -> Array:
        """`(S,)` samples with which half of a level is learned; infinite where none suffice."""
        share = self.best[level]
        if self.objective not in BY_READOUT:
            return member_times(self.samples, share, np.full(len(share), 0.5))
        most = share[:, -1]
        return np.where(most > NEGLIGIBLE, member_times(self.samples, share, most / 2), np.inf)

    def bounds(self, level: int) -> tuple[Array, Array]:
        """`(S,)` bounds of the samples needed: below the smallest set, or beyond all, little is known."""
        needed = self.needed(level)
        least = np.where(np.isinf(needed), self.samples[-1], needed)
        least[needed <= self.samples[0]] = 1.0
        return least, needed

    def published(self, level: int) -> float:
        """Samples that the papers name: n_c m^L for the label, v m^(2 l - 1) / (1 - m / v^(s - 1)) else.

        Here n_c = v. The second is the number with which correlations of leaves whose common ancestor has
        level l exceed their noise (arXiv 2406.00048, Appendices D to F), without its factor of order 1.
        """
        v, m = self.symbols, self.rules
        if self.objective == LABEL:
            return float(v * m**self.depth)
        return float(v * m ** (2 * level - 1) / (1 - m / v ** (self.branching - 1)))


def learned(table: pd.DataFrame) -> list[Learned]:
    """What was learned, per objective and number of rules; the trees of all seeds together."""
    table = table[table["metric"] == SHARE]
    found: dict[str, dict[int, pd.DataFrame]] = {}
    for size in sorted(set(table["samples"])):
        for name, rows in by_variant(table[table["samples"] == size]).items():
            found.setdefault(name, {})[int(size)] = rows
    return [_learned(name, cells) for name, cells in found.items()]


def _learned(name: str, cells: dict[int, pd.DataFrame]) -> Learned:
    rows = list(cells.values())
    first = rows[0].iloc[0]
    best = [own.groupby(["level", "member"])["value"].max() for own in rows]
    levels = sorted(set(rows[0]["level"]))
    return Learned(
        name, str(first["variant"]).rpartition(", m ")[0], int(first["rules"]), int(first["symbols"]),
        int(first["branching"]), int(first["depth"]), list(cells),
        {int(level): np.stack([own[level].to_numpy(np.float64) for own in best], 1) for level in levels},
    )  # fmt: skip


def effect(table: pd.DataFrame, *, judge: Deferred) -> dict[str, Estimate]:
    """What must be flat: the effect of a rule, at the table's last step."""
    found = judge(table)
    return {found.effect: found.estimate}


def judge_exponent(table: pd.DataFrame, *, objective: str) -> Judgement:
    """Apply a rule on the exponent of m, of the label's level or else of the lowest.

    Args:
        table: of a run.
        objective: whose exponent.
    """
    cells = sorted(
        (own for own in learned(table) if own.objective == objective), key=lambda c: c.rules
    )
    cells = [own for own in cells if own.rules > 1]
    effect = f"exponent of m in the samples needed ({objective}), median over trees"
    if len(cells) < 2 or len(cells[0].samples) < 2:
        return Judgement("open", "no two numbers of rules, or sizes, were run", effect, NOTHING, [])
    level = min(cells[0].best)
    rules = np.log([own.rules for own in cells])
    least, most = np.log([own.bounds(level) for own in cells]).transpose(1, 2, 0)  # (S, M) each
    wanted = np.log([[own.published(level) for own in cells]])
    (claimed,), _ = slopes(rules, wanted, wanted)
    found = median_between(*slopes(rules, least, most))
    return _judged(effect, found, float(claimed), [_half(own, level) for own in cells])


def judge_levels(table: pd.DataFrame, *, objective: str, rules: int, claimed: float) -> Judgement:
    """Apply a rule on the ratio of the samples that level 2 needs to those of level 1.

    Args:
        table: of a run.
        objective: whose levels.
        rules: m.
        claimed: the logarithm of the ratio to the base m, or 2.
    """
    cells = [own for own in learned(table) if (own.objective, own.rules) == (objective, rules)]
    effect = f"power of m by which level 2 needs more samples ({objective}, m {rules}), median over trees"
    if not cells or len(cells[0].samples) < 2:
        return Judgement("open", "no two sizes were run", effect, NOTHING, [])
    own, base = cells[0], np.log(max(rules, 2))
    low, high = (np.log(own.bounds(level)) / base for level in (1, 2))
    found = median_between(high[0] - low[1], high[1] - low[0])
    return _judged(effect, found, claimed, [_half(own, level) for level in own.best])


def _half(own: Learned, level: int) -> dict[str, Any]:
    """The samples needed as part of a verdict's details, with the published number."""
    return {
        "variant": own.name, "level": level, "published": own.published(level),
        **median_time(own.needed(level)).detail("samples_needed"),
    }  # fmt: skip


def _judged(
    effect: str, found: Estimate, claimed: float, details: list[dict[str, Any]]
) -> Judgement:
    """Whether an interval lies within TOLERANCE of a number, wholly outside, or neither."""
    low, high = claimed - TOLERANCE, claimed + TOLERANCE
    reason = f"between {found.low:.2f} and {found.high:.2f} (95%), published: {claimed:.2f}"
    outcome: Outcome = "open"
    if few := too_few(found.n):
        reason = few
    elif low < found.low and found.high < high:
        outcome = "holds"
    elif found.low > high or found.high < low:
        outcome = "fails"
    return Judgement(outcome, reason, effect, found, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per objective and m: the share learned from the largest set, and samples needed, by level."""
    found = []
    for own in learned(table):
        row: dict[str, Any] = {"variant": own.name}
        for level in range(1, own.depth + 1):
            known = level in own.best
            row[f"level {level}: share"] = f"{own.best[level][:, -1].mean():.2f}" if known else "–"
            time = time_in_words(median_time(own.needed(level)), own.samples[-1]) if known else "–"
            row[f"level {level}: samples"] = time
        found.append(row | {"n": len(next(iter(own.best.values())))})
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "share: learned of a level from the largest set, mean over n trees; samples: with which half is "
        "learned, median over trees and its 95% interval (>: more than the largest set)"
    )
    return made
