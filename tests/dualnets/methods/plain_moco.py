"""MoCo, plainly: one query at a time against a list of keys (arXiv 1911.05722, Algorithm 1)."""

import torch
from looped_head import looped_head, of_length_1, strip_prefix

import dualnets

HEAD = dualnets.Head((6, 3), norm=dualnets.BatchNorm())
CASES = {
    "plain": dualnets.MoCo(queue=8, ema_decay=0.9, temperature=0.2),
    "projector": dualnets.MoCo(queue=21, ema_decay=0.5, temperature=0.3, projector=HEAD),
    "symmetric": dualnets.MoCo(queue=20, ema_decay=0.9, temperature=0.2, symmetric=True),
}


def query(method, f, state, view):
    return of_length_1(looped_head(method.projector, strip_prefix(state, "projector"), f(view)))


def keys(method, f, state, view):
    encoder = f.with_parameters(strip_prefix(state, "key"))
    with torch.no_grad():
        outputs = encoder(view)
        return of_length_1(
            looped_head(method.projector, strip_prefix(state, "key_projector"), outputs)
        )


def one_direction(method, f, state, view, other):
    total = torch.zeros((), dtype=torch.float64)
    for q, k in zip(query(method, f, state, view), keys(method, f, state, other), strict=True):
        near = torch.exp(q @ k / method.temperature)
        far = torch.exp(state["queue"] @ q / method.temperature).sum()
        total = total - torch.log(near / (near + far))
    return total / len(view)


def plain_loss(method, f, state, batch):
    a, b = batch.views
    if not method.symmetric:
        return one_direction(method, f, state, a, b)
    return (one_direction(method, f, state, a, b) + one_direction(method, f, state, b, a)) / 2


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    # the key encoder has not moved yet, so it makes the keys that the loss saw
    a, b = batch.views
    new = [*keys(method, f, state, b)]
    if method.symmetric:
        new += [*keys(method, f, state, a)]
    after = dict(state)
    for name, fast in f.parameters.items():
        after[f"key.{name}"] = (
            method.ema_decay * state[f"key.{name}"] + (1 - method.ema_decay) * fast
        )
    for name, fast in strip_prefix(state, "projector").items():
        if f"key_projector.{name}" not in state:
            continue  # running moments are the online projector's
        slow = state[f"key_projector.{name}"]
        after[f"key_projector.{name}"] = method.ema_decay * slow + (1 - method.ema_decay) * fast
    queue = [*new, *state["queue"]]
    while len(queue) > method.queue:
        queue.pop()
    after["queue"] = torch.stack(queue)
    return after
