"""SimSiam, plainly: the pseudocode of arXiv 2011.10566, Algorithm 1, one sample at a time."""

from looped_head import strip_prefix
from plain_byol import plain_head

from dualnets import BatchNorm, Head, SimSiam

PROJECTOR = Head((6, 5), norm=BatchNorm(affine=True), last_norm=BatchNorm())
CASES = {
    "default": SimSiam(),
    "stop": SimSiam(PROJECTOR, Head((2, 5), norm=BatchNorm())),
    "both-branches": SimSiam(PROJECTOR, Head((2, 5)), stop_gradient=False),
    "no-heads": SimSiam(Head(), Head()),
}


def plain_loss(method, f, state, batch):
    z1, z2 = (
        plain_head(method.projector, strip_prefix(state, "projector"), f(v)) for v in batch.views
    )
    p1, p2 = (plain_head(method.predictor, strip_prefix(state, "predictor"), z) for z in (z1, z2))

    def distance(p, z):
        z = z.detach() if method.stop_gradient else z
        cosines = [(a / a.norm()) @ (b / b.norm()) for a, b in zip(p, z, strict=True)]
        return -sum(cosines) / len(cosines)

    return distance(p1, z2) / 2 + distance(p2, z1) / 2


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
