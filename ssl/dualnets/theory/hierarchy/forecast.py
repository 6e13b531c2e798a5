"""Forecasts from the untrained network alone: which unit wins each latent, and how well it will do.

Before training, the simple loss moves the weights along g = 2 Cov_x[Kbar, fbar] (theory, Section 3).
The forecast follows this one direction, w + T g, and asks how well every candidate unit would then
follow the latent, its inputs being as they are:

    corr_j = 2 (w_j + T g_j) v sqrt(p (1 - p)) / sqrt( (w_j + T g_j)^T C (w_j + T g_j) )

with v and C the inputs' difference between the latent's states and their covariance, p = P(z = 1).
The unit of largest |corr_j| is the forecast winner. T is set by `growth`: the layer's weights have
then moved by that many times their own norm. growth = 0 is the plain rule that the best unit stays
the best (lucky units); a large growth asks what the direction g itself would be.

The direction is estimated from pairs of views, without bias: Cov_x[Kbar, fbar] is half the gradient of
tr Cov[f(x'), f(x'')] with the two views' samples matched.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dualnets.networks.block_network import BlockNetwork
from dualnets.theory.updates.fitting import check_augmentation, check_fit
from hltm.sampling.augment import Augmentation
from hltm.sampling.draw import Draw
from hltm.sampling.philox import Stream, check_seed
from hltm.sampling.sample import sample, views
from hltm.tree import LatentTree


class Forecast(NamedTuple):
    """Of one level; tensors are float64.

    Attributes:
        winner: `(S, V)` int64, which of the latent's candidates will follow it best.
        strength: `(S, V)` its forecast |correlation| with the latent.
        correlations: `(S, V, U)` the forecast |correlation| of every candidate.
        present: `(S, V, U)` every candidate's |correlation| now, from the same rows.
    """

    winner: Tensor
    strength: Tensor
    correlations: Tensor
    present: Tensor


def growth_direction(
    network: BlockNetwork, trees: LatentTree, augment: Augmentation, *, n: int, seed: int
) -> list[Tensor]:
    """Per layer an unbiased estimate of 2 Cov_x[Kbar, fbar]: the simple loss's descent direction.

    It is of the network's own output, normalised or not, and needs no homogeneity.

    Args:
        network: left as it is.
        trees: one, or as many as the network has members.
        augment: of the views.
        n: samples.
        seed: 64 bits, of rows that no training reads.

    Returns:
        One tensor per layer, of the weights' shape.

    Raises:
        TypeError: what is no block network, or no trees.
        ValueError: trees that do not fit the network, fewer than 2 samples, or weights that are not
            finite.
    """
    check_fit(network, trees)
    check_augmentation(augment)
    for name, weight in network.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{name} of the network must be finite")
    if n < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {n}")
    first, second = _views(network, trees, augment, n, seed)
    weights = list(network.weights)
    one, two = (network(leaves).double() for leaves in (first, second))
    rows = one.ndim - 2
    centred = one - one.mean(rows, keepdim=True)
    # centring one factor is enough; n - 1 makes it unbiased
    covariance = (centred * two).sum() / (n - 1)
    return [slope.detach() for slope in torch.autograd.grad(covariance, weights)]


def forecast(
    network: BlockNetwork,
    trees: LatentTree,
    augment: Augmentation,
    *,
    growth: float = 1.0,
    n: int = 4096,
    seed: int,
) -> dict[int, Forecast]:
    """Level -> which candidate will win each latent, and its correlation with it.

    Args:
        network: untrained; block network or dense. A latent's candidates are its block, or the
            whole layer of a dense network.
        trees: binary; one, or as many as the network has members.
        augment: of the training to come.
        growth: how far along the direction to look, in units of each layer's norm.
        n: samples, of rows that no training reads.
        seed: 64 bits.

    Raises:
        TypeError: what is no block network, or no trees.
        ValueError: trees that do not fit the network, weights that are not finite, growth below 0 or
            not finite, a network that is not `plain` (irregular, shared or wrong trees), trees that
            are not binary, or too few samples.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> found = forecast(network, trees, hltm.keep_root(), n=512, seed=2)
        >>> {level: tuple(part.winner.shape) for level, part in found.items()}
        {1: (2, 4), 2: (2, 2), 3: (2, 1)}
    """
    check_fit(network, trees)
    if not 0 <= growth < float("inf"):
        raise ValueError(f"growth must be at least 0 and finite, got {growth}")
    if not network.plain:
        raise ValueError(
            f"forecasts need blocks on equal shares of the layer below, with weights of their own; "
            f"got {network!r}"
        )
    if (trees.tables.cardinality != 2).any():
        raise ValueError("forecasts are of binary latents, these trees have others")
    directions = growth_direction(network, trees, augment, n=n, seed=seed)
    members = len(network.members)
    draw = _rows(network, trees, n, seed, network.device)
    with torch.no_grad():
        shown = network.activations(draw.leaves)
    found = {}
    for level in range(1, network.depth + 1):
        if level > trees.topology.depth:
            break
        weight = network.weights[level - 1].detach().double()
        slope = directions[level - 1].double()
        size = [part.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for part in (weight, slope)]
        moved = weight + growth * size[0] / size[1].clamp_min(1e-300) * slope
        inputs = _inputs(network, level, draw.leaves, shown)  # (S, V, I, B)
        latents = draw.level(level).to(inputs.device)
        targets = (latents if latents.ndim == 3 else latents[None]).double().expand(members, -1, -1)
        found[level] = _score(inputs, weight, moved, targets)
    return found


def _score(inputs: Tensor, weight: Tensor, moved: Tensor, targets: Tensor) -> Forecast:
    """Correlations of `(S, V, U, I)` units on `(S, V, I, B)` inputs with `(S, B, T)` latents."""
    latents = targets - targets.mean(1, keepdim=True)
    spread = latents.square().mean(1).sqrt()  # (S, T)
    centred = inputs - inputs.mean(-1, keepdim=True)
    covariance = centred @ centred.transpose(2, 3) / inputs.shape[-1]  # (S, V, I, I)
    own = inputs.shape[1] == latents.shape[2]
    along = "svib,sbv->svi" if own else "svib,sbt->sti"
    with_latent = torch.einsum(along, centred, latents) / inputs.shape[-1]  # (S, T, I)

    def correlation(units: Tensor) -> Tensor:
        variance = (units @ covariance * units).sum(-1)  # (S, V, U)
        # a dense layer's one block serves every latent
        joint = (units @ with_latent[..., None])[..., 0] if own else with_latent @ units[:, 0].mT
        alive = variance > 1e-14
        deviation = variance.where(alive, 1).sqrt() * spread.clamp_min(1e-300)[..., None]
        return (joint.abs() / deviation).where(alive, 0).clamp(max=1)

    ahead = correlation(moved)
    strength, winner = ahead.max(-1)
    return Forecast(winner.cpu(), strength.cpu(), ahead.cpu(), correlation(weight).cpu())


def _inputs(network: BlockNetwork, level: int, leaves: Tensor, shown: dict[int, Tensor]) -> Tensor:
    """`(S, V, I, B)` float64: what the blocks of a level read."""
    below = leaves.to(network.device) if level == 1 else network.rectify(shown)[level - 1]
    below = below if network.stacked else below[None]
    features = below.flatten(2).double().transpose(1, 2)  # (S, F, B)
    return features.unflatten(1, (network.blocks[level - 1], -1))


def _rows(
    network: BlockNetwork, trees: LatentTree, n: int, seed: int, device: torch.device
) -> Draw:
    """Rows of the evaluation's stream, one set per network."""
    return sample(
        trees.tables, network.members, n, seed=check_seed(seed), stream=Stream.EVALUATION,
        stacked=network.stacked, device=device,
    )  # fmt: skip


def _views(
    network: BlockNetwork, trees: LatentTree, augment: Augmentation, n: int, seed: int
) -> list[Tensor]:
    draw = _rows(network, trees, n, seed, network.device)
    found = views(trees.tables, draw, augment.rates(trees), count=2, first_view=1)
    return [view.leaves for view in found]
