"""All methods side by side: which latents emerge, how fast, and what collapses?

The same networks, trees, batch, number of updates and optimiser; every method has the heads it is
known with and the learning rate that did best for it in a short training, among those that a longer one
does not undo. PIRL remembers every sample, so it has a fixed set of them, and SimCLR has the same set for
comparison. A supervised network that learns the root's state is run for comparison, and so are two methods
without the projector of their papers.
"""

from __future__ import annotations

from typing import Any

from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import Claim, Deferred, all_emerge

CODE = "dualnets.experiments.objectives._methods"
LABEL, BARE = "label of the root", ("swav, no projector", "pirl, no projector")  # for comparison
SIZES = (1024, 16384)  # of the fixed sets, at paper scale the second
NAN = float("nan")
COMMON: dict[str, Any] = {  # momentum, decay and biases as in the BYOL experiments, for all
    "depth": 4, "members": 16, "steps": 4000, "batch": 64, "units": 10, "bias": True, "momentum": 0.9,
    "weight_decay": 4e-4, "snapshots": 10, "evaluation_samples": 4096,
}  # fmt: skip
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"depth": 3, "steps": 60, "snapshots": 5, "evaluation_samples": 2048},
    "default": {},
    "paper": {"depth": 5, "batch": 128, "members": 30, "steps": 10_000, "snapshots": 16},
}
SWEEP = Sweep(
    "hltm run methods --seed 1000 --members 8 --steps 200 --lr 0.0003 0.001 0.003 0.01 0.03 0.1 0.3 1 3",
    (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    {
        "simclr": (0.040, 0.118, 0.301, 0.556, 0.680, 0.753, 0.802, 0.802, 0.529),
        "moco": (0.150, 0.333, 0.499, 0.658, 0.722, 0.622, -0.733, -0.890, -1.566),
        # at 1 it closed .681 in these 200 updates, but falls from .81 to -.44 by 4000 (6 trees of seed 1000)
        "swav": (0.396, 0.510, 0.599, 0.631, 0.678, 0.668, 0.644, NAN, 0.307),
        "byol": (0.348, 0.512, 0.646, 0.729, 0.749, 0.746, 0.738, 0.704, 0.001),
        "simsiam": (0.093, 0.231, 0.399, 0.621, 0.696, 0.626, 0.642, 0.215, -0.257),
        "barlow twins": (0.724, 0.776, 0.789, 0.794, 0.745, 0.714, 0.584, 0.649, 0.693),
        "vicreg": (0.693, 0.775, 0.804, 0.804, 0.793, NAN, NAN, NAN, NAN),
        "pirl, 1024 samples": (0.400, 0.536, 0.626, 0.678, 0.707, 0.732, 0.733, 0.630, 0.633),
        "simclr, 1024 samples": (0.039, 0.117, 0.296, 0.553, 0.674, 0.754, 0.800, 0.799, 0.179),
        LABEL: (-0.016, 0.062, 0.425, 0.731, 0.790, 0.807, 0.810, 0.737, -0.260),
        BARE[0]: (0.087, 0.088, 0.083, 0.004, -0.182, -0.372, -0.375, -0.865, -1.932),
        BARE[1]: (0.154, 0.265, 0.120, 0.110, -0.071, -0.453, -0.605, -0.914, -2.612),
    },
)


def _variants(samples: int, negatives: int, queue: int) -> dict[str, dict[str, Any]]:
    """Every method; one with a memory has a memory that fits the budget."""
    head = {"projector": "32-16"}
    pirl = {"method": "pirl", "samples": samples, "bank_negatives": negatives}
    # a rate does not depend on the size of the fixed set, which differs between scales
    rate = {name: SWEEP.best(f"{name}, 1024 samples") for name in ("pirl", "simclr")}
    return {
        "simclr": {"method": "simclr", "loss": "ntxent"},
        "moco": {"method": "moco", "queue": queue, "key_ema_decay": 0.99},
        "swav": {"method": "swav", **head},
        "byol": {"method": "byol"},
        "simsiam": {"method": "simsiam"},
        "barlow twins": {"method": "barlow-twins"},
        "vicreg": {"method": "vicreg"},
        f"pirl, {samples} samples": {**pirl, **head, "lr": rate["pirl"]},
        f"simclr, {samples} samples": {
            "method": "simclr", "loss": "ntxent", "samples": samples, "lr": rate["simclr"],
        },
        LABEL: {"method": "supervised", "labels": "root"},
        BARE[0]: {"method": "swav"},
        BARE[1]: pirl,
    }  # fmt: skip


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "The latents of a tree emerge with SimCLR and with BYOL",
            "arXiv 2010.00578, Sections 3 and 5",
            all_emerge("method of the paper", "methods", judge=f"{CODE}:judge"),
            "of the paper",
            about=("simclr", "byol"),
        ),
        Claim(
            "The latents of a tree emerge with every other method of self-supervised learning",
            "ours: these methods are not in arXiv 2010.00578",
            all_emerge("other method with its own heads", "methods", judge=f"{CODE}:judge"),
            "others",
            about=(
                *("moco", "swav", "simsiam", "barlow twins", "vicreg"),
                *(f"pirl, {size} samples" for size in SIZES),
            ),
        ),
    ),
    summary="all methods side by side: what emerges, how fast",
    variants=_variants(SIZES[0], 256, 1024),
    variants_at={"smoke": _variants(SIZES[0], 64, 512), "paper": _variants(SIZES[1], 1024, 4096)},
    common=COMMON,
    scales=SCALES,
    sweep=SWEEP,
    table=Deferred(f"{CODE}:summary_table"),
)  # fmt: skip
