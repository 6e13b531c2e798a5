"""Whether a unit follows its latent, or another latent, a rival, that is correlated with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hltm.probe.metrics.correlation_ratio import CorrelationRatio

ROUNDING = 1e-6  # a share of variance that rounding alone leaves unexplained


class Specific(NamedTuple):
    """How specific some units are to their targets; float64 unless stated otherwise.

    Attributes:
        strength: `(…, T)` correlation ratio of each target's unit with it; for two states
            |correlation|.
        rival: `(…, T)` int64, the other target that this unit follows best; -1 where there is none.
        rival_strength: `(…, T)` its correlation ratio with the rival; 0 where there is none.
        partial: `(…, T)` the partial correlation with the target given its parent; NaN for a target
            without a parent.
    """

    strength: Tensor
    rival: Tensor
    rival_strength: Tensor
    partial: Tensor


class Specificity:
    """How specific units are: rivals, and partial correlations given the parent.

    Latents are correlated, so a unit that follows the root scores on every latent. The partial
    correlation given the parent concerns what the parent's state does not explain:
    ρ² = (η²(z, parent) - η²(parent)) / (1 - η²(parent)), where η²(…) is the share of the unit's
    variance that the states explain jointly. A unit that the parent explains wholly, or that never
    varies, has 0. Takes `(…, U, B)` activations and `(…, T, B)` states.

    Args:
        parents: of each target, its parent's place among the targets; -1 for none.
        states: K, the largest number of states of a target.

    Raises:
        ValueError: a place outside -1..T-1; in `update` as `CorrelationRatio`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> root = torch.randint(2, (1, 4000), generator=generator)
        >>> same = torch.rand(2, 4000, generator=generator) < 0.9
        >>> z = torch.cat([root, torch.where(same, root, 1 - root)])
        >>> metric = Specificity(parents=[-1, 0, 0])
        >>> metric.update(z.float(), z)  # unit t is target t itself
        >>> found = metric.result(torch.tensor([0, 0, 2]))  # but target 1 is given the root's unit
        >>> found.rival.tolist()[1:], [round(p, 2) for p in found.partial.tolist()[1:]]
        ([0, 0], [0.0, 1.0])
    """

    def __init__(self, parents: Sequence[int], states: int = 2) -> None:
        bad = [p for p in parents if not -1 <= p < len(parents)]
        if bad:
            raise ValueError(f"parents must be in -1..{len(parents) - 1}, got {bad[0]}")
        self.states = states
        self.children = [t for t, p in enumerate(parents) if p >= 0]
        self.above = [parents[t] for t in self.children]
        self.alone = CorrelationRatio(states)
        self.joint = CorrelationRatio(states * states)

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self.alone.update(activations, targets)
        if self.children:
            z = targets.to(torch.int32)
            both = z[..., self.children, :] * self.states + z[..., self.above, :]
            self.joint.update(activations, both)

    def result(self, unit: Tensor) -> Specific:
        """The specificity of the units `(…, T)` int64 chosen for the targets; -1 for none.

        A target without a unit has strength 0, no rival and, where it has a parent, partial 0.
        """
        every = self.alone.result()
        has = unit >= 0
        chosen = unit.clamp(min=0).to(every.device)[..., None]
        own = torch.take_along_dim(every, chosen, dim=-2)  # (…, T, T): of each target's unit
        own = own * has.to(own)[..., None]
        strength = own.diagonal(dim1=-2, dim2=-1)
        partial = torch.full_like(strength, torch.nan)
        if self.children:
            picked = chosen[..., self.children, :]
            both = torch.take_along_dim(self.joint.result(), picked, dim=-2)
            both = both.diagonal(dim1=-2, dim2=-1).square() * has[..., self.children].to(own)
            parent = own[..., self.children, self.above].square()
            left = 1 - parent
            # sums of float32 products are exact to about 1e-7: less than ROUNDING is nothing
            share = torch.where(left > ROUNDING, (both - parent) / left.clamp(min=ROUNDING), 0.0)
            partial[..., self.children] = share.clamp(0, 1).sqrt()
        others = own.clone()
        others.diagonal(dim1=-2, dim2=-1).fill_(-1)
        rival_strength, rival = others.max(-1)
        none = (rival_strength < 0) | ~has.to(own.device)
        return Specific(
            strength.clone(),
            rival.masked_fill(none, -1),
            rival_strength.masked_fill(none, 0.0),
            partial,
        )


class RivalBaseline:
    """The correlation ratio of the exact posterior of one latent with another latent.

    It is what a unit scores on a latent if it follows nothing but a rival of that latent, as well
    as the leaves allow: a score that is not above it is no evidence that the unit follows the
    latent itself. For more than two `states` the best of the posterior's probabilities counts.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> draw = tree.sample(5000, seed=1)
        >>> baseline = RivalBaseline()
        >>> posterior = tree.posterior(draw.leaves, nodes=[0, 1]).marginals
        >>> baseline.update(posterior.permute(1, 2, 0), draw.states.T[:2])
        >>> found = baseline.result()  # the root's posterior scores on node 1, but below node 1's
        >>> bool(0.5 < found[0, 1] < found[1, 1])
        True
    """

    def __init__(self, states: int = 2) -> None:
        self.states = states
        self.metric = CorrelationRatio(states)

    def update(self, posteriors: Tensor, targets: Tensor) -> None:
        """Add a batch: posteriors `(…, T, K, B)` and states `(…, T, B)`."""
        self.metric.update(posteriors[..., 1:, :].flatten(-3, -2), targets)

    def result(self) -> Tensor:
        """`(…, T, T)` float64: the correlation ratio of the row's posterior with the column's latent."""
        return self.metric.result().unflatten(-2, (-1, self.states - 1)).amax(-2)
