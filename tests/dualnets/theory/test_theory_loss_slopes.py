"""Theorem 2: slopes of losses against autograd, and which losses have none."""

import pytest
import torch
from theory_cases import data, networks, relative, tree

from dualnets import BatchwiseNCE, Detached, InfoNCE, NTXent, Simple, SpectralContrastive, Triplet
from dualnets.methods.losses import LOSSES
from dualnets.theory import loss_slopes, pairwise_operator, sampled_pairwise_operator


@pytest.mark.parametrize(
    "loss",
    [Simple(), Triplet(0.3, 0.2), InfoNCE(0.3), InfoNCE(0.3, 3), NTXent(0.4), BatchwiseNCE(0.5)],
    ids=repr,
)
def test_theorem_2_slopes_have_their_signs_and_sum_to_zero(loss):
    random = torch.Generator().manual_seed(0)
    shape = (2, 5, 4)
    anchor, positive = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in "ab")
    negatives = torch.randn(2, loss.negatives, 5, 4, generator=random, dtype=torch.float64)
    given = [part.requires_grad_() for part in (anchor, positive, negatives)]
    by_output = torch.autograd.grad(loss(*given).sum(), given[: 3 if loss.negatives else 2])
    found = loss_slopes(loss, *(part.detach() for part in given))
    assert found.positive.min() > 0
    assert found.negative.max() <= 0
    assert found.total.abs().max() < 1e-12
    if loss.negatives:  # by the chain rule they are the outputs' gradient
        apart = (positive - anchor).detach()
        assert relative(found.positive[..., None] * apart / 5, by_output[1]) < 1e-12
        apart = (negatives - anchor[:, None]).detach()
        assert relative(found.negative[..., None] * apart / 5, by_output[2]) < 1e-12
    else:
        assert found.negative.shape == (2, 8, 10)
        outputs = torch.cat([anchor, positive], 1).detach().requires_grad_()
        r = (outputs[:, :, None] - outputs[:, None]).square().sum(-1) / 2
        slopes = torch.zeros_like(r)
        for i in range(10):
            partner = (i + 5) % 10
            others = [j for j in range(10) if j not in (i, partner)]
            slopes[:, i, partner] = found.positive[:, i]
            slopes[:, i, others] = found.negative[:, :, i]
        (chain,) = torch.autograd.grad((slopes.detach() * r).sum() / 10, outputs)
        assert relative(chain, torch.cat(by_output, 1)) < 1e-12


def test_slopes_are_of_losses_of_distances_and_of_the_outputs_they_take():
    one, other = torch.zeros(1, 4, 3), torch.ones(1, 4, 3)
    negatives = torch.randn(1, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="SpectralContrastive is not a loss of distances"):
        loss_slopes(SpectralContrastive(negatives=2), one, other, negatives)
    for loss in (InfoNCE(negatives=3), Simple(), NTXent(), Detached(InfoNCE())):
        with pytest.raises(
            ValueError,
            match=rf"\(1, 2, 4, 3\), {'Detached ' * isinstance(loss, Detached)}\w+ takes ",
        ):
            loss_slopes(loss, one, other, negatives)
    with pytest.raises(ValueError, match=r"shapes \(1, 4, 3\), \(1, 3, 3\)"):
        loss_slopes(InfoNCE(negatives=2), one, other[:, :3], negatives)
    with pytest.raises(
        ValueError, match="positive must be finite, 12 of 12 numbers are NaN or infinite"
    ):
        loss_slopes(InfoNCE(negatives=2), one, other * torch.nan, negatives)
    with pytest.raises(TypeError, match="outputs must be tensors, got list"):
        loss_slopes(Simple(), one, other, [1.0])
    with pytest.raises(TypeError, match="got the name 'simple'"):
        loss_slopes("simple", one, other, negatives)
    own = loss_slopes(NTXent(0.3), one, other, negatives[:, :0])
    detached = loss_slopes(Detached(NTXent(0.3)), one, other, negatives[:, :0])
    assert own.positive.equal(detached.positive)
    assert own.negative.equal(detached.negative)
    for name, kind in LOSSES.items():
        if name not in ("ntxent", "spectral", "covariance"):
            loss = kind()
            found = loss_slopes(loss, one, other, negatives[:, : loss.negatives])
            assert found.positive.min() > 0


def test_a_users_loss_is_checked():
    class Lopsided:
        negatives = 1

        def __call__(self, anchor, positive, negatives):
            near = (anchor - positive).square().sum(-1)
            return (near - (anchor - negatives[:, 0]).square().sum(-1) / 2).mean(-1)

    class Whole(Lopsided):
        def __call__(self, anchor, positive, negatives):
            return super().__call__(anchor, positive, negatives).exp()

    class Sided(Lopsided):
        def __call__(self, anchor, positive, negatives):
            return super().__call__(anchor, positive.detach(), negatives)

    class Sideways(Lopsided):
        def __call__(self, anchor, positive, negatives):
            return (positive - negatives[:, 0]).square().sum(-1).mean(-1)

    one = tree(2)
    (network, _) = networks(one)
    for loss in (Sided(), Sideways()):
        for call in (
            lambda loss: pairwise_operator(network, data(one), 1, loss),
            lambda loss: sampled_pairwise_operator(
                network, data(one), 1, loss, batches=2, batch=4, seed=0
            ),
        ):
            with pytest.raises(ValueError, match="is not a loss of r_\\+ and r_k alone"):
                call(loss)
    sampled_pairwise_operator(network, data(one), 1, Lopsided(), batches=2, batch=4, seed=0)
    with pytest.raises(ValueError, match="slopes of Lopsided do not sum to zero"):
        pairwise_operator(network, data(one), 1, Lopsided())
    with pytest.raises(ValueError, match="Whole is a loss of whole batches"):
        pairwise_operator(network, data(one), 1, Whole())
