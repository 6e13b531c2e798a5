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
from hltm.sampling.rules import check_rate

# The random numbers of all leaves that have an address but for a number: from that, `(S, B, X)` float64
# in (0, 1).
Uniform = Callable[[int], Tensor]


def check_level(level: object) -> float:
    """A noise level as a float.

    Raises:
        ValueError: no number in [0, 1].
    """
    return check_rate(level, "a noise level")


def check_levels(levels: object) -> list[float]:
    """Noise levels as floats.

    Raises:
        ValueError: none, no sequence, or some that are no numbers in [0, 1].

    Example:
        >>> check_levels(np.array([0.5, 0.25])), check_levels(0.5)
        Traceback (most recent call last):
        ValueError: noise levels must be a sequence of numbers in [0, 1], got 0.5
    """
    given = list(levels) if isinstance(levels, Sequence | np.ndarray | Tensor) else []
    if isinstance(levels, str) or not given:
        raise ValueError(
            f"noise levels must be a sequence of numbers in [0, 1], got {levels!r:.80}"
        )
    return [check_level(level) for level in given]


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
        self, leaves: Tensor, noisy: Tensor, t: float, s: float, states: Tensor, uniform: Uniform
    ) -> Tensor:
        """x_s at level s < t, given the leaves x_0 and the noisy ones x_t."""
        raise NotImplementedError

    def check_tree(self, tables: Tables) -> None:
        """Raise a ValueError for a tree whose leaves the process does not take."""

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
        return one_hot(noisy, states).where(noisy[..., None] >= 0, existing(states))

    def back(
        self, leaves: Tensor, noisy: Tensor, t: float, s: float, states: Tensor, uniform: Uniform
    ) -> Tensor:
        """A missing leaf is seen at level s with probability (t - s) / t."""
        return noisy.where((noisy >= 0) | (uniform(0) * t < s), leaves)


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
        replaced = level * existing(states) / states[:, None]  # of float64, unlike level / states
        seen = replaced + (1 - level) * one_hot(noisy, states)
        return seen.where(noisy[..., None] >= 0, existing(states))

    def back(
        self, leaves: Tensor, noisy: Tensor, t: float, s: float, states: Tensor, uniform: Uniform
    ) -> Tensor:
        """P(x_s | x_0, x_t) ∝ P(x_s | x_0) P(x_t | x_s), and x_t is x_s replaced at a rate of its own."""
        step = (t - s) / (1 - s)
        weight = self.likelihood(leaves, s, states) * self.likelihood(noisy, step, states)
        total = weight.cumsum(-1)
        return (total <= uniform(0)[..., None] * total[..., -1:]).sum(-1)


def check_noise(noise: object, tables: Tables) -> Noise:
    """The noise process itself.

    Raises:
        TypeError: anything else, such as a class that has not been called.
        ValueError: signs of leaves that are not binary.
    """
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be Masking(), Flips() or Gaussian(), got {noise!r:.80}")
    noise.check_tree(tables)
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


def existing(states: Tensor) -> Tensor:
    """`(X, K)` float64, 1 for states that a leaf has."""
    return (torch.arange(int(states.max())) < states[:, None]).to(torch.float64)


def one_hot(leaves: Tensor, states: Tensor) -> Tensor:
    """`(..., X, K)` float64, all 0 for a missing leaf."""
    return (leaves[..., None] == torch.arange(int(states.max()))).to(torch.float64)
