"""Linear probes in closed form: how well a linear readout of a layer predicts each latent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_pair, one_hot
from hltm.probe.accumulators.moments import StreamingMoments

BLOCK = 128  # rows that go to one side of the split together


class LinearReadout(NamedTuple):
    """Linear probes and their quality on rows that they were not fitted to; all float64.

    Attributes:
        correlation: `(…, T)` of predicted and true indicators of the state, over all states
            together; for two states it is the correlation with the latent itself, so the ceiling
            bounds it.
        r2: `(…, T)` coefficient of determination of the indicators, over all states together; below
            0 where the mean predicts better.
        weight: `(…, U, T, K)`, and intercept `(…, T, K)`, of the indicators.
        train_samples, test_samples: rows of either side.
    """

    correlation: Tensor
    r2: Tensor
    weight: Tensor
    intercept: Tensor
    train_samples: int
    test_samples: int


class LinearProbe:
    """Ridge regression of every target's state on all units, by second moments.

    Minimises `Σ |indicator - w·unit - b|² + ridge · n · Σ_u var(u) w_u²` over n rows: the penalty is in units
    of each unit's own variance, so it does not depend on a unit's scale. A constant unit gets weight 0.
    Rows are fitted and tested in alternating blocks of 128, by their number, so the split is the
    same however rows are batched. Takes `(…, U, B)` activations and `(…, T, B)` states; memory is
    `(…, U, U + T·K)`.

    Args:
        states: K, the largest number of states of a target.
        ridge: the penalty, above 0.

    Raises:
        ValueError: fewer than 2 states, a ridge that is not above 0; in `update` as `check_pair` and
            `one_hot`; in `result` fewer than 2 rows on a side.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randint(2, (1, 2000), generator=generator)
        >>> noise = torch.randn(1, 2000, generator=generator)
        >>> probe = LinearProbe()
        >>> probe.update(torch.cat([z + noise, noise]), z)  # no unit is z, a sum of both is
        >>> round(float(probe.result().correlation), 3)
        1.0
    """

    def __init__(self, states: int = 2, ridge: float = 1e-4) -> None:
        if states < 2:
            raise ValueError(f"states must be at least 2, got {states}")
        if not ridge > 0:
            raise ValueError(f"ridge must be above 0, got {ridge}")
        self.states, self.ridge, self.samples = states, ridge, 0
        self.sides = StreamingMoments(), StreamingMoments()  # train, test

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch of the next rows."""
        a = check_pair(activations, targets)
        indicator = one_hot(targets, self.states).to(a.dtype)
        rows = torch.arange(self.samples, self.samples + a.shape[-1], device=a.device)
        for side, moments in enumerate(self.sides):
            mine = (rows // BLOCK % 2 == side).nonzero()[:, 0]
            if len(mine):
                moments.update(a[..., mine], indicator[..., mine])
        self.samples += a.shape[-1]

    def result(self) -> LinearReadout:
        """Fit on one side, test on the other."""
        if min(side.samples for side in self.sides) < 2:
            raise ValueError(
                f"a linear probe needs 2 rows to fit and 2 to test, got {self.sides[0].samples} and "
                f"{self.sides[1].samples}; rows alternate in blocks of {BLOCK}"
            )
        train, test = (side.result() for side in self.sides)
        scale = train.xx.diagonal(dim1=-2, dim2=-1).sqrt()
        constant = scale <= 1e-5 * train.mean_x.abs()
        inverse = torch.where(constant, torch.zeros_like(scale), 1 / scale)
        whitened = inverse[..., :, None] * train.xx * inverse[..., None, :]
        penalty = self.ridge * torch.eye(scale.shape[-1], dtype=scale.dtype, device=scale.device)
        solved = torch.linalg.solve(whitened + penalty, inverse[..., None] * train.xy)
        weight = inverse[..., None] * solved  # (…, U, T * K)
        fitted = (weight * test.xy).sum(-2)  # (…, T * K) covariance of prediction and truth
        spread = (weight * (test.xx @ weight)).sum(-2)
        truth = test.yy.diagonal(dim1=-2, dim2=-1)
        intercept = train.mean_y - (weight * train.mean_x[..., None]).sum(-2)
        bias = (weight * test.mean_x[..., None]).sum(-2) + intercept - test.mean_y
        wrong = truth - 2 * fitted + spread + bias.square()
        fitted, spread, truth, wrong = (
            part.unflatten(-1, (-1, self.states)).sum(-1) for part in (fitted, spread, truth, wrong)
        )
        size = (spread * truth).clamp(min=0).sqrt()
        some = size > 1e-12 * truth
        return LinearReadout(
            torch.where(some, fitted / size.where(some, torch.ones_like(size)), 0.0),
            torch.where(truth > 0, 1 - wrong / truth.where(truth > 0, 1.0), 0.0),
            weight.unflatten(-1, (-1, self.states)),
            intercept.unflatten(-1, (-1, self.states)),
            train.samples,
            test.samples,
        )
