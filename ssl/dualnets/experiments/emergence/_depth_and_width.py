"""Whether more units per latent bring the root closer to its ceiling, depth by depth."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dualnets.experiments.emergence._kesten_stigum import root_entry
from dualnets.lab import variants
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, too_few
from dualnets.lab.variants import at_once, by_variant, contrast, of_root


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the smallest gain of all depths, as a share of the ceiling.

    Details hold, per depth, how much more the widest gained in training, and every cell's root.
    """
    rows_of = by_variant(table)
    cells = {
        (int(rows["depth"].iloc[0]), int(rows["units"].iloc[0])): of_root(rows)
        for rows in rows_of.values()
    }
    depths = sorted({depth for depth, _ in cells})
    details: list[dict[str, Any]] = []
    effects: list[Estimate] = []
    problems: list[str] = []
    helped: list[int] = []
    harmed: list[int] = []
    for depth in depths:
        widths = sorted(units for d, units in cells if d == depth)
        narrow, wide = cells[depth, widths[0]], cells[depth, widths[-1]]
        if len(widths) < 2 or len(narrow.value) != len(wide.value):
            problems.append(f"depth {depth} has no two widths on the same trees")
            continue
        problems += [few] if (few := too_few(len(wide.value))) else []
        end = contrast(wide.value / wide.ceiling, narrow.value / narrow.ceiling, len(depths))
        start = contrast(wide.initial / wide.ceiling, narrow.initial / narrow.ceiling)
        helped += [depth] if end.p_more < SIGNIFICANCE else []
        harmed += [depth] if end.p_less < SIGNIFICANCE else []
        effects.append(end.difference)
        details.append(
            {"variant": f"depth {depth}, x{widths[-1]} - x{widths[0]}",
             "helps": end.p_more < SIGNIFICANCE, "p_more": end.p_more, "p_less": end.p_less,
             **end.difference.detail("difference"),
             "difference_before": start.difference.value, "n": end.difference.n}
        )  # fmt: skip
    details += [root_entry(name, rows, len(rows_of)) for name, rows in rows_of.items()]
    outcome: Outcome = "open"
    where = ", ".join(map(str, helped))
    if problems:
        reason = "; ".join(dict.fromkeys(problems))
    elif len(helped) == len(depths):
        outcome, reason = "holds", f"more units help at depth {where}"
    elif harmed:
        outcome, reason = "fails", f"more units harm at depth {', '.join(map(str, harmed))}"
    elif not helped:
        reason = "more units are shown to help at no depth"
    else:
        reason = f"more units help at depth {where} only"
    smallest = min(effects, key=lambda effect: effect.value) if effects else NOTHING
    effect = (
        "smallest gain of all depths from the most units, as a share of the root's ceiling"
        + at_once(len(depths))
    )
    return Judgement(outcome, reason, effect, smallest, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per depth and width; `below null`: roots that no unit follows better than the null."""
    made = variants.summary_table(table)
    counts = []
    for rows in by_variant(table).values():
        last = (rows["step"] == rows["step"].max()) & (rows["level"] == rows["level"].max())
        counts.append(int(rows.loc[last & (rows["metric"] == "below_null"), "value"].sum()))
    made.insert(4, "below null", counts)
    return made
