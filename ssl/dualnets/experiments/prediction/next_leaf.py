"""Does next-leaf prediction learn a grammar level by level, each at its exact loss?

Causal transformers predict every leaf of Random Hierarchy Models from the leaves before it, on the same
grammars as in `masked`, where filtered trees, distances and rules are described. The exact loss of every
next leaf is known (arXiv 2406.00048 has such losses in the mean, measured), so that it is seen at which
leaves a network falls short: those that begin a large subtree have little to be predicted from, and the
second leaf of each pair much.
"""

from __future__ import annotations

from dualnets.experiments.prediction._loss_claims import OURS, attains, in_order, in_steps
from dualnets.experiments.prediction.masked import COMMON, SHARED
from dualnets.lab.ablation import Sweep, ablation

# The share of the way from independent leaves to the Bayes loss, in place of a gap closed.
SWEEP = Sweep(
    "hltm run next-leaf --seed 1000 --members 4 --steps 1000 --snapshots 4 --lr 0.001 0.003 0.01",
    (0.001, 0.003, 0.01),
    {"next leaf": (0.962, 0.978, 0.949)},
)
EXPERIMENT = ablation(
    __name__,
    claims=(
        attains(
            "Next-leaf prediction attains at least nine tenths of the way to the Bayes loss",
            f"{OURS} arXiv 2406.00048; not in arXiv 2010.00578",
        ),
        attains(
            "Next-leaf prediction attains it at every leaf at which something can be learnt",
            f"{OURS} arXiv 2406.00048",
            places=True,
        ),
        in_order(f"{OURS} arXiv 2408.15138 and 2406.00048"),
        in_steps(f"{OURS} arXiv 2406.00048, whose steps are in the number of samples"),
    ),
    summary="next leaves: a step in the loss for every level?",
    variants={"next leaf": {"method": "next-leaf", "augment": "resample-leaves:0"}},
    common={**COMMON, "steps": 2000},
    sweep=SWEEP,
    **SHARED,
)
