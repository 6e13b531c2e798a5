"""Do the units of a student specialise to those of its teacher, and do latents emerge in it?

The teacher is a random network on the same tree, every unit scaled and shifted so that over the data it
has mean 0 and variance 1 before its ReLU; the student, as wide or wider, is trained to reproduce its
outputs (docs/theory.md, Section 7). The measure of how well a teacher's unit was found is the best
correlation with it of a student's unit of the same latent, both after the ReLU (1: found), compared with
that for the teacher on other samples and with that of the student before training. A student as wide as
the widest that learns by contrast shows which latents emerge without a teacher.

Found (12 trees of seed 0): by the rule students as wide as their teachers and twice as wide specialise;
of those four times as wide eleven come closer to their teachers and one ends far from its own (units
found .83 on average, from .66), which by the test is not specialising (p = .03). Latents emerge in none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dualnets.lab.ablation import AblationSettings, ablation
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE, Claim, Deferred, Rule

if TYPE_CHECKING:
    from dualnets.networks.block_network import BlockNetwork

CODE = "dualnets.experiments.objectives._teacher_student"
NARROW, WIDE, CONTRAST = "student x1", "student x4", "contrast, x4"
_TAUGHT: dict[str, Any] = {"method": "teacher-student", "normalize": False}
RULE = (
    "A tree's specialisation is the mean, over the teacher's hidden units, of the best correlation with "
    "a student's unit. A student specialises if over trees it is larger after training than before "
    f"(Wilcoxon's exact signed-rank test, one-sided, p < {SIGNIFICANCE} after Bonferroni over "
    "widths); a wider one more so if the share of the room to 1 that training closed is larger with x4 "
    "than with x1 (the same test, paired, both ways). Holds if students of every width specialise, and "
    "the widest more so; fails if the widest does so less, or if none specialises and the share of the "
    f"room that each closed is below {NEGLIGIBLE} with its whole 95% interval (all widths' at once, "
    f"Bonferroni); open otherwise, or with fewer than {FEWEST_TREES} trees."
)


@dataclass(frozen=True, kw_only=True)
class Settings(AblationSettings):
    """One student: trees, a teacher and a student on each, a budget."""

    def build_teacher(self) -> BlockNetwork:
        """A random network whose units all vary."""
        from dualnets.experiments.objectives._teacher import standardised

        seed = self.seed + self.teacher_seed
        return standardised(super().build_teacher(), self.build_trees(), seed)


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "A student's hidden units specialise to its teacher's, the more the wider it is",
            (
                "arXiv 2010.00578, Section 2: the pair with a fixed second network; the claim is that of "
                "arXiv 1909.13458"
            ),
            Rule(RULE, Deferred(f"{CODE}:judge")),
        ),
    ),
    summary="do students specialise, and do latents emerge in them?",
    # Rates are the best of 0.01, 0.03, 0.1, 0.3 by specialisation (contrast: by gap closed on levels >= 2),
    # with `hltm run teacher-student --seed 1000 --members 8 --steps 400 --lr 0.01 0.03 0.1 0.3`:
    # x1 .386 .393 .358 .218 · x2 .593 .645 .665, not finite · x4 .760 .831 .834, not finite · contrast
    # .61 .69 .77 .80
    variants={
        NARROW: {**_TAUGHT, "units": 3, "lr": 0.03},
        "student x2": {**_TAUGHT, "units": 6, "lr": 0.1},
        WIDE: {**_TAUGHT, "units": 12, "lr": 0.1},
        CONTRAST: {
            "method": "simclr",
            "loss": "ntxent",
            "units": 12,
            "augment": "keep-root",
            "lr": 0.3,
        },
    },
    common={
        "depth": 4,
        "members": 12,
        "steps": 800,
        "batch": 64,
        "bias": True,
        "momentum": 0.9,
        "snapshots": 7,
        "evaluation_samples": 4096,
        "teacher_units": 3,
        "augment": "resample-leaves:0",
    },
    scales={
        "smoke": {"depth": 3, "steps": 150, "snapshots": 5, "evaluation_samples": 2048},
        "default": {},
        "paper": {"depth": 5, "batch": 128, "members": 30, "steps": 20_000, "snapshots": 16},
    },
    settings=Settings,
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.objectives._teacher_student_figure:draw"),
    code=CODE,
)
