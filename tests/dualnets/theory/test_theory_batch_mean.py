"""Below a mean subtraction the gradient is a covariance: against autograd, and where it is not."""

import pytest
import torch

from dualnets.theory.byol.batch_mean import batch_covariance, contrast_parts, mean_parts, pull_back

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


PARAMETERS = {"a": normal(6, 4), "b": normal(6), "c": normal(3, 6)}
INPUTS = normal(32, 4)
TARGET = normal(32, 5) + 1
PREDICTOR = normal(5, 3)


def below(parameters, x):
    return (x @ parameters["a"].T + parameters["b"]).relu() @ parameters["c"].T


def linear(centred):
    return (centred @ PREDICTOR.T - TARGET).square().sum(1).mean() / 2


def curved(centred):
    predicted = torch.tanh(centred @ PREDICTOR.T) + (centred @ PREDICTOR.T).square()
    return -torch.cosine_similarity(predicted, TARGET).mean()


def divided(centred):
    return curved(centred / centred.square().mean(0).add(1e-5).sqrt())


def by_autograd(above, *, detached):
    """-∇ of the loss of the whole batch, the mean a part of the graph or not."""
    given = {name: value.clone().requires_grad_() for name, value in PARAMETERS.items()}
    f = below(given, INPUTS)
    mean = f.mean(0)
    loss = above(f - (mean.detach() if detached else mean))
    gradients = torch.autograd.grad(loss, list(given.values()))
    return {name: -g for name, g in zip(given, gradients, strict=True)}


def error(found, expected):
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


@pytest.mark.parametrize("above", [linear, curved, divided])
def test_the_covariance_is_the_gradient_through_the_mean(above):
    parts = mean_parts(below, above, PARAMETERS, INPUTS)
    through, detached = by_autograd(above, detached=False), by_autograd(above, detached=True)
    assert error(parts.total, through) < 1e-12
    assert error(parts.detached, detached) < 1e-12
    assert error(parts.total, detached) > 1e-3  # a detached mean is another direction
    assert error(parts.through_mean, {k: through[k] - detached[k] for k in through}) < 1e-12


def test_it_is_cov_of_connections():
    """K per sample, written out by jacobians."""
    g = normal(32, 3)
    found = batch_covariance(below, PARAMETERS, INPUTS, g)
    jacobian = torch.func.vmap(torch.func.jacrev(below), (None, 0))(PARAMETERS, INPUTS)
    for name, k in jacobian.items():  # (B, F, ...)
        arrived = torch.einsum("bf...,bf->b...", k, g)
        mean = torch.einsum("f...,f->...", k.mean(0), g.mean(0))
        assert (found[name] - (arrived.mean(0) - mean)).abs().max() < 1e-13


def test_the_contrastive_split_is_the_gradient_of_a_linear_predictor():
    parts = contrast_parts(below, PARAMETERS, INPUTS, predictor=PREDICTOR, target=TARGET)
    assert error(parts.total, by_autograd(linear, detached=False)) < 1e-12
    assert error(parts.total, by_autograd(linear, detached=True)) > 1e-3
    assert error(parts.total, by_autograd(curved, detached=False)) > 1e-3
    assert error(parts.contrast, {name: 0 * value for name, value in PARAMETERS.items()}) > 1e-3


def test_detaching_changes_nothing_for_a_centred_target_and_a_linear_predictor():
    centred_target = TARGET - TARGET.mean(0)

    def squared(centred):
        return (centred @ PREDICTOR.T - centred_target).square().sum(1).mean() / 2

    def cosine(centred):
        return -torch.cosine_similarity(centred @ PREDICTOR.T, centred_target).mean()

    zero = {name: 0 * value for name, value in PARAMETERS.items()}
    assert error(mean_parts(below, squared, PARAMETERS, INPUTS).through_mean, zero) < 1e-13
    assert error(mean_parts(below, cosine, PARAMETERS, INPUTS).through_mean, zero) > 1e-3


def test_the_contrastive_part_is_a_covariance_operator_for_one_network_and_no_predictor():
    """Target = the same views' outputs, predictor = 1: Cov[K, f], the covariance operator's update."""
    f = below(PARAMETERS, INPUTS)
    parts = contrast_parts(below, PARAMETERS, INPUTS, predictor=torch.eye(3).double(), target=f)
    given = {name: value.clone().requires_grad_() for name, value in PARAMETERS.items()}
    variance = below(given, INPUTS).var(0, correction=0).sum() / 2
    gradients = torch.autograd.grad(variance, list(given.values()))
    assert error(parts.contrast, dict(zip(given, gradients, strict=True))) < 1e-12


def test_errors():
    with pytest.raises(ValueError, match=r"g has shape \(32, 2\)"):
        pull_back(below, PARAMETERS, INPUTS, normal(32, 2))
    with pytest.raises(ValueError, match="expected one number"):
        mean_parts(below, lambda f: f.sum(1), PARAMETERS, INPUTS)
    with pytest.raises(ValueError, match="do not fit"):
        contrast_parts(below, PARAMETERS, INPUTS, predictor=PREDICTOR.T, target=TARGET)


def test_losses_without_a_gradient_and_empty_batches_are_refused():
    def below(weights, x):
        return x @ weights["w"].T

    weights = {"w": torch.ones(1, 1)}
    with pytest.raises(ValueError, match="the loss has no gradient: it does not depend"):
        mean_parts(below, lambda centred: torch.tensor(1.0), weights, torch.ones(3, 1))
    with pytest.raises(
        ValueError, match=r"outputs have shape \(0, 1\), expected \(B, F\) with B at least 1"
    ):
        mean_parts(below, lambda centred: centred.sum(), weights, torch.ones(0, 1))
