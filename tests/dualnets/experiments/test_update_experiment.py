"""The experiment `update`: its rule on made-up tables, its rows, a run without scikit-learn."""

import sys

import pandas as pd
import pytest
import torch
from judging import judge

import dualnets
from dualnets import experiments, theory
from dualnets.experiments.theorems import _digits, _update_comparisons
from dualnets.experiments.theorems import _update as update
from dualnets.experiments.theorems._update_comparisons import HALVED
from dualnets.lab.experiment import ProgressListener

CPU = torch.device("cpu")


def made_up(exact=1e-15, estimate=1.0, broken=0.5, error=0.05, halved=0.5):
    rows = [
        {"identity": "covariance", "form": "outputs", "exact": True, "assumptions": "met",
         "relative_error": exact},
        {"identity": "covariance", "form": "operator", "exact": False, "assumptions": "broken",
         "relative_error": broken},
        {"identity": "covariance", "form": "outputs", "exact": False, "assumptions": "met",
         "relative_error": error * estimate, "standard_error": error},
        {"identity": "covariance", "form": HALVED, "exact": False, "assumptions": "broken",
         "relative_error": halved, "standard_error": error},
    ]  # fmt: skip
    settings = vars(update.Settings())
    common = {"standard_error": 0.0, "layer": 1, "member": 0, "entries": 4, "cell": "a"}
    return pd.DataFrame([settings | common | row for row in rows])


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "holds"),
        ({"exact": 1e-8}, "fails"),
        ({"exact": float("nan")}, "fails"),
        ({"estimate": 3.0}, "fails"),
        ({"broken": 1e-4}, "open"),
        ({"error": 0.12, "halved": 0.6}, "open"),  # too vague to tell
        ({"halved": 0.1}, "open"),  # a wrong prediction passes
    ],
)
def test_the_rule(changes, verdict):
    found = judge(experiments.load("update"), made_up(**changes))
    assert found.verdict == verdict
    assert found.of == "comparisons"
    assert "1 of 1" in found.reason
    assert ("standard errors of 0.1" in found.reason) == ("error" in changes)


def test_without_a_control_it_stays_open():
    table = made_up()
    assert judge(experiments.load("update"), table[table["assumptions"] == "met"]).verdict == "open"
    assert judge(experiments.load("update"), table[table["form"] != HALVED]).verdict == "open"
    assert judge(experiments.load("update"), table[table["form"] != "operator"]).verdict == "open"


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "pair", "network": "tree"},
        {"loss": "infonce", "network": "conv", "normalize": True},
        {"loss": "simple", "data": "irregular", "network": "tree"},
        {"loss": "ntxent", "batches": 2, "batch": 8, "depth": 3},
        {"loss": "batchwise-nce", "batches": 2, "batch": 8, "bias": True},
        {"loss": "simple", "batches": 4, "batch": 8},
        {"loss": "triplet", "data": "digits", "batches": 2, "batch": 8},
    ],
    ids=str,
)
def test_a_cell_compares_every_layer(changes):
    settings = update.Settings(members=2, **changes)
    table = update.run_cell(settings, CPU, ProgressListener()).table
    assert list(table.columns) == list(update.COLUMNS)
    assert set(table["layer"].dropna()) == set(range(1, int(table["layer"].max()) + 1))
    assert set(table["member"]) == {0, 1}
    assert table["layer"].max() >= 2
    exact = table[table["exact"]]
    assert (exact["relative_error"] < 1e-12).all()
    broken = table[(table["assumptions"] == "broken") & (table["form"] != HALVED)]
    assert (broken.groupby("identity")["relative_error"].median() > update.BROKEN).all()
    expected = bool({"normalize", "bias"} & changes.keys()) or changes.get("data") == "irregular"
    assert (len(broken) > 0) == expected
    assert ("tree operator o oᵀ" in set(table["identity"])) == (changes["loss"] == "pair")
    assert "comparisons" in update.headline(table)


def test_a_pair_is_compared_with_a_connection_that_can_be_wrong(monkeypatch):
    """K is an array of its own: rows that are laid out otherwise, or a sample's that is missing, miss."""
    settings = update.Settings(members=2, network="mlp", units=4)

    def errors():
        table = update.run_cell(settings, CPU, ProgressListener()).table
        return table[table["exact"]].groupby("identity")["relative_error"].max()

    right = errors()
    assert (right < 1e-12).all()
    assert (right > 0).all()  # not the same computation twice
    explicit = theory.Connection.explicit
    monkeypatch.setattr(theory.Connection, "explicit", lambda found: explicit(found).flip(-2))
    assert (errors() > update.BROKEN).all()


def test_where_an_array_of_all_pairs_is_too_large_fewer_are_compared(monkeypatch):
    settings = update.Settings(members=2, network="mlp", units=4)
    ((_, network),), data, _ = update.networks_and_data(settings, CPU)
    count = _update_comparisons.few_enough(settings, network, data, "weights.1")[0].shape[1]
    assert count == settings.batch
    # 2 members x (4 x 4) entries x 4 outputs for each pair
    monkeypatch.setattr(_update_comparisons, "MOST_NUMBERS", 5 * 128 + 3)
    first, second = _update_comparisons.few_enough(settings, network, data, "weights.1")
    assert first.shape[1] == second.shape[1] == 5


def test_estimates_can_tell_a_prediction_that_is_halved():
    settings = update.Settings(loss="simple", batches=40, batch=1024, members=2, network="mlp")
    table = update.run_cell(settings, CPU, ProgressListener()).table
    off = table["relative_error"] / table["standard_error"]
    right = table["form"] != HALVED
    assert (table["standard_error"] < update.PRECISE).all()
    assert (off[right] < update.ERRORS).all()
    assert (off[~right] > update.ERRORS).all()
    assert (~right).sum() == 2 * settings.layers


def test_a_run_without_scikit_learn_names_what_it_left_out(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    settings = {"data": ["digits"], "loss": "simple", "batches": 2, "network": "mlp"}
    run = dualnets.run("update", scale="smoke", out=tmp_path, device="cpu", **settings)
    assert run.verdicts[0].verdict == "open"
    assert run.table.empty
    page = (run.folder / "index.html").read_text()
    assert "scikit-learn is not installed" in page
    assert update.headline(run.table) == "left out"


def test_a_run_leaves_figure_and_page(tmp_path):
    common = {"out": tmp_path, "device": "cpu", "members": 1, "network": "mlp"}
    run = dualnets.run(
        "update", scale="smoke", data=["tree", "irregular"], loss="simple", batch=1024, **common
    )
    assert (run.folder / "update.png").exists()
    assert judge(experiments.load("update"), run.table).verdict == "holds"
    summary = update.summary_table(run.table)
    assert set(summary["data"]) == {
        "tree, irregular", "biases", "normalised", "prediction halved",
    }  # fmt: skip
    assert set(summary["identity"]) == {"covariance", "covariance, estimated"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"data": "digits"}, "digits are sampled"),
        ({"batches": 1}, "one batch has no standard error"),
        ({"loss": "ntxent"}, "ntxent is a loss of whole batches"),
        ({"augment": "blur"}, "unknown augmentation 'blur'"),
    ],
)
def test_settings_that_make_no_sense(changes, text):
    with pytest.raises(ValueError, match=text):
        update.Settings(**changes)


def test_views_of_digits():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.zeros(500, 8, 8, dtype=torch.float64)
        images[:, 3, 3] = 1
        views = _digits.crop_blur_and_noise(images)
        noise = views[:, 6:, 6:].flatten()
        assert abs(float(noise.std()) - 0.1) < 0.01
        sharp = views.flatten(1).max(1).values > 0.6
        assert 0.4 < sharp.double().mean() < 0.6  # the others are blurred
        place = views[sharp].flatten(1).argmax(1)
        assert {int(p) for p in place} == {8 * r + c for r in (2, 3, 4) for c in (2, 3, 4)}


def test_digits_are_drawn_as_any_data_set_is():
    fast = _digits.digits()
    items = [item for (item,) in fast.dataset]
    slow = theory.DatasetViews(items, fast.transform, batched=True)
    for changes in ({}, {"start": 5}, {"negatives": True, "count": 1}, {"seed": 8}):
        how = {"seed": 7} | changes
        pairs = zip(fast.draw(20, **how), slow.draw(20, **how), strict=True)
        assert all(one.equal(other) for one, other in pairs)
