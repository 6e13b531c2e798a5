"""Denoising, plainly: one leaf at a time, from leaves that are drawn again, and some missing."""

from leaf_cases import TREE as TREE
from leaf_cases import leaf_loss, transformer

import hltm
from dualnets import Denoising

AUGMENT = hltm.resample_leaves(0.4).then(hltm.drop_leaves(0.2))
SLOW = True
STEPS = 1  # of slow plain networks
CASES = {"one-output": Denoising(), "positions": Denoising(bias=False)}
NETWORKS = {"positions": transformer}


def plain_loss(method, f, state, batch):
    (view,), (sample,) = batch.views, batch.negatives
    return leaf_loss(method, f, state, view, sample, lambda i, x: True)


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
