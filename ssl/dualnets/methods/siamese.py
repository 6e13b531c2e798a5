"""The parts of a method in which a predictor on one branch predicts the output of the other.

Compiled training reads them in place of the method's own `loss` and `after_step`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dualnets.networks.heads import Head


@dataclass(frozen=True)
class SiameseSpec:
    """p(f(x1)) predicts f'(x2): f the network with a projector, p a predictor, f' the target.

    With D = 2 - 2 cos, or half the squared distance, the loss is

        offset + scale * mean over the batch of D(p(f(x1)), f'(x2)) [+ D(p(f(x2)), f'(x1))].

    Attributes:
        projector: projector of f, `projector.…` in the method's state; `Head()` for none.
        predictor: p, `predictor.…` in the method's state; `Head()` for none.
        separate_target: whether f' has parameters of its own, without gradient: `target.network.…`
            and `target.projector.…` in the state. Otherwise f' is f itself.
        ema_decay: (update t counted from 0, number of all updates) -> m of f' <- m f' + (1 - m) f,
            where the target is separate.
        stop_gradient: where f' is f itself, whether it has no gradient.
        normalized: whether D is the cosine form.
        symmetric: whether the second direction is added.
        after_step_every: number of updates between two at which the method's own `after_step` does
            more than update the target and running moments; 0 for never.
        scale, offset: of the loss.
    """

    projector: Head
    predictor: Head
    separate_target: bool
    ema_decay: Callable[[int, int], float] = lambda step, steps: 1.0
    stop_gradient: bool = True
    normalized: bool = True
    symmetric: bool = True
    after_step_every: int = 0
    scale: float = 1.0
    offset: float = 0.0


def check_predictor(predictor: Head, units: int) -> None:
    """Raise ValueError where a predictor's outputs are not as many as its inputs, or constant."""
    if predictor.outputs(units) != units:
        raise ValueError(
            f"the predictor must have as many outputs as the projector, {units}, got "
            f"{predictor.outputs(units)}"
        )
    predictor.check(units, "predictor")
