"""The experiment on augmentations: its rules on made-up tables, the shares of a small run."""

import numpy as np
import pytest
from judging import judge
from made_up_variants import cell, joined, seeded
from tiny_runs import few_cells

import hltm
from dualnets.experiments import load
from dualnets.experiments.emergence import _augmentation as augmentation
from dualnets.lab.variants import PRE
from dualnets.theory import surviving_share

EXPERIMENT = load("augmentation")
WITHIN, BETWEEN = range(2)
LEVELS = (1, 2, 3, 4)


def views(
    slope, *, trees=14, noise=0.004, alike=False, seed=0, names=("a", "b", "c", "d"), by_level=None
):
    """Variants whose latents gain `slope` per unit of share, which differs between latents and variants.

    Args:
        slope: of the gain.
        noise: of the gain.
        alike: whether all latents of a variant have one share.
        by_level: level -> slope, in place of one for all.
    """
    cells = []
    rng = np.random.default_rng(seed)
    for at, name in enumerate(names):
        made = cell(name, 0.0, trees=trees, levels=LEVELS, noise=noise, seed=at, steps=(0, 3, 10))
        scored = made[made["metric"] == PRE].drop_duplicates(["member", "node"])
        base = 0.2 + 0.15 * at
        share = {
            key: base + (0.0 if alike else rng.uniform(0, 0.12))
            for key in zip(scored["member"], scored["node"], strict=True)
        }
        own = [share.get(key, np.nan) for key in zip(made["member"], made["node"], strict=True)]
        made[augmentation.SHARE], made[augmentation.CORRELATION] = own, own
        slopes = made["level"].map(by_level or dict.fromkeys(LEVELS, slope))
        grown = slopes * np.nan_to_num(own) * np.log1p(made["step"]) / np.log(11)
        made["value"] += grown * (made["metric"] == PRE)
        cells.append(made)
    return joined(*cells)


@pytest.mark.parametrize(
    ("table", "verdict", "reason"),
    [
        (views(0.6), "holds", "growth follows the share"),
        (views(-0.6), "fails", "does not follow the share"),
        (views(0.0, noise=0.02, trees=60), "fails", "does not follow the share"),
        (views(0.012, noise=0.01, seed=4), "open", "is not shown to follow"),
        (views(0.6, alike=True), "open", "different shares"),
        (views(0.6, trees=11), "open", "11 trees are fewer than 12"),
    ],
    ids=["more", "less", "unrelated", "too noisy", "alike", "few"],
)
def test_growth_follows_shares_within_a_level_or_does_not(table, verdict, reason):
    found = judge(EXPERIMENT, table, WITHIN)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_what_is_shown_and_negligible_does_not_hold(monkeypatch):
    monkeypatch.setattr(augmentation, "NEGLIGIBLE", 1.0)
    assert judge(EXPERIMENT, views(0.6), WITHIN).verdict == "fails"


def test_shares_of_another_tree_are_not_followed():
    found = judge(EXPERIMENT, views(0.6, trees=40), WITHIN)
    *own, placebo = found.details
    assert min(detail["rank_correlation"] for detail in own) > 0.7
    assert placebo["augmentation"] == "shares of another tree"
    assert placebo["low"] < 0 < placebo["high"]
    assert abs(placebo["rank_correlation"]) < 0.1


def test_what_start_and_ceiling_explain_is_no_growth_by_share():
    table = views(0.0, trees=40, noise=0.0005)
    first = table.groupby(["cell", "member", "node"])["initial"].transform("first")
    scored = table["metric"] == PRE
    table["value"] += (
        scored * (table["step"] > 0) * 3 * (0.5 - first)
    )  # the lower the start, the more
    table.loc[scored, augmentation.SHARE] = 1 - first
    plain = augmentation.growths(table)
    kept = plain[plain["level"] == 2]
    raw = kept.groupby(["variant", "member"])[["share", "growth"]].corr("spearman").iloc[::2, 1]
    assert raw.mean() > 0.8  # without what is given, share and growth go together
    assert judge(EXPERIMENT, table, WITHIN).verdict != "holds"


def test_the_partial_correlation_is_that_of_residuals():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(40, 4))
    columns -= columns.mean(0)
    design = columns[:, 2:]
    residuals = [y - design @ np.linalg.pinv(design) @ y for y in columns[:, :2].T]
    expected = np.corrcoef(*residuals)[0, 1]
    assert augmentation._partial(columns) == pytest.approx(expected, abs=1e-3)
    columns[:, 0] = columns[:, 3] * 2
    assert np.isnan(augmentation._partial(columns))


@pytest.mark.parametrize(
    ("table", "verdict", "reason"),
    [
        (views(0.6), "holds", "at level 2, 3, 4"),
        (views(-0.6), "fails", "runs against the share at level 2, 3, 4"),
        (views(0.0, by_level={1: 0, 2: -0.6, 3: 0.6, 4: 0.6}), "fails", "runs against the share at level 2"),
        (views(0.0, by_level={1: 0, 2: 0, 3: 0.6, 4: 0.6}, noise=0.02), "open", "at level 3, 4"),
        (views(0.6, names=("a",)), "open", "same shares"),
        (views(0.6, trees=11), "open", "11 trees are fewer than 12"),
    ],
    ids=["more", "less", "one against", "one neither", "one variant", "few"],
)  # fmt: skip
def test_gains_follow_shares_over_augmentations_or_do_not(table, verdict, reason):
    found = judge(EXPERIMENT, table, BETWEEN)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_the_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    found = augmentation.growths(views(0.1, noise=0.05))
    part = found[(found["member"] == 3) & (found["level"] == 2)]
    each = [spearmanr(rows["share"], rows["gain"])[0] for _, rows in part.groupby("node")]
    assert augmentation.following(found)[2][3] == pytest.approx(np.mean(each))


@pytest.mark.parametrize("claim", [WITHIN, BETWEEN])
def test_trees_of_several_seeds_add_up(claim):
    table = views(0.6, trees=24)
    alone, both = judge(EXPERIMENT, table, claim), judge(EXPERIMENT, seeded(table, (5, 6)), claim)
    assert both.n == alone.n == 24
    assert (both.verdict, both.reason) == (alone.verdict, alone.reason)
    assert both.effect_value == pytest.approx(alone.effect_value, abs=1e-12)


@pytest.mark.slow
def test_a_small_run_has_the_closed_forms_and_is_too_small():
    names = ["keep-level:1", "keep-root"]
    table, (settings, _) = few_cells(EXPERIMENT, lambda own: own.variant in names, snapshots=3)
    trees = settings.build_trees()
    rows = table[(table["metric"] == PRE) & (table["variant"] == "keep-root")]
    exact = surviving_share(trees, hltm.keep_root())
    shared = trees.view_correlation(trees.latents, hltm.keep_root())
    for row in rows.itertuples():
        v = trees.topology.node(row.node)
        assert row.surviving_share == pytest.approx(float(exact[row.member, v]))
        assert row.view_correlation == pytest.approx(float(shared[row.member, v]))
    for verdict in EXPERIMENT.verdicts(table):
        assert verdict.verdict == "open"
        assert "trees are fewer than 12" in verdict.reason
    assert EXPERIMENT.summary_table(table)["variant"].tolist() == names
    figure = EXPERIMENT.plot(table)
    figure.canvas.draw()
    assert [axes.get_title(loc="left")[0] for axes in figure.axes] == ["a", "b", "c", "d"]
