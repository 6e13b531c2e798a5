"""Does the root emerge with more units per latent, and with a stronger signal?

This is the paper's experiment under the protocol of its authors' code: tree networks with biases, the
batch-wise loss with one negative per anchor and τ = 0.1, views that share the root alone, batches of 128,
10,000 updates of SGD at a rate of 0.1, 30 trees of depth 5 (the paper scale; the default has fewer trees and
updates). The polarity of every edge is ± U[low, 1]: a higher low end is a stronger signal.

The same trees, edge for edge up to that range, serve all widths and ranges, so that comparisons are made tree
by tree. Two of the effects need no training: the best of more random units is better already, and stronger
edges raise the ceiling. The table therefore has the alignment before training and the ceiling as well, and a
claim of our own is about the share of the gap between them that training closes.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.emergence.emergence import REFERENCE, Settings
from dualnets.lab.experiment import Experiment, Grid
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, Claim, Deferred, Rule

SMALL = 0.05  # of a correlation: a difference that does not matter
_COMMON: dict[str, list[Any]] = {
    "units": [2, 5, 10, 20],
    "polarity_low": [0.7, 0.8, 0.9],
    "loss": ["batchwise-nce"],
    "bias": [True],
    "snapshots": [6],
}
_SMOKE: dict[str, list[Any]] = {
    "units": [2, 5],
    "polarity_low": [0.7, 0.9],
    "depth": [3],
    "steps": [100],
    "members": [4],
}
GRIDS: dict[str, list[Grid]] = {
    "smoke": [{**_COMMON, **_SMOKE}],
    "default": [{**_COMMON, "steps": [5000]}],
    "paper": [{**_COMMON, "steps": [10_000], "members": [30]}],
}
_CODE = "dualnets.experiments.emergence._root_alignment"


def _trend(along: str, what: str, at: str) -> Rule:
    """The rule that the root's alignment after training grows along a setting, tree by tree."""
    return Rule(
        f"For {at}, a line is fitted to every tree's best |correlation| with the root after training against "
        f"{what}. It grows if what these lines rise from end to end is above {SMALL} with its whole 95% "
        "interval (those of all at once), and does not if it is below. Holds if it grows for "
        f"{at}, fails if for none, open otherwise, or with fewer than {FEWEST_TREES} trees.",
        Deferred(f"{_CODE}:grows", {"along": along}),
    )


_CLOSED = Rule(
    "For each range of polarities, the share of the gap between the untrained root and its ceiling that "
    "training closes in the widest network, less that in the narrowest, on the same trees (ratios of means; "
    "95% intervals of all ranges at once). Holds if it is above 0 with its whole interval in every range, "
    f"fails if it is below {NEGLIGIBLE} with its whole interval in every range, and is open otherwise, or "
    f"with fewer than {FEWEST_TREES} trees.",
    Deferred(f"{_CODE}:closes_more"),
)
_ENDS = Deferred(f"{_CODE}:ends")
EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "The more units per latent, the better the root is represented after training",
            REFERENCE,
            _trend("units", "the logarithm of the units per latent", "every range of polarities"),
            name="units",
            plateau=_ENDS,
        ),
        Claim(
            "The stronger the polarities, the better the root is represented after training",
            REFERENCE,
            _trend("polarity_low", "the low end of the polarities", "every number of units"),
            name="polarity",
            plateau=_ENDS,
        ),
        Claim(
            "Training itself does more for the root in a wide network: it closes more of the gap",
            "ours: the paper compares alignments, which units and polarities raise without training",
            _CLOSED,
            name="training",
            plateau=_ENDS,
        ),
    ),
    summary="the root by units and polarity, the paper's protocol",
    result_version=1,
    Settings=Settings,
    grids=GRIDS,
    code=_CODE,
)
