"""Which networks compiled code computes exactly: block networks on the CPU that nothing has modified."""

from __future__ import annotations

from typing import TypeGuard

from torch import nn
from torch.nn.modules import module as modules

from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.compiled.conditions import DTYPES, HOOKS


def is_unmodified(network: nn.Module, device: str = "cpu") -> TypeGuard[BlockNetwork]:
    """Whether a network, on a device of this type, computes what `BlockNetwork` does, and no more."""
    if not has_known_parts(network):
        return False
    return network.device.type == device and network.dtype in DTYPES


def has_known_parts(network: nn.Module) -> TypeGuard[BlockNetwork]:
    """Whether a network computes and trains what `BlockNetwork` does on any device, and nothing else.

    False for a subclass, for a part or a forward pass that was replaced, with any hook, and with a
    parameter that is not trained: compiled code would ignore all of them.
    """
    if type(network) is not BlockNetwork or "forward" in vars(network):
        return False
    hooked = (
        getattr(owner, hooks, None)
        for owner in (*network.modules(), *network.parameters())
        for hooks in HOOKS
    )
    # hooks of all modules; torch's own question whether there are any came after 2.6
    hooked_globally = (getattr(modules, f"_global{hooks}", None) for hooks in HOOKS)
    parts = (type(part) for part in network.children())
    return (
        not any(hooked)
        and not any(hooked_globally)
        and all(part in (nn.ParameterList, nn.ModuleList) for part in parts)
        and all(parameter.requires_grad for parameter in network.parameters())
    )
