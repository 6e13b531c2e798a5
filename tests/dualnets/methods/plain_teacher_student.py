"""Teacher and student, plainly: one sample at a time."""

import torch
from looped_head import strip_prefix
from plain_byol import plain_head

import dualnets
import hltm
from dualnets import BatchNorm, Group, Head, TeacherStudent

TREES = hltm.symmetric_binary(depth=2, members=5, seed=0)


def teacher(trees, units, **others):
    return dualnets.tree_network(trees, units=units, seed=7, bias=True, **others)


CASES = {
    "each-its-own": TeacherStudent(teacher(TREES, 4, dtype=torch.float64)),
    "one-for-all": TeacherStudent(
        teacher(TREES[0], 3), readout=Head((3,), bias=False), rates=Group(2.0, 0.1)
    ),
    "deep-readout": TeacherStudent(teacher(TREES, 2), readout=Head((5, 2), norm=BatchNorm())),
}


def plain_loss(method, f, state, batch):
    t = f.with_parameters({n: p.double() for n, p in strip_prefix(state, "teacher").items()})
    (view,) = batch.views
    answers = plain_head(method.readout, strip_prefix(state, "readout"), f(view))
    wanted = t(view)
    return sum(((a - b) ** 2).sum() / 2 for a, b in zip(answers, wanted, strict=True)) / len(view)


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    return dict(state)
