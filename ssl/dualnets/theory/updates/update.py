"""What gradient descent does to one weight: predicted by the theorems, and by autograd beside it.

Updates are -∇_W E[L], flat as in `connection`. They come in two forms: `outputs`, with the outputs f,
which holds for any differentiable network; `operator`, with Kᵀ w in the place of f, which needs a
network that is homogeneous from the layer up and is refused elsewhere (theory, Sections 1 and 2).
"""

from __future__ import annotations

import copy
import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from dualnets.methods.losses import Loss, Simple, distance
from dualnets.theory.updates.connection import MAX_ENTRIES, Connection, connection, in_dtype
from dualnets.theory.updates.covariance import check_sampling, covariance_operator
from dualnets.theory.updates.loss_slopes import check_anchors, check_loss
from dualnets.theory.updates.operator_form import check_operator_form
from dualnets.theory.updates.operators import OperatorEstimate
from dualnets.theory.updates.pairwise import (
    Branches,
    check_branches,
    loss_inputs,
    pairwise_operator,
    sampled_pairwise_operator,
    stacked_negatives,
)
from dualnets.theory.updates.views import Data, batch_axis, exact_table, table_inputs

Form = Literal["outputs", "operator"]


def pair_update(
    network: nn.Module,
    layer: int | str,
    first: Tensor,
    second: Tensor,
    *,
    branches: Branches = "both",
    form: Form = "outputs",
    block: int | None = None,
    dtype: torch.dtype | None = torch.float64,
) -> Tensor:
    """∂r/∂w of r = 1/2 |f(x1) - f(x2)|², averaged over pairs (arXiv 2010.00578, Theorem 1).

    Through the first branch alone it is K_1 (f_1 - f_2); through both, (K_1 - K_2)(f_1 - f_2).

    Args:
        network, layer, block, dtype: see `connection`.
        first, second: `(B, ...)` or `(S, B, X)` the inputs of the pairs.
        branches: `both`, or `anchor` for the first alone.
        form: `outputs`, or `operator` with Kᵀ w for f. It is exact where f - Kᵀ w is one constant over
            both inputs, and that is what is asked of it; where all inputs are one sample, Kᵀ w must
            be f itself, for nothing there tells a constant (see `check_operator_form`).

    Returns:
        `(P,)` or `(S, P)`.

    Raises:
        ValueError: the operator form where Kᵀ w is not f up to a constant, saying why; inputs of two
            shapes; other branches or forms.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> network = dualnets.tree_network(tree, units=3, seed=1)
        >>> a, b = (tree.sample(4, seed=seed).leaves for seed in (2, 3))
        >>> one, two = (pair_update(network, 1, a, b, form=f) for f in ("outputs", "operator"))
        >>> one.shape, torch.allclose(one, two)
        (torch.Size([12]), True)
    """
    check_branches(branches)
    _check_form(form)
    network = in_dtype(network, layer, dtype)
    found = [connection(network, layer, inputs) for inputs in (first, second)]
    if first.shape != second.shape:
        raise ValueError(
            f"first and second have shapes {tuple(first.shape)} and {tuple(second.shape)}, expected "
            "as many samples of one shape"
        )
    if form == "operator":
        # together: each with a constant of its own would not cancel in their difference
        together = torch.cat([part.inputs for part in found], dim=batch_axis(network))
        check_operator_form(connection(network, layer, together))
        outputs = [part.transposed(part.weight) for part in found]
    else:
        outputs = [part.outputs for part in found]
    apart = (outputs[0] - outputs[1]) / outputs[0].shape[-2]
    update = found[0].summed(apart)
    if branches == "both":
        update = update - found[1].summed(apart)
    return update[..., found[0].part_of(block)]


def predicted_update(
    network: nn.Module,
    data: Data,
    layer: int | str,
    loss: Loss,
    *,
    form: Form = "outputs",
    branches: Branches = "both",
    batches: int | None = None,
    batch: int = 256,
    seed: int | None = None,
    block: int | None = None,
    dtype: torch.dtype | None = torch.float64,
) -> OperatorEstimate:
    """The update of one weight that the theorems predict.

    2 Cov_x[Kbar, fbar] for the Simple loss (half of it through the anchor alone), and for any other
    the β-weighted sum over pairs; see `covariance` and `pairwise`.

    Args:
        network, layer, block, dtype: see `connection`.
        data: `TreeViews`, a `ViewTable`, or, for an estimate, `DatasetViews`.
        loss: any loss; those of whole batches are estimated.
        form: `outputs` or `operator`.
        branches: through which the gradient goes: `both`, or the `anchor` alone.
        batches: None for the population's update, by enumeration; else independent estimates.
        batch, seed: samples of each, and of what.

    Returns:
        value and standard error, `(P,)` or `(S, P)`.

    Raises:
        TypeError: what is no loss, no data or no network.
        ValueError: the operator form where Kᵀ w is not f, saying why; a loss that is not one of
            distances; see also `covariance_operator` and `pairwise_operator`.
    """
    check_loss(loss)
    check_branches(branches, loss)
    _check_form(form)
    sampled = {} if batches is None else {"batches": batches, "batch": batch, "seed": seed}
    if isinstance(loss, Simple):
        operator = covariance_operator(network, data, layer, dtype=dtype, **sampled)  # type: ignore[arg-type]
        operator.factor = 2.0 if branches == "both" else 1.0
    elif batches is None:
        operator = pairwise_operator(
            network, data, layer, loss, branches=branches, dtype=dtype
        ).exact
    else:
        operator = sampled_pairwise_operator(
            network, data, layer, loss, branches=branches, dtype=dtype, **sampled  # type: ignore[arg-type]
        )  # fmt: skip
    found = operator.on_outputs() if form == "outputs" else operator.on_weight()
    part = operator.parts[0][0].part_of(block)
    return OperatorEstimate(*(array[..., part] for array in found))


def actual_update(
    network: nn.Module,
    data: Data,
    layer: int | str,
    loss: Loss,
    *,
    branches: Branches = "both",
    batches: int | None = None,
    batch: int = 256,
    seed: int | None = None,
    block: int | None = None,
    dtype: torch.dtype | None = torch.float64,
) -> OperatorEstimate:
    """The same update by autograd, through the loss itself: what a prediction is compared with.

    It takes losses that no prediction is for, too, such as those of inner products.

    Args, returns: as `predicted_update`.

    Raises:
        TypeError: what is no loss, no data or no network.
        ValueError: more than 2^26 terms of the population's loss, or a loss of whole batches
            without `batches`.
    """
    check_loss(loss)
    check_branches(branches, loss)
    if batches is None:
        check_anchors(loss)
        table = exact_table(data)
        found = connection(network, layer, table_inputs(network, table), dtype=dtype)
        outputs = found.outputs if found.stacked else found.outputs[None]
        together, marginal = table.positive_pairs().to(outputs), table.marginal.to(outputs)
        members = len(outputs)
        gradient = torch.stack(
            [
                _population_gradient(
                    loss,
                    outputs[s],
                    together.expand(members, -1, -1)[s],
                    marginal.expand(members, -1)[s],
                    branches,
                )
                for s in range(members)
            ]
        )
        value = -_backward(found, gradient if found.stacked else gradient[0])
        errors = torch.zeros_like(value)
    else:
        check_sampling(batches, batch, seed)
        assert seed is not None
        network = in_dtype(network, layer, dtype)
        each = []
        for i in range(batches):
            inputs = loss_inputs(network, data, loss, batch, seed=seed, index=i)
            found = connection(network, layer, inputs, dtype=dtype)
            outputs = (found.outputs if found.stacked else found.outputs[None]).requires_grad_()
            anchor, *others = outputs.split(batch, dim=1)
            others = others if branches == "both" else [part.detach() for part in others]
            total = loss(anchor, others[0], stacked_negatives(anchor, others[1:])).sum()
            (gradient,) = torch.autograd.grad(total, outputs)
            each.append(-_backward(found, gradient if found.stacked else gradient[0]))
        value = torch.stack(each).mean(0)
        errors = torch.stack(each).std(0) / batches**0.5 if batches > 1 else value * torch.nan
    part = found.part_of(block)
    return OperatorEstimate(value[..., part], errors[..., part])


def _population_gradient(
    loss: Loss, outputs: Tensor, together: Tensor, marginal: Tensor, branches: Branches
) -> Tensor:
    """`(X, n)` ∂E[L]/∂f of one network, every anchor, positive and negatives in turn."""
    views, many = len(outputs), loss.negatives
    if isinstance(loss, Simple):  # a difference of two pairs: their joint weights will do
        leaf = outputs.detach().requires_grad_()
        r = distance(leaf[:, None], leaf if branches == "both" else leaf.detach())
        total = (r * (together - marginal[:, None] * marginal)).sum()
        return torch.autograd.grad(total, leaf)[0]
    if views ** (2 + many) > MAX_ENTRIES:
        raise ValueError(
            f"{views} views and {many} negative(s) are {views ** (2 + many)} terms, more than "
            f"{MAX_ENTRIES}; estimate the update with batches=…"
        )
    index = torch.tensor(list(itertools.product(range(views), repeat=1 + many)))
    index = index.to(outputs.device)
    chance = marginal[index[:, 1:]].prod(1)
    gradient = torch.zeros_like(outputs)
    for a in range(views):
        leaf = outputs.detach().requires_grad_()
        anchor = leaf[a].expand(len(index), 1, -1)
        others = leaf if branches == "both" else leaf.detach()
        # tuples stand on the axis of members: one loss for each
        values = loss(anchor, others[index[:, :1]], others[index[:, 1:]][:, :, None])
        total = (values * chance * together[a][index[:, 0]]).sum()
        gradient += torch.autograd.grad(total, leaf)[0]
    return gradient


def _backward(found: Connection, cotangent: Tensor) -> Tensor:
    """The weight's gradient by autograd through a plain copy of the network: no products with K."""
    network = copy.deepcopy(found.network)
    parameter = dict(network.named_parameters())[found.name].requires_grad_()
    (gradient,) = torch.autograd.grad(network(found.inputs), parameter, cotangent)
    return gradient.reshape(found.weight.shape)


def _check_form(form: Form) -> None:
    if form not in ("outputs", "operator"):
        raise ValueError(f"form must be 'outputs' or 'operator', got {form!r}")
