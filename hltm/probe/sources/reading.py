"""Reading one part of a running model: which of its runs, which item of what it returns, as a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Side = Literal["output", "input"]
Selector = int | str | tuple[int | str, ...] | Callable[..., Any]


class Part(NamedTuple):
    """A part of a model that is read.

    Attributes:
        name: as in `model.named_modules()`.
        path: of the tensor in what the part returns, `("hidden", 0)` for `x["hidden"][0]`.
        optional: whether it was found by a pattern, and is left out where it cannot be read.
    """

    name: str
    path: tuple[int | str, ...] = ()
    optional: bool = False


class Reading:
    """Copies what one part returns or takes in; a hook of `run_hooked`."""

    def __init__(
        self, key: str, part: Part, side: Side, select: Selector, call: int | None, shared: bool
    ) -> None:
        self.key, self.part, self.side, self.select, self.call = key, part, side, select, call
        self.shared = shared
        self.runs = 0
        self.kept: list[Any] = []
        self.refused: ValueError | None = None
        if call is not None and (not isinstance(call, int) or isinstance(call, bool)):
            raise ValueError(f"call of layer {key!r} must be a whole number, got {call!r:.60}")

    def __call__(self, arguments: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        self.runs += 1
        at = self.call
        if (at is None and self.runs > 1) or (at is not None and 0 <= at != self.runs - 1):
            return
        try:
            self._keep(self._chosen(arguments, named, output))
        except ValueError as error:  # raised later: the model might catch it
            self.refused = self.refused or error

    def _keep(self, values: Any) -> None:
        """A copy of a tensor."""
        what = f"the {self.side} of layer {self.key!r} is a"
        if isinstance(values, Tensor):
            if values.is_nested:
                raise ValueError(f"{what} nested tensor, expected one shape for all rows")
            values = values.detach()
            if values.is_quantized:
                self.kept.append(values.dequantize())
            else:
                self.kept.append(
                    values.clone() if values.layout == torch.strided else values.to_dense()
                )
        elif not self.part.optional:
            inside = ", ".join(_inside(values))
            choose = f"; select one of {inside:.180}" if inside else ""
            raise ValueError(f"{what} {type(values).__name__}, expected a tensor{choose}")

    def result(self) -> Tensor | None:
        """The tensor of the chosen run; None for an optional part without one."""
        at = self.call
        if self.refused is not None:
            if self.part.optional:
                return None
            raise self.refused
        if at is None and self.runs > 1 and not self.part.optional:
            raise ValueError(
                f"layer {self.key!r} runs more than once, {self.runs} times: choose a run with call=0 to "
                f"call={self.runs - 1}, or name a part that runs once"
            )
        if self.part.optional and (not self.kept or (at is None and self.runs > 1)):
            return None
        if not self.runs:
            raise ValueError(f"layer {self.key!r} did not run for these inputs")
        if at is not None and not -self.runs <= at < self.runs:
            raise ValueError(f"layer {self.key!r} runs {self.runs} times, so there is no call={at}")
        return self.kept[at if at is not None and at < 0 else 0]

    def _chosen(self, arguments: Any, named: Mapping[str, Any], output: Any) -> Any:
        """The output or the first argument, or what `select` chooses of them."""
        if callable(self.select):
            given = ((output,), {}) if self.side == "output" else (arguments, named)
            try:
                return self.select(*given[0], **given[1])
            except Exception as error:  # of a function of the user's
                inside = ", ".join(_inside(given[0][0] if self.side == "output" else given[0]))
                raise ValueError(
                    f"select of layer {self.key!r} raised {type(error).__name__}: {error!s:.60}; the "
                    f"{self.side} has {inside or 'no tensors':.120}"
                ) from error
        path = self.select if isinstance(self.select, tuple) else (self.select,)
        if self.side == "input":
            if not path:
                return next(iter((*arguments, *named.values())), None)
            output = named if path[0] in named else arguments
        if self.shared and isinstance(output, Tensor):
            return output
        whole = output
        try:
            for step in path:
                output = _item(output, step)
        except (LookupError, AttributeError, TypeError) as error:
            if self.part.optional:
                return None
            inside = ", ".join(_inside(whole)) or "no tensors"
            place = "".join(f"[{step}]" for step in path)
            raise ValueError(
                f"the {self.side} of layer {self.key!r} has no {place:.60}, expected one of {inside:.160}"
            ) from error
        return output


def _item(values: Any, step: int | str) -> Any:
    """An item by place or key, or an attribute; a tensor has none, its axes are arranged elsewhere."""
    if isinstance(values, Tensor):
        raise TypeError("a tensor")
    if isinstance(step, str) and not isinstance(values, Mapping):
        return getattr(values, step)
    if isinstance(step, int) and isinstance(values, Mapping) and step not in values:
        return list(values.values())[step]
    if isinstance(step, int) and hasattr(values, "__dataclass_fields__"):
        return getattr(values, list(values.__dataclass_fields__)[step])
    return values[step]


def _inside(values: Any, path: str = "", depth: int = 3) -> Iterator[str]:
    """The tensors in a nested output, as `[0][hidden] (9, 3)`, at most a dozen."""
    if isinstance(values, Tensor):
        yield f"{path} {tuple(values.shape)}".strip()
        return
    if isinstance(values, Mapping):
        items = list(values.items())
    elif hasattr(values, "_asdict"):
        items = list(values._asdict().items())
    elif isinstance(values, (tuple, list)):
        items = list(enumerate(values))
    else:
        items = list(vars(values).items()) if hasattr(values, "__dict__") else []
    for key, item in items[:12] if depth else ():
        yield from _inside(item, f"{path}[{key}]", depth - 1)
