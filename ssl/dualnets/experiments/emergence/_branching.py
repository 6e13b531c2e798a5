"""Whether the root is better with the most children per latent than with the fewest: a rule."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dualnets.experiments.emergence._kesten_stigum import root_entry
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Judgement, Outcome, too_few
from dualnets.lab.variants import by_variant, contrast, of_root


def more_children_help(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the difference of the root's best |correlation|."""
    variants = by_variant(table)
    details = [root_entry(name, rows, len(variants)) for name, rows in variants.items()]
    roots = {int(rows["branching"].iloc[0]): of_root(rows) for rows in variants.values()}
    most, fewest = roots[max(roots)], roots[min(roots)]
    effect = f"root's best |correlation|, {max(roots)} children minus {min(roots)}"
    if len(roots) < 2 or not np.array_equal(most.members, fewest.members):
        reason = "there are no two numbers of children on the same trees"
        return Judgement("open", reason, effect, NOTHING._replace(n=len(most.value)), details)
    against = contrast(most.value, fewest.value)
    outcome: Outcome = "open"
    if reason := too_few(against.difference.n):
        pass
    elif against.p_more < SIGNIFICANCE:
        outcome, reason = "holds", f"the root is better with {max(roots)} children"
    elif against.p_less < SIGNIFICANCE:
        outcome, reason = "fails", f"the root is worse with {max(roots)} children"
    else:
        reason = "the root is shown neither better nor worse"
    details.append({"variant": effect, "p_more": against.p_more, "p_less": against.p_less,
                    **against.difference.detail("difference")})  # fmt: skip
    return Judgement(outcome, reason, effect, against.difference, details)
