"""Supervised training, plainly: one sample and one label at a time, on a tree of latents of 2 to 4 states."""

import numpy as np
import torch

import hltm
from dualnets import Group, Supervised

# root 4 states; its children 2 and 3; leaves of two states
SHAPE = hltm.Topology.from_parents(
    {"r": None, "a": "r", "b": "r", "1": "a", "2": "a", "3": "b", "4": "b"}
)


def _tables(seed):
    rng = np.random.default_rng(seed)
    states = {"r": (1, 4), "a": (4, 2), "b": (4, 3), "1": (2, 2), "2": (2, 2)}
    states |= {"3": (3, 2), "4": (3, 2)}
    made = {name: rng.dirichlet(np.ones(s[1]), (3, s[0])) for name, s in states.items()}
    return made | {"r": made["r"][:, 0]}


TREE = hltm.LatentTree.from_tables(SHAPE, _tables(0), members=3)
AUGMENT = hltm.resample_leaves(0.3)
CASES = {
    "root": Supervised(),
    "latents": Supervised("latents", rates=Group(lr=3.0, weight_decay=0.1)),
    "nodes": Supervised(("b", "r"), bias=False),
}


def plain_loss(method, f, state, batch):
    output = f(batch.views[0])
    weight = state["classifier.0.weight"][0]
    absent = state["absent"]
    targets, most = absent.shape
    total = 0
    for i, row in enumerate(output):
        for t in range(targets):
            there = [k for k in range(most) if not absent[t, k]]
            scores = {k: weight[t * most + k] @ row for k in there}
            if method.bias:
                bias = state["classifier.0.bias"][0]
                scores = {k: v + bias[t * most + k] for k, v in scores.items()}
            label = int(batch.targets[i, t])
            total = total - scores[label] + torch.log(sum(torch.exp(v) for v in scores.values()))
    return total / (len(output) * targets)


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
