"""How deep can a root be found, and do more units per latent find it deeper?

The paper argues that over-parameterisation makes it likely that every latent has a lucky unit at the
start, which training then amplifies. Here trees grow deeper and blocks wider, step by step; more
units are better at the start already, because the best of more is taken, so what training added
is reported with what the start gave.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from dualnets.experiments.emergence.polarity import RATE
from dualnets.lab.ablation import ablation, sweep_figure
from dualnets.lab.rules import FEWEST_TREES, ROOT, SIGNIFICANCE, Claim, Deferred, Rule


def _variants(depths: Iterable[int], widths: Iterable[int]) -> dict[str, dict[str, Any]]:
    return {
        f"depth {depth} x{units}": {"depth": depth, "units": units}
        for depth, units in itertools.product(depths, widths)
    }


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "More units per latent bring the root closer to its ceiling, at every depth",
            "arXiv 2010.00578, Section 4: over-parameterisation and lucky nodes; widths and depths of "
            "our own",
            Rule(
                "At a depth, units help if the root's best |correlation| after training, as a share of "
                "its ceiling, is larger in the widest networks than in the narrowest on the same trees "
                f"(Wilcoxon's exact signed-rank test, one-sided, p < {SIGNIFICANCE} after Bonferroni over "
                "depths), and harm if it is smaller (the same test, turned round). Holds if they help at "
                "every depth, fails if they harm at one, open otherwise, with one width only, or with "
                f"fewer than {FEWEST_TREES} trees.",
                Deferred("dualnets.experiments.emergence._depth_and_width:judge"),
            ),
            plateau=ROOT,
        ),
    ),
    summary="how deep a root is found, by how many units",
    variants=_variants((2, 3, 4, 5, 6), (2, 5, 12)),
    variants_at={
        "smoke": _variants((2, 3), (2, 8)),
        "paper": _variants((2, 3, 4, 5, 6, 7, 8), (2, 5, 10, 20)),
    },
    common={"members": 24, "steps": 5000, "snapshots": 6, "lr": RATE},
    scales={
        "smoke": {"members": 12, "steps": 150},
        "default": {},
        "paper": {"members": 30, "steps": 30_000, "snapshots": 12},
    },
    table=Deferred("dualnets.experiments.emergence._depth_and_width:summary_table"),
    figure=sweep_figure("depth", "depth of the tree", line="units", line_label="units"),
)
