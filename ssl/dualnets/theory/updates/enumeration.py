"""The whole distribution of samples and of their views as one table: expectations without sampling noise.

A view's distribution depends on few nodes of a sample: on the leaves that it may keep, and on the
latents that it may keep while redrawing a child of theirs. A *class* x is a joint state of those
nodes; p(x) and p(view | x) are tables over classes and over joint states of the leaves, so every
expectation of the theory is a finite sum (docs/theory.md, Section 3, "Population quantities"):

    table = enumerate_views(tree, hltm.keep_root())
    table.leaves               (X, V)  the joint states of the leaves: the network's inputs
    table.probability          (N,)    p(x) of the N classes
    table.view                 (N, X)  p(view | x)
    table.marginal             (X,)    p(view) of a view of any sample
    table.over_views(values)   E_aug[values | x]: (X, ...) -> (N, ...)
    table.mean(values)         E_x[values]: (N, ...) -> (...)
    table.covariance(a, b)     Cov_x[a, b]: (N, P), (N, Q) -> (P, Q)
    table.positive_pairs()     (X, X)  p(x', x'') of two views of one sample
    table.classes              (N, R)  the states that make a class, of the nodes `table.nodes`

`finite_views` makes such a table of any samples of which each has a few views, such as pictures.

All are float64 (states int64). With S trees, the member axis S is in front of `probability`, `view`,
`marginal`, all values and all results, never of `leaves` and `classes`. So for a network f without the
S axis, E_x of E_aug of its outputs is `table.mean(table.over_views(f(table.leaves)))`.

Axes: S member, N class, X joint state of the leaves, V leaf, R deciding node, K state of one node.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualnets.theory.updates.fitting import check_trees
from hltm.model.tables import Tables
from hltm.sampling.augment import Augmentation, check_augmentation
from hltm.tree import LatentTree

MAX_ENTRIES = 1 << 24  # of p(view | x), 128 MiB


class ViewTable(NamedTuple):
    """Every class of samples and every view, with their probabilities.

    Attributes:
        nodes: R node numbers: those on whose states a view's distribution depends.
        classes: `(N, R)` int64, their joint states, the last node varying fastest.
        leaves: `(X, V)` int64, the joint states of the leaves, the last leaf varying fastest; of
            `finite_views`, the views as they were given.
        probability: `(N,)` or `(S, N)` float64, p(x).
        view: `(N, X)` or `(S, N, X)` float64, p(view | x).
    """

    nodes: tuple[int, ...]
    classes: Tensor
    leaves: Tensor
    probability: Tensor
    view: Tensor

    @property
    def stacked(self) -> bool:
        """Whether there is an S axis."""
        return self.probability.ndim == 2

    @property
    def marginal(self) -> Tensor:
        """`(X,)` or `(S, X)` p(view), which equals the distribution of the leaves themselves."""
        return self.mean(self.view)

    def over_views(self, values: Tensor) -> Tensor:
        """E_aug[values | x]: `(X, ...)` to `(N, ...)`, both with S in front where stacked."""
        return self._product(self.view, values)

    def mean(self, values: Tensor) -> Tensor:
        """E_x[values]: `(N, ...)` to `(...)`, both with S in front where stacked."""
        weights = self.probability[..., None, :]
        return self._product(weights, values).squeeze(int(self.stacked))

    def covariance(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """Cov_x[a, b] = E[a bᵀ] - E[a] E[b]ᵀ: `(N, P)` and `(N, Q)` to `(P, Q)`; V_x[a] without b.

        Values are centred before they are multiplied, so large means cost no precision.
        """
        left = a - self.mean(a).unsqueeze(-2)
        right = left if b is None else b - self.mean(b).unsqueeze(-2)
        return left.transpose(-1, -2) @ (self.probability[..., None] * right)

    def positive_pairs(self) -> Tensor:
        """`(X, X)` or `(S, X, X)` p(x', x'') of two independent views of one sample.

        Raises:
            ValueError: more than 2^24 entries.
        """
        views = self.view.shape[-1]
        if views * views > MAX_ENTRIES:
            raise ValueError(
                f"a table of pairs of {views} views has {views**2} entries, more than {MAX_ENTRIES}"
            )
        return self.view.transpose(-1, -2) @ (self.probability[..., None] * self.view)

    def _product(self, weights: Tensor, values: Tensor) -> Tensor:
        """Weights `(..., M, R)` times values `(..., R, *)`: `(..., M, *)`.

        Raises:
            ValueError: values with another number of rows, or of members.
        """
        at = int(self.stacked)
        expected = (*weights.shape[:at], weights.shape[-1])
        if tuple(values.shape[: at + 1]) != expected:
            shown = ", ".join(map(str, (*expected, "...")))
            raise ValueError(f"values have shape {tuple(values.shape)}, expected ({shown})")
        found = weights @ values.reshape(*expected, -1).to(weights.dtype)
        return found.reshape(*found.shape[:-1], *values.shape[at + 1 :])


def finite_views(views: Tensor) -> ViewTable:
    """The table of N samples with J views each, where every sample and each of its views is as likely.

    It is the exact distribution of a data set that has these samples and views and no others, whatever
    they are, e.g. pictures. Its one node is the sample's number.

    Args:
        views: `(N, J, ...)`, view j of sample i.

    Raises:
        TypeError: views that are no tensor.
        ValueError: fewer than 2 samples, none of a view, or a table of more than 2^24 entries.

    Example:
        >>> table = finite_views(torch.tensor([[[0.0], [1.0]], [[4.0], [5.0]]]))
        >>> table.leaves.shape, table.over_views(table.leaves).flatten()
        (torch.Size([4, 1]), tensor([0.5000, 4.5000], dtype=torch.float64))
        >>> table.covariance(table.over_views(table.leaves))
        tensor([[4.]], dtype=torch.float64)
    """
    if not isinstance(views, Tensor):
        raise TypeError(f"views must be a tensor, got {type(views).__name__}")
    if views.ndim < 2 or len(views) < 2 or not views.shape[1]:
        raise ValueError(
            f"views have shape {tuple(views.shape)}, expected (N, J, ...): at least 2 samples, with views"
        )
    samples, each = views.shape[:2]
    if samples * samples * each > MAX_ENTRIES:
        raise ValueError(
            f"{samples} samples times {samples * each} views are {samples * samples * each} entries, "
            f"expected at most {MAX_ENTRIES}"
        )
    own = torch.eye(samples, dtype=torch.float64) / each
    return ViewTable(
        (0,),
        torch.arange(samples)[:, None],
        views.flatten(0, 1),
        torch.full((samples,), 1 / samples, dtype=torch.float64),
        own.repeat_interleave(each, dim=1),
    )


class _Below(NamedTuple):
    """The part of the table that lies at and below one node v, of K states.

    Attributes:
        nodes, leaves: the nodes that classes are made of, and the leaves, in the order of the axes.
        given: `(S, K, N)` P(class | v).
        fresh: `(S, K, X)` P(leaves | v), where everything below v is redrawn.
        view: `(S, N, X)` P(view | class) where v is kept.
    """

    nodes: list[int]
    leaves: list[int]
    given: Tensor
    fresh: Tensor
    view: Tensor


def enumerate_views(tree: LatentTree, augment: Augmentation) -> ViewTable:
    """The table of classes and views of a tree under an augmentation.

    Args:
        tree: one tree or S; any topology, cardinalities and tables.
        augment: the augmentation of the views; any rates.

    Raises:
        TypeError: arguments that are not a tree or an augmentation.
        ValueError: an augmentation that makes leaves missing, or a table of more than 2^24 entries per
            tree.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> table = enumerate_views(tree, hltm.keep_root())
        >>> table.view  # of leaves 00, 01, 10, 11 given the root
        tensor([[0.8100, 0.0900, 0.0900, 0.0100],
                [0.0100, 0.0900, 0.0900, 0.8100]], dtype=torch.float64)
        >>> table.covariance(table.over_views(2 * table.leaves.double() - 1))  # = 0.8²
        tensor([[0.6400, 0.6400],
                [0.6400, 0.6400]], dtype=torch.float64)
    """
    check_trees(tree)
    check_augmentation(augment)
    if augment.missing_rates(tree).any():
        raise ValueError(f"views must be whole samples, but {augment} makes leaves missing")
    if augment.flip_rates(tree).any():
        raise ValueError(f"views must be draws of the tree, but {augment} flips leaves")
    tables, rates = tree.tables, augment.rates(tree)
    leaves = list(tree.leaves)
    nodes = _deciding_nodes(tables, rates)
    # of Python integers, which cannot overflow
    sizes = [math.prod(map(int, tables.cardinality[part])) for part in (nodes, leaves)]
    if sizes[0] * sizes[1] > MAX_ENTRIES:
        raise ValueError(
            f"{sizes[0]} classes of samples ({len(nodes)} nodes decide a view) times {sizes[1]} views "
            f"are {sizes[0] * sizes[1]} entries, expected at most {MAX_ENTRIES}"
        )
    below: dict[int, _Below] = {}
    decides = set(nodes)
    for v in range(len(tables.topology) - 1, -1, -1):
        below[v] = _at(tables, rates, v, v in decides, below)
    top = below[0]
    prior = tables.of(0)  # (S, 1, K)
    redrawn = prior @ top.fresh  # (S, 1, X)
    view = (1 - rates[0]) * top.view + rates[0] * redrawn
    probability = (prior @ top.given)[:, 0]
    view = _sorted(_sorted(view, -1, top.leaves, tables), -2, top.nodes, tables)
    probability = _sorted(probability, -1, top.nodes, tables)
    return ViewTable(
        tuple(nodes),
        _states(tables, nodes),
        _states(tables, leaves),
        probability if tree.stacked else probability[0],
        view if tree.stacked else view[0],
    )


def _deciding_nodes(tables: Tables, rates: np.ndarray) -> list[int]:
    """The nodes on whose states a view's distribution depends, in storage order.

    They may be kept (their own redraw rate and those of all nodes above are below 1), and either they
    are leaves, or they have a child that may be redrawn given their state.
    """
    topology = tables.topology
    kept = 1 - rates
    for v in range(1, len(topology)):
        kept[v] *= kept[topology.parent[v]]
    return [
        v
        for v in range(len(topology))
        if kept[v] > 0 and (v in topology.leaves or (rates[topology.children[v]] > 0).any())
    ]


def _at(
    tables: Tables, rates: np.ndarray, v: int, decides: bool, below: dict[int, _Below]
) -> _Below:
    """The part of the table at and below v, from the parts of its children.

    Given v, its children are independent, so every table is a product over the children.
    """
    members, states = tables.count, int(tables.cardinality[v])
    own = torch.eye(states, dtype=torch.float64).expand(members, -1, -1)
    if v in tables.topology.leaves:
        if decides:
            return _Below([v], [v], own, own, own)
        return _Below([], [v], torch.ones_like(own[:, :, :1]), own, torch.zeros_like(own[:, :1]))
    nodes: list[int] = []
    leaves: list[int] = []
    given = torch.ones(members, states, 1, dtype=torch.float64)
    fresh, view = given, given[:, :, :, None]  # view: (S, K, N, X), by the state of v
    for u in map(int, tables.topology.children[v]):
        part = below.pop(u)
        table = tables.of(u)  # (S, K, K_u)
        redrawn = table @ part.fresh  # (S, K, X_u) P(view below u | v), u redrawn given v
        # u is redrawn with probability rates[u], else kept with its own class: (S, K, N_u, X_u)
        mixed = (1 - rates[u]) * part.view[:, None] + rates[u] * redrawn[:, :, None]
        nodes, leaves = nodes + part.nodes, leaves + part.leaves
        given = _product_of_axes(given, table @ part.given)
        fresh = _product_of_axes(fresh, redrawn)
        pairs = view[:, :, :, None, :, None] * mixed[:, :, None, :, None, :]
        view = pairs.flatten(4).flatten(2, 3)
    if not decides:  # no child is redrawn on its own, so the state of v adds nothing
        return _Below(nodes, leaves, given, fresh, view[:, 0])
    given = (own[:, :, :, None] * given[:, None]).flatten(2)
    return _Below([v, *nodes], leaves, given, fresh, view.flatten(1, 2))


def _product_of_axes(a: Tensor, b: Tensor) -> Tensor:
    """`(S, K, A)` and `(S, K, B)` to `(S, K, A * B)`, with the axis of b varying faster."""
    return (a[..., None] * b[..., None, :]).flatten(2)


def _states(tables: Tables, nodes: list[int]) -> Tensor:
    """`(N, R)` int64 joint states, the last node varying fastest."""
    sizes = [int(tables.cardinality[v]) for v in nodes]
    if not sizes:
        return torch.zeros(1, 0, dtype=torch.int64)
    return torch.from_numpy(np.indices(sizes).reshape(len(sizes), -1).T.copy())


def _sorted(values: Tensor, axis: int, nodes: list[int], tables: Tables) -> Tensor:
    """Values with the joint-state axis permuted into the storage order of its nodes."""
    order = sorted(range(len(nodes)), key=nodes.__getitem__)
    if order == list(range(len(nodes))):
        return values
    place = torch.arange(values.shape[axis]).reshape([int(tables.cardinality[v]) for v in nodes])
    return values.index_select(axis, place.permute(order).reshape(-1))
