"""Latent prediction, plainly: one missing leaf at a time (arXiv 2202.03555, 2301.08243)."""

import torch
from leaf_cases import TREE as TREE
from leaf_cases import is_missing, shown, transformer
from looped_head import strip_prefix
from plain_byol import plain_head
from plain_transformer import normalized

import hltm
from dualnets import BatchNorm, Head, LatentPrediction

AUGMENT = hltm.drop_leaves(0.4)
SMALL = Head((6, 3), norm=BatchNorm())
STEPS = 1  # of slow plain networks
CASES = {
    "one-output": LatentPrediction(SMALL, SMALL, ema_decay=0.7),
    "positions": LatentPrediction(SMALL, SMALL, ema_decay=0.7),
    "data2vec": LatentPrediction(Head(), Head((4,)), normalized=False, target_layers=1),
    "online": LatentPrediction(Head((3,)), None, target="online", stop_gradient=False),
}
NETWORKS = dict.fromkeys(("positions", "data2vec", "online"), transformer)


def representations(f, view, target_layers=0):
    """(N, U): the output of every sample, or those of every position, sample by sample."""
    if not hasattr(f, "positions"):
        return f(shown(f, view))
    rows = [row for sample in f.positions(view, target_layers > 0) for row in sample]
    return torch.stack([normalized(row) for row in rows] if target_layers else rows)


def plain_loss(method, f, state, batch):
    (view,), (sample,) = batch.views, batch.negatives
    online = strip_prefix(state, "projector")
    own = plain_head(method.projector, online, representations(f, view))
    if method.predictor is not None:
        own = plain_head(method.predictor, strip_prefix(state, "predictor"), own)
    if method.target == "online":
        target = plain_head(method.projector, online, representations(f, sample))
    else:
        teacher = f.with_parameters(strip_prefix(state, "target.network"))
        wanted = representations(teacher, sample, method.target_layers)
        projector = {n: t.detach() for n, t in strip_prefix(state, "target.projector").items()}
        target = plain_head(method.projector, projector, wanted).detach()
    losses = []
    places = [(i, x) for i in range(len(view)) for x in range(view.shape[1])]
    for at, (a, b) in enumerate(zip(own, target, strict=True)):
        if len(own) > len(view) and not is_missing(view, *places[at]):
            continue
        cosine = a @ b / ((a @ a) * (b @ b)).sqrt()
        losses.append(2 - 2 * cosine if method.normalized else ((a - b) ** 2).sum() / 2)
    return sum(losses) / len(losses)


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    found = dict(state)
    online = {f"target.network.{n}": t for n, t in f.parameters.items()}
    online |= {f"target.{n}": t for n, t in state.items() if n.startswith("projector.")}
    for name, own in state.items():
        if name.startswith("target."):
            found[name] = method.ema_decay * own + (1 - method.ema_decay) * online[name].detach()
    return found
