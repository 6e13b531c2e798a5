"""Forecasts from the untrained network: which unit will follow each latent best after training.

This is our own; the paper has no such rule. At the start of training the simple loss moves the weights
w along g = 2 Cov_x[Kbar, fbar] (docs/theory.md, Equation 3.4). The forecast follows this one direction,
to w + T g, and computes the correlation of every candidate unit j with the latent there, the inputs x
of the unit unchanged (docs/theory.md, Section 4):

    corr_j = 2 (w_j + T g_j)·v sqrt(p (1 - p)) / sqrt( (w_j + T g_j)ᵀ C (w_j + T g_j) )   (Equation 4.6)

with v half the difference of E[x | z] between the latent's states, C = V[x] and p = P(z = 1). The unit
with the largest |corr_j| is the forecast winner. `growth` sets T: the weights of the layer have then
moved by that many times their own norm. growth = 0 is the rule that the best unit stays the best
(lucky units); a large growth ranks the units by the direction g itself.

g is estimated without bias from pairs of views: Cov_x[Kbar, fbar] is half the gradient of
tr Cov[f(x'), f(x'')], where x' and x'' are two views of the same sample.

Axes: S member, B sample, V node of the level, U unit, I input of a unit, T latent.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dualnets._checks import check_number, check_whole
from dualnets.networks.block_network import BlockNetwork
from dualnets.theory.updates.fitting import (
    check_binary,
    check_finite_weights,
    check_fit,
)
from hltm.sampling.augment import Augmentation, check_augmentation
from hltm.sampling.draw import Draw
from hltm.sampling.philox import Stream, check_seed
from hltm.sampling.sample import sample, views
from hltm.tree import LatentTree


class Forecast(NamedTuple):
    """The forecast for the latents of one level; tensors are float64 unless stated otherwise.

    Attributes:
        winner: `(S, V)` int64, the candidate unit that will follow the latent best.
        strength: `(S, V)` the winner's forecast |correlation| with the latent.
        correlations: `(S, V, U)` the forecast |correlation| of every candidate (Equation 4.6).
        present: `(S, V, U)` the |correlation| of every candidate now, from the same samples.
    """

    winner: Tensor
    strength: Tensor
    correlations: Tensor
    present: Tensor


def growth_direction(
    network: BlockNetwork, trees: LatentTree, augment: Augmentation, *, samples: int, seed: int
) -> list[Tensor]:
    """An unbiased estimate of 2 Cov_x[Kbar, fbar] of every layer (docs/theory.md, Equation 3.4).

    This is the descent direction of the simple loss. It is that of the network's own output,
    normalised or not, and needs no homogeneity.

    Args:
        network: a block network, which stays unchanged.
        trees: one, or as many as the network has members.
        augment: the augmentation of the views.
        samples: the number of samples.
        seed: 64 bits, of samples that training never uses.

    Returns:
        One tensor per layer, of the shape of its weights.

    Raises:
        TypeError: a network that has no blocks, or trees that are none.
        ValueError: trees that do not fit the network, fewer than 2 samples, or weights that are not
            finite.
    """
    check_fit(network, trees)
    check_augmentation(augment)
    check_finite_weights(network)
    check_whole("samples", samples, low=2)
    draw = _evaluation_samples(network, trees, samples, seed)
    pair = views(
        trees.tables, draw, augment.rates(trees), flip_rates=augment.flip_rates(trees), count=2,
        first_view=1,
    )  # fmt: skip
    one, two = (network(view.leaves).double() for view in pair)
    axis = one.ndim - 2  # of the samples
    centred = one - one.mean(axis, keepdim=True)
    # Cov[a, b] = E[(a - E a) b]: centring one factor suffices, and n - 1 makes the estimate unbiased
    covariance = (centred * two).sum() / (samples - 1)
    return [slope.detach() for slope in torch.autograd.grad(covariance, list(network.weights))]


def forecast(
    network: BlockNetwork,
    trees: LatentTree,
    augment: Augmentation,
    *,
    growth: float = 1.0,
    samples: int = 4096,
    seed: int,
) -> dict[int, Forecast]:
    """Level -> the candidate unit that will follow each latent best (docs/theory.md, Equation 4.6).

    Args:
        network: untrained, with blocks or dense. The candidates of a latent are the units of its
            block, or the whole layer of a dense network.
        trees: binary; one, or as many as the network has members.
        augment: the augmentation of the training to come.
        growth: how far to follow the direction, in units of the norm of each layer's weights.
        samples: the number of samples.
        seed: 64 bits, of samples that training never uses.

    Raises:
        TypeError: a network that has no blocks, or trees that are none.
        ValueError: trees that do not fit the network, weights that are not finite, growth below 0 or
            not finite, a network that is not `plain` (of an irregular or shuffled tree, or with shared
            weights), trees that are not binary, or too few samples.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> found = forecast(network, trees, hltm.keep_root(), samples=512, seed=2)
        >>> {level: tuple(part.winner.shape) for level, part in found.items()}
        {1: (2, 4), 2: (2, 2), 3: (2, 1)}
    """
    check_fit(network, trees)
    check_number("growth", growth, low=0)
    if not network.plain:
        raise ValueError(
            "forecasts need blocks that read equal shares of the layer below and do not share weights, "
            f"got {network!r}"
        )
    check_binary(trees)
    directions = growth_direction(network, trees, augment, samples=samples, seed=seed)
    members = len(network.members)
    draw = _evaluation_samples(network, trees, samples, seed)
    with torch.no_grad():
        activations = network.activations(draw.leaves)
    found = {}
    for level in range(1, min(network.depth, trees.topology.depth) + 1):
        weight = network.weights[level - 1].detach().double()
        slope = directions[level - 1].double()
        size = [part.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for part in (weight, slope)]
        moved = weight + growth * size[0] / size[1].clamp_min(1e-300) * slope  # w + T g
        inputs = _inputs(network, level, draw.leaves, activations)  # (S, V, I, B)
        latents = draw.level(level).to(inputs.device)
        targets = (latents if latents.ndim == 3 else latents[None]).double().expand(members, -1, -1)
        found[level] = _score(inputs, weight, moved, targets)
    return found


def _score(inputs: Tensor, weight: Tensor, moved: Tensor, targets: Tensor) -> Forecast:
    """Correlations of `(S, V, U, I)` units on `(S, V, I, B)` inputs with `(S, B, T)` latents."""
    latents = targets - targets.mean(1, keepdim=True)
    spread = latents.square().mean(1).sqrt()  # (S, T)
    centred = inputs - inputs.mean(-1, keepdim=True)
    covariance = centred @ centred.transpose(2, 3) / inputs.shape[-1]  # C, (S, V, I, I)
    own = inputs.shape[1] == latents.shape[2]
    along = "svib,sbv->svi" if own else "svib,sbt->sti"
    # Cov[x, z] = 2 v p (1 - p): the numerator of Equation 4.6 times the latent's deviation, (S, T, I)
    with_latent = torch.einsum(along, centred, latents) / inputs.shape[-1]

    def correlation(units: Tensor) -> Tensor:
        variance = (units @ covariance * units).sum(-1)  # (S, V, U)
        # the one block of a dense layer has candidates for every latent
        joint = (units @ with_latent[..., None])[..., 0] if own else with_latent @ units[:, 0].mT
        alive = variance > 1e-14
        deviation = variance.where(alive, 1).sqrt() * spread.clamp_min(1e-300)[..., None]
        return (joint.abs() / deviation).where(alive, 0).clamp(max=1)

    ahead = correlation(moved)
    strength, winner = ahead.max(-1)
    return Forecast(winner.cpu(), strength.cpu(), ahead.cpu(), correlation(weight).cpu())


def _inputs(
    network: BlockNetwork, level: int, leaves: Tensor, activations: dict[int, Tensor]
) -> Tensor:
    """`(S, V, I, B)` float64 inputs of the blocks of a level."""
    below = leaves.to(network.device) if level == 1 else network.rectify(activations)[level - 1]
    below = below if network.stacked else below[None]
    features = below.flatten(2).double().transpose(1, 2)  # (S, F, B)
    return features.unflatten(1, (network.blocks[level - 1], -1))


def _evaluation_samples(network: BlockNetwork, trees: LatentTree, samples: int, seed: int) -> Draw:
    """Samples of the evaluation's stream, different ones for each member."""
    return sample(
        trees.tables, network.members, samples, seed=check_seed(seed), stream=Stream.EVALUATION,
        stacked=network.stacked, device=network.device,
    )  # fmt: skip
