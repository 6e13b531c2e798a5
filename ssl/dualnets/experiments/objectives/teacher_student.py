"""Do the units of a student specialise to those of its teacher?

The teacher is a random network on a tree, every unit scaled and shifted so that over the data it has mean 0
and variance 1 before its ReLU; the student, as wide or wider, is trained to reproduce its outputs
(docs/theory.md, Section 7). Leaves are read as noisy embeddings, a random vector per state plus Gaussian
noise, since on bits two units with different boundaries can be the same function. A unit of the teacher is
found where a student's unit of the same block correlates with it, both after the ReLU.

The theorem is about the lowest layer, and about wider students where the gradient is small, so
specialisation is judged there, on trees whose student reproduces its teacher: less than 1% of the variance of
the teacher's outputs is left, when an equal part of each of the lowest layer's 24 units would be 4%. How many
trees these are is shown. The second claim compares widths by their time to find half of these units, on all
trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dualnets.lab.ablation import AblationSettings, ablation
from dualnets.lab.experiment import Fixed
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import setting

if TYPE_CHECKING:
    import torch

    from dualnets.experiments.objectives._noisy_leaves import NumberNetwork
    from dualnets.networks.block_network import BlockNetwork
    from hltm.model.topology import Topology
    from hltm.tree import LatentTree

CODE = "dualnets.experiments.objectives._teacher_student"
NARROW, MIDDLE, WIDE = "student x1", "student x2", "student x4"
TEACHER_UNITS = 3
WIDER = (MIDDLE, WIDE)
ALIKE = 0.95  # a correlation: what is above it is found
REPRODUCED = 0.01  # of the variance of the teacher's outputs
EACH, MOST = 0.9, 0.5  # of the units of the lowest layer
SPECIALISES = Rule(
    f"A unit of the teacher is found if a student's unit correlates above {ALIKE} with it. A tree counts for "
    f"a student that leaves less than {REPRODUCED:.0%} of the variance of its teacher's outputs unexplained; "
    "its number is the share of the teacher's units of the lowest layer that are found, mean over the "
    f"students wider than their teachers ({', '.join(WIDER)}) for which it counts. Holds if the whole 95% "
    f"interval over trees is above {EACH}; fails if it is below {MOST}; open otherwise, or with fewer than "
    f"{FEWEST_TREES} such trees.",
    Deferred(f"{CODE}:judge_specialisation"),
)
FASTER = Rule(
    "A tree's time is the number of updates until half of the teacher's units of the lowest layer are found, "
    f"later than all others where they never are. Holds if times are later with {NARROW} than with {WIDE} "
    f"(exact signed-rank test of paired times, one-sided, p < {SIGNIFICANCE}); fails if they are earlier "
    f"(the same test); open otherwise, or with fewer than {FEWEST_TREES} trees.",
    Deferred(f"{CODE}:judge_width", {"narrow": NARROW, "wide": WIDE}),
)


@dataclass(frozen=True, kw_only=True)
class Settings(AblationSettings):
    """One student: trees with noisy leaves, a teacher and a student on each, a budget.

    Networks have depth + 1 layers: the lowest has a block for each leaf of the trees, which reads the numbers
    of its embedding.
    """

    dimension: int = setting(8, "numbers of a leaf's noisy embedding", low=1, high=1 << 10)
    noise: float = setting(1.0, "standard deviation of the noise on each number", above=0)

    def build_topology(self) -> Topology:
        """The trees' shape with the numbers as leaves."""
        from dualnets.experiments.objectives._noisy_leaves import with_numbers

        return with_numbers(super().build_topology(), self.dimension)

    def build_trees(self) -> LatentTree:
        """S trees whose leaves are the numbers of noisy embeddings."""
        from dualnets.experiments.objectives._noisy_leaves import noisy_embeddings

        return noisy_embeddings(
            super().build_trees(), dimension=self.dimension, noise=self.noise, seed=self.seed
        )

    def build_network(self, trees: LatentTree, seed: int, device: torch.device) -> NumberNetwork:
        """Untrained tree networks that read these numbers."""
        from dualnets.experiments.objectives._noisy_leaves import number_network

        return number_network(
            trees, units=self.units, seed=seed, bias=self.bias, normalize=self.normalize, device=device
        )  # fmt: skip

    def build_teacher(self) -> BlockNetwork:
        """Random networks whose units all vary."""
        from dualnets.experiments.objectives._teacher import standardised

        return standardised(
            super().build_teacher(), self.build_trees(), self.seed + self.teacher_seed
        )

    def compile_kernels(self) -> None:
        """Compile what drawing these trees needs."""
        self.build_trees().sample(1, seed=self.seed)


def _student(width: int) -> dict[str, Any]:
    return {"units": width * TEACHER_UNITS}


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "In the lowest layer, the units of a student that is wider than its teacher and reproduces it "
            "specialise to the teacher's",
            "arXiv 1909.13458v6, abstract and theorem on several layers; the pair of networks is that of "
            "arXiv 2010.00578, Section 2",
            SPECIALISES,
            "specialisation",
            Deferred(f"{CODE}:share_found"),
            WIDER,
        ),
        Claim(
            "A student four times as wide as its teacher has found half of its lowest units in fewer updates "
            "than one as wide",
            "arXiv 1909.13458, abstract of an earlier version: over-realisation helps to specialise in fewer "
            "iterations",
            FASTER,
            "width",
            None,
        ),
    ),
    summary="do a student's units specialise to its teacher's?",
    # Adam at 0.01 on seed 1000 (8 trees): 4000 updates leave .21, .011 and .005 of the variance with the
    # three widths; a cosine schedule leaves as much.
    variants={NARROW: _student(1), MIDDLE: _student(2), WIDE: _student(4)},
    common={
        "method": Fixed("teacher-student"), "normalize": Fixed(False), "network": Fixed("tree"), "depth": 3,
        "members": 30, "steps": 10_000, "batch": 64, "bias": True, "optimizer": "adam", "lr": 0.01,
        "snapshots": 12, "evaluation_samples": 2048, "teacher_units": Fixed(TEACHER_UNITS),
        "augment": Fixed("resample-leaves:0"),
    },
    scales={
        "smoke": {"depth": 2, "members": 12, "steps": 100, "snapshots": 5},
        "default": {},
        "paper": {"depth": 4, "batch": 128, "steps": 20_000, "snapshots": 16},
    },
    settings=Settings,
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.objectives._teacher_student_figure:draw"),
    code=CODE,
    result_version=2,
)  # fmt: skip
