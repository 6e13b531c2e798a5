"""What `update` compares: each identity's prediction for one weight beside what autograd gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dualnets import theory
from dualnets.experiments.theorems.update import CONNECTION, COVARIANCE, PAIRS, TREE, WEIGHTED
from dualnets.methods.losses import Loss, Simple
from dualnets.theory.updates.any_network import batch_axis
from dualnets.theory.updates.views import draw_views, table_inputs
from hltm.sampling.augment import parse

# predictions that are wrong on purpose
HALVED = "outputs, halved"
OTHER = "another tree's"
MOST_NUMBERS = 1 << 24  # of a connection as an array

# identity, form, whether exact, assumptions met, predicted, actual, standard error
Comparison = tuple[str, str, bool, bool, Tensor, Tensor, Tensor | None]


# Whether Kᵀ w = f must hold for a weight, and whether it must up to a constant, by construction
Homogeneous = tuple[bool, bool]


def pairs(
    settings: Any, network: nn.Module, data: Any, layer: str, form: Homogeneous
) -> Iterator[Comparison]:
    """Kᵀ w = f, and Theorem 1 on one batch of pairs, with K as an array (docs/theory.md, 1.3, 2.2 and 2.3).

    A product with K in reverse mode would be the very computation that it is compared with; an array
    has a column for every sample and output, and the theorem is then a sum over both.
    """
    inputs = few_enough(settings, network, data, layer)
    one, two = (theory.connection(network, layer, x, dtype=torch.float64) for x in inputs)
    arrays = [part.explicit() for part in (one, two)]  # (..., B, P, n)
    scaled = [torch.einsum("...bpn,...p->...bn", array, one.weight) for array in arrays]
    homogeneous, met = form
    yield (CONNECTION, "operator", homogeneous, homogeneous, scaled[0].flatten(-2),
           one.outputs.flatten(-2), None)  # fmt: skip
    sides: tuple[Literal["anchor"], Literal["both"]] = ("anchor", "both")
    for branches in sides:
        parameter, f = _with_graph(one, two)
        apart = f[0] - (f[1] if branches == "both" else f[1].detach())
        r = apart.square().sum(-1).mean(-1).sum() / 2
        actual = torch.autograd.grad(r, parameter)[0].reshape(one.weight.shape)
        name = PAIRS[branches]
        moved = arrays[0] - arrays[1] if branches == "both" else arrays[0]
        found, operator = (
            torch.einsum("...bpn,...bn->...p", moved, gap) / gap.shape[-2]
            for gap in (one.outputs - two.outputs, scaled[0] - scaled[1])
        )
        yield name, "outputs", True, True, found, actual, None
        yield name, "operator", met, met, operator, actual, None


def few_enough(settings: Any, network: nn.Module, data: Any, layer: str) -> list[Tensor]:
    """Both sides of as many pairs as a batch has, or as K may have as an array."""
    size = settings.batch
    sides = [
        draw_views(network, data, size, seed=settings.seed, start=0, count=1, negatives=negatives)[
            0
        ]
        for negatives in (False, True)
    ]
    found = theory.connection(network, layer, sides[0], dtype=torch.float64)
    each = found.members * found.size * found.outputs.shape[-1]
    kept = min(size, max(1, MOST_NUMBERS // each))
    return [side.narrow(batch_axis(network), 0, kept) for side in sides]


def updates(
    settings: Any, network: nn.Module, data: Any, layer: str, form: Homogeneous
) -> Iterator[Comparison]:
    """A contrastive loss's update, with f and as an operator on the weight (docs/theory.md, 3.3 to 3.5)."""
    loss = settings.build_loss()
    sampled = {
        "batches": settings.batches, "batch": settings.batch, "seed": settings.seed, "dtype": None,
    }  # fmt: skip
    how: dict[str, Any] = sampled if settings.batches else {}
    _, met = form
    name = COVARIANCE if isinstance(loss, Simple) else WEIGHTED
    operator = _operator(network, data, layer, loss, how)
    found, on_weight = operator.on_outputs(), operator.matvec(operator.weight)
    if not (settings.batches and isinstance(loss, Simple)):
        actual = theory.actual_update(network, data, layer, loss, **how).value
        yield name, "outputs", True, True, found.value, actual, None
        yield name, "operator", met, met, on_weight, actual, None
    else:  # covariances are estimated from pairs of views: another estimate than the loss's own
        other = {**how, "seed": settings.seed + 1}
        actual, its_error = theory.actual_update(network, data, layer, loss, **other)
        error = (found.standard_error.square() + its_error.square()).sqrt()
        yield name, "outputs", False, True, found.value, actual, error
        if met:
            yield name, "operator", False, True, on_weight, actual, error
        error = (found.standard_error.square() / 4 + its_error.square()).sqrt()
        yield name, HALVED, False, False, found.value / 2, actual, error


def _operator(
    network: nn.Module, data: Any, layer: str, loss: Loss, how: dict[str, Any]
) -> theory.Operator:
    """The operator of a loss (Theorem 3 for the simple loss, else pairs weighted by β)."""
    if isinstance(loss, Simple):
        found = theory.covariance_operator(network, data, layer, **how)
        found.factor = 2.0
        return found
    if how:
        return theory.sampled_pairwise_operator(network, data, layer, loss, **how)
    return theory.pairwise_operator(network, data, layer, loss).exact


def tree_operators(settings: Any, network: nn.Module, data: Any) -> Iterator[Comparison]:
    """V_z0[E[f | z_0]] of the units below the root against o oᵀ (docs/theory.md, Equation 4.3)."""
    if settings.data != "tree" or settings.batches or settings.network == "mlp":
        return
    tree = data.tree
    level = tree.topology.depth - 1
    if level < 1:
        return
    table = theory.enumerate_views(tree, parse("keep-root"))
    wide = theory.connection(network, f"weights.{level}", table_inputs(network, table),
                             dtype=torch.float64)  # fmt: skip
    exact: Any = wide.network
    s = theory.selectivity(exact, tree, level).value
    nodes = [v for v in tree.level(level) for _ in range(s.shape[-1])]
    found = theory.tree_operator(tree, nodes, s.flatten(-2)).matrix
    below = exact.rectify(exact.activations(wide.inputs))[level].detach().flatten(-2)
    expected = table.covariance(table.over_views(below.double().cpu()))
    predicted, actual = found.flatten(-2), expected.flatten(-2)
    yield TREE, "operator", True, True, predicted, actual, None
    if len(predicted) > 1:
        yield TREE, OTHER, False, False, predicted.roll(1, 0), actual, None


def homogeneous(settings: Any, network: nn.Module, layer: str) -> Homogeneous:
    """Whether Kᵀ w = f must hold for a weight, and whether it must up to a constant.

    By construction, not by measurement: no bias (one on top is a constant to the top layer), no
    normalised output, no edge of the tree that skips the layer.
    """
    on_top = layer == layers(network)[-1][1]
    skipped = settings.data == "irregular" and settings.network == "tree" and not on_top
    linear = not (settings.normalize or skipped)
    return linear and not settings.bias, linear and (on_top or not settings.bias)


def _with_graph(*parts: theory.Connection) -> tuple[Tensor, list[Tensor]]:
    """The weight, and the outputs of both inputs as functions of it, by plain autograd."""
    network = parts[0].network
    parameter = dict(network.named_parameters())[parts[0].name].requires_grad_()
    return parameter, [network(part.inputs) for part in parts]


def layers(network: nn.Module) -> list[tuple[int, str]]:
    """Number and weight of every layer."""
    names = [name for name, value in network.named_parameters() if "bias" not in name]
    return list(enumerate(names, start=1))
