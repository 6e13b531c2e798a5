"""The experiment on linear BYOL: alignment by closed forms, and its three rules on a small run, spoilt."""

import numpy as np
import pandas as pd
import pytest
from judging import judge
from scipy.stats import ortho_group
from tiny_runs import drawn_once

import dualnets
from dualnets import experiments
from dualnets.experiments.byol import _byol_linear as byol_linear
from dualnets.experiments.byol import _byol_linear_alignment as aligning
from dualnets.lab import grids
from dualnets.lab.plateau import changes
from dualnets.theory.byol.linear_byol import Path

EXPERIMENT = experiments.load("byol_linear")
BALANCE, COLLAPSE, ALIGNMENT = range(3)
STARTS = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    with drawn_once():
        return dualnets.run("byol_linear", scale="smoke", out=out, points=3, members=STARTS)


def test_it_holds(run):
    for claim, effect in ((BALANCE, 0.5), (COLLAPSE, 1.0), (ALIGNMENT, 1.0)):
        found = judge(EXPERIMENT, run.table, claim)
        assert (found.verdict, found.of, found.n) == ("holds", "starts", STARTS), found.reason
        assert found.effect_value == pytest.approx(effect, abs=0.05)
    assert (run.folder / "byol_linear.svg").exists()
    modes = run.table[run.table["quantity"] == "mode"]
    assert (modes["value"] - modes["predicted"]).abs().max() < 1e-9
    phase = run.table[run.table["quantity"] == "phase"]
    gone = byol_linear.collapsed(phase)
    assert gone.any()
    assert not gone.all()


def test_ends_are_compared_with_those_after_half_of_the_time(run):
    assert EXPERIMENT.claims[BALANCE].plateau is None
    for claim, parts in ((COLLAPSE, 1), (ALIGNMENT, 1)):
        found = changes(EXPERIMENT.claims[claim].plateau, run.table)
        assert len(found) == parts
        assert all(change.flat and np.isfinite(change.half) for change in found)
    early = run.table[~(run.table["step"] > 0.02)]  # alignment only begins
    found = changes(EXPERIMENT.claims[ALIGNMENT].plateau, early)
    assert not any(change.flat for change in found)


def test_every_network_counts_once_and_is_another(run):
    found = byol_linear.networks(run.table)
    phase = run.table[(run.table["quantity"] == "phase") & (run.table["step"] == 1)]
    assert len(found) == STARTS * 3 * 2  # decays, rates
    assert len(phase) == 4 * len(found)
    edges = run.table[run.table["quantity"] == "edge"]
    assert edges.groupby("target_rate")["value"].nunique().eq(4 * STARTS).all()  # no start twice
    at_once = phase.groupby(["target_rate", "step_decay", "member"])["value"]
    assert (at_once.max() > 100 * at_once.min()).any()  # a network that loses some of its modes
    survivors = phase[~byol_linear.collapsed(phase)]
    rest = 1 / (4 * 1.2**2)
    assert (survivors[survivors["step_decay"] < 0.1]["value"] > rest).all()


def test_a_network_with_one_wrong_mode_is_wrong(run):
    table = run.table.copy()
    one = (table["quantity"] == "phase") & (table["mode"] == 2)
    table.loc[one, "value"] = np.where(byol_linear.collapsed(table[one]), 1.0, 0.0)
    assert not byol_linear.networks(table)["agrees"].any()
    assert judge(EXPERIMENT, table, COLLAPSE).verdict == "fails"


@pytest.mark.parametrize(
    ("spoil", "claim", "verdict"),
    [("drift", BALANCE, "fails"), ("sgd", BALANCE, "open"), ("phase", BALANCE, "open"),
     ("edge", COLLAPSE, "fails"), ("paths", COLLAPSE, "open"), ("few", COLLAPSE, "open"),
     ("half", COLLAPSE, "open"), ("paths", ALIGNMENT, "open"),
     ("null", ALIGNMENT, "fails"), ("few", ALIGNMENT, "open"), ("noisy", ALIGNMENT, "open")],
)  # fmt: skip
def test_the_rules(run, spoil, claim, verdict):
    table = run.table.copy()
    quantity = table["quantity"]
    aligned = quantity == "alignment"
    if spoil == "drift":
        table.loc[table["source"] == "integrated", "value"] += 1e-6
    elif spoil == "edge":  # the collapse predicted is another
        table.loc[quantity == "phase", "predicted"] = (
            1 - table.loc[quantity == "phase", "predicted"]
        )
    elif spoil == "sgd":
        coarse = table[table["source"] == "sgd lr / 1"]["value"].to_numpy()
        table.loc[table["source"] == "sgd lr / 2", "value"] = coarse
    elif spoil == "null":  # no more than random bases
        table.loc[aligned, "value"] = table.loc[aligned, "null"]
    elif spoil == "noisy":  # above its null, but how far is not known
        half = aligned & (table["member"] % 2 == 0)
        table.loc[half, "value"] = table.loc[half, "null"] + 0.01
        table.loc[aligned & ~half, "null"] = 0.3
    elif spoil == "half":  # some starts are wrong everywhere
        of_two = (quantity == "phase") & (table["member"] < 2)
        table.loc[of_two, "predicted"] = 1 - table.loc[of_two, "predicted"]
    elif spoil == "few":
        table = table[table["member"] < np.where(aligned, 11, 7)]
    elif spoil == "phase":
        table = table[quantity.isin(["phase", "edge"])]
    else:
        table = table[quantity.isin(["conserved", "mode"])]
    found = judge(EXPERIMENT, table, claim)
    assert found.verdict == verdict, found.reason


def test_networks_of_several_seeds_add_up(run):
    table = run.table.assign(member=run.table["member"] + STARTS)
    cells = table["cell"].astype(str) + "b"
    both = pd.concat([run.table, table.assign(cell=cells)], ignore_index=True)
    for claim in (BALANCE, COLLAPSE, ALIGNMENT):
        alone, pooled = (judge(EXPERIMENT, rows, claim) for rows in (run.table, both))
        assert (pooled.verdict, pooled.n) == (alone.verdict, 2 * alone.n)
    same = run.table.assign(cell=cells, predictor_rate=2.0)  # the same starts at another rate
    both = pd.concat([run.table, same], ignore_index=True)
    for claim in (BALANCE, COLLAPSE, ALIGNMENT):
        found = judge(EXPERIMENT, both, claim)
        assert (found.verdict, found.n) == ("holds", STARTS)


def test_alignment_is_a_cosine_that_is_known_in_two_dimensions():
    turn = 0.3
    c, s = np.cos(turn), np.sin(turn)
    basis = np.array([[c, -s], [s, c]])
    a, b = 3.0, 1.0
    expected = [
        (a * c**2 + b * s**2) / np.hypot(a * c, b * s),
        (a * s**2 + b * c**2) / np.hypot(a * s, b * c),
    ]
    for weights in ([1.0, 1.0], [1.0, 0.0], [0.25, 0.75]):
        found = aligning.alignment(np.diag([a, b]), basis, np.array(weights))
        assert found == pytest.approx(np.average(expected, weights=weights), abs=1e-12)
    assert aligning.alignment(np.zeros((2, 2)), basis, np.ones(2)) == 0


def test_a_predictor_with_the_inputs_eigenvectors_is_aligned_and_a_turned_one_is_at_the_null():
    rng = np.random.default_rng(0)
    online = rng.standard_normal((1, 64, 4, 6))
    moment = np.diag([3.0, 2.0, 1.0, 1.0, 0.5, 0.2])
    correlation = online @ moment @ np.swapaxes(online, -1, -2)
    vectors = np.linalg.eigh(correlation)[1]
    modes = np.diag([0.1, -0.4, 1.0, 2.0])
    shared = vectors @ modes @ np.swapaxes(vectors, -1, -2)
    turned = [q @ modes @ q.T for q in ortho_group.rvs(4, size=64, random_state=1)]
    for predictor, expected in ((shared, 1.0), (np.array(turned)[None], None)):
        found = aligning.aligned(Path(np.zeros(1), predictor, online, online), moment, seed=0)
        if expected is not None:
            assert found.value == pytest.approx(expected, abs=1e-9)
            assert found.null.max() < 0.8
        else:
            difference = (found.value - found.null)[0]
            assert abs(difference.mean()) < 3 * difference.std() / 8


@pytest.mark.parametrize("scale", ["default", "paper"])
def test_seeds_that_did_not_choose_the_alignment_decide_it(scale):
    seeds = {}
    for settings in grids.cells(EXPERIMENT, scale, {}):
        seeds.setdefault(settings.part, set()).add(settings.seed)
    assert seeds == {"paths": {0}, "phase": {0}, "alignment": {2, 3}}


def test_settings_are_checked():
    with pytest.raises(ValueError, match="features 9 must not exceed inputs 6"):
        byol_linear.Settings(features=9)


def test_the_summary_has_every_part(run):
    found = byol_linear.summary_table(run.table)
    assert isinstance(found, pd.DataFrame)
    assert set(found["what"]) == {
        "drift of e^(2ηt) D", "modes, |matrix - mode|", "modes lost where predicted",
        "alignment, isotropic data",
    }  # fmt: skip
    assert np.isfinite(found["n"]).all()
