"""Leaves as the input of a model, by the name of an encoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hltm.data import encode as encoders
from hltm.inference.leaves import as_states

Encode = str | Callable[[Tensor], Any]


def tokens(states: Tensor) -> Tensor:
    """Integer states as int64 numbers of tokens, for models that begin with an embedding.

    Raises:
        ValueError: floats, or missing states.

    Example:
        >>> import torch
        >>> tokens(torch.tensor([[0, 2]], dtype=torch.uint8))
        tensor([[0, 2]])
    """
    found = as_states(states, "states").long()
    if (found < 0).any():
        raise ValueError(f"{int((found < 0).sum())} states are missing (-1), which are no tokens")
    return found


# name -> encoder of (states, cardinality of each leaf)
ENCODINGS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "bits": lambda states, _: encoders.bits(states),
    "signs": lambda states, _: encoders.signs(states),
    "one-hot": lambda states, count: encoders.one_hot(states, count, padded=False),
    "one-hot-sequence": lambda states, count: encoders.one_hot(states, count),
    "tokens": lambda states, _: tokens(states),
}
