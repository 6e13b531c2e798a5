"""What plain versions of methods are given: one member's network and batch, slow and plain.

A `plain_<name>.py` beside this file is the plain version of the method `<name>`:

    CASES: dict[str, Method]      label -> instance; every switch appears in some case
    plain_loss(method, f, state, batch) -> scalar
    plain_after_step(method, f, state, batch, step, setup, member, before=None) -> state
    SAMPLES: int | None           size of the fixed data set; left out: fresh data
    AUGMENT, TREE                 left out: keep_root() and binary trees of depth 2, members 1, 2, 3
    LR                            learning rate; left out: 0.05
    STEPS                         how many steps are compared one by one; left out: 4
    NETWORKS                      label -> function (trees, dtype, device) of the case's networks, of 4
                                  outputs; cases behind the first are slow; left out: a `tree_network`
    SLOW                          True where the method shares its code with another, so that promises that
                                  hardly depend on the method are tested by slow tests; left out: False

`state` is a member's, without the S axis, and `member` its address (not its place in the ensemble).
`before` is the pair (f, state) as the loss saw it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from plain_transformer import PlainTransformer
from torch import Tensor


@dataclass
class PlainBatch:
    """One member's data of a step."""

    views: list[Tensor]  # (B, X) each
    # (B, X) each: the sample itself where it is needed, then negatives
    negatives: list[Tensor] = field(default_factory=list)
    targets: Tensor | None = None  # (B, T)
    places: Tensor | None = None  # (B,)


class PlainNetwork:
    """One member of a network of equal blocks: a Python loop over layers and blocks.

    `parameters` are `weights.0` (V, U_out, U_in), `biases.0` (V, U_out), …, as the network names
    them, without the S axis.
    """

    def __init__(self, parameters: Mapping[str, Tensor], normalize: bool) -> None:
        self.parameters = dict(parameters)
        self.normalize = normalize

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> PlainNetwork:
        """The same network with other weights, e.g. a target's."""
        return PlainNetwork(parameters, self.normalize)

    def __call__(self, leaves: Tensor) -> Tensor:
        """(N, X) leaves -> (N, U) outputs."""
        weights = [p for name, p in self.parameters.items() if name.startswith("weights.")]
        hidden = leaves.to(weights[0].dtype)
        for layer, weight in enumerate(weights):
            if layer:
                hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden))
            wide = weight.shape[2]
            parts = []
            for v, block in enumerate(weight):
                part = hidden[:, v * wide : (v + 1) * wide] @ block.T
                if f"biases.{layer}" in self.parameters:
                    part = part + self.parameters[f"biases.{layer}"][v]
                parts.append(part)
            hidden = torch.cat(parts, dim=1)
        if self.normalize:
            hidden = hidden / hidden.square().sum(1, keepdim=True).sqrt()
        return hidden


def plain_member(network, s: int, requires_grad: bool = False) -> PlainNetwork | PlainTransformer:
    """Member number s of a stacked network, copied."""
    parameters = {
        name: p.detach()[s].clone().requires_grad_(requires_grad)
        for name, p in network.named_parameters()
    }
    if hasattr(network, "positions"):
        heads = network.blocks[0].heads
        return PlainTransformer(parameters, network.states, network.causal, heads)
    return PlainNetwork(parameters, network.normalize)


def plain_batch(batch, needs, s: int) -> PlainBatch:
    """Member number s of a stacked batch."""
    passes = [leaves.double() for leaves in batch.leaves[s].split(batch.size)]
    return PlainBatch(
        passes[: needs.views],
        passes[needs.views :],
        None if batch.targets is None else batch.targets[s],
        batch.places,
    )
