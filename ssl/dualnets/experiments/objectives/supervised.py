"""Do labels make intermediate latents emerge as contrast does?

A linear classifier on the outputs predicts the root's state, or the states of all latents; each is
compared with contrast whose views share just that: the root alone, or all latents. The same networks, trees,
batch, updates and optimiser; every variant has the learning rate that did best for it in a short
training. Intermediate latents are those between the lowest level and the root.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.objectives.methods import COMMON, SCALES
from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule

CODE = "dualnets.experiments.objectives._supervised"
ENOUGH = 0.5  # of contrast's gain: less is not "as contrast does", whatever it is
# labels -> the contrast whose views share what is labelled
PAIRS = {
    "label of the root": "contrast, root shared",
    "labels of all latents": "contrast, all latents shared",
}
LABELS: dict[str, Any] = {"method": "supervised", "augment": "resample-leaves:0"}  # nothing redrawn
CONTRAST: dict[str, Any] = {"method": "simclr", "loss": "ntxent"}


def _as_contrast(labels: str, name: str) -> Claim:
    """The claim for one kind of labels; the effect is their gain over that of contrast."""
    contrast = PAIRS[labels]
    rule = (
        "A tree's gain is how much the mean best |correlation| of its intermediate latents (levels 2 to one "
        f"below the root) grew in training. Holds if, over trees, the gain by {labels} is above 0 and above "
        f"{ENOUGH:g} times that by {contrast}, fails if it is below {ENOUGH:g} times that, or if it is below "
        f"0 (exact one-sided signed-rank tests, Wilcoxon, p < {SIGNIFICANCE}, for the two ways to fail after "
        f"Bonferroni); open otherwise, or with fewer than {FEWEST_TREES} trees."
    )
    return Claim(
        f"From the {labels}, intermediate latents gain more than {ENOUGH:.0%} of the alignment they gain "
        "by contrast whose views share just that",
        "ours: not in arXiv 2010.00578, which asks what contrast and prediction do without labels",
        Rule(
            rule,
            Deferred(f"{CODE}:judge", {"labels": labels, "contrast": contrast, "enough": ENOUGH}),
        ),
        name,
        Deferred(f"{CODE}:gaps"),
        (labels, contrast),
    )


EXPERIMENT = ablation(
    __name__,
    claims=(
        _as_contrast("label of the root", "root"),
        _as_contrast("labels of all latents", "all latents"),
    ),
    summary="do labels make intermediate latents emerge?",
    variants={
        "label of the root": {**LABELS, "labels": "root"},
        "contrast, root shared": {**CONTRAST, "augment": "keep-root"},
        "labels of all latents": {**LABELS, "labels": "latents"},
        "contrast, all latents shared": {**CONTRAST, "augment": "keep-level:1"},
    },
    common=COMMON,
    scales=SCALES,
    sweep=Sweep(
        "hltm run supervised --seed 1000 --members 8 --steps 200 --lr 0.01 0.03 0.1 0.3",
        (0.01, 0.03, 0.1, 0.3),
        {
            "label of the root": (0.75, 0.80, 0.81, 0.82),
            "contrast, root shared": (0.56, 0.68, 0.75, 0.80),
            "labels of all latents": (0.40, 0.70, 0.74, 0.73),
            "contrast, all latents shared": (0.51, 0.58, 0.59, 0.63),
        },
    ),
    table=Deferred(f"{CODE}:summary_table"),
)  # fmt: skip
