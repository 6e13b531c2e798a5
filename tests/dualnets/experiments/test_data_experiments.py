"""Ablations of data, architecture and loss: their rules on made-up tables, small runs, figures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from judging import judge
from made_up_variants import cell, joined, seeded
from tiny_runs import few_cells

from dualnets.experiments import load
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.variants import PRE, RANK, RATIO, SPREAD, by_variant, variant_stats

# one rule that asks all variants: losses, architectures, numbers of states, grammars


@pytest.mark.parametrize("name", ["losses", "cardinality", "hierarchy"])
@pytest.mark.parametrize(
    ("gains", "trees", "verdict", "reason"),
    [
        ((0.2, 0.1), 14, "holds", "latents emerge with all 2"),
        ((0.0, -0.1), 14, "fails", "latents emerge with none of 2"),
        ((0.2, -0.1), 14, "open", "latents are not shown to emerge with b"),
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
    found = architecture.summary_table(joined(cell("tree", 0.3), *emerging))["minus tree"]
    assert found[0] == "–"
    assert float(found[1].split()[0]) == pytest.approx(-0.1 / 0.9, abs=0.02)


# trees of several seeds


def test_trees_of_several_seeds_add_up():
    experiment = load("losses")
    table = joined(cell("a", 0.2, trees=24), cell("b", 0.1, trees=24))
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

FEW = {  # at least two variants of each, both kinds where there are two
    "architecture": ["tree", "conv, as wide", "wrong tree", "dense, as wide"],
    "polarity": ["polarity 0.6", "polarity 0.8"],
    "branching": ["2 children", "4 children"],
    "depth_and_width": ["depth 2 x2", "depth 2 x8"],
    "cardinality": ["2 states", "4 states"],
    "hierarchy": ["depth 2, m 2", "depth 2, m 4"],
    "losses": ["simple", "ntxent", "spectral", "weights 1/r"],
}


# made as `polarity` is
SWEEPS = ("branching", "cardinality", "depth_and_width", "hierarchy")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SWEEPS)) for name in FEW],
)
def small(request):
    """A few small cells of an experiment, as one table."""
    experiment, names = load(request.param), FEW[request.param]
    table, _ = few_cells(experiment, lambda own: own.variant in names)
    return SimpleNamespace(experiment=experiment, table=table)


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
