"""Ablations of data, architecture and loss: their rules on made-up tables, small runs, figures."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import hltm
from dualnets import execute
from dualnets.comparison import RANK, RATIO, SPREAD, Fared
from dualnets.experiments import (
    architecture,
    augmentation,
    branching,
    cardinality,
    depth_and_width,
    hierarchy,
    losses,
    polarity,
)
from dualnets.experiments._reach import MARGIN, gap_difference, strength
from dualnets.outcome import Pinned, Progress
from hltm.probe.best_unit import PRE

DEPTH = 3


def cell(variant, gain, *, trees=14, start=0.5, ceiling=0.9, noise=0.01, seed=0, **settings):
    """Rows as `run_cell` makes them: each latent of levels >= 2 gains, the embedding does not collapse."""
    rng = np.random.default_rng([seed, len(variant)])
    rows = []
    for member in range(trees):
        for level in range(1, DEPTH + 1):
            for node in range(2 ** (DEPTH - level)):
                before = start + rng.normal(0, 0.03)
                after = before + (gain if level >= 2 else 0) + rng.normal(0, noise)
                rows += [
                    {"member": member, "step": step, "level": level, "node": f"{level}.{node}",
                     "metric": PRE, "value": value, "initial": before, "ceiling": ceiling}
                    for step, value in ((0, before), (10, after))
                ]  # fmt: skip
        rows += [
            {"member": member, "step": step, "level": DEPTH, "node": "embedding", "metric": name,
             "value": value, "initial": value, "ceiling": np.nan}
            for step in (0, 10) for name, value in ((SPREAD, 0.5), (RANK, 3.0))
        ]  # fmt: skip
    table = pd.DataFrame(rows)
    for name, value in {"cell": variant, "variant": variant, **settings}.items():
        table[name] = value
    # settings stand left of what was measured
    names = ["cell", *settings, "variant"]
    return table[[*names, *(c for c in table.columns if c not in names)]]


def joined(*cells):
    return pd.concat(cells, ignore_index=True)


# one rule that asks all variants: losses, architectures, numbers of states, grammars


@pytest.mark.parametrize("experiment", [losses, cardinality, hierarchy])
@pytest.mark.parametrize(
    ("gains", "trees", "verdict", "reason"),
    [
        ((0.2, 0.1), 14, "holds", "latents emerge with all 2"),
        ((0.0, -0.1), 14, "fails", "latents emerge with none of 2"),
        ((0.2, -0.1), 14, "open", "latents do not emerge with b"),
        ((0.2, 0.1), 11, "open", "11 trees are fewer than 12"),
    ],
)
def test_every_variant_is_asked_whether_its_latents_emerge(
    experiment, gains, trees, verdict, reason
):
    found = experiment.verdict(
        joined(cell("a", gains[0], trees=trees), cell("b", gains[1], trees=trees))
    )
    assert found.verdict == verdict
    assert reason in found.reason
    assert found.n == trees


def test_the_architecture_that_knows_the_tree_has_no_vote():
    blind = [cell(name, 0.2) for name in architecture.KNOW_NOTHING]
    assert architecture.verdict(joined(cell("tree", -0.2), *blind)).verdict == "holds"
    failing = [cell(name, -0.1) for name in architecture.KNOW_NOTHING]
    assert architecture.verdict(joined(cell("tree", 0.2), *failing)).verdict == "fails"
    assert architecture.verdict(joined(cell("tree", 0.2), blind[0], failing[1])).verdict == "open"
    assert architecture.verdict(cell("tree", 0.2)).verdict == "open"
    against = architecture.verdict(joined(cell("tree", 0.3), *blind)).details[-1]
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
    found = polarity.verdict(sweep(gains, **options))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    assert [d["kesten_stigum"] for d in found.details] == pytest.approx([0.5, 1.62])


def test_one_side_alone_decides_nothing():
    one = sweep((0.2, 0.2))
    found = polarity.verdict(one[one["polarity_low"] == 0.9])
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
    found = branching.verdict(children(few, many))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_a_difference_of_gaps_is_that_of_the_ratios_of_means():
    rng = np.random.default_rng(0)
    none = np.zeros(20)

    def side(share):
        room = rng.uniform(0.2, 0.6, 20)
        return [Fared(none, share * room, room, none, none, np.arange(20))]

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
    found = depth_and_width.verdict(grown(gains, **options))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


# what the augmentation lets through


def views(slope, *, trees=14, augmentations=5, levels=(2, 3)):
    """Augmentations that let more and more through; the alignment of these levels follows."""
    cells = []
    for i in range(augmentations):
        shared = i / (augmentations - 1 or 1)
        made = cell(f"view {i}", 0.0, trees=trees, seed=i)
        made[augmentation.THROUGH] = shared
        made[augmentation.INFORMATION] = shared
        follows = made["level"].isin(levels) & (made["step"] == 10)
        made.loc[follows, "value"] += slope * shared
        cells.append(made)
    return joined(*cells)


@pytest.mark.parametrize(
    ("slope", "options", "verdict", "reason"),
    [
        (0.3, {}, "holds", "at level 2, 3"),
        (0.0, {}, "fails", "at no level"),
        (-0.3, {}, "fails", "at no level"),
        (0.3, {"levels": (3,)}, "open", "at level 3 only"),
        (0.3, {"trees": 11}, "open", "11 trees are fewer than 12"),
        (0.3, {"augmentations": 3}, "open", "3 augmentations are fewer than 4"),
    ],
)
def test_latents_follow_what_views_share_or_do_not(slope, options, verdict, reason):
    found = augmentation.verdict(views(slope, **options))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_the_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    table = views(0.05)
    found = augmentation.ends(table)
    followed = augmentation.following(found).set_index(["level", "member"])["follows"]
    part = found[(found["member"] == 3) & (found["level"] == 2)]
    each = [spearmanr(rows["shared"], rows["value"])[0] for _, rows in part.groupby("node")]
    assert followed[2, 3] == pytest.approx(np.mean(each))


# trees of other families


def test_two_states_are_the_symmetric_binary_trees_and_more_have_one_correlation():
    for states in (2, 3, 5):
        settings = cardinality.Settings(states=states, members=2, depth=2)
        trees = settings.build_trees()
        for node in range(1, len(trees.topology)):
            table = trees.table(node)
            assert torch.allclose(table.sum(-1), torch.ones(()).double())
            assert torch.allclose(table.sum(-2), torch.ones(()).double())  # keeps uniform priors
            values = torch.linalg.svdvals(table - 1 / states)
            rho = values[:, :-1]
            assert torch.allclose(rho, rho[:, :1].expand_as(rho))
            assert ((rho >= 0.7) & (rho <= 1)).all()
    signs = cardinality.Settings(members=64, depth=1).build_trees().polarity[:, 1:].sign().mean()
    assert abs(float(signs)) < 0.3


def test_every_symbol_of_a_grammar_can_be_read_off_its_leaves():
    settings = hierarchy.Settings(depth=2, symbols=4, rules=4, members=2)
    trees, ceilings = settings.build_trees(), settings.build_ceilings("own")
    for level, bound in ceilings.items():
        exact = trees.ceiling(trees.level(level), leaves="own")
        assert torch.allclose(bound.value, exact.value, atol=1e-9)


def test_what_a_grammar_cannot_be_is_refused():
    with pytest.raises(ValueError, match="rules must be at most 6, as many as keep 6"):
        hierarchy.Settings(symbols=6, rules=7)


def test_a_pyramid_is_as_wide_as_the_trees_levels():
    settings = architecture.Settings(network="mlp", pyramid=True, units=3, depth=3, members=2)
    network = settings.build_network(settings.build_trees(), 0, torch.device("cpu"))
    assert network.units == (12, 6, 3)
    assert network.plain


# small runs

SMALL = {"members": 3, "steps": 6, "snapshots": 2, "evaluation_samples": 512, "batch": 16}
FEW = {  # at least two variants of each, both kinds where there are two
    augmentation: ["keep-root", "keep-nothing"],
    architecture: ["tree", "conv, as wide", "wrong tree", "dense, as wide"],
    polarity: ["polarity 0.5", "polarity 0.9"],
    branching: ["2 children", "4 children"],
    depth_and_width: ["depth 2 x2", "depth 2 x8"],
    cardinality: ["2 states", "4 states"],
    hierarchy: ["depth 2, m 2", "depth 2, m 4"],
    losses: ["simple", "ntxent", "spectral", "weights 1/r"],
}


def run_few(experiment):
    changes = {name: [value] for name, value in SMALL.items()}
    every = execute.cells(experiment, "smoke", changes)
    tables = []
    for settings in every:
        if settings.variant in FEW[experiment]:
            table = experiment.run_cell(settings, torch.device("cpu"), Progress()).table
            for at, (key, value) in enumerate(dataclasses.asdict(settings).items()):
                table.insert(at, key, value)
            table.insert(0, "cell", settings.variant)
            tables.append(table)
    assert len(tables) == len(FEW[experiment])
    return joined(*tables)


@pytest.fixture(scope="module", params=FEW, ids=lambda experiment: experiment.__name__[21:])
def small(request):
    return SimpleNamespace(experiment=request.param, table=run_few(request.param))


def test_a_small_run_has_all_its_numbers_and_is_too_small(small):
    table = small.table
    scored = table[table["metric"].isin([PRE, RATIO])]
    assert scored[["value", "initial", "null", "ceiling", "n"]].notna().all().all()
    error = 5 / np.sqrt(scored["n"]) + 5 * scored["ceiling_error"]
    assert (scored["value"] <= scored["ceiling"] + error).all()
    assert {SPREAD, RANK} < set(table["metric"])
    found = small.experiment.verdict(table)
    assert found.verdict == "open"
    assert found.rule.startswith(small.experiment.RULE)
    assert "3 trees are fewer" in found.reason
    summary = small.experiment.summary(table)
    assert summary["variant"].tolist() == FEW[small.experiment]
    assert {"spread", "rank"} < set(summary)


def test_its_figure_draws(small):
    figure = small.experiment.plot(small.table)
    figure.canvas.draw()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title[0] for title in titles if title] == ["a", "b", "c", "d"]


def test_what_views_share_is_the_closed_form():
    table = run_few(augmentation)
    settings = augmentation.Settings(members=3, depth=3)
    trees = settings.build_trees()
    rows = table[
        (table["variant"] == "keep-root") & (table["metric"] == PRE) & (table["step"] == 0)
    ]
    for row in rows.itertuples():
        exact = trees.view_correlation(row.node, hltm.keep_root())[row.member]
        assert row.view_correlation == pytest.approx(float(exact))


@pytest.mark.parametrize("experiment", FEW, ids=lambda experiment: experiment.__name__[21:])
def test_it_says_what_it_is(experiment):
    assert len(experiment.BRIEF) <= 58
    assert experiment.RESULT_VERSION == 1
    for scale, grid in experiment.GRIDS.items():
        assert all(isinstance(one["variant"], Pinned) for one in grid)
        names = [settings.variant for settings in execute.cells(experiment, scale, {})]
        assert len(names) == len(set(names)) == len(grid)
        members = {m for one in grid for m in one["members"]}
        assert min(members) >= 12
