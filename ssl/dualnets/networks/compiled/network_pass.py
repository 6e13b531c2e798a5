"""The forward pass of a `BlockNetwork` by compiled code."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.modules import module as modules

from dualnets.networks.compiled.blocks import BATCH_NORM, BIAS, GAIN, SHIFT, WEIGHT
from dualnets.networks.compiled.conditions import are_plain
from dualnets.networks.compiled.operation import apply_layers
from dualnets.networks.compiled.passes import Passes
from dualnets.networks.compiled.structure import network_layers
from dualnets.networks.norm_layer import NormLayer
from dualnets.networks.normalizations import Moments

if TYPE_CHECKING:
    from dualnets.networks.block_network import BlockNetwork

FEW = 4  # rows for whose output alone nothing is compiled, such as those that show how many units it has

_known: WeakKeyDictionary[BlockNetwork, Passes | None] = WeakKeyDictionary()


def network_passes(network: BlockNetwork) -> Passes | None:
    """The passes of a network; None where the kernels cannot compute it."""
    if network not in _known:
        layers = network_layers(network)
        parts = [(layer, WEIGHT) for layer in range(network.depth)]
        if network.biases is not None:
            parts += [(layer, BIAS) for layer in range(network.depth)]
        for layer, _ in enumerate(network.norms):
            if network.norm is not None and network.norm.affine:
                parts += [(layer, GAIN), (layer, SHIFT)]
        _known[network] = (
            None if layers is None else Passes(layers, parts, normalize=network.normalize)
        )
    return _known[network]


def network_parameters(network: BlockNetwork) -> list[Tensor]:
    """The parameters in the order in which `network_passes` has them, weights as products use them."""
    found = [network._weight(layer) for layer in range(network.depth)]
    found += network.biases or []
    for norm in network.norms:
        found += [own for own in (norm.gain, norm.shift) if own is not None]  # type: ignore[misc]
    return [own.contiguous() for own in found]


def network_output(network: BlockNetwork, leaves: Tensor) -> Tensor | None:
    """`(S, U, B)` outputs in training; None where plain torch has to compute them.

    Running moments of a BatchNorm are updated in training.
    """
    few = leaves.shape[-2] <= FEW and not torch.is_grad_enabled()
    if few or not are_plain(network.parameters()):
        return None
    passes = network_passes(network)
    if passes is None or not _norms_are_known(network):
        return None
    features = network.read(network._checked(leaves).transpose(1, 2))
    if features.dtype != torch.uint8:
        features = features.to(network.dtype)
    if features.requires_grad or features.device.type != "cpu":
        return None
    output, statistics = apply_layers(passes, features, network_parameters(network))
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
    if modules._has_any_global_hook():
        return False
    return all(
        type(norm) is NormLayer
        and norm.norm == network.norm
        and not (norm._forward_hooks or norm._forward_pre_hooks)
        and not (norm._backward_hooks or norm._backward_pre_hooks)
        and "forward" not in vars(norm)
        for norm in norms
    )
