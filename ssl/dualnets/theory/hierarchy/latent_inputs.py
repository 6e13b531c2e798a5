"""The inputs of a latent's units: their exact moments, and simulated untrained units that read them.

The selectivity s and the variance of an untrained unit with weights w follow from two moments of its
inputs x, z being the state of its latent (docs/theory.md, Section 4):

    v = 1/2 ( E[x | z = 1] - E[x | z = 0] ),     s = w·v                               (Equation 4.4)
    C = V[x],                                    variance wᵀ C w

Both are finite sums: children are independent given their parent, and the outputs of every child's
units are enumerated over the leaves below that child alone. Simulated units are those of many
networks with these layers below and new random weights, for comparison with the exact laws of `lucky`.

Axes: S member, V node of the level, U unit, I input of a unit, N joint state of leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualnets.networks.block_network import BlockNetwork
from dualnets.theory.hierarchy.lucky import UniformSum, uniform_sum
from dualnets.theory.updates.fitting import check_binary, check_finite_weights, check_fit
from hltm.model.enumeration import all_states
from hltm.model.moments import marginals
from hltm.sampling.philox import Stream, check_seed, uniform
from hltm.tree import LatentTree

MOST_LEAVES = 16  # binary leaves below a block: more are not enumerated


class BlockInputs(NamedTuple):
    """The moments of the inputs of a level's units, latent by latent.

    Attributes:
        difference: `(S, V, I)` float64, v = (E[x | z = 1] - E[x | z = 0]) / 2 (Equation 4.4).
        covariance: `(S, V, I, I)` float64, C, of the inputs.
        prior: `(S, V)` float64, P(z = 1).
        bound: b, where untrained weights are uniform in ±b.
    """

    difference: Tensor
    covariance: Tensor
    prior: Tensor
    bound: float

    def law(self, member: int, latent: int) -> UniformSum:
        """The exact distribution of the |selectivity| of an untrained unit (Equation 4.4)."""
        return uniform_sum(self.bound * self.difference[member, latent].numpy())

    def selectivities(self, weight: Tensor) -> Tensor:
        """`(S, V, U)` s = w·v of units with weights `(S, V, U, I)` (Equation 4.4)."""
        return (weight @ self.difference[..., None])[..., 0]

    def correlations(self, weight: Tensor) -> Tensor:
        """`(S, V, U)` the |correlation| with the latent of units with weights `(S, V, U, I)`.

        It is 2 |s| sqrt(p (1 - p)) / sqrt(wᵀ C w) with p = P(z = 1), and 0 for a unit that never varies.
        """
        variance = (weight @ self.covariance * weight).sum(-1)
        spread = (self.prior * (1 - self.prior)).sqrt()[..., None]
        alive = variance > 1e-14
        found = 2 * self.selectivities(weight).abs() * spread / variance.where(alive, 1).sqrt()
        return found.where(alive, 0).clamp(max=1)


def latent_inputs(network: BlockNetwork, trees: LatentTree) -> dict[int, BlockInputs]:
    """Level -> the exact moments of its units' inputs (docs/theory.md, Equation 4.4).

    Args:
        network: a tree network on these trees, with or without biases.
        trees: binary, one or as many as the network has members.

    Raises:
        TypeError: a network that has no blocks, or trees that are none.
        ValueError: trees that do not fit the network, a network without one block per latent, a latent
            of more than two states, weights that are not finite, or children with more than 16
            leaves below them (65536 states).

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, polarity=0.8, members=4, seed=0)
        >>> found = latent_inputs(dualnets.tree_network(trees, units=5, seed=1), trees)
        >>> {level: tuple(part.difference.shape) for level, part in found.items()}
        {1: (4, 4, 2), 2: (4, 2, 10), 3: (4, 1, 10)}
    """
    check_fit(network, trees)
    topology, tables = trees.topology, trees.tables
    members = len(network.members)
    check_finite_weights(network)
    levels = range(1, topology.depth + 1)
    if not network.plain or network.blocks != tuple(len(topology.at_level(k)) for k in levels):
        raise ValueError(f"expected a block of units per latent, got {network!r}")
    check_binary(trees)
    bits = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64).expand(members, -1, -1)
    own = torch.eye(2, dtype=torch.float64).expand(members, -1, -1)
    # per node: (S, N, U) outputs at the N leaf states below it, and (S, 2, N) P(leaf states | node)
    below = dict.fromkeys(topology.leaves, (bits, own))
    # (S, nodes) P(state 1)
    prior = torch.stack([p[:, 1] for p in marginals(tables)], 1).expand(members, -1)
    found = {}
    for level in levels:
        weight = network.weights[level - 1].detach().double().cpu()
        bias = None if network.biases is None else network.biases[level - 1].detach().double().cpu()
        differences, covariances = [], []
        for block, v in enumerate(topology.at_level(level)):
            parts = []  # of the children: outputs, and P(leaf states below the child | v), (S, 2, N)
            for u in map(int, topology.children[v]):
                values, given = below.pop(u)
                parts.append((values, tables.of(u) @ given))
            difference, covariance = _moments(parts, prior[:, v])
            differences.append(difference)
            covariances.append(covariance)
            if level < topology.depth:
                below[v] = _block_values(parts, weight[:, block], bias, block)
        found[level] = BlockInputs(
            torch.stack(differences, 1),
            torch.stack(covariances, 1),
            prior[:, list(topology.at_level(level))],
            weight.shape[-1] ** -0.5,
        )
    return found


def drawn_selectivities(
    blocks: BlockInputs, *, units: int, draws: int, seed: int, members: Sequence[int]
) -> Tensor:
    """`(S, V, draws, units)` |selectivity| = |w·v| of units with random weights, uniform in ±b.

    They are the same units as those of `drawn_correlations`.

    Args:
        blocks: the inputs' moments, from `latent_inputs`.
        units: of each block.
        draws: the number of independent blocks.
        seed: 64 bits, of the weights; they are independent of the network's own initial weights.
        members: S addresses.

    Raises:
        ValueError: units or draws below 1, or another number of members than the inputs have.
    """
    weight = blocks.bound * _random_weights(blocks, units, draws, seed, members)
    return blocks.selectivities(weight).abs().unflatten(2, (draws, units))


def simulated_best(
    blocks: BlockInputs, *, units: int, draws: int, seed: int, members: Sequence[int]
) -> Tensor:
    """`(S, V, draws)` the largest |selectivity| in each of many simulated blocks of untrained units.

    Its distribution is, exactly, `lucky.best_cdf` of `blocks.law`, and its mean `lucky.mean_best`.

    Args, raises: as `drawn_selectivities`.

    Example:
        >>> import dualnets, hltm
        >>> from dualnets.theory.hierarchy.lucky import mean_best
        >>> trees = hltm.symmetric_binary(depth=2, polarity=0.8, members=2, seed=0)
        >>> inputs = latent_inputs(dualnets.tree_network(trees, units=6, seed=1), trees)[2]
        >>> best = simulated_best(inputs, units=6, draws=4000, seed=2, members=trees.members)[1, 0]
        >>> exact = mean_best(inputs.law(member=1, latent=0), 6)
        >>> bool((best.mean() - exact).abs() < 4 * best.std() / 4000**0.5)
        True
    """
    drawn = drawn_selectivities(blocks, units=units, draws=draws, seed=seed, members=members)
    return drawn.amax(-1)


def drawn_correlations(
    blocks: BlockInputs, *, units: int, draws: int, seed: int, members: Sequence[int]
) -> Tensor:
    """`(S, V, draws, units)` |correlation| with the latent of units with random weights.

    Args, raises: as `drawn_selectivities`.
    """
    weight = _random_weights(blocks, units, draws, seed, members)
    return blocks.correlations(weight).unflatten(2, (draws, units))


def _random_weights(
    blocks: BlockInputs, units: int, draws: int, seed: int, members: Sequence[int]
) -> Tensor:
    """`(S, V, draws * units, I)` weights uniform in ±1."""
    if min(units, draws) < 1:
        raise ValueError(f"units and draws must be at least 1, got {units} and {draws}")
    if len(members) != len(blocks.difference):
        raise ValueError(
            f"{len(members)} members are given, the inputs are of {len(blocks.difference)}"
        )
    latents, inputs = blocks.difference.shape[1:]
    numbers = uniform(
        latents * draws * units * inputs, seed=check_seed(seed), stream=Stream.NULL,
        members=members, node=units,
    )  # fmt: skip
    return (2 * numbers - 1).view(-1, latents, draws * units, inputs)


def _moments(parts: list[tuple[Tensor, Tensor]], prior: Tensor) -> tuple[Tensor, Tensor]:
    """v `(S, I)` and C `(S, I, I)` of the joint inputs from all children of a latent."""
    means = [likely @ values for values, likely in parts]  # (S, 2, U) E[inputs from a child | z]
    mean = torch.cat(means, 2)  # (S, 2, I)
    # E[x xᵀ | z], (S, 2, I, I): children are independent given z, so between them it factorises
    second = mean[..., :, None] * mean[..., None, :]
    at = 0
    for values, likely in parts:
        own = slice(at, at := at + values.shape[2])
        second[..., own, own] = torch.einsum("skn,sni,snj->skij", likely, values, values)
    p = torch.stack([1 - prior, prior], 1)[:, :, None, None]  # P(z)
    centre = (p[..., 0] * mean).sum(1)
    covariance = (p * second).sum(1) - centre[..., :, None] * centre[..., None, :]
    return (mean[:, 1] - mean[:, 0]) / 2, covariance  # Equation 4.4


def _block_values(
    parts: list[tuple[Tensor, Tensor]], weight: Tensor, bias: Tensor | None, block: int
) -> tuple[Tensor, Tensor]:
    """ReLU outputs `(S, N, U)` of a block at all joint leaf states, and their probabilities `(S, 2, N)`."""
    sizes = np.array([values.shape[1] for values, _ in parts])
    states = int(np.prod(sizes))
    if states > 1 << MOST_LEAVES:
        raise ValueError(
            f"a block has {states} joint leaf states below it, expected at most {1 << MOST_LEAVES}"
        )
    place = all_states(sizes)
    shape = (len(weight), states)
    total, at = weight.new_zeros(*shape, weight.shape[1]), 0
    likely = weight.new_ones(len(weight), 2, states)
    for i, (values, given) in enumerate(parts):
        own = weight[:, :, at : at + values.shape[2]]
        at += values.shape[2]
        total = total + (values @ own.transpose(1, 2))[:, place[:, i]]
        likely = likely * given[:, :, place[:, i]]
    if bias is not None:
        total = total + bias[:, block, None]
    return total.relu(), likely
