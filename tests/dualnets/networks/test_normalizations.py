"""Normalisations against torch's own, and what each part of BatchNorm does to gradients."""

import pytest
import torch
from torch.nn import functional

from dualnets.networks.normalizations import BatchNorm, GroupNorm, LayerNorm, standardize

MEMBERS, BLOCKS, UNITS, BATCH = 3, 2, 6, 7


def values(seed: int = 0) -> torch.Tensor:
    """(S, V, U, B), requires gradients."""
    generator = torch.Generator().manual_seed(seed)
    shape = (MEMBERS, BLOCKS, UNITS, BATCH)
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1).requires_grad_()


def gradient(norm, p, above):
    return torch.autograd.grad((norm(p) * above).sum(), p)[0]


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def each(function, p):
    """A function of (B, U) on every block of every member."""
    return torch.stack([torch.stack([function(b.T).T for b in member]) for member in p])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (BatchNorm(), lambda x: functional.batch_norm(x, None, None, training=True)),
        (
            BatchNorm(epsilon=0.3),
            lambda x: functional.batch_norm(x, None, None, training=True, eps=0.3),
        ),
        (LayerNorm(epsilon=1e-3), lambda x: functional.layer_norm(x, (UNITS,), eps=1e-3)),
        (GroupNorm(3), lambda x: functional.group_norm(x, 3)),
        (GroupNorm(1), lambda x: functional.layer_norm(x, (UNITS,))),
    ],
    ids=["batch", "batch, other epsilon", "layer", "groups", "one group"],
)
def test_values_and_gradients_equal_torchs(ours, theirs):
    p, above = values(), values(1).detach()
    close(ours(p), each(theirs, p))
    close(gradient(ours, p, above), gradient(lambda x: each(theirs, x), p, above))


def test_given_moments_are_running_statistics():
    p = values()
    mean, variance = values(2)[..., :1], values(3)[..., :1].square()
    expected = torch.stack([
        torch.stack([
            functional.batch_norm(block.T, m[:, 0], v[:, 0]).T
            for block, m, v in zip(*member, strict=True)
        ])
        for member in zip(p, mean.detach(), variance.detach(), strict=True)
    ])  # fmt: skip
    norm = BatchNorm()
    close(norm(p, norm.moments(p)._replace(mean=mean, variance=variance)), expected)
    moments = norm.moments(p)
    close(moments.mean, p.mean(-1, keepdim=True))
    close(moments.variance, p.var(-1, correction=0, keepdim=True))


PARTS = ("on", "off", "stop")


@pytest.mark.parametrize("mean", PARTS)
@pytest.mark.parametrize("std", PARTS)
def test_every_part_by_its_own_formula(mean, std):
    """Values and gradients of all nine variants: a stopped part is a constant of the same value."""
    p, above = values(), values(1).detach()
    norm = BatchNorm(mean, std, epsilon=0.01)

    def plain(x):
        centre, spread = x.mean(-1, keepdim=True), (x.var(-1, correction=0, keepdim=True) + 0.01)
        if mean == "off":
            centre = torch.zeros_like(centre)
        elif mean == "stop":
            centre = centre.detach()
        if std == "off":
            spread = torch.ones_like(spread)
        elif std == "stop":
            spread = spread.detach()
        return (x - centre) / spread.sqrt()

    close(norm(p), plain(p))
    close(gradient(norm, p, above), gradient(plain, p, above))


def test_gradients_through_the_parts():
    """Through the mean: g_i - mean g (docs/theory.md, Section 6); through the deviation: no radial part."""
    p, g = values(), values(1).detach()
    centred = g - g.mean(-1, keepdim=True)
    close(gradient(BatchNorm(std="off"), p, g), centred)
    close(gradient(BatchNorm("stop", "off"), p, g), g)
    spread = (p.detach().var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    close(gradient(BatchNorm("on", "stop"), p, g), centred / spread)
    close(gradient(BatchNorm("stop", "stop"), p, g), g / spread)
    full = gradient(BatchNorm(epsilon=1e-14), p, g)
    close(full.sum(-1), torch.zeros_like(full.sum(-1)), 1e-11)  # nothing along a shift
    radial = (full * p.detach()).sum(-1)
    close(radial, torch.zeros_like(radial), 1e-10)  # nor along a scaling


def test_the_mean_makes_a_covariance():
    """-∇ through a subtracted mean is -Cov[K, g] instead of -E[K g], here for a linear layer below."""
    x = values(4).detach()[0, 0]  # (inputs, B)
    weight = values(5).detach()[0, 0][:, :UNITS].clone().requires_grad_()  # (U, inputs)

    def loss(norm):
        return torch.tanh(2 * norm(weight @ x)).pow(3).sum() / BATCH

    for norm, centre in ((BatchNorm(std="off"), True), (BatchNorm("stop", "off"), False)):
        above = norm(weight @ x).detach().requires_grad_()
        (g,) = torch.autograd.grad(torch.tanh(2 * above).pow(3).sum(), above)
        product = torch.einsum("ub,ib->ui", g, x) / BATCH
        if centre:
            product = product - torch.outer(g.mean(1), x.mean(1))
        close(torch.autograd.grad(loss(norm), weight)[0], product)


def test_members_and_blocks_share_nothing():
    p = values().detach()
    for norm in (BatchNorm(), LayerNorm(), GroupNorm(2)):
        other = p.clone()
        other[1, 0] = torch.nan
        found = norm(other)
        close(found[[0, 2]], norm(p)[[0, 2]])
        close(found[1, 1], norm(p)[1, 1])
    assert BatchNorm.batch_dependent
    assert not LayerNorm.batch_dependent
    close(LayerNorm()(p[..., :2]), LayerNorm()(p)[..., :2])


def test_standardised_weights_keep_the_size_of_what_passes():
    weight = values(6).detach()
    found = standardize(weight, 1e-12)
    close(found.mean(-1), torch.zeros(found.shape[:-1], dtype=torch.float64))
    close(found.square().sum(-1), torch.ones(found.shape[:-1], dtype=torch.float64), 1e-10)
    close(standardize(3 * weight + 5, 1e-14), standardize(weight, 1e-14), 1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BatchNorm(mean="detach"),
            "BatchNorm's mean must be one of on, off, stop, got 'detach'",
        ),
        (lambda: BatchNorm(std="no"), "BatchNorm's std must be one of on, off, stop, got 'no'"),
        (lambda: BatchNorm(epsilon=0.0), "epsilon must be above 0 and finite, got 0.0"),
        (lambda: LayerNorm(epsilon=-1.0), "epsilon must be above 0 and finite, got -1.0"),
        (lambda: BatchNorm(momentum=1.5), "momentum must be in 0..1, got 1.5"),
        (lambda: GroupNorm(0), "groups must be at least 1, got 0"),
        (lambda: GroupNorm(4)(values()), "6 units do not divide into 4 groups"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "norm",
    [
        BatchNorm(),
        BatchNorm(mean="stop"),
        BatchNorm(std="stop"),
        BatchNorm(std="off"),
        BatchNorm(mean="off"),
        LayerNorm(),
        GroupNorm(3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_numbers_are_normalised_in_float32(norm, dtype):
    p = (values().detach() * 3 + 20).to(dtype)  # a mean that short numbers lose
    found = norm(p)
    assert found.dtype == dtype
    assert found.equal(norm(p.float()).to(dtype))
    if isinstance(norm, BatchNorm):
        assert BatchNorm.moments(p).mean.dtype == torch.float32
        assert norm(p, BatchNorm.moments(p)).dtype == dtype
        with_moments, moments = norm.with_moments(p)
        assert with_moments.equal(found)
        close(moments.mean, p.float().mean(-1, keepdim=True), 1e-4)
        close(moments.variance, p.float().var(-1, correction=0, keepdim=True), 1e-3)
