"""What memory a training takes, known from shapes before any of it is allocated.

One step of one member is computed without numbers, on torch's device `meta`, and all that it keeps is
counted. That takes a while, so a step that is surely small is computed with numbers, and where all members
together are surely small nothing is computed. The settings alone, not the machine, decide which.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Batch
from dualnets.networks.heads import Head
from dualnets.training.state import TrainConfig, trained_tensors
from hltm._memory import physical_memory

SMALL = 1 << 28  # bytes that may be allocated to measure a member
COUNTABLE = 1 << 64  # bytes beyond which sizes overflow
LOOSENESS = 16  # `upper_bound` is at most this many times what a member takes
BYTES_PER_DRAW = 64  # of a random number while it is drawn
WIDTHS = "widths"  # the name of the widths of a method's heads among its numbers
Network = TypeVar("Network", bound=nn.Module)


class Footprint(NamedTuple):
    """Bytes that one member takes in training.

    Attributes:
        stored: parameters, the method's state and the optimiser's memory; of all members.
        data: rows that are kept from step to step; of all members.
        shared: rows that are kept once for all members.
        working: gradients and all that one step keeps for the backward pass, or what drawing the
            initial state takes; only of members that are trained at once.
        largest: name and shape of the largest tensor of the state, or of the network.
        setting: the setting that its size comes from.
        sizes: the setting of how large the network's layers are.
    """

    stored: int
    data: int
    shared: int
    working: int
    largest: str
    setting: str
    sizes: str

    @property
    def each(self) -> int:
        """What one more member takes."""
        return self.stored + self.data + self.working


def with_tensors(network: Network, tensors: dict[int, Tensor]) -> Network:
    """A copy of a network with other tensors: id of a parameter or buffer -> its values."""
    made: dict[int, Any] = {}
    for own in (*network.parameters(), *network.buffers()):
        other = tensors[id(own)]
        if isinstance(own, nn.Parameter):
            other = nn.Parameter(other, own.requires_grad)
        made[id(own)] = other
    return copy.deepcopy(network, made)


def take(network: Network, low: int, high: int) -> Network:
    """Members low .. high - 1 of a network, copied; no other member is."""
    return pick(network, range(low, high))


def pick(network: Network, chosen: Sequence[int]) -> Network:
    """These members of a network, copied; no other member is.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> pick(dualnets.tree_network(tree, units=3, members=5, seed=1), [1, 4]).members
        (1, 4)
    """
    at = slice(chosen.start, chosen.stop) if isinstance(chosen, range) else [*chosen]
    held = (*network.parameters(), *network.buffers())
    found = with_tensors(network, {id(own): own.detach()[at].clone() for own in held})
    found.members = tuple(network.members[i] for i in chosen)  # type: ignore[index, assignment]
    return found


def footprint(network: nn.Module, config: TrainConfig) -> Footprint:
    """What one member takes.

    Raises:
        MemoryError: tensors so large that their bytes cannot be counted.
    """
    one, alone = take(network, 0, 1).train(), config.of_members(0, 1)
    bound = upper_bound(one, alone)
    if bound <= SMALL:
        return _measured(one, alone)
    if bound < COUNTABLE:
        device = next(network.parameters()).device
        try:
            return _measured(one.to("meta"), alone)
        except Exception:  # what cannot run on `meta`, such as an encoding through numpy
            if bound < LOOSENESS * memory_of(device):
                return _measured(take(network, 0, 1).train(), alone)
    given = {"batch": config.context.batch, "samples": config.context.samples or 0}
    name, size = max([*given.items(), *_numbers(config.method)], key=lambda pair: pair[1])
    raise MemoryError(
        f"a member may take up to {bound / 2**30:.3g} GiB, more than there can be; lower {name}, {size}"
    )


def upper_bound(one: nn.Module, config: TrainConfig) -> int:
    """Bytes that a member surely does not exceed, found quickly; up to `LOOSENESS` times what it takes.

    What the network keeps of a row is measured with two rows. The method is not run: any two of
    the sizes in its settings, and the rows, are assumed to make a matrix.
    """
    needs, data = config.method.needs, config.data
    rows = config.context.batch * needs.passes
    parameters = list(one.parameters())
    like = parameters[0]
    kept: dict[int, int] = {}
    zeros = torch.zeros(2, data.inputs, dtype=data.dtype, device=like.device)
    with _keeping(kept):
        output = one(zeros[None] if one.stacked else zeros)
    own = {p.untyped_storage().data_ptr() for p in parameters}
    per_row = sum(size for place, size in kept.items() if place not in own) + output.nbytes
    numbers = list(_numbers(config.method))
    widths = [output.shape[-1], *(size for name, size in numbers if name == WIDTHS)]
    sizes = sorted([1, rows, *(size for name, size in numbers if name != WIDTHS)])
    matrices = rows * rows + sizes[-1] * sizes[-2]
    columns = (rows + sum(sizes) + (config.context.samples or 0)) * sum(widths)
    weights = sum(p.numel() for p in parameters) + sum(widths) * max(widths)
    element = max(like.element_size(), 4)
    elements = 24 * (matrices + weights) + BYTES_PER_DRAW // 4 * columns
    kept_rows = sum(data.kept_bytes(needs)) + data.step_bytes(needs)
    return element * elements + 8 * rows * per_row + kept_rows


def memory_error(
    footprint: Footprint, config: TrainConfig, count: int, total: int, available: int
) -> MemoryError:
    """An error that names what does not fit, its largest part, and the settings to lower.

    `count` members are trained at once and need `total` bytes, more than the `available` ones.
    """
    members = len(config.data.members)
    kept = [
        (members * footprint.stored, footprint.largest, footprint.setting),
        (members * footprint.data + footprint.shared, "the fixed data set", "samples"),
    ]
    size, what, lower = max(kept)
    # what a step keeps is named, unless what is stored does not fit by itself
    if size <= available and size < count * footprint.working:
        size, what = count * footprint.working, "what a step keeps for its backward pass"
        names = ["members_at_once"] * (count > 1) + ["batch"]
        names += ["negatives"] * (config.method.needs.negatives > 1)
        names += [footprint.setting] * hasattr(config.method, footprint.setting)
        lower = f"{', '.join(names)} or {footprint.sizes}"
    elif members > 1:
        lower += " or the number of members"
    return MemoryError(
        f"{count} members at once take about {total / 2**30:.1f} GiB, there are "
        f"{available / 2**30:.1f} GiB; the largest part is {what}, {size / 2**30:.1f} GiB: lower {lower}"
    )


def memory_of(device: torch.device) -> int:
    """Bytes of memory that the machine or the device has."""
    if device.type in ("cuda", "xpu"):
        return int(getattr(torch, device.type).get_device_properties(device).total_memory)
    return physical_memory()


def _measured(one: nn.Module, config: TrainConfig) -> Footprint:
    """What one step of one member takes, computed with numbers or on the device `meta`."""
    before = config.init(one)
    kept: dict[int, int] = {}
    batch = _empty_batch(one, config)
    # within a level of forward-mode differentiation layers are plain operations of torch, all of which can be
    # counted; compiled ones keep no more
    with _keeping(kept), torch.autograd.forward_ad.dual_level():
        config.method.loss(one, before.state, batch)
    own = [*one.parameters(), *one.buffers()]
    state = [*before.state.values()]
    stored = sum(tensor.nbytes for tensor in [*own, *state, *before.memory.values()])
    # of what is trained a gradient, of a state that is replaced a copy
    gradients = sum(tensor.nbytes for tensor in [*one.parameters(), *state])
    trained = trained_tensors(one, before.state)
    if config.data.device.type != "cpu":
        # new values of all that an update changes, which is changed when all are known to be finite;
        # compiled updates have those of one member
        gradients += sum(tensor.nbytes for tensor in [*trained.values(), *before.memory.values()])
    # going backward, gradients of activations stand beside the activations
    step = gradients + 2 * sum(kept.values()) + config.data.step_bytes(config.method.needs)
    drawn = BYTES_PER_DRAW * max((tensor.numel() for tensor in state), default=0)
    data, shared = config.data.kept_bytes(config.method.needs)
    largest, named = _largest(one, config, before.state)
    return Footprint(stored, data, shared, max(step, drawn), largest, named, _sizes(one))


def _sizes(network: nn.Module) -> str:
    return getattr(network, "sizes", "units")


def _largest(one: nn.Module, config: TrainConfig, state: dict[str, Tensor]) -> tuple[str, str]:
    """The largest tensor of all that is stored, and the setting to lower."""
    trained = trained_tensors(one, state)
    named = {f"state.{name}": tensor for name, tensor in state.items()} | trained
    name, tensor = max(named.items(), key=lambda item: item[1].nbytes)
    kind, _, rest = name.partition(".")
    shape = "x".join(str(size) for size in tensor.shape[1:])
    if kind == "network":
        return f"the network's {rest} ({shape} per member)", _sizes(one)
    lower = rest.split(".")[0]
    if not hasattr(config.method, lower):
        lower = "samples" if config.context.samples in tensor.shape else _sizes(one)
    return f"the method's {rest} ({shape} per member)", lower


def _empty_batch(one: nn.Module, config: TrainConfig) -> Batch:
    """A batch of zeros, as one step of one member reads it."""
    needs, size = config.method.needs, config.context.batch
    device = next(one.parameters()).device
    shape = (size * needs.passes, config.data.inputs)
    leaves = torch.zeros(*([1] * bool(one.stacked)), *shape, dtype=config.data.dtype, device=device)
    targets = places = None
    if needs.targets != ():
        count = config.data.target_count(needs)
        targets = torch.zeros(1, size, count, dtype=torch.int64, device=device)
    if needs.places:
        places = torch.arange(size, device=device)
    return Batch(leaves, size, targets, places)


def _keeping(kept: dict[int, int]) -> torch.autograd.graph.saved_tensors_hooks:
    """A context that notes all memory that is saved for a backward pass: place -> bytes."""
    alive = []  # a place on the device `meta` is that of the object for it, which must not be reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        kept[storage.data_ptr() or storage._cdata] = storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _numbers(thing: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers in settings with the names of their fields; the widths of heads as `WIDTHS`."""
    if isinstance(thing, Head):
        yield from ((WIDTHS, width) for width in thing.widths)
    elif isinstance(thing, int) and not isinstance(thing, bool):
        yield name, abs(thing)
    elif is_dataclass(thing) and not isinstance(thing, type):
        for item in fields(thing):
            yield from _numbers(getattr(thing, item.name), item.name)
