"""The loss of a trained network on rows that it was not trained on, with its standard error."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualnets._checks import check_kind, check_network, check_whole
from dualnets.methods.protocol import Method, State, TrainContext
from dualnets.methods.source import Source
from dualnets.training.eager import checked_loss
from dualnets.training.source_rows import rows_for
from hltm.tree import LatentTree


class LossEstimate(NamedTuple):
    """The loss of every member on fresh rows.

    Attributes:
        value: `(S,)` float64, the mean over batches.
        standard_error: `(S,)` float64, of that mean, from the spread between batches.
    """

    value: Tensor
    standard_error: Tensor


@torch.no_grad()
def evaluate_loss(
    network: Any,
    method: Method,
    state: State,
    source: LatentTree | Source,
    *,
    augment: Any,
    samples: int,
    seed: int,
    batch: int = 256,
) -> LossEstimate:
    """The mean of a method's loss over rows 0 .. samples - 1 of a seed, batch by batch.

    A loss curve is its value at the snapshots of `trajectory`. It is the loss of training, whatever the
    method, on rows that training did not read: of a contrastive loss in the units of its equation, and
    dependent on `batch` where it compares with the rest of the batch. With methods that predict leaves it is
    a cross-entropy in nats, which `tree.bayes_loss` bounds from below; the mean over missing leaves is then
    that of each batch: batches of few rows in which few leaves are missing count as much as others.

    Args:
        network, state: of a snapshot of `trajectory` or `train`, or any others; they are left as they are.
        method: whose loss it is.
        source: the data: one tree, or as many as the network has members; or another `Source`.
        augment: as in training.
        samples: how many rows; what does not fill a batch is left out.
        seed: of the rows, 64 bits; another one than in training, whose rows it would read again.
        batch: rows per batch.

    Raises:
        TypeError, ValueError: as `trajectory`; fewer rows than two batches have; the state of another method.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> network = dualnets.transformer(tree, width=8, layers=1, causal=True, seed=1)
        >>> given = {"augment": hltm.resample_leaves(0.0), "batch": 32}
        >>> method = dualnets.NextLeaf()
        >>> final = dualnets.train(network, method, tree, steps=40, seed=2,
        ...                        optimizer=dualnets.Adam(lr=0.01), **given)
        >>> found = evaluate_loss(final.network, method, final.state, tree, samples=1024, seed=3, **given)
        >>> bool(found.value + 3 * found.standard_error < 0.6931)  # log 2, that of a guess
        True
    """
    check_network("network", network)
    check_kind("method", method, Method, "dualnets.MaskedPrediction()")
    batch, samples = check_whole("batch", batch, low=2), check_whole("samples", samples, low=1)
    steps = samples // batch
    if steps < 2:
        raise ValueError(
            f"a standard error needs at least 2 batches, got {samples} samples in batches of {batch}"
        )
    data = rows_for(
        network, method, source, augment=augment, batch=batch, seed=seed, samples=None, steps=steps
    )
    context = TrainContext(source, seed, steps, batch, augment=augment)
    method.check(network, context)
    wanted = {name: own.shape for name, own in method.init(network, context).items()}
    if wanted != {name: own.shape for name, own in state.items()}:
        raise ValueError(
            f"state must be that of {type(method).__name__}, a final.state of its training"
        )
    network = copy.deepcopy(network).eval()  # whose running moments stay as they are
    losses: list[Tensor] = []
    while len(losses) < steps:
        many = min(data.steps_at_once(method.needs), steps - len(losses))
        for each in data.batches(method.needs, len(losses), many):
            losses.append(checked_loss(network, method, state, each)[0].double())
    spread = torch.stack(losses, dim=1)  # (S, steps)
    return LossEstimate(spread.mean(1), spread.std(1) / steps**0.5)
