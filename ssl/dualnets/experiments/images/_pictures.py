"""What the experiments on pictures share: settings, scales and figure, and claims taken over from trees.

Settings: a ConvNet of three strided layers (16, 32 and 64 channels) whose features, the mean over places of
the last one, are not normalised; projector 64-128-64 and predictor 64-128-64; otherwise as on trees
(`byol/_byol.py`): each head Linear, BatchNorm without gain and shift, ReLU, Linear, cosine losses of both
directions summed, moving average 0.99, SGD with momentum 0.9 and weight decay 4e-4, batch 128. The default
scale trains on scikit-learn's digits, `fashion` on Fashion-MNIST in batches of 64, and `paper` a ResNet-18
with BatchNorm inside on CIFAR-10 with BYOL's views.

Rates, widths and updates were chosen on pilots (seed 1000, 4 networks; on digits BYOL with all parts closes
.38, .58, .70 and .73 of the gap after 100, 640, 800 and 1,600 updates), and updates doubled after a run of
1,600 in which two curves were not flat. Fashion-MNIST has what ten minutes of two cores allow: some of its
curves still move at the end, and the plateau rule then leaves a claim open.

The accuracies of the paper's tables are not at hand and its networks are larger, so signs and orders of
effects are compared, never numbers. The ceiling of accuracy is not known either: gaps are closed to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dualnets.experiments.byol._byol import COMMON as ON_TREES
from dualnets.experiments.byol._byol import SUMMARY_TABLE as STATUS_TABLE
from dualnets.experiments.byol._byol import as_good, needed
from dualnets.lab.ablation import Ablation, Variants, ablation
from dualnets.lab.experiment import Fixed
from dualnets.lab.image_settings import ImageSettings
from dualnets.lab.rules import NETWORKS, Claim, Deferred, Rule, claim_title

CODE = "dualnets.lab.image_cell"
FIGURE = Deferred("dualnets.lab.report.image_figure:draw")
NUMBERS = Deferred(f"{CODE}:summary_table")
SUMMARY_TABLE = replace(STATUS_TABLE, options={"numbers": NUMBERS})

# what is said of trees holds of pictures, too
_SHARED = ("bias", "normalize", "ema_decay", "momentum", "weight_decay", "batch")
COMMON: dict[str, Any] = {
    **{name: ON_TREES[name] for name in _SHARED},
    "projector": "128-64",
    "predictor": "128-64",
    "widths": "16-32-64",
    "lr": 0.1,
    "steps": 3200,
    "snapshots": 11,
    "members": 8,
}
SMOKE: dict[str, Any] = {"members": 6, "steps": 4, "batch": 32, "snapshots": 2, "samples": 200,
                         "probe_samples": 200, "evaluation_samples": 100, "widths": "8-8",
                         "projector": "16-8", "predictor": "16-8"}  # fmt: skip
LONG: dict[str, Any] = {"steps": 6400}
FASHION: dict[str, Any] = {"data": "fashion-mnist", "members": 8, "batch": 64, "steps": 600, "snapshots": 6,
                           "probe_samples": 3000,
                           "evaluation_samples": 3000}  # fmt: skip
# 100 epochs; projector and predictor of the usual reimplementations of BYOL for ResNet-18
PAPER: dict[str, Any] = {"data": "cifar10", "members": 8, "network": "resnet18", "widths": "usual",
                         "network_norm": "batch",
                         "network_norm_affine": True, "bias": False, "augment": "byol",
                         "projector": "512-128", "predictor": "512-128", "steps": 39_000,
                         "snapshots": 12}  # fmt: skip


def on_pictures(experiment: Ablation, *names: str) -> tuple[Claim, ...]:
    """Claims of an experiment on trees, those of these names or all, about networks on pictures.

    Variants, rules and references stay as they are.
    """
    return tuple(
        replace(
            claim,
            text=sentence(claim.text),
            rule=_rule(claim.rule),
            members=NETWORKS,
            partner=claim_title(experiment.name, claim.name),
        )
        for claim in experiment.claims
        if not names or claim.name in names
    )


def sentence(text: str) -> str:
    """A claim about BYOL as one about pictures.

    Example:
        >>> sentence("BYOL needs it"), sentence("With it BYOL works")
        ('On pictures, BYOL needs it', 'On pictures, with it BYOL works')
    """
    name = text.startswith(("BYOL", "BatchNorm"))
    return f"On pictures, {text if name else text[0].lower() + text[1:]}"


def _rule(rule: Rule) -> Rule:
    """The same rule about networks on pictures."""
    makers: dict[str, Any] = {"needed": needed, "as_good": as_good}
    made: Rule = makers[rule.judge.function.rpartition(":")[2]](
        **rule.judge.options, members=NETWORKS
    )
    return made


def pictures_ablation(
    module: str,
    *,
    claims: tuple[Claim, ...],
    summary: str,
    variants: Variants,
    method: str = "byol",
    common: Mapping[str, Any] | None = None,
    default: Mapping[str, Any] | None = None,
    long: Mapping[str, Any] | None = None,
    fashion: Mapping[str, Any] | None = None,
    paper: Mapping[str, Any] | None = None,
    **more: Any,
) -> Ablation:
    """Declare an ablation on pictures; see `dualnets.lab.ablation.ablation`.

    Args:
        module, claims, summary, variants: as there.
        method: of all variants.
        common: what differs at every scale.
        default, long, fashion, paper: what differs from these scales.
        **more: arguments of `ablation`.
    """
    always = common or {}
    scales = {
        "smoke": {**SMOKE, **always},
        "default": {**always, **(default or {})},
        "long": {**LONG, **always, **(long or {})},
        "fashion": {**FASHION, **always, **(fashion or {})},
        "paper": {**PAPER, **always, **(paper or {})},
    }
    shared = {**COMMON, "method": Fixed(method)}
    usual = {"table": SUMMARY_TABLE, "figure": FIGURE, "code": CODE, "result_version": 1}
    return ablation(
        module, claims=claims, summary=summary, variants=variants, common=shared, scales=scales,
        settings=ImageSettings, **{**usual, **more},
    )  # fmt: skip
