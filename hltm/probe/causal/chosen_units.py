"""Which units stand for a latent: a block of its own, the best by a metric, or those that are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

import torch
from torch import Tensor

from hltm.model.nodes import Node
from hltm.probe.batches import Label
from hltm.probe.causal.flat_network import FlatNetwork
from hltm.probe.metric import Metric
from hltm.probe.metric_kinds import check_states
from hltm.probe.metrics import METRICS
from hltm.tree import LatentTree

Units = int | Mapping[Node, Sequence[int]] | None


def check_units(units: Units) -> None:
    """Raise for a number of units below 1, or what is neither a number nor a mapping.

    Raises:
        ValueError, TypeError: as described.
    """
    if units is None or isinstance(units, Mapping):
        return
    if isinstance(units, bool) or not isinstance(units, int):
        kind = type(units).__name__
        raise TypeError(f"units must be a number, or a mapping from nodes to units, got a {kind}")
    if units < 1:
        raise ValueError(f"units must be at least 1, got {units}")


def chosen_units(
    network: FlatNetwork,
    nodes: Sequence[int],
    strength: Mapping[Label, Tensor],
    units: Units,
) -> dict[tuple[Label, int], tuple[str, Tensor]]:
    """The units of each layer and node, and how they were chosen: `(S, U)` bool.

    Args:
        strength: layer -> `(S, U, T)`, of each unit with each node.
        units: None for a node's own block and, where latents share a layer, for the best unit; a
            number for so many of the best candidates; or node -> units, counted within the candidates.

    Raises:
        ValueError: more units than a node has candidates, or a unit that is not among them.
    """
    named = network.tree.topology.by_number(units) if isinstance(units, Mapping) else {}
    found: dict[tuple[Label, int], tuple[str, Tensor]] = {}
    for label, strengths in strength.items():
        allowed = network.candidates(label, nodes).to(strengths.device)
        for t, v in enumerate(nodes):
            own = allowed[:, t]
            count = int(own.sum())
            if count == 0 or (isinstance(units, Mapping) and v not in named):
                continue
            chosen = torch.zeros(strengths.shape[:2], dtype=torch.bool, device=strengths.device)
            if isinstance(units, Mapping):
                wanted = list(named[v])
                wrong = [u for u in wanted if not 0 <= u < count]
                if wrong or not wanted:
                    shown = f"unit {wrong[0]}" if wrong else "no units"
                    name = network.tree.topology.names[v]
                    raise ValueError(
                        f"units has {shown} for node {name!r} in layer {label!r}, expected some of "
                        f"0..{count - 1}"
                    )
                chosen[:, own.nonzero()[:, 0][wanted]] = True
                found[label, v] = "given", chosen
            elif units is None and network.blocks[label] is not None:
                found[label, v] = "own block", own.expand_as(chosen)
            else:
                number = 1 if units is None else units
                if number > count:
                    raise ValueError(
                        f"units is {number}, but layer {label!r} has {count} candidates for a latent"
                    )
                best = strengths[..., t].masked_fill(~own, -torch.inf).topk(number, dim=1).indices
                found[label, v] = f"best {number}", chosen.scatter(1, best, True)
    return found


def other_units(
    chosen: Tensor, candidates: Tensor, draws: int, generator: torch.Generator
) -> list[Tensor]:
    """Random sets `(S, U)` bool of as many units that were not chosen; none where there are too few.

    They are drawn among a latent's `candidates` `(U,)` where enough of these were not chosen, else among
    all units of the layer.
    """
    count, pool = int(chosen[0].sum()), _pool(chosen, candidates)
    if int(pool.sum()) < 2 * count:
        return []
    shut = chosen | ~pool.to(chosen.device)
    found = []
    for _ in range(draws):
        key = torch.rand(chosen.shape, generator=generator).to(chosen.device).masked_fill(shut, 2.0)
        least = key.topk(count, dim=1, largest=False).indices
        found.append(torch.zeros_like(chosen).scatter(1, least, True))
    return found


def other_sets(chosen: Tensor, candidates: Tensor) -> int:
    """How many sets there are that `other_units` may draw.

    Example:
        >>> other_sets(torch.tensor([[True, True, False, False]]), torch.ones(4, dtype=torch.bool))
        1
    """
    count, pool = int(chosen[0].sum()), _pool(chosen, candidates)
    return comb(max(int(pool.sum()) - count, 0), count)


def _pool(chosen: Tensor, candidates: Tensor) -> Tensor:
    """`(U,)` bool: the units among which others are drawn, chosen ones included."""
    enough = int(candidates.sum()) >= 2 * int(chosen[0].sum())
    return candidates if enough else torch.ones_like(candidates)


def metric_class(tree: LatentTree, metric: str) -> type[Metric]:
    """The class of a metric by its name, if the tree's latents allow it.

    Raises:
        ValueError: an unknown metric, or one for two states where latents have more.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}, expected one of {', '.join(METRICS)}")
    check_states({metric: METRICS[metric]}, tree)
    return METRICS[metric]
