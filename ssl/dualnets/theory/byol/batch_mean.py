"""Subtracting the batch mean makes a covariance: BatchNorm's implicit contrastive term.

f_i is the output of sample i of a batch of B, K_i its connection, and f~_i = f_i - mean_j f_j what
follows the subtraction. Let g_i = -B dL/df~_i, whatever comes after the subtraction. If the gradient
passes through the mean, f_i receives g_i - mean_j g_j, so (docs/theory.md, Section 6; the part of arXiv
2010.00578 on BYOL and BatchNorm, in its versions before the last)

    -∇L = E_i[K_i g_i] - E[K] E[g] = Cov_i[K_i, g_i]     with the gradient through the mean  (Equation 6.1)
    -∇L = E_i[K_i g_i]                                   with the mean detached              (Equation 6.2)

The difference, -E[K] E[g], vanishes where E[g] = 0: for a linear predictor without bias, a squared loss
and a target with mean 0, detaching changes nothing. For a nonlinear predictor, a cosine loss or a target
that is not centred it does change the update.

With a linear predictor W_p, a target f_2 and L = 1/2 E ||W_p f~_1 - f_2||², g_i = -W_pᵀ (W_p f~_1i - f_2i):

    -∇L = -Cov_i[K_1i, W_pᵀ W_p f~_1i]  +  Cov_i[K_1i, W_pᵀ f_2i]                            (Equation 6.3)

The second part acts like the covariance operator: it is an implicit contrastive term.

The K_i g_i are vector-Jacobian products, so K is never made. Networks are pure functions of a dict of
parameters, as in `torch.func.functional_call`. Axes: B sample, F feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]
Below = Callable[[Parameters, Tensor], Tensor]


class MeanParts(NamedTuple):
    """The descent direction below a mean subtraction, and its parts; each is a dict name -> tensor.

    Attributes:
        total: Cov_i[K_i, g_i], the direction with the gradient through the mean (Equation 6.1).
        detached: E_i[K_i g_i], the direction with the mean detached (Equation 6.2).
        through_mean: -E[K] E[g], their difference, which the gradient through the mean adds.
    """

    total: dict[str, Tensor]
    detached: dict[str, Tensor]
    through_mean: dict[str, Tensor]


class ContrastParts(NamedTuple):
    """The descent direction of BYOL with a linear predictor below a mean subtraction (Equation 6.3).

    Each part is a dict name -> tensor.

    Attributes:
        shrink: -Cov_i[K_1i, W_pᵀ W_p f~_1i], which makes outputs smaller.
        contrast: Cov_i[K_1i, W_pᵀ f_2i], the implicit contrastive term.
        total: their sum.
    """

    shrink: dict[str, Tensor]
    contrast: dict[str, Tensor]
    total: dict[str, Tensor]


def pull_back(below: Below, parameters: Parameters, inputs: Tensor, g: Tensor) -> dict[str, Tensor]:
    """E_i[K_i g_i], by one vector-Jacobian product (docs/theory.md, Equation 6.2).

    Args:
        below: (parameters, inputs) -> `(B, F)` f; the output of a sample may not depend on the others.
        parameters: name -> tensor.
        inputs: `(B, ...)`.
        g: `(B, F)`.

    Returns:
        name -> tensor, as the parameters.

    Raises:
        ValueError: g of another shape than the outputs.
    """
    made = torch.func.vjp(lambda given: below(given, inputs), dict(parameters))
    outputs, product = made[0], made[1]
    if g.shape != outputs.shape:
        raise ValueError(f"g has shape {tuple(g.shape)}, expected {tuple(outputs.shape)}")
    found: dict[str, Tensor] = product(g.to(outputs) / len(outputs))[0]
    return found


def batch_covariance(
    below: Below, parameters: Parameters, inputs: Tensor, g: Tensor
) -> dict[str, Tensor]:
    """Cov_i[K_i, g_i] over the batch (docs/theory.md, Equation 6.1); args and returns as `pull_back`.

    Example:
        >>> below = lambda weights, x: x @ weights["w"].T
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> batch_covariance(below, {"w": torch.ones(1, 1)}, x, torch.tensor([[3.0], [5.0]]))
        {'w': tensor([[1.]])}
    """
    return pull_back(below, parameters, inputs, g - g.mean(0))


def mean_parts(
    below: Below, above: Callable[[Tensor], Tensor], parameters: Parameters, inputs: Tensor
) -> MeanParts:
    """-∇L of L = above(f - mean f) with respect to the parameters of f (docs/theory.md, Equation 6.1).

    Args:
        below: (parameters, inputs) -> `(B, F)` f, sample by sample.
        above: centred `(B, F)` -> the loss, a mean over the batch. It may contain anything, such as the
            division by the batch's standard deviation, a predictor, a cosine with a fixed target.
        parameters: name -> tensor.
        inputs: `(B, ...)`.

    Raises:
        ValueError: a loss that is not one number or has no gradient, or outputs that are not `(B, F)`.

    Example:
        >>> below = lambda weights, x: x @ weights["w"].T
        >>> above = lambda centred: (torch.tanh(centred) - 1).square().sum(1).mean()
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> parts = mean_parts(below, above, {"w": torch.ones(1, 1)}, x)
        >>> bool(parts.total["w"].isclose(parts.detached["w"] + parts.through_mean["w"]))
        True
    """
    outputs = below(parameters, inputs).detach()
    if outputs.ndim != 2 or len(outputs) < 1:
        raise ValueError(
            f"outputs have shape {tuple(outputs.shape)}, expected (B, F) with B at least 1"
        )
    centred = (outputs - outputs.mean(0)).requires_grad_()
    loss = above(centred)
    if loss.ndim != 0:
        raise ValueError(f"the loss has shape {tuple(loss.shape)}, expected one number")
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: it does not depend on the centred outputs")
    g = -len(outputs) * torch.autograd.grad(loss, centred)[0]
    total = pull_back(below, parameters, inputs, g - g.mean(0))
    detached = pull_back(below, parameters, inputs, g)
    return MeanParts(total, detached, {name: total[name] - detached[name] for name in total})


def contrast_parts(
    below: Below, parameters: Parameters, inputs: Tensor, *, predictor: Tensor, target: Tensor
) -> ContrastParts:
    """The two parts of -∇ of 1/2 E_i ||W_p f~_1i - f_2i||² (docs/theory.md, Equation 6.3).

    The gradient passes through the mean.

    Args:
        below, parameters, inputs: of the online network, before the subtraction; see `pull_back`.
        predictor: `(F_2, F)` W_p. A nonlinear predictor has no such split; use `mean_parts` for it.
        target: `(B, F_2)` f_2, which is not differentiated.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> below = lambda weights, x: x @ weights["w"].T
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> parts = contrast_parts(below, {"w": torch.ones(1, 1)}, x, predictor=torch.eye(1), target=x)
        >>> float(parts.contrast["w"]), float(parts.shrink["w"])
        (1.0, -1.0)
    """
    outputs = below(parameters, inputs).detach()
    if outputs.ndim != 2 or predictor.shape != (target.shape[-1], outputs.shape[-1]):
        raise ValueError(
            f"outputs {tuple(outputs.shape)}, predictor {tuple(predictor.shape)} and target "
            f"{tuple(target.shape)} do not fit, expected (B, F), (F2, F), (B, F2)"
        )
    centred = outputs - outputs.mean(0)
    pulled = target.detach() @ predictor
    shrink = batch_covariance(below, parameters, inputs, -centred @ predictor.T @ predictor)
    contrast = batch_covariance(below, parameters, inputs, pulled)
    total = {name: shrink[name] + contrast[name] for name in shrink}
    return ContrastParts(shrink, contrast, total)
