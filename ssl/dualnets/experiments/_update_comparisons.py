"""What `update` compares: each identity's prediction for one weight beside what autograd gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dualnets import theory
from dualnets.losses import Loss, Simple
from dualnets.theory.views import drawn, table_inputs
from hltm.augment import parse

# identity, form, whether exact, assumptions met, predicted, actual, standard error
Comparison = tuple[str, str, bool, bool, Tensor, Tensor, Tensor | None]


def pairs(settings: Any, network: nn.Module, data: Any, layer: str) -> Iterator[Comparison]:
    """Kᵀ w = f, and Theorem 1 on one batch of pairs."""
    size = settings.batch
    (first,) = drawn(network, data, size, seed=settings.seed, start=0, count=1)
    (second,) = drawn(network, data, size, seed=settings.seed, start=0, count=1, negatives=True)
    connected = theory.connection(network, layer, first, dtype=torch.float64)
    scaled = connected.transposed(connected.weight)
    homogeneous, met = _homogeneous(settings, network, layer)
    yield (
        "Kᵀw = f",
        "operator",
        homogeneous,
        homogeneous,
        scaled.flatten(-2),
        connected.outputs.flatten(-2),
        None,
    )
    sides: tuple[Literal["anchor"], Literal["both"]] = ("anchor", "both")
    for branches in sides:
        outputs = [
            theory.connection(network, layer, x, dtype=torch.float64) for x in (first, second)
        ]
        parameter, f = _with_graph(outputs[0], outputs[1])
        apart = f[0] - (f[1] if branches == "both" else f[1].detach())
        r = apart.square().sum(-1).mean(-1).sum() / 2
        actual = torch.autograd.grad(r, parameter)[0].reshape(connected.weight.shape)
        found = theory.pair_update(network, layer, first, second, branches=branches)
        name = "pair, one branch" if branches == "anchor" else "pair, both branches"
        yield name, "outputs", True, True, found, actual, None
        w = connected.weight
        change = outputs[0].transposed(w) - outputs[1].transposed(w)
        operator = outputs[0].summed(change / size)
        if branches == "both":
            operator = operator - outputs[1].summed(change / size)
        yield name, "operator", met, met, operator, actual, None


def updates(settings: Any, network: nn.Module, data: Any, layer: str) -> Iterator[Comparison]:
    """The update of a contrastive loss, with f and as an operator on the weight."""
    loss = settings.build_loss()
    sampled = {"batches": settings.batches, "batch": settings.batch, "seed": settings.seed}
    how: dict[str, Any] = sampled if settings.batches else {}
    _, met = _homogeneous(settings, network, layer)
    name = "covariance" if isinstance(loss, Simple) else "β-weighted pairs"
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


def _operator(
    network: nn.Module, data: Any, layer: str, loss: Loss, how: dict[str, Any]
) -> theory.Operator:
    """The operator of a loss; its own action on the weight is not checked here, but compared."""
    if isinstance(loss, Simple):
        found = theory.covariance_operator(network, data, layer, **how)
        found.factor = 2.0
        return found
    if how:
        return theory.sampled_pairwise_operator(network, data, layer, loss, **how)
    return theory.pairwise_operator(network, data, layer, loss).exact


def tree_operators(settings: Any, network: nn.Module, data: Any) -> Iterator[Comparison]:
    """V_z0[E[f | z_0]] of the units below the root against o oᵀ (Section 5)."""
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
    yield (
        "tree operator o oᵀ",
        "operator",
        True,
        True,
        found.flatten(-2),
        expected.flatten(-2),
        None,
    )


def _homogeneous(settings: Any, network: nn.Module, layer: str) -> tuple[bool, bool]:
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
