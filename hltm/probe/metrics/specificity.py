"""Whether a unit follows its latent, or another latent, a rival, that is correlated with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hltm._results import by_content
from hltm.probe.accumulators.checks import check_fit, check_states
from hltm.probe.accumulators.conditional import StreamingConditional
from hltm.probe.accumulators.units import StreamingUnits, UnitBatch
from hltm.probe.metrics.correlation_ratio import CorrelationRatio, ratio_square
from hltm.probe.metrics.partial_correlation import BestUnitNull, partial_square, sampling_error

LAGS = 19  # the largest of 19 values that a null makes is exceeded by a 20th in 5% of cases
HELD = 4096, 1 << 23  # the first rows are kept for the null, and fewer if there are so many numbers


@by_content
class Specific(NamedTuple):
    """How specific some units are to their targets, from `Specificity`; float64 unless stated otherwise.

    Attributes:
        strength: `(…, T)` correlation ratio of each target's unit with it; for two states
            |correlation|.
        rival: `(…, T)` int64, the other target that this unit follows best; -1 where there is none.
        rival_strength: `(…, T)` its correlation ratio with the rival; 0 where there is none.
        partial: `(…, T)` the partial correlation with the target given its parent; NaN for a target
            without a parent.
        partial_null: `(…, T)` the 95% point of the partial correlation of the best unit, if units
            follow the parent as they do, and nothing of the target besides; NaN without lags.
        rival_null: `(…, T)` the 95% point of the best unit's correlation ratio with its rival, if no
            unit knows anything; NaN without lags.
    """

    strength: Tensor
    rival: Tensor
    rival_strength: Tensor
    partial: Tensor
    partial_null: Tensor
    rival_null: Tensor


class Specificity:
    """How specific units are: rivals, and partial correlations given the parent.

    Latents are correlated, so a unit that follows the root scores on every latent. The partial
    correlation given the parent concerns what the parent's state does not explain:
    ρ² = (η²(z, parent) - η²(parent)) / (1 - η²(parent)), where η²(…) is the share of the unit's
    variance that the states explain jointly. States explain a share of any unit by chance, more of them
    a larger one, so ρ² is adjusted as ε² is (Kelley 1935): 1 - (1 - ρ²) (n - k) / (n - m) for n rows in
    which k states of the parent and m joint states occur, and 0 where that is negative. A unit that the
    parent explains wholly, or that never varies, has 0; where n <= m there is no estimate, and it is
    NaN. Takes `(…, U, B)` activations and `(…, T, B)` states.

    Nulls are from the first 4096 rows, or fewer of very many units, and are scaled to n rows: the
    square of either number is proportional to 1 / n. States of a target are exchanged among rows with
    the same state of its parent, by shifts, or those of all targets together among all rows; the unit
    with the largest strength is chosen anew each time.

    Args:
        parents: of each target, its parent's place among the targets; -1 for none.
        states: K, the largest number of states of a target.
        lags: shifts that make the nulls; 0 for none.

    Raises:
        ValueError: a place outside -1..T-1, negative lags; in `update` as `CorrelationRatio`.

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
        >>> bool(found.partial[2] > found.partial_null[2])
        True
    """

    def __init__(self, parents: Sequence[int], states: int = 2, lags: int = LAGS) -> None:
        bad = [p for p in parents if not -1 <= p < len(parents)]
        if bad:
            raise ValueError(f"parents must be in -1..{len(parents) - 1}, got {bad[0]}")
        if lags < 0:
            raise ValueError(f"lags must be at least 0, got {lags}")
        self.states, self.lags = states, lags
        self.children = [t for t, p in enumerate(parents) if p >= 0]
        self.above = [parents[t] for t in self.children]
        self.units = StreamingUnits()
        self.alone = StreamingConditional(states)
        self.joint = StreamingConditional(states * states)
        self.kept: list[tuple[Tensor, Tensor]] = []  # first activations and states

    def update(self, activations: Tensor | UnitBatch, targets: Tensor) -> None:
        """Add a batch."""
        check_fit(activations, targets)
        check_states(targets, self.states)
        batch = activations
        if not isinstance(batch, UnitBatch):
            batch = self.units.take(batch)
        self.units = batch.owner(self.units)
        self.alone.update(batch, targets)
        z = targets.to(torch.int32)
        if self.children:
            self.joint.update(batch, self._cells(z))
        if self.lags:
            self._keep(batch.given, z)

    def _cells(self, z: Tensor) -> Tensor:
        """`(…, T of those with a parent, B)` joint states of targets and parents."""
        return z[..., self.children, :] * self.states + z[..., self.above, :]

    def _keep(self, given: Tensor, z: Tensor) -> None:
        most = min(HELD[0], max(HELD[1] // max(given[..., 0].numel(), 1), 1))
        room = most - sum(states.shape[-1] for _, states in self.kept)
        if room > 0:  # copies, so that the rest of a batch is not kept alive
            self.kept.append((given[..., :room].clone(), z[..., :room].clone()))

    def result(self, unit: Tensor, allowed: Tensor | None = None) -> Specific:
        """The specificity of the units `(…, T)` int64 chosen for the targets; -1 for none.

        A target without a unit has strength 0, no rival and, where it has a parent, partial 0.

        Args:
            allowed: `(U, T)` bool, the units among which each target's was chosen; all by default.
        """
        found = self.alone.result()
        every = ratio_square(found).sqrt()
        has = unit.to(every.device) >= 0
        chosen = unit.to(every.device).clamp(min=0)[..., None]
        own = torch.take_along_dim(every, chosen, dim=-2)  # (…, T, T): of each target's unit
        own = own.where(has[..., None], 0.0)
        strength = own.diagonal(dim1=-2, dim2=-1)
        partial = torch.full_like(strength, torch.nan)
        if self.children:
            picked = chosen[..., self.children, :]
            joint = self.joint.result()
            every_partial = partial_square(
                joint.rows, joint.mean, joint.variance[..., None], self.states
            )
            square = torch.take_along_dim(every_partial, picked, dim=-2)
            square = square.diagonal(dim1=-2, dim2=-1).where(has[..., self.children], 0.0)
            partial[..., self.children] = square.sqrt()
        others = own.clone()
        others.diagonal(dim1=-2, dim2=-1).fill_(-1)
        rival_strength, rival = others.max(-1)
        none = (rival_strength < 0) | ~has
        partial_null, rival_null = self._nulls(allowed, partial)
        return Specific(
            strength.clone(),
            rival.masked_fill(none, -1),
            rival_strength.masked_fill(none, 0.0),
            partial,
            partial_null,
            rival_null.masked_fill(none, torch.nan),
        )

    def _nulls(self, allowed: Tensor | None, partial: Tensor) -> tuple[Tensor, Tensor]:
        """`(…, T)` each, for all rows from those that were kept."""
        nan = torch.full_like(partial, torch.nan)
        if not self.lags:
            return nan, nan
        a, z = (torch.cat(parts, -1) for parts in zip(*self.kept, strict=True))
        null = BestUnitNull(a, z, self.states, self.lags, allowed)
        rival = null.rival() * (z.shape[-1] / self.units.samples) ** 0.5
        if not self.children:
            return nan, rival
        found, kept_rows = null.partial(self.children, self.above)
        error, kept_error = (sampling_error(x, self.states) for x in (self.joint.count, kept_rows))
        # without an error, the latent has one state for each of its parent's: it has no effect
        found = found * (error / kept_error.where(kept_error > 0, torch.inf)).sqrt()
        nan[..., self.children] = found.where(~partial[..., self.children].isnan(), torch.nan)
        return nan, rival


class RivalBaseline:
    """The correlation ratio of the exact posterior of one latent with another latent.

    It is what a unit scores on a latent if it follows nothing but a rival of that latent, as well
    as the leaves allow: a score that is not above it is no evidence that the unit follows the
    latent itself. For more than two `states` the best of the posterior's probabilities counts.

    Raises:
        ValueError: in `update` as `CorrelationRatio`.

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
