"""The top covariance operator of a tree network in closed form, and the selectivity it is made of.

z_ν is the state of the latent ν, z_0 that of the root, ν(j) the latent whose leaves unit j sees, and
f_j the output of unit j (docs/theory.md, Section 4; the paper's result on activation covariance in
hierarchical latent tree models, whose number we could not verify):

    s_j = ½ (E[f_j | z_ν = 1] - E[f_j | z_ν = 0])                selectivity          (Equation 4.2)
    V_z0[ E[f | z_0] ] = o oᵀ,    o_j = ρ_{0ν(j)} s_j · 2 σ_ν(j)                      (Equation 4.3)

where views keep a binary root alone, ρ_{0ν} is the correlation of ν with the root and σ_ν the standard
deviation of the state of ν (2 σ_ν = 1 in symmetric trees). So the operator amplifies units that are
selective already. Equation 4.3 assumes that f_j depends on z_0 through z_ν alone, and nothing else.

Axes: S member, B sample, V node of the level, U unit, n units of all nodes, K = 2 states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dualnets.theory.updates.fitting import check_members
from dualnets.theory.updates.operators import TensorEstimate
from dualnets.theory.updates.views import TreeViews
from hltm.model.enumeration import all_states
from hltm.model.moments import marginals
from hltm.model.nodes import Node
from hltm.sampling.augment import keep_level
from hltm.tree import LatentTree


class Layered(Protocol):
    """A network whose activations are available level by level, such as those of this library."""

    members: tuple[int, ...]
    stacked: bool

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Level -> `(S, B, V, U)` or `(S, B, U)`; no S where the network has none."""


class TreeOperator(NamedTuple):
    """The covariance operator of the units' outputs under views that keep the root.

    Attributes:
        o: `(n,)` or `(S, n)` float64.
        matrix: `(n, n)` or `(S, n, n)` o oᵀ.
    """

    o: Tensor
    matrix: Tensor


def tree_operator(tree: LatentTree, nodes: Sequence[Node], selectivities: Tensor) -> TreeOperator:
    """o and o oᵀ of units that each see the leaves below one latent (docs/theory.md, Equation 4.3).

    Args:
        tree: binary, one or S; views keep its root alone.
        nodes: ν(j) of each of n units, by number or name.
        selectivities: `(n,)` or `(S, n)` s_j, of any functions of the leaves below ν(j).

    Raises:
        ValueError: a tree that is not binary, no nodes, or selectivities that are not finite or have
            another shape.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, signs="positive", seed=0)
        >>> tree_operator(tree, [1, 1, 2], torch.tensor([0.5, 0.0, -0.25])).o
        tensor([ 0.4000,  0.0000, -0.2000], dtype=torch.float64)
    """
    place = tree.topology.nodes(nodes)
    given = torch.as_tensor(selectivities, dtype=torch.float64).cpu()
    if given.shape[-1:] != (len(place),) or given.ndim > 2:
        raise ValueError(
            f"selectivities have shape {tuple(given.shape)}, expected one for each of {len(place)} nodes"
        )
    if not given.isfinite().all():
        raise ValueError("selectivities must be finite")
    if given.ndim == 2 and tree.stacked and len(given) != len(tree.members):
        raise ValueError(
            f"selectivities of {len(given)} members do not fit {len(tree.members)} trees"
        )
    if len(place) < 1:
        raise ValueError("expected at least one node")
    correlation = tree.correlation(tree.root, nodes)  # (n,) or (S, n)
    prior = marginals(tree.tables)
    deviation = torch.stack([prior[int(v)].prod(-1).sqrt() for v in place], dim=-1)
    o = correlation * given * 2 * (deviation if tree.stacked else deviation[0])  # Equation 4.3
    return TreeOperator(o, o[..., :, None] * o[..., None, :])


def selectivity(
    network: Layered,
    tree: LatentTree,
    level: int,
    *,
    rectified: bool = True,
    samples: int | None = None,
    seed: int | None = None,
) -> TensorEstimate:
    """The selectivity s_j of every unit of a level (docs/theory.md, Equation 4.2).

    A unit of a block has one value, for the latent of its block; a unit of a dense layer has one for
    each latent of the level.

    Args:
        network: its inputs are the leaves of the tree.
        tree: one tree or S; the level's latents must be binary.
        level: 1 .. L.
        rectified: of the ReLU outputs, which are the inputs of the layer above (the top layer has no
            ReLU); otherwise of the pre-activations.
        samples: None for exact values, from every joint state of the leaves; otherwise the number of
            samples of an estimate.
        seed: 64 bits, of the samples.

    Returns:
        value and standard error, `(V, U)` or `(S, V, U)`; the error is 0 where the value is exact.

    Raises:
        TypeError: a network without activations by level.
        ValueError: a tree or level that does not fit the network, latents that are not binary, more
            than 2^20 states of the leaves, fewer than 2 samples, or samples without a seed.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> network = dualnets.tree_network(tree, units=4, seed=1, dtype=torch.float64)
        >>> exact = selectivity(network, tree, 2).value
        >>> guess = selectivity(network, tree, 2, samples=2000, seed=3)
        >>> exact.shape, bool(((guess.value - exact).abs() <= 5 * guess.standard_error).all())
        (torch.Size([2, 4]), True)
    """
    if not all(hasattr(network, name) for name in ("activations", "members", "stacked")):
        raise TypeError(
            "expected a network of this library, with activations by level, got "
            f"{type(network).__name__}"
        )
    if tree.stacked:
        check_members(tree.members, network.members)
    nodes = np.asarray(tree.level(level))
    if (tree.tables.cardinality[nodes] != 2).any():
        raise ValueError(
            f"selectivity is defined for binary latents; level {level} has latents of more states"
        )
    if samples is None:
        leaves = all_states(tree.tables.cardinality[list(tree.leaves)])
        given = leaves.expand(len(tree.members), -1, -1) if tree.stacked else leaves
        posterior = tree.posterior(given, nodes=tree.level(level))
        chance = posterior.log_evidence.exp()[..., None, None]
        weight = posterior.marginals[..., :2].nan_to_num() * chance  # P(leaves, z), (S?, B, V, 2)
        weight = weight / weight.sum(-3, keepdim=True)
        given = given if tree.stacked or not network.stacked else given.expand(
            len(network.members), -1, -1
        )  # fmt: skip
    else:
        if seed is None or samples < 2:
            raise ValueError(f"an estimate needs a seed and at least 2 samples, got {samples}")
        draw = _with_members(tree, network).sample(samples, seed=seed)
        given = draw.leaves
        counts = torch.nn.functional.one_hot(draw.level(level).long(), 2).double()
        weight = counts / counts.sum(-3, keepdim=True)
    with torch.no_grad():
        found = network.activations(given)
        if level not in found:
            raise ValueError(
                f"the network has activations of levels {min(found)}..{max(found)}, got {level}"
            )
        values = found[level].to(torch.float64).cpu()
        values = values.relu() if rectified and level < max(found) else values
    block = values.ndim == (4 if network.stacked else 3)
    pattern = "...bvk,...bvu->...vuk" if block else "...bvk,...bu->...vuk"
    mean = torch.einsum(pattern, weight, values)
    value = (mean[..., 1] - mean[..., 0]) / 2  # Equation 4.2
    if samples is None:
        return TensorEstimate(value, torch.zeros_like(value))
    square = torch.einsum(pattern, weight, values**2)
    number = counts.sum(-3)[..., None, :]  # (S?, V, 1, 2)
    spread = (square - mean**2).clamp_min(0) / (number - 1)  # squared error of both means
    return TensorEstimate(value, spread.sum(-1).sqrt() / 2)


def _with_members(tree: LatentTree, network: Layered) -> LatentTree:
    """The tree with an S axis for an ensemble, so that every member has samples of its own."""
    if tree.stacked or not network.stacked:
        return tree
    return TreeViews(tree, keep_level(0)).for_members(network.members).tree
