"""Claims and their rules, fixed before a run: in words, and the function that applies them.

The file of an experiment is read whenever experiments are listed, which must not wait for torch or
pandas. A declaration therefore gives the functions that judge and draw by their names, as `Deferred`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from dualnets.lab.stats import Judgement

SIGNIFICANCE = 0.01
FEWEST_TREES = 12  # with fewer, the exact test has no room for a correction over variants
# Of the gap: that a test does not show growth is no evidence that there is none.
NEGLIGIBLE = 0.1
# Spreads are near 0.8 where networks with normalised outputs learn and near 0 where they collapse; a tenth of
# the spread of outputs that point everywhere lies far from both.
COLLAPSED = 0.1
# Below it a network is lost, whatever it was trained by. Chosen on pilots (seeds from 1000): those that learn
# from a weak signal by contrast have a spread of 0.04 (polarity .55 at depth 5, .8 of the root's gap closed),
# those that collapse less than 0.02. A verdict never rests on it: a rule must come out the same without them.
LOST = 0.03


@dataclass(frozen=True)
class Members:
    """What the members of an ensemble are, what they are scored by, and how pairs of them are compared.

    Attributes:
        of: what the members are, in the plural.
        found: what training is to bring out, in the plural.
        score: what a member is scored by.
        gap: where a gap closed is measured.
        fewest: with fewer members there is no verdict.
        exact: whether pairs are compared by exact signed ranks, which need no assumption but cannot tell
            fewer than seven pairs from chance; else by Student's test, as intervals are.
    """

    of: str
    found: str
    score: str
    gap: str
    fewest: int
    exact: bool

    @property
    def one(self) -> str:
        """A member, in the singular."""
        return self.of.removesuffix("s")

    @property
    def test(self) -> str:
        """How pairs are compared, in words."""
        return "paired signed ranks" if self.exact else "Student's paired test"


TREES = Members(
    "trees", "latents", "mean best |correlation|", "levels >= 2", FEWEST_TREES, exact=True
)
# A network on pictures costs as much as many on trees. What is learned has no known ceiling.
NETWORKS = Members(
    "networks",
    "features",
    "accuracy",
    "of a linear probe's accuracy on all labels, to 1",
    6,
    exact=False,
)


@dataclass(frozen=True)
class Deferred:
    """A function that is imported when it is first called.

    Attributes:
        function: `module:name`.
        options: keyword arguments of every call.

    Example:
        >>> Deferred("builtins:sorted", {"reverse": True})([1, 3, 2])
        [3, 2, 1]
    """

    function: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *arguments: Any) -> Any:
        return self.resolve()(*arguments, **self.options)

    def resolve(self) -> Any:
        """The function itself."""
        module, _, name = self.function.partition(":")
        return getattr(import_module(module), name)


def claim_title(experiment: str, name: str) -> str:
    """An experiment and its claim of this name, as they are written together.

    Example:
        >>> claim_title("top_down", "growth"), claim_title("losses", "")
        ('top-down: growth', 'losses')
    """
    flag = experiment.replace("_", "-")
    return f"{flag}: {name}" if name else flag


@dataclass(frozen=True)
class Rule:
    """How a claim is judged.

    Attributes:
        text: the rule in words.
        judge: applies it: the table of a run -> `dualnets.lab.stats.Judgement`.
    """

    text: str
    judge: Deferred

    def __call__(self, table: pd.DataFrame) -> Judgement:
        """Judge the table of a run."""
        found: Judgement = self.judge(table)
        return found


# Gap closed at the last step of a table, by variant: what must be flat before an end of training is judged
UPPER_LEVELS = Deferred("dualnets.lab.plateau:upper_levels")
ROOT = Deferred("dualnets.lab.plateau:root")


@dataclass(frozen=True)
class Claim:
    """One claim and how it is judged.

    Attributes:
        text: a sentence that can hold or fail.
        reference: where the paper makes the claim, or that it is ours.
        rule: applied to the table of a run; fixed before it, for the settings of its scales.
        name: short, e.g. `growth`; empty where the experiment has one claim only.
        plateau: what must be flat at the end of training before the claim is said to hold or fail:
            takes a table and returns part -> `dualnets.lab.stats.Estimate` at the table's last step. None
            where the claim is about no end of training.
        about: the variants that the claim is about: its rule and its curves see no others, nor do trees count
            as lost that others lost. All where it is empty.
        negligible: a change in the units of `plateau`; no curve that changes by more over the last doubling
            of updates is flat, and one that changes by half of it always is.
        members: what the members are; with fewer than `members.fewest` there is no verdict, nor without
            those that were lost.
        partner: the `claim_title` of the same claim on other data, such as `byol-ablation: predictor`;
            empty where there is none.
    """

    text: str
    reference: str
    rule: Rule
    name: str = ""
    plateau: Deferred | None = UPPER_LEVELS
    about: tuple[str, ...] = ()
    negligible: float = NEGLIGIBLE
    # not in the repr, which names a run: the rule says what the members are, and a partner changes no verdict
    members: Members = field(default=TREES, repr=False)
    partner: str = field(default="", repr=False)


def all_emerge(
    each: str,
    plural: str,
    *,
    latents: str = "latents",
    score: str = "|correlation|",
    samples_of: str = "trees",
    members: Members = TREES,
    judge: str = "dualnets.lab.variants:all_emerge",
    **options: Any,
) -> Rule:
    """The rule that latents emerge with every variant.

    Args:
        each, plural: what a variant is, in the singular and in the plural, e.g. `loss`, `losses`.
        latents: what the latents of this data are called.
        score: what a unit is scored by.
        samples_of: what the members of an ensemble of trees are.
        members: `TREES`, or else what they are, with words of their own in place of the three above.
        judge: the function that applies the rule, for experiments that add to it.
        **options: more keyword arguments of that function.

    Example:
        >>> print(all_emerge("loss", "losses").text[:58])
        For each loss, latents emerge if over trees more than 0.1
    """
    between = (
        f"the untrained networks' mean best {score} of the {latents} of levels >= 2 and its ceiling"
    )
    if members is not TREES:
        latents, samples_of, options = members.found, members.of, {"members": members, **options}
        between = f"the untrained networks' {members.score} and 1 ({members.gap})"
    text = (
        f"For each {each}, {latents} emerge if over {samples_of} more than {NEGLIGIBLE} of the gap is closed "
        f"between {between}, "
        f"and do not if less is, with the whole 95% interval (of all {plural} at once, Bonferroni). "
        f"Holds if they emerge with all {plural}, fails if with each they do not; open otherwise, with fewer "
        f"than {members.fewest} {samples_of}, or where a quarter of them diverge."
    )
    return Rule(text, Deferred(judge, {"plural": plural, **options}))
