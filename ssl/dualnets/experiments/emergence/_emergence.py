"""Learning curves of all latents, judged level by level: cells and rule of `emergence`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.emergence.emergence import (
    CONTROL,
    FEWEST_TREES,
    SIGNIFICANCE,
    Settings,
)
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import learning_curves
from dualnets.lab.ratios import ratio_difference, ratio_interval
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    last_step,
    too_few,
)
from dualnets.lab.variants import FEW, PRE

CAPTION = (
    "means over n trees{left}; gap closed with its 95% interval, each by itself; those that the rule reads "
    "hold at all levels and settings at once, and are wider"
)


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble and measure its learning curves."""
    curves = learning_curves(settings, device, progress)
    networks: dict[str, Mapping[str, torch.Tensor]] = {
        "initial": dict(curves.first.named_parameters()),
        "final": dict(curves.last.named_parameters()),
    }
    return CellResult(curves.table, networks, curves.notes)


def by_level(table: pd.DataFrame, step: str | None = "last") -> pd.DataFrame:
    """Means over the latents of a level: one row per cell, member, level and step.

    Of pre-activations, at the last step or (None) at every one. Columns: the cell's settings, member,
    level, step, value, initial, null, ceiling.
    """
    found = table[table["metric"] == PRE]
    if step == "last":
        found = last_step(found)
    keys = ["cell", "network", "units", "augment", "member", "level", "step"]
    columns = ["value", "initial", "null", "ceiling"]
    return found.groupby(keys, sort=False)[columns].mean().reset_index()


def groups(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """What is judged together: settings that differ, the rows that share them, the rows of their control.

    Groups differ in settings other than network, units, the control's augmentation, and the seed.
    """
    apart = {"network", "units", "augment", "seed"}
    others = [
        item.name
        for item in fields(Settings)
        if item.name not in apart and table[item.name].nunique() > 1
    ]
    control = table["augment"] == CONTROL
    main = table[~control]
    shown = [*others, *(["augment"] if main["augment"].nunique() > 1 else [])]
    for key, rows in main.groupby(shown, sort=False) if shown else [((), main)]:
        setting = dict(zip(shown, key, strict=True))
        same = pd.Series(True, index=table.index)
        for name in others:
            same &= table[name] == setting[name]
        yield setting, rows, table[control & same]


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network and level: means over trees, gap closed with its 95% interval, latents below null.

    Every mean is over the trees that did not diverge; `diverged` counts the others, where there are any.
    `below null` counts the latents, over all trees, with no candidate whose correlation is above the null.
    """
    ends = last_step(table[table["metric"] == "below_null"])
    found = []
    for setting, main, control in groups(table):
        for rows in (main, control):
            kinds = by_level(rows).groupby(["network", "units", "level"], sort=False)
            for (network, units, level), part in kinds:
                closed, own = _gap(part), ends[ends["cell"].isin(part["cell"])]
                kept = part[np.isfinite(part["value"])]  # one row per tree
                below = own[own["level"] == level]["value"].dropna()
                label = {k: v for k, v in setting.items() if k != "augment" or rows is main}
                found.append(
                    {
                        **{name.replace("_", " "): value for name, value in label.items()},
                        "network": f"{network} {units}{' control' if rows is control else ''}",
                        "level": level,
                        "initial": kept["initial"].mean(),
                        "final": kept["value"].mean(),
                        "ceiling": kept["ceiling"].mean(),
                        "null": kept["null"].mean(),
                        "gap closed": "at ceiling"
                        if len(kept) and np.isnan(closed.value)
                        else str(closed),
                        "below null": f"{int(below.sum())}/{len(below)}",
                        "diverged": f"{len(part) - len(kept)}/{len(part)}",
                        "n": closed.n,
                    }
                )
    made = pd.DataFrame(found)
    lost = not made["diverged"].str.startswith("0/").all()
    made = made if lost else made.drop(columns="diverged")
    made.attrs["caption"] = CAPTION.format(left=" that did not diverge" * lost)
    return made


def diverged(means: pd.DataFrame) -> tuple[int, int]:
    """How many trees have a value that is not finite, and how many there are; rows as of `by_level`."""
    finite = means.assign(finite=np.isfinite(means["value"]))
    finite = finite.groupby(["cell", "member"])["finite"].all()
    return int((~finite).sum()), len(finite)


def _gap(means: pd.DataFrame, among: int = 1) -> Estimate:
    """Gap closed, of one row per tree."""
    return ratio_interval(*gain_and_room(means), among)


def gain_and_room(means: pd.DataFrame) -> tuple[Array, Array]:
    """What was gained and what could be, of one row per tree."""
    initial, value, ceiling = (means[name].to_numpy() for name in ("initial", "value", "ceiling"))
    return value - initial, ceiling - initial


class Judged(NamedTuple):
    """What the claim is judged by in one group of settings: `by_level` at the last step, levels >= 2.

    Attributes:
        setting: what distinguishes the group.
        units: of the widest tree network.
        last: its rows.
        idle: those of its control.
    """

    setting: dict[str, Any]
    units: int
    last: pd.DataFrame
    idle: pd.DataFrame

    @property
    def gap(self) -> Estimate:
        """Gap closed, mean over the levels >= 2."""
        return _gap(self.last.groupby("member")[["initial", "value", "ceiling"]].mean())


def judged(table: pd.DataFrame) -> list[Judged]:
    """The widest tree network of every group of settings that has one."""
    found = []
    for setting, main, control in groups(table):
        trees = main[main["network"] == "tree"]
        if trees.empty:
            continue
        units = trees["units"].max()
        idle = control[(control["network"] == "tree") & (control["units"] == units)]
        last, idle = (by_level(rows) for rows in (trees[trees["units"] == units], idle))
        parts = (rows[rows["level"] >= 2] for rows in (last, idle))
        found.append(Judged(setting, int(units), *parts))
    return found


def judged_gaps(table: pd.DataFrame) -> dict[str, Estimate]:
    """What must be flat: the gap closed that is judged, by setting."""
    return {
        ", ".join([f"tree {one.units}", *(f"{k} {v}" for k, v in one.setting.items())]): one.gap
        for one in judged(table)
    }


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the smallest of those of several settings."""
    found = judged(table)
    tests = max(sum(one.last["level"].nunique() for one in found), 1)
    details: list[dict[str, Any]] = []
    problems = [] if found else ["no tree network was run"]
    for one in found:
        if one.last.empty:
            problems.append("there is no level >= 2")
        if one.idle.empty:
            problems.append(f"no control with {one.units} units was run")
        problems.append(too_few(one.last["member"].nunique(), FEWEST_TREES))
        details += [
            {**one.setting, "units": one.units, "level": int(level),
             **_at_level(part, one.idle[one.idle["level"] == level], tests)}
            for level, part in one.last.groupby("level")
        ]  # fmt: skip
    # levels at which the latents emerge with every setting
    levels = dict.fromkeys(entry["level"] for entry in details)
    short = {entry["level"] for entry in details if not entry["emerges"]}
    emerged = [level for level in levels if level not in short]
    where = ", ".join(map(str, emerged))
    outcome: Outcome = "open"
    reason = "; ".join(dict.fromkeys(filter(None, problems)))
    if reason:
        pass
    elif not short:
        outcome, reason = "holds", f"latents emerge at every level >= 2 ({where})"
    elif all(entry["absent"] for entry in details):
        outcome, reason = "fails", "latents emerge at no level >= 2"
    elif emerged:
        reason = f"latents emerge at {'level' if len(emerged) == 1 else 'levels'} {where} only"
        reason += _obstacles(details)
    else:
        reason = f"latents are shown to emerge at no level >= 2{_obstacles(details)}"
    for one in found:
        lost, trees = diverged(one.last)
        if lost >= FEW * trees > 0:  # of fewer the verdict says whether they decide
            what = ", ".join([f"{one.units} units", *(f"{k} {v}" for k, v in one.setting.items())])
            reason += f"; {lost} of {trees} trees with {what} diverged"
    what = "gap closed, mean over levels >= 2"
    effect = min((one.gap for one in found), key=lambda each: each.value, default=NOTHING)
    return Judgement(outcome, reason, what, effect, details)


def _obstacles(details: Sequence[Mapping[str, Any]]) -> str:
    """Which part of the rule keeps each level from being shown to emerge, of three entries at most."""
    apart = {"units", "level"}
    texts = []
    for entry in (entry for entry in details if not entry["emerges"]):
        low, control, p = (entry[name] for name in ("low", "control_high", "p_above_null"))
        missing = []
        if np.isnan(low):
            missing.append("the gap closed has no interval")
        elif low <= NEGLIGIBLE:
            missing.append(
                f"training may close as little as {low:.2f} of the gap, bound {NEGLIGIBLE}"
            )
        if control >= NEGLIGIBLE:
            missing.append(f"the control may close up to {control:.2f} of it, bound {NEGLIGIBLE}")
        elif np.isnan(control):
            missing.append("that of the control has no interval")
        if p >= SIGNIFICANCE:
            missing.append(f"not above the null (p = {p:.2g}, bound {SIGNIFICANCE})")
        keys = list(entry)[: list(entry).index("emerges")]
        own = [
            f"level {entry['level']}",
            *(f"{name} {entry[name]}" for name in keys if name not in apart),
        ]
        texts.append(": ".join([", ".join(own), ", ".join(missing)]))
    more = [f"and {len(texts) - 3} more"] * (len(texts) > 3)
    return f" ({'; '.join([*texts[:3], *more])})" if texts else ""


def _at_level(part: pd.DataFrame, rest: pd.DataFrame, tests: int) -> dict[str, Any]:
    """How one level comes out: its rows, one per tree, and those of its control."""
    after, before, null = (part[c].to_numpy() for c in ("value", "initial", "null"))
    grown, above = (exceeds(after, bound, tests) for bound in (before, null))
    gap, idle = _gap(part, tests), _gap(rest, tests) if len(rest) else NOTHING
    both = part.set_index("member").index.intersection(rest["member"])
    pair = [gain_and_room(own.set_index("member").loc[both]) for own in (part, rest)]
    beyond = ratio_difference(pair[0], pair[1], tests)
    return {
        "emerges": gap.low > NEGLIGIBLE and idle.high < NEGLIGIBLE and above < SIGNIFICANCE,
        "absent": gap.high < NEGLIGIBLE or beyond.high < NEGLIGIBLE,
        "p_grown": grown, "p_above_null": above, **gap.detail("gap_closed"),
        "control": idle.value, "control_high": idle.high, "beyond_control": beyond.value,
    }  # fmt: skip
