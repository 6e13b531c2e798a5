"""Subtracting the batch mean makes a covariance: BatchNorm's implicit contrastive term.

Let f~_i = f_i - mean_j f_j, and let g_i = -B dL/df~_i be what arrives above the subtraction, whatever
comes after it. If the gradient goes through the mean, what arrives below is g_i - mean_j g_j, so with
K the connection of f (theory, Section 6; arXiv 2010.00578, Sec. 5)

    -∇ = E_i[K_i g_i] - E[K] E[g] = Cov_i[K_i, g_i]         instead of         E_i[K_i g_i]

where the mean is detached. The difference, -E[K] E[g], vanishes where E[g] = 0: for a linear
predictor without bias, a squared loss and a target with mean 0, detaching changes nothing. It does
for a nonlinear predictor, a cosine, or a target that is not centred.

With a linear predictor W_p and L = 1/2 E ||W_p f~_1 - f_2||², g_i = -W_p^T (W_p f~_1i - f_2i), so

    -∇ = -Cov_i[K_1i, W_p^T W_p f~_1i]  +  Cov_i[K_1i, W_p^T f_2i]

whose second part acts like the covariance operator: an implicit contrastive term.

Here K_i g_i are vector-Jacobian products, so K is never made; networks are pure functions of a dict
of parameters, as `torch.func.functional_call` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]
Below = Callable[[Parameters, Tensor], Tensor]


class MeanParts(NamedTuple):
    """The descent direction below a mean subtraction, and its parts; name -> tensor each.

    Attributes:
        total: Cov_i[K_i, g_i]: the direction with the gradient through the mean.
        detached: E_i[K_i g_i]: the direction with the mean detached.
        through_mean: -E[K] E[g]: what the gradient through the mean adds.
    """

    total: dict[str, Tensor]
    detached: dict[str, Tensor]
    through_mean: dict[str, Tensor]


class ContrastParts(NamedTuple):
    """The descent direction of linear BYOL below a mean subtraction; name -> tensor each.

    Attributes:
        shrink: -Cov_i[K_1i, W_p^T W_p f~_1i], which makes outputs smaller.
        contrast: Cov_i[K_1i, W_p^T f_2i], the implicit contrastive term.
        total: their sum.
    """

    shrink: dict[str, Tensor]
    contrast: dict[str, Tensor]
    total: dict[str, Tensor]


def pull_back(below: Below, parameters: Parameters, inputs: Tensor, g: Tensor) -> dict[str, Tensor]:
    """E_i[K_i g_i], by one vector-Jacobian product.

    Args:
        below: (parameters, inputs) -> `(B, F)`; no sample's output may depend on another sample.
        g: `(B, F)`.

    Raises:
        ValueError: g that does not have the outputs' shape.
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
    """Cov_i[K_i, g_i] over the batch.

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
    """The parts of -∇ of above(f - mean f) with respect to the parameters of f.

    Args:
        below: (parameters, inputs) -> `(B, F)` f, sample by sample.
        above: centred `(B, F)` -> the loss, a mean over the batch; anything, e.g. the division by
            the batch's standard deviation, a predictor, a cosine with a fixed target.
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
            f"outputs have shape {tuple(outputs.shape)}, expected (B, F), B at least 1"
        )
    centred = (outputs - outputs.mean(0)).requires_grad_()
    loss = above(centred)
    if loss.ndim != 0:
        raise ValueError(f"the loss has shape {tuple(loss.shape)}, expected one number")
    if not loss.requires_grad:
        raise ValueError("the loss does not depend on the centred outputs, it has no gradient")
    g = -len(outputs) * torch.autograd.grad(loss, centred)[0]
    total = pull_back(below, parameters, inputs, g - g.mean(0))
    detached = pull_back(below, parameters, inputs, g)
    return MeanParts(total, detached, _difference(total, detached))


def contrast_parts(
    below: Below,
    parameters: Parameters,
    inputs: Tensor,
    *,
    predictor: Tensor,
    target: Tensor,
) -> ContrastParts:
    """The two parts of -∇ of 1/2 E_i ||W_p f~_1i - f_2i||², the gradient going through the mean.

    Args:
        below, parameters, inputs: of the online network, before the subtraction.
        predictor: W_p, `(F_2, F)`: a matrix; for a nonlinear predictor this split does not exist
            (use `mean_parts`).
        target: f_2, `(B, F_2)`, not differentiated.

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


def _difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: a[name] - b[name] for name in a}
