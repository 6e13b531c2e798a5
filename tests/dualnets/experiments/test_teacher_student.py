"""Teachers and students: noisy embeddings, what is measured, the rules on made-up tables, the cells."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge
from made_up_variants import joined, seeded

import hltm
from dualnets.experiments import load
from dualnets.experiments.objectives import _teacher_student as code
from dualnets.experiments.objectives._noisy_leaves import (
    noisy_embeddings,
    number_network,
    numbers,
    with_numbers,
)
from dualnets.experiments.objectives._teacher import TEACHER_SAMPLES
from dualnets.experiments.objectives.teacher_student import MIDDLE, NARROW, REPRODUCED, WIDE
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.fields import with_columns
from dualnets.lab.grids import cells
from dualnets.networks.tree_network import tree_network
from hltm.data.encode import embeddings
from hltm.model.topology import Topology

EXPERIMENT = load("teacher_student")
CPU = torch.device("cpu")
SMALL = {
    "depth": 2,
    "members": 2,
    "steps": 4,
    "evaluation_samples": 512,
    "batch": 16,
    "dimension": 3,
}


def small(**changes):
    given = {name: [value] for name, value in (SMALL | changes).items()}
    return cells(EXPERIMENT, "smoke", given)


# noisy embeddings


def test_a_leaf_is_its_embedding_plus_noise():
    given = hltm.symmetric_binary(depth=2, members=3, seed=1)
    trees = noisy_embeddings(given, dimension=5, noise=0.7, seed=9)
    assert trees.topology == with_numbers(given.topology, 5)
    value = numbers(torch.arange(256), torch.float64)
    for s, member in enumerate(trees.members):
        both = torch.arange(2)[:, None].expand(-1, 4)
        vectors = embeddings(both, 2, dimension=5, seed=9, member=member, dtype=torch.float64)
        for x in range(4):
            table = trees.tables.of(np.array(list(trees.leaves))[x * 5 : x * 5 + 5])[
                s
            ]  # (D, K, 256)
            mean = table @ value
            assert torch.allclose(mean, vectors[:, x].T, atol=1e-6)
            assert torch.allclose(
                (table @ value.square() - mean.square()).sqrt(), torch.tensor(0.7).double()
            )
    for node in range(1, len(given.topology)):
        assert torch.equal(trees.tables.of(node), given.tables.of(node))


def test_a_network_reads_the_numbers():
    trees = noisy_embeddings(
        hltm.symmetric_binary(depth=1, members=2, seed=0), dimension=2, noise=1.0, seed=0
    )
    network = number_network(trees, units=3, seed=4, bias=True, normalize=False, device=CPU)
    # a network of bits reads any numbers
    bits = hltm.symmetric_binary(depth=2, members=2, seed=0)
    plain = tree_network(bits, units=3, seed=4, bias=True)
    leaves = trees.sample(50, seed=2).leaves
    assert torch.equal(network(leaves), plain.eval()(numbers(leaves)))
    assert with_numbers(Topology.balanced(1), 2) == Topology.balanced(2)


@pytest.mark.parametrize("bias", [True, False])
def test_a_teachers_units_vary_and_switch(bias):
    settings = EXPERIMENT.Settings(
        variant="x", method="teacher-student", normalize=False, depth=2, members=2, teacher_units=3,
        bias=bias,
    )  # fmt: skip
    teacher, trees = settings.build_teacher(), settings.build_trees()
    leaves = trees.sample(TEACHER_SAMPLES, seed=settings.seed + settings.teacher_seed).leaves
    for values in teacher.activations(leaves).values():
        assert torch.allclose(values.std(1), torch.ones(()), atol=1e-3)
        assert (values.mean(1).abs().max() < 1e-3) == bias
        if bias:  # every boundary lies within the data
            on = (values > 0).double().mean(1)
            assert on.min() > 0.1
            assert on.max() < 0.9


# measures


def test_what_is_unexplained_and_found_along_training():
    """Against numpy, on the networks of a cell; the teacher itself is found and leaves nothing."""
    settings = small(teacher_seed=3)[2]
    table = EXPERIMENT.run_cell(settings, CPU, ProgressListener()).table
    assert sorted(table["step"].unique()) == [0, 1, 2, 3, 4]
    trees, teacher, method = (
        settings.build_trees(),
        settings.build_teacher(),
        settings.build_method(),
    )
    student = settings.build_network(trees, settings.seed, CPU)
    from dualnets.methods.protocol import TrainContext
    from hltm.sampling.philox import Stream

    state = method.init(student, TrainContext(trees, settings.seed, 4, 16))
    leaves = trees.draw(512, seed=settings.seed, stream=Stream.EVALUATION).leaves
    wanted = teacher(leaves).detach().double().numpy()
    made = method.embedding(student, state, leaves).detach().double().numpy()
    rest = ((made - wanted) ** 2).sum((1, 2)) / ((wanted - wanted.mean(1, keepdims=True)) ** 2).sum(
        (1, 2)
    )
    first = table[table["step"] == 0]
    assert np.allclose(first[first["metric"] == code.UNEXPLAINED]["value"], rest)
    theirs, ours = (
        net.activations(leaves)[1].relu().detach().numpy() for net in (teacher, student)
    )
    lowest = first[(first["metric"] == code.SPECIALISATION) & (first["level"] == 1)]
    for s, value in enumerate(lowest["value"]):
        best = [
            max(
                np.corrcoef(theirs[s, :, v, u], ours[s, :, v, w])[0, 1]
                for w in range(ours.shape[3])
            )
            for v in range(theirs.shape[2])
            for u in range(theirs.shape[3])
        ]
        assert value == pytest.approx(np.mean(best), abs=1e-5)


def test_the_share_found_counts_units_that_vary():
    value = [0.96, 0.94, np.nan, 0.99, 0.5, 0.2]
    units = pd.DataFrame({
        "member": [0, 0, 0, 1, 1, 1], "layer": 1, "candidates": "block", "value": value, "null": 0.1, "n": 9,
    })  # fmt: skip
    rows = code._by_layer(units).set_index(["metric", "member"])["value"]
    assert rows[code.FOUND].tolist() == pytest.approx([1 / 2, 1 / 3])
    assert rows[code.SPECIALISATION][0] == pytest.approx(0.95)


# rules


def made_up(found, unexplained=0.001, trees=12, curve=None, spread=0.02):
    """A table of student -> share of the lowest layer that is found at the end; 0 before training.

    Args:
        unexplained: at the end, one number or student -> number.
        curve: step -> share of the end that is found by then.
    """
    rng = np.random.default_rng(0)
    curve = curve or {0: 0.0, 10: 0.0, 100: 1.0, 200: 1.0}
    parts = []
    for name, share in found.items():
        ends = share + rng.normal(0, spread, trees)
        rest = unexplained[name] if isinstance(unexplained, dict) else unexplained
        for step, part in curve.items():
            common = {
                "cell": name,
                "variant": name,
                "member": range(trees),
                "step": step,
                "null": 0.05,
            }
            for metric, level, node, values in (
                (code.FOUND, 1, "teacher's layer 1", part * ends),
                (code.FOUND, 2, "teacher's layer 2", 0.0),
                (code.SPECIALISATION, 1, "teacher's layer 1", part * ends),
                (code.UNEXPLAINED, 2, "teacher's outputs", rest if step else 1.0),
                ("spread", 2, "embedding", 0.5),
            ):
                own = {
                    "level": level,
                    "node": node,
                    "metric": metric,
                    "initial": 0.0,
                    "value": values,
                }
                parts.append(pd.DataFrame(common | own))
    return joined(*parts)


@pytest.mark.parametrize(
    ("found", "options", "verdict", "reason"),
    [
        ((0.4, 0.95, 1.0), {}, "holds", "are found on the 12 trees that count"),
        ((0.4, 0.3, 0.35), {}, "fails", "are found on the 12 trees"),
        ((0.4, 0.7, 0.8), {}, "open", "are found on the 12 trees"),
        # the student as wide as its teacher is not what the claim is about
        ((0.1, 0.97, 0.97), {}, "holds", ""),
        # students that do not reproduce their teachers do not count
        (
            (0.4, 0.2, 1.0),
            {"unexplained": {NARROW: 0.2, MIDDLE: 0.02, WIDE: 0.001}},
            "holds",
            "12 trees that count",
        ),
        ((0.4, 1.0, 1.0), {"unexplained": 2 * REPRODUCED}, "open", "0 trees are fewer than 12"),
        ((0.4, 1.0, 1.0), {"trees": 11}, "open", "11 trees are fewer than 12"),
    ],
)
def test_the_rule_of_specialisation(found, options, verdict, reason):
    table = made_up(dict(zip((NARROW, MIDDLE, WIDE), found, strict=True)), **options)
    made = judge(EXPERIMENT, table)
    json.dumps(made.as_dict(), allow_nan=False)
    assert (made.verdict, reason in made.reason) == (verdict, True), made.reason
    assert [d["variant"] for d in made.details] == [MIDDLE, WIDE]


def test_wide_students_that_were_not_run_decide_nothing():
    made = judge(EXPERIMENT, made_up({NARROW: 1.0}))
    assert (made.verdict, made.reason) == ("open", "no wider student was run")


def test_what_still_changes_is_open():
    growing = {0: 0.0, 50: 0.5, 100: 0.9, 200: 1.0}
    found = dict.fromkeys((NARROW, MIDDLE, WIDE), 1.0)
    specialisation = EXPERIMENT.verdicts(made_up(found, curve=growing))[0]
    assert specialisation.verdict == "open"
    assert specialisation.reason.startswith("still changing (students that reproduce")
    flat = EXPERIMENT.verdicts(made_up(found))[0]
    assert (flat.verdict, flat.flat) == ("holds", True)
    # of trees that do not count it does not matter what they still find
    late = made_up(found, {NARROW: 0.0, MIDDLE: 0.2, WIDE: 0.0})
    late.loc[late["variant"].eq(MIDDLE) & late["step"].eq(100), "value"] /= 2
    assert EXPERIMENT.verdicts(late)[0].verdict == "holds"


def crossing(at, trees=12, name=NARROW):
    """Students that find half of the units at this step; inf for never."""
    share = 0.4 if np.isinf(at) else 1.0
    return made_up(
        {name: share}, trees=trees, curve={0: 0.0, 9: 0.0, 99: 0.5 if at == 99 else 0.0, 999: 1.0}
    )


@pytest.mark.parametrize(
    ("narrow", "wide", "trees", "verdict"),
    [
        (999, 99, 12, "holds"),
        (np.inf, 99, 12, "holds"),  # never is later than all
        (99, 999, 12, "fails"),
        (np.inf, np.inf, 12, "open"),
        (999, 99, 11, "open"),
    ],
)
def test_the_rule_of_widths(narrow, wide, trees, verdict):
    table = joined(crossing(narrow, trees), crossing(wide, trees, WIDE))
    made = judge(EXPERIMENT, table, claim=1)
    json.dumps(made.as_dict(), allow_nan=False)
    assert made.verdict == verdict, made.reason
    assert made.details[0]["never"] == (trees if np.isinf(narrow) else 0)
    if trees == 12 and verdict == "holds":
        assert made.effect_value > 3


def test_half_is_found_between_two_snapshots():
    table = made_up({NARROW: 1.0}, curve={0: 0.0, 9: 0.0, 99: 1.0}, spread=0.0)
    assert code.times(table) == pytest.approx((9 * 99) ** 0.5)
    assert judge(EXPERIMENT, table, claim=1).reason == f"{NARROW} and {WIDE} were not both run"


def test_trees_of_several_seeds_add_up():
    table = made_up({NARROW: 0.4, MIDDLE: 0.95, WIDE: 1.0}, trees=24)
    for claim in (0, 1):
        one, two = (judge(EXPERIMENT, own, claim) for own in (table, seeded(table, (5, 6))))
        assert (one.n, one.effect_value) == (two.n, pytest.approx(two.effect_value))
        assert two.n == 24


# cells


@pytest.mark.slow
def test_a_small_run_is_shown():
    parts = []
    for settings in small():
        outcome = EXPERIMENT.run_cell(settings, CPU, ProgressListener())
        assert not outcome.notes
        outcome.table.insert(0, "cell", str(len(parts)))
        parts.append(with_columns(outcome.table, settings))
    table = pd.concat(parts, ignore_index=True)
    assert [judge(EXPERIMENT, table, claim).verdict for claim in (0, 1)] == ["open", "open"]
    assert EXPERIMENT.summary_table(table)["variant"].tolist() == [NARROW, MIDDLE, WIDE]
    assert EXPERIMENT.headline(parts[0]).startswith("found 0.")
    figure = EXPERIMENT.plot(table)
    figure.canvas.draw()
    assert len(figure.axes) == 3


@pytest.mark.parametrize("name", ["network", "method", "augment"])
def test_what_makes_the_experiment_cannot_be_set(name):
    with pytest.raises(ValueError, match="cannot be set"):
        cells(EXPERIMENT, "default", {name: ["mlp"]})
