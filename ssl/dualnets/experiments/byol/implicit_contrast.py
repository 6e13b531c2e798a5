"""Does BatchNorm's implicit contrastive term push BYOL where contrast would, and decide what survives?

Let the gradient through a subtracted batch mean be let through, or stopped: the forward pass is the
same, and the difference of the two updates of the network, -E[K] E[g], is the term (theory, Section
6). Contrast would move the network along the covariance operator's update Cov_x[Kbar, fbar], Kbar and
fbar averaged over views, uphill in the variance of its outputs between samples. All along training, for
every variant of BatchNorm in the heads: how large the term is in the update, how far it points along the
operator's, how far the rest does; and how far each makes the embedding's spread grow.

Found (12 trees, 500 updates): the term is some ten times as long as the update and cancels most of the
rest. That it points along the operator's update is not shown (0.31 [-0.04, 0.66] of the update's length
with BatchNorm as it is), nor that it tells what survives: without it the update points along the
operator's no less (0.29 [0.22, 0.35] with both parts stopped), while spread is lost within ten updates.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dualnets.experiments.byol._byol import COMMON, PAPER, SMOKE, WORKS
from dualnets.experiments.byol._verdicts import CollapseStatus, collapse_status
from dualnets.experiments.byol.byol_batchnorm import VARIANTS
from dualnets.lab import ablation_cell
from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import grids
from dualnets.lab.experiment import CellResult, Grid, ProgressListener
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Verdict, exceeds, mean_interval, verdict_of
from dualnets.lab.variants import by_variant
from dualnets.methods.byol import BYOL
from dualnets.methods.protocol import Batch, State, outputs
from dualnets.networks.normalizations import BatchNorm
from dualnets.training.trajectory import Snapshot
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import Stream
from hltm.tree import LatentTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dualnets.networks.heads import Head

__all__ = [
    "CLAIM",
    "GRIDS",
    "REFERENCE",
    "RESULT_VERSION",
    "RULE",
    "SUMMARY",
    "Settings",
    "plot",
    "run_cell",
    "summary_table",
    "verdict",
]  # fmt: skip

SUMMARY = "BatchNorm's implicit contrast tells what survives"
CLAIM = (
    "BatchNorm's implicit contrastive term points along the covariance operator's update, and how far it "
    "does early on tells which variants of BYOL survive"
)
REFERENCE = "arXiv 2010.00578, BYOL: BatchNorm's mean as an implicit contrastive term"
RESULT_VERSION = 1
ROWS = 1024  # samples behind a direction; batch statistics are theirs
EARLY = 0.05  # of all updates: before the variants' spreads part
SIZE, ALONG, REST, WHOLE = "term_size", "term_along", "rest_along", "update_along"
SPREADING, REST_SPREADING = "term_spreading", "rest_spreading"
_COMMON = {**COMMON, "depth": 4, "steps": 500}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids(SMOKE, VARIANTS),
    "default": grids(_COMMON, VARIANTS),
    "paper": grids(PAPER, VARIANTS),
}
RULE = (
    f"{WORKS} Early: the mean over snapshots in the first {EARLY:.0%} of the updates. A tree's score is "
    "the share of pairs (a variant that works, one that does not) in which the former's term points "
    "further along the operator's update, ties counting half. Holds if over trees the score is above 1/2 "
    "and, for every variant that works, the term early points along the operator's update (signed ranks, "
    f"one-sided, p < {SIGNIFICANCE}, the latter after Bonferroni over these variants); fails if one of "
    "them is below (the same tests, turned round); open otherwise, if all variants work or none, or with "
    f"fewer than {FEWEST_TREES} trees."
)


class Directions(NamedTuple):
    """Directions of the network's parameters, `(S, P)` each.

    Attributes:
        update: -∇ of the method's loss.
        term: the part of it that comes through the heads' batch means; 0 where no gradient does.
        operator: Cov_x[Kbar, fbar] of the network's outputs.
        spreading: the gradient of the embedding's spread.
    """

    update: Tensor
    term: Tensor
    operator: Tensor
    spreading: Tensor


def directions(network: Any, method: BYOL, state: State, batch: Batch) -> Directions:
    """The directions at one point of training, over the two views of one batch."""
    update = -_gradient(network, method.loss(network, state, batch)[0])
    stopped = replace(
        method, projector=_mean_stopped(method.projector), predictor=_mean_stopped(method.predictor)
    )
    without = update
    if stopped != method:
        without = -_gradient(network, stopped.loss(network, state, batch)[0])
    one, two = outputs(network, batch)
    # K of one view with f of the other: independent given the sample, so unbiased
    halves = [(a * (b - b.mean(1, keepdim=True)).detach()).sum(-1).mean(1) for a, b in
              ((one, two), (two, one))]  # fmt: skip
    compared = method.embedding(network, state, batch.leaves, batch_statistics=True)
    embedded = normalize(compared, dim=-1)
    spread = embedded.std(1, correction=0).mean(-1) * embedded.shape[-1] ** 0.5
    return Directions(
        update=update,
        term=update - without,
        operator=_gradient(network, halves[0] + halves[1]) / 2,
        spreading=_gradient(network, spread),
    )


def _mean_stopped(head: Any) -> Any:
    """A head whose BatchNorms let no gradient through their means."""

    def stopped(norm: Any) -> Any:
        through = isinstance(norm, BatchNorm) and norm.mean == "on"
        return replace(norm, mean="stop") if through else norm

    if not hasattr(head, "norm"):
        return head
    made: Head = replace(head, norm=stopped(head.norm), last_norm=stopped(head.last_norm))
    return made


def _gradient(network: Any, values: Tensor) -> Tensor:
    """`(S, P)` of `(S,)` values, with respect to all parameters of each member."""
    found = torch.autograd.grad(
        values.sum(), list(network.parameters()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten(1) for gradient in found], dim=1)


def direction_rows(
    snapshot: Snapshot, *, method: BYOL, trees: LatentTree, augment: Augmentation, seed: int
) -> pd.DataFrame:
    """Sizes and projections, over the update's length, of one snapshot.

    Columns are member, step, level, node, metric, candidates, value, n.
    """
    draw = trees.draw(ROWS, seed=seed, stream=Stream.EVALUATION)
    views = trees.views(draw, augment)
    device = next(snapshot.network.parameters()).device
    leaves = torch.cat([view.leaves for view in views], dim=1).to(device)
    found = directions(snapshot.network, method, snapshot.state, Batch(leaves, ROWS))
    update, term, operator, spreading = (part.double() for part in found)
    length = update.norm(dim=1)
    unit, outward = normalize(operator, dim=1), normalize(spreading, dim=1)
    values = {
        SIZE: term.norm(dim=1) / length,
        ALONG: (term * unit).sum(1) / length,
        REST: ((update - term) * unit).sum(1) / length,
        WHOLE: (update * unit).sum(1) / length,
        SPREADING: (term * outward).sum(1) / length,
        REST_SPREADING: ((update - term) * outward).sum(1) / length,
    }
    place = {
        "member": np.array(trees.members),
        "step": snapshot.step,
        "level": trees.topology.depth,
    }
    return pd.concat(
        [
            pd.DataFrame(
                place
                | {"node": "network", "metric": name, "candidates": "all",
                   "value": value.cpu().numpy(), "n": ROWS}
            )
            for name, value in values.items()
        ],
        ignore_index=True,
    )  # fmt: skip


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble, with the directions of every snapshot beside alignment and collapse."""
    method = settings.build_method()
    if not isinstance(method, BYOL):
        raise ValueError(f"implicit contrast is about method byol, got {settings.method!r}")
    also = functools.partial(
        direction_rows,
        method=method,
        trees=settings.build_trees(),
        augment=settings.build_augmentation(),
        seed=settings.seed,
    )
    return ablation_cell.run_cell(settings, device, progress, also=also)


def early(rows: pd.DataFrame, metric: str) -> np.ndarray:
    """`(S,)` mean over the first snapshots of one variant; what is not finite counts as 0."""
    first = rows["step"] <= EARLY * rows["step"].max()
    found = rows[first & (rows["metric"] == metric)]
    values = found.assign(value=found["value"].where(np.isfinite(found["value"]), 0.0))
    return values.groupby("member")["value"].mean().to_numpy(np.float64)


def scores(works: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`(S,)` shares of pairs in which what works is ahead; `(S, A)` and `(S, B)`, ties half.

    Example:
        >>> scores(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]]))
        array([0.625])
    """
    ahead = works[:, :, None] - others[:, None, :]
    found: np.ndarray = (0.5 * (1 + np.sign(ahead))).mean((1, 2))
    return found


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the mean score."""
    found, variants = collapse_status(table), by_variant(table)
    term = {name: early(rows, ALONG) for name, rows in variants.items()}
    details = [_detail(name, found[name], rows) for name, rows in variants.items()]
    works = [name for name, fate in found.items() if fate.word == "works"]
    others = [name for name in found if name not in works]
    fewest = min(len(fate.gain) for fate in found.values())
    effect = "share of pairs of variants ordered rightly by the term"
    if fewest < FEWEST_TREES or not works or not others:
        reason = (
            f"{fewest} trees are fewer than {FEWEST_TREES}"
            if fewest < FEWEST_TREES
            else f"{len(works)} of {len(found)} variants work"
        )
        return verdict_of(CLAIM, "open", RULE, reason, effect, NOTHING, details)
    score = scores(*(np.stack([term[name] for name in part], 1) for part in (works, others)))
    half, zero = np.full_like(score, 0.5), np.zeros_like(score)
    along = {name: min(exceeds(term[name], zero) * len(works), 1.0) for name in works}
    against = [name for name in works if exceeds(zero, term[name]) * len(works) < SIGNIFICANCE]
    if exceeds(half, score) < SIGNIFICANCE or against:
        outcome, reason = "fails", "the term does not order the variants"
        if against:
            reason = f"the term points against the operator's update with {', '.join(against)}"
    elif exceeds(score, half) < SIGNIFICANCE and max(along.values()) < SIGNIFICANCE:
        outcome, reason = (
            "holds",
            f"the term tells {len(works)} variants that work from {len(others)}",
        )
    else:
        outcome, reason = "open", "neither is shown"
    return verdict_of(CLAIM, outcome, RULE, reason, effect, mean_interval(score), details)


def _detail(name: str, fate: CollapseStatus, rows: pd.DataFrame) -> dict[str, Any]:
    """Early directions, each with its interval, and the end."""
    measured = (SIZE, ALONG, REST, WHOLE, SPREADING, REST_SPREADING)
    return {
        "variant": name,
        "fate": fate.word,
        **{f"{metric}_early": str(mean_interval(early(rows, metric))) for metric in measured},
        "spread": float(fate.found.spread.mean()),
        "gap_closed": fate.found.gap.value,
        "n": len(fate.gain),
    }


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the term early, the update early, and what became of it."""
    found = []
    for (name, rows), fate in zip(
        by_variant(table).items(), collapse_status(table).values(), strict=True
    ):
        found.append(
            {
                "variant": name,
                "term's size": early(rows, SIZE).mean(),
                "term along": early(rows, ALONG).mean(),
                "rest along": early(rows, REST).mean(),
                "spreading": early(rows, SPREADING).mean(),
                "gap": fate.found.gap.value,
                "spread": fate.found.spread.mean(),
                "fate": fate.word,
                "n": len(fate.gain),
            }
        )
    return pd.DataFrame(found)


def plot(table: pd.DataFrame) -> Figure:
    """The term along two directions and the spread over training; the term early against the end."""
    from dualnets.experiments.byol._implicit_contrast_figure import draw

    return draw(table)
