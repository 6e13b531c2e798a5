"""How much of what survives the average over augmentations is about a latent: docs/theory.md, Equation 4.10.

Leaf i of a view depends on the state of a latent ν above it in the sample through the state of ν in the view
alone. The covariance of the average view with z_ν is therefore that of the leaf itself, times the correlation
of z_ν in a view and in the sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.model.moments import state_marginals
from hltm.sampling.augment import Augmentation, keep_level
from hltm.tree import LatentTree


def surviving_share(trees: LatentTree, augment: Augmentation) -> Tensor:
    """`(V,)` or `(S, V)` float64 share of each latent in what survives the average over augmentations.

    Args:
        trees: binary, one or S.
        augment: of the views; what they miss is not considered. A latent of whose leaves nothing survives
            has share 0.

    Raises:
        ValueError: a tree that is not binary.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
        >>> surviving_share(tree, hltm.keep_root())  # 1, and 0.8²
        tensor([1.0000, 0.6400, 0.6400], dtype=torch.float64)
        >>> surviving_share(tree, hltm.keep_level(0))  # 0.8⁴, and 0.8²
        tensor([0.4096, 0.6400, 0.6400], dtype=torch.float64)
    """
    topology, leaves = trees.topology, list(trees.leaves)
    if int(trees.tables.cardinality.max()) != 2:
        raise ValueError(
            f"shares are of binary trees, got {int(trees.tables.cardinality.max())} states"
        )
    kept = trees.view_correlation(trees.latents, augment, other=keep_level(0))  # (…, V)
    below = torch.zeros(len(trees.latents), len(leaves), dtype=torch.float64)
    for v in trees.latents:
        under = topology.descendants(v)
        below[v, under[under >= trees.leaves.start] - trees.leaves.start] = 1
    one = state_marginals(trees.tables).unflatten(1, (-1, 2))[:, trees.leaves.start :, 1]  # (S, X)
    variance = one * (1 - one) if trees.stacked else (one * (1 - one))[0]
    survives = (variance * trees.view_correlation(leaves, augment)) @ below.T
    squared = trees.correlation(trees.latents, leaves).square() * below  # (…, V, X)
    explained = (squared @ variance[..., None])[..., 0]
    return kept.square() * explained / survives.where(survives > 0, torch.inf)
