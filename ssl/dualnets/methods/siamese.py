"""What a method is made of in which one branch foretells another's output, as a compiled span reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dualnets.networks.heads import Head


@dataclass(frozen=True)
class SiameseSpec:
    """p(f(x1)) foretells f'(x2): f the network behind a projector, p a predictor, f' the target.

    With D = 2 - 2 cos, or half the squared distance, the loss is

        offset + scale * mean over the batch of D(p(f(x1)), f'(x2)) [+ D(p(f(x2)), f'(x1))].

    Attributes:
        projector, predictor: of a state's `projector.…` and `predictor.…`; `Head()` for none.
        slow: whether f' is `target.network.…` and `target.projector.…` of the state, without
            gradient, rather than f itself.
        ema_decay: (update t counted from 0, how many there are) -> m of f' <- m f' + (1 - m) f.
        stop_gradient: where f' is f itself, whether gradients stop there.
        normalized: the cosine form.
        symmetric: whether the second direction is added.
        after: how many updates lie between two for which the method's own `after_step` does more
            than move the target; 0 for none.
        scale, offset: of the loss.
    """

    projector: Head
    predictor: Head
    slow: bool
    ema_decay: Callable[[int, int], float]
    stop_gradient: bool = True
    normalized: bool = True
    symmetric: bool = True
    after: int = 0
    scale: float = 1.0
    offset: float = 0.0
