"""The target branch of BYOL: a network of its own by address, and its exponential moving average.

S members, U units; a state is a flat dict of tensors with S in front.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from dualnets._lazy import torch
from dualnets.methods.protocol import State, TrainContext, detached_copy
from dualnets.networks.heads import LAYERS
from dualnets.optim.per_member import broadcast_rates

if TYPE_CHECKING:
    from torch import nn

PLACE = 2  # of the random numbers of the target, after those of projector and predictor


def shuffled_parameters(network: nn.Module, setup: TrainContext) -> State:
    """The network's parameters with the entries of each tensor shuffled, per member and by address.

    So they have the distribution of the initial network but are independent of it. Zeros pad the blocks
    of uneven trees and keep their places.
    """
    from hltm.sampling.philox import Stream, uniform

    found = detached_copy(network)
    for number, (name, parameter) in enumerate(network.named_parameters()):
        keys = uniform(
            parameter[0].numel(),
            seed=setup.seed,
            stream=Stream.PREDICTOR,
            members=network.members,  # type: ignore[arg-type]
            node=PLACE * LAYERS + number,
        )
        values = found[name].flatten(1)
        padding = values == 0
        # places and shuffled values, both with the padding last, in equal numbers
        places = padding.to(torch.uint8).argsort(dim=1, stable=True)
        # as whole numbers, since a device may have no float64
        whole = (keys * 2.0**53).long().to(values.device)
        order = whole.masked_fill(padding, 1 << 54).argsort(dim=1, stable=True)
        found[name] = values.scatter(1, places, values.gather(1, order)).view_as(parameter)
    return found


def schedule_factor(schedule: Literal["constant", "cosine"], step: int, steps: int) -> float:
    """The factor of 1 - m at update number `step`, counted from 0, of `steps` updates."""
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * step / steps)) / 2


def moving_average(
    target: State, online: State, rate: float | tuple[float, ...], factor: float
) -> State:
    """target + rate (online - target); integers, such as counters, are those of `online`.

    Args:
        target: tensors by name.
        online: tensors by the same names, and perhaps more.
        rate: 1 - m; one number, or one per member.
        factor: of rates per member, beside which it is given so that these are the same in every step.
    """
    names = [name for name in target if target[name].is_floating_point()]
    olds = [target[n] for n in names]
    news = [online[n].detach().to(target[n].dtype) for n in names]
    if isinstance(rate, tuple):
        pairs = zip(olds, news, strict=True)
        averages = [old.lerp(new, broadcast_rates(rate, old) * factor) for old, new in pairs]
    else:
        averages = list(torch._foreach_lerp(olds, news, rate))
    found = dict(zip(names, averages, strict=True))
    return {name: found[name] if name in found else online[name].clone() for name in target}
