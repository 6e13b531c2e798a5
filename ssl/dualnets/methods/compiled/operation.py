"""A compiled loss as an operation of torch: when it may be used, and its gradient.

S members, B samples, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from numba import config
from torch import Tensor

from dualnets.networks.compiled.conditions import are_known
from hltm.sampling.kernels import threads

NAMESPACE = "dualnets"
GRAIN = 1 << 16  # fewer numbers than this are not worth a second thread


def is_supported(*tensors: Tensor) -> bool:
    """Whether compiled code computes the same for these tensors, and what may become of them.

    Where torch compiles, or numba does not, plain torch is used.
    """
    return (
        are_known(tensors) and not torch.compiler.is_compiling() and not config.DISABLE_JIT  # type: ignore[attr-defined]
    )


class Kernel:
    """A compiled function `(low, high, …)` of members low .. high - 1, and how an operation calls it.

    Args:
        function: releases the interpreter's lock.
        arguments: (arguments of the operation, its results) -> what the function takes behind low and high.
        batch_last: places of the arguments `(S, B, U)` that `arguments` is given as `(S, U, B)`, contiguous.
        exact: the place behind low and high of an array `(S,)` that says which members have results;
            those of the others are left to the operation.
    """

    def __init__(
        self, function: Any, arguments: Callable[..., tuple[Any, ...]], batch_last: tuple[int, ...],
        exact: int | None = None,
    ) -> None:  # fmt: skip
        self.function, self.arguments, self.batch_last = function, arguments, batch_last
        self.exact = exact

    def __call__(self, each: int, *given: Any) -> tuple[Any, ...]:
        """Fill the results; `each` is about how many numbers one member's work passes over."""
        prepared = [batch_last(own) if i in self.batch_last else own for i, own in enumerate(given)]
        arguments = self.arguments(*prepared)

        def work(low: int, high: int) -> None:
            self.function(low, high, *arguments)

        share_members(len(given[0]), each, work)
        return arguments


KERNELS: dict[str, Kernel] = {}  # name of an operation -> its kernel, which fills its results


def register_gradient(operation: Any, plain: Callable[..., Tensor], differentiable: int) -> None:
    """Let autograd differentiate an operation that returns losses and their gradients.

    Where the gradient itself is to be differentiated, it is computed in plain torch.

    Args:
        operation: made by `torch.library.custom_op`. It returns losses, `(S,)` or `(S, B)`, and the
            gradients, `(S, B, U)`, of their sum with respect to its first arguments.
        plain: the losses of the same arguments in plain torch.
        differentiable: how many of the first arguments have gradients.
    """

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.inputs = [None if isinstance(own, Tensor) else own for own in inputs]
        ctx.save_for_backward(*(own for own in inputs if isinstance(own, Tensor)), *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    def differentiate(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [None] * len(ctx.inputs)
        if upstream is None:
            return tuple(found)
        saved = list(ctx.saved_tensors)
        gradients = saved[-differentiable:]
        if torch.is_grad_enabled():
            given = [saved.pop(0) if own is None else own for own in ctx.inputs]
            wanted = [given[i] for i in range(differentiable)]
            gradients = _differentiated_plainly(plain, given, wanted, upstream)
        else:
            needed = zip(gradients, ctx.needs_input_grad, strict=False)
            gradients = [_scaled(own, upstream) if need else None for own, need in needed]
        found[:differentiable] = gradients
        return tuple(found)

    operation.register_autograd(differentiate, setup_context=keep)


def _scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """The gradient of each loss times the loss's own; upstream has the first axes of the gradient."""
    return gradient * upstream[(..., *[None] * (gradient.ndim - upstream.ndim))]


def _differentiated_plainly(
    plain: Callable[..., Tensor], given: list[Any], wanted: list[Tensor], upstream: Tensor
) -> list[Tensor | None]:
    """Gradients that can be differentiated again; None for what needs none."""
    needed = [own for own in wanted if own.requires_grad]
    found = iter(torch.autograd.grad(plain(*given), needed, upstream, create_graph=True))
    return [next(found) if own.requires_grad else None for own in wanted]


def share_members(members: int, each: int, work: Callable[[int, int], None]) -> None:
    """Call `work(low, high)` for shares of the members, on as many threads as torch uses if that is worth it.

    Args:
        members: S.
        each: about how many numbers one member's work passes over.
        work: a kernel, which releases the interpreter's lock.
    """
    many = torch.get_num_threads() if members * each > GRAIN else 1

    def several(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            work(low, high)

    threads.share(several, members, threads=many, grain=-(-members // (4 * many)))


def batch_last(values: Tensor) -> Tensor:
    """`(S, U, B)` contiguous, from `(S, B, U)`: without a copy where storage is batch-last already."""
    return values.detach().transpose(1, 2).contiguous()


def new_gradient(like: Tensor) -> Tensor:
    """`(S, B, U)` not yet filled, in batch-last storage."""
    members, batch, units = like.shape
    return like.new_empty(members, units, batch).transpose(1, 2)
