"""Distances between leaves: of a tree, of a draw's states, and as the activations of a layer show them.

All of them add up along the paths of a tree, up to one number per leaf that no tree depends on.

**Of leaf states.** The paralinear distance (Lake 1994; `hltm.formats.branch_lengths`) of two leaves with
K states and joint table J is -log |det J| / sqrt(det D_a det D_b), D holding their priors. Since
det J is the determinant of the covariance C_ab of the indicators of any K - 1 of the states,

    d(a, b) = -log |det C_ab| + (log det C_aa + log det C_bb) / 2

**Prediction** (`by="prediction"`), of a layer: the same with the covariance of what the layer's units
linearly predict of both leaves, C_ab = C_ax C_xx^-1 C_xb for a ≠ b, x being the units. If the units
linearly hold the states of all latents, leaves are uncorrelated given the units, C_ab is the true
covariance, and the distances are the tree's own. It is what can be read from a layer: units that copy all
leaves have it, too.

**Effect** (`by="effect"`), of a layer: E_a, `(K, U)`, is how the mean activations, each divided by its unit's
standard deviation, change with the state of leaf a while all other leaves stay what they are, by linear
regression on all leaves (for activations that are sums over leaves, exactly the change when the leaf is
set). The distance is

    d(a, b) = -log ‖E_a E_bᵀ‖ / sqrt(‖E_a E_aᵀ‖ ‖E_b E_bᵀ‖),   for two states -log |cosine|

In a linear network on the tree, whose unit at a latent sums those at its children, weighted, E_a and E_b
share the units at their common ancestors, and d(a, b) = f(a) + f(b) + g(the lowest of them) with g
growing towards the root: the distances of the network's own tree. Units that copy leaves share nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.moments import PairMoments, StreamingMoments
from hltm.probe.batches import Label, batches
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed, as_rows
from hltm.probe.tree_recovery.exact_distances import LeafDistances
from hltm.probe.tree_recovery.splits import leaf_names
from hltm.sampling.draw import Draw, check_draw
from hltm.sampling.packed import PackedDraw
from hltm.tree import LatentTree

BY = ("effect", "prediction")
BLOCKS = 10  # of rows, each left out in turn for standard errors
ROWS = 1 << 14  # of a draw that are taken at a time
PIECE = 64  # units whose effects are estimated at a time
NONE = 1e-12  # a similarity this small is none


class Covariances(NamedTuple):
    """Of leaves' indicators x and units y; yy is `(Y,)` variances for effects."""

    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray


def state_distances(draw: Rowed, tree: LatentTree) -> list[LeafDistances]:
    """Paralinear distances of the leaves of every member of a draw, estimated from their states.

    Raises:
        ValueError: missing leaves, leaves with different numbers of states, fewer than 20 rows, or a
            leaf that does not take each of its states in every tenth of the rows.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.5, seed=0)
        >>> found = state_distances(tree.sample(10_000, seed=1), tree)[0]
        >>> bool(abs(found.distances[0, 1] / np.log(2) - 2) < 0.2)
        True
    """
    states = one_number_of_states(tree)
    total = len(draw.rows)
    read = _leaves_of(draw, tree)
    parts = []
    for block in np.array_split(np.arange(_checked_rows(total)), BLOCKS):
        moments = StreamingMoments()
        for start in range(block[0], block[-1] + 1, ROWS):
            x = _indicators(read(range(start, min(start + ROWS, block[-1] + 1))), states)
            moments.update(x, x[:, :0])
        parts.append(moments.result())
    return _members([parts], "draw", states, leaf_names(tree))


def _leaves_of(draw: Rowed, tree: LatentTree) -> Callable[[range], Tensor]:
    """What gives the leaves `(S, X, B)` of some rows; of a view as well, whose latents nobody knows."""
    if isinstance(draw, PackedDraw):
        draw = draw.unpack()
    if not isinstance(draw, Draw):
        rows = as_rows(draw, tree, None, None, None)
        return lambda some: rows.states(some)[:, tree.leaves.start :]
    if draw.missing_SXB is not None and bool(draw.missing_SXB.any()):
        raise ValueError("some leaves of the draw are missing, expected complete rows")
    check_draw(tree.tables, tree.members if tree.stacked else draw.members, draw)
    leaves = draw.shown_SXB
    return lambda some: leaves[..., some.start : some.stop]


def layer_distances(
    source: Any, tree: LatentTree, *, draw: Rowed | None, samples: int | None, seed: int | None,
    by: str, batch_axis: BatchAxis | None,
) -> dict[Label, list[LeafDistances]]:  # fmt: skip
    """Distances of the leaves as the activations of every layer show them, layer -> members.

    Raises:
        ValueError: as `state_distances`, or activations as in `measure`.
    """
    states = one_number_of_states(tree)
    # layer -> pieces of its units -> blocks of rows; effects need no covariance of two units
    moments: dict[Label, list[list[StreamingMoments]]] = {}
    for batch in batches(source, tree, draw, samples, seed, 0, batch_axis):
        x = _indicators(batch.draw.states_SVB[:, tree.leaves.start :], states)
        for label, values in batch.shown.items():
            check_finite(values, label)
            flat = values.flatten(1, -2)
            pieces = flat.split(PIECE if by == "effect" else flat.shape[1], 1)
            every = moments.setdefault(label, [_blocks() for _ in pieces])
            for blocks, units in zip(every, pieces, strict=True):
                cut = zip(
                    x.tensor_split(BLOCKS, -1), units.to(x).tensor_split(BLOCKS, -1), strict=True
                )
                for block, pair in zip(blocks, cut, strict=True):
                    if pair[0].shape[-1]:
                        block.update(*pair)
    for every in moments.values():
        _checked_rows(sum(block.samples for block in every[0]))
    return {
        label: _members([[b.result() for b in blocks] for blocks in every], by, states, leaf_names(tree))
        for label, every in moments.items()
    }  # fmt: skip


def _blocks() -> list[StreamingMoments]:
    return [StreamingMoments() for _ in range(BLOCKS)]


def _checked_rows(rows: int) -> int:
    """The number of rows.

    Raises:
        ValueError: fewer than two in each block.
    """
    if rows < 2 * BLOCKS:
        raise ValueError(f"distances of leaves need at least {2 * BLOCKS} rows, got {rows}")
    return rows


def one_number_of_states(tree: LatentTree) -> int:
    """K, the number of states of every node.

    Raises:
        ValueError: nodes with different numbers of states.
    """
    sizes = tree.tables.cardinality
    if sizes.min() < sizes.max():
        raise ValueError(
            f"distances of leaves need one number of states for all nodes, got {sizes.min()}..{sizes.max()}"
        )
    return int(sizes[0])


def _indicators(leaves: Tensor, states: int) -> Tensor:
    """`(S, X (K - 1), B)` float64 indicators of all states but the last."""
    every = torch.arange(states - 1, device=leaves.device)[:, None]
    return (leaves.to(torch.int32)[:, :, None] == every).double().flatten(1, 2)


def _members(
    pieces: list[list[PairMoments]], by: str, states: int, names: list[str]
) -> list[LeafDistances]:
    """The distances of every member, of all rows and with each block of them left out."""
    total = sum(part.samples for part in pieces[0])
    limit = float(np.log(total) / 2)  # -log of a correlation that is one standard error
    reach = limit if by == "effect" else (states - 1) * limit
    found = []
    for s in range(len(pieces[0][0].xx)):
        sets = [
            _distances(each, by, states, names, reach) for each in _left_out(pieces, s, by)
        ]  # fmt: skip
        found.append(LeafDistances(sets[0], np.stack(sets[1:]), reach, samples=total))
    return found


def _left_out(pieces: list[list[PairMoments]], s: int, by: str) -> Iterator[Covariances]:
    """Covariances (xx, xy, yy) of member s, of all blocks of rows and then without each of them.

    Of effects, yy holds variances alone; of predictions, units are replaced by their principal components.
    """
    parts = pieces[0]
    weight = np.array([part.samples for part in parts], dtype=float)

    # moments around the mean of all rows: leaving a block out subtracts what it added
    def means(values: list[Tensor]) -> np.ndarray:
        each = np.stack([x[s].cpu().numpy() for x in values])
        return each - weight @ each / weight.sum()

    mean_x = means([part.mean_x for part in parts])
    mean_y = np.concatenate([means([part.mean_y for part in piece]) for piece in pieces], 1)
    wide = zip(*pieces, strict=True)  # blocks of rows -> pieces of units
    xx, xy, yy = [], [], []
    for i, block in enumerate(wide):
        xx.append(block[0].xx[s].cpu().numpy() + np.outer(mean_x[i], mean_x[i]))
        cross = np.concatenate([piece.xy[s].cpu().numpy() for piece in block], 1)
        xy.append(cross + np.outer(mean_x[i], mean_y[i]))
        if by == "effect":
            own = np.concatenate([piece.yy[s].diagonal().cpu().numpy() for piece in block])
            yy.append(own + mean_y[i] ** 2)
        else:
            yy.append(block[0].yy[s].cpu().numpy() + np.outer(mean_y[i], mean_y[i]))
    if by == "prediction":
        main = _components(np.average(yy, 0, weight))
        mean_y, xy, yy = mean_y @ main, [c @ main for c in xy], [main.T @ c @ main for c in yy]
    whole = [np.average(c, 0, weight) for c in (xx, xy, yy)]
    yield Covariances(*whole)
    for i, w in enumerate(weight):
        kept = weight.sum() - w
        p, q = (-w * m[i] / kept for m in (mean_x, mean_y))
        around = np.outer(p, p), np.outer(p, q), q**2 if by == "effect" else np.outer(q, q)
        yield Covariances(
            *(
                (total * weight.sum() - w * each[i]) / kept - shift
                for total, each, shift in zip(whole, (xx, xy, yy), around, strict=True)
            )
        )


def _components(covariance: np.ndarray) -> np.ndarray:
    """`(U, R)` weights of uncorrelated components of variance 1, without directions that do not vary.

    Units are divided by their standard deviations before it is seen which directions vary.
    """
    spread = np.sqrt(np.diag(covariance).clip(0))
    spread = np.where(spread > 0, spread, np.inf)
    values, vectors = np.linalg.eigh(covariance / spread / spread[:, None])
    kept = values > 1e-9 * values.max(initial=0)
    return vectors[:, kept] / np.sqrt(values[kept]) / spread[:, None]


def _distances(
    found: Covariances, by: str, states: int, names: list[str], reach: float
) -> np.ndarray:
    """`(X, X)` distances, at most `reach`, of leaves."""
    xx, xy, yy = found
    width = states - 1
    leaves = len(names)
    own = xx.reshape(leaves, width, leaves, width)[range(leaves), :, range(leaves)]
    sign, log_own = np.linalg.slogdet(own)
    for i in np.flatnonzero((sign <= 0) | (log_own < width * np.log(NONE))):
        raise ValueError(
            f"leaf {names[i]!r:.60} does not take each of its {states} states in these rows, so it has "
            "no distance; more samples may help"
        )
    if by == "effect":
        shown = _effect_similarity(xx, xy, yy, states)
    else:
        shared = xx if by == "draw" else xy @ _solved(yy, xy.T)
        blocks = shared.reshape(leaves, width, leaves, width).transpose(0, 2, 1, 3)
        log_det = np.linalg.slogdet(blocks)[1]
        shown = np.exp(np.minimum(log_det - (log_own[:, None] + log_own) / 2, 0.0))
    distances = -np.log(np.maximum(shown, np.exp(-reach)))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return np.maximum(distances, 0) + 0.0


def _effect_similarity(xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, states: int) -> np.ndarray:
    """`(X, X)` ‖E_a E_bᵀ‖ / sqrt(‖E_a E_aᵀ‖ ‖E_b E_bᵀ‖); 0 for leaves without effect."""
    spread = np.sqrt(yy.clip(0))
    units = xy / np.where(spread > NONE * spread.max(initial=0), spread, np.inf)
    slopes = (_inverse(xx) @ units).reshape(-1, states - 1, units.shape[1])
    effect = np.concatenate([slopes, np.zeros_like(slopes[:, :1])], axis=1)
    effect = effect - effect.mean(1, keepdims=True)  # (X, K, U), of no effect on average
    flat = effect.reshape(-1, effect.shape[-1])
    leaves = len(effect)
    inner = (flat @ flat.T).reshape(leaves, states, leaves, states)
    size = np.sqrt(np.square(inner).sum((1, 3)))
    own = np.sqrt(np.diag(size))
    own = np.where(own > NONE * own.max(initial=0), own, np.inf)
    return size / own[:, None] / own


def _inverse(covariance: np.ndarray) -> np.ndarray:
    """The pseudo-inverse of a covariance, without the directions that do not vary."""
    return np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)


def _solved(covariance: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The inverse of a covariance times `right`: Cholesky is far faster than the pseudo-inverse."""
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance))
    if int(failed) or (len(factor) and float(factor.diagonal().min()) < 1e-4):
        return _inverse(covariance) @ right
    return torch.cholesky_solve(torch.from_numpy(np.ascontiguousarray(right)), factor).numpy()
