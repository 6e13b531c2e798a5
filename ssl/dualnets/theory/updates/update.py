"""Theorem 1, and the update of one weight: as the theorems predict it, and by autograd beside it.

For a pair of inputs with outputs f_1, f_2 and connections K_1, K_2 of a weight w, and
r = 1/2 ||f_1 - f_2||² (docs/theory.md, Section 2)

    ∂r/∂w = K_1 (f_1 - f_2)                      through the first branch alone      (Equation 2.2)
    ∂r/∂w = (K_1 - K_2)(f_1 - f_2)               through both branches               (Equation 2.3)

Updates of a loss are -∇_w E[L], flat as in `connection`. They come in two forms: `outputs`, with the
outputs f, which holds for any differentiable network; `operator`, with Kᵀ w in the place of f, which
needs a network that is homogeneous from the layer up (Equation 1.3) and raises an error for others.

Axes: S member, B sample, X view, H negative, P entry of the weight, n output.
"""

from __future__ import annotations

import copy
import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from dualnets._checks import check_choice
from dualnets.methods.losses import Loss, Simple, distance
from dualnets.theory.updates.any_network import batch_axis, in_dtype
from dualnets.theory.updates.connection import MAX_ENTRIES, Connection, connection
from dualnets.theory.updates.covariance import check_sampling, covariance_operator
from dualnets.theory.updates.loss_slopes import check_anchors, check_loss
from dualnets.theory.updates.operator_form import check_operator_form
from dualnets.theory.updates.operators import TensorEstimate
from dualnets.theory.updates.pairwise import (
    Branches,
    check_branches,
    loss_inputs,
    pairwise_operator,
    sampled_pairwise_operator,
    stacked_negatives,
)
from dualnets.theory.updates.views import Data, exact_table, table_inputs

Form = Literal["outputs", "operator"]
FORMS: tuple[Form, ...] = ("outputs", "operator")


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
    """Theorem 1: ∂r/∂w of r = 1/2 ||f(x_1) - f(x_2)||², the mean over pairs (docs/theory.md, Section 2).

    Through both branches it is (K_1 - K_2)(f_1 - f_2), through the first alone K_1 (f_1 - f_2).

    Args:
        network, layer, block, dtype: see `connection`.
        first, second: `(B, ...)` or `(S, B, X)` the inputs of the pairs.
        branches: `both`, or `anchor` for the first branch alone.
        form: `outputs`, or `operator` with Kᵀ w in the place of f. The latter is exact where f - Kᵀ w
            is one constant over all these inputs; `check_operator_form` checks it.

    Returns:
        `(P,)` or `(S, P)`.

    Raises:
        ValueError: the operator form where Kᵀ w is not f up to a constant, with the reason; first and
            second of different shapes; unknown branches or form.

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
    check_choice("form", form, FORMS)
    network = in_dtype(network, layer, dtype)
    found = [connection(network, layer, inputs) for inputs in (first, second)]
    if first.shape != second.shape:
        raise ValueError(
            f"first and second have shapes {tuple(first.shape)} and {tuple(second.shape)}, expected "
            "as many samples of one shape"
        )
    if form == "operator":
        # checked together: two different constants would not cancel in the difference
        together = torch.cat([part.inputs for part in found], dim=batch_axis(network))
        check_operator_form(connection(network, layer, together))
        outputs = [part.transposed(part.weight) for part in found]
    else:
        outputs = [part.outputs for part in found]
    apart = (outputs[0] - outputs[1]) / outputs[0].shape[-2]  # (f_1 - f_2) / B, the mean over pairs
    update = found[0].summed(apart)  # K_1 (f_1 - f_2), Equation 2.2
    if branches == "both":
        update = update - found[1].summed(apart)  # (K_1 - K_2)(f_1 - f_2), Equation 2.3
    return update[..., found[0].entries_of(block)]


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
) -> TensorEstimate:
    """The update -∇_w E[L] of one weight that Theorem 3 and Equation 3.3 predict.

    It is 2 Cov_x[Kbar, fbar] for the Simple loss (Theorem 3; half of it through the anchor alone), and
    for any other loss the β-weighted sum over pairs, which Theorem 4 approximates (docs/theory.md,
    Section 3).

    Args:
        network, data, layer, batches, batch, seed, block, dtype: as for `covariance_operator`, here of
            the population's update or of an estimate of it.
        loss: any loss of distances; for one of whole batches only an estimate exists.
        form: `outputs` or `operator`.
        branches: `both` for the gradient through all views, `anchor` for that through the anchor
            alone.

    Returns:
        value and standard error, `(P,)` or `(S, P)`.

    Raises:
        TypeError: a loss, data or a network of another kind.
        ValueError: the operator form where Kᵀ w is not f up to a constant, with the reason; a loss
            that is not one of distances; see also `covariance_operator` and `pairwise_operator`.
    """
    check_loss(loss)
    check_branches(branches, loss)
    check_choice("form", form, FORMS)
    sampled = {} if batches is None else {"batches": batches, "batch": batch, "seed": seed}
    if isinstance(loss, Simple):
        operator = covariance_operator(network, data, layer, dtype=dtype, **sampled)  # type: ignore[arg-type]
        operator.factor = 2.0 if branches == "both" else 1.0
    elif batches is None:
        found_pairs = pairwise_operator(network, data, layer, loss, branches=branches, dtype=dtype)
        operator = found_pairs.exact
    else:
        operator = sampled_pairwise_operator(
            network, data, layer, loss, branches=branches, dtype=dtype, **sampled  # type: ignore[arg-type]
        )  # fmt: skip
    found = operator.on_outputs() if form == "outputs" else operator.on_weight()
    part = operator.parts[0][0].entries_of(block)
    return TensorEstimate(*(array[..., part] for array in found))


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
) -> TensorEstimate:
    """The same update by autograd, through the loss itself, for comparison with `predicted_update`.

    The loss may be any, also one without a prediction, such as a loss of inner products.

    Args, returns: as `predicted_update`.

    Raises:
        TypeError: a loss, data or a network of another kind.
        ValueError: more than 2^26 terms of the population's loss, or a loss of whole batches
            without `batches`.
    """
    check_loss(loss)
    check_branches(branches, loss)
    if batches is None:
        check_anchors(loss)
        table = exact_table(data)
        found = connection(network, layer, table_inputs(network, table), dtype=dtype)
        outputs = found.outputs_S
        together, marginal = table.positive_pairs().to(outputs), table.marginal.to(outputs)
        together = together.expand(len(outputs), -1, -1)
        marginal = marginal.expand(len(outputs), -1)
        members = zip(outputs, together, marginal, strict=True)
        gradient = torch.stack([_population_gradient(loss, *each, branches) for each in members])
        value = -_backward(found, found.without_axis(gradient))
        errors = torch.zeros_like(value)
    else:
        check_sampling(batches, batch, seed)
        assert seed is not None
        network = in_dtype(network, layer, dtype)
        each = []
        for i in range(batches):
            inputs = loss_inputs(network, data, loss, batch, seed=seed, index=i)
            found = connection(network, layer, inputs, dtype=dtype)
            outputs = found.outputs_S.requires_grad_()
            anchor, *others = outputs.split(batch, dim=1)
            others = others if branches == "both" else [part.detach() for part in others]
            total = loss(anchor, others[0], stacked_negatives(anchor, others[1:])).sum()
            (gradient,) = torch.autograd.grad(total, outputs)
            each.append(-_backward(found, found.without_axis(gradient)))
        value = torch.stack(each).mean(0)
        errors = torch.stack(each).std(0) / batches**0.5 if batches > 1 else value * torch.nan
    part = found.entries_of(block)
    return TensorEstimate(value[..., part], errors[..., part])


def _population_gradient(
    loss: Loss, outputs: Tensor, together: Tensor, marginal: Tensor, branches: Branches
) -> Tensor:
    """`(X, n)` ∂E[L]/∂f of one network: a sum over all anchors, positives and tuples of negatives."""
    views, many = len(outputs), loss.negatives
    if isinstance(loss, Simple):  # linear in the pairs, so the weights of pairs suffice
        leaf = outputs.detach().requires_grad_()
        r = distance(leaf[:, None], leaf if branches == "both" else leaf.detach())
        total = (r * (together - marginal[:, None] * marginal)).sum()
        return torch.autograd.grad(total, leaf)[0]
    if views ** (2 + many) > MAX_ENTRIES:
        raise ValueError(
            f"{views} views and {many} negative(s) make {views ** (2 + many)} terms, expected at most "
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
        # the tuples are on the axis of members, so the loss returns one value for each tuple
        values = loss(anchor, others[index[:, :1]], others[index[:, 1:]][:, :, None])
        total = (values * chance * together[a][index[:, 0]]).sum()
        gradient += torch.autograd.grad(total, leaf)[0]
    return gradient


def _backward(found: Connection, cotangent: Tensor) -> Tensor:
    """The gradient of the weight by autograd through a copy of the network, without products with K."""
    network = copy.deepcopy(found.network)
    parameter = dict(network.named_parameters())[found.name].requires_grad_()
    (gradient,) = torch.autograd.grad(network(found.inputs), parameter, cotangent)
    return gradient.reshape(found.weight.shape)
