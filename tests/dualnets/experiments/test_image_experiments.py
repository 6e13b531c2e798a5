"""Experiments on pictures: their claims beside those on trees, their rules on made-up tables, small runs."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge
from made_up_variants import joined, seeded

from dualnets import experiments
from dualnets.cli import main
from dualnets.experiments.byol._verdicts import variant_ends
from dualnets.experiments.images.image_byol import EXPERIMENT as IMAGE_BYOL
from dualnets.images import known
from dualnets.lab import grids
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.fields import with_columns
from dualnets.lab.rules import NETWORKS, TREES, claim_title
from dualnets.lab.variants import ACCURACY, RANK, SPREAD, lost_members
from dualnets.methods.byol import BYOL

NAMES = tuple(
    name for name in experiments.names() if name.startswith("image_") and name != "image_update"
)
VARIANTS = {"image_byol": 8, "image_batchnorm": 10, "image_losses": 7, "image_normalisation": 5,
            "image_reinit": 6}  # fmt: skip
WELL, FLAT = (0.1, 0.8), (0.0, 0.01)  # gain in accuracy, spread


def cell(
    variant, gain, spread, *, start=0.8, networks=6, noise=0.002, seed=0, steps=(0, 500, 1000)
):
    """The rows of one variant, as a cell leaves them."""
    rng = np.random.default_rng([seed, len(variant)])
    before = start + np.random.default_rng(9).normal(0, 0.01, networks)  # the same networks
    after = before + gain + rng.normal(0, noise, networks)
    rows = []
    for step, member in itertools.product(steps, range(networks)):
        common = {"cell": variant, "variant": variant, "member": member, "step": step, "level": 1}
        value = before[member] if step == 0 else after[member]
        own = spread + 0.001 * rng.normal() if step else 0.7
        for metric in (ACCURACY, "neighbours all", "linear few"):
            rows.append(common | {"node": "probe", "metric": metric, "value": value,
                                  "initial": before[member], "ceiling": 1.0, "n": 100})  # fmt: skip
        for metric, found in ((SPREAD, own), (RANK, 3.0)):
            rows.append(common | {"node": "embedding", "metric": metric, "value": found,
                                  "initial": 0.7, "ceiling": np.nan, "n": 100})  # fmt: skip
    return pd.DataFrame(rows)


def made_up(name, ends, **options):
    """A table of an experiment's default scale: variant -> (gain, spread); the others do well."""
    every = [grid["variant"].value for grid in experiments.load(name).grids["default"]]
    return joined(*(
        cell(variant, *ends.get(variant, WELL), seed=at, **options) for at, variant in enumerate(every)
    ))  # fmt: skip


def test_all_five_are_there():
    assert sorted(VARIANTS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_about_pictures_and_those_of_trees_beside_them_exist(name):
    experiment = experiments.load(name)
    titles = {
        claim_title(other, claim.name): claim
        for other in experiments.names()
        for claim in experiments.load(other).claims
    }
    partners = [claim.partner for claim in experiment.claims if claim.partner]
    assert partners
    for claim in experiment.claims:
        assert "On pictures" in claim.text
        assert claim.members is NETWORKS
        assert claim.rule.judge.options["members"] is NETWORKS
        assert "networks" in claim.rule.text
        assert "trees" not in claim.rule.text
        assert "fewer than 6" in claim.rule.text
        if claim.partner:
            assert titles[claim.partner].members is TREES
            assert titles[claim.partner].partner == ""


@pytest.mark.parametrize("name", NAMES)
def test_all_variants_work_with_made_up_numbers_that_say_so(name):
    experiment, table = experiments.load(name), made_up(name, {})
    for at, claim in enumerate(experiment.claims):
        found = judge(experiment, table, at)
        wanted = "fails" if claim.rule.judge.function.endswith(":needed") else "holds"
        assert (found.verdict, found.n, found.of) == (wanted, 6, "networks"), found.reason
    assert len(experiment.summary_table(table)) == VARIANTS[name]


def test_six_networks_decide_and_five_do_not():
    short = dict.fromkeys(("EMA BN", "BN"), FLAT)
    found = judge(IMAGE_BYOL, made_up("image_byol", short))
    assert (found.verdict, found.n) == ("holds", 6)
    assert found.effect_value == pytest.approx(0.5, abs=0.05)  # of 1 - 0.8
    few = judge(IMAGE_BYOL, made_up("image_byol", short, networks=5))
    assert (few.verdict, few.reason) == ("open", "5 networks are fewer than 6")
    both = seeded(made_up("image_byol", short, networks=12), (0, 1))
    assert judge(IMAGE_BYOL, both).n == 12


@pytest.mark.parametrize(
    ("ends", "verdict", "reason"),
    [
        ({}, "holds", "as good as"),
        ({"predictor BN": (0.097, 0.8)}, "holds", "as good as"),  # within the margin of a tenth
        ({"predictor BN": (0.08, 0.8)}, "fails", "`predictor BN` gains less"),
        ({"predictor BN": (0.09, 0.8)}, "open", "predictor BN"),  # on the border
        ({"predictor BN": (0.1, 0.01)}, "fails", "`predictor BN` collapses"),
        ({"predictor BN": (0.0, 0.8)}, "fails", "`predictor BN` learns nothing"),
        ({"predictor EMA BN": FLAT}, "open", "predictor EMA BN"),
    ],
)
def test_as_good_is_decided_by_students_test(ends, verdict, reason):
    found = judge(IMAGE_BYOL, made_up("image_byol", ends), 2)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    assert found.effect.startswith("accuracy against that of")


def test_growth_of_six_networks_is_told_from_chance_in_the_details_too():
    softmax, margin, _ = experiments.load("image_losses").verdicts(made_up("image_losses", {}))
    assert (len(softmax.details), len(margin.details)) == (3, 2)
    assert all(detail["p_grown"] < 0.01 for detail in [*softmax.details, *margin.details])


def test_a_gap_closes_to_an_accuracy_of_one_and_a_network_that_diverged_closes_nothing():
    table = made_up("image_byol", {}, start=0.9)
    end = variant_ends(table)["predictor EMA BN"]
    assert end.gap.value == pytest.approx(1.0, abs=0.1)  # 0.1 of 0.1
    bad = (table["variant"] == "BN") & (table["member"] == 2) & (table["step"] > 0)
    table.loc[bad, "value"] = np.nan
    assert lost_members(table) == {2}
    assert variant_ends(table)["BN"].found.value[2] == pytest.approx(0.9, abs=0.05)
    first, norm, _ = IMAGE_BYOL.verdicts(table)
    assert "diverged" not in norm.reason  # of variants that the claim is not about
    assert "1 of 6 networks diverged or collapsed, which leaves fewer than 6" in first.reason


@pytest.mark.parametrize("name", NAMES)
def test_variants_differ_in_what_they_say_and_every_scale_can_be_built(name):
    experiment = experiments.load(name)
    assert set(experiment.grids) == {"smoke", "default", "long", "fashion", "paper"}
    for scale in experiment.grids:
        found = grids.cells(experiment, scale, {})
        every = [(s.build_method(), s.build_network_norm(), s.network_weight_standardization)
                 for s in found]  # fmt: skip
        assert len(set(every)) == len(found)
        assert {s.members >= NETWORKS.fewest for s in found} == {True}
        assert len({(s.data, s.steps, s.seed, s.augment, s.batch) for s in found}) == 1
        if scale == "default":
            assert len(found) == VARIANTS[name]
    large = grids.cells(experiment, "paper", {})[0]
    network = dataclasses.replace(large, widths="2").build_network(
        large.shape, 0, torch.device("cpu")
    )
    assert (large.data, network.inputs, large.method) == ("cifar10", 3072, found[0].method)


def test_losses_compare_features_of_length_one_at_every_scale():
    experiment = experiments.load("image_losses")
    for scale in experiment.grids:
        for settings in grids.cells(experiment, scale, {}):
            assert settings.build_method().projector.widths == ()
            assert (settings.normalize, settings.momentum, settings.weight_decay) == (True, 0, 0)


@pytest.fixture
def nothing_found(monkeypatch):
    """A machine without data sets but the digits."""
    monkeypatch.delenv(known.VARIABLE, raising=False)
    for name, entry in known.KNOWN.items():
        monkeypatch.setitem(known.KNOWN, name, dataclasses.replace(entry, packaged=None))


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("image-losses", ["--data", "cifar10"]), ("image-byol", ["--scale", "fashion"]),
     ("image-update", ["--scale", "fashion"])],
)  # fmt: skip
def test_absent_pictures_are_one_line_before_any_work(
    name, options, workers, nothing_found, tmp_path, capsys
):
    assert main(["run", name, *options, "--workers", workers, "--out", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "is not found: put " in shown.err
    assert "--data-folder" in shown.err
    assert not list(tmp_path.rglob("*.parquet"))


def test_claims_on_absent_pictures_are_a_line_each_and_the_others_go_on(
    nothing_found, tmp_path, capsys
):
    assert main(["claims", "--scale", "fashion", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    *lines, last = shown.err.splitlines()
    every = [*NAMES, "image_update"]
    assert [line.partition(" could not be run: fashion-mnist is not found: put ")[0] for line in lines] == [
        f"hltm: {name}" for name in every
    ]  # fmt: skip
    assert last == f"hltm: not run: {', '.join(every)}"


@pytest.mark.parametrize("name", [*NAMES, "image_update"])
def test_help_and_members_are_in_words_of_pictures(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["run", name.replace("_", "-"), "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "image train settings:" in shown
    assert "image network settings:" in shown
    _, options = shown.split("options of the run:")
    assert not {"tree", "trees", "leaves", "latent", "latents"} & set(options.split())
    assert "crop:0.5" in options
    assert "(default: default)" in options
    assert experiments.load(name).Settings.MEMBERS == "networks"


def test_combinations_are_those_of_trees():
    for settings in grids.cells(IMAGE_BYOL, "default", {}):
        method, name = settings.build_method(), settings.variant.split()
        assert isinstance(method, BYOL)
        assert ("predictor" in name) == (method.predictor is not None)
        assert ("EMA" in name) == (method.target == "ema")
        assert ("BN" in name) == (method.projector.norm is not None)


def small(name, **changes):
    """The table of a few cells of the smoke scale."""
    experiment, parts = experiments.load(name), []
    tiny = {"members": [2], "steps": [2], "probe_samples": [100], "evaluation_samples": [50]}
    for settings in grids.cells(experiment, "smoke", tiny | changes)[:: 3 if changes else 1]:
        made = experiment.run_cell(settings, torch.device("cpu"), ProgressListener())
        made.table.insert(0, "cell", settings.variant)
        parts.append(with_columns(made.table, settings))
        assert made.notes == []
        assert len(experiment.headline(made.table).split(" -> ")) == 2
    return experiment, pd.concat(parts, ignore_index=True)


def check_run(experiment, table):
    scores = table[table["node"] == "probe"]
    assert set(scores["metric"]) == {ACCURACY, "neighbours all", "linear few", "neighbours few"}
    assert scores["value"].between(0, 1).all()
    assert (scores["ceiling"] == 1).all()
    first = scores[scores["step"] == 0]
    assert (first["value"] == first["initial"]).all()
    shown = experiment.summary_table(table)
    assert len(shown) == table["variant"].nunique()
    assert "networks" in shown.attrs["caption"]
    figure = experiment.plot(table)
    figure.canvas.draw()
    assert len(figure.axes) == 12 + 4  # the strip of views, and the panels
    assert all(verdict.verdict == "open" for verdict in experiment.verdicts(table))


def test_a_small_run_from_pictures_to_figure():
    check_run(*small("image_byol", seed=[3]))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_small_runs_of_all(name):
    check_run(*small(name))
