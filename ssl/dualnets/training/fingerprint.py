"""A description of a training, as texts: only the training that wrote a checkpoint may go on from it."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualnets.methods.protocol import detached_copy
from dualnets.training.state import TrainConfig
from hltm.sampling.philox import DRAW_FORMAT, Stream, uniform

ROUNDED = ("initial outputs",)  # compared up to the rounding of another machine
# fields of methods whose names have changed; checkpoints keep the names they were written with
RENAMED = (
    (r"(target='\w+'|queue=\d+), momentum=", r"\1, ema_decay="),
    ("momentum_schedule=", "ema_schedule="),
)


def fingerprint(
    network: Any,
    config: TrainConfig,
    snapshots: Sequence[int],
    members_at_once: int,
    initial_state: Iterable[Tensor],
) -> dict[str, str]:
    """Name -> a short text, of all that must be the same where training goes on.

    Checkpoints hold these names, so they must not be changed. The network and the method's tensors,
    `initial_state`, are those before training.
    """
    data = config.data
    return {
        "network": repr(network),
        "initial parameters": digest(*detached_copy(network).values()),
        "initial outputs": _outputs(network, data.example_rows(8)),
        "method": repr(config.method),
        "the method's initial state": digest(*initial_state),
        "optimizer": repr(config.optimizer),
        **data.description(),
        "members": repr(data.members),
        "seed": str(data.seed),
        "steps": str(config.context.steps),
        "batch": str(data.batch),
        "samples": str(config.context.samples),
        "snapshots": repr(list(snapshots)),
        "members_at_once": str(members_at_once),
        "precision": config.precision,
        "draw_format": str(DRAW_FORMAT),
        "torch": torch.__version__,
    }


def first_difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str | None:
    """The first thing in which two fingerprints differ, in one line; None if they are the same."""
    for name, here in ours.items():
        there = str(theirs.get(name))
        if name == "method":
            there, here = _current_names(there), _current_names(here)
        if not _is_same(name, there, here):
            there, here = _excerpts(there, here)
            return f"there {name} is {there}, here {here}"
    return None


def digest(*arrays: Tensor | np.ndarray) -> str:
    """A short hash of the dtypes, shapes and bytes of arrays.

    Example:
        >>> digest(torch.zeros(2)) == digest(torch.zeros(2)) != digest(torch.zeros(3))
        True
    """
    hashed = hashlib.sha256()
    for array in arrays:
        values = torch.as_tensor(array).detach().cpu().contiguous()
        hashed.update(f"{values.dtype} {tuple(values.shape)} ".encode())
        hashed.update(values.flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:16]


def _outputs(network: Any, leaves: Tensor) -> str:
    """A weighted sum of the network's outputs for each of a few fixed rows of leaves `(rows, X)`.

    Two networks of the same parameters may still differ: a network may encode leaves by any
    function, which its repr need not show.
    """
    twin = copy.deepcopy(network).eval()  # a forward pass may change buffers
    stacked = leaves.expand(len(network.members), -1, -1) if network.stacked else leaves
    with torch.no_grad():
        found = twin(stacked.to(next(network.parameters()).device))
    finite = found.double().nan_to_num(0.0, 0.0, 0.0)  # (S, rows, U), or (rows, U)
    drawn = uniform(
        finite.shape[-1], seed=0, stream=Stream.EVALUATION, members=(0,), node=0, view=1
    )
    per_row = (finite @ (drawn[0].to(finite) + 0.5)).view(-1, len(leaves)).mean(0)
    return " ".join(f"{number:.6g}" for number in per_row.tolist())


def _current_names(method: str) -> str:
    """The repr of a method with the names that its fields have today."""
    for old, new in RENAMED:
        method = re.sub(old, new, method)
    return method


def _is_same(name: str, there: str, here: str) -> bool:
    """Whether two texts mean the same; numbers do, up to rounding."""
    if there == here or name not in ROUNDED:
        return there == here
    try:
        theirs, ours = (np.array(text.split(), dtype=float) for text in (there, here))
    except ValueError:
        return False
    if theirs.shape != ours.shape:
        return False
    return bool((np.abs(theirs - ours) <= 1e-3 * np.abs(ours).max(initial=0)).all())


def _excerpts(there: str, here: str, width: int = 60) -> tuple[str, str]:
    """Two texts on one line each; of long ones, the part where they first differ."""
    texts = [" ".join(text.split()) for text in (there, here)]
    if max(map(len, texts)) <= 2 * width:
        return texts[0], texts[1]
    pairs = enumerate(zip(*texts, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(map(len, texts)))
    low, high = max(at - width // 2, 0), at + width // 2
    parts = ["…" * (low > 0) + text[low:high] + "…" * (high < len(text)) for text in texts]
    return parts[0], parts[1]
