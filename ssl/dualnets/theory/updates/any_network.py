"""What the theory needs of a network: the weight that is meant, its dtype, and how it reads inputs.

A network is one of this library, whose arrays may have the member axis S in front, or any torch
module. The connection K(x) is that of one sample, so a sample's output may not depend on its batch.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def check_module(network: nn.Module) -> None:
    """Raise TypeError unless the network is a torch module."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch module, got {type(network).__name__}")


def stacked_members(network: nn.Module) -> tuple[int, ...] | None:
    """The members' addresses where the network's arrays have the S axis, else None."""
    members: tuple[int, ...] | None = getattr(network, "members", None)
    return members if getattr(network, "stacked", False) else None


def batch_axis(network: nn.Module) -> int:
    """The axis of the samples in the network's inputs: 1 behind the member axis S, else 0."""
    return int(stacked_members(network) is not None)


def parameter_name(network: nn.Module, layer: int | str) -> str:
    """The name of a weight that is given by its layer, 1 .. L, or by its name.

    Raises:
        ValueError: a layer or name that the network does not have.
    """
    known = [name for name, _ in network.named_parameters()]
    if isinstance(layer, int) and not isinstance(layer, bool):
        weights = getattr(network, "weights", None)
        depth = len(weights) if isinstance(weights, nn.ParameterList) else 0
        if not depth:
            raise ValueError(
                f"layers have numbers only in networks of this library: instead of {layer} give one of "
                f"the names {', '.join(known)}"
            )
        if not 1 <= layer <= depth:
            raise ValueError(f"layer must be in 1..{depth}, got {layer}")
        return f"weights.{layer - 1}"
    if layer not in known:
        raise ValueError(f"unknown weight {layer!r}, expected one of {', '.join(known)}")
    return str(layer)


def in_dtype(network: nn.Module, layer: int | str, dtype: torch.dtype | None) -> nn.Module:
    """The network itself, or its copy in another dtype than that of the weight.

    Copying takes time, so code that needs several connections of a network copies it once.

    Raises:
        TypeError: a network that is not a torch module, or a dtype that is not a floating one.
        ValueError: a layer that the network does not have.
    """
    check_module(network)
    weight = dict(network.named_parameters())[parameter_name(network, layer)]
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating torch.dtype or None, got {dtype!r}")
    return network if dtype in (None, weight.dtype) else copy.deepcopy(network).to(dtype)


def check_one_sample_at_a_time(network: nn.Module) -> None:
    """Raise ValueError where the output for a sample depends on its batch or on chance."""
    for name, module in network.named_modules():
        mixes = isinstance(module, (_BatchNorm, _DropoutNd))
        always = isinstance(module, _BatchNorm) and module.running_mean is None
        if always or (mixes and module.training):
            raise ValueError(
                f"{type(module).__name__} {name!r} makes an output depend on more than its own "
                "sample; call eval() first"
            )
    if getattr(network, "batch_dependent", False) and network.training:
        raise ValueError("the network's outputs depend on the batch in training; call eval() first")


def as_read(network: nn.Module, weight: Tensor, inputs: Tensor) -> Tensor:
    """Inputs as a torch module reads them: numbers in the weight's dtype, or token indices as int64.

    Integers do not show which of the two they are, so numbers are tried first, then indices.

    Raises:
        ValueError: integers that the network reads in neither way.
    """
    numbers = inputs.to(weight.device, weight.dtype)
    if inputs.is_floating_point():
        return numbers
    refusals: list[Exception] = []
    for given in (numbers, inputs.to(weight.device, torch.int64)):
        try:
            with torch.no_grad():
                network(given[:1])
        except (RuntimeError, IndexError, TypeError) as refusal:
            refusals.append(refusal)
        else:
            return given
    raise ValueError(
        f"the network reads these inputs, {inputs.dtype} of shape {tuple(inputs.shape)}, neither as "
        f"numbers ({refusals[0]}) nor as indices ({refusals[1]})"
    ) from refusals[0]
