"""Layers as an operation of autograd: `apply_layers`.

In plain eager mode it calls the kernels directly. Where calls are recorded (`torch.compile`, `make_fx`,
any other dispatch mode) it is the operator `torch.ops.hltm.layers`, whose gradient is the operator
`torch.ops.hltm.layers_backward`, so that a graph has one node for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dualnets.networks.compiled.conditions import has_memory
from dualnets.networks.compiled.passes import Forward, Passes
from dualnets.networks.compiled.plain import plain_layers


def apply_layers(
    passes: Passes, features: Tensor, parameters: Sequence[Tensor], count: int = 1
) -> tuple[Tensor, Tensor]:
    """Outputs and statistics (`passes.Forward`), differentiable with respect to features and parameters.

    Args:
        passes: of a network or a head.
        features: `(S, F, count * B)`, uint8 or of the parameters' dtype.
        parameters: `(S, …)`, contiguous, in the order that `passes` has.
        count: number of passes side by side, each normalised by its own moments.
    """
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        found: tuple[Tensor, Tensor] = torch.ops.hltm.layers(
            features, list(parameters), passes.number, count
        )
        return found
    if torch.is_grad_enabled() and (
        features.requires_grad or any(own.requires_grad for own in parameters)
    ):
        return _Layers.apply(passes, count, features, *parameters)
    output, statistics, _ = passes.forward(features, parameters, count)
    return output, statistics


class _Layers(torch.autograd.Function):
    """The same, without a dispatcher between autograd and the kernels."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, passes: Passes, count: int, features: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = passes.forward(features, parameters, count, keep=True)
        ctx.save_for_backward(features, *parameters)
        ctx.passes, ctx.count, ctx.kept = passes, count, found.kept
        ctx.statistics = found.statistics.detach()
        ctx.mark_non_differentiable(found.statistics)
        return found.output, found.statistics

    @staticmethod
    def backward(ctx: Any, arrived: Tensor, _: Any) -> Any:
        features, *parameters = ctx.saved_tensors
        of_inputs = ctx.needs_input_grad[2]
        if torch.is_grad_enabled() or not has_memory(arrived):
            gradients, inputs = _differentiable(
                ctx.passes, features, parameters, arrived, ctx.count, of_inputs
            )
        else:
            found = Forward(arrived, ctx.statistics, ctx.kept)
            gradients, inputs = ctx.passes.backward(
                features, parameters, arrived, ctx.count, found=found,
                of_inputs=of_inputs,
            )  # fmt: skip
        return None, None, inputs, *gradients


def _differentiable(
    passes: Passes, features: Tensor, parameters: Sequence[Tensor], arrived: Tensor, count: int,
    of_inputs: bool,
) -> tuple[list[Tensor | None], Tensor | None]:  # fmt: skip
    """Gradients by plain torch, which can be differentiated again where autograd is on."""
    wanted = [own for own in (features, *parameters) if own.requires_grad]
    with torch.enable_grad():
        output = plain_layers(passes, features, parameters, count)
    again = torch.is_grad_enabled()
    found = iter(torch.autograd.grad(output, wanted, arrived, create_graph=again))
    inputs = next(found) if features.requires_grad else None
    return [next(found) if own.requires_grad else None for own in parameters], inputs


@torch.library.custom_op(
    "hltm::layers",
    mutates_args=(),
    schema="(Tensor features, Tensor[] parameters, int number, int count) -> (Tensor, Tensor)",
)
def _layers(
    features: Tensor, parameters: Sequence[Tensor], number: int, count: int
) -> tuple[Tensor, Tensor]:
    output, statistics, _ = Passes.numbered(number).forward(features, parameters, count)
    return output, statistics


@_layers.register_fake
def _(features: Tensor, parameters: Sequence[Tensor], number: int, count: int) -> Any:
    passes, like = Passes.numbered(number), parameters[0]
    members, _, columns = features.shape
    return (
        like.new_empty(members, passes.outputs, columns),
        like.new_empty(members, 4, passes.units, count),
    )


@torch.library.custom_op(
    "hltm::layers_backward",
    mutates_args=(),
    schema="(Tensor features, Tensor[] parameters, Tensor arrived, int number, int count, bool of_inputs)"
    " -> Tensor[]",
)
def _layers_backward(
    features: Tensor, parameters: Sequence[Tensor], arrived: Tensor, number: int, count: int, of_inputs: bool
) -> list[Tensor]:  # fmt: skip
    gradients, inputs = Passes.numbered(number).backward(
        features, parameters, arrived, count, of_inputs=of_inputs
    )
    return gradients if inputs is None else [*gradients, inputs]


@_layers_backward.register_fake
def _(
    features: Tensor, parameters: Sequence[Tensor], arrived: Tensor, number: int, count: int, of_inputs: bool
) -> list[Tensor]:  # fmt: skip
    found = [torch.empty_like(own) for own in parameters]
    return [*found, arrived.new_empty(features.shape)] if of_inputs else found


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    features, parameters, ctx.number, ctx.count = inputs
    ctx.save_for_backward(features, *parameters)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, arrived: Tensor, _: Any) -> Any:
    features, *parameters = ctx.saved_tensors
    of_inputs = features.requires_grad
    if torch.is_grad_enabled():
        passes = Passes.numbered(ctx.number)
        gradients, inputs = _differentiable(
            passes, features, parameters, arrived, ctx.count, of_inputs
        )
        return inputs, gradients, None, None
    found = torch.ops.hltm.layers_backward(
        features, parameters, arrived, ctx.number, ctx.count, of_inputs
    )
    return found[-1] if of_inputs else None, found[: len(parameters)], None, None


_layers.register_autograd(_gradients, setup_context=_save)
