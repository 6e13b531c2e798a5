"""What the docstrings of SimCLR, Barlow Twins, VICReg, Supervised and TeacherStudent claim, and refuse."""

import math

import pytest
import torch
from torch import nn

import dualnets
import hltm
from dualnets import BarlowTwins, BatchNorm, Head, SimCLR, Supervised, TeacherStudent, VICReg
from dualnets.methods.protocol import Batch, TrainContext

TREES = hltm.symmetric_binary(depth=2, members=3, seed=0)
SETUP = TrainContext(TREES, 5, 10, 8)
NOTHING = hltm.resample_leaves(0.0)


class Identity(nn.Module):
    """Outputs are the numbers given as leaves."""

    def forward(self, leaves):
        return leaves


def network(trees=TREES, units=3, seed=1, **others):
    return dualnets.tree_network(trees, units=units, seed=seed, dtype=torch.float64, **others)


def train(method, net=None, trees=TREES, **changes):
    given = {
        "augment": NOTHING, "steps": 3, "batch": 8, "seed": 2, "optimizer": dualnets.SGD(0.1),
    }  # fmt: skip
    return dualnets.train(net or network(trees), method, trees, **(given | changes))


def loss_of(method, *views):
    batch = Batch(torch.cat(views, dim=1), views[0].shape[1])
    return method.loss(Identity(), {}, batch)[0]


def walsh(batch=8):
    """(1, 8, 7) outputs of mean 0 and variance 1 that do not correlate."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < batch:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h[None, :, 1:]


def test_barlow_twins_wants_units_that_agree_and_do_not_repeat_each_other():
    method = BarlowTwins(Head(), off_diagonal=0.25, standardize=BatchNorm(epsilon=1e-15))
    z = walsh()
    assert loss_of(method, z, 3 * z + 1).abs() < 1e-12  # scale and shift do not matter
    assert abs(float(loss_of(method, z, -z)) - 7 * 4) < 1e-9
    twins = z.clone()
    twins[..., 1] = twins[..., 0]
    assert abs(float(loss_of(method, twins, twins)) - 2 * 0.25) < 1e-9


def test_vicreg_has_its_three_terms():
    z = walsh()
    spread = (1 + 1e-4 + 1 / 7) ** 0.5  # the variance is 8 / 7
    method = VICReg(Head(), invariance=2.0, variance=3.0, covariance=5.0)
    assert loss_of(method, z, z).abs() < 1e-12
    still = torch.ones_like(z)
    assert abs(float(loss_of(method, still, still)) - 3 * 2 * (1 - 1e-2)) < 1e-9
    assert abs(float(loss_of(method, z, z + 2)) - 2 * 4) < 1e-9
    twins = z.clone()
    twins[..., 1] = twins[..., 0]
    assert abs(float(loss_of(method, twins, twins)) - 5 * 2 * 2 * (8 / 7) ** 2 / 7) < 1e-9
    wider = VICReg(Head(), invariance=0.0, variance=3.0, covariance=0.0, spread=4.0)
    assert abs(float(loss_of(wider, z, z)) - 3 * 2 * (4 - spread)) < 1e-4


def test_a_projector_stands_between_the_network_and_the_loss():
    for make in (SimCLR, BarlowTwins, VICReg):
        method = make(projector=Head((6, 5), norm=BatchNorm()))
        final = train(method)
        leaves = TREES.sample(6, seed=3).leaves
        expected = method.projector(
            {n.removeprefix("projector."): t for n, t in final.state.items()},
            final.network(leaves),
        )
        embedded = method.embedding(final.network, final.state, leaves, batch_statistics=True)
        assert embedded.equal(expected)
        assert expected.shape == (3, 6, 5)
    assert SimCLR(projector=Head((3,))).plain_loss is None  # the compiled loss of pairs has no head
    assert SimCLR().plain_loss == SimCLR().criterion


def test_without_a_guess_the_classifier_is_at_chance_and_absent_states_have_none():
    method = Supervised("latents")
    state = method.init(network(), SETUP)
    with torch.no_grad():
        for name in ("classifier.0.weight", "classifier.0.bias"):
            state[name].zero_()
    batch = Batch(TREES.sample(8, seed=1).leaves, 8, torch.zeros(3, 8, 3, dtype=torch.int64))
    loss, _ = method.loss(network(), state, batch)
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)))
    state["absent"] = state["absent"].index_put(
        (torch.arange(3), torch.tensor(2), torch.tensor(1)), torch.tensor(True)
    )
    loss, _ = method.loss(network(), state, batch)  # the third target has one state left
    torch.testing.assert_close(loss, torch.full_like(loss, 2 / 3 * math.log(2)))
    scores = method.scores(state, network()(batch.leaves))
    assert scores[:, :, 2, 1].eq(-torch.inf).all()
    assert scores[:, :, :2].isfinite().all()


def test_labels_are_those_of_the_data():
    """With leaves that tell the root, the classifier soon names it; with wrong labels it could not."""
    trees = hltm.symmetric_binary(depth=2, polarity=0.999, members=3, seed=0)
    method = Supervised()
    final = train(method, network(trees), trees, steps=300, batch=32)
    draw = trees.sample(500, seed=9)
    scores = method.scores(final.state, final.network(draw.leaves))
    assert (scores[:, :, 0].argmax(-1) == draw.root).double().mean() > 0.97


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    net = network(bias=True)
    found = train(TeacherStudent(net), network(bias=True), steps=2)
    # the teacher is in evaluation, where sums are in another order than in training
    assert found.losses.lt(1e-30).all()
    for p, q in zip(found.network.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-15)


def test_the_teacher_never_changes_and_is_looked_up_by_address():
    teacher = network(TREES, units=4, seed=7)
    method = TeacherStudent(teacher, readout=Head((4,)))
    final = train(method, steps=20)
    for name, p in teacher.named_parameters():
        assert final.state[f"teacher.{name}"].equal(p)
    part = method.init(network(TREES[1:]), SETUP._replace(source=TREES[1:]))
    assert part["teacher.weights.0"].equal(teacher.weights[0][1:])


def test_another_teacher_is_another_training(tmp_path):
    plan = {"checkpoints": dualnets.Checkpoints(tmp_path, every=2)}
    train(TeacherStudent(network(seed=7)), **plan)
    with pytest.raises(ValueError, match="the method's initial state is"):
        train(TeacherStudent(network(seed=8)), **plan)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BarlowTwins(off_diagonal=-1.0),
            "off_diagonal must be at least 0 and finite, got -1",
        ),
        (
            lambda: BarlowTwins(standardize=BatchNorm(affine=True)),
            "standardize must have affine=False",
        ),
        (lambda: VICReg(variance=-1.0), "variance must be at least 0 and finite, got -1.0"),
        (lambda: VICReg(invariance=0, variance=0, covariance=0), "all are 0"),
        (lambda: VICReg(spread=0.0), "spread must be above 0 and finite, got 0.0"),
        (lambda: VICReg(epsilon=0.0), "epsilon must be above 0 and finite, got 0.0"),
        (lambda: Supervised(()), "needs at least one target, got none"),
        (lambda: train(Supervised("leaves")), "targets must be 'root', 'latents'"),
        (lambda: train(Supervised("latents"), augment=hltm.keep_root()), "redraw|draw|keep"),
        (
            lambda: train(TeacherStudent(network(units=2))),
            "the teacher has 2 outputs, the student 3: give a readout with 2",
        ),
        (
            lambda: train(TeacherStudent(network(TREES[:2]))),
            r"there is no teacher for member 2, only for \(0, 1\)",
        ),
        (
            lambda: train(TeacherStudent(network(hltm.symmetric_binary(depth=3, seed=0)))),
            "the teacher reads 8 leaves, the student 4",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
