"""What holds for every claim: flat curves, members that were lost, settings of one's own."""

import dataclasses
import json

import numpy as np
import pytest
from made_up_variants import cell, joined, seeded

from dualnets.experiments import load
from dualnets.lab.grids import own_settings, run_name
from dualnets.lab.plateau import changes, root, upper_levels
from dualnets.lab.rules import NEGLIGIBLE, Claim, Deferred, Rule, all_emerge
from dualnets.lab.stats import pooled
from dualnets.lab.variants import PRE, SPREAD, by_variant, lost_members
from dualnets.lab.verdicts import Verdict, verdict_on

CLAIM = Claim("Latents emerge", "ours", all_emerge("width", "widths"), "emerge")


def curve(half, last, variant="wide", **options):
    """A variant whose upper levels gain so much of 0.4 in the first half of training, and in all of it."""
    table = cell(variant, 0.0, steps=(0, 500, 1000), noise=0.001, **options)
    upper = table["metric"].eq("correlation") & (table["level"] >= 2)
    for step, share in ((500, half), (1000, last)):
        table.loc[upper & table["step"].eq(step), "value"] += share * 0.4
    return table


def test_a_curve_is_flat_if_it_changes_by_little_over_the_last_doubling():
    (flat,) = changes(upper_levels, curve(0.7, 0.72))
    assert flat.part == "wide"
    assert (flat.half, flat.last) == pytest.approx((0.7, 0.72), abs=0.02)
    assert flat.allowed == pytest.approx(NEGLIGIBLE / 2)
    assert flat.flat
    (moving,) = changes(upper_levels, curve(0.5, 0.7))
    assert moving.change == pytest.approx(0.2, abs=0.02)
    assert not moving.flat
    assert changes(root, curve(0.5, 0.7))[0].last == pytest.approx(0.7, abs=0.02)


def test_a_wide_interval_allows_more_but_never_what_is_not_negligible():
    def allowed(noise, negligible=NEGLIGIBLE):
        rows = cell("wide", 0.28, steps=(0, 500, 1000), noise=noise, trees=12)
        return changes(upper_levels, rows, negligible)[0].allowed

    assert NEGLIGIBLE / 2 < allowed(0.12) < NEGLIGIBLE
    assert allowed(0.4) == NEGLIGIBLE
    assert [allowed(noise, 0.2) for noise in (0.0, 0.6)] == [0.1, 0.2]
    # half of a gap in the last doubling, but the trees differ by more
    growing = cell("wide", 0.3, steps=(0, 500, 1000), noise=0.6)
    upper = growing["metric"].eq("correlation") & growing["step"].eq(500)
    growing.loc[upper, "value"] -= 0.2
    for claim, flat in ((CLAIM, False), (dataclasses.replace(CLAIM, negligible=1.2), True)):
        assert verdict_on(claim, growing).flat == flat


def test_without_a_snapshot_at_half_of_the_updates_nothing_is_known():
    table = curve(0.7, 0.7)
    early = table.assign(step=table["step"].replace(500, 300))
    for less in (table[table["step"] != 500], early):
        (unknown,) = changes(upper_levels, less)
        assert np.isnan(unknown.change)
        assert not unknown.flat
        found = verdict_on(CLAIM, less)
        assert found.verdict == "open"
        assert found.reason.startswith("not shown to be flat (wide)")


def test_networks_that_are_not_trained_cannot_change():
    idle = cell("idle", 0.0)
    idle = idle[idle["step"] == 0]
    assert changes(upper_levels, idle) == []
    assert [each.part for each in changes(upper_levels, joined(idle, curve(0.7, 0.7)))] == ["wide"]


def test_a_claim_about_the_end_waits_until_all_curves_are_flat():
    flat, moving = curve(0.7, 0.7), curve(0.4, 0.7, "narrow")
    found = verdict_on(CLAIM, flat)
    assert (found.verdict, found.flat) == ("holds", True)
    assert (found.name, found.claim, found.reference) == ("emerge", "Latents emerge", "ours")
    both = verdict_on(CLAIM, joined(flat, moving))
    assert (both.verdict, both.flat) == ("open", False)
    assert both.reason == "still changing (narrow); so far: latents emerge with all 2 widths"
    assert [entry["flat"] for entry in both.plateau] == [True, False]
    assert both.effect_value is not None
    speed = dataclasses.replace(CLAIM, plateau=None)
    assert (verdict_on(speed, joined(flat, moving)).verdict, verdict_on(speed, flat).flat) == (
        "holds",
        None,
    )


def test_an_open_verdict_says_why_by_its_rule():
    few = verdict_on(CLAIM, curve(0.4, 0.7, trees=5))
    assert (few.verdict, few.reason) == ("open", "5 trees are fewer than 12")


def diverged(table, members, variant):
    """The same table, with some members of a variant without finite alignments at the end."""
    lost = table["member"].isin(members) & table["variant"].eq(variant)
    lost &= table["step"].eq(1000) & table["metric"].eq("correlation")
    return table.assign(value=table["value"].mask(lost))


def collapsed(table, members, variant):
    lost = table["member"].isin(members) & table["variant"].eq(variant) & table["metric"].eq(SPREAD)
    return table.assign(value=table["value"].mask(lost, 0.01))


def test_a_few_lost_members_are_those_that_differ_from_most():
    table = joined(curve(0.7, 0.7, trees=16), curve(0.7, 0.7, "narrow", trees=16))
    assert lost_members(table) == set()
    assert lost_members(diverged(table, [3], "narrow")) == {3}
    assert lost_members(collapsed(diverged(table, [3], "narrow"), [5, 6], "wide")) == {3, 5, 6}
    assert lost_members(collapsed(table, range(4), "wide")) == set()  # what this variant does
    assert lost_members(table[["member", "cell"]]) == set()


def test_lost_members_never_decide_alone():
    table = curve(0.7, 0.7, trees=16)
    for lost in (diverged, collapsed):
        same = verdict_on(CLAIM, lost(table, [3, 4], "wide"))
        assert same.verdict == "holds"
        assert same.reason.endswith("; 2 of 16 trees diverged or collapsed, and change nothing")
    # one that is so bad that no interval is narrow
    bad = collapsed(table, [3], "wide")
    bad["value"] -= 9.0 * (bad["member"].eq(3) & bad["step"].eq(1000) & bad["metric"].eq(PRE))
    found = verdict_on(CLAIM, bad)
    assert (found.verdict, found.n) == ("open", 16)
    assert (
        found.reason
        == "1 of 16 trees diverged or collapsed and would decide: open with them, holds without"
    )
    many = verdict_on(CLAIM, diverged(curve(0.7, 0.7, trees=32), range(8), "wide"))
    assert many.verdict == "open"  # 24 trees are enough, but do not stand for all
    few = verdict_on(CLAIM, collapsed(curve(0.7, 0.7, trees=12), [3], "wide"))
    assert few.verdict == "open"
    assert few.reason.startswith(
        "1 of 12 trees diverged or collapsed, which leaves fewer than 12; "
    )


def test_what_a_claim_is_not_about_does_not_touch_it():
    wide, narrow = curve(0.7, 0.7, trees=13), curve(0.4, 0.7, "narrow", trees=13)
    both = collapsed(joined(wide, narrow), [3, 4], "narrow")  # 11 trees are left
    assert verdict_on(CLAIM, both).verdict == "open"
    about = verdict_on(dataclasses.replace(CLAIM, about=("wide",)), both)
    assert (about.verdict, about.n) == ("holds", 13)
    assert about.reason == "latents emerge with all 1 widths"
    none = verdict_on(dataclasses.replace(CLAIM, about=("other",)), both)
    assert (none.verdict, none.reason) == ("open", "none of the widths was run")


def test_lost_trees_of_one_seed_are_not_those_of_another():
    table = seeded(collapsed(curve(0.7, 0.7, trees=32), [3], "wide"), (5, 6))
    assert len(lost_members(pooled(table))) == 1
    assert "1 of 32 trees" in verdict_on(CLAIM, table).reason
    assert pooled(pooled(table)).equals(pooled(table))


def test_what_befalls_few_of_a_variants_trees_is_a_loss_whatever_their_seeds():
    table = seeded(collapsed(curve(0.7, 0.7, trees=32), range(5), "wide"), (5, 6))
    assert lost_members(pooled(table)) == set(range(5))  # 5 of 32, though 5 of 16 of one seed


def test_settings_of_ones_own_give_effects_and_no_verdict():
    found = verdict_on(CLAIM, curve(0.7, 0.7), "your settings: no verdict")
    assert found.verdict == "open"
    assert found.reason == "your settings: no verdict; latents emerge with all 1 widths"
    assert found.effect_value == pytest.approx(0.7, abs=0.02)


def test_other_seeds_are_more_trees_and_no_settings_of_ones_own():
    emergence = load("emergence")
    for changes_, own in (
        ({}, False),
        ({"seed": [0, 1, 2]}, False),
        ({"units": [3]}, True),
        ({"steps": [0]}, True),
        ({"members": [4], "seed": [1]}, True),
    ):
        run = run_name(emergence, "default", **changes_)
        assert bool(own_settings(emergence, "default", changes_, run)) == own
    # a setting that is given as it is changes nothing
    given = {"batch": [128]}
    assert own_settings(emergence, "default", given, run_name(emergence, "default", **given)) == ""
    assert "smoke" in own_settings(emergence, "smoke", {}, run_name(emergence, "smoke"))
    # what another scale has is that scale, however it was asked for
    assert own_settings(emergence, "smoke", {}, run_name(emergence, "paper")) == ""


def test_a_verdict_is_the_same_after_json():
    found = verdict_on(CLAIM, curve(0.4, 0.7))
    assert Verdict.of_dict(json.loads(json.dumps(found.as_dict(), allow_nan=False))) == found


def test_cells_without_variants_are_told_apart_by_their_settings():
    one, two = (curve(0.7, last, name=str(last)).drop(columns="variant") for last in (0.7, 0.8))
    one.insert(1, "units", 2)
    two.insert(1, "units", 5)
    assert list(by_variant(joined(one, two))) == ["units 2", "units 5"]
    assert list(by_variant(one)) == ["all"]


def test_a_rule_without_an_effect_is_no_number():
    nothing = Claim("c", "ours", Rule("none", Deferred("judging:undecided")), plateau=None)
    found = verdict_on(nothing, curve(0.7, 0.7))
    assert (found.effect_value, found.interval, found.of) == (None, None, "networks")
