"""Noise on leaves: what it makes of them, what that says of them, and the step back to less noise.

A process takes the leaves x_0 to x_t, at a level t from 0, no noise, to 1, where nothing of them is
left. Each is a Markov chain in t that treats every leaf on its own, and from level s to t > s it keeps
a = (1 - t) / (1 - s) of what there was. So three functions say all of it, leaf by leaf:

    P(x_t | x_0)            `corrupt` draws from it
    P(x_t | x_0 = state)    `likelihood`: soft evidence on x_0, with which the tree's posterior is exact
    P(x_s | x_0, x_t)       `back` draws from it; with x_0 from the posterior given x_t, x_s is from
                            P(x_s | x_t), the reverse process itself (Sohl-Dickstein et al. 2015)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hltm.inference.leaves import as_states, check_states
from hltm.model.states import MISSING
from hltm.model.tables import Tables
from hltm.sampling.philox import MAX_VIEWS, words_at

# The random numbers of all leaves that have an address but for a number: from that, `(S, B, X)` float64
# in (0, 1).
Uniform = Callable[[int], Tensor]


def check_level(level: float, name: str = "level") -> float:
    """A noise level as a float.

    Raises:
        ValueError: not a number in [0, 1].

    Example:
        >>> check_level(1.5)
        Traceback (most recent call last):
        ValueError: a noise level must be a number in [0, 1], got 1.5
    """
    if isinstance(level, bool) or not isinstance(level, (int, float, np.number)):
        raise ValueError(f"a noise {name} must be a number in [0, 1], got {level!r:.80}")
    if not 0 <= level <= 1:
        raise ValueError(f"a noise {name} must be a number in [0, 1], got {level}")
    return float(level)


def uniform_at(
    tables: Tables,
    rows: Tensor,
    *,
    seed: int,
    stream: int,
    members: Sequence[int],
    step: int = 0,
) -> Uniform:
    """Random numbers of leaves at the addresses of some samples; `step` numbers the steps of a chain.

    Args:
        rows: `(B,)` int64 numbers of samples.

    Raises:
        ValueError: more steps than have addresses, 2^24 / K.
    """
    nodes = np.asarray(tables.topology.leaves)
    each = int(leaf_states(tables).max()) + 1  # numbers that a step may use: K, and one to be even
    if (step + 1) * each > MAX_VIEWS:
        raise ValueError(f"expected at most {MAX_VIEWS // each} steps of noise, got {step + 1}")

    def uniform(number: int) -> Tensor:
        view = step * each + number
        words = words_at(rows, seed=seed, stream=stream, members=members, nodes=nodes, view=view)
        return (words.transpose(1, 2) + 0.5) * 2.0**-32

    return uniform


@dataclass(frozen=True)
class Noise:
    """What the noise processes share. Shapes below: `...` is S, or nothing; B samples, X leaves, K states.

    `states` are `(X,)` int64, the number of states of every leaf; K is the largest.
    """

    def corrupt(self, leaves: Tensor, level: float, states: Tensor, uniform: Uniform) -> Tensor:
        """x_t from x_0, integer states `(..., B, X)`."""
        raise NotImplementedError

    def likelihood(self, noisy: Tensor, level: float, states: Tensor) -> Tensor:
        """`(..., B, X, K)` float64 P(x_t | x_0 = state), up to a factor per leaf; 0 for no states."""
        raise NotImplementedError

    def back(
        self,
        leaves: Tensor,
        noisy: Tensor,
        level: float,
        to: float,
        states: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """x_s at level `to` = s < `level` = t, given x_0 and x_t."""
        raise NotImplementedError

    def check(self, tables: Tables, noisy: object, *, stacked: bool) -> Tensor:
        """x_t as a tensor `(S, B, X)`: integer states, -1 where missing; `Gaussian` has its own.

        Raises:
            ValueError: the wrong shape or dtype, or a state that a leaf does not have.
        """
        found = check_states(
            tables, noisy, tables.topology.leaves, stacked=stacked, what="noisy leaves"
        )
        return found.transpose(1, 2).to(torch.int64)


@dataclass(frozen=True)
class Masking(Noise):
    """Each leaf is missing, -1, with probability t: masked (absorbing) diffusion (Austin et al. 2021).

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> tree.denoise([[1, -1]], hltm.Masking(), 0.5)[..., 1]  # .9 x .9 + .1 x .1
        tensor([[1.0000, 0.8200]], dtype=torch.float64)
    """

    def corrupt(self, leaves: Tensor, level: float, states: Tensor, uniform: Uniform) -> Tensor:
        """x_t: the leaves, -1 where missing."""
        return leaves.to(torch.int64).masked_fill(uniform(0) < level, MISSING)

    def likelihood(self, noisy: Tensor, level: float, states: Tensor) -> Tensor:
        """1 at the state that is seen, and at every state of a missing leaf."""
        return _one_hot(noisy, states).where(noisy[..., None] >= 0, _exist(states))

    def back(
        self,
        leaves: Tensor,
        noisy: Tensor,
        level: float,
        to: float,
        states: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """A missing leaf is seen at level s with probability (t - s) / t."""
        return noisy.where((noisy >= 0) | (uniform(0) * level < to), leaves)


@dataclass(frozen=True)
class Flips(Noise):
    """Each leaf is replaced by a uniform state of its own with probability t (Austin et al. 2021).

    The state that replaces it may be the one that it had, so a binary leaf changes with probability t / 2.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> tree.denoise([[1, -1]], hltm.Flips(), 0.5)[..., 1]  # .75, and .75 x .82 + .25 x .18
        tensor([[0.7500, 0.6600]], dtype=torch.float64)
    """

    def corrupt(self, leaves: Tensor, level: float, states: Tensor, uniform: Uniform) -> Tensor:
        """x_t: states of the leaves."""
        other = (uniform(1) * states).floor().to(torch.int64)
        return other.where(uniform(0) < level, leaves.to(torch.int64))

    def likelihood(self, noisy: Tensor, level: float, states: Tensor) -> Tensor:
        """t / K, and 1 - t more at the state that is seen; 1 everywhere where a leaf is missing."""
        replaced = level * _exist(states) / states[:, None]  # of float64, unlike level / states
        seen = replaced + (1 - level) * _one_hot(noisy, states)
        return seen.where(noisy[..., None] >= 0, _exist(states))

    def back(
        self,
        leaves: Tensor,
        noisy: Tensor,
        level: float,
        to: float,
        states: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """P(x_s | x_0, x_t) ∝ P(x_s | x_0) P(x_t | x_s), and x_t is x_s replaced at a rate of its own."""
        step = (level - to) / (1 - to)
        weight = self.likelihood(leaves, to, states) * self.likelihood(noisy, step, states)
        total = weight.cumsum(-1)
        return (total <= uniform(0)[..., None] * total[..., -1:]).sum(-1)


@dataclass(frozen=True)
class Gaussian(Noise):
    """x_t = √(1 - t) x_0 + √t ε with standard normal ε: the variance-preserving process (Ho et al. 2020).

    x_0 is the one-hot state of a leaf, `(..., B, X, K)`, or with `signs` -1 and +1 for the states 0 and 1
    of binary leaves, `(..., B, X)`. Any other noise signal · x_0 + sigma · ε is this at the level
    t = sigma² / (signal² + sigma²), once it is divided by √(signal² + sigma²). One-hot components that a
    leaf with fewer than K states does not have are 0 in x_t.

    Attributes:
        signs: whether x_0 is a sign.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> leaf = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
        >>> tree.denoise(leaf, hltm.Gaussian(signs=True), 0.5)[..., 1]  # 1 / (1 + exp(-√2)), …
        tensor([[0.8044, 0.6948]], dtype=torch.float64)
    """

    signs: bool = False

    def corrupt(self, leaves: Tensor, level: float, states: Tensor, uniform: Uniform) -> Tensor:
        """x_t: float64."""
        return (1 - level) ** 0.5 * self._clean(leaves, states) + level**0.5 * self._normal(
            states, uniform
        )

    def likelihood(self, noisy: Tensor, level: float, states: Tensor) -> Tensor:
        """exp(√(1 - t) x_t · x_0 / t); at t = 0 its limit, 1 at the nearest state and 0 at others."""
        match = torch.stack([-noisy, noisy], -1) if self.signs else noisy.to(torch.float64)
        match = match.masked_fill(_exist(states) == 0, -torch.inf)
        if level == 0:
            return _one_hot(match.argmax(-1), states)
        logs = match * ((1 - level) ** 0.5 / level)
        logs = logs.masked_fill(_exist(states) == 0, -torch.inf)  # at t = 1, 0 · inf
        return (logs - logs.amax(-1, keepdim=True)).exp()

    def back(
        self,
        leaves: Tensor,
        noisy: Tensor,
        level: float,
        to: float,
        states: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """Normal: mean (r √(1 - s) x_0 + s √(1 - r) x_t) / t, variance s r / t, r = (t - s) / (1 - s)."""
        step = (level - to) / (1 - to)
        mean = step * (1 - to) ** 0.5 * self._clean(leaves, states) + to * (1 - step) ** 0.5 * noisy
        return mean / level + (to * step / level) ** 0.5 * self._normal(states, uniform)

    def _clean(self, leaves: Tensor, states: Tensor) -> Tensor:
        if self.signs:
            return 2.0 * leaves.to(torch.float64) - 1
        return _one_hot(leaves, states)

    def _normal(self, states: Tensor, uniform: Uniform) -> Tensor:
        """Standard normal numbers, two from two uniform ones (Box and Muller 1958)."""
        channels = 1 if self.signs else int(states.max())
        found: list[Tensor] = []
        for number in range(0, channels, 2):
            radius, angle = (-2 * uniform(number).log()).sqrt(), 2 * torch.pi * uniform(number + 1)
            found += [radius * angle.cos(), radius * angle.sin()]
        normal = torch.stack(found[:channels], -1)
        return normal[..., 0] if self.signs else normal * _exist(states)

    def check(self, tables: Tables, noisy: object, *, stacked: bool) -> Tensor:
        """x_t as float64 `(S, B, X, K)` or, of signs, `(S, B, X)`.

        Raises:
            ValueError: the wrong shape, numbers that are not finite, or signs of leaves that are not
                binary.
        """
        states = leaf_states(tables)
        if self.signs:
            self._check_binary(tables, states)
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

    @staticmethod
    def _check_binary(tables: Tables, states: Tensor) -> None:
        for i in (states != 2).nonzero()[:, 0].tolist():
            name = tables.topology.names[tables.topology.leaves[i]]
            raise ValueError(
                f"Gaussian noise on signs needs binary leaves, but leaf {name!r} has {int(states[i])} "
                "states; Gaussian() takes any number"
            )


def check_noise(noise: object, tables: Tables) -> Noise:
    """The noise process itself.

    Raises:
        TypeError: anything else, such as a class that has not been called.
        ValueError: signs of leaves that are not binary.
    """
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be Masking(), Flips() or Gaussian(), got {noise!r:.80}")
    if isinstance(noise, Gaussian) and noise.signs:
        noise._check_binary(tables, leaf_states(tables))
    return noise


def check_clean(tables: Tables, leaves: object, *, stacked: bool) -> Tensor:
    """Leaves without noise, `(S, B, X)` int64.

    Raises:
        ValueError: as `check_states`, or a missing leaf.
    """
    found = check_states(tables, as_states(leaves), tables.topology.leaves, stacked=stacked)
    if (found == MISSING).any():
        raise ValueError("leaves hold -1, expected states: noise is put on complete leaves")
    return found.transpose(1, 2).to(torch.int64)


def leaf_states(tables: Tables) -> Tensor:
    """`(X,)` int64, the number of states of every leaf."""
    return torch.from_numpy(tables.cardinality[tables.topology.leaves.start :])


def _exist(states: Tensor) -> Tensor:
    """`(X, K)` float64, 1 for states that a leaf has."""
    return (torch.arange(int(states.max())) < states[:, None]).to(torch.float64)


def _one_hot(leaves: Tensor, states: Tensor) -> Tensor:
    """`(..., X, K)` float64, all 0 for a missing leaf."""
    return (leaves[..., None] == torch.arange(int(states.max()))).to(torch.float64)
