"""What patching and ablation begin with: checks, the units of each latent, and the fitted readout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm.inference.posterior import posterior
from hltm.model.nodes import Node
from hltm.probe.batches import Label, row_ranges
from hltm.probe.causal.chosen_units import (
    Units,
    check_units,
    chosen_units,
    metric_class,
    other_sets,
    other_units,
)
from hltm.probe.causal.flat_network import FlatNetwork
from hltm.probe.causal.grouped_sums import GROUPS
from hltm.probe.causal.readout import Answer, AnswerFit, Readout, check_readout
from hltm.probe.causal.replacing import check_replaceable
from hltm.probe.targets import chosen_latents
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

FEWEST = 2 * GROUPS  # rows
FITTED = 2048  # rows, at least, that choose units and fit the readout


@dataclass(frozen=True)
class Interchange:
    """A network that is ready for replacements.

    Attributes:
        nodes, target: numbers of latents.
        chosen: (layer, node) -> how its units were chosen, and which they are, `(S, U)` bool.
        others: the same -> random sets of as many other units.
        means: layer -> `(S, U, 1)` mean activations.
        answer: outputs `(S, B, O)` -> `(S, B, K)`.
        notes: (layer, node) -> why there are no other units, or that these are few.
    """

    network: FlatNetwork
    nodes: list[int]
    target: int
    samples: int
    chosen: dict[tuple[Label, int], tuple[str, Tensor]]
    others: dict[tuple[Label, int], list[Tensor]]
    means: dict[Label, Tensor]
    answer: Answer
    notes: dict[tuple[Label, int], str]

    def later(self, rows: range) -> range:
        """The source rows of base rows."""
        return range(rows.start + self.samples, rows.stop + self.samples)

    def answers(
        self, leaves: Tensor, replace: dict[Label, tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """The network's answer `(S, B, K)`, where some units are replaced as in `FlatNetwork.output`.

        Raises:
            ValueError: an answer of infinite numbers; those of leaves that cannot occur may be NaN.
        """
        found = self.answer(self.network.output(leaves, replace))
        if found.isinf().any():
            raise ValueError("the readout has infinite numbers, expected finite ones")
        return found

    def exact(self, leaves: Tensor) -> Tensor:
        """`(S, B, K)` posterior of the target given leaves `(S, B, X)`."""
        given = leaves.transpose(1, 2).to(torch.int64)
        found = posterior(self.network.tree.tables, given, np.array([self.target]))
        return found.marginals[:, 0, : self.states].transpose(1, 2)

    @property
    def states(self) -> int:
        """K, of the target."""
        return int(self.network.tree.tables.cardinality[self.target])

    def own_leaves(self, node: int) -> Tensor:
        """`(X,)` bool: the leaves below a node."""
        tree = self.network.tree
        below = np.isin(np.array(tree.leaves), tree.topology.descendants(node))
        return torch.from_numpy(below).to(self.network.device)

    def indicator(self, states: Tensor) -> Tensor:
        """`(S, B, K)` of states `(S, B)` of the target."""
        return torch.nn.functional.one_hot(states.to(torch.int64), self.states).double()

    def sets(self, node: int) -> Iterator[tuple[Label, int, Tensor]]:
        """Layer, number and units: number 0 are the chosen units, the others random sets."""
        for (label, v), (_, chosen) in self.chosen.items():
            if v == node:
                for i, units in enumerate([chosen, *self.others[label, v]]):
                    yield label, i, units


def prepare(
    source: Any,
    tree: LatentTree,
    *,
    samples: int,
    seed: int,
    nodes: Sequence[Node] | None,
    layers: Sequence[Label] | None,
    units: Units,
    metric: str,
    target: Node,
    readout: Readout,
    draws: int,
) -> Interchange:
    """Check the arguments of `patch`, choose units and fit the readout on rows that it does not use."""
    samples, draws = as_integer("samples", samples, FEWEST), as_integer("draws", draws, 0)
    check_seed(seed)
    wanted, (asked,) = chosen_latents(tree, nodes), chosen_latents(tree, [target])
    check_units(units)
    check_readout(readout)
    check_replaceable(source, layers)
    kind = metric_class(tree, metric)
    network = FlatNetwork(source, tree, seed, layers)
    states = int(tree.tables.cardinality[list(tree.latents)].max())
    fit = AnswerFit(readout, int(tree.tables.cardinality[asked]))
    metrics: dict[Label, Any] = {}
    sums: dict[Label, Tensor] = {}
    fitted = max(samples, FITTED)
    for rows in row_ranges(fitted, 1):
        draw = network.draw(range(rows.start + 2 * samples, rows.stop + 2 * samples))
        leaves = network.leaves(draw)
        fit.update(network.output(leaves), draw.states_SVB[:, asked])
        for label, values in network.activations(leaves).items():
            if label not in metrics:
                metrics[label] = kind.for_states(states)
            metrics[label].update(values, draw.states_SVB[:, wanted].to(torch.int32))
            total = values.sum(-1, keepdim=True, dtype=torch.float64) / fitted
            sums[label] = sums[label] + total if label in sums else total
    strengths = {label: found.strength() for label, found in metrics.items()}
    chosen = chosen_units(network, wanted, strengths, units)
    generator = torch.Generator().manual_seed(seed % 2**63)
    others, notes = {}, {}
    for (label, v), (_, picked) in chosen.items():
        candidates = network.candidates(label, wanted)[:, wanted.index(v)]
        others[label, v] = other_units(picked, candidates, draws, generator)
        notes[label, v] = _note(other_sets(picked, candidates), draws)
    return Interchange(network, wanted, asked, samples, chosen, others, sums, fit.result(), notes)


def _note(sets: int, draws: int) -> str:
    """Why there is no null, or that few sets of other units make it."""
    if not draws:
        return "draws is 0"
    if not sets:
        return "fewer other units than chosen ones"
    return f"the null is of {sets} other set{'s' * (sets > 1)} of units" if sets < draws else ""
