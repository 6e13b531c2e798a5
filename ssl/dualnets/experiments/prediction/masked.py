"""Does masked prediction learn a grammar level by level, each at its exact loss?

Transformers learn to predict the leaves that a view misses, each alone missing with probability 0.3, of
Random Hierarchy Models (Cagnetta et al., arXiv 2307.02129; the experiment `hierarchy` describes them). The
least loss of any predictor is known, and so is that of a predictor that has learnt the correlations up to
some level and no others: the Bayes loss of the filtered tree of this level, in which all nodes of the
level are independent (the idea is that of arXiv 2408.15138). Training is stopped now and then, and on fixed
fresh rows the network's predictions are compared with those of all filtered trees.

That the loss passes the filtered losses in order says nothing, since these fall with the level. Order is
therefore judged by the predictions themselves: which filtered tree's are nearest. Whether there are
plateaus is judged by the time spent near the filtered losses and half-way between them.

In the end every layer is read: how well does a linear readout of the vectors at the leaves' positions
find the leaf's ancestor of each level, on rows with missing leaves?
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.prediction._loss_claims import OURS, attains, by_layer, in_order, in_steps
from dualnets.experiments.prediction._prediction_settings import GrammarPrediction
from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import Deferred

CODE = "dualnets.experiments.prediction._losses"
COMMON: dict[str, Any] = {
    "symbols": 6, "rules": 2, "depth": 3, "seed": [0, 1], "members": 6, "layers": 3, "width": 32, "heads": 2,
    "batch": 64, "steps": 4000, "snapshots": 32, "evaluation_samples": 2048, "optimizer": "adam",
}  # fmt: skip
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "seed": 0,
        "depth": 2,
        "members": 12,
        "steps": 40,
        "snapshots": 5,
        "evaluation_samples": 512,
    },
    "default": {},
    "long": {"steps": 16_000, "snapshots": 40},
    "paper": {"members": 12, "steps": 50_000, "snapshots": 48, "width": 64},
}
SHARED: dict[str, Any] = {  # with `next_leaf`
    "settings": GrammarPrediction, "scales": SCALES, "table": Deferred(f"{CODE}:summary_table"),
    "figure": Deferred("dualnets.experiments.prediction._losses_figure:draw"), "code": CODE,
    "result_version": 1,
}  # fmt: skip
# The share of the way from independent leaves to the Bayes loss, in place of a gap closed.
SWEEP = Sweep(
    "hltm run masked --seed 1000 --members 4 --steps 1000 --snapshots 4 --lr 0.001 0.003 0.01",
    (0.001, 0.003, 0.01),
    {"masked": (0.809, 0.818, 0.710)},
)


EXPERIMENT = ablation(
    __name__,
    claims=(
        attains(
            "Masked prediction attains at least nine tenths of the way to the Bayes loss",
            f"{OURS} arXiv 2408.15138; not in arXiv 2010.00578",
        ),
        in_order(f"{OURS} arXiv 2408.15138 and 2406.00048"),
        in_steps(f"{OURS} arXiv 2406.00048, whose steps are in the number of samples"),
        by_layer(f"{OURS} arXiv 2408.15138 and 2505.07070"),
    ),
    summary="masked leaves: a step in the loss for every level?",
    variants={"masked": {"method": "masked-prediction", "augment": "drop-leaves:0.3"}},
    common=COMMON,
    sweep=SWEEP,
    **SHARED,
)
