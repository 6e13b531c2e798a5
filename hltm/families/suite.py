"""Benchmark sets: named trees that are the same everywhere, with their ceilings.

A suite needs no data files: its trees are made from seeds and its samples are drawn by address. Only
the ceilings of all latents are stored beside the code, because computing them takes a minute. A suite
never changes once published: a better choice of trees gets a new name.

After adding a suite to `RECIPES`, compute and store its ceilings with

    python -c "from hltm.families.suite import store; store('core-1')"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from hltm.families import FAMILIES
from hltm.inference.ceiling import Ceiling
from hltm.sampling.philox import DRAW_FORMAT
from hltm.tree import LatentTree

CEILING_SAMPLES = 1 << 17
DIGITS = 10  # decimals of a stored ceiling; those that are estimated from samples are good to 3
FINGERPRINT_SAMPLES = 256
FIELDS = Ceiling._fields


class TreeRecipe(NamedTuple):
    """How a tree of a suite is made: the name of a family and the arguments of its function."""

    description: str
    family: str
    arguments: dict[str, Any]


def recipe(description: str, family: str, **arguments: Any) -> TreeRecipe:
    """A recipe from the arguments of the family's function."""
    return TreeRecipe(description, family, arguments)


NOISY_COPY = [[0.7 if i == j else 0.1 for j in range(4)] for i in range(4)]
# fmt: off
RECIPES: dict[str, dict[str, TreeRecipe]] = {
    "core-1": {
        "binary-2": recipe(
            "shallow binary, strong edges: small enough to check by hand",
            "symmetric_binary", depth=2, polarity=(0.7, 1.0), seed=1),
        "binary-4": recipe(
            "binary, strong edges: every ceiling is exact",
            "symmetric_binary", depth=4, polarity=(0.7, 1.0), seed=1),
        "binary-5": recipe(
            "the tree of arXiv 2010.00578: binary, depth 5, polarities from 0.7 to 1",
            "symmetric_binary", depth=5, polarity=(0.7, 1.0), seed=1),
        "binary-5-weak": recipe(
            "the same shape with polarities from 0.3 to 0.7: the root is barely visible",
            "symmetric_binary", depth=5, polarity=(0.3, 0.7), seed=1),
        "binary-7-deep": recipe(
            "deep binary, all polarities ±0.8, above the reconstruction threshold 2 ρ² = 1",
            "symmetric_binary", depth=7, polarity=0.8, seed=1),
        "binary-3-wide": recipe(
            "binary states, four children per latent",
            "symmetric_binary", depth=3, branching=4, polarity=(0.5, 0.9), seed=1),
        "skewed-4": recipe(
            "binary states without symmetry: Dirichlet tables and priors",
            "balanced", depth=4, cardinality=2, concentration=0.5, seed=1),
        "potts-4": recipe(
            "four states, each edge a noisy copy: the Potts model on a tree",
            "balanced", depth=4, transition=NOISY_COPY),
        "caterpillar-12": recipe(
            "a spine of twelve three-state latents: a leaf at every distance from the root",
            "caterpillar", depth=12, cardinality=3, concentration=0.3, seed=1),
        "irregular-binary": recipe(
            "an irregular tree of 48 binary nodes, Dirichlet tables",
            "random_tree", nodes=48, max_branching=3, concentration=0.5, seed=1),
        "irregular-k": recipe(
            "an irregular tree of 48 nodes with 2 to 6 states, Dirichlet tables near rules",
            "random_tree", nodes=48, max_branching=4, cardinality=(2, 6), concentration=0.3, seed=1),
        "rhm-8": recipe(
            "a Random Hierarchy Model: 8 classes and symbols, 4 rules each, pairs, 3 levels",
            "random_hierarchy", v=8, m=4, s=2, L=3, classes=8, seed=1),
    },
}
# fmt: on


@dataclass(frozen=True)
class SuiteTree:
    """A tree of a suite and its ceilings.

    Attributes:
        name: its name in the suite.
        description: one line.
        recipe: the family and the arguments from which it is made.
        ceilings: by `own` and `all` leaves, the `Ceiling` of every latent: float64 value and standard
            error, in the order of `tree.latents`.
        fingerprint: the result of `fingerprint(tree)` on the machine that stored the suite.
    """

    name: str
    description: str
    recipe: TreeRecipe
    ceilings: Mapping[str, Ceiling]
    fingerprint: str

    @cached_property
    def tree(self) -> LatentTree:
        """The tree itself, made when it is first used."""
        return make(self.recipe)


def suite(name: str = "core-1") -> dict[str, SuiteTree]:
    """The trees of a benchmark set by name: binary, many-state, irregular and rule-based ones.

    Raises:
        KeyError: an unknown suite.
        RuntimeError: the suite was stored under another DRAW_FORMAT.

    Example:
        >>> core = suite("core-1")
        >>> len(core), core["binary-5"].tree
        (12, LatentTree(63 nodes, 32 leaves, depth 5, 2 states))
        >>> core["binary-5"].tree.sample(100, seed=0).leaves.shape
        torch.Size([100, 32])
        >>> core["rhm-8"].ceilings["own"].value.min()  # the rules are unambiguous
        tensor(1., dtype=torch.float64)
    """
    if name not in RECIPES:
        raise KeyError(f"unknown suite {name!r}, expected one of {', '.join(RECIPES)}")
    stored = json.loads((resources.files("hltm.families") / "suites" / f"{name}.json").read_text())
    held = stored["draw_format"]
    if held != DRAW_FORMAT:
        raise RuntimeError(f"suite {name!r} has draw format {held}, expected {DRAW_FORMAT}")
    found = {}
    for tree, made_by in RECIPES[name].items():
        known = stored["trees"][tree]
        ceilings = {
            leaves: Ceiling(*torch.tensor([known[leaves][f] for f in FIELDS], dtype=torch.float64))
            for leaves in ("own", "all")
        }
        found[tree] = SuiteTree(tree, made_by.description, made_by, ceilings, known["fingerprint"])
    return found


def make(recipe: TreeRecipe) -> LatentTree:
    """The tree of a recipe."""
    return FAMILIES[recipe.family](**recipe.arguments)


def fingerprint(tree: LatentTree) -> str:
    """A short hash of all states in samples 0..255 of seed 0, which are equal for equal trees."""
    states = tree.sample(FINGERPRINT_SAMPLES, seed=0).states.to(torch.int64).contiguous()
    return hashlib.sha256(states.numpy().tobytes()).hexdigest()[:16]


def compute_ceilings(tree: LatentTree, leaves: Literal["own", "all"]) -> Ceiling:
    """The ceilings of all latents, computed as `store` computes them."""
    return tree.ceiling(list(tree.latents), leaves=leaves, seed=0, samples=CEILING_SAMPLES)


def store(name: str, folder: Path | None = None) -> Path:
    """Compute the ceilings and fingerprints of a suite and write them beside the code.

    Args:
        name: of the suite in `RECIPES`.
        folder: where to write; the default is the folder `suites` beside this file.
    """
    trees: dict[str, Any] = {}
    for tree_name, made_by in RECIPES[name].items():
        tree = make(made_by)
        trees[tree_name] = {"fingerprint": fingerprint(tree)}
        for leaves in ("own", "all"):
            found = compute_ceilings(tree, leaves)
            trees[tree_name][leaves] = {
                field: [round(x, DIGITS) for x in values.tolist()]
                for field, values in found._asdict().items()
            }
    target = (folder or Path(__file__).parent / "suites") / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    known = {"suite": name, "draw_format": DRAW_FORMAT, "trees": trees}
    target.write_text(json.dumps(known, indent=1) + "\n")
    return target
