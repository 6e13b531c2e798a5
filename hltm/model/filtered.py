"""Filtered trees: the same leaves and tables, without the correlations that levels above some level make."""

from __future__ import annotations

import numpy as np

from hltm.model.intervene import intervene
from hltm.model.moments import marginals
from hltm.model.nodes import NodeNumber
from hltm.model.tables import Tables


def filtered(tables: Tables, level: int) -> Tables:
    """The tables of the filtered tree: every edge from a parent above the level is cut.

    The node at the lower end of a cut edge keeps its marginal: all rows of its table become its prior
    probabilities P(v). Below the level all tables are kept. With c the nodes at or below the level
    whose parents are above it, the distribution of all nodes at or below the level is therefore

        P_l(nodes) = product over c of P(c) P(nodes below c | c),

    so that the subtrees under different nodes c are independent, and each is distributed as in the
    tree itself. In a balanced tree the nodes c are those of the level. Where leaves lie at different
    depths, a lower node whose parent is above the level is one of them, too, such as a leaf that hangs
    from the root. Level 0 makes all leaves independent, and the depth gives the tree itself.

    The filtering of arXiv 2408.15138 has the same purpose and, for its classification of roots, keeps
    each node's dependence on the root; here no dependence is kept, so that the result is again a tree
    over the same topology. The result is differentiable in `tables.flat`.

    Args:
        tables: of S trees.
        level: 0 = leaves … L = root, the highest level whose nodes may make leaves correlate.

    Raises:
        TypeError, ValueError: a level that is not an integer in 0..L.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, signs="positive", seed=0)
        >>> leaves = tree.leaves
        >>> tree.correlation(leaves[0], leaves[1:])  # siblings 0.8^2, others 0.8^4
        tensor([0.6400, 0.4096, 0.4096], dtype=torch.float64)
        >>> tree.filtered(1).correlation(leaves[0], leaves[1:])
        tensor([0.6400, 0.0000, 0.0000], dtype=torch.float64)
    """
    topology = tables.topology
    topology.at_level(level)  # refuses a level that the tree does not have
    above = np.where(topology.parent < 0, 0, topology.level[topology.parent])
    prior = marginals(tables.take(slice(0, 1)) if tables.shared else tables)
    cut = np.flatnonzero(above > level)
    return intervene(tables, {NodeNumber(v): prior[v][:, None] for v in cut}, stacked=True)
