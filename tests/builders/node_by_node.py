"""Plain twins of networks: one member, one node at a time, explicit loops, torch's own norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dualnets
import hltm


class PlainNetwork:
    """One member of a block network, with weights of its own for every node (or level, where shared).

    Attributes:
        weight, bias, norm: by node, or by level where shared; their gradients are collected.
    """

    def __init__(self, network, member: int, topology, states: list[int]) -> None:
        self.topology, self.states, self.network = topology, states, network
        self.order = range(len(states))
        if network.leaf_order is not None:
            self.order = network.leaf_order[member].tolist()
        self.weight, self.bias, self.norm = {}, {}, {}
        for v in topology.latents:
            level, place = int(topology.level[v]), self.place(v)
            weight = network.weights[level - 1][member, place].detach()
            assert (weight[:, self.fan_in(v) :] == 0).all()  # padding
            self.weight[self.key(v)] = weight[:, : self.fan_in(v)].clone().requires_grad_()
            if network.biases is not None:
                bias = network.biases[level - 1][member, place].detach()
                self.bias[self.key(v)] = bias.clone().requires_grad_()
            if network.norm is not None and v > 0:
                self.norm[self.key(v)] = self.torchs_norm(network.norm)

    def torchs_norm(self, norm) -> nn.Module:
        units = self.network.units[0]
        if isinstance(norm, dualnets.BatchNorm):  # momentum None: the mean of all batches
            made = nn.BatchNorm1d(units, norm.epsilon, momentum=None, affine=norm.affine)
        elif isinstance(norm, dualnets.LayerNorm):
            made = nn.LayerNorm(units, norm.epsilon, elementwise_affine=norm.affine)
        else:
            made = nn.GroupNorm(norm.groups, units, norm.epsilon, affine=norm.affine)
        return made.double()

    def key(self, v: int) -> int:
        return -int(self.topology.level[v]) if self.network.shared else v

    def place(self, v: int) -> int:
        first = self.topology.at_level(int(self.topology.level[v])).start
        return 0 if self.network.shared else v - first

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
        return nn.functional.one_hot(states, self.states[x]).double()

    def product(self, v: int, joined: Tensor) -> Tensor:
        weight = self.weight[self.key(v)]
        if self.network.weight_standardization and v > 0:
            rows = []
            for row in weight:
                row = row - row.mean()
                rows.append(row / (row.square().mean() + 1e-5).sqrt() / len(row) ** 0.5)
            weight = torch.stack(rows)
        found = joined @ weight.T
        return found + self.bias[self.key(v)] if self.bias else found

    def before(self, leaves: Tensor, training: bool) -> dict[int, Tensor]:
        """Pre-activations `(B, U)` of every latent."""
        topology = self.topology
        value = {v: self.read(v, leaves) for v in topology.leaves}
        found = {}
        for level in range(1, topology.depth + 1):
            nodes = topology.at_level(level)
            for v in nodes:
                children = [value[c] for c in topology.children[v]]
                found[v] = self.product(v, torch.cat(children, dim=1))
            if self.norm and level < topology.depth:
                for group in [nodes] if self.network.shared else [[v] for v in nodes]:
                    norm = self.norm[self.key(group[0])].train(training)
                    normed = norm(torch.cat([found[v] for v in group]))
                    found |= dict(zip(group, normed.split(len(leaves)), strict=True))
            value |= {v: found[v].relu() for v in nodes}
        return found

    def output(self, leaves: Tensor, training: bool = True) -> Tensor:
        """`(B, U)`."""
        output = self.before(leaves, training)[0]
        if self.network.normalize:
            output = output / output.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return output

    def shown(self, leaves: Tensor) -> dict[int, Tensor]:
        """Level -> `(B, V, U)` pre-activations in evaluation."""
        found = self.before(leaves, training=False)
        levels = range(1, self.topology.depth + 1)
        return {
            level: torch.stack([found[v] for v in self.topology.at_level(level)], 1)
            for level in levels
        }

    def gradients(self) -> dict[str, Tensor]:
        """Name of a parameter -> one member's gradient, in the network's own shape; padding has none."""
        network, found = self.network, {}
        for name, parameter in network.named_parameters():
            found[name] = torch.zeros_like(parameter[0])
        for v in self.topology.latents:
            layer, place, key = int(self.topology.level[v]) - 1, self.place(v), self.key(v)
            grad = self.weight[key].grad
            found[f"weights.{layer}"][place][:, : grad.shape[1]] = grad
            if self.bias:
                found[f"biases.{layer}"][place] = self.bias[key].grad
            if key in self.norm and network.norm.affine:
                found[f"norms.{layer}.gain"][place, :, 0] = self.norm[key].weight.grad
                found[f"norms.{layer}.shift"][place, :, 0] = self.norm[key].bias.grad
        return found


def dense_topology(leaves: int, layers: int) -> hltm.Topology:
    """A dense network's shape: a chain of latents above all leaves."""
    return hltm.Topology.from_parents([None, *range(layers - 1), *[layers - 1] * leaves])


class PlainModule:
    """One member of a TorchEnsemble: the module itself."""

    def __init__(self, network, member: int, build) -> None:
        self.network, self.model = network, build().to(network.dtype)
        own = {name: tensor[member] for name, tensor in network.model.state_dict().items()}
        self.model.load_state_dict(own)

    def features(self, leaves: Tensor) -> Tensor:
        return leaves.to(self.network.dtype)

    def output(self, leaves: Tensor, training: bool = True) -> Tensor:
        return self.model.train(training)(self.features(leaves))

    def shown(self, leaves: Tensor) -> dict[int, Tensor]:
        layers = self.network.layers
        found = hltm.probe.capture(self.model, self.features(leaves), list(layers.values()))
        return {level: found[name].flatten(1) for level, name in layers.items()}

    def gradients(self) -> dict[str, Tensor]:
        named = self.model.named_parameters()
        return {f"model.{name}": torch.atleast_1d(p.grad) for name, p in named}
