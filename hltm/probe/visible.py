"""What a vector at a position can know: exact posteriors given the leaves that the position sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hltm.inference.posterior import posterior
from hltm.probe.batches import ROWS, ActivationBatch, batches
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed
from hltm.sampling.draw import Draw
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

Context = Literal["all", "before", "through"]
HELD = 1 << 23  # numbers of a batch that are held at a time
LEAST = 32  # rows of a batch, however many numbers they have


def context_of(source: Any, given: Context | None) -> Context:
    """Which leaves position i sees: `all`, those `before` leaf i, or those `through` leaf i.

    By default those before it, for a network with `causal = True`, or all.

    Raises:
        ValueError: any other.

    Example:
        >>> context_of({}, None), context_of({}, "through")
        ('all', 'through')
    """
    if given is None:
        return "before" if getattr(source, "causal", False) is True else "all"
    if given not in get_args(Context):
        raise ValueError(
            f"context must be one of {', '.join(get_args(Context))}, got {given!r:.60}"
        )
    return given


def check_lags(lags: int) -> None:
    """Raise unless lags are at least 0."""
    if lags < 0:
        raise ValueError(f"lags must be at least 0, got {lags}")


def position_batches(
    source: Any,
    tree: LatentTree,
    draw: Rowed | None,
    samples: int | None,
    seed: int | None,
    batch_axis: BatchAxis | None,
    lags: int,
    numbers: int,
) -> Iterator[ActivationBatch]:
    """Batches of layers `(S, X, U, B)`, or `(S, 1, U, B)` without a vector at every leaf.

    Args:
        numbers: how many are held for every row, so that batches of many are short.
    """
    if seed is not None:
        check_seed(seed)
    size = min(max(HELD // max(numbers, 1), LEAST), ROWS)
    return batches(
        source, tree, draw, samples, seed, lags, batch_axis, lambda: size, by_position=True
    )


def seen_posteriors(tree: LatentTree, draw: Draw, nodes: list[int], context: Context) -> Tensor:
    """`(S, X, N, K, B)` float64 P(node | the leaves that position i sees); X is 1 where all see all.

    Args:
        nodes: numbers of the nodes, in any order.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> draw = tree.sample(1, seed=0)
        >>> seen_posteriors(tree, draw, [0], "before")[0, :, 0, int(draw.leaves[0, 0]), 0]
        tensor([0.5000, 0.9000], dtype=torch.float64)
    """
    leaves = draw.states_SVB[:, tree.leaves.start :].to(torch.int64)
    ends = range(int(context == "through"), len(tree.leaves) + int(context == "through"))
    found = []
    for end in [len(tree.leaves)] if context == "all" else ends:
        seen = leaves.clone()
        seen[:, end:] = -1
        found.append(
            torch.cat(
                [
                    posterior(_tables(tree, s), seen[s : s + 1], np.array(nodes)).marginals
                    for s in range(len(seen))
                ]
            )
        )
    return torch.stack(found, 1)


def _tables(tree: LatentTree, member: int) -> Any:
    """Those of one member, or of the tree that all members share."""
    return tree.tables.take([member if tree.tables.count > 1 else 0])
