"""The outputs of a network at its leaves' positions as one vector, so that it is called like any network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualnets._precision import at_least_float32


class PositionReader(nn.Module):
    """A network with positions whose output is what it has there: `(S, B, X * U)`.

    Being a module, it can be called with other parameters, which are named `network.…`.

    Args:
        network: one with `positions(leaves)`, `(S, B, X, U)`; with no S axis where it has none.
        layers: number of top layers whose activations at the positions are averaged instead, each normalised
            to mean 0 and variance 1 over the units of a position.
    """

    def __init__(self, network: nn.Module, layers: int = 0) -> None:
        super().__init__()
        self.network, self.layers = network, layers
        self.batch_dependent = getattr(network, "batch_dependent", False)

    def forward(self, leaves: Tensor) -> Tensor:
        """`(S, B, X * U)` outputs of `(S, B, X)` leaves."""
        if self.layers == 0:
            found: Tensor = self.network.positions(leaves)  # type: ignore[operator]
            return found.flatten(-2)
        by_level = self.network.activations(leaves)  # type: ignore[operator]
        top = [by_level[level] for level in sorted(by_level)[-self.layers :]]
        # in float32 at least, as all that a method computes of a network's outputs
        long = [at_least_float32(own) for own in top]
        normalized = [nn.functional.layer_norm(own, own.shape[-1:]) for own in long]
        return torch.stack(normalized).mean(0).flatten(-2)
