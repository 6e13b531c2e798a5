"""Ablations of data, architecture and loss: their rules on made-up tables, small runs, figures."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge
from made_up_variants import cell, joined, seeded

from dualnets.experiments import load
from dualnets.experiments.emergence._kesten_stigum import gap_difference, strength
from dualnets.experiments.emergence.polarity import MARGIN
from dualnets.lab import grids
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.fields import with_columns
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.variants import PRE, RANK, RATIO, SPREAD, VariantStats, by_variant, variant_stats

teacher_student = import_module(load("teacher_student").code)


# one rule that asks all variants: losses, architectures, numbers of states, grammars


@pytest.mark.parametrize("name", ["losses", "cardinality", "hierarchy"])
@pytest.mark.parametrize(
    ("gains", "trees", "verdict", "reason"),
    [
        ((0.2, 0.1), 14, "holds", "latents emerge with all 2"),
        ((0.0, -0.1), 14, "fails", "latents emerge with none of 2"),
        ((0.2, -0.1), 14, "open", "latents do not emerge with b"),
        ((0.003, 0.0), 14, "fails", "latents emerge with none of 2"),
        ((0.2, 0.1), 11, "open", "11 trees are fewer than 12"),
    ],
)
def test_every_variant_is_asked_whether_its_latents_emerge(name, gains, trees, verdict, reason):
    found = judge(
        load(name), joined(cell("a", gains[0], trees=trees), cell("b", gains[1], trees=trees))
    )
    assert found.verdict == verdict
    assert reason in found.reason
    assert found.n == trees


def test_what_is_not_shown_to_grow_is_not_said_to_stand_still():
    table = joined(cell("a", 0.0, noise=0.2, seed=1), cell("b", 0.0, noise=0.2, seed=2))
    found = judge(load("losses"), table)
    assert max(detail["high"] for detail in found.details) > NEGLIGIBLE
    assert (found.verdict, found.reason) == (
        "open",
        "latents are shown to emerge with none of 2 losses",
    )


def test_the_architecture_that_knows_the_tree_has_no_vote():
    architecture = load("architecture")
    asked = ("wrong tree", "dense, as many parameters", "dense, as wide")
    emerging = [cell(name, 0.2) for name in asked]
    assert judge(architecture, joined(cell("tree", -0.2), *emerging)).verdict == "holds"
    failing = [cell(name, -0.1) for name in asked]
    assert judge(architecture, joined(cell("tree", 0.2), *failing)).verdict == "fails"
    assert judge(architecture, joined(cell("tree", 0.2), emerging[0], failing[1])).verdict == "open"
    assert judge(architecture, cell("tree", 0.2)).verdict == "open"
    against = judge(architecture, joined(cell("tree", 0.3), *emerging)).details[-1]
    assert against["variant"].endswith("- tree")
    assert against["share_of_ceiling_difference"] == pytest.approx(-0.1 * 2 / 3 / 0.9, abs=0.08)
    assert against["p_less"] < 0.01 < against["p_more"]


# what lies on either side of the threshold


def sweep(gains, *, trees=14, **options):
    """Polarities 0.5 and 0.9 with two children: branching * polarity² is 0.5 and 1.62."""
    return joined(
        *(
            cell(f"polarity {rho}", gain, trees=trees, polarity_low=rho, polarity_high=rho,
                 branching=2, **options)
            for rho, gain in zip((0.5, 0.9), gains, strict=True)
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gains", "options", "verdict", "reason"),
    [
        ((0.2, 0.2), {}, "holds", "closes as far"),
        ((0.3, 0.2), {}, "holds", "closes as far"),
        ((0.0, 0.3), {}, "fails", "closes less: the learner"),
        ((0.12, 0.2), {"noise": 0.06}, "open", f"the interval holds -{MARGIN}"),
        ((0.2, 0.0), {}, "open", "the root does not emerge with polarity 0.9"),
        ((0.2, 0.2), {"trees": 11}, "open", "11 trees are fewer than 12"),
        ((0.2, 0.2), {"ceiling": 0.4}, "open", "has reached the ceiling already"),
    ],
)
def test_below_the_threshold_the_gap_closes_as_far_or_the_learner_is_to_blame(
    gains, options, verdict, reason
):
    found = judge(load("polarity"), sweep(gains, **options))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    assert [d["kesten_stigum"] for d in found.details] == pytest.approx([0.5, 1.62])


def test_one_side_alone_decides_nothing():
    one = sweep((0.2, 0.2))
    found = judge(load("polarity"), one[one["polarity_low"] == 0.9])
    assert (found.verdict, found.reason) == (
        "open",
        "all settings lie on one side of the threshold",
    )


def children(few, many):
    return joined(
        *(
            cell(f"{count} children", gain, start=start, ceiling=ceiling, polarity_low=0.6,
                 polarity_high=0.6, branching=count)
            for count, (start, gain, ceiling) in ((2, few), (6, many))
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("few", "many", "verdict", "reason"),
    [  # start, gain, ceiling
        (
            (0.3, 0.1, 0.5),
            (0.5, 0.2, 0.9),
            "holds",
            "above the threshold the root's gap closes as far",
        ),
        ((0.5, 0.25, 0.9), (0.5, 0.2, 0.9), "fails", "with 6 children the root is worse than"),
        ((0.5, 0.2, 0.9), (0.5, 0.2, 0.9), "open", "is shown neither better nor worse than with 2"),
        (
            (0.3, 0.18, 0.5),
            (0.5, 0.1, 0.9),
            "fails",
            "above the threshold the root's gap closes less",
        ),
    ],
)
def test_more_children_must_help_and_close_the_gap_as_far(few, many, verdict, reason):
    found = judge(load("branching"), children(few, many))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_a_difference_of_gaps_is_that_of_the_ratios_of_means():
    rng = np.random.default_rng(0)
    none = np.zeros(20)

    def side(share):
        room = rng.uniform(0.2, 0.6, 20)
        return [VariantStats(none, share * room, room, none, none, np.arange(20))]

    found = gap_difference(side(0.3), side(0.7))
    assert found.value == pytest.approx(-0.4)
    assert found.low == pytest.approx(-0.4)
    assert gap_difference(side(0.3) + side(0.5), side(0.4)).value == pytest.approx(0.0, abs=0.05)


def test_a_cells_strength_is_that_of_its_mean_square_polarity():
    rows = pd.DataFrame([{"polarity_low": 0.7, "polarity_high": 1.0, "branching": 2}])
    numbers = np.random.default_rng(0).uniform(0.7, 1.0, 1_000_000)
    assert strength(rows) == pytest.approx(2 * (numbers**2).mean(), abs=1e-3)


def grown(gains, *, trees=14, widths=(2, 10)):
    return joined(
        *(
            cell(f"d{depth} u{units}", gains[depth][i], trees=trees, depth=depth, units=units)
            for depth in gains
            for i, units in enumerate(widths)
        )
    )


@pytest.mark.parametrize(
    ("gains", "options", "verdict", "reason"),
    [
        ({2: (0.1, 0.2), 3: (0.0, 0.2)}, {}, "holds", "at depth 2, 3"),
        ({2: (0.2, 0.1), 3: (0.2, 0.2)}, {}, "fails", "harm at depth 2"),
        ({2: (0.2, 0.1), 3: (0.1, 0.3)}, {}, "fails", "harm at depth 2"),
        ({2: (0.2, 0.2), 3: (0.1, 0.3)}, {}, "open", "at depth 3 only"),
        ({2: (0.2, 0.2), 3: (0.2, 0.2)}, {}, "open", "shown to help at no depth"),
        ({2: (0.1, 0.2)}, {"trees": 11}, "open", "11 trees are fewer than 12"),
        ({2: (0.1,)}, {"widths": (2,)}, "open", "depth 2 has no two widths"),
    ],
)
def test_more_units_help_depth_by_depth(gains, options, verdict, reason):
    found = judge(load("depth_and_width"), grown(gains, **options))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


# trees of several seeds


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("losses", joined(cell("a", 0.2, trees=24), cell("b", 0.1, trees=24))),
        ("polarity", sweep((0.1, 0.2), trees=24)),
        ("depth_and_width", grown({2: (0.1, 0.2), 3: (0.1, 0.2)}, trees=24)),
    ],
    ids=["losses", "polarity", "depth_and_width"],
)
def test_trees_of_several_seeds_add_up(name, table):
    experiment = load(name)
    alone = judge(experiment, table)
    both = judge(experiment, seeded(table, (5, 6)))
    assert both.n == alone.n == 24
    assert (both.verdict, both.reason) == (alone.verdict, alone.reason)
    assert both.effect_value == pytest.approx(alone.effect_value, abs=1e-12)
    assert both.interval == pytest.approx(alone.interval, abs=1e-12)
    assert set(by_variant(seeded(table, (5, 6)))) == set(by_variant(table))


def test_trees_of_one_variant_stay_beside_their_own_in_another():
    table = joined(cell("a", 0.2, trees=24), cell("b", 0.1, trees=24))
    found = by_variant(seeded(table, (5, 6)))
    for name, rows in by_variant(table).items():
        assert np.array_equal(variant_stats(found[name]).value, variant_stats(rows).value)
    other = seeded(table, (5, 6)).assign(lr=lambda rows: rows["seed"] / 10)
    other = other[["lr", *(c for c in other.columns if c != "lr")]]
    assert set(by_variant(other)) == {"a (lr 0.5)", "a (lr 0.6)", "b (lr 0.5)", "b (lr 0.6)"}


@pytest.mark.parametrize(
    ("noise", "verdict", "reason"),
    [
        (0.001, "fails", "with no student, and each closes less than 0.1"),
        (0.6, "open", "no student"),
    ],
)
def test_students_that_do_not_specialise_differ_from_those_not_shown_to(noise, verdict, reason):
    made = []
    for at, name in enumerate((teacher_student.NARROW, "student x2", teacher_student.WIDE)):
        own = cell(name, -0.001, noise=noise, seed=at + 7)
        found = own[own["metric"] == PRE].assign(metric=teacher_student.SPECIALISATION, null=0.0)
        made += [own, found.assign(node="teacher's layer", level=found["level"] - 1)]
    found = judge(load("teacher_student"), joined(*made))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


# trees of other families


def test_two_states_are_the_symmetric_binary_trees_and_more_have_one_correlation():
    cardinality = load("cardinality").Settings
    for states in (2, 3, 5):
        settings = cardinality(states=states, members=2, depth=2)
        trees = settings.build_trees()
        for node in range(1, len(trees.topology)):
            table = trees.table(node)
            assert torch.allclose(table.sum(-1), torch.ones(()).double())
            assert torch.allclose(table.sum(-2), torch.ones(()).double())  # keeps uniform priors
            values = torch.linalg.svdvals(table - 1 / states)
            rho = values[:, :-1]
            assert torch.allclose(rho, rho[:, :1].expand_as(rho))
            assert ((rho >= 0.7) & (rho <= 1)).all()
    signs = cardinality(members=64, depth=1).build_trees().polarity[:, 1:].sign().mean()
    assert abs(float(signs)) < 0.3


def test_every_symbol_of_a_grammar_can_be_read_off_its_leaves():
    settings = load("hierarchy").Settings(depth=2, symbols=4, rules=4, members=2)
    trees, ceilings = settings.build_trees(), settings.build_ceilings("own")
    for level, bound in ceilings.items():
        exact = trees.ceiling(trees.level(level), leaves="own")
        assert torch.allclose(bound.value, exact.value, atol=1e-9)


def test_what_a_grammar_cannot_be_is_refused():
    with pytest.raises(ValueError, match="rules must be at most 6, as many as keep 6"):
        load("hierarchy").Settings(symbols=6, rules=7)


def test_a_pyramid_is_as_wide_as_the_trees_levels():
    settings = load("architecture").Settings(
        network="mlp", pyramid=True, units=3, depth=3, members=2
    )
    network = settings.build_network(settings.build_trees(), 0, torch.device("cpu"))
    assert network.units == (12, 6, 3)
    assert network.plain


# small runs

SMALL = {"members": 3, "steps": 6, "snapshots": 2, "evaluation_samples": 512, "batch": 16}
FEW = {  # at least two variants of each, both kinds where there are two
    "architecture": ["tree", "conv, as wide", "wrong tree", "dense, as wide"],
    "polarity": ["polarity 0.5", "polarity 0.9"],
    "branching": ["2 children", "4 children"],
    "depth_and_width": ["depth 2 x2", "depth 2 x8"],
    "cardinality": ["2 states", "4 states"],
    "hierarchy": ["depth 2, m 2", "depth 2, m 4"],
    "losses": ["simple", "ntxent", "spectral", "weights 1/r"],
}


@pytest.fixture(scope="module", params=FEW)
def small(request):
    """A few small cells of an experiment, as one table."""
    experiment = load(request.param)
    changes = {name: [value] for name, value in SMALL.items()}
    tables = []
    for settings in grids.cells(experiment, "smoke", changes):
        if settings.variant in FEW[request.param]:
            table = experiment.run_cell(settings, torch.device("cpu"), ProgressListener()).table
            table.insert(0, "cell", settings.variant)
            tables.append(with_columns(table, settings))
    return SimpleNamespace(experiment=experiment, table=joined(*tables))


def test_a_small_run_has_all_its_numbers_and_is_too_small(small):
    table = small.table
    scored = table[table["metric"].isin([PRE, RATIO])]
    assert scored[["value", "initial", "null", "ceiling", "n"]].notna().all().all()
    error = 5 / np.sqrt(scored["n"]) + 5 * scored["ceiling_error"]
    assert (scored["value"] <= scored["ceiling"] + error).all()
    assert {SPREAD, RANK} < set(table["metric"])
    found = judge(small.experiment, table)
    assert found.verdict == "open"
    assert "3 trees are fewer" in found.reason
    summary = small.experiment.summary_table(table)
    assert summary["variant"].tolist() == FEW[small.experiment.name]
    assert {"spread", "rank"} < set(summary)


def test_its_figure_draws(small):
    figure = small.experiment.plot(small.table)
    figure.canvas.draw()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title[0] for title in titles if title] == ["a", "b", "c", "d"]
