"""The forward pass of a `BlockNetwork` by compiled code."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.modules import module as modules

from dualnets.networks.compiled.blocks import BATCH_NORM, BIAS, GAIN, SHIFT, WEIGHT
from dualnets.networks.compiled.conditions import HOOKS, are_plain
from dualnets.networks.compiled.operation import apply_layers
from dualnets.networks.compiled.passes import Passes
from dualnets.networks.compiled.structure import network_layers
from dualnets.networks.norm_layer import NormLayer
from dualnets.networks.normalizations import Moments

if TYPE_CHECKING:
    from dualnets.networks.block_network import BlockNetwork

FEW = 4  # rows for which nothing is compiled, such as those that show how many units the output has

PARTS = ("_layers", "_output", "_weight")  # methods of a network that the kernels stand for

_known: WeakKeyDictionary[BlockNetwork, tuple[object, Passes | None]] = WeakKeyDictionary()


def network_passes(network: BlockNetwork) -> Passes | None:
    """The passes of a network; None where the kernels cannot compute it."""
    options = network.norm, network.normalize  # attributes that may be changed
    if network not in _known or _known[network][0] != options:
        layers = network_layers(network)
        parts = [(layer, WEIGHT) for layer in range(network.depth)]
        if network.biases is not None:
            parts += [(layer, BIAS) for layer in range(network.depth)]
        for layer, _ in enumerate(network.norms):
            if network.norm is not None and network.norm.affine:
                parts += [(layer, GAIN), (layer, SHIFT)]
        passes = None if layers is None else Passes(layers, parts, normalize=network.normalize)
        _known[network] = options, passes
    return _known[network][1]


def network_parameters(network: BlockNetwork) -> list[Tensor]:
    """The parameters in the order in which `network_passes` has them, weights as products use them."""
    found = [network._weight(layer) for layer in range(network.depth)]
    found += network.biases or []
    for norm in network.norms:
        found += [own for own in (norm.gain, norm.shift) if own is not None]  # type: ignore[misc]
    return [own.contiguous() for own in found]


def network_output(network: BlockNetwork, leaves: Tensor) -> Tensor | None:
    """`(S, U, B)` outputs in training; None where plain torch has to compute them.

    That is so where torch compiles, with parameters of other shapes, and where a method of the network or
    one of its norms was replaced.

    Running moments of a BatchNorm are updated in training.
    """
    if leaves.shape[-2] <= FEW or torch.compiler.is_compiling():
        return None
    if not _is_unchanged(network) or not are_plain(network.parameters()):
        return None
    passes = network_passes(network)
    if passes is None or not _norms_are_known(network):
        return None
    features = network.read(network._checked(leaves).transpose(1, 2))
    if features.dtype != torch.uint8:
        features = features.to(network.dtype)
    if features.requires_grad or features.device.type != "cpu":
        return None
    parameters = network_parameters(network)
    if not passes.fit(features, parameters):
        return None
    output, statistics = apply_layers(passes, features, parameters)
    unit = 0
    for layer, norm in enumerate(network.norms):
        assert isinstance(norm, NormLayer)
        blocks, units = network.blocks[layer], network.units[layer]
        if passes.layers.layout[layer, 3] == BATCH_NORM:
            own = statistics[:, 2:, unit : unit + blocks * units]  # (S, 2, V * U, 1)
            mean, squares = own.unflatten(2, (blocks, units)).unbind(1)
            norm.update_running(Moments(mean, squares / features.shape[2]), features.shape[2])
        unit += blocks * units
    return output


def _norms_are_known(network: BlockNetwork) -> bool:
    """Whether norms are layers that nothing has modified."""
    norms = list(network.norms)
    if not norms:
        return True
    if any(getattr(modules, f"_global{hooks}", None) for hooks in HOOKS):
        return False
    return all(
        type(norm) is NormLayer
        and norm.norm == network.norm
        and not any(getattr(norm, hooks, None) for hooks in HOOKS)
        and "forward" not in vars(norm)
        for norm in norms
    )


def _is_unchanged(network: BlockNetwork) -> bool:
    """Whether a network has the methods of its class."""
    return not any(part in vars(network) for part in PARTS)
