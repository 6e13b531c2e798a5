"""Why a model does not run on the inputs that it is given, in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from hltm.probe.sources.capture import is_end, run_hooked


def refusal(
    model: nn.Module, given: Any, encode: str | Callable[..., Any], error: Exception
) -> str:
    """What the encoding gives, the part that does not take it, and why.

    Example:
        >>> import torch
        >>> refusal(nn.Linear(3, 2), torch.zeros(5, 4), "bits", RuntimeError("4 are not 3"))
        "the model does not take (5, 4) float32, which encode='bits' gives; its part '', Linear(in_features=3,
        out_features=2), was given (5, 4) float32: 4 are not 3"
    """
    entered: list[tuple[str, str]] = []

    def enter(name: str, values: Any) -> None:
        entered.append((name, _shown(values)))

    ends = {name: part for name, part in model.named_modules() if is_end(name, part)}
    hooks = {
        name: (name, lambda arguments, named, _, name=name: enter(name, arguments)) for name in ends
    }
    with contextlib.suppress(Exception):  # the same error again
        run_hooked(model, given, hooks, "input")
    at, name = "", encode if isinstance(encode, str) else getattr(encode, "__name__", "…")
    if entered:
        last, shape = entered[-1]
        kind = type(ends[last]).__name__
        size = ends[last].extra_repr().partition(", bias")[0]
        at = f"; its part {last!r:.40}, {kind:.30}({size:.40}), was given {shape:.40}"
    known = isinstance(error, (RuntimeError, ValueError, TypeError)) and str(error)
    reason = (str(error) if known else f"{type(error).__name__}: {error}").partition("\n")[0]
    if entered and isinstance(ends[last], nn.Embedding) and encode != "tokens":
        reason = "an embedding needs encode='tokens'"
    return f"the model does not take {_shown(given):.50}, which encode={name!r:.30} gives{at}: {reason:.80}"


def _shown(values: Any) -> str:
    """Shape and dtype of inputs, for an error."""
    if isinstance(values, Mapping):
        return "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in values.items()) + "}"
    if isinstance(values, tuple):
        return ", ".join(map(_shown, values))
    if isinstance(values, Tensor):
        return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"
    return type(values).__name__
