"""The experiment `update`: its rules on made-up tables, its rows, a run without scikit-learn."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge

import dualnets
from dualnets import experiments, theory
from dualnets.experiments.theorems import _digits, _update_comparisons
from dualnets.experiments.theorems import _update as update
from dualnets.experiments.theorems._update_comparisons import HALVED, OTHER
from dualnets.experiments.theorems._update_rules import summary_table
from dualnets.experiments.theorems.update import BROKEN, EXCESS, PRECISE
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.stats import pooled

CPU = torch.device("cpu")
EXPERIMENT = experiments.load("update")
COVARIANCE, ESTIMATES = 2, -1


def made_up(identity="covariance", exact=1e-15, broken=0.5, control="operator", members=3):
    rows = [
        {"identity": identity, "form": "outputs", "exact": True, "assumptions": "met",
         "relative_error": exact},
        {"identity": identity, "form": control, "exact": False, "assumptions": "broken",
         "relative_error": broken},
        {"identity": "another", "form": "outputs", "exact": True, "assumptions": "met",
         "relative_error": 1.0},
    ]  # fmt: skip
    common = vars(update.Settings()) | {
        "standard_error": 0.0,
        "layer": 1,
        "entries": 4,
        "cell": "a",
    }
    return pd.DataFrame([common | row | {"member": m} for row in rows for m in range(members)])


def estimated(square=1.0, spread=0.3, error=0.05, halved=100.0, networks=12, seed=0):
    """Errors whose mean square, in standard errors, varies from network to network."""
    random = np.random.default_rng(seed)
    settings = vars(update.Settings(loss="simple", batches=40, seed=seed))
    rows = []
    for member in range(networks):
        for form, mean in (("outputs", square), ("operator", square), (HALVED, halved)):
            for layer in (1, 2, 3):
                off = error * (mean * np.exp(spread * random.normal())) ** 0.5
                rows.append(settings | {
                    "identity": "covariance", "form": form, "exact": False, "layer": layer,
                    "assumptions": "broken" if form == HALVED else "met", "relative_error": off,
                    "standard_error": error, "entries": 4, "cell": f"a{seed}", "member": member,
                })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("claim", [claim.name for claim in EXPERIMENT.claims[:-1]])
@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "holds"),
        ({"exact": 1e-8}, "fails"),
        ({"exact": float("nan")}, "fails"),
        ({"broken": 1e-4}, "open"),
        ({"control": OTHER}, "holds"),
    ],
)
def test_the_rule_on_identities(claim, changes, verdict):
    at = [claim.name for claim in EXPERIMENT.claims].index(claim)
    (first, *_) = EXPERIMENT.claims[at].rule.judge.options["identities"]
    found = judge(EXPERIMENT, made_up(first, **changes), at)
    assert (found.verdict, found.of, found.n) == (verdict, "comparisons", 3)
    assert found.interval is None
    assert "of 3 comparisons agree" in found.reason  # those of another identity do not count
    assert judge(EXPERIMENT, made_up("another", **changes), at).verdict == "open"


def test_without_a_control_an_identity_stays_open():
    table = made_up()
    assert judge(EXPERIMENT, table[table["assumptions"] == "met"], COVARIANCE).verdict == "open"
    halved = table.assign(
        form=table["form"].replace("operator", HALVED)
    )  # no control of an identity
    assert judge(EXPERIMENT, halved, COVARIANCE).verdict == "open"


def test_every_claim_has_a_theorem_and_every_identity_a_claim():
    names = [
        name for claim in EXPERIMENT.claims[:-1] for name in claim.rule.judge.options["identities"]
    ]
    assert len(names) == len(set(names)) == 6
    assert all("docs/theory.md" in claim.reference for claim in EXPERIMENT.claims)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "holds"),
        ({"square": 4.0}, "fails"),
        ({"square": 2.0}, "open"),
        ({"spread": 3.0}, "open"),
        ({"halved": 1.2}, "open"),  # a wrong prediction passes
        ({"error": 0.12}, "open"),  # too vague to tell
        ({"networks": 11}, "open"),
    ],
)
def test_the_rule_on_estimates(changes, verdict):
    found = judge(EXPERIMENT, estimated(**changes), ESTIMATES)
    assert (found.verdict, found.of) == (verdict, "sets of samples")
    assert found.n == changes.get("networks", 12)
    assert ("3 of" in found.reason or "36 of 36" in found.reason) == ("error" in changes)


def test_seeds_are_more_samples_and_other_networks_on_the_same_ones_are_not():
    table = pooled(pd.concat([estimated(networks=6, seed=seed) for seed in (3, 4)]))
    found = judge(EXPERIMENT, table, ESTIMATES)
    assert (found.verdict, found.n) == ("holds", 12)
    twice = pd.concat([table, table.assign(network="tree", cell="b" + table["cell"])])
    digits = estimated(networks=20).assign(data="digits")  # all of the same images
    assert judge(EXPERIMENT, pd.concat([twice, digits]), ESTIMATES).n == 13


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
    others = table[table["form"] == OTHER]
    assert (len(others) > 0) == (changes == {"loss": "pair", "network": "tree"})
    assert (others["relative_error"] > BROKEN).all()
    broken = table[(table["assumptions"] == "broken") & ~table["form"].isin([HALVED, OTHER])]
    assert (broken.groupby("identity")["relative_error"].median() > BROKEN).all()
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
    assert (errors() > BROKEN).all()


def test_where_an_array_of_all_pairs_is_too_large_fewer_are_compared(monkeypatch):
    settings = update.Settings(members=2, network="mlp", units=4)
    ((_, network),), data, _ = update.networks_and_data(settings, CPU)
    count = _update_comparisons.few_enough(settings, network, data, "weights.1")[0].shape[1]
    assert count == settings.batch
    # 2 members x (4 x 4) entries x 4 outputs for each pair
    monkeypatch.setattr(_update_comparisons, "MOST_NUMBERS", 5 * 128 + 3)
    first, second = _update_comparisons.few_enough(settings, network, data, "weights.1")
    assert first.shape[1] == second.shape[1] == 5


@pytest.mark.slow
def test_estimates_can_tell_a_prediction_that_is_halved():
    settings = update.Settings(loss="simple", batches=40, batch=1024, members=2, network="mlp")
    table = update.run_cell(settings, CPU, ProgressListener()).table
    off = table["relative_error"] / table["standard_error"]
    right = table["form"] != HALVED
    assert (table["standard_error"] < PRECISE).all()
    assert (off[right] ** 2).mean() < EXCESS
    assert (off[~right] ** 2 > EXCESS).all()
    assert (~right).sum() == 2 * settings.layers


@pytest.mark.slow
def test_a_run_without_scikit_learn_names_what_it_left_out(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    settings = {"data": ["digits"], "loss": "simple", "batches": 2, "network": "mlp"}
    run = dualnets.run("update", scale="smoke", out=tmp_path, device="cpu", **settings)
    assert run.verdicts[0].verdict == "open"
    assert run.table.empty
    page = (run.folder / "index.html").read_text()
    assert "scikit-learn is not installed" in page
    assert update.headline(run.table) == "left out"


@pytest.mark.slow
def test_a_run_leaves_figure_and_page(tmp_path):
    common = {"out": tmp_path, "device": "cpu", "members": 1, "network": "mlp"}
    run = dualnets.run(
        "update", scale="smoke", data=["tree", "irregular"], loss="simple", batch=1024, **common
    )
    assert (run.folder / "update.png").exists()
    assert judge(EXPERIMENT, run.table, COVARIANCE).verdict == "holds"
    assert [verdict.name for verdict in run.verdicts] == [claim.name for claim in EXPERIMENT.claims]
    summary = summary_table(run.table)
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
