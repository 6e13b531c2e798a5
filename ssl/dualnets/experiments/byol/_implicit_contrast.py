"""The experiment on BatchNorm's implicit contrast: directions along training, and the rule applied."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dualnets.experiments.byol._verdicts import VariantEnd, variant_ends
from dualnets.experiments.byol.implicit_contrast import EARLY
from dualnets.lab import ablation_cell
from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Array, Judgement, Outcome, exceeds, mean_interval, too_few
from dualnets.lab.tidy import tidy
from dualnets.lab.variants import by_variant
from dualnets.methods.byol import BYOL
from dualnets.methods.protocol import Batch, State
from dualnets.networks.normalizations import BatchNorm
from dualnets.training.trajectory import Snapshot
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import Stream
from hltm.tree import LatentTree

if TYPE_CHECKING:
    from dualnets.networks.heads import Head

SAMPLES = 4096  # behind a direction; batch statistics are theirs
VANISHED = 1e-12  # a direction that is not longer has no direction: float64 would see rounding only
COSINE, AGAIN = "cosine", "cosine_again"  # of update and operator; with other samples
TERM, REST, SIZE = (
    "term_along",
    "rest_along",
    "term_size",
)  # the cosine's two summands; |term| / |update|
NO_DIRECTION = "vanished"


class Directions(NamedTuple):
    """Directions of the network's parameters, `(S, P)` each.

    Attributes:
        update: -∇ of the method's loss.
        term: the part of it that comes through the heads' batch means; 0 where no gradient does.
        operator: Cov_x[Kbar, fbar] of the unit projections f = z / |z|, which the loss compares.
    """

    update: Tensor
    term: Tensor
    operator: Tensor


def directions(
    network: Any, method: BYOL, state: State, batch: Batch, *, split: bool = True
) -> Directions:
    """The directions at one point of training, over the two views of one batch.

    Args:
        network, method, state: at that point.
        batch: of two views; batch statistics are theirs.
        split: whether the term is wanted, which takes a second gradient of the loss; else it is 0.
    """
    update = -_gradient(network, method.loss(network, state, batch)[0])
    stopped = replace(
        method, projector=_mean_stopped(method.projector), predictor=_mean_stopped(method.predictor)
    )
    without = update
    if split and stopped != method:
        without = -_gradient(network, stopped.loss(network, state, batch)[0])
    one, two = (
        normalize(method.embedding(network, state, leaves, batch_statistics=True), dim=-1)
        for leaves in batch.leaves.split(batch.size, dim=1)
    )
    # K of one view with f of the other: independent given the sample, so unbiased
    halves = [(a * (b - b.mean(1, keepdim=True)).detach()).sum(-1).mean(1) for a, b in
              ((one, two), (two, one))]  # fmt: skip
    operator = _gradient(network, halves[0] + halves[1]) / 2
    return Directions(update, update - without, operator)


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


def projections(found: Directions) -> dict[str, Tensor]:
    """Metric -> `(S,)`: the cosine of update and operator, its two summands, and the term's size.

    The summands are the projections of the term and of the rest of the update on the operator's direction,
    over the update's length. A member whose update or operator has no direction (not longer than VANISHED,
    or not finite) has 0 for all of them, and 1 for `vanished`.
    """
    update, term, operator = found
    lengths = update.norm(dim=1), operator.norm(dim=1)
    known = torch.stack([(own > VANISHED) & own.isfinite() for own in lengths]).all(0)
    length = torch.where(known, lengths[0], 1.0)
    unit = operator / torch.where(known, lengths[1], 1.0)[:, None]
    values = {
        COSINE: (update * unit).sum(1) / length,
        TERM: (term * unit).sum(1) / length,
        REST: ((update - term) * unit).sum(1) / length,
        SIZE: term.norm(dim=1) / length,
    }
    shown = {name: torch.where(known, value, 0.0) for name, value in values.items()}
    return shown | {NO_DIRECTION: (~known).double()}


def direction_rows(
    snapshot: Snapshot, *, method: BYOL, trees: LatentTree, augment: Augmentation, seed: int
) -> pd.DataFrame:
    """What `projections` finds at one snapshot, in float64; early the cosine with other samples, too.

    Columns are member, step, level, node, metric, candidates, value, n.
    """
    network = copy.deepcopy(snapshot.network).double()
    state = {n: t.double() if t.is_floating_point() else t for n, t in snapshot.state.items()}
    device = next(network.parameters()).device

    def measured(start: int, split: bool) -> dict[str, Tensor]:
        draw = trees.draw(SAMPLES, seed=seed, start=start, stream=Stream.EVALUATION)
        leaves = torch.cat([view.leaves for view in trees.views(draw, augment)], dim=1)
        batch = Batch(leaves.to(device, torch.float64), SAMPLES)
        return projections(directions(network, method, state, batch, split=split))

    values = measured(0, split=True)
    if snapshot.step <= EARLY:
        values[AGAIN] = measured(SAMPLES, split=False)[COSINE]
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
    if type(method) is not BYOL:
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
    """`(S,)` mean over the snapshots of the first EARLY updates of one variant."""
    first = rows[(rows["step"] <= EARLY) & (rows["metric"] == metric)]
    return first.groupby("member")["value"].mean().to_numpy(np.float64)


def scores(works: Array, others: Array) -> Array:
    """`(S,)` shares of pairs in which a variant that works is ahead; `(S, A)` and `(S, B)`, ties half.

    Example:
        >>> scores(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]]))
        array([0.625])
    """
    ahead = works[:, :, None] - others[:, None, :]
    found: Array = (0.5 * (1 + np.sign(ahead))).mean((1, 2))
    return found


def judge(table: pd.DataFrame, *, metric: str, ahead: Sequence[str], again: str = "") -> Judgement:
    """Apply the rule to what is measured early as `metric`; the effect is the mean score.

    Args:
        table: of a run.
        metric: of every variant, e.g. `cosine`.
        ahead: the variants that should be.
        again: the same with other samples, whose score is reported beside; empty where it is not measured.
    """
    ends, variants = variant_ends(table), by_variant(table)
    details = [_detail(name, ends[name], rows) for name, rows in variants.items()]
    others = [name for name in variants if name not in ahead]
    effect = "share of pairs of variants ordered rightly"
    missing = [name for name in ahead if name not in variants]
    reason = f"not run: {', '.join(missing)}" if missing or not others else ""
    reason = reason or too_few(min(end.gap.n for end in ends.values()))
    if reason:
        return Judgement("open", reason, effect, NOTHING, details)

    def scored(measured: str) -> Array:
        value = {name: early(rows, measured) for name, rows in variants.items()}
        return scores(*(np.stack([value[name] for name in part], 1) for part in (ahead, others)))

    score = scored(metric)
    idle = [name for name in ahead if ends[name].status != "works"]
    outcome: Outcome = "open"
    reason = "no order is shown"
    if idle:
        reason = f"not shown to work: {', '.join(idle)}"
    elif exceeds(score, 0.5) < SIGNIFICANCE:
        outcome, reason = "holds", f"{' and '.join(ahead)} are ahead of {len(others)} others"
    elif exceeds(0.5 - score, 0.0) < SIGNIFICANCE:
        outcome, reason = "fails", f"{' and '.join(ahead)} are behind {len(others)} others"
    if again:
        reason += f"; with other samples the share is {scored(again).mean():.2f}"
    return Judgement(outcome, reason, effect, mean_interval(score), details)


def _detail(name: str, end: VariantEnd, rows: pd.DataFrame) -> dict[str, Any]:
    """Early directions, each with its interval, and the end."""
    return {
        "variant": name,
        "status": end.status,
        **{f"{metric}_early": str(mean_interval(early(rows, metric)))
           for metric in (COSINE, AGAIN, TERM, REST, SIZE)},
        "vanished": int(rows.loc[rows["metric"] == NO_DIRECTION, "value"].sum()),
        "spread": end.spread.value,
        "gap_closed": end.gap.value,
        "n": end.gap.n,
    }  # fmt: skip


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the cosine early and its summands, and what became of the variant."""
    ends = variant_ends(table)
    made = pd.DataFrame(
        [
            {
                "variant": name,
                "cosine": mean_interval(early(rows, COSINE)).brief,
                "other samples": early(rows, AGAIN).mean(),
                "term's part": early(rows, TERM).mean(),
                "the rest's": early(rows, REST).mean(),
                "gap": str(ends[name].found.gap),
                "spread": ends[name].spread.value,
                "status": ends[name].status,
                "n": ends[name].gap.n,
            }
            for name, rows in by_variant(table).items()
        ]
    )
    made.attrs["caption"] = (
        f"cosine of BYOL's update with the covariance operator of its unit projections, mean over the first "
        f"{EARLY} updates, and its two summands; ± and [ ]: 95% intervals over trees"
    )
    return made
