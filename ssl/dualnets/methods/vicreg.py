"""VICReg: views agree, every unit keeps its variance, and different units are uncorrelated.

Bardes, Ponce, LeCun (arXiv 2105.04906, equations 1 to 6). With z and z' the projections of two views of a
batch of n samples, d units each,

    L = λ mean (z - z')^2 + μ [v(z) + v(z')] + ν [c(z) + c(z')],
    v(z) = mean_j max(0, γ - sqrt(Var(z_j) + epsilon)),   c(z) = Σ_{i != j} Cov(z)_ij^2 / d,

variances and covariances over the batch with n - 1. The first mean is over samples and units, as in
the paper's pseudocode, whose coefficients are used here. A coefficient of 0 omits its term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets._checks import check_kind, check_number
from dualnets._lazy import torch
from dualnets._options import option
from dualnets.methods._projector import projections
from dualnets.methods.protocol import Batch, Method, State
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class VICReg(Method):
    """One network, two views, a projector, and three terms: invariance, variance and covariance.

    State: `projector.…`, trained except for its running moments.

    Attributes:
        projector: head on the network's outputs; `Head()` for none.
        invariance: λ, weight of the squared distance between the views.
        variance: μ, weight of the hinge on every unit's standard deviation.
        covariance: ν, weight of the squared covariances between units.
        spread: γ, standard deviation below which the hinge of a unit is active.
        epsilon: number added to the variance of a unit.

    Raises:
        TypeError: a value of another type.
        ValueError: coefficients below 0 or all 0, spread or epsilon not above 0; before training, a
            projector with a constant output.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> final = dualnets.train(network, VICReg(), trees, augment=hltm.keep_root(), steps=10,
        ...                        batch=32, optimizer=dualnets.SGD(lr=0.01), seed=2)
        >>> final.losses.shape
        torch.Size([2])
    """

    projector: Head = Head((32, 32), norm=BatchNorm())  # noqa: RUF009, frozen
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    spread: float = option(1.0, flag="wanted_spread")
    epsilon: float = option(1e-4, flag="variance_epsilon")

    def __post_init__(self) -> None:
        terms = {name: getattr(self, name) for name in ("invariance", "variance", "covariance")}
        for name, value in terms.items():
            check_number(name, value, low=0)
        if not any(terms.values()):
            raise ValueError(
                "one of invariance, variance and covariance must be above 0, all are 0"
            )
        for name in ("spread", "epsilon"):
            check_number(name, getattr(self, name), above=0)
        check_kind("projector", self.projector, Head, "dualnets.Head((32, 16))")

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        (one, two), carried = projections(self.projector, network, state, batch)
        both = torch.stack([one, two])  # (2, S, B, U)
        centred = both - both.mean(2, keepdim=True)
        cov = centred.transpose(2, 3) @ centred / (batch.size - 1)  # (2, S, U, U)
        own = torch.diagonal(cov, dim1=2, dim2=3)
        rest = cov - torch.diag_embed(own)
        agree = (one - two).square().mean((1, 2))
        vary = (self.spread - (own + self.epsilon).sqrt()).relu().mean(-1).sum(0)
        repeat = rest.square().sum((2, 3)).sum(0) / both.shape[-1]
        losses = self.invariance * agree + self.variance * vary + self.covariance * repeat
        return losses, carried
