"""One untrained module per member, and one module that holds the parameters and buffers of all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hltm.sampling.philox import Stream, uniform


def build_member(build: Callable[[], nn.Module], seed: int, member: int) -> nn.Module:
    """The module of one member, a function of its address."""
    number = uniform(1, seed=seed, stream=Stream.INIT, members=[member], node=0, view=1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(number.item() * 2**53))
        model = build()
    if not isinstance(model, nn.Module):
        raise ValueError(f"build must return a torch module, got a {type(model).__name__}")
    return model


def stack_members(models: list[nn.Module]) -> nn.Module:
    """The first module with the stacked parameters and buffers of all.

    A parameter without gradient becomes a buffer: every parameter of a network here is trained.

    Raises:
        ValueError: modules whose parameters differ in name or shape, or modules without parameters.
    """
    held = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in models]
    for name, first in held[0].items():
        if torch.nn.parameter.is_lazy(first):
            raise ValueError(f"{name!r} must have a shape before the module runs, but it is lazy")
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.items()} for one in held]
    for other in shapes[1:]:
        if other != shapes[0]:
            raise ValueError(
                f"build must return the same module each time, got {shapes[0]}, {other}"
            )
    stacks: dict[int, Tensor] = {}  # by identity, so that tied parameters remain tied
    for name, first in held[0].items():
        stack = torch.stack([one[name].detach() for one in held])
        trained = isinstance(first, nn.Parameter) and first.requires_grad
        if isinstance(first, nn.Parameter) and first.ndim == 0:
            stack = stack[:, None]  # optimisers expect an axis beside S
        stacks[id(first)] = nn.Parameter(stack) if trained else stack
    if not any(isinstance(stack, nn.Parameter) for stack in stacks.values()):
        raise ValueError("the module has nothing to train")
    for part in models[0].modules():
        for name, buffer in list(part.named_buffers(recurse=False, remove_duplicate=False)):
            setattr(part, name, stacks[id(buffer)])
        for name, parameter in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            stack = stacks[id(parameter)]
            delattr(part, name)
            if isinstance(stack, nn.Parameter):
                part.register_parameter(name, stack)
            else:
                part.register_buffer(name, stack)
    return models[0]
