"""The experiment `lucky`: its rule on made-up tables, and a small run."""

import numpy as np
import pandas as pd
import pytest
from judging import judge

import dualnets
from dualnets import experiments
from dualnets.experiments.theorems import _lucky as lucky
from dualnets.experiments.theorems._lucky_ranks import FINAL, GAP, mean_ranks, ranks, root


def made_up(offset=0.0, narrow=0.3, wide=0.8, gap=0.9, trees=24, widths=True, shallow=0.8):
    """Trees of depth 3 that are trained, and of depth 2 that are not.

    `gap` is how closely the gap closed at the roots of the former follows the best |selectivity| before.
    """
    rng = np.random.default_rng(0)
    rows = []
    for depth, units, chance in (
        (3, 2, narrow), (3, 10, wide), (2, 2, narrow), (2, 10, shallow),
    ):  # fmt: skip
        if units == 10 and not widths:
            continue
        settings = vars(lucky.Settings(units=units, depth=depth, steps=1000 * (depth == 3)))
        for member in range(trees):
            for level in range(1, depth + 1):
                for latent in range(2 ** (depth - level)):
                    luck, chances = rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.3)
                    start = 0.3 + luck / 10
                    closed = 2 * (gap * luck + (1 - abs(gap)) * chances)
                    end = start + (0.9 - start) * closed if depth == 3 else np.nan
                    place = {"cell": f"{depth} {units}", "member": member, "level": level}
                    born = {"predicted": chance, "lucky": float(rng.random() < chance + offset)}
                    values = {"initial": start, "final": end, "ceiling": 0.9, "null": 0.02}
                    size = {"selectivity": luck, "selectivity_predicted": 0.1, "latent": latent}
                    rows.append(settings | place | born | values | size)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        (
            {},
            "holds",
            "close more of the gap at 2 of 2 widths, end closer to the ceiling at 2 of 2",
        ),
        ({"offset": 0.2}, "fails", "standard errors"),
        ({"wide": 0.3}, "fails", "depth 3: width does not help"),
        ({"shallow": 0.3}, "fails", "depth 2: width does not help"),
        ({"gap": -0.9}, "fails", "close more of the gap at 0 of 2 widths"),
        ({"gap": 0.0}, "fails", "close more of the gap at 0 of 2 widths"),
        ({"widths": False}, "open", "one width"),
        ({"trees": 10}, "open", "10 trees are fewer"),
    ],
)
def test_the_rule(changes, verdict, reason):
    found = judge(experiments.load("lucky"), made_up(**changes))
    assert found.verdict == verdict, found.reason
    assert reason in found.reason


def test_one_width_at_which_the_luckier_do_not_learn_better_leaves_it_open():
    good, bad = made_up(), made_up(gap=0.0)
    table = pd.concat([good[good["units"] == 2], bad[bad["units"] == 10]])
    found = judge(experiments.load("lucky"), table)
    assert found.verdict == "open"
    assert "close more of the gap at 1 of 2 widths" in found.reason


def test_without_training_the_rule_leaves_learning_open():
    table = made_up()
    found = judge(experiments.load("lucky"), table[table["depth"] == 2])
    assert found.verdict == "open"
    assert "nothing was trained" in found.reason
    assert found.effect_value is None


def test_luck_that_does_nothing_looks_like_harm_in_gap_closed_alone():
    """Ends that know nothing of the start: regression to the mean, which the other measure lacks."""
    rng = np.random.default_rng(0)
    luck = rng.uniform(0.2, 0.6, 400)
    rows = pd.DataFrame(
        {"member": np.arange(400), "selectivity": luck, "initial": luck, "ceiling": 0.9}
    )
    rows["final"] = rng.normal(0.8, 0.02, 400)
    assert ranks(rows, GAP).value < -0.4
    assert abs(ranks(rows, FINAL).value) < 0.15


def test_the_mean_rank_correlation_is_bootstrapped_over_trees():
    table = made_up(gap=0.5)
    cells = [root(rows) for _, depth, _, rows in lucky.widths(table) if depth == 3]
    found = mean_ranks(cells)
    assert found.value == pytest.approx(np.mean([ranks(part, GAP).value for part in cells]))
    assert found.low < found.value < found.high
    assert found.n == 24
    assert mean_ranks([]).n == 0


def test_a_small_run(tmp_path):
    few = {"steps": 20, "evaluation_samples": 512, "draws": 300}
    run = dualnets.run("lucky", scale="smoke", out=tmp_path, **few)
    table = run.table
    assert table.groupby("depth")["steps"].unique().map(list).to_dict() == {2: [0], 3: [20]}
    assert table[table["steps"] == 0]["final"].isna().all()
    assert table[table["steps"] > 0]["final"].notna().all()
    assert (table["initial"] <= table["ceiling"] + 1e-9).all()
    assert table["lucky"].eq(table["initial"] >= 0.8 * table["ceiling"]).all()
    for *_, rows in lucky.widths(table):
        assert abs(lucky.standard_errors(rows)) < lucky.CALIBRATED
        if rows["depth"].iloc[0] == 2:
            continue  # too few latents to tell
        broken = rows.assign(predicted=rows["predicted"] ** 3)
        assert abs(lucky.standard_errors(broken)) > 2
        ratio = rows["selectivity"].mean() / rows["selectivity_predicted"].mean()
        assert ratio == pytest.approx(1, abs=0.15)
    assert (run.folder / "lucky.png").exists()
