"""Predicted leaves beside exact losses: exact predictions, rules on made-up tables, tiny runs."""

import json

import numpy as np
import pytest
import torch
from judging import judge
from made_up_losses import STEPS, course, denoised
from made_up_variants import seeded
from tiny_runs import few_cells

import dualnets
import hltm
from dualnets.experiments import load
from dualnets.experiments.prediction import _denoise
from dualnets.experiments.prediction._exact_predictions import (
    next_leaf_predictions,
    noisy_predictions,
)
from dualnets.experiments.prediction._loss_rules import Stages, stages
from dualnets.methods.protocol import TrainContext
from hltm.inference.noise import Flips, Masking

MASKED, NEXT, DENOISE = load("masked"), load("next_leaf"), load("denoise")
ATTAINS, ORDER, STEPWISE, LAYERS = range(4)  # claims of `masked`
EVERY_LEAF = 1  # of `next_leaf`
FOLLOWS, TRANSITION = 1, 2  # of `denoise`
SKIPPED = ("flip-leaves:0.1", "flip-leaves:0.4", "flip-leaves:0.6")  # in the small run


def judged(experiment, table, claim):
    """The verdict, which JSON can hold."""
    found = judge(experiment, table, claim)
    json.dumps(found.as_dict(), allow_nan=False)
    return found


# exact predictions


@pytest.mark.parametrize("kind", ["masked", "flipped", "next"])
def test_exact_predictions_have_the_exact_losses(kind):
    trees = hltm.symmetric_binary(depth=2, polarity=0.9, members=2, seed=0)
    given = {"samples": 4096, "seed": 3}
    if kind == "next":
        exact, losses = next_leaf_predictions(trees, **given), {}
    elif kind == "masked":
        exact = noisy_predictions(trees, Masking(), 0.3, **given)
        losses = {"mask": hltm.drop_leaves(0.3)}
    else:
        exact = noisy_predictions(trees, Flips(), 0.3, **given)
        losses = {"noise": Flips(), "level": 0.3}
    for level in range(3):
        known = trees.bayes_loss(predictor=trees.filtered(level), **losses).value
        found = exact.bayes + exact.between(level)
        found = found if known.ndim == 2 else found.mean(-1)
        torch.testing.assert_close(found, known, atol=0.03, rtol=0)


def test_the_distance_from_the_exact_predictor_is_the_loss_in_excess():
    trees = hltm.symmetric_binary(depth=2, polarity=0.9, members=2, seed=0)
    network = dualnets.transformer(trees, width=8, layers=1, seed=1)
    method, augment = dualnets.Denoising(), hltm.flip_leaves(0.3)
    state = method.init(network, TrainContext(trees, 2, 1, 32, augment=augment))
    exact = noisy_predictions(trees, Flips(), 0.3, samples=8192, seed=3)
    distances = exact.distances(network, method, state)  # (L + 1, S, X)
    found = (exact.bayes + distances[-1]).mean(-1)
    drawn = dualnets.evaluate_loss(
        network, method, state, trees, augment=augment, samples=8192, seed=9
    )
    assert (abs(found - drawn.value) < 5 * drawn.standard_error + 0.01).all()
    assert (distances >= -1e-6).all()


# rules


@pytest.mark.parametrize(
    ("options", "verdict", "reason"),
    [
        ({"final": 0.03}, "holds", "1 of 1 variants attain more than 0.9"),
        ({"final": 0.2}, "fails", "below it: masked"),
        ({"final": 0.08}, "open", "0 of 1 variants"),
        ({"final": 0.03, "trees": 11}, "open", "11 trees are fewer than 12"),
    ],
)
def test_whether_the_bayes_loss_is_attained(options, verdict, reason):
    found = judged(MASKED, course(**options), ATTAINS)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    assert found.effect_value == pytest.approx(1 - options["final"] / 0.8, abs=0.01)


def test_a_tree_that_diverged_leaves_the_loss_open():
    table = course(final=0.03)
    table.loc[(table["member"] == 3) & (table["step"] > 100), "value"] = np.nan
    assert judged(MASKED, table, ATTAINS).reason == "1 trees diverged"


def test_one_leaf_may_fall_short():
    table = course(final=0.03, variant="next leaf", poor=2)
    found = judged(NEXT, table, EVERY_LEAF)
    assert (found.verdict, found.reason.endswith("below it: next leaf, leaf leaf 2")) == (
        "fails",
        True,
    )
    assert judged(NEXT, table[table["node"] != "leaf 2"], EVERY_LEAF).verdict == "holds"
    assert judged(NEXT, table.assign(null=0.52), EVERY_LEAF).verdict == "open"  # nothing to learn


@pytest.mark.parametrize(
    ("options", "verdict", "reason"),
    [
        ({}, "holds", "later for 2 of 2 pairs"),
        ({"nearest": (0, 2, 1, 3)}, "fails", "earlier: masked, levels 1 and 2"),
        ({"times": (8.0, 90.0, 1e9)}, "fails", "never nearest with most trees: masked, level 3"),
        ({"times": (8.0, 90.0, 8200.0)}, "holds", "2 of 2 pairs"),  # never with 6 of 12 trees
        ({"trees": 11}, "open", "11 trees"),
    ],
)
def test_the_order_of_levels(options, verdict, reason):
    found = judged(MASKED, course(**options), ORDER)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_seeds_count_together():
    found = judged(MASKED, seeded(course(trees=12), (0, 1)), ORDER)
    assert (found.verdict, found.n) == ("holds", 12)


def test_a_level_is_nearest_half_way_between_the_losses_beside_it():
    found = stages(course(times=(8.0, 90.0, 1000.0), noise=0.0))
    assert [round(float(t[0]), -1) for t in found.times.values()] == [10, 90, 1000]
    assert found.filtered[:, 0].tolist() == [0.8, 0.4, 0.2, 0.0]


def test_slowness_is_of_narrow_bands_of_equal_width():
    """A loss that falls a third as fast within 0.15 of the smaller gap around a filtered loss, 0.4."""
    excess, at = np.array([0.8, 0.43, 0.37, 0.0]), np.array([0.0, 3.7, 5.5, 9.2])
    filtered = np.array([[0.8], [0.4], [0.2], [0.0]])
    found = Stages([*np.exp(at)], np.broadcast_to(excess, (4, 1, 4)), filtered, {})
    assert found.slowness(1)[0] == pytest.approx(np.log(3), abs=1e-9)
    assert found.slowness(2)[0] == pytest.approx(0, abs=1e-9)
    slow = found._replace(distances=found.distances + 0.3)  # gets not through the bands
    assert np.isnan(slow.slowness(1)).all()


@pytest.mark.parametrize(
    ("options", "verdict", "reason"),
    [
        ({}, "holds", "slower at 2 of 2"),
        ({"rest": 1.0}, "fails", "no step at masked, level 1, masked, level 2"),
        (
            {"times": (8.0, 90.0, 1e5)},
            "open",
            "too few trees get through the bands of masked, level 2",
        ),
        ({"trees": 11}, "open", "too few trees"),
    ],
)
def test_whether_the_loss_rests_at_filtered_losses(options, verdict, reason):
    found = judged(MASKED, course(**options), STEPWISE)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


@pytest.mark.parametrize(
    ("layers", "trees", "verdict"),
    [
        ({1: 1, 2: 2, 3: 3}, 12, "holds"),
        ({1: 1, 2: 1, 3: 1}, 12, "fails"),
        ({1: 3, 2: 2, 3: 1}, 12, "fails"),
        ({1: 1, 2: 2, 3: 3}, 11, "open"),
        (None, 12, "open"),
    ],
)
def test_levels_by_layer(layers, trees, verdict):
    found = judged(MASKED, course(layers=layers, trees=trees), LAYERS)
    assert found.verdict == verdict, found.reason
    last = course(layers=layers, trees=trees)
    assert set(last[last["metric"] == "linear_probe"]["step"]) <= {0, STEPS[-1]}


@pytest.mark.parametrize(
    ("claim", "options", "verdict"),
    [
        (FOLLOWS, {}, "holds"),
        (FOLLOWS, {"apart": -0.2}, "fails"),
        (FOLLOWS, {"apart": 0.048}, "open"),  # with a mean within 0.05, and an interval beyond it
        (FOLLOWS, {"trees": 11}, "open"),
        (TRANSITION, {}, "holds"),
        (TRANSITION, {"shift": 0.15}, "fails"),
        (TRANSITION, {"shift": 0.02}, "open"),  # a mean of 0.049, and an interval beyond 0.05
        (TRANSITION, {"trees": 11}, "open"),
        (ATTAINS, {}, "holds"),
        (ATTAINS, {"share": 0.8}, "fails"),
    ],
)
def test_denoisers(claim, options, verdict):
    found = judged(DENOISE, denoised(**options), claim)
    assert found.verdict == verdict, found.reason


def test_a_susceptibility_without_growth_has_no_transition():
    noise, size = np.array([0.2, 0.4]), np.array([[0.9, 1.0], [2.0, 3.0]])
    found = _denoise.transitions(noise, size)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(0.2)


# cells


def test_changes_are_those_of_leaves_that_are_drawn():
    trees = hltm.symmetric_binary(depth=2, polarity=0.9, members=2, seed=0)
    exact = noisy_predictions(trees, Flips(), 0.4, samples=20_000, seed=3)
    correlation, size = _denoise.changes(exact.levels[-1], exact, trees)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(exact.shown.shape, generator=generator) < exact.levels[-1, ..., 1]
    changed = (drawn.long() != exact.draw.leaves.long()).double()
    for member in range(2):
        covariance = torch.cov(changed[member].T)
        variance = covariance.diagonal().mean()
        pairs = (covariance[0, 1] + covariance[2, 3]) / 2, covariance[:2, 2:].mean()
        torch.testing.assert_close(
            correlation[member], torch.stack(pairs) / variance, atol=0.02, rtol=0
        )
        assert float(size[member]) == pytest.approx(
            float(covariance.sum() / variance / 4), abs=0.05
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "next_leaf", "denoise"])
def test_a_small_run(name):
    experiment = load(name)
    table, _ = few_cells(experiment, lambda own: own.augment not in SKIPPED, depth=2, width=8)
    assert set(table["metric"]) >= {"loss", "distance"}
    assert np.isfinite(table["value"]).all()
    loss = table[table["metric"] == "loss"]
    assert (loss["value"] >= loss["ceiling"] - 1e-6).all()
    shown = experiment.summary_table(table)
    assert len(shown) == table["variant"].nunique()
    assert experiment.headline(table).startswith("loss ")
    assert [found.verdict for found in experiment.verdicts(table)] == ["open"] * len(
        experiment.claims
    )
