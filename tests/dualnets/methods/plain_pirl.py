"""PIRL, plainly: one sample and one negative at a time (arXiv 1912.01991, Equations 3 to 5)."""

import torch
from looped_head import looped_head, of_length_1, strip_prefix

import dualnets
from hltm.sampling.philox import Stream, uniform

HEAD = dualnets.Head((6, 3), norm=dualnets.BatchNorm())
CASES = {
    "plain": dualnets.PIRL(negatives=9, temperature=0.5),
    "projector": dualnets.PIRL(
        negatives=12, temperature=0.3, weight=0.8, bank_momentum=0.9, projector=HEAD
    ),
    "softmax": dualnets.PIRL(negatives=1, temperature=0.5, classify_negatives=False),
    "two-heads": dualnets.PIRL(
        negatives=5, temperature=0.5, projector=HEAD, view_projector=dualnets.Head((3,))
    ),
}
SAMPLES = 20


def heads(method, f, state, view, name):
    head = getattr(method, name)
    return of_length_1(looped_head(head, strip_prefix(state, name), f(view)))


def similarity(a, b):
    return a @ b / ((a @ a) * (b @ b)).sqrt()


def nce(method, v, mine, others):
    near, *far = (torch.exp(similarity(v, m) / method.temperature) for m in (mine, *others))
    mass = sum(far)
    loss = -torch.log(near / (near + mass))
    if method.classify_negatives:
        for one in far:
            loss = loss - torch.log(1 - one / (one + mass))
    return loss


def plain_loss(method, f, state, batch):
    first = heads(method, f, state, batch.views[0], "projector")
    name = "projector" if method.view_projector is None else "view_projector"
    second = heads(method, f, state, batch.views[1], name)
    total = torch.zeros((), dtype=torch.float64)
    for i, place in enumerate(batch.places.tolist()):
        others = [state["bank"][n] for n in state["negatives"].tolist() if n != place]
        if others:
            mine = state["bank"][place]
            total = total + method.weight * nce(method, second[i], mine, others)
            total = total + (1 - method.weight) * nce(method, first[i], mine, others)
    return total / len(first)


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    first = heads(method, *before, batch.views[0], "projector")
    bank = state["bank"].clone()
    for i, place in enumerate(batch.places.tolist()):
        moved = method.bank_momentum * bank[place] + (1 - method.bank_momentum) * first[i]
        bank[place] = moved / (moved @ moved).sqrt()
    address = {"seed": setup.seed, "stream": Stream.PREDICTOR, "members": [member]}
    numbers = uniform(method.negatives, **address, node=65 * 256, view=step + 1)[0]
    drawn = torch.tensor([int(u * setup.samples) for u in numbers])
    return {**state, "bank": bank, "negatives": drawn}
