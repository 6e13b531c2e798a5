"""Barlow Twins: the cross-correlation of two views' projections should be the identity.

Zbontar, Jing, Misra, LeCun, Deny (arXiv 2103.03230, equation 1). With z and z' the projections of two
views of a batch, each unit standardised over the batch, and C_ij = mean_b z_bi z'_bj,

    L = Σ_i (1 - C_ii)^2 + λ Σ_{i != j} C_ij^2.

The first term makes units invariant to what a view redraws, the second decorrelates different units.
Standard deviations are over the batch without Bessel's correction, as in the paper's equation 2, with an
epsilon in the variance as in its code. `standardize=BatchNorm("stop", "stop")` stops the gradient through
the batch's moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets._checks import check_kind, check_number
from dualnets._lazy import torch
from dualnets.methods._projector import projections
from dualnets.methods.protocol import Batch, Method, State
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class BarlowTwins(Method):
    """One network, two views, a projector, and the cross-correlation of their units.

    State: `projector.…`, trained except for its running moments.

    Attributes:
        projector: head on the network's outputs; `Head()` for none.
        off_diagonal: λ, weight of the correlations between different units.
        standardize: normalisation of the projections over the batch; not affine.

    Raises:
        TypeError: a projector or standardisation of another type.
        ValueError: off_diagonal below 0 or an affine standardisation; before training, a projector
            with a constant output.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> final = dualnets.train(network, BarlowTwins(), trees, augment=hltm.keep_root(), steps=10,
        ...                        batch=32, optimizer=dualnets.SGD(lr=0.01), seed=2)
        >>> final.losses.shape
        torch.Size([2])
    """

    projector: Head = Head((32, 32), norm=BatchNorm())  # noqa: RUF009, frozen
    off_diagonal: float = 0.005
    standardize: BatchNorm = BatchNorm()  # noqa: RUF009, frozen

    def __post_init__(self) -> None:
        check_kind("projector", self.projector, Head, "dualnets.Head((32, 16))")
        check_number("off_diagonal", self.off_diagonal, low=0)
        check_kind("standardize", self.standardize, BatchNorm, "dualnets.BatchNorm()")
        if self.standardize.affine:
            raise ValueError("standardize must have affine=False, got affine=True")

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        found, carried = projections(self.projector, network, state, batch)
        one, two = (self.standardize(z.transpose(1, 2)) for z in found)  # (S, U, B)
        correlation = one @ two.transpose(1, 2) / batch.size
        diagonal = torch.diagonal(correlation, dim1=1, dim2=2)
        invariance = (1 - diagonal).square().sum(-1)
        rest = correlation - torch.diag_embed(diagonal)  # exactly 0 on the diagonal
        return invariance + self.off_diagonal * rest.square().sum((1, 2)), carried
