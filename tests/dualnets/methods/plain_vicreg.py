"""VICReg, plainly: Algorithm 1 of arXiv 2105.04906."""

import torch
from looped_head import strip_prefix
from plain_byol import plain_head

from dualnets import BatchNorm, Head, VICReg

LR = 1e-3  # its coefficients are large
SMALL = Head((6, 3), norm=BatchNorm(affine=True))
CASES = {
    "affine-projector": VICReg(SMALL),
    "no-projector": VICReg(Head(), invariance=1.0, variance=2.0, covariance=3.0),
    "small": VICReg(SMALL, spread=0.5, epsilon=0.01, covariance=4.0),
    "no-covariance": VICReg(SMALL, covariance=0.0),
    "no-invariance": VICReg(SMALL, invariance=0.0, variance=1.0),
}


def plain_loss(method, f, state, batch):
    own = strip_prefix(state, "projector")
    z_a, z_b = (plain_head(method.projector, own, f(view)) for view in batch.views)
    n, d = z_a.shape
    loss = method.invariance * torch.nn.functional.mse_loss(z_a, z_b)
    for z in (z_a, z_b):
        for j in range(d):
            deviation = torch.sqrt(z[:, j].var() + method.epsilon)
            loss = loss + method.variance * torch.clamp(method.spread - deviation, min=0) / d
        c = z - z.mean(dim=0)
        for i in range(d):
            for j in range(d):
                if i != j:
                    cov = (c[:, i] * c[:, j]).sum() / (n - 1)
                    loss = loss + method.covariance * cov**2 / d
    return loss


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
