"""Block networks once more, stupidly: one member, one node at a time, explicit loops."""

from __future__ import annotations

import torch
from torch import Tensor

import hltm


class PlainNetwork:
    """One member of a block network on a tree, with weights of its own for every node (or level).

    Attributes:
        weight, bias: by node, or by level where shared; leaf tensors that collect gradients.
    """

    def __init__(self, network, member: int, topology, states: list[int]) -> None:
        self.topology, self.states, self.network = topology, states, network
        self.order = range(len(states))
        if network.leaf_order is not None:
            self.order = network.leaf_order[member].tolist()
        self.shared = network.shared
        self.weight, self.bias = {}, {}
        for level in range(1, topology.depth + 1):
            nodes = topology.at_level(level)
            for place, v in enumerate(nodes):
                key, place = (-level, 0) if self.shared else (v, place)
                weight = network.weights[level - 1][member, place].detach()
                self.weight[key] = weight[:, : self.fan_in(v)].clone().requires_grad_()
                assert (weight[:, self.fan_in(v) :] == 0).all()
                if network.biases is not None:
                    bias = network.biases[level - 1][member, place].detach()
                    self.bias[key] = bias.clone().requires_grad_()

    def width(self, v: int) -> int:
        if v in self.topology.latents:
            return self.network.units[0]
        count = self.states[self.order[v - self.topology.leaves.start]]
        return count if count > 2 else 1

    def fan_in(self, v: int) -> int:
        return sum(self.width(c) for c in self.topology.children[v])

    def read(self, v: int, leaves: Tensor) -> Tensor:
        """`(B, 1)` bits or `(B, K)` one-hot numbers of the network's leaf v."""
        x = self.order[v - self.topology.leaves.start]
        states = leaves[:, x].long()
        if self.states[x] == 2:
            return states[:, None].double()
        return torch.nn.functional.one_hot(states, self.states[x]).double()

    def __call__(self, leaves: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """`(B, U)` outputs, and level -> `(B, V, U)` pre-activations."""
        value, shown = {}, {}
        for v in reversed(range(len(self.topology))):
            if v in self.topology.leaves:
                value[v] = self.read(v, leaves)
                continue
            key = -int(self.topology.level[v]) if self.shared else v
            joined = torch.cat([value[c] for c in self.topology.children[v]], dim=1)
            before = joined @ self.weight[key].T
            if self.bias:
                before = before + self.bias[key]
            shown[v] = before
            value[v] = before.relu() if v else before
        output = value[0]
        if self.network.normalize:
            output = output / output.norm(dim=1, keepdim=True).clamp_min(1e-12)
        levels = range(1, self.topology.depth + 1)
        return output, {
            level: torch.stack([shown[v] for v in self.topology.at_level(level)], 1)
            for level in levels
        }

    def gradients(self) -> list[Tensor]:
        """Of all parameters, in the network's own shapes and order; padding has none."""
        found = []
        for kind, parameters in (
            (self.weight, self.network.weights),
            (self.bias, self.network.biases),
        ):
            for level, stacked in enumerate(parameters or [], start=1):
                own = torch.zeros_like(stacked[0])
                for place, v in enumerate(self.topology.at_level(level)):
                    key, place = (-level, 0) if self.shared else (v, place)
                    grad = kind[key].grad
                    own[place][..., : grad.shape[-1]] = grad
                found.append(own)
        return found


def dense_topology(leaves: int, layers: int) -> hltm.Topology:
    """A dense network's shape: a chain of latents above all leaves."""
    return hltm.Topology.from_parents([None, *range(layers - 1), *[layers - 1] * leaves])
