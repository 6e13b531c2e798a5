"""The outputs of a `Head` by compiled code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from dualnets.networks.compiled.blocks import BIAS, GAIN, SHIFT, WEIGHT
from dualnets.networks.compiled.conditions import are_plain
from dualnets.networks.compiled.operation import apply_layers
from dualnets.networks.compiled.passes import Passes
from dualnets.networks.compiled.structure import head_layers
from dualnets.networks.normalizations import Moments, standardize

if TYPE_CHECKING:
    from dualnets.networks.heads import Head

NAMES = {"weight": WEIGHT, "bias": BIAS, "gain": GAIN, "shift": SHIFT}


@cache  # for good, as graphs name passes by numbers; equal heads share theirs
def head_passes(head: Head, inputs: int, names: tuple[str, ...]) -> Passes | None:
    """The passes of a head with these parameters; None where the kernels cannot compute it."""
    layers = head_layers(head, inputs)
    split = (name.split(".") for name in names)
    return layers and Passes(layers, [(int(layer), NAMES[part]) for layer, part in split])


def head_output(
    head: Head, parameters: Mapping[str, Tensor], inputs: Tensor, passes: int
) -> tuple[Tensor, dict[int, Moments]] | None:
    """`(S, U, passes * B)` outputs, and the moments `(S, U, passes)` of every layer with a BatchNorm.

    None where plain torch has to compute them.

    Args:
        head: with one layer at least.
        parameters: as in its `init`.
        inputs: `(S, U_in, passes * B)`.
        passes: how many, each normalised by its own moments.
    """
    names = head.parameter_names(parameters)
    given = [parameters[name] for name in names]
    if not are_plain([inputs, *given]):
        return None
    own = head_passes(head, inputs.shape[1], names)
    if own is None:
        return None
    if head.weight_standardization:  # of hidden layers
        last = f"{len(head.widths) - 1}.weight"
        given = [
            standardize(each) if name.endswith("weight") and name != last else each
            for name, each in zip(names, given, strict=True)
        ]
    output, statistics = apply_layers(own, inputs, [each.contiguous() for each in given], passes)
    moments, unit = {}, 0
    samples = inputs.shape[2] // passes
    for layer, width in enumerate(head.widths):
        if head.batch_norm(layer) is not None:
            mean, squares = statistics[:, 2:, unit : unit + width].unbind(1)
            moments[layer] = Moments(mean, squares / samples)
        unit += width
    return output, moments
