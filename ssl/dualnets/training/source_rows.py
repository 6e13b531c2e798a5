"""The rows of a source for a network and a method, checked before any are drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from dualnets.methods.protocol import Method
from dualnets.methods.source import Source, check_shape
from dualnets.training.data import check_missing, tree_rows
from dualnets.training.rows import Rows
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree


def rows_for(
    network: Any,
    method: Method,
    source: LatentTree | Source,
    *,
    augment: Any,
    batch: int,
    seed: int,
    samples: int | None,
    steps: int,
) -> Rows:
    """The rows that the method reads in so many steps; arguments and errors are those of `trajectory`."""
    make = partial(tree_rows, source) if isinstance(source, LatentTree) else source.rows
    data: Rows = make(
        members=tuple(network.members), augment=augment, batch=batch, seed=check_seed(seed),
        stacked=network.stacked, device=next(network.parameters()).device, samples=samples,
    )  # fmt: skip
    if data.inputs != network.inputs:
        raise ValueError(
            f"the data have {data.inputs} {data.input_name}, the network reads {network.inputs}"
        )
    check_shape(network, source)
    if isinstance(source, LatentTree):
        teachers = [own for own in vars(method).values() if isinstance(own, nn.Module)]
        check_missing(source, augment, [network, *teachers])
    data.check(method.needs, steps)
    return data
