"""Wrong values everywhere at the border: one error each, that names the value and what was expected."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import dualnets
import hltm
from dualnets import (
    BYOL,
    LARS,
    PIRL,
    SGD,
    Adam,
    BarlowTwins,
    BatchNorm,
    DirectPredictor,
    Group,
    GroupNorm,
    Head,
    LayerNorm,
    MoCo,
    Schedule,
    SimCLR,
    SimSiam,
    Supervised,
    SwAV,
    TeacherStudent,
    VICReg,
    images,
)
from dualnets._checks import check_network, check_number
from dualnets.optim.per_member import check_rates

TREES = hltm.symmetric_binary(depth=2, members=2, seed=0)
INF, NAN = math.inf, math.nan


def network(**changes):
    return dualnets.tree_network(TREES, **({"units": 4, "seed": 1} | changes))


def begin(method=None, net=None, **changes):
    """The checks before training alone: no snapshot is asked for, so nothing is trained."""
    given = {
        "augment": hltm.resample_leaves(0.0), "steps": 3, "batch": 8, "seed": 2,
        "optimizer": SGD(0.1),
    }  # fmt: skip
    source = changes.pop("source", TREES)
    return dualnets.trajectory(
        network() if net is None else net, method or SimCLR(), source, **(given | changes)
    )


KINDS = [
    (lambda: SGD(lr=None), "a learning rate must be a number, or one per member, got None"),
    (lambda: SGD(lr=True), "a learning rate must be a number, or one per member, got True"),
    (lambda: SGD(lr="0.1"), "a learning rate must be a number, or one per member, got '0.1'"),
    (lambda: SGD(lr=[0.1, "0.2"]), "a learning rate must be a number, got '0.2'"),
    (lambda: SGD(schedule="cosine"), r"schedule must be such as dualnets\.Schedule.*got 'cosine'"),
    (lambda: SGD(momentum=0.9, nesterov="yes"), "nesterov must be True or False, got 'yes'"),
    (lambda: Schedule(warm_up=2.5), "warm_up must be a whole number, got 2.5"),
    (lambda: Adam(epsilon="small"), "epsilon must be a number, got 'small'"),
    (lambda: LARS(trust=None), "trust must be a number, or one per member, got None"),
    (lambda: Group(lr="fast"), "lr must be a number, or one per member, got 'fast'"),
    (lambda: Head(32), r"a head's widths must be such as \(32, 16\), got 32"),
    (lambda: Head((2.5,)), "a head's width must be a whole number, got 2.5"),
    (lambda: Head((4,), bias="no"), "bias must be True or False, got 'no'"),
    (lambda: Head((4, 4), norm=BatchNorm), r"norm must be such as dualnets\.BatchNorm\(\), got"),
    (lambda: Head((4,), last_norm="batch"), "last_norm must be such as .* got 'batch'"),
    (lambda: network(norm=BatchNorm), r"norm must be such as dualnets\.BatchNorm\(\), got <class"),
    (lambda: network(units=2.5), "units must be a whole number, got 2.5"),
    (lambda: dualnets.mlp(TREES, units=2.5, seed=0), "units must be a whole number, got 2.5"),
    (lambda: dualnets.mlp(TREES, units=[2, 2.5], seed=0), "units must be a whole number, got 2.5"),
    (
        lambda: BarlowTwins(standardize=LayerNorm()),
        "standardize must be such as dualnets.BatchNorm",
    ),
    (lambda: SimCLR(dualnets.InfoNCE), r"criterion must be such as dualnets\.InfoNCE\(\), got <cl"),
    (lambda: SimCLR("infonce"), r"criterion must be such as dualnets\.InfoNCE\(\), got 'infonce'"),
    (lambda: SimCLR(projector=None), r"projector must be such as dualnets\.Head\(.*got None"),
    (lambda: VICReg(projector=(32, 16)), r"projector must be such as .* got \(32, 16\)"),
    (lambda: SimSiam(predictor=None), "predictor must be such as .* got None"),
    (lambda: SimSiam(stop_gradient="no"), "stop_gradient must be True or False, got 'no'"),
    (
        lambda: BYOL(predictor="direct"),
        r"predictor must be such as .*DirectPredictor.* got 'direct'",
    ),
    (lambda: BYOL(projector=None), "projector must be such as .* got None"),
    (lambda: BYOL(stop_gradient="no"), "stop_gradient must be True or False, got 'no'"),
    (lambda: BYOL(copy_every=NAN), "copy_every must be a whole number, got nan"),
    (lambda: BYOL(redraw_every=2.5), "redraw_every must be a whole number, got 2.5"),
    (lambda: BYOL(ema_decay=None), "ema_decay must be a number, or one per member, got None"),
    (lambda: BYOL(predictor_lr=None), "predictor_lr must be a number, or one per member, got None"),
    (lambda: DirectPredictor(every=1.5), "every must be a whole number, got 1.5"),
    (lambda: MoCo(queue=64.5), "queue must be a whole number, got 64.5"),
    (lambda: MoCo(symmetric=1), "symmetric must be True or False, got 1"),
    (lambda: SwAV(prototypes=8.0), "prototypes must be a whole number, got 8.0"),
    (lambda: PIRL(negatives=True), "negatives must be a whole number, got True"),
    (lambda: PIRL(view_projector="none"), "view_projector must be such as .* got 'none'"),
    (
        lambda: Supervised(0),
        r"targets must be 'root', 'latents', 'label' or nodes such as \(0, 1\), got 0",
    ),
    (lambda: Supervised(rates=2.0), r"rates must be such as dualnets\.Group\(lr=2\.0\), got 2\.0"),
    (lambda: TeacherStudent(None), "teacher must be such as dualnets.tree_network.*got a NoneType"),
    (lambda: TeacherStudent(nn.Linear(4, 2)), "teacher must be .*got a Linear; dualnets.TorchEnse"),
    (lambda: begin(net=nn.Linear(4, 2)), "network must be .*got a Linear; dualnets.TorchEnsemble"),
    (
        lambda: images.evaluate(next(begin(snapshots=[0])), None, seed=0),
        "network must be .*got a Snapshot; its .network is one",
    ),
    (lambda: begin(source="tree"), "source must be such as hltm.symmetric_binary.* got 'tree'"),
    (lambda: begin(steps=3.0), "steps must be a whole number, got 3.0"),
    (lambda: begin(batch=16.0), "batch must be a whole number, got 16.0"),
    (lambda: begin(samples=64.0), "samples must be a whole number, got 64.0"),
    (lambda: begin(snapshots=[0, 1.5]), "a snapshot must be a whole number, got 1.5"),
    (lambda: begin(snapshots=3), r"snapshots must be steps such as \[0, 10\], got 3"),
    (lambda: begin(members_at_once=1.5), "members_at_once must be a whole number, got 1.5"),
    (lambda: begin(strict="no"), "strict must be True or False, got 'no'"),
    (lambda: dualnets.Checkpoints("here", every=2.5), "every must be a whole number, got 2.5"),
    (lambda: dualnets.Checkpoints(None), "folder must be such as 'checkpoints', got None"),
]


@pytest.mark.parametrize(("make", "message"), KINDS)
def test_what_is_of_another_kind_is_refused_by_name(make, message):
    with pytest.raises(TypeError, match=message):
        make()


VALUES = [
    (lambda: Group(lr=-5), "lr must be at least 0 and finite, got -5"),
    (lambda: Group(lr=NAN), "lr must be at least 0 and finite, got nan"),
    (lambda: Group(weight_decay=INF), "weight_decay must be at least 0 and finite, got inf"),
    (lambda: SGD(lr=[]), "a learning rate must be a number, or one per member, got none"),
    (lambda: SGD(lr=np.ones((2, 2))), "a learning rate must be a number, or one per member, got"),
    (lambda: LARS(trust=[0.1, 0.0]), "trust must be above 0 and finite, got 0.0"),
    (lambda: SGD(clip=NAN), "clip must be above 0, got nan"),
    (lambda: MoCo(temperature=INF), "temperature must be above 0 and finite, got inf"),
    (lambda: MoCo(ema_decay=[0.5, 1.5]), "ema_decay must be in 0..1, got 1.5"),
    (lambda: SwAV(epsilon=INF), "epsilon must be above 0 and finite, got inf"),
    (lambda: SwAV(temperature=INF), "temperature must be above 0 and finite, got inf"),
    (lambda: PIRL(temperature=INF), "temperature must be above 0 and finite, got inf"),
    (lambda: VICReg(spread=INF), "spread must be above 0 and finite, got inf"),
    (lambda: DirectPredictor(epsilon=INF), "epsilon must be at least 0 and finite, got inf"),
    (lambda: BYOL(redraw="top"), "redraw='top' needs redraw_every of at least 1 update, got 0"),
    (lambda: begin(members_at_once=0), "members_at_once must be at least 1, got 0"),
    (lambda: begin(snapshots=[-1]), "snapshots must lie in 0..3, got -1"),
    (lambda: begin(Supervised((99,))), r"targets must be .* nodes of the trees, got \(99,\)"),
    (lambda: begin(Supervised(("nobody",))), "targets must be .* nodes of the trees, got"),
    (lambda: begin(MoCo(queue=64, ema_decay=[0.5])), "expected 2 values of ema_decay, one per"),
    (lambda: begin(BYOL(predictor_lr=[1.0] * 3)), "expected 2 values of predictor_lr, one per"),
    (lambda: begin(Supervised(rates=Group([1.0]))), "expected 2 values of rates.lr, one per"),
]


@pytest.mark.parametrize(("make", "message"), VALUES)
def test_what_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


SILENT = {
    "norm of one unit": (Head((1, 4), norm=LayerNorm()), "LayerNorm needs equal groups of 2 units"),
    "uneven groups": (Head((9, 4), norm=GroupNorm(2)), "got 9 units in 2 group"),
    "last norm": (Head((4, 2), last_norm=GroupNorm(2)), "got 2 units in 2 group"),
    "weights of one input": (
        Head((1, 4, 4), weight_standardization=True),
        "standardised weights need at least 2 inputs per unit, layer 1 of the .* has 1",
    ),
}


@pytest.mark.parametrize(("head", "message"), SILENT.values(), ids=SILENT)
@pytest.mark.parametrize(
    "make",
    [
        lambda head: SimCLR(projector=head),
        lambda head: BarlowTwins(head),
        lambda head: VICReg(head),
        lambda head: BYOL(projector=head, predictor=None),
        lambda head: BYOL(projector=Head((head.widths[-1],)), predictor=head),
        lambda head: SimSiam(head, Head((head.widths[-1],))),
        lambda head: SimSiam(Head((head.widths[-1],)), head),
        lambda head: MoCo(queue=64, projector=head),
        lambda head: SwAV(prototypes=4, projector=head),
        lambda head: PIRL(negatives=4, projector=head),
        lambda head: PIRL(negatives=4, projector=Head((head.widths[-1],)), view_projector=head),
        lambda head: TeacherStudent(network(units=head.widths[-1]), head),
    ],
)
def test_heads_that_would_say_nothing_are_refused_when_training_is_asked_for(head, message, make):
    with pytest.raises(ValueError, match=message):
        begin(make(head), samples=32)


def test_a_head_that_is_refused_would_have_said_the_same_of_everything():
    rows = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    for name in ("norm of one unit", "weights of one input", "last norm"):
        head = SILENT[name][0]
        parameters = head.init(3, seed=0, members=(0, 1), place=0)
        assert head(parameters, rows).std(dim=1).max() < 0.1, name
    fine = Head((2, 4), norm=LayerNorm(), weight_standardization=True)
    fine.check(3)
    assert fine(fine.init(3, seed=0, members=(0, 1), place=0), rows).std(dim=1).max() > 0.1


class Likeness:
    """Says of itself what a network says."""

    members: ClassVar = (0,)
    stacked, inputs = True, 4


def test_what_is_right_passes_as_it_is():
    assert check_number("x", np.float32(0.5), above=0) == 0.5
    assert type(check_number("x", np.int64(3), low=0)) is int
    assert check_number("x", INF, above=0, limit=False) == INF
    assert check_network("network", Likeness()) is None
    for given in ([0.5, 1.0], (0.5, 1.0), np.array([0.5, 1.0]), torch.tensor([0.5, 1.0])):
        assert check_rates("x", given, check_number) == (0.5, 1.0)
        assert SGD(lr=given).lr == (0.5, 1.0)
    assert check_rates("x", torch.tensor(0.5), check_number) == 0.5
    assert SGD(np.float64(0.1)) == SGD(0.1)
    assert Head([np.int64(8), 4]) == Head((8, 4))
    assert Supervised([0, 1]) == Supervised((0, 1))
    assert [s.step for s in begin(steps=np.int64(1), snapshots=np.arange(2))] == [0, 1]
