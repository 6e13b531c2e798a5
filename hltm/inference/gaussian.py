"""Gaussian noise on leaves, one-hot or as signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hltm.inference.noise import Noise, Uniform, existing, leaf_states, one_hot
from hltm.model.tables import Tables


@dataclass(frozen=True)
class Gaussian(Noise):
    """x_t = √(1 - t) x_0 + √t ε with standard normal ε: the variance-preserving process (Ho et al. 2020).

    x_0 is the one-hot state of a leaf, `(..., B, X, K)`, or with `signs` -1 and +1 for the states 0 and 1
    of binary leaves, `(..., B, X)`. Any other noise signal · x_0 + sigma · ε is this at the level
    t = sigma² / (signal² + sigma²), once it is divided by √(signal² + sigma²). One-hot components that a
    leaf with fewer than K states does not have are 0 in x_t.

    Attributes:
        signs: whether x_0 is a sign.

    Raises:
        TypeError: signs other than True or False.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> leaf = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
        >>> tree.denoise(leaf, hltm.Gaussian(signs=True), 0.5)[..., 1]  # 1 / (1 + exp(-√2)), …
        tensor([[0.8044, 0.6948]], dtype=torch.float64)
    """

    signs: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.signs, bool):
            raise TypeError(f"signs must be True or False, got {self.signs!r:.80}")

    def corrupt(self, leaves: Tensor, level: float, states: Tensor, uniform: Uniform) -> Tensor:
        """x_t: float64."""
        return (1 - level) ** 0.5 * self._clean(leaves, states) + level**0.5 * self._normal(
            states, uniform
        )

    def likelihood(self, noisy: Tensor, level: float, states: Tensor) -> Tensor:
        """exp(√(1 - t) x_t · x_0 / t); at t = 0 its limit, 1 at the nearest state and 0 at others."""
        match = torch.stack([-noisy, noisy], -1) if self.signs else noisy.to(torch.float64)
        match = match.masked_fill(existing(states) == 0, -torch.inf)
        if level == 0:
            return one_hot(match.argmax(-1), states)
        # the largest is taken off first, so that whatever overflows is of a state that is impossible
        logs = (match - match.amax(-1, keepdim=True)) * ((1 - level) ** 0.5 / level)
        return logs.nan_to_num(0).exp() * existing(states)  # 0 · inf is 0, also at t = 1

    def back(
        self, leaves: Tensor, noisy: Tensor, t: float, s: float, states: Tensor, uniform: Uniform
    ) -> Tensor:
        """Normal: mean (r √(1 - s) x_0 + s √(1 - r) x_t) / t, variance s r / t, r = (t - s) / (1 - s)."""
        r = (t - s) / (1 - s)
        mean = r * (1 - s) ** 0.5 * self._clean(leaves, states) + s * (1 - r) ** 0.5 * noisy
        return mean / t + (s * r / t) ** 0.5 * self._normal(states, uniform)

    def _clean(self, leaves: Tensor, states: Tensor) -> Tensor:
        if self.signs:
            return 2.0 * leaves.to(torch.float64) - 1
        return one_hot(leaves, states)

    def _normal(self, states: Tensor, uniform: Uniform) -> Tensor:
        """Standard normal numbers, two from two uniform ones (Box and Muller 1958)."""
        channels = 1 if self.signs else int(states.max())
        found: list[Tensor] = []
        for number in range(0, channels, 2):
            radius, angle = (-2 * uniform(number).log()).sqrt(), 2 * torch.pi * uniform(number + 1)
            found += [radius * angle.cos(), radius * angle.sin()]
        normal = torch.stack(found[:channels], -1)
        return normal[..., 0] if self.signs else normal * existing(states)

    def check(self, tables: Tables, noisy: object, *, stacked: bool) -> Tensor:
        """x_t as float64 `(S, B, X, K)` or, of signs, `(S, B, X)`.

        Raises:
            ValueError: the wrong shape, or numbers that are not finite.
        """
        states = leaf_states(tables)
        try:
            found = torch.as_tensor(noisy, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"noisy leaves are not an array of numbers: {error}") from error
        last = (len(states),) if self.signs else (len(states), int(states.max()))
        lead = found.shape[: -1 - len(last)]
        if (
            found.ndim <= len(last)
            or found.shape[-len(last) :] != last
            or (lead and (not stacked or lead != (tables.count,)))
        ):
            shown = ", ".join(["B", *map(str, last)])
            more = f" or ({tables.count}, {shown})" if stacked else ""
            raise ValueError(
                f"noisy leaves have shape {tuple(found.shape)}, expected ({shown}){more}"
            )
        if not found.isfinite().all():
            bad = float(found[~found.isfinite()][0])
            raise ValueError(f"noisy leaves hold {bad}, expected finite numbers")
        return found if lead else found.expand(tables.count, *found.shape)

    def check_tree(self, tables: Tables) -> None:
        """Raise a ValueError for signs of leaves that are not binary."""
        states = tables.cardinality[tables.topology.leaves.start :]
        for i in np.flatnonzero(self.signs * (states != 2)):
            name = tables.topology.names[tables.topology.leaves[i]]
            raise ValueError(
                f"Gaussian noise on signs needs binary leaves, but leaf {name!r} has {states[i]} "
                "states; Gaussian() takes any number"
            )
