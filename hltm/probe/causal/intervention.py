"""What units make of do(latent = state): exact counterfactual rows, beside what is observed.

A unit that follows a latent's parent is selective for the latent as well, because the two are correlated. In
pairs of counterfactual rows with do(z = s) and do(z = s') (Pearl 2009, "Causality", Section 7.1) all random
numbers are shared, so that nodes which are not below z, its parent among them, have equal states, and what a
unit changes comes through z's own leaves alone. With p the parent's state, for a unit's activation a,

    E[a | z = s] - E[a | do(z = s)] = Σ_p (P(p | z = s) - P(p)) E[a | z = s, p]:

what is observed of z and not caused by it comes through the parent (Pearl 2009, Section 3.3, adjustment).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm._results import by_content
from hltm.inference.ceiling import Ceiling, Leaves
from hltm.model.nodes import Node
from hltm.probe.accumulators.conditional import StreamingConditional
from hltm.probe.batches import Label, row_ranges
from hltm.probe.causal.contrasts import ContrastSums, exchanged, largest, pairs_of
from hltm.probe.causal.do_ceiling import KINDS, DoCeiling
from hltm.probe.causal.effect_table import effect_table
from hltm.probe.causal.flat_network import FlatNetwork
from hltm.probe.targets import chosen_latents
from hltm.sampling.counterfactual import counterfactual
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 40  # rows


@by_content
class LayerEffect(NamedTuple):
    """Effects of do(latent = state) on the U units of a layer, for T latents; float64 unless stated.

    All are in units of each unit's standard deviation over the data; a unit that never varies has 0.
    With more than two states, each is that of the pair of states at which it is largest.

    Attributes:
        nodes: numbers of the T latents.
        allowed: `(U, T)` bool, the units of each latent's own block, or all.
        effect: `(S, U, T)` E[unit | do(z = s')] - E[unit | do(z = s)] for s < s'.
        standard_error: `(S, U, T)` of the effect, from the pairs of rows.
        selectivity: `(S, U, T)` E[unit | z = s'] - E[unit | z = s].
        confounded: `(S, U, T)` selectivity - effect of the same states, which comes through the parent; 0
            for the root but for sampling.
        states: each of these three names -> `(S, U, T, 2)` int64, its s and s'.
        null: the same -> `(S, U, T)` the 95 % point of its absolute value: of the effect were what a
            row's states give exchanged at random, of the others were the states exchanged among rows.
        ceiling: the same -> `(S, T)` the largest absolute value that any function of the same leaves can
            have, and its standard error; infinite where do(z = s) makes leaves that cannot occur otherwise,
            and 0 for what is confounded where leaves are a latent's own, which know no more of its parent.
        parent_baseline: `(S, T)` the |effect| on the exact posterior of z's parent: what a unit has that
            follows nothing but the parent, as well as the leaves allow. NaN for the root.
        leaves: `own` or `all`, the leaves that ceiling and baseline are given.
    """

    nodes: list[int]
    allowed: Tensor
    effect: Tensor
    standard_error: Tensor
    selectivity: Tensor
    confounded: Tensor
    states: dict[str, Tensor]
    null: dict[str, Tensor]
    ceiling: dict[str, Ceiling]
    parent_baseline: Tensor
    leaves: Leaves


@by_content
class InterventionEffect(NamedTuple):
    """Effects on the units of all layers, from `intervention_effect`.

    Attributes:
        layers: the source's name of a layer -> `LayerEffect`.
        table: one row per member, layer, latent, unit that may stand for it, and metric.
    """

    layers: dict[Label, LayerEffect]
    table: pd.DataFrame


def intervention_effect(
    source: Any,
    tree: LatentTree,
    *,
    samples: int,
    seed: int,
    nodes: Sequence[Node] | None = None,
    states: Sequence[int] | None = None,
    layers: Sequence[Label] | None = None,
    leaves: Leaves | None = None,
) -> InterventionEffect:
    """What each unit makes of do(latent = state), and how much of its selectivity this explains.

    Args:
        source: any network with `activations(leaves)`: see `hltm.probe.measure`.
        tree: of the latents; S networks may share one tree.
        samples: rows, at least 40, from the stream that training never reads; the same rows under
            do(z = s) for every state s.
        seed: of the rows.
        nodes: latents; all by default.
        states: the states s to set, two or more, that all of these latents have; all by default.
        layers: names of layers; all that the network shows by default.
        leaves: which leaves the ceiling is given, a latent's `own` or `all`; by default its own where
            it has a block of units.

    Returns:
        The effects as tensors, and as a table: member, layer, level, node, metric (`effect`,
        `selectivity` or `confounded`), candidates, unit (counted within its candidates), states (such as
        `0-1`), value, standard_error (of the effect), null, ceiling, ceiling_error, parent_baseline (of the
        effect), n, note (why a number is missing). For their meaning see `LayerEffect`. A unit whose
        |effect| does not exceed `parent_baseline` shows nothing of the latent that a unit that follows
        its parent would not show.

    Raises:
        TypeError: a source that cannot be run on other leaves, or samples that are no integer.
        ValueError: too few samples, nodes that are not latents, fewer than two states or states that a
            latent does not have, or activations that are not finite or of another shape.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, signs="positive", seed=0)
        >>> class Reader:  # its units are the leaves
        ...     def activations(self, leaves):
        ...         return {"leaves": leaves.float()}
        >>> found = intervention_effect(Reader(), tree, samples=4000, seed=1, nodes=["1"])
        >>> effect = found.layers["leaves"].effect[0, :, 0]  # on leaves 3 and 4, which are below node 1
        >>> [round(x, 1) for x in effect.tolist()]
        [1.6, 1.6, 0.0, 0.0]
        >>> selectivity = found.layers["leaves"].selectivity[0, :, 0]
        >>> [round(x, 1) for x in selectivity.tolist()]  # 5 and 6 are below its sibling
        [1.6, 1.6, 1.1, 1.0]
    """
    samples = as_integer("samples", samples, FEWEST)
    check_seed(seed)
    if leaves not in (None, "own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    wanted = chosen_latents(tree, nodes)
    asked = {v: _states(tree, v, states) for v in wanted}
    network = FlatNetwork(source, tree, seed, layers)
    probes: dict[Label, _LayerSums] = {}
    ceilings: dict[tuple[int, Leaves], DoCeiling] = {}
    for rows in row_ranges(samples, 1):
        draw = network.draw(rows)
        x = network.leaves(draw)
        shown = network.activations(x)
        for label, values in shown.items():
            if label not in probes:
                own = network.blocks[label] is not None
                probes[label] = _LayerSums(tree, asked, leaves or ("own" if own else "all"))
            probes[label].observe(values, draw.states_SVB[:, wanted])
        for v, own_states in asked.items():
            name = tree.topology.names[v]
            made = [
                network.leaves(counterfactual(tree.tables, draw.members, draw, {name: s}))
                for s in own_states
            ]
            changed = [network.activations(each) for each in made]
            for label, values in shown.items():
                differences = [each[label].double() - values.double() for each in changed]
                probes[label].update(v, values, torch.stack(differences, 2))  # (S, U, K, B)
            for kind in {probe.leaves for probe in probes.values()}:
                if (v, kind) not in ceilings:
                    ceilings[v, kind] = DoCeiling(tree, v, own_states, own=kind == "own")
                ceilings[v, kind].update(x, made)
    found = {
        label: probe.result(network.candidates(label, wanted), ceilings)
        for label, probe in probes.items()
    }
    return InterventionEffect(found, effect_table(found, network, samples))


def _states(tree: LatentTree, node: int, states: Sequence[int] | None) -> list[int]:
    """The states of a node that are set.

    Raises:
        ValueError: fewer than two, one twice, or one that the node does not have.
    """
    count = int(tree.tables.cardinality[node])
    found = list(range(count)) if states is None else [as_integer("a state", s) for s in states]
    wrong = [s for s in found if not 0 <= s < count]
    if wrong or len(set(found)) < 2 or len(set(found)) < len(found):
        name = tree.topology.names[node]
        raise ValueError(
            f"states must be two or more of the {count} of node {name!r}, got {str(found)[:60]}"
        )
    return sorted(found)


class _LayerSums:
    """The accumulators of one layer."""

    def __init__(self, tree: LatentTree, asked: dict[int, list[int]], leaves: Leaves) -> None:
        self.asked, self.leaves = asked, leaves
        self.observed = StreamingConditional(int(max(tree.tables.cardinality[v] for v in asked)))
        self.sums = {v: ContrastSums() for v in asked}
        self.levels = {v: ContrastSums() for v in asked}
        self.centre: Tensor | None = None

    def observe(self, activations: Tensor, states: Tensor) -> None:
        """Add a batch of the data: `(S, U, B)` and the latents' states `(S, T, B)`."""
        self.observed.update(activations.double(), states.to(torch.int32))

    def update(self, node: int, activations: Tensor, differences: Tensor) -> None:
        """Add a batch `(S, U, B)`, and what do(node = s) adds to it for each state, `(S, U, K, B)`."""
        if self.centre is None:
            self.centre = activations.double().mean(-1, keepdim=True)
        self.sums[node].update(differences)
        self.levels[node].update((activations.double() - self.centre)[..., None, :] + differences)

    def result(self, allowed: Tensor, ceilings: dict[tuple[int, Leaves], DoCeiling]) -> LayerEffect:
        seen = self.observed.result()
        # (S, U, 1)
        deviation = (seen.variance.sqrt() * seen.scale).masked_fill(seen.dead, 0.0)[..., None]
        scale = torch.where(deviation > 0, 1 / deviation.where(deviation > 0, 1.0), 0.0).cpu()
        values: dict[str, list[Tensor]] = {}
        nulls: dict[str, list[Tensor]] = {}
        states: dict[str, list[Tensor]] = {}
        for t, (v, own) in enumerate(self.asked.items()):
            a, b = pairs_of(len(own)).unbind(1)
            contrast, mean = self.sums[v].result(), self.sums[v].mean()
            rows = seen.rows[:, None, t, own]  # (S, 1, K)
            given = (seen.mean * seen.scale[..., None, None])[..., t, own]
            given = given.masked_fill(~(rows > 0), torch.nan)
            selectivity = given[..., b] - given[..., a]
            confounded = selectivity - (mean[..., b] - mean[..., a])
            count = self.sums[v].samples
            same = deviation.square()[..., None].expand(*mean.shape, len(own))
            found = {
                "effect": (contrast.value, contrast.pair, contrast.null),
                "selectivity": _largest(selectivity, exchanged(same, rows, count)),
                "confounded": _largest(
                    confounded, exchanged(self.levels[v].covariance(), rows, count)
                ),
            }
            values.setdefault("standard_error", []).append(contrast.standard_error.cpu())
            for kind, (value, pair, null) in found.items():
                values.setdefault(kind, []).append(value.cpu())
                nulls.setdefault(kind, []).append(null.cpu())
                states.setdefault(kind, []).append(
                    torch.tensor(own)[pairs_of(len(own))[pair.cpu()]]
                )
        bounds = [ceilings[v, self.leaves] for v in self.asked]
        return LayerEffect(
            nodes=list(self.asked),
            allowed=allowed,
            states={kind: torch.stack(each, 2) for kind, each in states.items()},
            null={kind: torch.stack(each, 2) * scale for kind, each in nulls.items()},
            ceiling={
                kind: Ceiling(
                    *(
                        torch.stack(x, 1)
                        for x in zip(*(c.result(kind) for c in bounds), strict=True)
                    )
                )
                for kind in KINDS
            },
            parent_baseline=torch.stack([c.parent_effect() for c in bounds], 1),
            leaves=self.leaves,
            **{name: torch.stack(each, 2) * scale for name, each in values.items()},
        )


def _largest(differences: Tensor, nulls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of `(…, P)`, its place, and its null."""
    value, place = largest(differences)
    return value, place, nulls.expand_as(differences).gather(-1, place[..., None])[..., 0]
