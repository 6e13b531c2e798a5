"""Linear centred kernel alignment of a layer with the exact posteriors."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.moments import StreamingMoments


class LinearCKA:
    """CKA = ‖Cov(x, y)‖² / ( ‖Cov(x, x)‖ ‖Cov(y, y)‖ ), Frobenius norms, in [0, 1].

    x are all units of a layer, y all posterior probabilities (Kornblith, Norouzi, Lee and Hinton
    2019, arXiv 1905.00414). It is 1 where they are the same up to a rotation and one scale. For n
    rows it is biased upwards by about U / n. A layer that never varies has 0.

    Raises:
        ValueError: in `update`, features that do not fit or are not finite.

    Example:
        >>> x = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
        >>> metric = LinearCKA()
        >>> metric.update(x, -2 * x.flip(0))
        >>> round(float(metric.result()), 6)
        1.0
    """

    def __init__(self) -> None:
        self.moments = StreamingMoments()

    def update(self, activations: Tensor, posteriors: Tensor) -> None:
        """Add a batch: `(…, U, B)` activations and `(…, P, B)` probabilities, or other features."""
        a, p = tuple(activations.shape), tuple(posteriors.shape)
        if len(a) < 2 or a[:-2] != p[:-2] or a[-1] != p[-1]:
            expected = "expected (…, U, B) and (…, P, B)"
            raise ValueError(f"activations {a} and posteriors {p} do not fit, {expected}")
        check_finite(activations)
        check_finite(posteriors, "posteriors")
        self.moments.update(activations, posteriors.to(activations.device))

    def result(self) -> Tensor:
        """`(…,)` float64, in [0, 1]."""
        found = self.moments.result()
        xy, xx, yy = (part.square().sum((-2, -1)) for part in (found.xy, found.xx, found.yy))
        # a constant layer varies by rounding alone
        floor = (1e-10 * found.mean_x.square()).sum(-1).square()
        size = (xx * yy).sqrt()
        varies = (xx > floor) & (size > 0)
        return torch.where(varies, xy / size.where(varies, torch.ones_like(size)), 0.0)
