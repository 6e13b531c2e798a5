"""Bayes losses: the least cross-entropy, in nats, that any predictor of leaves can have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm._results import by_content
from hltm.inference.leaf_losses import Pair, missing, next_leaf, noisy
from hltm.inference.masks import mask_rates, missing_probability
from hltm.inference.noise import Noise, check_level, check_levels, check_noise
from hltm.model.nodes import Nodes
from hltm.model.tables import Tables
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import check_seed

Order = Literal["natural"] | Nodes


@by_content
class BayesLoss(NamedTuple):
    """Cross-entropies in nats, and their standard errors.

    Attributes:
        value: float64, at least 0. Of an order `(X,)` or `(S, X)`, one for each place: the loss of the
            leaf at the place given those before it; their sum is the loss of all leaves, for the Bayes
            loss without a bound on the context their entropy. Of a mask `()` or `(S,)`, per missing
            leaf. Of noise the same, per leaf, or `(T,)` or `(S, T)` for T levels.
        standard_error: the same shape; 0 where the value is exact.
        leaves: `(X,)` int64 numbers of the leaves that are predicted: of an order the leaf at each
            place, of a mask those that can be missing, of noise all.
    """

    value: Tensor
    standard_error: Tensor
    leaves: Tensor


def bayes_loss(
    tables: Tables,
    members: Sequence[int],
    *,
    order: Order | None = None,
    context: int | None = None,
    mask: Augmentation | Nodes | None = None,
    noise: Noise | None = None,
    level: float | Sequence[float] | None = None,
    predictor: Tables | None = None,
    seed: int,
    samples: int,
) -> BayesLoss:
    """The loss of next leaves in an order, of missing leaves or of noisy ones: `(S, ...)`.

    A predictor sees y, and the loss of a leaf x is the mean of -log q(x | y). Exact where there are at
    most 2^16 patterns y (of a mask 2^18, those of all masks together), at each place of an order on its
    own; in trees with probabilities of 0 only patterns that can occur count. Otherwise it is estimated
    from samples.

    - An *order* predicts every leaf from those before it, or from the `context` nearest of them.
    - A *mask* predicts every missing leaf from all leaves that are not missing: the sum over missing
      leaves, in expectation, over their expected number. A missing leaf never sees itself.
    - *Noise* predicts every leaf from all noisy leaves, its own noisy state included; mean over leaves.

    With a *predictor* q, the leaves are this tree's and q is the predictor's posterior. With a filtered
    tree it is the loss of a model that has learnt the correlations up to level l and no others:
    `tree.bayes_loss(predictor=tree.filtered(l))`. It is the same number as the Bayes loss of the filtered
    tree on its own data, `tree.filtered(l).bayes_loss()`: what a filtered tree says of a leaf depends
    only on the leaves below the same node of level l, and these have one distribution in both trees. It
    falls with l to the Bayes loss of the tree.

    Args:
        members: `S` addresses, of the samples.
        order: the leaves by name or number, each once, or `natural`, the storage order; that order is
            meant too if neither mask nor noise is given.
        context: how many leaves before a leaf are seen; None for all.
        mask: an augmentation that leaves out leaves and redraws nothing, or nodes whose leaves are
            always missing.
        noise, level: the process, and its level or several.
        predictor: tables of S trees or of one, over the same leaves.
        seed: 64 bits, of the samples.
        samples: how many, at least 2.

    Raises:
        TypeError: a context that is no integer, or noise that is none.
        ValueError: arguments that do not fit each other or this tree.
        KeyError, IndexError: a node that the tree does not have.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> mask = hltm.drop_leaves(0.3)
        >>> losses = [tree.bayes_loss(mask=mask, predictor=tree.filtered(l)) for l in range(4)]
        >>> torch.stack([loss.value for loss in losses])  # ln 2, and then less with every level
        tensor([0.6931, 0.4277, 0.3374, 0.3119], dtype=torch.float64)
        >>> losses[3].value.equal(tree.bayes_loss(mask=mask).value), float(losses[3].standard_error)
        (True, 0.0)
    """
    topology = tables.topology
    given = {"order": order, "mask": mask, "noise": noise}
    kinds = [name for name, value in given.items() if value is not None] or ["order"]
    if len(kinds) > 1:
        raise ValueError(f"give one of order, mask and noise, got {' and '.join(kinds)}")
    if context is not None:
        context = as_integer("context", context, 0)
        if kinds != ["order"]:
            raise ValueError(f"context goes with an order, got it beside {kinds[0]}")
    if (noise is None) != (level is None):
        raise ValueError("noise and its level go together, got one without the other")
    if as_integer("samples", samples) < 2:
        raise ValueError(f"a loss needs at least 2 samples, got {samples}")
    if predictor is not None:
        _check_predictor(tables, predictor)
    leaves, one_level = np.asarray(topology.leaves), False
    loss: Callable[[Pair], tuple[np.ndarray, np.ndarray]]
    if mask is not None:
        rates = mask_rates(topology, mask)
        leaves = leaves[missing_probability(topology, rates) > 0]
        loss = partial(missing, rates=rates)
    elif noise is not None and level is not None:
        one_level = np.ndim(level) == 0
        levels = [check_level(level)] if one_level else check_levels(level)
        loss = partial(noisy, noise=check_noise(noise, tables), levels=levels)
    else:
        leaves = leaves if order is None else _ordered(tables, order)
        loss = partial(next_leaf, order=leaves - topology.leaves.start, context=context)
    found = []
    with torch.no_grad():
        for s, member in enumerate(members):
            own = other = tables.take([s])
            if predictor is not None:
                other = predictor.take([s if predictor.count > 1 else 0])
            found.append(loss(Pair(own, other, member, check_seed(seed), int(samples))))
    value, error = (np.stack(part) for part in zip(*found, strict=True))
    error = np.where(np.isfinite(value), error, np.inf)
    value, error = (part[:, 0] if one_level else part for part in (value, error))
    return BayesLoss(*map(torch.from_numpy, (value, error, leaves)))


def _ordered(tables: Tables, order: Order) -> np.ndarray:
    """`(X,)` numbers of the leaves in an order."""
    leaves = tables.topology.leaves
    if isinstance(order, str) and order == "natural":
        return np.asarray(leaves)
    found = tables.topology.nodes(order)
    if sorted(found.tolist()) != list(leaves):
        raise ValueError(
            f"order must have each of the {len(leaves)} leaves once, by name or by number "
            f"({leaves.start}..{leaves.stop - 1}), got {order!r:.80}"
        )
    return found


def _check_predictor(tables: Tables, predictor: Tables) -> None:
    """Raise unless a predictor has the same leaves in the same order, and one tree or as many."""
    if predictor.count not in (1, tables.count):
        raise ValueError(
            f"predictor has {predictor.count} trees, expected 1 or {tables.count} as this tree"
        )
    own, theirs = (
        [(t.topology.names[v], int(t.cardinality[v])) for v in t.topology.leaves]
        for t in (tables, predictor)
    )
    if len(theirs) != len(own):
        raise ValueError(f"predictor has {len(theirs)} leaves, this tree {len(own)}")
    for (name, states), (its_name, its_states) in zip(own, theirs, strict=True):
        if (name, states) != (its_name, its_states):
            raise ValueError(
                f"predictor has leaf {its_name!r} of {its_states} states where this tree has "
                f"{name!r} of {states}"
            )
