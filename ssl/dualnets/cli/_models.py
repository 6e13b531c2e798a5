"""Models and functions of the user's own: `module:function`, and files of weights."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dualnets
import hltm
from dualnets.cli._foreign_files import UnreadableError, check_plain, load_torch, reason, refusing
from hltm._names import brief, listed

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPED = (
    "state_dict",
    "model_state_dict",
    "model",
)  # under which training scripts store the weights
PREFIXES = ("module.", "_orig_mod.")  # of the names that DataParallel and torch.compile make
OURS = tuple(f"{package.__path__[0]}{os.sep}" for package in (hltm, dualnets))


class UserCode:
    """Functions that are named on the command line, and any error of theirs in one line.

    Example:
        >>> code = UserCode()
        >>> code.function("--encode", "math:sqrt")(4.0)
        2.0
        >>> code.function("--encode", "math:square_root")
        Traceback (most recent call last):
        ValueError: --encode math:square_root: math has no function 'square_root'
    """

    def __init__(self) -> None:
        self.named: dict[tuple[str, str], str] = {}  # (file, function) -> what named it

    def function(self, flag: str, text: str, takes: int | None = None) -> Callable[..., Any]:
        """What `module:name` names; modules are looked for in the working directory, too.

        Args:
            flag, text: of the command line.
            takes: the number of arguments that it is called with, if that is known; an argument
                `cardinality` may be there, too.

        Raises:
            ValueError: another form, a module that cannot be imported, or one without that name, or a
                function of other arguments.
        """
        module, _, name = text.partition(":")
        given = f"{flag} {brief(text, 60)}"
        if not (module and name) or not all(module.split(".")) or "/" in module:
            raise ValueError(f"{flag} must be module:function, got '{brief(text, 60)}'")
        if module.endswith(".py"):
            better = brief(f"{module.removesuffix('.py')}:{name}", 60)
            raise ValueError(f"{given}: a module is named without .py, as in '{better}'")
        here = str(Path.cwd())
        sys.path.insert(0, here)
        try:
            with self.errors(given):
                home = importlib.import_module(module)
                self.named[getattr(home, "__file__", None) or "", name] = given
                found = getattr(home, name, None)
        finally:
            with contextlib.suppress(ValueError):  # the module may have taken it away
                sys.path.remove(here)
        if not callable(found):
            raise ValueError(f"{given}: {brief(module)} has no function '{brief(name)}'")
        if takes is not None and not _accepts(found, takes):
            needs = listed(_needed(found)) or "fewer"
            raise ValueError(f"{given} needs arguments ({needs}), expected a function of {takes}")
        return found

    @contextmanager
    def errors(self, given: str) -> Iterator[None]:
        """Any error in the block as one line: its type and text, and the line of code that it comes from.

        Errors that hltm raises itself pass as they are.
        """
        try:
            yield
        except (KeyboardInterrupt, BrokenPipeError):
            raise
        except BaseException as error:  # a function may also exit
            frames = traceback.extract_tb(error.__traceback__)
            last = frames[-1].filename
            refusal = isinstance(error, (ValueError, MemoryError, OSError)) or not self.named
            if refusal and last.startswith(OURS) and last != __file__:
                raise
            files = {file for file, _ in self.named}
            own = [f for f in frames if f.filename in files]
            own = own or [f for f in frames if _counts(f.filename)]
            for frame in own:
                given = self.named.get((frame.filename, frame.name), given)
            where = ""
            if own and not isinstance(error, SyntaxError):  # whose text ends with its line
                where = f" ({brief(os.path.basename(own[-1].filename))}, line {own[-1].lineno})"
            raise ValueError(f"{given}: {reason(error)}{where}") from error


def _counts(file: str) -> bool:
    """Whether a line of this file may be where a user's function failed."""
    return file != importlib.__file__ and not file.startswith(("<frozen", *OURS))


def make_model(code: UserCode, text: str, weights: str | None) -> nn.Module:
    """The module that `module:function` makes, or is, with the weights of a file.

    Raises:
        ValueError: the function fails, needs arguments or makes something else, or the weights do not
            fit.
    """
    from torch import nn

    build = code.function("--model", text)
    given = f"--model {brief(text, 60)}"
    if isinstance(build, nn.Module):
        model: Any = build
    else:
        needed = _needed(build)
        if needed:
            raise ValueError(
                f"{given} needs arguments ({listed(needed)}), expected a function without"
            )
        with code.errors(given):
            model = build()
    if not isinstance(model, nn.Module):
        if inspect.iscoroutine(model):
            model.close()  # or Python warns that it never ran
        raise ValueError(f"{given} made a {type(model).__name__}, expected a torch module")
    if weights:
        _set_weights(model, weights, code, given)
    return model


def _needed(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return []
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in several]


def _accepts(function: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with this many arguments, or with these and `cardinality`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return True
    for more in ({}, {"cardinality": None}):
        with contextlib.suppress(TypeError):
            signature.bind(*range(count), **more)
            return True
    return False


def _set_weights(model: nn.Module, path: str, code: UserCode, given: str) -> None:
    """Load a state dict; an error counts the names that do not fit.

    Raises:
        UnreadableError: the file is damaged, holds something else, or does not fit.
    """
    state = read_weights(path)
    with code.errors(given):
        expected = model.state_dict()
    for prefix in PREFIXES * 2:  # in either order
        if all(name.startswith(prefix) for name in state) and not state.keys() & expected.keys():
            state = {name.removeprefix(prefix): values for name, values in state.items()}
    lossy = [n for n, own in expected.items() if n in state and _loses_numbers(state[n], own)]
    if lossy:
        raise UnreadableError(path, f"holds complex numbers in {listed(lossy)}, the model has real")
    try:
        model.load_state_dict(state)
    except Exception as error:
        faults = {
            "without weights": [name for name in expected if name not in state],
            "unknown": [name for name in state if name not in expected],
            "of another shape": [
                f"{name} {tuple(state[name].shape)}, expected {tuple(own.shape)}"
                for name, own in expected.items()
                if name in state and hasattr(own, "shape") and state[name].shape != own.shape
            ],
        }
        parts = [f"{len(x)} {what} ({listed(x, 40)})" for what, x in faults.items() if x]
        text = "; ".join(parts) or reason(error)
        raise UnreadableError(path, f"does not fit the model: {text}") from error


def _loses_numbers(stored: Tensor, own: Any) -> bool:
    """Whether torch would load complex numbers without their imaginary parts."""
    return stored.is_complex() and hasattr(own, "is_complex") and not own.is_complex()


def read_weights(path: str) -> dict[str, Tensor]:
    """A state dict: of safetensors, or what `torch.save` wrote; nothing is unpickled.

    Raises:
        UnreadableError: a damaged file, or one that holds no tensors by name.
        OSError: the file cannot be opened.
    """
    from torch import Tensor

    kind = Path(path).suffix.lower()
    check_plain(path)
    if kind == ".safetensors":
        from safetensors.torch import load_file

        with refusing(path):
            return load_file(path)
    if kind not in (".pt", ".pth"):
        raise UnreadableError(path, "expected a file named .safetensors, .pt or .pth")
    held = load_torch(path)
    for key in WRAPPED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping):
        raise UnreadableError(path, f"holds a {type(held).__name__}, expected tensors by name")
    other = [str(name) for name, values in held.items() if not isinstance(values, Tensor)]
    if other or not held:
        shown = listed(other, 60) if other else "nothing"
        raise UnreadableError(path, f"holds {shown}, expected tensors by name")
    return {str(name): values for name, values in held.items()}
