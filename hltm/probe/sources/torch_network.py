"""Any torch module as a network to probe: leaves are encoded, named layers become units or blocks."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from hltm.probe.sources.capture import find_parts, is_end, per_layer, plain_module, read_parts
from hltm.probe.sources.containers import Label, as_label
from hltm.probe.sources.encodings import ENCODINGS, Encode
from hltm.probe.sources.layer_axes import (
    FEW,
    MANY,
    LayerAxes,
    MixedRows,
    Pool,
    Positions,
    check_axis,
    check_reduction,
    find_axes,
)
from hltm.probe.sources.reading import Part, Selector, Side
from hltm.probe.sources.refusal import refusal
from hltm.probe.sources.undisturbed import kept_state, undisturbed
from hltm.tree import LatentTree


class TorchNetwork:
    """Any torch module as a network to probe: `activations(leaves)`.

    By default the units of a layer are all numbers of its output for one sample: for a convolution,
    every channel at every place. The axis of the samples need not be the first one: the model is run
    on six rows and on two of them, which shows where the batch is and that rows are apart.

    Args:
        model: a torch module.
        layers: names of its parts or patterns, as in `capture`, or name -> label: the number of a
            level, for a layer that is compared with that level's latents, or any text, digits too.
            By default all parts without parts that run once and return a tensor.
        encode: what the model is given, which must be the same as in training: a network that was trained
            on `signs`, as the guides' loaders give them, is another one on `bits`, the default, and no
            error shows it. A name, or a function from leaves `(B, X)` to the model's input: a tensor, a
            tuple of arguments or a mapping of named ones. Names: `bits` and `signs` `(B, X)`; `one-hot`
            `(B, K_1 + … + K_X)`; `one-hot-sequence` `(B, X, K)`; `tokens` `(B, X)` int64. A parameter
            `cardinality`, as `hltm.encode.one_hot` has, is given `states`. Floats are cast to the
            model's dtype.
        states: the number of states of the leaves, or of each, for one-hot encodings; by default those
            of the tree that it is probed on.
        side, select, call: as in `capture`.
        batch_axis: for all layers or layer -> the axis of the samples. It is only needed for a layer
            whose values depend on the other rows, and refused where the rows are on another axis.
        pool, positions, unit_axis: for all layers or layer -> what becomes of positions, as in
            `LayerAxes`: `pool` gives `(B, U)`; `positions` gives `(B, V, U)`, a block for each node of
            the level that is the layer's label, or with `"leaves"` a vector at each leaf, as
            `measure_positions` reads it, under any label; so does a list, which leaves out the
            positions of other tokens. `unit_axis` is the axis of channels or features in the
            layer's own tensor, where its kind does not show it.

    Raises:
        ValueError: a layer that the model does not have, two layers under one label, a label that is
            neither text nor a level, an unknown encoding, pool or positions; in `activations`, as
            `capture`, an input that the model does not take, or a layer without an axis of samples.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> network = TorchNetwork(model, {"0": 1, "2": 2})
        >>> leaves = tree.sample(7, seed=0).leaves
        >>> {level: tuple(a.shape) for level, a in network.activations(leaves).items()}
        {1: (7, 6), 2: (7, 3)}
        >>> rnn = nn.Sequential(nn.Embedding(2, 5), nn.GRU(5, 6, batch_first=True))
        >>> last = TorchNetwork(rnn, ["1[0]"], encode="tokens", pool="last")
        >>> last.activations(leaves)["1[0]"].shape
        torch.Size([7, 6])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] | Mapping[str, Label] | None = None,
        *,
        encode: Encode = "bits",
        states: int | Sequence[int] | None = None,
        side: Side = "output",
        select: Selector | Mapping[str, Selector] | None = None,
        call: int | Mapping[str, int] | None = None,
        batch_axis: int | Mapping[str, int] | None = None,
        unit_axis: int | Mapping[str, int] | None = None,
        pool: Pool | Mapping[str, Pool] | None = None,
        positions: Positions | Mapping[str, Positions] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch module, got a {type(model).__name__}")
        encode = encode.replace("_", "-") if isinstance(encode, str) else encode
        if not callable(encode) and encode not in ENCODINGS:
            raise ValueError(
                f"encode must be one of {', '.join(ENCODINGS)} or a function, got {encode!r:.60}"
            )
        self.model = plain_module(model)
        self.encode, self.states, self.side = encode, states, side
        self.select, self.call = select, call
        if layers is None:
            drops = nn.modules.dropout._DropoutNd  # which do nothing in evaluation mode
            ends = [
                name for name, part in self.model.named_modules()
                if is_end(name, part) and not isinstance(part, drops)
            ]  # fmt: skip
            if not ends:
                raise ValueError(
                    "the model has no part that can be read; torch.jit has compiled it"
                )
            self.parts = {name: Part(name, optional=len(ends) > 1) for name in ends}
            self.labels: dict[str, Label] = {name: name or "output" for name in ends}
        else:
            if not isinstance(layers, Iterable):
                raise ValueError(f"layers must be names of parts, got {layers!r:.80}")
            names = [layers] if isinstance(layers, str) else list(layers)
            self.parts = find_parts(self.model, names)
            self.labels = {name: name for name in self.parts}
            if isinstance(layers, Mapping):
                self.labels = {
                    key: as_label(label)
                    for name, label in layers.items()
                    for key in find_parts(self.model, [name])
                }
        _check_labels(self.labels)
        options = {
            "select": select, "call": call, "batch_axis": batch_axis, "unit_axis": unit_axis,
            "pool": pool, "positions": positions,
        }  # fmt: skip
        self._options = {
            name: per_layer(value, self.parts, name) for name, value in options.items()
        }
        for name in ("batch_axis", "unit_axis"):
            for axis in self._options[name].values():
                check_axis(name, axis)
        for key, label in self.labels.items():
            blocks = self._options["positions"].get(key)
            check_reduction(self._options["pool"].get(key), blocks)
            of_nodes = isinstance(blocks, (bool, str)) and blocks not in (False, "leaves")
            if of_nodes and isinstance(label, str):
                raise ValueError(
                    f"positions of layer {key!r} need its level, e.g. layers={{{key!r}: 1}}, got the label "
                    f"{label!r}; positions='leaves' are those of the leaves"
                )
        self._axes: dict[str, LayerAxes] = {}

    @property
    def reduced(self) -> list[Label]:
        """Labels of the layers that are read with pool or positions, so that units are not all of them."""
        kinds = self._options["pool"], self._options["positions"]
        return [
            label for key, label in self.labels.items()
            if any(kind.get(key) not in (None, False) for kind in kinds)
        ]  # fmt: skip

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter; the CPU where it has none."""
        first = next(self.model.parameters(), None)
        if first is not None and first.is_meta:
            raise ValueError("the model is on the device 'meta', which holds no numbers")
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the model's first parameter of floats; None where it has none."""
        floats = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        return next(floats, None)

    def on(self, tree: LatentTree) -> Self:
        """The same network for the leaves of a tree, whose numbers of states one-hot encodings need."""
        found = copy.copy(self)
        if found.states is None:
            found.states = [int(k) for k in tree.tables.cardinality[list(tree.leaves)]]
        return found

    def activations(self, leaves: Tensor) -> dict[Label, Tensor]:
        """Label -> `(B, U)`, or `(B, V, U)` blocks, for `(B, X)` leaves; with S where leaves have it.

        Modes and buffers stay what they were; random numbers that the model draws move on.
        """
        shape = tuple(leaves.shape) if isinstance(leaves, Tensor) else ()
        if len(shape) not in (2, 3) or (len(shape) == 3 and not shape[0]):
            given = shape or type(leaves).__name__
            raise ValueError(f"leaves must be a tensor (B, X) or (S, B, X), got {given}")
        if leaves.ndim == 3:  # one model on the leaves of S trees, tree by tree
            members = [self.activations(own) for own in leaves]
            return {label: torch.stack([m[label] for m in members]) for label in members[0]}
        self.axes(leaves)
        found = self._read(leaves, list(self._axes))
        return {self.labels[k]: axes(found[k], len(leaves)) for k, axes in self._axes.items()}

    def axes(self, leaves: Tensor) -> dict[Label, LayerAxes]:
        """Label -> the axes of each layer that can be read, found once, with some leaves `(B, X)`."""
        if not self._axes:
            self._axes = self._found_axes(leaves)
        return {self.labels[key]: axes for key, axes in self._axes.items()}

    def inputs(self, leaves: Tensor) -> Any:
        """What the model is given for `(B, X)` leaves: encoded, on its device and of its dtype.

        Raises:
            ValueError: leaves that the encoding does not take, or a one-hot encoding without `states`.
        """
        if not isinstance(self.encode, str):
            counted = self.states is not None and _takes_cardinality(self.encode)
            return self._placed(
                self.encode(leaves, **({"cardinality": self.states} if counted else {}))
            )
        if self.states is None and self.encode.startswith("one-hot"):
            raise ValueError(
                f"encode={self.encode!r} needs states=, the number of states of a leaf"
            )
        return self._placed(ENCODINGS[self.encode](leaves, self.states))

    def _placed(self, made: Any) -> Any:
        """Inputs on the model's device, floats of its dtype."""
        if isinstance(made, Mapping):
            return {name: self._placed(part) for name, part in made.items()}
        if isinstance(made, tuple):
            return tuple(map(self._placed, made))
        if not isinstance(made, Tensor):
            return made
        return made.to(self.device, self.dtype if made.is_floating_point() else None)

    def _read(self, leaves: Tensor, keys: Sequence[str]) -> dict[str, Tensor]:
        """The layers' own tensors, of some of the layers.

        Raises:
            ValueError: also where the model does not run on these inputs.
        """
        try:
            given = self.inputs(leaves)
        except (ValueError, TypeError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ValueError(
                f"encode fails on leaves of shape {tuple(leaves.shape)}: {reason:.120}"
            ) from error
        wanted = {key: self.parts[key] for key in keys}
        own = {
            n: {k: v for k, v in self._options[n].items() if k in wanted}
            for n in ("select", "call")
        }
        chosen = self.select if isinstance(self.select, (int, str, tuple)) else own["select"]
        with kept_state(self.model):
            return read_parts(
                self.model, given, wanted, side=self.side, select=chosen, call=own["call"],
                explain=lambda error: refusal(self.model, given, self.encode, error),
            )  # fmt: skip

    def _found_axes(self, leaves: Tensor) -> dict[str, LayerAxes]:
        """The axes of every layer that can be read, by running the model on six rows and on two."""
        rows = (
            torch.unique(leaves[:64], dim=0)
            if len(leaves)
            else leaves.new_zeros(1, leaves.shape[-1])
        )
        places = torch.arange(MANY, device=rows.device)[:, None]
        if len(rows) < MANY:  # states of the same leaves together otherwise, so that rows differ
            places = places * (1 + torch.arange(rows.shape[-1], device=rows.device)) // 2
        rows = rows.gather(0, (places % len(rows)).expand(MANY, rows.shape[-1]))
        with undisturbed(self.model):
            many = self._read(rows, list(self.parts))
            few = self._read(rows[1 : 1 + FEW], list(many))
        parts = dict(self.model.named_modules(remove_duplicate=False))
        found, reasons = {}, []
        for key in many:
            own = {name: values.get(key) for name, values in self._options.items()}
            part = parts[self.parts[key].name]
            try:
                found[key] = find_axes(key, part, self.model, many[key], few[key], own)
            except MixedRows:
                raise
            except ValueError as error:
                if not self.parts[key].optional:
                    raise
                reasons.append(error)
        if not found:
            raise reasons[0]
        return found


def _takes_cardinality(encode: Callable[..., Any]) -> bool:
    """Whether an encoder has a parameter `cardinality` that is not set yet."""
    try:
        found = inspect.signature(encode).parameters.get("cardinality")
    except ValueError:  # functions that are not written in Python need not have a signature
        return False
    return found is not None and found.default is inspect.Parameter.empty


def _check_labels(labels: Mapping[str, Any]) -> None:
    """Raise unless labels differ and each is text or the number of a level."""
    for name, label in labels.items():
        if not isinstance(label, str) and (type(label) is not int or label < 1):
            raise ValueError(
                f"the label of layer {name!r} must be text or a level 1, 2, …, got {label!r:.60}"
            )
    if len(set(labels.values())) < len(labels):
        raise ValueError(f"labels of layers must be distinct, got {dict(labels)!s:.150}")
