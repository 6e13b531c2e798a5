"""Distances between leaves: of a tree, of a draw's states, and as the activations of a layer show them.

All of them add up along the paths of a tree, up to one number per leaf that no tree depends on.

**Of leaf states.** The paralinear distance (Lake 1994; `hltm.formats.branch_lengths`) of two leaves with
K states and joint table J is -log |det J| / sqrt(det D_a det D_b), D holding their priors. Since
det J is the determinant of the covariance C_ab of the indicators of any K - 1 of the states,

    d(a, b) = -log |det C_ab| + (log det C_aa + log det C_bb) / 2

**`by="prediction"`**, of a layer: the same with the covariance of what the layer's units linearly
predict of both leaves, C_ab = C_ax C_xx^-1 C_xb for a ≠ b, x being the units. If the units linearly hold
the states of all latents, leaves are uncorrelated given the units, C_ab is the true covariance, and the
distances are the tree's own. It is what can be read from a layer: units that copy all leaves have it, too.

**`by="effect"`**, of a layer: E_a, `(K, U)`, is how the mean activations, each divided by its unit's
standard deviation, change with the state of leaf a while all other leaves stay what they are, by linear
regression on all leaves (for activations that are sums over leaves, exactly the change when the leaf is
set). The distance is

    d(a, b) = -log ‖E_a E_bᵀ‖ / sqrt(‖E_a E_aᵀ‖ ‖E_b E_bᵀ‖),   for two states -log |cosine|

In a linear network on the tree, whose unit at a latent sums those at its children, weighted, E_a and E_b
share the units at their common ancestors, and d(a, b) = f(a) + f(b) + g(the lowest of them) with g
growing towards the root: the distances of the network's own tree. Units that copy leaves share nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.moments import PairMoments, StreamingMoments
from hltm.probe.batches import Label, batches
from hltm.probe.tree_recovery.splits import leaf_names
from hltm.sampling.draw import Draw
from hltm.tree import LatentTree

BY = ("effect", "prediction")
BLOCKS = 10  # of rows, each left out in turn for standard errors
ROWS = 1 << 14  # of a draw that are taken at a time
NONE = 1e-12  # a similarity this small is none


class LeafDistances(NamedTuple):
    """Distances of X leaves, in storage order, for one member.

    Attributes:
        distances: `(X, X)` float64, or int64 multiples of `step`, symmetric with zeros on the diagonal.
        left_out: `(10, X, X)`, the same from nine tenths of the rows each, for standard errors; None of
            distances that are given or exact.
        reach: the longest distance that the rows can tell from an infinite one; longer ones are cut.
        rounding: how far the length of an edge may be off by rounding alone; 0 of exact distances.
        step: the unit of distances; 1 for those of float64.
        samples: rows that they are estimated from; 0 for none.
    """

    distances: np.ndarray
    left_out: np.ndarray | None = None
    reach: float = float("inf")
    rounding: float = 0.0
    step: float = 1.0
    samples: int = 0


def state_distances(draw: Draw, tree: LatentTree) -> list[LeafDistances]:
    """Paralinear distances of the leaves of every member of a draw, estimated from their states.

    Raises:
        ValueError: missing leaves, leaves with different numbers of states, or a leaf that does not
            take each of its states in every tenth of the rows.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.5, seed=0)
        >>> found = state_distances(tree.sample(10_000, seed=1), tree)[0]
        >>> bool(abs(found.distances[0, 1] / np.log(2) - 2) < 0.2)
        True
    """
    if draw.missing_SXB is not None:
        raise ValueError("some leaves of the draw are missing, expected complete rows")
    states = one_number_of_states(tree)
    leaves = draw.states_SVB[:, draw.topology.leaves.start - draw.first :]
    parts = []
    for rows in torch.arange(leaves.shape[-1], device=leaves.device).tensor_split(BLOCKS):
        moments = StreamingMoments()
        for some in rows.split(ROWS):
            x = _indicators(leaves[..., some[0] : some[-1] + 1], states)
            moments.update(x, x[:, :0])
        parts.append(moments.result())
    return _members(parts, "draw", states, leaf_names(tree))


def layer_distances(
    source: Any, tree: LatentTree, *, draw: Draw | None, samples: int | None, seed: int | None,
    by: str,
) -> dict[Label, list[LeafDistances]]:  # fmt: skip
    """Distances of the leaves as the activations of every layer show them, layer -> members.

    Raises:
        ValueError: as `state_distances`, or activations as in `measure`.
    """
    states = one_number_of_states(tree)
    moments: dict[Label, list[StreamingMoments]] = {}
    for batch in batches(source, tree, draw, samples, seed, 0):
        x = _indicators(batch.draw.states_SVB[:, tree.leaves.start :], states)
        for label, values in batch.shown.items():
            check_finite(values, label)
            a = values.flatten(1, -2).to(x)
            blocks = moments.setdefault(label, [StreamingMoments() for _ in range(BLOCKS)])
            pieces = zip(x.tensor_split(BLOCKS, -1), a.tensor_split(BLOCKS, -1), strict=True)
            for block, (some, units) in zip(blocks, pieces, strict=True):
                if some.shape[-1]:
                    block.update(some, units)
    names = leaf_names(tree)
    return {
        label: _members([b.result() for b in blocks], by, states, names)
        for label, blocks in moments.items()
    }


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
    parts: list[PairMoments], by: str, states: int, names: list[str]
) -> list[LeafDistances]:
    """The distances of every member, of all rows and with each block of them left out."""
    total = sum(part.samples for part in parts)
    limit = float(np.log(total) / 2)  # -log of a correlation that is one standard error
    reach = limit if by == "effect" else (states - 1) * limit
    found = []
    for s in range(len(parts[0].xx)):
        sets = [
            _distances(xx, xy, yy, by, states, names, reach) for xx, xy, yy in _left_out(parts, s)
        ]
        found.append(LeafDistances(sets[0], np.stack(sets[1:]), reach, samples=total))
    return found


def _left_out(
    parts: list[PairMoments], s: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Covariances (xx, xy, yy) of member s, of all blocks of rows and then without each of them."""
    weight = np.array([part.samples for part in parts], dtype=float)
    # moments around the mean of all rows: leaving a block out subtracts what it added
    mean_x = np.stack([part.mean_x[s].cpu().numpy() for part in parts])
    mean_y = np.stack([part.mean_y[s].cpu().numpy() for part in parts])
    mean_x, mean_y = (m - weight @ m / weight.sum() for m in (mean_x, mean_y))
    pairs = {"xx": (mean_x, mean_x), "xy": (mean_x, mean_y), "yy": (mean_y, mean_y)}
    sums = {}
    for name, (a, b) in pairs.items():
        centred = (getattr(part, name)[s].cpu().numpy() for part in parts)
        sums[name] = [
            w * (c + np.outer(p, q)) for w, c, p, q in zip(weight, centred, a, b, strict=True)
        ]
    whole = {name: sum(each) for name, each in sums.items()}
    for left in range(-1, len(parts)):
        kept = weight.sum() - (weight[left] if left >= 0 else 0)
        shift = [
            -weight[left] * m[left] / kept if left >= 0 else m[0] * 0 for m in (mean_x, mean_y)
        ]
        x, y = shift
        yield tuple(
            (whole[name] - (sums[name][left] if left >= 0 else 0)) / kept - np.outer(p, q)
            for name, (p, q) in {"xx": (x, x), "xy": (x, y), "yy": (y, y)}.items()
        )


def _distances(
    xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, by: str, states: int, names: list[str],
    reach: float,
) -> np.ndarray:  # fmt: skip
    """`(X, X)` distances, at most `reach`, from covariances of leaves' indicators x and units y."""
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
        found = _effect_similarity(xx, xy, yy, states)
    else:
        shared = xx if by == "draw" else xy @ _inverse(yy) @ xy.T
        blocks = shared.reshape(leaves, width, leaves, width).transpose(0, 2, 1, 3)
        log_det = np.linalg.slogdet(blocks)[1]
        found = np.exp(np.minimum(log_det - (log_own[:, None] + log_own) / 2, 0.0))
    distances = -np.log(np.maximum(found, np.exp(-reach)))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return np.maximum(distances, 0) + 0.0


def _effect_similarity(xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, states: int) -> np.ndarray:
    """`(X, X)` ‖E_a E_bᵀ‖ / sqrt(‖E_a E_aᵀ‖ ‖E_b E_bᵀ‖); 0 for leaves without effect."""
    spread = np.sqrt(np.diag(yy).clip(0))
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
