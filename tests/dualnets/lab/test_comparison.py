"""Two runs are compared by settings, claims, and curves of matching cells."""

import pytest
from made_up_runs import store_run, table

from dualnets import experiments
from dualnets.lab.comparison import ALL, common_curves, compared_claims, differing_settings
from dualnets.lab.report import overlay_figure
from dualnets.lab.stored_runs import read_run

KNOWN = {name: experiments.load(name).Settings for name in ("losses", "supervised", "emergence")}


def runs(out, *declared):
    return [read_run(store_run(out, **{"name": "losses", "day": at + 1, **own}))
            for at, own in enumerate(declared)]  # fmt: skip


def test_settings_that_differ_and_have_an_effect_are_named(tmp_path):
    a, b = runs(tmp_path, {"only": ["simple"]}, {"only": ["simple", "triplet"], "steps": [7]})
    assert differing_settings(a, b, KNOWN) == {
        "loss": (["simple"], ["simple", "triplet"]),
        "steps": (["150"], ["7"]),
        "variant": (["simple"], ["simple", "triplet"]),
        "lr": (["0.03"], ["0.03", "1.0"]),
        # of the triplet loss alone
        "margin": ([], ["1.0"]),
        "temperature": ([], ["0.1"]),
    }
    assert differing_settings(a, a, KNOWN) == {}


def test_effects_stand_side_by_side_with_their_difference(tmp_path):
    a, b = runs(tmp_path, {"only": ["simple"], "value": 0.25}, {"only": ["triplet"], "value": 0.75})
    (claim,) = compared_claims(a, b)
    assert (claim.a["effect_value"], claim.b["effect_value"], claim.difference) == (0.25, 0.75, 0.5)
    (alone,) = compared_claims(a, a)
    assert alone._replace(b=None).difference is None
    assert alone._replace(b={**claim.b, "effect_value": None}).difference is None


def test_curves_of_the_same_variants_are_compared(tmp_path):
    a, b = runs(
        tmp_path,
        {"only": ["simple", "triplet"], "lr": [0.5]},
        {"only": ["triplet", "ntxent"], "lr": [0.25], "seed": [0, 1], "value": 0.75},
    )
    found = common_curves(a, b, KNOWN)
    assert found.metrics == ["correlation", "spread"]
    assert found.groups == ["triplet"]
    assert found.pooled == []
    own = found.table[(found.table["run"] == 1) & (found.table["metric"] == "spread")]
    assert sorted(set(own["member"])) == ["0/0", "0/1", "1/0", "1/1"]
    expected = table("", 0.75, metrics=["spread"]).groupby(["step", "member"])["value"].mean()
    first = own[own["member"].str.endswith("/0")].set_index("step")["value"]
    assert sorted(first) == pytest.approx(sorted(expected))


def test_cells_are_matched_by_all_that_varies_within_a_run(tmp_path):
    a, b = runs(
        tmp_path,
        {"only": ["simple"], "units": [2, 5]},
        {"only": ["simple"], "units": [5, 9], "lr": [0.5, 0.25]},
    )
    found = common_curves(a, b, KNOWN)
    assert found.groups == ["units 5"]
    assert found.pooled == ["lr"]


def test_without_common_variants_all_cells_are_pooled(tmp_path):
    a, b = runs(tmp_path, {"only": ["simple", "ntxent"]}, {"name": "supervised", "value": 0.75})
    assert compared_claims(a, b) == []
    found = common_curves(a, b, KNOWN)
    assert found.groups == [ALL]
    assert "variant" in found.pooled
    means = found.table[found.table["step"] == 0].groupby("run")["value"].mean()
    assert means.tolist() == pytest.approx([0.5005, 0.7505])


def test_tables_without_common_curves_are_not_compared(tmp_path):
    a, b = runs(tmp_path, {"only": ["simple"]}, {"only": ["triplet"]})
    path = b.folder / "results.parquet"
    for rows in (
        table(b.cells[0], 0.5).drop(columns="metric"),
        table(b.cells[0], 0.5, metrics=["other"]),
        table(b.cells[0], 0.5, steps=[10]),
    ):
        rows.to_parquet(path, index=False)
        assert common_curves(a, b, KNOWN) is None


def test_metrics_of_the_two_ends_come_last(tmp_path):
    a, b = runs(tmp_path, {"only": ["simple"]}, {"only": ["triplet"]})
    import pandas as pd

    for run in (a, b):
        ends = table(run.cells[0], 0.5, steps=(0, 10), metrics=["effective_rank"])
        pd.concat([ends, table(run.cells[0], 0.5)]).to_parquet(run.folder / "results.parquet")
    assert common_curves(a, b, KNOWN).metrics == ["correlation", "spread", "effective_rank"]


@pytest.mark.parametrize(
    "only",
    [
        pytest.param(["simple"], marks=pytest.mark.slow),
        ["simple", "triplet", "ntxent", "batchwise", "spectral"],
    ],
)
def test_the_figure_has_a_panel_per_metric_and_group_with_both_curves(tmp_path, only):
    a, b = runs(tmp_path, {"only": only}, {"only": only, "lr": [0.5], "value": 5.0})
    curves = common_curves(a, b, KNOWN)
    figure = overlay_figure.draw(curves, ["A: $\\frac{1$", "B: <b>"])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 2 * len(only)
    for axes in shown:
        assert [len(line.get_xdata()) for line in axes.lines] == [3, 3]
        low, high = axes.get_ylim()
        values = [y for line in axes.lines for y in line.get_ydata()]
        assert low <= min(values) <= max(values) <= high
    labels = {axes.get_ylabel() for axes in shown} | {axes.get_title("left") for axes in shown}
    assert {"correlation", "spread"} <= labels
    figure.savefig(tmp_path / "figure.svg")  # names are text, whatever is in them
