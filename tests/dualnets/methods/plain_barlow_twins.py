"""Barlow Twins, plainly: Algorithm 1 of arXiv 2103.03230, one pair of units at a time."""

from looped_head import strip_prefix
from plain_byol import plain_batch_norm, plain_head

from dualnets import BarlowTwins, BatchNorm, Head

SMALL = Head((6, 3), norm=BatchNorm(affine=True))
CASES = {
    "affine-projector": BarlowTwins(SMALL),
    "no-projector": BarlowTwins(Head(), off_diagonal=0.5),
    "bare-projector": BarlowTwins(Head((3,), bias=False), off_diagonal=0.1),
    "stop": BarlowTwins(SMALL, standardize=BatchNorm("stop", "stop", epsilon=0.01)),
}


def plain_loss(method, f, state, batch):
    own = strip_prefix(state, "projector")
    z_a, z_b = (plain_head(method.projector, own, f(view)) for view in batch.views)
    norm = method.standardize
    a, b = ([plain_batch_norm(norm, unit) for unit in z.T] for z in (z_a, z_b))
    loss = 0
    for i, unit in enumerate(a):
        for j, other in enumerate(b):
            c = sum(x * y for x, y in zip(unit, other, strict=True)) / len(unit)
            loss = loss + ((1 - c) ** 2 if i == j else method.off_diagonal * c**2)
    return loss


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
