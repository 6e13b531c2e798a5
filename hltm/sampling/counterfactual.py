"""Counterfactual draws: what the same random numbers make of other tables at some nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hltm.model.intervene import Setting, as_setting, intervene
from hltm.model.nodes import Node
from hltm.model.states import check_range
from hltm.model.tables import Tables
from hltm.sampling.draw import Draw, Origin, check_draw
from hltm.sampling.kernels.request import DrawRequest
from hltm.sampling.packed import PackedDraw, pack_bits
from hltm.sampling.sample import draw_states

AnyDraw = TypeVar("AnyDraw", Draw, PackedDraw)


def counterfactual(
    tables: Tables, members: Sequence[int], draw: AnyDraw, settings: Mapping[Node, Setting]
) -> AnyDraw:
    """The draw as it would have been, had some nodes been set: same address, same random numbers.

    This is the counterfactual of Pearl (2009, "Causality", Theorem 7.1.7) exactly: the random numbers
    of the sample are known from its address (abduction), the tables of some nodes are replaced (action:
    `hltm.model.intervene`), and the states follow from both (prediction). A node's state is the number
    of its thresholds <= u, so nodes that are not below a set node, or whose parents keep their states,
    keep theirs to the last bit. A view keeps its decisions which nodes are redrawn, and which leaves
    are missing.

    The result is a draw of the intervened tree, which takes it as its own; with one state per sample it
    is of no one tree, and has no origin. For samples in any order, `hltm.sampling.rows.draw_rows` with
    the tables of `intervene` gives the same states.

    Args:
        members: the trees' addresses.
        draw: the data, packed or not, a view or a redraw, also without its first nodes.
        settings: for each node, by number or name, a state, or states `(B,)` or `(S, B)`, one per
            sample; or probabilities as `intervene` takes them, whose states the same numbers choose.

    Raises:
        KeyError, IndexError, TypeError, ValueError: nodes and settings as in `intervene`; states that
            are not those of this tree at the draw's address, as after a change of your own.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> other = tree.counterfactual(draw, {"1": 1 - draw.node("1")})
        >>> (other.states != draw.states).any(0)
        tensor([False,  True, False,  True,  True, False, False])
    """
    if isinstance(draw, PackedDraw):
        unpacked = counterfactual(tables, members, draw.unpack(), settings)
        bits = pack_bits(unpacked.states_SVB)
        return replace(draw, bits_SVW=bits, origin=unpacked.origin)  # type: ignore[call-arg]
    if not isinstance(draw, Draw):
        raise TypeError(f"expected a draw of this tree, got {type(draw).__name__}")
    check_draw(tables, members, draw)
    if draw.view != (draw.redraws[-1][0] if draw.redraws else 0):
        raise ValueError(
            f"the draw is view {draw.view} but does not hold its redraw rates, which its counterfactual "
            "needs; take it with `views` or `redraw`"
        )
    states, others = _split(tables, draw, tables.topology.by_number(settings))
    intervened = intervene(tables, others, stacked=draw.stacked)
    factual = _replay(tables, draw)
    pairs = zip(factual.unbind(1), draw.states_SVB.unbind(1), strict=False)
    # float64 holds every state of any integer type
    same = all(torch.equal(ours.double(), theirs.double()) for ours, theirs in pairs)
    if factual.shape != draw.states_SVB.shape or not same:
        raise ValueError(
            "a counterfactual needs the states that this tree has at the draw's address, but the draw "
            "has others: it is of another tree, or its states were changed"
        )
    found = _replay(intervened, draw, states)
    origin = None  # samples with states of their own are of no one tree
    if all(value.ndim == 0 for value in states.values()):
        points: dict[Node, Setting] = {
            tables.topology.names[v]: int(value) for v, value in states.items()
        }
        made = intervene(intervened, points, stacked=draw.stacked)
        origin = Origin(made.digest, draw.members)
    return replace(draw, states_SVB=found, origin=origin)


def _replay(tables: Tables, draw: Draw, set_to: Mapping[int, Tensor] | None = None) -> Tensor:
    """The states `(S, V - first, B)` that tables have at a draw's address.

    Args:
        set_to: int64 states, broadcast to `(S, B)`, that some nodes have instead of those they draw.
    """
    members, samples = len(draw.members), draw.states_SVB.shape[-1]
    request = DrawRequest(
        tables.topology, draw.seed, draw.stream, draw.members, draw.start, samples,
        first=0 if draw.redraws else draw.first, device=draw.states_SVB.device,
    )  # fmt: skip
    if set_to:
        base = torch.zeros(
            members, len(tables.topology), samples, dtype=torch.int32, device=request.device
        )
        for v, states in set_to.items():
            base[:, v] = states
        held = np.isin(np.arange(len(tables.topology)), list(set_to))
        request = replace(request, base=base, base_held=True, held=held)
    (found,) = draw_states(tables, request)
    for view, rates in draw.redraws:
        (found,) = draw_states(
            tables, replace(request, views=(view,), rates=rates, base=found, base_held=False)
        )
    return found


def _split(
    tables: Tables, draw: Draw, settings: Mapping[int, Setting]
) -> tuple[dict[int, Tensor], dict[Node, Setting]]:
    """The settings that are states, as they broadcast to `(S, B)`, and the others."""
    shape = len(draw.members), draw.states_SVB.shape[-1]
    set_to: dict[int, Tensor] = {}
    others: dict[Node, Setting] = {}
    for v, value in settings.items():
        found = as_setting(tables.topology.names[v], value).to(draw.states_SVB.device)
        if found.dtype != torch.int64:
            others[tables.topology.names[v]] = found
        elif tuple(found.shape) in ((), shape[1:]) or (
            draw.stacked and tuple(found.shape) == shape
        ):
            check_range(tables, found.reshape(1, -1), [v])
            set_to[v] = found
        else:
            lead = f" or {shape}" if draw.stacked else ""
            raise ValueError(
                f"node {tables.topology.names[v]!r} is set to integers of shape {tuple(found.shape)}, "
                f"expected one state or ({shape[1]},){lead}, one per sample; probabilities are floats"
            )
    return set_to, others
