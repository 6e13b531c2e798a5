"""The rules of `lucky`: counts against their predictions, times of twins, rank correlations within trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualnets.experiments.theorems.lucky import BORN, CALIBRATED, GRAFT, SIBLINGS
from dualnets.lab.all_or_none import all_or_none
from dualnets.lab.ratios import ratio_interval
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    mean_interval,
    stats,
    too_few,
)
from dualnets.lab.time_to_threshold import later, median_time, member_times

OUTPUTS = {False: "as they are", True: "of length 1"}  # by `normalize`


def widths(table: pd.DataFrame) -> Iterator[tuple[str, int, int, pd.DataFrame]]:
    """Polarity, depth, width and rows of the latents before training, narrow first."""
    born = table[table["test"] == BORN]
    for (low, depth, units), rows in born.groupby(["polarity_low", "depth", "units"]):
        yield f"{low:g}", int(depth), int(units), rows


def standard_errors(rows: pd.DataFrame) -> float:
    """How far the number of lucky latents is from its prediction, in standard errors.

    Given the layers below, blocks are independent, so over all layers the differences are those of a
    martingale and their variances add.
    """
    p = rows["predicted"].to_numpy()
    spread = float((p * (1 - p)).sum()) ** 0.5
    return float((rows["lucky"].to_numpy() - p).sum() / spread) if spread > 0 else 0.0


def calibration(table: pd.DataFrame) -> Judgement:
    """Whether luck is as predicted; the effect is the share of lucky latents less its prediction."""
    details: list[dict[str, Any]] = []
    parts = []
    for low, depth, units, rows in widths(table):
        trees = rows["member"].nunique()
        excess = (rows["lucky"] - rows["predicted"]).groupby(rows["member"]).mean()
        parts.append(excess)
        details.append({
            "polarity_low": float(low), "depth": depth, "units": units,
            "lucky": float(rows["lucky"].mean()), "predicted": float(rows["predicted"].mean()),
            "standard_errors": standard_errors(rows), "n": int(trees),
        })  # fmt: skip
    what = "share of lucky latents less its prediction, mean over widths and depths"
    if not details:
        return Judgement("open", "no units before training were counted", what, NOTHING, [])
    # the same trees at every width: one value per tree
    effect = mean_interval(pd.concat(parts, axis=1).mean(axis=1).to_numpy())
    far = [d for d in details if not abs(d["standard_errors"]) <= CALIBRATED]
    outcome: Outcome = "open"
    if reason := too_few(min(d["n"] for d in details)):
        pass
    elif far:
        outcome = "fails"
        reason = "; ".join(
            f"depth {d['depth']}, {d['units']} units: {d['standard_errors']:.1f} standard errors"
            for d in far
        )
    else:
        largest = max(abs(d["standard_errors"]) for d in details)
        reason = f"within {largest:.1f} standard errors at all {len(details)} widths and depths"
        if max(-effect.low, effect.high) < NEGLIGIBLE:
            outcome = "holds"
    return Judgement(outcome, reason, what, effect, details)


def width(table: pd.DataFrame) -> Judgement:
    """Whether more latents are lucky in the widest networks; the effect is the smallest of all depths."""
    details: list[dict[str, Any]] = []
    grown = []
    groups = list(table[table["test"] == BORN].groupby(["polarity_low", "depth"]))
    what = "growth of the share of lucky latents, narrowest to widest, smallest of all depths"
    for (low, depth), rows in groups:
        sizes = sorted(rows["units"].unique())
        if len(sizes) < 2:
            reason = f"depth {depth}: one width cannot show an effect of width"
            return Judgement("open", reason, what, NOTHING, [])
        upper = rows[rows["level"] >= 2].groupby(["units", "member"])["lucky"].mean().unstack()
        wide, narrow = (upper.loc[size].to_numpy() for size in (sizes[-1], sizes[0]))
        grown.append(mean_interval(wide - narrow, len(groups)))
        details.append({
            "polarity_low": float(low), "depth": int(depth), "narrow": int(sizes[0]), "wide": int(sizes[-1]),
            **grown[-1].detail("growth"), "p": exceeds(wide, narrow, len(groups)),
        })  # fmt: skip
    return all_or_none(
        details, grown, what, "the share is shown to grow with width at {} of {} depths"
    )


def trained(table: pd.DataFrame, test: str) -> Iterator[tuple[bool, str, int, pd.DataFrame]]:
    """Whether outputs have length 1, what else differs, width and rows, of a test with training."""
    rows = table[table["test"] == test]
    others = [name for name in ("polarity_low", "depth") if rows[name].nunique() > 1]
    for key, part in rows.groupby(["normalize", *others, "units"]):
        extra = ", ".join(f"{name} {value}" for name, value in zip(others, key[1:-1], strict=True))
        yield bool(key[0]), extra, int(key[-1]), part


class Times(NamedTuple):
    """When copies get where; `(S,)` each, updates + 1 (a log axis has no 0), inf where never.

    Attributes:
        lucky, unlucky: at the common goal, halfway from the lucky copy's first alignment to the ceiling.
        level: the unlucky copy, where the lucky one started.
    """

    lucky: Array
    unlucky: Array
    level: Array

    @property
    def known(self) -> NDArray[np.bool_]:
        """`(S,)` whether at least one copy reaches the goal."""
        return np.isfinite(self.lucky) | np.isfinite(self.unlucky)

    def ratio(self, among: int = 1) -> Estimate:
        """The median of unlucky / lucky over the trees of which at least one copy reaches the goal."""
        return median_time(self.unlucky[self.known] / self.lucky[self.known], among)

    @property
    def ratio_when_level(self) -> Estimate:
        """The same where the unlucky copy's updates count from where the lucky one started."""
        left = self.unlucky - np.where(np.isfinite(self.level), self.level, 0)
        return median_time(left[self.known] / (self.lucky - 1)[self.known])


def times(rows: pd.DataFrame) -> Times:
    """The times of one cell; trees of which a copy has diverged are left out."""
    curves = rows.pivot(index=["twin", "member"], columns="step", values="value")
    lucky, unlucky = (curves.loc[twin] for twin in ("lucky", "unlucky"))
    kept = np.isfinite(lucky).all(axis=1) & np.isfinite(unlucky).all(axis=1)
    lucky, unlucky = lucky[kept], unlucky[kept]
    if lucky.empty:
        return Times(*np.empty((3, 0)))
    goal = (lucky[0] + rows.groupby("member")["ceiling"].first()[kept]) / 2
    places = curves.columns.to_numpy() + 1
    wanted = (lucky, goal), (unlucky, goal), (unlucky, lucky[0])
    return Times(*(member_times(places, part, aim) for part, aim in wanted))


def sooner(table: pd.DataFrame, *, normalize: bool) -> Judgement:
    """Whether the root is learned sooner with the lucky unit; the effect is the smallest ratio."""
    cells = [cell for cell in trained(table, GRAFT) if cell[0] == normalize]
    details: list[dict[str, Any]] = []
    ratios, level = [], []
    for _, extra, units, rows in cells:
        found = times(rows)
        ratios.append(found.ratio(len(cells)))
        level.append(f"{found.ratio_when_level.value:.2f}")
        details.append({
            "units": units, **({"of": extra} if extra else {}), **ratios[-1].detail("ratio"),
            "p": later(found.unlucky, found.lucky, len(cells)), "trees": len(found.lucky),
            "never_lucky": int(np.isinf(found.lucky).sum()),
            "never_unlucky": int(np.isinf(found.unlucky).sum()),
            "ratio_when_level": str(found.ratio_when_level),
        })  # fmt: skip
    reason = (
        "the lucky unit is shown to be sooner at {} of {} widths; without its head start the ratios are "
        f"{', '.join(level)}"
    )
    what = "updates to the goal, unlucky over lucky, median over trees, smallest of all widths"
    return all_or_none(details, ratios, what, reason, 1 + NEGLIGIBLE)


def end_difference(rows: pd.DataFrame) -> Estimate:
    """Alignment after training with the lucky unit less that with the other, over the latter's gap."""
    last = rows[rows["step"] == rows["step"].max()].pivot(
        index="member", columns="twin", values=["value", "initial", "ceiling"]
    )
    gain = last["value", "lucky"] - last["value", "unlucky"]
    room = last["ceiling", "unlucky"] - last["initial", "unlucky"]
    return ratio_interval(gain.to_numpy(), room.to_numpy())


def rank_correlations(rows: pd.DataFrame) -> Array:
    """Per tree, Spearman's rank correlation over its networks of luck with speed to the goal.

    Trees of which no network reaches the goal say nothing about speed and are left out.
    """
    found = []
    for _, part in rows[rows["updates"].notna()].groupby("member"):
        luck, updates = part["luck"].to_numpy(), part["updates"].to_numpy()
        if len(np.unique(luck)) > 2 and np.isfinite(updates).any():
            alike = len(np.unique(updates)) == 1
            found.append(0.0 if alike else float(stats.spearmanr(luck, -updates).statistic))
    return np.array(found)


def within(table: pd.DataFrame) -> Judgement:
    """Whether luckier networks of one tree are sooner; the effect is the smallest mean of all settings."""
    cells = list(trained(table, SIBLINGS))
    details: list[dict[str, Any]] = []
    means = []
    for normalize, extra, units, rows in cells:
        ranks = rank_correlations(rows)
        means.append(mean_interval(ranks, len(cells)))
        details.append({
            "outputs": OUTPUTS[normalize], "units": units, **({"of": extra} if extra else {}),
            **means[-1].detail("rank_correlation"), "p": exceeds(ranks, 0.0, len(cells)),
            "never": float(np.isinf(rows["updates"]).mean()),
        })  # fmt: skip
    what = (
        "rank correlation of luck and speed within trees, mean over trees, smallest of all settings"
    )
    return all_or_none(
        details, means, what, "the luckier are shown to be sooner in {} of {} settings"
    )


def trained_lines(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Lines of the summary: the tests with training."""
    lines: dict[str, Callable[[pd.DataFrame], dict[str, Any]]] = {
        GRAFT: _graft_line,
        SIBLINGS: _siblings_line,
    }
    for test, line in lines.items():
        for normalize, extra, units, rows in trained(table, test):
            name = f"{test}, outputs {OUTPUTS[normalize]}" + (f", {extra}" if extra else "")
            ends = {
                "initial": f"{rows.drop_duplicates(['member', 'luck'])['initial'].mean():.2f}",
                "ceiling": f"{rows['ceiling'].mean():.2f}",
            }
            trees = f"{rows['member'].nunique()} trees"
            place = {"test": name, "depth": int(rows["depth"].iloc[0]), "units": units}
            yield {**place, **ends, **line(rows), "n": trees}


def _graft_line(rows: pd.DataFrame) -> dict[str, Any]:
    found = times(rows)
    never = f"{np.isinf(found.lucky).mean():.2f} / {np.isinf(found.unlucky).mean():.2f}"
    return {
        "unlucky / lucky": str(found.ratio()), "when level": str(found.ratio_when_level),
        "p": f"{later(found.unlucky, found.lucky):.2g}", "never (lucky / unlucky)": never,
        "end": f"{end_difference(rows):+.2f}",
    }  # fmt: skip


def _siblings_line(rows: pd.DataFrame) -> dict[str, Any]:
    ranks = rank_correlations(rows)
    return {
        "luck ~ speed": f"{mean_interval(ranks):+.2f}", "p": f"{exceeds(ranks, 0.0):.2g}",
        "never (lucky / unlucky)": f"{np.isinf(rows['updates']).mean():.2f}",
    }  # fmt: skip
