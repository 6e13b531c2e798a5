"""Polarities, numbers of children, depths and widths: their rules on made-up tables."""

import numpy as np
import pandas as pd
import pytest
from made_up_variants import cell, joined, seeded

import hltm
from dualnets.experiments import load
from dualnets.experiments.emergence._kesten_stigum import gap_difference, strength
from dualnets.experiments.emergence._polarity import power_law, signal, summary_table, times_of
from dualnets.lab import stats
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.variants import PRE, VariantStats

STEPS = (0, *(16**k for k in range(6)))  # to a million updates


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Enough for intervals whose ends are far from what decides."""
    monkeypatch.setattr(stats, "RESAMPLES", 400)


def rule(name, claim=""):
    """The rule of one claim of an experiment."""
    (found,) = (c.rule for c in load(name).claims if c.name == claim)
    return found


# time and signal


def rising(exponent, polarities=(0.5, 0.6, 0.7, 0.8, 0.9), *, trees=16, noise=0.1, steps=STEPS,
           stuck=0, bend=0.0):  # fmt: skip
    """Roots whose gap closed grows with the logarithm of the updates, and is half closed at a known time.

    Args:
        exponent: of the time in 1 / signal; the weaker half of the signals has `bend` more.
        noise: of a tree's log time.
        stuck: trees that never get there with the weakest signal.
    """
    made, rng = [], np.random.default_rng(0)
    middle = sorted(polarities)[len(polarities) // 2]
    for rho in polarities:
        table = cell(f"polarity {rho}", 0.0, trees=trees, levels=(2, 3), steps=steps, noise=0.0,
                     polarity_low=rho, polarity_high=rho, branching=2, depth=3)  # fmt: skip
        log_time = np.log(40) - exponent * 6 * np.log(rho / 0.9) + rng.normal(0, noise, trees)
        log_time += bend * 6 * max(np.log(middle / rho), 0)
        late = np.where((rho == min(polarities)) & (np.arange(trees) < stuck), 100.0, 0.0)
        at = table["member"].to_numpy()
        share = 0.5 + 0.03 * (np.log(np.maximum(table["step"], 0.1)) - (log_time + late)[at])
        root = (table["level"] == 3) & (table["metric"] == PRE)
        value = table["initial"] + share.clip(0, 1) * (table["ceiling"] - table["initial"])
        made.append(table.assign(value=value.where(root & (table["step"] > 0), table["value"])))
    return joined(*made)


def test_the_signal_is_what_two_views_share_of_a_leaf():
    rows = pd.DataFrame([{"polarity_low": 0.6, "polarity_high": 0.6, "branching": 2, "depth": 3}])
    tree = hltm.symmetric_binary(depth=3, polarity=0.6, seed=0)
    leaf = tree.topology.names[-1]
    assert signal(rows) == pytest.approx(float(tree.view_correlation(leaf, hltm.keep_root())))


def test_times_are_those_of_the_curves_and_a_power_is_found_again():
    table = rising(1.5, noise=0.0)
    found = times_of(table)
    assert found[0].variant == "polarity 0.9"
    for each in found:
        assert each.times == pytest.approx(40 * (each.signal / 0.9**6) ** -1.5, rel=0.02)
    fit = power_law(np.array([e.signal for e in found]), np.stack([e.times for e in found]))
    assert fit.exponent.value == pytest.approx(1.5, abs=0.01)
    assert fit.bend.value == pytest.approx(0.0, abs=0.02)


def test_trees_that_never_get_there_count_as_later_than_all_others():
    signals = np.array([0.5, 0.25, 0.125, 0.0625])
    times = 3 * signals[:, None] ** -2 * np.exp(np.linspace(-1, 1, 15))
    late = times.copy()
    late[-1, -3:] = np.inf  # the latest three, whose times no median depends on
    all_known, censored = power_law(signals, times), power_law(signals, late)
    assert censored.exponent == all_known.exponent
    late[-1, -8:] = np.inf
    assert np.isinf(power_law(signals, late).exponent.high)


@pytest.mark.parametrize(
    ("exponent", "options", "outcome", "reason"),
    [
        (1.5, {}, "holds", "from polarity 0.9 to polarity 0.5 one power"),
        (1.5, {"stuck": 3}, "holds", "from polarity 0.9 to polarity 0.5 one power"),
        (1.5, {"stuck": 4}, "open", "too few trees close half of the gap at polarity 0.5"),
        (1.5, {"bend": 2.0}, "fails", "the halves' exponents differ by"),
        (-0.1, {}, "fails", "does not grow as the signal falls"),
        (1.5, {"noise": 3.0}, "open", "not shown to be one power"),
        (0.0, {}, "open", "not shown to grow"),
        (1.5, {"trees": 11}, "open", "11 trees are fewer than 12"),
        (1.5, {"polarities": (0.5, 0.7, 0.9)}, "open", "3 signals with a known time are fewer than 4"),
    ],
)  # fmt: skip
def test_the_time_grows_as_one_power_or_not(exponent, options, outcome, reason):
    found = rule("polarity", "time")(rising(exponent, **options))
    assert (found.outcome, reason in found.reason) == (outcome, True), found.reason
    if outcome == "holds":
        assert found.estimate.low < exponent < found.estimate.high


def test_the_short_table_shows_the_times():
    found = summary_table(rising(1.5, noise=0.0, steps=STEPS[:5], stuck=16))
    times = dict(zip(found["variant"], found["updates to half"], strict=True))
    assert times["polarity 0.5"] == "> 4,096"
    assert times["polarity 0.9"] == "40"


# what lies on either side of the threshold


def sweep(gains, *, trees=14, **options):
    """Polarities 0.5 and 0.9 with two children: branching * polarity² is 0.5 and 1.62."""
    return joined(
        *(
            cell(f"polarity {rho}", gain, trees=trees, polarity_low=rho, polarity_high=rho,
                 branching=2, depth=3, **options)
            for rho, gain in zip((0.5, 0.9), gains, strict=True)
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gains", "options", "outcome", "reason"),
    [
        ((0.2, 0.2), {}, "holds", "closes as far"),
        ((0.3, 0.2), {}, "holds", "closes as far"),
        ((0.0, 0.3), {}, "fails", "closes less: the learner"),
        ((0.16, 0.2), {"noise": 0.06}, "open", f"the interval holds -{NEGLIGIBLE}"),
        ((0.2, 0.0), {}, "open", "the root does not emerge with polarity 0.9"),
        ((0.2, 0.2), {"trees": 11}, "open", "11 trees are fewer than 12"),
        ((0.2, 0.2), {"ceiling": 0.4}, "open", "has reached the ceiling already"),
    ],
)
def test_below_the_threshold_the_gap_closes_as_far_or_the_learner_is_to_blame(
    gains, options, outcome, reason
):
    found = rule("polarity", "end")(sweep(gains, **options))
    assert (found.outcome, reason in found.reason) == (outcome, True), found.reason
    assert [d["kesten_stigum"] for d in found.details] == pytest.approx([0.5, 1.62])


def test_one_side_alone_decides_nothing():
    one = sweep((0.2, 0.2))
    found = rule("polarity", "end")(one[one["polarity_low"] == 0.9])
    assert (found.outcome, found.reason) == (
        "open",
        "all settings lie on one side of the threshold",
    )


def test_trees_that_differ_are_not_compared():
    table = sweep((0.2, 0.2), trees=15)
    table = table[(table["member"] != 0) | (table["polarity_low"] != 0.5)]
    table = table[(table["member"] != 1) | (table["polarity_low"] != 0.9)]
    found = rule("polarity", "end")(table)
    assert (found.outcome, "different trees" in found.reason) == ("open", True)


def children(few, many):
    return joined(
        *(
            cell(f"{count} children", gain, start=start, ceiling=ceiling, polarity_low=0.6,
                 polarity_high=0.6, branching=count)
            for count, (start, gain, ceiling) in ((2, few), (6, many))
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("few", "many", "outcomes", "reason"),
    [  # start, gain, ceiling
        ((0.3, 0.1, 0.5), (0.5, 0.2, 0.9), {"ceiling": "holds", "more": "holds"}, "is better with 6"),
        ((0.3, 0.18, 0.5), (0.5, 0.1, 0.9), {"ceiling": "fails", "more": "holds"}, "is better with 6"),
        ((0.5, 0.25, 0.9), (0.5, 0.24, 0.85), {"ceiling": "holds", "more": "fails"}, "is worse with 6"),
        ((0.5, 0.2, 0.9), (0.5, 0.2, 0.9), {"ceiling": "holds", "more": "open"}, "neither better nor"),
    ],
)  # fmt: skip
def test_more_children_help_and_the_gap_closes_as_far(few, many, outcomes, reason):
    table = children(few, many)
    found = {name: rule("branching", name)(table) for name in outcomes}
    assert {name: judged.outcome for name, judged in found.items()} == outcomes
    assert reason in found["more"].reason


def test_one_number_of_children_decides_nothing():
    table = children((0.3, 0.1, 0.5), (0.5, 0.2, 0.9))
    found = rule("branching", "more")(table[table["branching"] == 2])
    assert (found.outcome, "no two numbers" in found.reason) == ("open", True)


def test_a_side_is_the_mean_of_its_variants_whatever_their_room():
    rng = np.random.default_rng(0)
    none = np.zeros(20)

    def variant(share, scale=1.0):
        room = scale * rng.uniform(0.2, 0.6, 20)
        return VariantStats(none, share * room, room, none, none, np.arange(20))

    found = gap_difference([variant(0.3)], [variant(0.7)])
    assert found == pytest.approx((-0.4, -0.4, -0.4, 20))
    found = gap_difference([variant(0.2, 0.01), variant(0.6)], [variant(0.4)])
    assert found.value == pytest.approx(0.0, abs=1e-12)
    lost = variant(0.3)._replace(initial=np.where(np.arange(20) == 3, np.nan, none))
    assert gap_difference([lost], [variant(0.7)]) == pytest.approx((-0.4, -0.4, -0.4, 19))


def test_a_cells_strength_is_that_of_its_mean_square_polarity():
    rows = pd.DataFrame([{"polarity_low": 0.7, "polarity_high": 1.0, "branching": 2}])
    numbers = np.random.default_rng(0).uniform(0.7, 1.0, 1_000_000)
    assert strength(rows) == pytest.approx(2 * (numbers**2).mean(), abs=1e-3)


# depth by depth


def grown(gains, *, trees=14, widths=(2, 10)):
    return joined(
        *(
            cell(f"d{depth} u{units}", gains[depth][i], trees=trees, depth=depth, units=units)
            for depth in gains
            for i, units in enumerate(widths)
        )
    )


@pytest.mark.parametrize(
    ("gains", "options", "outcome", "reason"),
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
def test_more_units_help_depth_by_depth(gains, options, outcome, reason):
    found = rule("depth_and_width")(grown(gains, **options))
    assert (found.outcome, reason in found.reason) == (outcome, True), found.reason


@pytest.mark.parametrize(
    ("name", "claim", "table"),
    [
        ("polarity", "time", rising(1.5, trees=24)),
        ("polarity", "end", sweep((0.1, 0.2), trees=24)),
        ("depth_and_width", "", grown({2: (0.1, 0.2), 3: (0.1, 0.2)}, trees=24)),
        ("architecture", "", joined(*(cell(name, 0.2, trees=24) for name in ("tree", "wrong tree")))),
    ],
    ids=["time", "polarity", "depth_and_width", "architecture"],
)  # fmt: skip
def test_trees_of_several_seeds_add_up(name, claim, table):
    alone, both = (rule(name, claim)(t) for t in (table, seeded(table, (5, 6))))
    assert both.estimate.n == alone.estimate.n == 24
    assert (both.outcome, both.reason) == (alone.outcome, alone.reason)
    assert both.estimate == pytest.approx(alone.estimate, abs=1e-12)
