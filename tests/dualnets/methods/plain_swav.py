"""SwAV, plainly: the pseudocode of arXiv 2006.09882, Appendix A, with loops, and its queue (Section 4)."""

import torch
from looped_head import looped_head, of_length_1, strip_prefix

import dualnets

HEAD = dualnets.Head((6, 3), norm=dualnets.BatchNorm())
CASES = {
    "plain": dualnets.SwAV(prototypes=5, temperature=0.2, epsilon=0.3),
    "frozen": dualnets.SwAV(prototypes=8, epsilon=0.2, iterations=1, frozen_steps=2),
    "queue": dualnets.SwAV(prototypes=12, temperature=0.2, epsilon=0.3, queue=12),
    "queue-later": dualnets.SwAV(
        prototypes=5, temperature=0.2, epsilon=0.3, queue=8, queue_from=3, projector=HEAD
    ),
}
STEPS = 5


def z(method, f, state, view):
    return of_length_1(looped_head(method.projector, strip_prefix(state, "projector"), f(view)))


def assigned(method, scores):
    """Scores (N, K) -> assignments (N, K)."""
    many, prototypes = scores.shape
    q = torch.exp(scores / method.epsilon).T.clone()  # (K, N)
    q = q / q.sum()
    for _ in range(method.iterations):
        for k in range(prototypes):
            q[k] = q[k] / q[k].sum() / prototypes
        for n in range(many):
            q[:, n] = q[:, n] / q[:, n].sum() / many
    for n in range(many):
        q[:, n] = q[:, n] / q[:, n].sum()
    return q.T


def plain_loss(method, f, state, batch):
    prototypes, step = state["prototypes"], int(state["steps"])
    if step < method.frozen_steps:
        prototypes = prototypes.detach()
    views = [z(method, f, state, view) for view in batch.views]
    logs, assignments = [], []
    for v, own in enumerate(views):
        exponentials = torch.exp(own @ prototypes.T / method.temperature)
        logs.append(torch.log(exponentials / exponentials.sum(1, keepdim=True)))
        rows = own.detach()
        full = step * len(own) >= method.queue
        if method.queue and step >= method.queue_from and full:
            rows = torch.cat([state[f"queue.{v}"], rows])
        assignments.append(assigned(method, rows @ prototypes.detach().T)[-len(own) :])
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(views[0])):
        swapped = assignments[1][i] * logs[0][i] + assignments[0][i] * logs[1][i]
        total = total - swapped.sum() / 2
    return total / len(views[0])


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    f_before, state_before = before
    after = dict(state)
    if step < method.frozen_steps:
        after["prototypes"] = state_before["prototypes"]
    else:
        after["prototypes"] = of_length_1(state["prototypes"])
    after["steps"] = state["steps"] + 1
    if method.queue:
        for v, view in enumerate(batch.views):
            new = [*z(method, f_before, state_before, view)]
            after[f"queue.{v}"] = torch.stack([*new, *state[f"queue.{v}"]][: method.queue])
    return after
