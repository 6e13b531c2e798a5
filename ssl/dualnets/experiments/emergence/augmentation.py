"""Which latents grow when views share less and less of them?

A view keeps the levels above one and redraws the rest, or redraws leaves or whole subtrees with some
chance. The covariance operator keeps what varies between samples and survives the average over augmentations
(docs/theory.md, Equation 3.5). How much of that is about one latent is known exactly: its share of the
operator's trace on the leaves below it (`dualnets.theory.surviving_share`). Views that keep everything give
the root the smallest share, views that keep the root alone give it the whole. What two views share of a
latent, the correlation of its states in both, is another number, and is shown beside it.

Within a run, latents of one level are compared with each other: they have the same depth, networks of the
same shape and the same training, and differ in the edges of their tree. Between runs, a latent is compared
with itself: it has the same network, initial alignment and ceiling, and the augmentation differs.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.emergence.polarity import RATE
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE, Claim, Deferred, Rule

CODE = "dualnets.experiments.emergence._augmentation"
MINIMUM = 0.3  # a rank correlation of medium size (Cohen 1988)
WITHIN = (
    "For each augmentation that gives latents of one level different shares: the partial rank "
    "correlation of share and growth among the latents of a level, given their initial |correlation| "
    "and its ceiling, all levels from 2 to the one below the root together (ranks within a level; from "
    "those of share and of growth the part that is linear in the ranks of the other two is removed). "
    "Growth is that of the best |correlation|, averaged over the snapshots, which are evenly spaced in "
    "the logarithm of updates. A tree's number is the mean over these augmentations. Holds if over "
    f"trees it is above 0 (Wilcoxon's exact signed-rank test, one-sided, p < {SIGNIFICANCE}), fails if, "
    f"whatever the test, its mean's whole 95% interval lies below {NEGLIGIBLE}, open otherwise, or with "
    f"fewer than {FEWEST_TREES} trees."
)
BETWEEN = (
    "For every latent of levels >= 2: Spearman's rank correlation, over all augmentations, of its share "
    "with the growth of its best |correlation| by the end of training; its mean over the latents of a "
    "level is a tree's number. A level follows if over trees the number is above 0 (Wilcoxon's exact "
    f"signed-rank test, one-sided, p < {SIGNIFICANCE} after Bonferroni over levels) and at least "
    f"{MINIMUM} on average; it opposes if it is below 0 (the same test, turned round) and at most "
    f"-{MINIMUM}. Holds if every level follows, fails if one opposes, open otherwise, or with fewer than "
    f"{FEWEST_TREES} trees."
)


def _variants(depth: int) -> dict[str, dict[str, Any]]:
    """Augmentations of trees of one depth, from those that keep most to those that keep nothing."""
    found = [f"keep-level:{level}" for level in range(depth)]
    found += ["keep-root"]
    found += [f"resample-leaves:{rate}" for rate in (0.1, 0.3, 0.6)]
    middle = max(depth // 2, 1)
    found += [f"resample-subtrees:{rate}:{middle}" for rate in (0.2, 0.5)]
    found += [f"resample-subtrees:{rate}:{depth}" for rate in (0.2, 0.5)]
    found += ["keep-nothing"]
    return {name.replace("resample-", ""): {"augment": name, "depth": depth} for name in found}


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "Of a level's latents, those grow more that carry more of what survives the average over "
            "augmentations",
            "arXiv 2010.00578, Theorem 3: the covariance operator; the share of a latent in closed form and "
            "the comparison of latents are ours",
            Rule(WITHIN, Deferred(f"{CODE}:judge_within")),
            name="within",
            plateau=None,  # about growth, not about an end
        ),
        Claim(
            "Under different augmentations a latent grows the more, the larger its share of what survives",
            "ours: the comparison of augmentations is not in the paper",
            Rule(BETWEEN, Deferred(f"{CODE}:judge_between")),
            name="between",
            plateau=Deferred(f"{CODE}:between_levels"),
        ),
    ),
    summary="which latents grow as views keep less",
    variants=_variants(5),
    variants_at={"smoke": _variants(3)},
    common={"members": 24, "steps": 2000, "snapshots": 8, "lr": RATE},
    scales={
        "smoke": {"members": 12, "steps": 60, "snapshots": 4, "evaluation_samples": 2048},
        "default": {},
        "paper": {"members": 30, "steps": 10_000, "snapshots": 12},
    },
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.emergence._augmentation_figure:draw"),
    code=CODE,
    result_version=2,
)
