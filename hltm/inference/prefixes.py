"""Every leaf's posterior given those before it in an order, by messages kept from place to place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from torch import Tensor

from hltm.model.nodes import NodeNumber
from hltm.model.tables import Tables


def prefix_posteriors(tables: Tables, leaves_XB: Tensor, order: np.ndarray) -> Iterator[Tensor]:
    """`(K, B)` float64 P(leaf | leaves before it) at each place of an order, of one tree.

    With σ and T_v as in `hltm.inference.messages`: the leaf's posterior is the prior of the root, sent
    down the path to the leaf, and multiplied at every node of the path by the σ of the children beside
    it. Once the leaf is seen, only the σ on its path change. So a place costs as much as the leaf is
    deep, O(L K^2) per sample, where a sweep over the tree costs O(V K^2). A column is NaN where the
    leaves before cannot occur.

    Messages are scaled to a maximum of 1 at each product, so what is lost are states whose likelihood is
    1e-300 of another's.

    Args:
        tables: of one tree.
        leaves_XB: `(X, B)` int64 states of all leaves.
        order: `(X,)` places of the leaves among the leaves.

    Example:
        >>> import hltm, torch
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> first, second = prefix_posteriors(tree.tables, torch.tensor([[1], [0]]), np.arange(2))
        >>> first[:, 0].tolist(), round(float(second[1, 0]), 12)  # .9 x .9 + .1 x .1
        ([0.5, 0.5], 0.82)
    """
    topology = tables.topology
    table = [tables.of(v)[0] for v in range(len(topology))]
    sent: dict[int, Tensor] = {}  # σ of the nodes with a leaf that was seen below them
    for x in order.tolist():
        leaf = topology.leaves.start + x
        above = topology.ancestors(NodeNumber(leaf))
        belief = table[0][0, :, None].expand(-1, leaves_XB.shape[1])
        for node, child in pairwise([*above[::-1], leaf]):
            beside = [sent[c] for c in topology.children[node].tolist() if c in sent and c != child]
            belief = table[child].T @ _product([belief, *beside])
        yield belief / belief.sum(0)
        sent[leaf] = table[leaf][:, leaves_XB[x]]
        for node in above[:-1]:
            below = [sent[c] for c in topology.children[node].tolist() if c in sent]
            sent[int(node)] = table[node] @ _product(below)


def _product(factors: list[Tensor]) -> Tensor:
    """The product of messages `(K, B)`, scaled to a maximum of 1 in each column; 0 stays 0."""
    found = factors[0]
    for factor in factors[1:]:
        found = found * factor
        top = found.amax(0)
        found = found / top.where(top > 0, 1)
    return found
