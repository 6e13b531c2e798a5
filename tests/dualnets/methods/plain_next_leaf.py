"""Next leaf, plainly: one leaf of one sample at a time, by a causal network."""

from leaf_cases import TREE as TREE
from leaf_cases import causal, leaf_loss

import hltm
from dualnets import NextLeaf

AUGMENT = hltm.resample_leaves(0.0)
SLOW = True
STEPS = 1  # of slow plain networks
CASES = {"default": NextLeaf(), "per-leaf": NextLeaf(per_leaf=True)}
NETWORKS = dict.fromkeys(CASES, causal)


def plain_loss(method, f, state, batch):
    (view,) = batch.views
    return leaf_loss(method, f, state, view, view, lambda i, x: True)


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
