"""How the claims of `update` are judged, and the short table of all comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dualnets.experiments.theorems._update_comparisons import HALVED, OTHER
from dualnets.experiments.theorems.update import BROKEN, EXACT, EXCESS, PRECISE
from dualnets.lab.rules import FEWEST_TREES
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, mean_interval

ERRORS_CAPTION = (
    "relative errors |predicted - actual| / |actual| of whole weights, float64, over n networks, losses and "
    "layers"
)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """The short table of a run, with what was compared."""
    made = pd.DataFrame(error_rows(table) or [{"identity": "nothing was compared"}])
    made.attrs["caption"] = ERRORS_CAPTION
    return made


def error_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per identity and form: errors over data, networks, losses and layers."""
    found: list[dict[str, Any]] = []
    marked = table.assign(broken=_broken(table), estimated=table["standard_error"] > 0)
    for (identity, form, broken, estimated), part in marked.groupby(
        ["identity", "form", "broken", "estimated"], sort=False
    ):
        off = part["relative_error"] / part["standard_error"].where(part["standard_error"] > 0)
        found.append({
            "identity": identity + (", estimated" if estimated else ""), "form": form,
            "data": broken or ", ".join(dict.fromkeys(part["data"])),
            "median": part["relative_error"].median(), "largest": part["relative_error"].max(),
            "/ s.e.": off.max(), "n": len(part),
        })  # fmt: skip
    names = list(dict.fromkeys(table["identity"]))
    found.sort(key=lambda row: names.index(row["identity"].removesuffix(", estimated")))
    return found


def _broken(table: pd.DataFrame) -> pd.Series:
    """Which assumption is broken, in a word; empty where all are met."""
    why = np.select(
        [table["form"] == HALVED, table["form"] == OTHER, table["bias"], table["normalize"]],
        ["prediction halved", "another tree", "biases", "normalised"],
        "skips a layer",
    )
    return pd.Series(np.where(table["assumptions"] == "broken", why, ""), index=table.index)


def judge_identity(table: pd.DataFrame, identities: Sequence[str]) -> Judgement:
    """Apply the rule on identities that hold to rounding."""
    table = table[table["identity"].isin(identities)]
    exact = table[table["exact"]]
    wrong = exact[~(exact["relative_error"] < EXACT)]
    controls = table[(table["assumptions"] == "broken") & (table["form"] != HALVED)]
    kinds = [controls["identity"], controls["form"], _broken(controls).rename("why")]
    medians = controls["relative_error"].groupby(kinds).median()
    missed = medians > BROKEN
    reason = (
        f"{len(exact) - len(wrong)} of {len(exact)} comparisons agree to {EXACT:g}, and {missed.sum()} of "
        f"{len(missed)} kinds of controls miss"
    )
    outcome: Outcome = "open"
    if len(wrong):
        outcome = "fails"
    elif len(exact) and len(missed) and missed.all():
        outcome = "holds"
    details: list[dict[str, Any]] = [
        {"identity": identity, "form": form, "control": why, "largest_error": float(part.max()),
         "median_error": float(part.median()), "n": len(part)}
        for (identity, form, why), part in table["relative_error"].groupby(
            [table["identity"], table["form"], _broken(table).rename("why")], sort=False)
    ]  # fmt: skip
    largest = Estimate(float(exact["relative_error"].max()), np.nan, np.nan, len(exact))
    what = "largest relative error of an exact comparison"
    return Judgement(outcome, reason, what, largest, details, "comparisons")


def judge_estimates(table: pd.DataFrame, shared: str | None = "digits") -> Judgement:
    """Apply the rule on updates that are estimated from samples; `shared`: data that all networks share."""
    # both forms of a prediction are one estimate: they differ by rounding
    rows = table[(table["standard_error"] > 0) & (table["form"] != "operator")]
    squares = (rows["relative_error"] / rows["standard_error"]) ** 2
    # networks on one tree read the same samples, and so do all networks on shared data
    member = rows["member"].where(rows["data"] != shared, -1)
    rows = rows.assign(square=squares, halved=rows["form"] == HALVED, member=member)
    source = ["data", "seed", "member"]
    found: dict[bool, Estimate] = {}
    details: list[dict[str, Any]] = []
    for halved, part in rows.groupby("halved"):
        found[bool(halved)] = mean_interval(part.groupby(source)["square"].mean().to_numpy())
        for (data, network), own in part.groupby(["data", "network"], sort=False):
            means = own.groupby(source)["square"].mean()
            details.append({
                "data": data, "network": network, "halved": bool(halved),
                **mean_interval(means.to_numpy()).detail("mean_square"),
                "largest_standard_error": float(own["standard_error"].max()),
            })  # fmt: skip
    right, wrong = found.get(False, NOTHING), found.get(True, NOTHING)
    vague = int((~(rows["standard_error"] < PRECISE) & ~rows["halved"]).sum())
    what = "mean square of (predicted - actual) / standard error, 1 if right"
    of = "sets of samples"
    outcome: Outcome = "open"
    if right.n < FEWEST_TREES:
        reason = f"{right.n} sets of samples are fewer than {FEWEST_TREES}"
        return Judgement(outcome, reason, what, right, details, of)
    reason = (
        f"the mean square is {right:.2f} for predictions and {wrong:.0f} for halved ones; {vague} of "
        f"{(~rows['halved']).sum()} standard errors are {PRECISE:g} of the update or more"
    )
    if right.low > EXCESS:
        outcome = "fails"
    elif right.high < EXCESS < wrong.low and not vague:
        outcome = "holds"
    return Judgement(outcome, reason, what, right, details, of)
