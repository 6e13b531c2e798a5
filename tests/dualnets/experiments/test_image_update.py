"""The experiment `image_update`: its rules on made-up tables, its rows, finite sets and controls."""

import numpy as np
import pandas as pd
import pytest
import torch
from few import few
from judging import judge

import dualnets
from dualnets import experiments, theory
from dualnets.experiments.images import _image_update as code
from dualnets.experiments.images._image_update_rules import COSINE, summary_table
from dualnets.experiments.images.image_update import REFERENCES, RESIDUE, STRENGTHS, Settings
from dualnets.experiments.theorems._update_comparisons import HALVED
from dualnets.experiments.theorems.update import BROKEN
from dualnets.lab.experiment import ProgressListener

pytest.importorskip("sklearn")
CPU = torch.device("cpu")
READ = (
    "measure",
    "data",
    "network",
    "widths",
    "loss",
    "negatives",
    "gain",
    "temperature",
    "normalize",
    "bias",
    "lr",
    "steps",
    "seed",
)  # settings that rules read; others would take time
EXPERIMENT = experiments.load("image-update")
AT = {claim.name: at for at, claim in enumerate(EXPERIMENT.claims)}
SMALL = {"members": 2, "widths": "4-6", "pictures": 6, "views": 2, "seed": 1000}


def cell(**changes):
    settings = Settings(**SMALL | changes)
    table = code.run_cell(settings, CPU, ProgressListener()).table
    own = {name: value for name, value in vars(settings).items() if name not in table}
    return table.assign(cell=str(settings), **own)


def rows(settings, networks, columns, **place):
    columns = columns | {"member": range(networks)}
    common = {name: code.EMPTY[kind] for name, kind in code.COLUMNS.items()}
    common |= {name: getattr(settings, name) for name in READ}
    common = {name: value for name, value in (common | place).items() if name not in columns}
    return pd.DataFrame(columns).assign(cell=str(settings), **common)


def test_every_claim_has_its_partner_on_trees():
    for claim in EXPERIMENT.claims:
        name, _, own = claim.partner.partition(": ")
        assert own in [other.name for other in experiments.load(name).claims]
        assert claim.members.of == "networks"


@pytest.mark.parametrize("data", ["default", "fashion"])
def test_the_verdict_scales_have_enough_networks(data):
    from dualnets.lab import grids

    cells = grids.cells(EXPERIMENT, data, {})
    decided = [s for s in cells if s.measure == RESIDUE or (s.loss == "simple" and s.batches)]
    assert {s.members for s in decided} == {12}
    assert {s.measure for s in decided} == {"update", RESIDUE}
    assert {s.normalize for s in decided if s.steps} == {False, True}


@pytest.mark.parametrize(
    "changes",
    few(
        [
            {"loss": "pair", "batch": 6, "bias": True},
            {"loss": "simple", "normalize": True},
            {"loss": "ntxent", "batches": 2, "batch": 8, "normalize": True},
            {"loss": "simple", "batches": 3, "batch": 8},
            {"loss": "pair", "batch": 6},
            {"loss": "simple"},
            {"loss": "infonce", "bias": True},
            {"loss": "triplet", "batches": 2, "batch": 8},
            {"loss": "batchwise-nce", "batches": 2, "batch": 8},
        ],
        4,
    ),
    ids=str,
)
def test_a_cell_compares_every_convolution(changes):
    table = cell(**changes)
    assert list(table.columns[: len(code.COLUMNS)]) == list(code.COLUMNS)
    assert set(table["layer"]) == {1, 2}
    assert set(table["member"]) == {0, 1}
    exact = table[table["exact"]]
    assert (exact["relative_error"] < 1e-11).all()
    assert (len(exact) > 0) == (changes != {"loss": "simple", "batches": 3, "batch": 8})
    broken = table[(table["assumptions"] == "broken") & (table["form"] != HALVED)]
    assert (len(broken) > 0) == bool({"bias", "normalize"} & changes.keys())
    assert (broken.groupby("identity")["relative_error"].median() > BROKEN).all()
    assert "comparisons" in code.headline(table)


def test_a_wrong_connection_is_found(monkeypatch):
    explicit = theory.Connection.explicit
    monkeypatch.setattr(theory.Connection, "explicit", lambda found: explicit(found).flip(-2))
    table = cell(loss="pair", batch=6)
    assert (table["relative_error"] > BROKEN).all()
    assert judge(EXPERIMENT, table, AT["pair"]).verdict == "fails"


def test_identities_hold_with_a_control_and_are_open_without():
    plain, broken = cell(loss="simple"), cell(loss="simple", bias=True)
    both = pd.concat([plain, broken], ignore_index=True)
    found = judge(EXPERIMENT, both, AT["covariance"])
    assert (found.verdict, found.of) == ("holds", "comparisons")
    assert judge(EXPERIMENT, plain, AT["covariance"]).verdict == "open"
    assert judge(EXPERIMENT, both, AT["weighted-pairs"]).verdict == "open"


def test_every_network_counts_in_estimates():
    """Unlike on the digits of `update`, networks have pictures and views of their own."""
    settings = Settings(loss="simple", batches=20)
    parts = [
        rows(settings, 12, {"relative_error": np.full(12, off), "layer": np.ones(12)}, form=form,
             identity="covariance", standard_error=0.05, assumptions="met")
        for form, off in (("outputs", 0.05), (HALVED, 0.5))
    ]  # fmt: skip
    found = judge(EXPERIMENT, pd.concat(parts), AT["estimates"])
    assert (found.verdict, found.n, found.of) == ("holds", 12, "sets of samples")


def untrained(order=1.0, networks=12, spread=0.004):
    random = np.random.default_rng(0)
    parts = []
    for at in REFERENCES[:2]:
        for strength in STRENGTHS[-4:]:
            settings = Settings(measure=RESIDUE, strength=strength, **at)
            for layer in (1.0, 2.0):
                variance = strength**2 * random.uniform(0.5, 2, networks)
                residue = variance**order * np.exp(spread * random.normal(size=networks))
                columns = {"variance": variance, "residue": residue, "update": np.ones(networks)}
                parts.append(rows(settings, networks, columns, layer=layer))
    return pd.concat(parts, ignore_index=True)


def trained(cosine=0.95, worst=None, other=0.1, networks=12):
    random = np.random.default_rng(0)
    parts = []
    for normalize in (False, True):
        settings = Settings(measure=RESIDUE, steps=100, normalize=normalize)
        middle = worst if normalize and worst is not None else cosine
        own = middle + 0.02 * random.normal(size=networks)
        for step in (0, 10, 100):
            columns = {COSINE: own, "other": np.full(networks, other), "unweighted": own}
            parts.append(rows(settings, networks, columns, layer=0.0, step=step))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [({}, "holds"), ({"order": 2.0}, "holds"), ({"order": 0.5}, "fails"), ({"networks": 8}, "open"),
     ({"spread": 0.9}, "open")],
)  # fmt: skip
def test_the_rule_on_the_rate(changes, verdict):
    found = judge(EXPERIMENT, untrained(**changes), AT["rate"])
    assert (found.verdict, found.of) == (verdict, "networks")
    assert "networks" in found.reason or "4 layers of 2 settings" in found.reason


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [({}, "holds"), ({"worst": 0.5}, "fails"), ({"worst": 0.9}, "open"), ({"other": 0.99}, "open"),
     ({"networks": 8}, "open")],
)  # fmt: skip
def test_the_rule_on_the_guide(changes, verdict):
    found = judge(EXPERIMENT, trained(**changes), AT["guide"])
    assert (found.verdict, found.of) == (verdict, "networks")
    assert "dealt at random" in found.reason or "12 networks" in found.reason
    for detail in found.details:
        assert detail["of_views_dealt_at_random"] == pytest.approx(changes.get("other", 0.1))


def test_a_residue_is_measured_on_the_networks_own_finite_set():
    settings = Settings(**SMALL | {"measure": RESIDUE, "gain": 2.0})
    table = code.run_cell(settings, CPU, ProgressListener()).table
    images = settings.build_images()
    source = theory.ImageViews(images, settings.build_augmentation())
    network = settings.build_network(images, 1000, CPU)
    for weight in network.weights:
        weight.data *= 2
    for member in (0, 1):
        one = code.take(network, member, member + 1).double()
        views = source.table(6, 2, seed=1000, member=member)
        for layer in (1, 2):
            operator = theory.pairwise_operator(one, views, layer, settings.build_loss())
            exact, form = (part.on_outputs().value for part in (operator.exact, operator.weighted))
            own = table[(table["layer"] == layer) & (table["member"] == member)]
            assert own["residue"].item() == pytest.approx(float((exact - form).norm()))
            assert own["update"].item() == pytest.approx(float(exact.norm()))
            cosine = torch.nn.functional.cosine_similarity(exact, form, dim=-1)
            assert own[COSINE].item() == pytest.approx(float(cosine))


def test_views_are_dealt_without_a_change_of_their_distribution():
    settings = Settings(**SMALL)
    source = theory.ImageViews(settings.build_images(), settings.build_augmentation())
    table = code.finite_set(settings, source, 0)
    moved = code.dealt(table, seed=0)
    assert moved.leaves is table.leaves
    assert torch.allclose(moved.marginal, table.marginal)
    assert not moved.positive_pairs().equal(table.positive_pairs())
    assert (moved.view > 0).sum(-1).eq(2).all()


def test_networks_are_measured_along_training():
    table = cell(measure=RESIDUE, steps=3, snapshots=2, augment="light:0.4")
    assert set(table["step"]) == {0, 3}
    assert table[["other", COSINE, "variance"]].notna().all(axis=None)
    assert "cosine" in code.headline(table)
    summary = summary_table(table)
    assert summary["what"].tolist() == ["infonce, raw outputs"]


@pytest.mark.slow
def test_the_smoke_scale_runs(tmp_path):
    run = dualnets.run("image-update", scale="smoke", device="cpu", out=tmp_path)
    assert [verdict.verdict for verdict in run.verdicts] == ["open"] * 7
    assert (run.folder / "image_update.png").exists()
    assert judge(EXPERIMENT, run.table, AT["covariance"]).verdict == "holds"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batches": 1}, "one batch has no standard error"),
        ({"loss": "ntxent"}, "ntxent is a loss of whole batches"),
        ({"measure": RESIDUE, "loss": "simple"}, "triplet or infonce, got loss simple"),
        ({"augment": "flip+grey"}, "grey needs pictures of 3 channels"),
        ({"strength": 0.0}, "strength"),
    ],
)
def test_settings_that_make_no_sense(changes, text):
    with pytest.raises(ValueError, match=text):
        Settings(**changes)
