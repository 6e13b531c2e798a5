"""What experiments on the reach of emergence share: their learning rate, a rule's margin, a figure.

Leaves far below a root carry information about it, however deep the tree, iff branching * polarity² > 1
(Kesten and Stigum 1966; Evans, Kenyon, Peres and Schulman 2000). Below that the root's ceiling falls to 0
with depth. These experiments ask whether what a network reaches falls with it, or before it.
"""

from __future__ import annotations

from typing import Any, Literal

from dualnets.lab.rules import Deferred

# One rate for all polarities. Of 0.1, 0.3, 1, 3 and 10, 3 does better than 1 by .03 to .04 of the gap from
# .75 up, 1 does better than 3 by .08 at .7 and as well or better below .65:
#   hltm run polarity --seed 1000 --members 8 --steps 1000 --lr 0.1 0.3 1 3 10
# The other experiments of this kind have the same rate; it was not tuned again for them.
RATE = 1.0
MARGIN = 0.2  # of the room between the untrained network and the ceiling: less is not distinguished


def sides(judge: str, *, asked: Literal["below", "above"]) -> Deferred:
    """A function of `_sides.py`, for a claim about that side of the threshold."""
    return Deferred(f"dualnets.experiments.emergence._sides:{judge}", {"asked": asked})


def figure(axis: str, label: str, **options: Any) -> Deferred:
    """The figure of a sweep over the setting `axis`; options are those of `lab/report/sweep_figure.py`."""
    options = {"axis": axis, "label": label, **options}
    return Deferred("dualnets.lab.report.sweep_figure:draw", options)
