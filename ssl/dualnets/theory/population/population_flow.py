"""Training on an infinite batch: gradient descent on the expected loss of an enumerable tree.

It is stochastic training without sampling noise, so the difference between the two is noise. The
expected losses are those of `population_loss` (docs/theory.md, Equation 3.8). This is our own.

    for snapshot in population_trajectory(network, loss, trees, augment=…, steps=…, optimizer=…): …
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualnets._checks import check_whole
from dualnets.networks.block_network import BlockNetwork
from dualnets.optim.optimizers import Optimizer
from dualnets.theory.population.population_loss import (
    Form,
    ViewDistribution,
    check_size,
    form_of,
    gradient_form,
    view_distribution,
)
from dualnets.theory.updates.fitting import check_fit
from hltm.sampling.augment import Augmentation, check_augmentation
from hltm.tree import LatentTree


class PopulationSnapshot(NamedTuple):
    """A network after some updates of population training.

    Attributes:
        step: the number of updates so far.
        network: a copy, which further updates leave unchanged.
        losses: `(S,)` expected losses of this network.
    """

    step: int
    network: BlockNetwork
    losses: Tensor


def population_trajectory(
    network: BlockNetwork,
    loss: Any,
    trees: LatentTree,
    *,
    augment: Augmentation,
    steps: int,
    optimizer: Optimizer,
    snapshots: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[PopulationSnapshot]:
    """Gradient descent on the expected loss: `dualnets.trajectory` with an infinite batch.

    It minimises Equation 3.8 of docs/theory.md.

    Args:
        network: left as it was; any block network, one or an ensemble, on any device.
        loss: see `population_loss`.
        trees: one tree, or as many as the network has members.
        augment: of the views.
        steps: the number of updates.
        optimizer: its settings.
        snapshots: the steps to yield, by default the first and the last; the last is always yielded.
        progress: called after every step with the number of steps done since the last call.

    Raises:
        TypeError: a network without blocks, or arguments that are not trees, an augmentation or an
            optimizer.
        ValueError: before any work: a loss without a population form, trees that do not fit the
            network or are too large, steps below 0 or snapshots outside 0..steps.
        ArithmeticError: a gradient that is not finite.

    Example:
        >>> import dualnets, hltm
        >>> from dualnets.theory import InfiniteInfoNCE
        >>> trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> path = population_trajectory(network, InfiniteInfoNCE(0.1), trees,
        ...     augment=hltm.keep_root(), steps=20, optimizer=dualnets.SGD(lr=0.1))
        >>> first, last = path
        >>> bool((last.losses < first.losses).all())
        True
    """
    form = form_of(loss)
    check_whole("steps", steps, low=0)
    wanted = sorted({*((0,) if snapshots is None else snapshots), steps})
    if wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(f"snapshots must lie in 0..{steps}, got {wanted[0]}..{wanted[-1]}")
    check_fit(network, trees)
    check_augmentation(augment)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"expected an optimizer such as dualnets.SGD(lr=0.1), got {optimizer!r}")
    optimizer.check(len(network.members))
    views = view_distribution(trees, augment, dtype=network.dtype, device=network.device)
    check_size(loss, len(views.leaves))
    return _descend(network, loss, form, views, optimizer, wanted, progress)


def _descend(
    given: BlockNetwork,
    loss: Any,
    form: Form,
    views: ViewDistribution,
    optimizer: Optimizer,
    wanted: Sequence[int],
    progress: Callable[[int], None] | None,
) -> Iterator[PopulationSnapshot]:
    network = copy.deepcopy(given)
    members = len(network.members)
    alive = torch.ones(members, dtype=torch.bool, device=network.device)
    leaves = views.leaves.expand(members, -1, -1) if network.stacked else views.leaves
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    memory = optimizer.init(parameters)

    def expected(form: Form) -> Tensor:
        outputs = network(leaves)
        return form(loss, outputs if network.stacked else outputs[None], views)

    for step in range(wanted[-1] + 1):
        if step in wanted:
            with torch.no_grad():
                losses = expected(form)
            yield PopulationSnapshot(step, copy.deepcopy(network), losses)
        if step == wanted[-1]:
            return
        # members share no weights, so the gradient of the sum of losses is that of each member's loss
        sums = expected(gradient_form(form))
        found = torch.autograd.grad(sums.sum(), list(parameters.values()))
        gradients = dict(zip(parameters, found, strict=True))
        for gradient in found:
            lost = ~gradient.flatten(1).sum(1).isfinite()
            if bool(lost.any()):
                raise ArithmeticError(
                    f"the gradient of member {network.members[int(lost.int().argmax())]} is not "
                    f"finite at step {step}"
                )
        optimizer.update(parameters, gradients, memory, alive, step, wanted[-1])
        if progress is not None:
            progress(1)
