"""The equations of linear BYOL without normalisation: data moments, rates, weights and their slopes.

W_p is the predictor, W the online network, W_a the target, all linear and without biases (docs/theory.md,
Section 6; Lemma 1 of arXiv 2102.06810). With
X = E[xbar xbarᵀ], xbar the mean of a sample's views, X' = E_x V_aug[x'] and the stopped gradient sg,
the loss L = 1/2 E ||W_p W x' - sg(W_a x'')||² gives

    A = -W_p W (X + X') + W_a X
    dW_p/dt = α A Wᵀ - η W_p,     dW/dt = W_pᵀ A - η W,     dW_a/dt = β (W - W_a)       (Equation 6.4)

with the weight decay η, the learning rate α of the predictor relative to the online network's, and
the rate β of the target. They are solved in `linear_byol`.

All arrays are float64 numpy; weights may have a member axis S in front. Axes: F feature, X input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dualnets._checks import check_number, check_whole
from dualnets.theory.integration import check_finite
from hltm.sampling.philox import Stream, check_seed, uniform

Array = NDArray[np.float64]


class Weights(NamedTuple):
    """The weights of predictor, online network and target.

    Attributes:
        predictor: W_p, `(..., F, F)`.
        online: W, `(..., F, X)`.
        target: W_a, `(..., F, X)`.
    """

    predictor: Array
    online: Array
    target: Array


@dataclass(frozen=True, eq=False)
class LinearByol:
    """The second moments of the data and the rates: all that Equation 6.4 depends on.

    Attributes:
        mean: `(X, X)` X, the second moment of the mean view; symmetric, without an eigenvalue below 0.
        noise: `(X, X)` X', the covariance of the views given the sample; likewise.
        decay: η, the weight decay of predictor and online network.
        predictor_rate: α, the learning rate of the predictor divided by that of the online network.
        target_rate: β, the rate at which the target approaches the online network; 0 for a fixed target.
        tie: c, for a target W_a = c W at all times, without a rate of its own; None for a target with
            weights of its own.

    Raises:
        TypeError: complex moments, or rates that are not numbers.
        ValueError: moments that are not finite, square, symmetric and of one size, or that have an
            eigenvalue below 0; a negative decay or target rate, a predictor rate not above 0, a rate or
            tie that is not finite, or a tied target with a rate.
    """

    mean: Array
    noise: Array
    decay: float = 0.0
    predictor_rate: float = 1.0
    target_rate: float = 0.0
    tie: float | None = None
    _total: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("mean", "noise"):
            if np.iscomplexobj(getattr(self, name)):
                raise TypeError(f"{name} must be real")
            given = np.asarray(getattr(self, name), dtype=np.float64)
            if given.ndim != 2 or given.shape[0] != given.shape[1] or given.size < 1:
                raise ValueError(f"{name} has shape {given.shape}, expected (X, X)")
            check_finite(name, given)
            size = max(float(np.abs(given).max()), 1e-300)
            if np.abs(given - given.T).max() > 1e-10 * size:
                raise ValueError(f"{name} must be symmetric")
            lowest = float(np.linalg.eigvalsh(given)[0])
            if lowest < -1e-10 * size:
                raise ValueError(f"{name} must have no eigenvalue below 0, got {lowest:.3g}")
            object.__setattr__(self, name, given)
        if self.mean.shape != self.noise.shape:
            raise ValueError(
                f"mean and noise must have one shape, got {self.mean.shape} and {self.noise.shape}"
            )
        check_number("decay", self.decay, low=0)
        check_number("target_rate", self.target_rate, low=0)
        check_number("predictor_rate", self.predictor_rate, above=0)
        if self.tie is not None:
            check_number("tie", self.tie)
        if self.tie is not None and self.target_rate != 0:
            raise ValueError(
                f"a target tied to {self.tie} W has no rate of its own, got {self.target_rate}"
            )
        object.__setattr__(self, "_total", self.mean + self.noise)

    def slopes(self, weights: Weights) -> Weights:
        """d/dt of all weights (docs/theory.md, Equation 6.4)."""
        predictor, online = weights.predictor, weights.online
        target = self.target_weights(weights)
        residual = -predictor @ online @ self._total + target @ self.mean  # A
        return Weights(
            self.predictor_rate * residual @ transposed(online) - self.decay * predictor,  # dW_p/dt
            transposed(predictor) @ residual - self.decay * online,  # dW/dt
            self.target_rate * (online - target),  # dW_a/dt
        )

    def target_weights(self, weights: Weights) -> Array:
        """W_a: the target's own weights, or c W where the target is tied."""
        return weights.target if self.tie is None else self.tie * weights.online


class Path(NamedTuple):
    """The weights at several times.

    Attributes:
        times: `(T,)`.
        predictor, online, target: `(T, ..., F, ·)`.
    """

    times: Array
    predictor: Array
    online: Array
    target: Array

    def __getitem__(self, index: object) -> Weights:  # type: ignore[override]
        """The weights at one place of `times`."""
        at: int = index  # type: ignore[assignment]
        return Weights(self.predictor[at], self.online[at], self.target[at])


def random_weights(
    *, features: int, inputs: int, scale: float = 0.5, members: int | None = None, seed: int
) -> Weights:
    """Independent normal weights of standard deviation scale / sqrt(columns); W_a is a copy of W.

    The weights of a member depend on its address alone.

    Raises:
        TypeError: features or inputs that are not whole numbers.
        ValueError: features or inputs below 1, or a scale that is not finite and above 0.

    Example:
        >>> random_weights(features=2, inputs=3, members=5, seed=0).online.shape
        (5, 2, 3)
    """
    check_whole("features", features, low=1)
    check_whole("inputs", inputs, low=1)
    check_number("scale", scale, above=0)
    addresses = range(1 if members is None else members)
    made = []
    for layer, columns in enumerate((features, inputs)):
        numbers = uniform(
            features * columns, seed=check_seed(seed), stream=Stream.INIT, members=addresses, node=layer
        )  # fmt: skip
        # standard normal numbers from uniform ones, by the inverse distribution function
        normal = torch.special.ndtri(numbers.clamp(2.0**-54, 1 - 2.0**-53)).numpy()
        normal = normal.reshape(-1, features, columns) * scale / columns**0.5
        made.append(normal if members is not None else normal[0])
    return Weights(made[0], made[1], made[1].copy())


def checked(system: LinearByol, weights: Weights) -> Weights:
    """The weights as float64; raise ValueError unless they are finite and fit the system and each other."""
    if len(weights) != 3:
        raise TypeError(f"expected Weights(predictor, online, target), got {len(weights)} parts")
    made = Weights(*(np.array(part, dtype=np.float64) for part in weights))
    inputs = len(system.mean)
    features = made.online.shape[-2] if made.online.ndim >= 2 else 0
    lead = made.online.shape[:-2]
    expected = ((*lead, features, features), (*lead, features, inputs), (*lead, features, inputs))
    if features < 1 or tuple(part.shape for part in made) != expected:
        shown = ", ".join(str(part.shape) for part in made)
        raise ValueError(
            f"predictor, online and target have shapes {shown}, expected (..., F, F), "
            f"(..., F, {inputs}), (..., F, {inputs})"
        )
    for name, part in made._asdict().items():
        check_finite(name, part)
    return made


def transposed(matrix: Array) -> Array:
    """The matrix transpose over the last two axes."""
    return np.swapaxes(matrix, -1, -2)
