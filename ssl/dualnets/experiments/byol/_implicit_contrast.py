"""The experiment on BatchNorm's implicit contrast: directions along training, and the rule applied."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dualnets.experiments.byol._verdicts import CollapseStatus, collapse_status
from dualnets.experiments.byol.implicit_contrast import EARLY
from dualnets.lab import ablation_cell
from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Array, Judgement, Outcome, exceeds, mean_interval, too_few
from dualnets.lab.tidy import tidy
from dualnets.lab.variants import by_variant
from dualnets.methods.byol import BYOL
from dualnets.methods.protocol import Batch, State, outputs
from dualnets.networks.normalizations import BatchNorm
from dualnets.training.trajectory import Snapshot
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import Stream
from hltm.tree import LatentTree

if TYPE_CHECKING:
    from dualnets.networks.heads import Head

SAMPLES = 1024  # behind a direction; batch statistics are theirs
SIZE, ALONG, REST, WHOLE = "term_size", "term_along", "rest_along", "update_along"
SPREADING, REST_SPREADING = "term_spreading", "rest_spreading"


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
    """Sizes and projections of one snapshot, over the update's length.

    Columns are member, step, level, node, metric, candidates, value, n.
    """
    draw = trees.draw(SAMPLES, seed=seed, stream=Stream.EVALUATION)
    views = trees.views(draw, augment)
    device = next(snapshot.network.parameters()).device
    leaves = torch.cat([view.leaves for view in views], dim=1).to(device)
    found = directions(snapshot.network, method, snapshot.state, Batch(leaves, SAMPLES))
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
    index = {"member": trees.members, "step": snapshot.step, "level": trees.topology.depth,
             "node": "network"}  # fmt: skip
    parts = [
        tidy(index | {"metric": name, "candidates": "all"}, {"value": value.cpu(), "n": SAMPLES})
        for name, value in values.items()
    ]
    return pd.concat(parts, ignore_index=True)


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble, and measure the directions of every snapshot with alignment and collapse."""
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


def early(rows: pd.DataFrame, metric: str) -> Array:
    """`(S,)` mean over the first snapshots of one variant; values that are not finite count as 0."""
    first = rows["step"] <= EARLY * rows["step"].max()
    found = rows.loc[first & (rows["metric"] == metric), ["member", "value"]]
    values = found["value"].where(np.isfinite(found["value"]), 0.0)
    return values.groupby(found["member"]).mean().to_numpy(np.float64)


def scores(works: Array, others: Array) -> Array:
    """`(S,)` shares of pairs in which a variant that works is ahead; `(S, A)` and `(S, B)`, ties half.

    Example:
        >>> scores(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]]))
        array([0.625])
    """
    ahead = works[:, :, None] - others[:, None, :]
    found: Array = (0.5 * (1 + np.sign(ahead))).mean((1, 2))
    return found


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the mean score."""
    found, variants = collapse_status(table), by_variant(table)
    details = [_detail(name, found[name], rows) for name, rows in variants.items()]
    term = {name: early(rows, ALONG) for name, rows in variants.items()}
    works = [name for name, status in found.items() if status.word == "works"]
    others = [name for name in found if name not in works]
    effect = "share of pairs of variants ordered rightly by the term"
    few = too_few(min(len(status.gain) for status in found.values()))
    if few or not works or not others:
        reason = few or f"{len(works)} of {len(found)} variants work"
        return Judgement("open", reason, effect, NOTHING, details)
    score = scores(*(np.stack([term[name] for name in part], 1) for part in (works, others)))
    along = [exceeds(term[name], 0.0, len(works)) < SIGNIFICANCE for name in works]
    against = [name for name in works if exceeds(-term[name], 0.0, len(works)) < SIGNIFICANCE]
    outcome: Outcome = "open"
    reason = "neither is shown"
    if against:
        outcome = "fails"
        reason = f"the term points against the operator's update with {', '.join(against)}"
    elif exceeds(0.5 - score, 0.0) < SIGNIFICANCE:
        outcome, reason = "fails", "the term does not order the variants"
    elif exceeds(score, 0.5) < SIGNIFICANCE and all(along):
        outcome = "holds"
        reason = f"the term distinguishes {len(works)} variants that work from {len(others)}"
    return Judgement(outcome, reason, effect, mean_interval(score), details)


def _detail(name: str, status: CollapseStatus, rows: pd.DataFrame) -> dict[str, Any]:
    """Early directions, each with its interval, and the end."""
    measured = (SIZE, ALONG, REST, WHOLE, SPREADING, REST_SPREADING)
    return {
        "variant": name,
        "status": status.word,
        **{f"{metric}_early": str(mean_interval(early(rows, metric))) for metric in measured},
        "spread": float(status.found.spread.mean()),
        "gap_closed": status.found.gap.value,
        "n": len(status.gain),
    }


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the term early, the update early, and what became of it."""
    found = collapse_status(table)
    rows_of = by_variant(table)
    return pd.DataFrame(
        [
            {
                "variant": name,
                "term's size": early(rows_of[name], SIZE).mean(),
                "term along": early(rows_of[name], ALONG).mean(),
                "rest along": early(rows_of[name], REST).mean(),
                "spreading": early(rows_of[name], SPREADING).mean(),
                "gap": status.found.gap.value,
                "spread": status.found.spread.mean(),
                "status": status.word,
                "n": len(status.gain),
            }
            for name, status in found.items()
        ]
    )
