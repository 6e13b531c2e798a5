"""Groups of hidden units under one root: what they see, their weights, and how selective they are.

The tree has a root and latents below it, each with leaves of its own. Group ν of hidden units sees the
leaves of latent ν; W_1 are its weights, w_j those of unit j, and W_2 reads all groups. Their dynamics
are in `two_layer`; docs/theory.md, Section 5.

Axes: S member, K state of the root, V latent (group), U unit of a group, X leaf of a group, N joint
state of the leaves of one group, O output. Weights may have further axes in front, such as times.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dualnets.networks.block_network import BlockNetwork
from dualnets.theory.updates.fitting import check_block_network, check_finite, check_trees
from hltm.model.enumeration import all_states
from hltm.tree import LatentTree


class Groups(NamedTuple):
    """The distributions of the leaves that the groups of hidden units see.

    Attributes:
        states: `(N, X)` the joint states of the leaves of one group, as bits.
        given_root: `(S, K, V, N)` P(leaf states of a group | root).
        given_own: `(S, 2, V, N)` P(leaf states of a group | the group's own latent).
        prior: `(S, K)` of the root.
        own_prior: `(S, 2, V)` of the groups' latents.
    """

    states: Tensor
    given_root: Tensor
    given_own: Tensor
    prior: Tensor
    own_prior: Tensor


class Layers(NamedTuple):
    """The weights of both layers, or their rates of change.

    Attributes:
        lower: `(..., S, V, U, X)` W_1, group by group.
        upper: `(..., S, O, V * U)` W_2.
    """

    lower: Tensor
    upper: Tensor


class HiddenSelectivity(NamedTuple):
    """How well hidden units follow the latents of their groups.

    Attributes:
        selectivity: `(..., S, V, U)` s = (E[f | z = 1] - E[f | z = 0]) / 2, f after the ReLU.
        per_norm: `(..., S, V, U)` s / ||w||, which does not change when the weights of a unit grow.
        correlation: `(..., S, V, U)` of f with the latent; 0 for a dead unit.
        upper_norm: `(..., S)` ||W_2||.
    """

    selectivity: Tensor
    per_norm: Tensor
    correlation: Tensor
    upper_norm: Tensor


def groups(trees: LatentTree) -> Groups:
    """The distributions of the leaves that hidden units see, by enumeration.

    Raises:
        TypeError: arguments that are not trees.
        ValueError: trees other than a root, binary latents and equally many binary leaves below each.

    Example:
        >>> import hltm
        >>> groups(hltm.symmetric_binary(depth=2, seed=0)).given_root.shape
        torch.Size([1, 2, 2, 4])
    """
    check_trees(trees)
    topology, tables = trees.topology, trees.tables
    branching = {len(topology.children[v]) for v in topology.at_level(1)}
    if topology.depth != 2 or len(branching) != 1 or (tables.cardinality[1:] != 2).any():
        raise ValueError(
            "two layers need a root, binary latents below it, and equally many binary leaves below "
            f"each; got {trees!r}"
        )
    states = all_states(tables.cardinality[list(topology.children[1])])
    by_latent, by_root, own = [], [], []
    prior = tables.of(0)[:, 0]  # (S, K)
    for v in topology.at_level(1):
        found = torch.ones(tables.count, 2, len(states), dtype=torch.float64)  # (S, 2, N)
        for i, leaf in enumerate(topology.children[v]):
            found = found * tables.of(int(leaf))[:, :, states[:, i]]
        table = tables.of(v)  # (S, K, 2)
        by_latent.append(found)
        by_root.append(table @ found)
        own.append((prior[:, None] @ table)[:, 0])
    given_root, given_own, own_prior = (torch.stack(each, 2) for each in (by_root, by_latent, own))
    return Groups(states.double(), given_root, given_own, prior, own_prior)


def layers(network: BlockNetwork) -> Layers:
    """The weights of a two-layer tree network, float64.

    Raises:
        TypeError: a network that has no blocks.
        ValueError: another depth or shape; biases or a normalised output, with which Equations 5.2
            and 5.3 do not hold.
    """
    check_block_network(network)
    if network.depth != 2 or network.blocks[1] != 1 or network.dense or not network.plain:
        raise ValueError(
            "expected two layers, one group of units per latent and one layer above that reads all "
            f"groups, got {network!r}"
        )
    if network.biases is not None or network.normalize:
        raise ValueError(
            "the two-layer equations need a network without biases and with an output that is not "
            f"normalised, got {network!r}"
        )
    lower, upper = (weight.detach().double().cpu() for weight in network.weights)
    return Layers(lower.clone(), upper[:, 0].clone())


def hidden_selectivity(given: Groups, weights: Layers) -> HiddenSelectivity:
    """How well every hidden unit follows its latent (docs/theory.md, Equation 4.2).

    Weights may have any axes in front, such as times. A unit whose weights are 0 has selectivity 0 and
    correlation 0.

    Raises:
        ValueError: weights that do not fit the groups or are not finite.
    """
    check_layers(given, weights)
    response = (weights.lower @ given.states.T).relu()  # (..., S, V, U, N)
    mean = torch.einsum("skvn,...svun->...skvu", given.given_own, response)
    square = torch.einsum("skvn,...svun->...skvu", given.given_own, response.square())
    prior = given.own_prior[..., None]  # (S, 2, V, 1)
    overall = (prior * mean).sum(-3)
    deviation = ((prior * square).sum(-3) - overall.square()).clamp_min(0).sqrt()
    selectivity = (mean[..., 1, :, :] - mean[..., 0, :, :]) / 2
    spread = prior.prod(-3).sqrt()  # of the latent, as 0 and 1
    correlation = 2 * selectivity * spread / deviation.where(deviation > 1e-12, torch.inf)
    return HiddenSelectivity(
        selectivity,
        over(selectivity, weights.lower.norm(dim=-1)),
        correlation,
        weights.upper.flatten(-2).norm(dim=-1),
    )


def over(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where the whole is 0."""
    some = whole > 0
    return (part / whole.where(some, 1)).where(some, 0)


def check_layers(given: Groups, weights: Layers) -> None:
    """Raise ValueError unless the weights are finite and fit the groups."""
    lower, upper = (tuple(part.shape) for part in weights)
    members, latents = given.prior.shape[0], given.given_root.shape[2]
    inputs = given.states.shape[1]
    fits = len(lower) >= 4 and len(upper) >= 3 and lower[:-4] == upper[:-3]
    fits = fits and lower[-3] == latents and lower[-1] == inputs
    fits = fits and members in (1, lower[-4]) and upper[-3] == lower[-4]
    if not fits or upper[-1] != latents * lower[-2]:
        raise ValueError(
            f"weights have shapes {lower} and {upper}, expected (..., S, {latents}, U, {inputs}) and "
            f"(..., S, O, {latents} U) with S = {members}"
        )
    for name, part in weights._asdict().items():
        check_finite(f"{name} weights", part)
