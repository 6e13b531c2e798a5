"""Masked prediction, plainly: one missing leaf at a time (arXiv 1810.04805, Section 3.1)."""

from leaf_cases import TREE as TREE
from leaf_cases import is_missing, leaf_loss, transformer

import hltm
from dualnets import Group, MaskedPrediction

AUGMENT = hltm.drop_leaves(0.4)
STEPS = 1  # of slow plain networks
CASES = {
    "one-output": MaskedPrediction(),
    "positions": MaskedPrediction(rates=Group(lr=3.0, weight_decay=0.1)),
    "per-leaf": MaskedPrediction(per_leaf=True, bias=False),
}
NETWORKS = {"positions": transformer, "per-leaf": transformer}


def plain_loss(method, f, state, batch):
    (view,), (sample,) = batch.views, batch.negatives
    return leaf_loss(method, f, state, view, sample, lambda i, x: is_missing(view, i, x))


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
