"""Specialisation: a teacher finds itself, rescaled and shuffled too; strangers stay at the null."""

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets import specialisation
from hltm.sampling.philox import Stream

TREES = hltm.symmetric_binary(depth=3, polarity=0.4, members=3, seed=0)
LIVE = {"bias": True, "seed": 7}


def network(units=4, trees=TREES, **others):
    return dualnets.tree_network(trees, units=units, **(LIVE | others))


def test_equals_numpys_correlation_unit_by_unit():
    student, teacher = network(5, seed=1), network(3)
    table = specialisation(student, teacher, TREES, samples=900, seed=4, lags=20)
    leaves = TREES.draw(900, seed=4, stream=Stream.EVALUATION).leaves
    ours, theirs = (net.rectify(net.activations(leaves)) for net in (student, teacher))
    assert len(table) == 3 * (4 + 2 + 1) * 3
    for row in table.itertuples():
        s = TREES.members.index(row.member)
        a = ours[row.layer][s, :, row.block].double().detach().numpy()
        b = theirs[row.layer][s, :, row.block, row.teacher_unit].double().detach().numpy()
        if np.ptp(b) == 0:
            assert np.isnan(row.value)
            continue
        found = [np.corrcoef(x, b)[0, 1] if np.ptp(x) else 0.0 for x in a.T]
        assert row.unit == int(np.argmax(found))
        assert abs(row.value - max(found)) < 1e-5


def test_a_rescaled_and_shuffled_teacher_is_found():
    teacher, student = network(), network()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():  # the top layer's units, scaled and in another order
        student.weights[2].copy_(3 * teacher.weights[2][:, :, order])
        student.biases[2].copy_(5 + teacher.biases[2][:, :, order])
    table = specialisation(student, teacher, TREES, samples=2000, seed=4)
    living = table.dropna(subset="value")
    assert (living.value > 0.9999).all()
    top = living[living.layer == 3]
    assert [int(order[unit]) for unit in top.unit] == top.teacher_unit.tolist()
    assert table.value.isna().sum() == table.null.isna().sum() < len(table)


def test_strangers_stay_at_the_null(monkeypatch):
    """Activations of other rows: about 5% of the teacher's units are above the null's 95% point."""
    monkeypatch.setattr("hltm.probe.batches.ROWS", 1500)
    teacher = network()

    class Stranger:
        members, stacked, inputs, depth = TREES.members, True, len(TREES.leaves), 3
        device = teacher.device

        def activations(self, leaves):
            generator = torch.Generator().manual_seed(int(leaves.sum()))
            shape = (3, leaves.shape[1])
            widths = {1: 4, 2: 2, 3: 1}
            return {
                level: torch.randn(*shape, blocks, 6, generator=generator)
                for level, blocks in widths.items()
            }

    table = specialisation(Stranger(), teacher, TREES, samples=3000, seed=4).dropna(subset="value")
    share = (table.value > table.null).mean()
    assert len(table) > 40
    assert share < 0.05 + 4 * (0.05 * 0.95 / len(table)) ** 0.5
    assert (table.null < 0.1).all()


def test_one_teacher_serves_all_members_and_dense_layers_are_taken_whole():
    alone = network(trees=TREES[0])
    student = dualnets.mlp(TREES, units=9, seed=1, bias=True)
    table = specialisation(student, alone, TREES, samples=600, seed=4, lags=10)
    assert set(table.candidates) == {"layer"}
    assert set(table.block) == {-1}
    assert len(table) == 3 * (4 + 2 + 1) * 4
    stacked = network(trees=TREES[0], members=1)  # the same network with an S axis
    with torch.no_grad():
        for p, q in zip(stacked.parameters(), alone.parameters(), strict=True):
            p.copy_(q)
    assert table.equals(specialisation(student, stacked, TREES, samples=600, seed=4, lags=10))


@pytest.mark.slow
def test_a_wide_student_learns_its_teacher():
    """More units, more of the teacher found: the student's best after training beats its start."""
    teacher, student = network(2), network(8, seed=1)
    method = dualnets.TeacherStudent(teacher, readout=dualnets.Head((2,)))
    final = dualnets.train(
        student, method, TREES, augment=hltm.resample_leaves(0.0), steps=400, batch=64,
        optimizer=dualnets.Adam(0.01), seed=2,
    )  # fmt: skip
    table = specialisation(final.network, teacher, TREES, samples=2000, seed=4, initial=student)
    gain = (table.value - table.initial).dropna()
    assert (final.losses < 0.1).all()
    assert gain.mean() > 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": network(trees=TREES[:2])}, r"the teacher has members \(0, 1\)"),
        ({"lags": -1}, "lags must be at least 0, got -1"),
        ({"samples": 300}, "200 lags need at least 400 rows, got 300"),
        (
            {"trees": hltm.symmetric_binary(depth=2, members=3, seed=0)},
            "the trees have 4 leaves, a network reads 8",
        ),
        ({"student": dualnets.mlp(TREES, units=3, layers=2, seed=1)}, "levels 1..3, the student"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    given = {"student": network(), "teacher": network(), "trees": TREES, "samples": 500} | change
    with pytest.raises(ValueError, match=message):
        specialisation(
            given.pop("student"), given.pop("teacher"), given.pop("trees"), seed=1, **given
        )
