"""Training on an infinite batch: gradient descent on the expected loss of an enumerable tree.

What stochastic training would do without sampling noise; so what differs from it is noise. The
expected losses are those of `population_loss`.

    for snapshot in population_trajectory(network, loss, trees, augment=…, steps=…, optimizer=…): …
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualnets.networks.block_network import BlockNetwork
from dualnets.optim.optimizers import Optimizer
from dualnets.theory.population.population_loss import (
    Form,
    ViewPairs,
    check_size,
    enumerated,
    form_of,
    gradient_form,
)
from dualnets.theory.updates.fitting import check_augmentation, check_fit
from hltm.sampling.augment import Augmentation
from hltm.tree import LatentTree


class PopulationSnapshot(NamedTuple):
    """A network in population training.

    Attributes:
        step: how many updates it has had.
        network: a copy of its own.
        losses: `(S,)` expected losses of this very network.
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
    """Gradient descent on the expected loss: `dualnets.trajectory` with a batch of infinite size.

    Args:
        network: left as it was; any block network, one or an ensemble, on any device.
        loss: see `population_loss`.
        trees: one tree, or as many as the network has members.
        augment: of the views.
        steps: how many updates.
        optimizer: its settings.
        snapshots: the steps to yield, by default the first and the last; the last always comes.
        progress: called with the number of steps just done.

    Raises:
        TypeError: what is no block network, or no trees.
        ValueError: before any work: a loss without a population form, trees that do not fit the
            network or are too large, steps below 0 or snapshots outside 0..steps.
        ArithmeticError: a gradient that is not finite.

    Example:
        >>> import dualnets, hltm
        >>> from dualnets.theory.population_loss import InfiniteInfoNCE
        >>> trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> path = population_trajectory(network, InfiniteInfoNCE(0.1), trees,
        ...     augment=hltm.keep_root(), steps=20, optimizer=dualnets.SGD(lr=0.1))
        >>> first, last = path
        >>> bool((last.losses < first.losses).all())
        True
    """
    form = form_of(loss)
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    wanted = sorted({*((0,) if snapshots is None else snapshots), steps})
    if wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(f"snapshots must lie in 0..{steps}, got {wanted[0]}..{wanted[-1]}")
    check_fit(network, trees)
    check_augmentation(augment)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"expected an optimizer such as dualnets.SGD(lr=0.1), got {optimizer!r}")
    optimizer.check(len(network.members))
    views = enumerated(trees, augment, dtype=network.dtype, device=network.device)
    check_size(loss, len(views.leaves))
    return _descend(network, loss, form, views, optimizer, wanted, progress)


def _descend(
    given: BlockNetwork,
    loss: Any,
    form: Form,
    views: ViewPairs,
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
        # losses of different members share nothing, so their sum has every member's own gradient
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
