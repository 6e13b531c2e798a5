"""SimCLR, plainly: one anchor and one pair at a time.

arXiv 2002.05709, Algorithm 1; docs/theory.md, Section 3.
"""

import torch
from looped_head import strip_prefix
from plain_byol import plain_head

import dualnets
from dualnets import BatchNorm, Head

CASES = {
    "simple": dualnets.SimCLR(dualnets.Simple()),
    "triplet": dualnets.SimCLR(dualnets.Triplet(temperature=0.5, margin=0.7)),
    "infonce": dualnets.SimCLR(dualnets.InfoNCE(temperature=0.5)),
    "infonce-4": dualnets.SimCLR(dualnets.InfoNCE(temperature=0.7, negatives=4)),
    "ntxent": dualnets.SimCLR(dualnets.NTXent(temperature=0.5)),
    "batchwise-nce": dualnets.SimCLR(dualnets.BatchwiseNCE(temperature=0.3)),
    "spectral": dualnets.SimCLR(dualnets.SpectralContrastive(negatives=2)),
    "exponential": dualnets.SimCLR(dualnets.ExponentialWeights(temperature=0.5, negatives=2)),
    "inverse-distance": dualnets.SimCLR(dualnets.InverseDistanceWeights(epsilon=0.3)),
    "detached-infonce": dualnets.SimCLR(dualnets.Detached(dualnets.InfoNCE(0.5, negatives=3))),
    "detached-triplet": dualnets.SimCLR(dualnets.Detached(dualnets.Triplet(0.5, margin=0.2))),
    "covariance": dualnets.SimCLR(dualnets.CovarianceObjective(0.5)),
    "covariance-samples": dualnets.SimCLR(dualnets.CovarianceObjective(0.5, "samples")),
    "intra-pair": dualnets.SimCLR(dualnets.IntraPair(dualnets.InfoNCE(0.5), 0.3)),
    "projector": dualnets.SimCLR(
        dualnets.NTXent(temperature=0.5), Head((6, 3), norm=BatchNorm(affine=True))
    ),
    "linear-projector": dualnets.SimCLR(dualnets.InfoNCE(0.5, negatives=2), Head((3,))),
}


def r(a, b):
    return ((a - b) ** 2).sum() / 2


def plain_loss(method, f, state, batch):
    loss, beta = method.criterion, 0.0
    if isinstance(loss, dualnets.IntraPair):
        loss, beta = loss.criterion, loss.weight
    head = strip_prefix(state, "projector")
    a, p, *others = (
        plain_head(method.projector, head, f(view)) for view in batch.views + batch.negatives
    )
    many, t = len(a), getattr(loss, "temperature", None)
    if isinstance(loss, dualnets.BatchwiseNCE):
        near, far = ((a - p) ** 2).mean(), ((a - others[0]) ** 2).mean()
        return -torch.sigmoid((far - near) / t)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(many):
        near = r(a[i], p[i])
        total = total + beta * near
        far = [r(a[i], other[i]) for other in others]
        if isinstance(loss, dualnets.Simple):
            total = total + near - far[0]
        elif isinstance(loss, dualnets.Triplet):
            total = total + t * torch.log(1 + torch.exp((near - far[0] + loss.margin) / t))
        elif isinstance(loss, dualnets.InfoNCE):
            mass = torch.exp(-near / t) + sum(torch.exp(-k / t) for k in far)
            total = total - t * torch.log(torch.exp(-near / t) / mass)
        elif isinstance(loss, dualnets.SpectralContrastive):
            total = (
                total - 2 * (a[i] @ p[i]) + sum((a[i] @ o[i]) ** 2 for o in others) / len(others)
            )
        elif isinstance(loss, dualnets.ExponentialWeights):
            total = total + sum(torch.exp(-k / loss.temperature).detach() * (near - k) for k in far)
        elif isinstance(loss, dualnets.InverseDistanceWeights):
            total = total + sum((1 / (k + loss.epsilon)).detach() * (near - k) for k in far)
        elif isinstance(loss, dualnets.Detached):
            t, margin = loss.criterion.temperature, loss.criterion.margin
            mass = torch.exp(-(near + margin) / t) + sum(torch.exp(-k / t) for k in far)
            total = total + sum((torch.exp(-k / t) / mass).detach() * (near - k) for k in far)
        elif isinstance(loss, dualnets.CovarianceObjective):
            views, compared = [*a, *p], [*others[0], *others[0]] if others else [*a, *p]
            for me in (i, many + i):
                for k in (k for k in range(2 * many) if k % many != i):
                    weight = torch.sigmoid(-r(compared[me], compared[k]) / t).detach()
                    total = total + weight * (near - r(views[me], views[k])) / (2 * many - 2) / 2
        elif isinstance(loss, dualnets.NTXent):
            views = [*a, *p]
            for me in (i, many + i):
                rest = [views[k] for k in range(2 * many) if k != me]
                mass = sum(torch.exp(-r(views[me], other) / t) for other in rest)
                total = total - t * torch.log(torch.exp(-near / t) / mass) / 2
        else:
            raise TypeError(loss)
    return total / many


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
