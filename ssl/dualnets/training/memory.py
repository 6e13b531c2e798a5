"""What memory a training takes, known from shapes before any of it is allocated.

One step of one member is gone through without numbers, on torch's device `meta`, and everything that
it keeps is counted. That takes a while, so what is surely small is tried with numbers, and what is
surely small for all members is not tried at all; which of the three is a matter of the settings alone.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Batch
from dualnets.networks.heads import Head
from dualnets.training.steps import TrainConfig, trained_tensors

SMALL = 1 << 28  # bytes that may be allocated to find out how many a member takes
COUNTABLE = 1 << 64  # bytes beyond which sizes surely overflow
LOOSE = 16  # how far `at_most` may lie above what a member takes
DRAWING = 64  # bytes per random number while it is drawn
HEADS = "widths"  # what the widths of a method's heads are called here
Network = TypeVar("Network", bound=nn.Module)


class Footprint(NamedTuple):
    """Bytes of one member.

    Attributes:
        stored: parameters, the method's state and the optimiser's memory, kept for all members.
        data: rows that are kept, for all members.
        shared: rows that are kept once for all.
        passing: gradients and all that one step keeps for the backward pass, or what drawing the state
            takes; only of members that are trained at once.
        largest: name and shape of the largest tensor of the state, or of the network.
        named: what its size comes from.
    """

    stored: int
    data: int
    shared: int
    passing: int
    largest: str
    named: str

    @property
    def each(self) -> int:
        """What one more member takes in training."""
        return self.stored + self.data + self.passing


def with_tensors(network: Network, tensors: dict[int, Tensor]) -> Network:
    """A copy of a network that holds other tensors: id of a parameter or buffer -> its values."""
    made: dict[int, Any] = {}
    for own in (*network.parameters(), *network.buffers()):
        other = tensors[id(own)]
        if isinstance(own, nn.Parameter):
            other = nn.Parameter(other, own.requires_grad)
        made[id(own)] = other
    return copy.deepcopy(network, made)


def take(network: Network, low: int, high: int) -> Network:
    """Members low..high-1 of a network, copied.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> take(dualnets.tree_network(tree, units=3, members=5, seed=1), 1, 3).members
        (1, 2)
    """
    held = (*network.parameters(), *network.buffers())
    found = with_tensors(network, {id(own): own.detach()[low:high].clone() for own in held})
    found.members = tuple(network.members)[low:high]  # type: ignore[arg-type, assignment]
    return found


def config_of(recipe: TrainConfig, low: int, high: int) -> TrainConfig:
    """The recipe for members low..high-1."""
    data = recipe.data.of_members(low, high)
    return recipe._replace(
        method=recipe.method.of_members(low, high),
        optimizer=recipe.optimizer.of_members(low, high),
        data=data,
        setup=recipe.setup._replace(trees=data.trees),
    )


def footprint(network: nn.Module, recipe: TrainConfig) -> Footprint:
    """What one member takes.

    Raises:
        MemoryError: tensors larger than can be counted, or tried.
    """
    one, alone = take(network, 0, 1).train(), config_of(recipe, 0, 1)
    most = at_most(one, alone)
    if most <= SMALL:
        return _measured(one, alone)
    if most < COUNTABLE:
        device = next(network.parameters()).device
        try:
            return _measured(one.to("meta"), alone)
        except Exception:  # what shapes alone cannot run, such as an encoding through numpy
            if most < LOOSE * memory_of(device):
                return _measured(take(network, 0, 1).train(), alone)
    given = {"batch": recipe.setup.batch, "samples": recipe.setup.samples or 0}
    told = [*given.items(), *_numbers(recipe.method)]
    name, size = max(told, key=lambda pair: pair[1])
    raise MemoryError(
        f"a member may take up to {most / 2**30:.3g} GiB, more than there can be; lower {name}, {size}"
    )


def at_most(one: nn.Module, recipe: TrainConfig) -> int:
    """Bytes that a member surely does not exceed, found in no time; far more than it takes.

    What a row keeps in the network is measured with two rows; any two sizes in the method's
    settings, and the batch, may make a matrix.

    Args:
        one: a network of one member.
        recipe: for it.
    """
    needs, data = recipe.method.needs, recipe.data
    rows = recipe.setup.batch * (needs.views + needs.negatives)
    parameters = list(one.parameters())
    like = parameters[0]
    kept: dict[int, int] = {}
    zeros = torch.zeros(2, len(data.trees.leaves), dtype=torch.uint8, device=like.device)
    with _keeping(kept):
        output = one(zeros[None] if one.stacked else zeros)
    own = {p.untyped_storage().data_ptr() for p in parameters}
    per_row = sum(size for place, size in kept.items() if place not in own) + output.nbytes
    told = list(_numbers(recipe.method))
    widths = [output.shape[-1], *(size for name, size in told if name == HEADS)]
    sizes = sorted([1, rows, *(size for name, size in told if name != HEADS)])
    matrices = rows * rows + sizes[-1] * sizes[-2]
    columns = (rows + sum(sizes) + (recipe.setup.samples or 0)) * sum(widths)
    weights = sum(p.numel() for p in parameters) + sum(widths) * max(widths)
    wide = max(like.element_size(), 4)
    numbers = 24 * (matrices + weights) + DRAWING // 4 * columns
    return (
        wide * numbers + 8 * rows * per_row + sum(data.kept_bytes(needs)) + data.step_bytes(needs)
    )


def memory_error(
    footprint: Footprint, recipe: TrainConfig, count: int, total: int, there: int
) -> MemoryError:
    """What does not fit, its largest part, and what to lower."""
    members = len(recipe.data.members)
    kept = [
        (members * footprint.stored, footprint.largest, footprint.named),
        (members * footprint.data + footprint.shared, "the fixed data set", "samples"),
    ]
    size, what, lower = max(kept)
    if size <= there and size < count * footprint.passing:  # what never fits comes first
        size, what = count * footprint.passing, "what a step keeps for its backward pass"
        names = ["members_at_once"] * (count > 1) + ["batch"]
        names += ["negatives"] * (recipe.method.needs.negatives > 1)
        names += [footprint.named] * hasattr(recipe.method, footprint.named)
        lower = f"{', '.join(names)} or units"
    elif members > 1:
        lower += " or the number of members"
    return MemoryError(
        f"{count} members at once take about {total / 2**30:.1f} GiB, there are "
        f"{there / 2**30:.1f} GiB; the largest part is {what}, {size / 2**30:.1f} GiB: lower {lower}"
    )


def memory_of(device: torch.device) -> int:
    """Bytes that the machine or the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _measured(one: nn.Module, recipe: TrainConfig) -> Footprint:
    """One step of one member, with numbers or on the device `meta`, counted."""
    progress = recipe.begin(one)
    kept: dict[int, int] = {}
    batch = _empty_batch(one, recipe)
    with _keeping(kept):
        recipe.method.loss(one, progress.state, batch)
    own = [*one.parameters(), *one.buffers()]
    state = [*progress.state.values()]
    stored = sum(tensor.nbytes for tensor in [*own, *state, *progress.memory.values()])
    # gradients of what is trained, and the copy of a state that is replaced
    gradients = sum(tensor.nbytes for tensor in [*one.parameters(), *state])
    # going backward, gradients of activations stand beside the activations
    step = gradients + 2 * sum(kept.values()) + recipe.data.step_bytes(recipe.method.needs)
    drawn = DRAWING * max((tensor.numel() for tensor in state), default=0)
    data, shared = recipe.data.kept_bytes(recipe.method.needs)
    largest, named = _largest(one, recipe, progress.state)
    return Footprint(stored, data, shared, max(step, drawn), largest, named)


def _largest(one: nn.Module, recipe: TrainConfig, state: dict[str, Tensor]) -> tuple[str, str]:
    """What of all that is stored is largest, and what to lower."""
    trained = trained_tensors(one, state)
    named = {f"state.{name}": tensor for name, tensor in state.items()} | trained
    name, tensor = max(named.items(), key=lambda item: item[1].nbytes)
    kind, _, rest = name.partition(".")
    shape = "x".join(str(size) for size in tensor.shape[1:])
    if kind == "network":
        return f"the network's {rest} ({shape} per member)", "units"
    lower = rest.split(".")[0]
    if not hasattr(recipe.method, lower):
        lower = "samples" if recipe.setup.samples in tensor.shape else "units"
    return f"the method's {rest} ({shape} per member)", lower


def _empty_batch(one: nn.Module, recipe: TrainConfig) -> Batch:
    """A batch of zeros, as one step of one member reads it."""
    needs, size = recipe.method.needs, recipe.setup.batch
    device = next(one.parameters()).device
    shape = (size * (needs.views + needs.negatives), len(recipe.data.trees.leaves))
    leaves = torch.zeros(*([1] * bool(one.stacked)), *shape, dtype=torch.uint8, device=device)
    targets = places = None
    if needs.targets != ():
        count = recipe.data.target_count(needs)
        targets = torch.zeros(1, size, count, dtype=torch.int64, device=device)
    if needs.places:
        places = torch.arange(size, device=device)
    return Batch(leaves, size, targets, places)


def _keeping(kept: dict[int, int]) -> torch.autograd.graph.saved_tensors_hooks:
    """While it lasts, the memory of all that is saved for a backward pass is noted, once each."""
    alive = []  # on the device `meta` a place is told by the object that stands for it

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        kept[storage.data_ptr() or storage._cdata] = storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _numbers(thing: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers in settings with the names of their fields; a head's widths as `HEADS`."""
    if isinstance(thing, Head):
        yield from ((HEADS, width) for width in thing.widths)
    elif isinstance(thing, int) and not isinstance(thing, bool):
        yield name, abs(thing)
    elif is_dataclass(thing) and not isinstance(thing, type):
        for item in fields(thing):
            yield from _numbers(getattr(thing, item.name), item.name)
