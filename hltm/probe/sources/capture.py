"""Activations of any torch module by the names of its parts."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from hltm.probe.sources.reading import Part, Reading, Selector, Side
from hltm.probe.sources.undisturbed import kept_state

PARAMETERS = {"parametrizations", "_packed_params"}  # parts that a part keeps its parameters in


def capture(
    model: nn.Module,
    inputs: Any,
    layers: str | Sequence[str],
    *,
    side: Side = "output",
    select: Selector | Mapping[str, Selector] | None = None,
    call: int | Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """The outputs, or inputs, of named parts of a module.

    The output of a linear part is pre-activation; the output of the nonlinearity behind it is
    post-activation, and so is the input of the next linear part, which is needed where the
    nonlinearity is a function and not a module. The model runs once, in evaluation mode, without
    gradients and without compiled code, which would pass over its parts; the mode and the buffers of
    every part are restored.

    Args:
        inputs: its argument; a tuple for several arguments, a mapping for named ones.
        layers: names as in `model.named_modules()`; patterns such as `blocks.*.mlp` stand for those of
            the matching parts that run once and return a tensor; `attn[0]` or `out[hidden]` is one
            item of what a part returns (a tuple, mapping or object with attributes).
        side: `output`, or `input` for the first argument of the named part, before it runs.
        select: for all layers or layer -> which item: a place or a name, a tuple of them for nested
            items, or a function of the output; on the input side places and names of arguments, or a
            function of all arguments.
        call: for all layers or layer -> which run of a part that runs several times, from 0; -1 is the
            last one.

    Returns:
        name -> a copy of the tensor, in its own shape, dtype and device. A later in-place operation
        does not change it.

    Raises:
        ValueError: a name that the model does not have (the error lists those that it has), no name,
            a part that does not run or runs more than once without `call`, a part whose output is no
            tensor without `select` (the error lists what is inside), or a side that is neither output
            nor input.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> found = capture(model, torch.zeros(3, 8), ["0", "1"])
        >>> {name: tuple(values.shape) for name, values in found.items()}
        {'0': (3, 5), '1': (3, 5)}
        >>> found["1"].equal(found["0"].relu())
        True
        >>> rnn = nn.LSTM(8, 5, batch_first=True)  # returns (output, (h, c))
        >>> capture(rnn, torch.zeros(3, 4, 8), "", select=(1, 0))[""].shape
        torch.Size([1, 3, 5])
    """
    model = plain_module(model)
    wanted = find_parts(model, [layers] if isinstance(layers, str) else layers)
    with kept_state(model):
        return read_parts(model, inputs, wanted, side=side, select=select, call=call)


class Unread(ValueError):
    """A model that is not run: what is to be read of it cannot be."""


def plain_module(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` has wrapped, or the module itself."""
    found: nn.Module = getattr(model, "_orig_mod", model)
    return found


def read_parts(
    model: nn.Module,
    inputs: Any,
    wanted: Mapping[str, Part],
    *,
    side: Side = "output",
    select: Selector | Mapping[str, Selector] | None = None,
    call: int | Mapping[str, int] | None = None,
    explain: Callable[[Exception], str] | None = None,
) -> dict[str, Tensor]:
    """As `capture`, of parts from `find_parts`; buffers may change.

    Args:
        explain: what to say, in a ValueError, where the model itself fails; by default its own error.
    """
    chosen, runs = per_layer(select, wanted, "select"), per_layer(call, wanted, "call")
    shared = isinstance(select, (int, str, tuple))  # one choice for all leaves plain tensors alone
    reading = {
        key: Reading(key, part, side, chosen.get(key, part.path), runs.get(key), shared)
        for key, part in wanted.items()
    }
    hooks = {key: (part.name, reading[key]) for key, part in wanted.items()}
    try:
        run_hooked(model, inputs, hooks, side)
    except Unread:
        raise
    except Exception as error:
        if explain is None:
            raise
        raise ValueError(explain(error)) from error
    found = {key: read.result() for key, read in reading.items()}
    kept = {key: values for key, values in found.items() if values is not None}
    if not kept:
        names = ", ".join(map(repr, list(wanted)[:8]))
        raise ValueError(
            f"none of {names} runs once and returns a tensor; name a part, with select= or call="
        )
    return kept


def find_parts(model: nn.Module, layers: Sequence[str]) -> dict[str, Part]:
    """Layer as it was named -> the part that is meant; patterns become the parts that match them.

    Raises:
        ValueError: no layer, or one that the model does not have.

    Example:
        >>> find_parts(nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2)), ["?", "1[0]"])
        {'0': Part(name='0', path=(), optional=True), '1': Part(name='1', path=(), optional=True),
         '1[0]': Part(name='1', path=(0,), optional=False)}
    """
    parts = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, Part] = {}
    for given in layers:
        if not isinstance(given, str):
            raise ValueError(f"layers must be names of parts, got {given!r:.80}")
        base, path = given, ""
        items = None if given in parts else re.fullmatch(r"(.*?)((?:\[[^\[\]]+\])+)", given)
        if items and items[1] in parts:  # an item, also where a part's name fits it as a pattern
            base, path = items[1], items[2]
        matches = [] if base in parts else fnmatch.filter([n for n in parts if n], base)
        if items and not matches and base not in parts:
            base, path = items[1], items[2]
            matches = fnmatch.filter([n for n in parts if n], base)
        if base not in parts and not matches:
            near = difflib.get_close_matches(base, [n for n in parts if n], n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"the model has no layer {given!r:.80}{hint}; it has {_listed(parts)}")
        steps = tuple(
            int(step) if re.fullmatch(r"-?\d+", step) else step
            for step in re.findall(r"\[([^\[\]]+)\]", path)
        )
        for name in matches or [base]:
            found.setdefault(name + path, Part(name, steps, bool(matches)))
    if not found:
        raise ValueError(f"layers is empty; the model has {_listed(parts)}")
    return found


def is_end(name: str, part: nn.Module) -> bool:
    """Whether a part runs as one: it has no parts, or only those that compute or hold its parameters.

    Example:
        >>> scaled = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        >>> [name for name, part in nn.Sequential(scaled, nn.ReLU()).named_modules() if is_end(name, part)]
        ['0', '1']
    """
    own = all(child in PARAMETERS for child, _ in part.named_children())
    inner = PARAMETERS.isdisjoint(name.split("."))
    return own and inner and not isinstance(part, torch.jit.ScriptModule)


def run_hooked(
    model: nn.Module, inputs: Any, hooks: Mapping[Any, tuple[str, Callable[..., None]]], side: Side
) -> Any:
    """What the model returns, run once in evaluation mode and without gradients.

    Args:
        hooks: for each part, by name, a function of its arguments, named arguments and output; on the
            input side it is called before the part runs, with None for the output.

    Raises:
        ValueError: a side that is neither output nor input, a part that torch.jit has compiled, or
            parameters that are not initialized.
    """
    if side not in get_args(Side):
        raise Unread(f"side must be 'output' or 'input', got {side!r}")
    lazy = [name for name, values in model.named_parameters() if nn.parameter.is_lazy(values)]
    if lazy:
        raise Unread(
            f"parameter {lazy[0]!r} is not initialized; run the model on a batch of its own before"
        )
    parts = dict(model.named_modules(remove_duplicate=False))

    def before(read: Callable[..., None]) -> Any:
        return lambda module, arguments, named: read(arguments, named, None)

    def behind(read: Callable[..., None]) -> Any:
        return lambda module, arguments, named, output: read(arguments, named, output)

    handles = []
    try:
        for name, read in hooks.values():
            try:
                if side == "input":
                    hook = parts[name].register_forward_pre_hook(before(read), with_kwargs=True)
                else:
                    hook = parts[name].register_forward_hook(behind(read), with_kwargs=True)
            except RuntimeError as error:
                raise Unread(
                    f"layer {name!r} is compiled by torch.jit, so it cannot be read; give the module that "
                    "was compiled"
                ) from error
            handles.append(hook)
        with _as_evaluated(model), torch.no_grad():
            if isinstance(inputs, Mapping):
                return model(**inputs)
            return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _as_evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with all parts run as modules: neither compiled nor fused into one kernel."""
    modes = {part: part.training for part in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    compiled = any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) for part in modes
    )
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model.eval()
        with eager:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for part, mode in modes.items():
            part.training = mode


def per_layer(given: Any, wanted: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Layer -> its value, from one value for all or a mapping by layer.

    Raises:
        ValueError: a layer that is not wanted.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return dict.fromkeys(wanted, given)
    found: dict[str, Any] = {}
    for name, value in given.items():
        fitting = [name] if name in wanted else []
        if isinstance(name, str) and not fitting and not name.endswith("]"):  # else it is an item
            fitting = fnmatch.filter(wanted, name)
        if not fitting:
            raise ValueError(
                f"{what} names no layer {name!r:.60}, expected {_listed(wanted, empty=True)}"
            )
        found |= dict.fromkeys(fitting, value)
    return found


def _listed(parts: Mapping[str, Any], *, empty: bool = False) -> str:
    """Names of parts for an error, as many as fit in a line, with that of the whole model or without."""
    names = [repr(name) for name in parts if name or empty]
    shown = 0
    while shown < len(names) and len(", ".join(names[: shown + 1])) < 150:
        shown += 1
    return ", ".join(names[:shown]) + (", …" if shown < len(names) else "") or "none"
