"""Belief geometry: how much of the exact posterior is linear in a network's activations.

A transformer trained to predict the next token represents the posterior of the hidden state, its *belief*,
linearly in its residual stream (Shai et al. 2024, arXiv 2405.15943). On a latent tree the belief is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from hltm.model.nodes import Node
from hltm.probe.batches import Label
from hltm.probe.metrics.linear_probe import LinearProbe, LinearReadout
from hltm.probe.null import upper_point
from hltm.probe.positions import KEY, at_leaves
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed, members_of
from hltm.probe.sources.undisturbed import undisturbed
from hltm.probe.table import with_initial
from hltm.probe.targets import chosen_latents
from hltm.probe.visible import Context, check_lags, context_of, position_batches, seen_posteriors
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

Belief = Literal["probability", "log-odds"]
LAGS = 19  # pairings with other rows: the fewest of which the largest is a 95% point


def belief_geometry(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    initial: Any = None,
    nodes: Sequence[Node] | None = None,
    belief: Belief = "probability",
    context: Context | None = None,
    whole: bool = False,
    lags: int = LAGS,
    batch_axis: BatchAxis | None = None,
) -> pd.DataFrame:
    """Held-out R² of the linear regression of exact posteriors on activations.

    Every latent's posterior is a vector of K numbers; the coefficient of determination is
    1 - Σ |belief - prediction|² / Σ |belief - mean|² over the rows and the K numbers together, and over
    all nodes of a level where one row stands for the level. The regression is `LinearProbe`'s: ridge, the
    penalty chosen on the rows that are fitted, tested on others.

    The posterior is a function of the leaves, so 1 is attained by a network whose units are the belief.
    Units that are logarithms of messages, as those of sum-product (`belief_network` of `dualnets`), are
    linear in the log-odds of a node that all its messages are read of, and not in its probabilities:
    `belief` chooses which of the two is meant.

    Args:
        source: as in `measure_positions`, or as in `measure` with `whole`.
        tree, draw, samples, seed, batch_axis: as in `measure`.
        initial: the same source before training, or another with layers of the same names, such as the
            leaves themselves. Log-odds are nearly linear in the leaves of many a tree, and an untrained
            network keeps the leaves: a large R² says nothing of training without the initial one.
        nodes: latents; by default all.
        belief: `probability`, P(state | leaves seen), or `log-odds`, log P minus its mean over the states
            (for two states half the log-odds, with a sign).
        context: which leaves position i sees: `all`, those `before` leaf i, or those `through` leaf i; by
            default those before it for a source with `causal = True`, else all.
        whole: regress on all units of a layer, at all positions together, in place of each position's.
        lags: pairings of the activations with the beliefs of other rows, which make the null; the largest
            R² of 19, or the 95% point of more; 0 for none.

    Returns:
        One row per member, layer, position and node, and per level (node is empty): member, layer,
        position (-1 with `whole`), level, node, metric (`belief_` and its kind), value, null, initial,
        ceiling (1), gap_closed = (value - initial) / (1 - initial), and n. Value and null are NaN where
        the belief never varies, as before the first leaf.

    Raises:
        ValueError: as `measure_positions`; an unknown belief, `whole` with a context other than all,
            fewer than 96 rows, and log-odds where a posterior probability is 0.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> units = tree.posterior(draw.leaves, nodes=tree.latents).marginals[..., 1]
        >>> found = belief_geometry({"beliefs": units}, tree, draw=draw, whole=True)
        >>> bool((found.value > 1 - 1e-6).all()), bool((found.null < 0.1).all())
        (True, True)
    """
    if belief not in ("probability", "log-odds"):
        raise ValueError(f"belief must be 'probability' or 'log-odds', got {belief!r:.60}")
    check_lags(lags)
    sees = context_of(source, context) if not whole or context else "all"
    if whole and sees != "all":
        raise ValueError(f"with whole=True the units see all leaves, got context={sees!r}")
    latents, members = chosen_latents(tree, nodes), members_of(source, tree, draw)
    states = tree.tables.cardinality[latents]
    one = len(members) * len(latents) * int(states.max())
    numbers = one * (1 if sees == "all" else len(tree.leaves))
    probes: dict[Label, LinearProbe] = {}
    with undisturbed(source):
        for batch in position_batches(source, tree, draw, samples, seed, batch_axis, 0, numbers):
            y = _beliefs(seen_posteriors(tree, batch.draw, latents, sees), tree, latents, belief)
            layers = batch.shown if whole else at_leaves(batch.shown, tree)
            for label, a in layers.items():
                x = a.flatten(1, 2)[:, None] if whole else a
                probe = probes.setdefault(label, LinearProbe(max(int(states.max()), 2), lags=lags))
                probe.update_numbers(x, y)
    levels = np.asarray(tree.topology.level)[latents]
    names = [tree.topology.names[v] for v in latents]
    table = _table(probes, members, levels, names, f"belief_{belief}".replace("-", "_"), whole)
    before = None
    if initial is not None:
        before = belief_geometry(
            initial, tree, draw=draw, samples=samples, seed=seed, nodes=nodes, belief=belief, context=sees,
            whole=whole, lags=0, batch_axis=batch_axis,
        )  # fmt: skip
    return with_initial(table, before, KEY)


def _beliefs(posteriors: Tensor, tree: LatentTree, nodes: list[int], belief: Belief) -> Tensor:
    """`(S, X, N, K, B)` what is regressed, from posteriors; 0 for states that a node does not have."""
    if belief == "probability":
        return posteriors
    counts = torch.as_tensor(tree.tables.cardinality[nodes]).to(posteriors.device)
    own = (torch.arange(posteriors.shape[-2], device=counts.device) < counts[:, None])[..., None]
    bad = ((posteriors == 0) & own).any(-1).any(-1).any(0).any(0).nonzero()
    if len(bad):
        raise ValueError(
            f"the log-odds of node {tree.topology.names[nodes[int(bad[0])]]!r} are infinite, since leaves "
            "rule out one of its states; use belief='probability'"
        )
    logs = posteriors.where(own, 1.0).log()
    mean = logs.sum(-2, keepdim=True) / counts[:, None, None]
    return (logs - mean).where(own, 0.0)


def _table(
    probes: dict[Label, LinearProbe],
    members: Sequence[int],
    levels: np.ndarray,
    names: list[str],
    metric: str,
    whole: bool,
) -> pd.DataFrame:
    """The table of `belief_geometry`."""
    import pandas as pd

    groups = [(int(levels[i]), name, [i]) for i, name in enumerate(names)]
    groups += [(v, "", np.flatnonzero(levels == v).tolist()) for v in np.unique(levels).tolist()]
    parts = []
    for label, probe in probes.items():
        found = probe.result()
        positions = found.r2.shape[-2]
        place = [-1] if whole else list(range(positions))
        for level, node, own in groups:
            r2 = _together(found, own)  # (1 + lags, S, X)
            null = torch.full_like(r2[0], torch.nan)
            if len(r2) > 1:
                null = upper_point(r2[1:], 0)
            parts.append(
                pd.DataFrame(
                    {
                        "member": np.repeat(members, positions),
                        "layer": [label] * (len(members) * positions),
                        "position": place * len(members),
                        "level": level,
                        "node": node,
                        "metric": metric,
                        "value": r2[0].flatten().numpy(),
                        "null": null.flatten().numpy(),
                        "initial": np.nan,
                        "ceiling": 1.0,
                        "gap_closed": np.nan,
                        "n": probe.samples,
                    }
                )
            )
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values(["member"], kind="stable", ignore_index=True)


def _together(found: LinearReadout, targets: list[int]) -> Tensor:
    """`(1 + lags, S, X)` R² of several targets as one vector; NaN where none of them varies."""
    r2, variance = found.r2[..., targets].cpu(), found.variance[..., targets].cpu()
    r2, total = r2.view(-1, *variance.shape), variance.sum(-1)
    some = total > 1e-24
    return torch.where(some, (r2 * variance).sum(-1) / total.where(some, 1.0), torch.nan)
