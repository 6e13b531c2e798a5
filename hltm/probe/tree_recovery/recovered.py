"""A tree that was recovered, beside the true one."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from hltm._results import by_content
from hltm.formats.newick_writing import newick_text
from hltm.model.topology import Topology
from hltm.probe.tree_recovery.splits import keys, leaves_below

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.figure import Figure


@by_content
class Recovered(NamedTuple):
    """A recovered tree beside the true one; it has no states and no tables.

    Attributes:
        topology: the tree, whose leaves have the true names. Its root and the names of its latents have
            no meaning: the root is the node in the middle of the longest path.
        lengths: `(V,)` float64 length of the edge above every node, 0 for the root; negative estimates
            are 0.
        right: `(V,)` bool, whether the true tree has the split that this edge makes; true for leaves
            and the root.
        distances: `(X, X)` float64, from which the tree was made, leaves in the true tree's order.
        robinson_foulds: a count, the splits of one of the trees that the other has not.
        normalised: the same, divided by the splits of both: 0 where all agree, 1 where none does. Null,
            initial and ceiling are to be compared with it.
        null: the 5% point of `normalised` with the leaves of the recovered tree permuted.
        initial: `normalised` of the initial source, such as the network before training; NaN without one.
        ceiling: 0, what the exact distances give.
        missing: true splits that were not found.
        wrong: splits found that are not true.
    """

    topology: Topology
    lengths: Tensor
    right: Tensor
    distances: Tensor
    robinson_foulds: int
    normalised: float
    null: float
    initial: float
    ceiling: float
    missing: int
    wrong: int

    def __str__(self) -> str:
        initial = "" if isnan(self.initial) else f", initial {self.initial:.3f}"
        return (
            f"{len(self.topology.leaves)} leaves, {int(self.splits)} splits: Robinson-Foulds distance "
            f"{self.robinson_foulds} ({self.missing} missing, {self.wrong} wrong), normalised "
            f"{self.normalised:.3f}, null {self.null:.3f}{initial}, best {self.ceiling:.0f}"
        )

    @property
    def splits(self) -> int:
        """How many edges between inner nodes the tree has."""
        return len(set(keys(leaves_below(self.topology))))

    def to_newick(self) -> str:
        """Newick text with lengths."""
        lengths = np.where(self.topology.parent < 0, np.inf, self.lengths.numpy())
        return newick_text(self.topology, lengths, [""] * len(self.topology))

    def to_networkx(self) -> nx.Graph[str]:
        """The tree without a root: nodes by name, edges with `length` and `right`."""
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph()
        names = self.topology.names
        graph.add_nodes_from(names)
        for v in range(1, len(names)):
            length, right = float(self.lengths[v]), bool(self.right[v])
            graph.add_edge(names[self.topology.parent[v]], names[v], length=length, right=right)
        return graph

    def figure(self, title: str | None = None) -> Figure:
        """The tree, its right edges grey and its wrong ones red; depth is the length from the root."""
        from hltm.probe.tree_recovery.figure import recovered_figure

        return recovered_figure(self, title)
