"""The experiment on samples: rules on made-up tables, invariance against brute force, a small run."""

import itertools
import json

import numpy as np
import pytest
import torch
from judging import judge
from made_up_variants import joined, seeded, stacked
from tiny_runs import few_cells

import dualnets
import hltm
from dualnets.experiments import load
from dualnets.experiments.emergence import _samples as samples
from dualnets.experiments.emergence._invariance import Probe
from dualnets.experiments.emergence._samples_needed import INVARIANCE
from dualnets.experiments.emergence.samples import CLASS, LEAF
from dualnets.lab.variants import RANK, SPREAD
from dualnets.lab.verdicts import verdict_on

EXPERIMENT = load("samples")
EXPONENT, AT_ONCE, LOWEST, HIDDEN, VIEWS = range(5)
SIZES = [4, 64, 1024, 16384]


def trained(
    kind, needed, *, rules=2, trees=14, spread=0.05, fresh=0.9, sizes=(*SIZES, 0), steps=(0, 10)
):
    """The cells of one kind of training whose levels need so many samples.

    Args:
        needed: level -> samples with which half of the growth is reached.
        spread: of the logarithm of that number over trees.
        fresh: invariance with fresh samples, from 0.1.
    """
    rng = np.random.default_rng([rules, len(kind)])
    variant, made = f"{kind}, m {rules}", []
    left = {"depth": 3, "branching": 2, "symbols": 8, "rules": rules}
    right = {"variant": variant, "member": np.arange(trees)}
    at = {level: np.log(number) + rng.normal(0, spread, trees) for level, number in needed.items()}
    for size in sizes:
        place = {"cell": f"{variant}, {size}"} | left | {"samples": size} | right
        for (level, log_needed), step in itertools.product(at.items(), steps):
            share = np.clip(0.5 + (np.log(size or np.inf) - log_needed) / np.log(256), 0, 1)
            made.append(place | {
                "step": step, "level": level, "node": f"n{level}", "metric": INVARIANCE,
                "value": 0.1 + (fresh - 0.1) * share * (step > 0), "initial": 0.1, "ceiling": 1.0,
            })  # fmt: skip
        for metric in (SPREAD, RANK):
            made.append(place | {
                "step": steps[-1], "level": 3, "node": "embedding", "metric": metric, "value": 0.8,
                "initial": 0.8, "ceiling": np.nan,
            })  # fmt: skip
    return stacked(made)


def of_class(power, *, per_level=0.0, counts=(2, 3, 4), **options):
    """Trainings with the class that need m^power samples, and m^per_level times as many per level."""
    return joined(*(
        trained(CLASS, {level: 8 * m ** (power + per_level * (level - 1.5)) for level in (1, 2)}, rules=m,
                **options)
        for m in counts
    ))  # fmt: skip


def judged(claim, table):
    """The verdict, which JSON can hold."""
    found = judge(EXPERIMENT, table, claim)
    json.dumps(found.as_dict(), allow_nan=False)
    return found


@pytest.mark.parametrize(
    ("power", "options", "verdict", "reason"),
    [
        (3, {}, "holds", "published: 3.00"),
        (2.6, {}, "holds", "published: 3.00"),
        (1.5, {}, "fails", "between 1."),
        (4.5, {}, "fails", "between 4."),
        (2.0, {"spread": 0.4}, "open", "between"),
        (3, {"trees": 11}, "open", "11 trees are fewer than 12"),
        (3, {"sizes": SIZES}, "open", "were not both run"),
        (3, {"sizes": (0,)}, "open", "were not both run"),
        (3, {"fresh": 0.15}, "open", "close too little of the gap (class, m 2, level 1;"),
        (3, {"counts": (2,)}, "open", "were not both run"),
    ],
)
def test_the_exponent_of_the_number_of_rules(power, options, verdict, reason):
    found = judged(EXPONENT, of_class(power, **options))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_the_published_numbers_stand_beside_those_found():
    found = judged(EXPONENT, of_class(3, spread=0.0))
    assert [detail["published"] for detail in found.details] == [64, 216, 512]
    assert [detail["samples_needed"] for detail in found.details] == pytest.approx(
        [64, 216, 512], rel=1e-6
    )


@pytest.mark.parametrize(
    ("power", "last", "verdict"), [(3.5, 1e7, "holds"), (2.0, 1e7, "fails"), (5.0, 1e7, "fails")]
)
def test_the_lowest_level_beside_a_hidden_leaf_needs_the_published_power(power, last, verdict):
    table = joined(*(trained(LEAF, {1: 8 * m**power, 2: last}, rules=m) for m in (2, 3, 4)))
    found = judged(LOWEST, table)
    assert found.verdict == verdict, found.reason
    numbers = [8 * m**3 / (1 - m / 8) for m in (2, 3, 4)]
    assert [detail["published"] for detail in found.details] == pytest.approx(numbers)
    slope = np.polyfit(np.log([2, 3, 4]), np.log(numbers), 1)[0]
    assert f"published: {slope:.2f}" in found.reason


def test_censored_trees_count_as_needing_more():
    table = joined(of_class(3, counts=(2, 3)), trained(CLASS, {1: 1e7, 2: 1e7}, rules=4))
    found = judged(EXPONENT, table)
    assert (found.verdict, found.effect_value) == ("fails", None)
    assert found.details[-1]["samples_needed"] is None


@pytest.mark.parametrize(
    ("per_level", "verdict"), [(0.0, "holds"), (0.5, "holds"), (-1.5, "fails"), (2.0, "fails")]
)
def test_levels_are_learned_at_once_or_not(per_level, verdict):
    found = judged(AT_ONCE, of_class(3, per_level=per_level))
    assert found.verdict == verdict, found.reason
    assert found.effect_value == pytest.approx(per_level, abs=0.1)


@pytest.mark.parametrize(
    ("factor", "options", "verdict"),
    [
        (2**1.5, {}, "holds"),
        (2**2, {}, "holds"),
        (2**0.5, {}, "fails"),
        (2**4, {}, "fails"),
        (1e6, {}, "fails"),
        (2**1.5, {"trees": 11}, "open"),
        (2**1.0, {"spread": 0.3}, "open"),
    ],
)
def test_a_hidden_leaf_needs_more_per_level(factor, options, verdict):
    table = joined(
        trained(LEAF, {1: 64.0, 2: 64.0 * factor}, **options),
        trained(LEAF, {1: 64.0, 2: 1e7}, rules=3, **options),  # not judged
    )
    found = judged(HIDDEN, table)
    assert found.verdict == verdict, found.reason


@pytest.mark.parametrize(
    ("ratios", "options", "verdict", "reason"),
    [
        ((4.0, 3.0), {}, "holds", "more with simclr, byol"),
        ((4.0, 1e6), {}, "holds", "more with simclr, byol"),  # censored
        ((4.0, 0.3), {}, "open", "more with simclr, fewer with byol"),
        ((1.0, 0.3), {"spread": 0.2}, "fails", "fewer with byol"),
        ((1.0, 4.0), {"spread": 0.2}, "open", "more with byol"),
        ((4.0, 4.0), {"trees": 11}, "open", "11 trees are fewer"),
    ],
)
def test_views_need_more_for_higher_levels_or_do_not(ratios, options, verdict, reason):
    table = joined(*(
        trained(name, {1: 100.0, 2: 100.0 * ratio}, **options)
        for name, ratio in zip(("simclr", "byol"), ratios, strict=True)
    ))  # fmt: skip
    found = judged(VIEWS, table)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_trees_of_several_seeds_add_up():
    table = of_class(3, trees=24)
    alone, both = judged(EXPONENT, table), judged(EXPONENT, seeded(table, (5, 6)))
    assert (both.n, both.verdict, both.reason) == (24, alone.verdict, alone.reason)
    assert both.interval == pytest.approx(alone.interval, rel=1e-12)


def test_curves_that_still_change_decide_nothing():
    table, claim = of_class(3, steps=(0, 5, 10)), EXPERIMENT.claims[EXPONENT]
    assert verdict_on(claim, table).verdict == "holds"
    half = (table["step"] == 5) & (table["rules"] == 4) & table["samples"].between(64, 1024)
    table.loc[half, "value"] = 0.2
    found = verdict_on(claim, table)
    assert found.verdict == "open"
    assert "still changing (exponent of m" in found.reason


def test_what_lies_beyond_the_sets_bounds_a_number_and_no_more():
    far = trained(LEAF, {1: 12_000.0, 2: 1e7})  # the largest set has 16,384
    found = judged(HIDDEN, far)
    assert (found.verdict, found.effect_value, found.interval) == ("open", None, None)
    near = joined(*(trained(CLASS, {1: 0.1, 2: 0.1}, rules=m) for m in (2, 3, 4)))
    assert judged(EXPONENT, near).verdict == "open"  # 4 samples do with every m


def test_slopes_between_bounds_are_those_of_the_extreme_points():
    x, rng = np.log([2.0, 3.0, 5.0]), np.random.default_rng(0)
    least = rng.normal(size=(6, 3))
    most = least + rng.uniform(size=(6, 3))
    corners = [np.where(np.array(pick), most, least) for pick in np.ndindex(2, 2, 2)]
    every = np.stack([np.polyfit(x, y.T, 1)[0] for y in corners])
    low, high = samples.slopes(x, least, most)
    assert low == pytest.approx(every.min(0))
    assert high == pytest.approx(every.max(0))


def test_leaves_covary_as_published():
    v, m = 16, 8
    trees = hltm.random_hierarchy(v=v, m=m, s=2, L=2, classes=v, members=40, seed=5)
    left, right = (trees.table(above) @ trees.table(below) for above, below in ((1, 3), (2, 6)))
    pairs = {1: (trees.table(5), trees.table(6)), 2: (left, right)}  # given their common ancestor
    for level, (a, b) in pairs.items():
        joint = a.mT @ b / a.shape[1]
        covariance = joint - joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
        published = (1 - m / v) / (v**3 * m ** (2 * level - 1))
        assert float(covariance.square().mean()) == pytest.approx(published, rel=0.25)


# invariance


@pytest.mark.parametrize("hidden", [False, True])
def test_invariance_is_its_definition_block_by_block(hidden):
    trees = hltm.random_hierarchy(v=4, m=2, s=2, L=3, classes=4, members=2, seed=0)
    network = dualnets.tree_network(trees, units=5, seed=1)
    probe = Probe.draw(trees, 100, seed=3, hidden=hidden)
    found = probe.measure(network)
    for level in (1, 2):
        width, nodes = 2**level, 8 // 2**level
        rewritten = probe.rewritten[level]
        shown = [nodes - 2] if hidden else range(nodes)
        assert found[level].shape == (2, len(shown))
        for place, v in enumerate(shown):
            own = slice(v * width, (v + 1) * width)
            again, other = probe.leaves.clone(), probe.leaves.clone()
            again[..., own] = rewritten[..., own]
            other[..., own] = probe.leaves.roll(1, 1)[..., own]
            here, r, s = (
                network.rectify(network.activations(x))[level + 1][:, :, v // 2].double()
                for x in (probe.leaves, again, other)
            )
            expected = 1 - (r - here).square().sum((1, 2)) / (s - here).square().sum((1, 2))
            assert torch.allclose(found[level][:, place], expected)


def test_what_is_rewritten_keeps_its_symbol():
    trees = hltm.random_hierarchy(v=4, m=2, s=2, L=3, classes=4, members=2, seed=0)
    probe = Probe.draw(trees, 60, seed=3, hidden=False)
    for level in (1, 2):
        same = trees.posterior(probe.leaves.long(), nodes=trees.level(level)).marginals
        new = trees.posterior(probe.rewritten[level].long(), nodes=trees.level(level)).marginals
        by_symbol = [x.unflatten(-1, (4, 2)).sum(-1) for x in (same, new)]
        assert torch.allclose(*by_symbol)
        assert not torch.allclose(same, new)


def test_a_layer_that_depends_on_symbols_alone_is_invariant():
    trees = hltm.random_hierarchy(v=4, m=2, s=2, L=3, classes=4, members=1, seed=0)

    rules = hltm.families.random_hierarchy.production_rules(
        v=4, m=2, s=2, L=3, classes=4, members=1, seed=0
    )
    symbol_of = torch.zeros(16, dtype=torch.long)
    for a, tuples in enumerate(rules[1][0].tolist()):
        for left, right in tuples:
            symbol_of[4 * left + right] = a

    class Knows:
        """Units of level 2 that are the symbols of level 1, of level 3 the leaves."""

        def activations(self, leaves):
            left, right = leaves.long().unflatten(-1, (4, 2)).unbind(-1)
            symbols = torch.nn.functional.one_hot(symbol_of[4 * left + right], 4).double()
            return {2: symbols.flatten(2).unflatten(2, (2, 8)), 3: leaves.double()[:, :, None]}

        def rectify(self, activations):
            return activations

    found = Probe.draw(trees, 400, seed=0, hidden=False).measure(Knows())
    assert torch.allclose(found[1], torch.ones(()).double())
    assert (found[2] < 0.9).all()


# settings and small runs


def test_a_set_smaller_than_a_batch_is_read_as_a_whole():
    assert EXPERIMENT.Settings(samples=4, batch=32, symbols=8).batch == 4
    assert EXPERIMENT.Settings(samples=0, batch=32, symbols=8).batch == 32


def test_the_last_leaf_is_predicted_and_never_shown():
    settings = EXPERIMENT.Settings(method="supervised", predict="leaf", augment="resample-leaves:0")
    trees = settings.build_trees()
    last = len(trees.topology) - 1
    assert settings.build_method().targets == (last,)
    (view,) = trees.views(trees.sample(50, seed=0), settings.build_augmentation(), count=1)
    assert view.missing.sum(-1).eq(1).all()
    assert view.missing[..., -1].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict": "leaf"}, "predict leaf needs method supervised, got simclr"),
        ({"depth": 2}, "depth must be at least 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EXPERIMENT.Settings(**changes)


@pytest.mark.slow
def test_a_small_run_has_all_its_numbers_and_is_too_small():
    table, _ = few_cells(EXPERIMENT, lambda own: own.rules == 2, members=2, units=4, symbols=4,
                         samples=[4, 0], steps=4)  # fmt: skip
    measured = table[table["metric"] == INVARIANCE]
    assert measured[["value", "initial", "ceiling"]].notna().all().all()
    assert (measured["value"] <= 1).all()
    assert {SPREAD, RANK} < set(table["metric"])
    assert len(EXPERIMENT.summary_table(table)) == 4
    verdicts = EXPERIMENT.verdicts(table)
    assert {verdict.verdict for verdict in verdicts} == {"open"}
    figure = EXPERIMENT.plot(table)
    figure.canvas.draw()
    assert [axes.get_title(loc="left")[0] for axes in figure.axes] == ["a", "b", "c", "d", "e"]
