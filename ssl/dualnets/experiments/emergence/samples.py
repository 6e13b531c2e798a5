"""How many samples until the latents of each level emerge?

A fixed set of P samples, used again and again, each time in new views, instead of fresh samples; the number
of updates is the same for all P. A view redraws some of the lowest subtrees, and keeps most of its sample:
with views that keep the root alone, any P would be as good as fresh data. SimCLR and BYOL compare views,
the supervised network predicts the root's state from one; each has the learning rate that did best for it
on fresh data, of the same four, on other trees.

By default P goes from 2^5, a single batch, to 2^13; 400 batches of 32 are 12 800 samples, so sets of 2^14
and more would show none twice: those are fresh data. At the paper's scale P goes from 2^6 to 2^16.
The samples for half are those with which latents grow half as much *as with fresh data*, which is not
half of the gap to their ceiling. Where the smallest set is enough already, all that is known is that
no more are needed: `<=`.
"""

from __future__ import annotations

from typing import Any

from dualnets.lab.ablation import ablation
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule

CODE = "dualnets.experiments.emergence._samples"
COMMON: dict[str, Any] = {
    "depth": 4, "members": 12, "steps": 400, "batch": 32, "units": 10, "bias": True, "momentum": 0.9,
    "weight_decay": 4e-4, "snapshots": 2, "evaluation_samples": 4096, "lr": 0.3,
    "augment": "resample-subtrees:0.3:2", "samples": [32, 64, 128, 512, 2048, 8192, 0],
}  # fmt: skip
RULE = (
    "What a tree's level lacks for want of samples: how much less the mean best |correlation| of its "
    "latents grew with P samples than with fresh ones, averaged over all P, as a share of the mean growth "
    "with fresh ones. For each method, exact one-sided signed-rank tests over trees (Wilcoxon, p < "
    f"{SIGNIFICANCE} after Bonferroni over methods) of whether the root lacks more than level "
    "2, and whether it lacks less. Holds if it lacks more with every method; fails if it lacks less "
    "with one and more with none; open otherwise, where fresh samples make either not emerge, or with "
    f"fewer than {FEWEST_TREES} trees."
)
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "The higher a latent, the more samples it takes to emerge",
            (
                "not in the paper: in the Random Hierarchy Model higher latents need more samples (arXiv "
                "2307.02129, 2406.00048)"
            ),
            Rule(RULE, Deferred(f"{CODE}:judge")),
        ),
    ),
    summary="how many samples until each level's latents emerge",
    # Rates are the best of 0.01, 0.03, 0.1, 0.3 by gap closed on levels >= 2, with
    # `hltm run samples --seed 1000 --members 8 --steps 200 --samples 0 --lr 0.01 0.03 0.1 0.3`:
    # simclr .44 .50 .59 .71 · byol .67 .69 .64 .74 · supervised .73 .78 .80 .77
    variants={
        "simclr": {"method": "simclr", "loss": "ntxent"},
        "byol": {"method": "byol"},
        "supervised": {"method": "supervised", "labels": "root", "lr": 0.1},
    },
    common=COMMON,
    scales={
        "smoke": {"depth": 3, "steps": 60, "evaluation_samples": 2048, "samples": [32, 256, 0]},
        "default": {},
        "paper": {
            "depth": 5,
            "batch": 64,
            "members": 30,
            "steps": 10_000,
            "samples": [*(2**k for k in range(6, 17)), 0],
        },
    },
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.emergence._samples_figure:draw"),
)
