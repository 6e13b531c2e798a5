"""Claims about losses beside those of filtered trees, with their rules; `_loss_rules` applies them."""

from __future__ import annotations

from math import log

from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule

CODE = "dualnets.experiments.prediction._loss_rules"
ATTAINED = 0.9  # of the way from independent leaves to the Bayes loss
# A stay at a filtered loss that is no more than half as long again as beside it is no step.
SLOWER = 1.5
LITTLE_ORDER = 0.25  # Kendall's tau
READ = 0.9  # of the best readout of all layers
OURS = "ours, with exact losses; for the question see"

SHARE = (
    "A tree's share is how much of the way from the loss of independent leaves (the filtered tree of level "
    "0) to the Bayes loss the network's loss goes, all three on the same fresh rows. "
)
OPEN = f"open otherwise, with fewer than {FEWEST_TREES} trees, or where one diverged."
NEAREST = (
    "The filtered tree of level l has the correlations up to level l and no others. A level's time is the "
    "update from which its predictor is nearer to the network than those of all other levels, by the mean "
    "Kullback-Leibler divergence of the network's predictions from it; infinite where it never is. "
)


def attains(what: str, reference: str, *, places: bool = False) -> Claim:
    """The claim that networks attain nearly the Bayes loss, in the mean or at every leaf."""
    options = {"places": places}
    among = "leaves at which something can be learnt" if places else "variants"
    text = (
        f"{SHARE}Holds if its mean over trees is above {ATTAINED:g} for all {among}, with the whole 95% "
        f"interval (of all at once, Bonferroni), fails if it is below with the whole interval for one; {OPEN}"
    )
    return Claim(
        what,
        reference,
        Rule(text, Deferred(f"{CODE}:judge_attained", options)),
        "every leaf" if places else "attains",
        Deferred(f"{CODE}:attained_estimates", options),
    )


def in_order(reference: str) -> Claim:
    """The claim that levels are learnt from the leaves up."""
    return Claim(
        "Networks learn the levels from the leaves up: the predictors of filtered trees are nearest to them "
        "one after the other",
        reference,
        Rule(
            f"{NEAREST}For every pair of consecutive levels from 1 on, an exact signed-rank test over trees "
            f"(Wilcoxon, one-sided, p < {SIGNIFICANCE} after Bonferroni) of whether the higher level's time "
            "is later. Holds if it is for all pairs; fails if it is earlier for one, or if for some level "
            "the median time is infinite with its whole 95% interval (order statistics, Bonferroni over "
            f"levels); open otherwise, or with fewer than {FEWEST_TREES} trees.",
            Deferred(f"{CODE}:judge_order"),
        ),
        "order",
        None,
    )


def in_steps(reference: str) -> Claim:
    """The claim that the loss rests at filtered losses."""
    return Claim(
        "The loss falls in steps, which lie at the exact losses of filtered trees",
        reference,
        Rule(
            "For every level between 0 and the highest, the time, in the logarithm of updates, that the loss "
            "takes through a narrow band around the level's filtered loss is divided by the time that it "
            "takes through bands of equal width half-way to the losses of the levels below and above "
            "(geometric mean of the two). Holds if over trees this ratio is above 1 for all levels (exact "
            f"signed-rank test, p < {SIGNIFICANCE} after Bonferroni); fails if it is below 1 for one, or "
            f"if for one the mean logarithm is below {log(SLOWER):.2f} (a ratio of {SLOWER:g}) with its "
            f"whole 95% interval (Bonferroni); open otherwise. A level for which fewer than {FEWEST_TREES} "
            "trees get through all three bands decides nothing, and the claim does not hold without it.",
            Deferred(f"{CODE}:judge_steps"),
        ),
        "steps",
        None,
    )


def by_layer(reference: str) -> Claim:
    """The claim that higher levels are read in higher layers."""
    return Claim(
        "Higher levels are read in higher layers",
        reference,
        Rule(
            "A level's layer is the first one whose vectors at the leaves' positions read the leaf's "
            f"ancestor at this level with at least {READ:g} of the correlation of the best layer (held-out "
            "linear readout, mean over positions). A tree's number is Kendall's rank correlation of levels "
            "and their layers, 0 where all levels have one layer. Holds if it is above 0 over trees (exact "
            f"signed-rank test, p < {SIGNIFICANCE}); fails if its mean is below {LITTLE_ORDER:g} with its "
            f"whole 95% interval; {OPEN}",
            Deferred(f"{CODE}:judge_layers"),
        ),
        "layers",
        Deferred(f"{CODE}:rank_estimates"),
        negligible=0.5,
    )
