"""The main job at its default scale gives the numbers that the README reports (minutes)."""

import pytest

import dualnets
from dualnets.experiments.emergence import _emergence as emergence

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return dualnets.run("emergence", out=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def means(run):
    """(network, units, augment) -> level -> mean initial, final and ceiling."""
    last = emergence.by_level(run.table)
    keys = ["network", "units", "augment"]
    return {
        key: part.groupby("level")[["initial", "value", "ceiling"]].mean()
        for key, part in last.groupby(keys)
    }


def test_the_claim_holds(run):
    assert run.verdicts[0].verdict == "holds"
    assert run.verdicts[0].interval[0] > 0.7


def test_tree_networks_come_near_their_ceilings(means):
    found = means["tree", 10, "keep-root"]
    reached = found["value"] / found["ceiling"]
    start = found["initial"] / found["ceiling"]
    for level, least in {1: 0.99, 2: 0.93, 3: 0.91, 4: 0.91, 5: 0.91}.items():
        assert reached[level] >= least
    assert start[5] < 0.7


def test_dense_networks_rise_at_the_upper_levels(means):
    found = means["mlp", 64, "keep-root"]
    assert (found["value"][[3, 4, 5]] > 0.80).all()
    assert (found["initial"][[3, 4, 5]] < 0.72).all()


def test_nothing_emerges_in_the_control(means):
    found = means["tree", 10, "keep-nothing"]
    assert (found["value"] < found["initial"] + 0.005).all()


def test_narrow_roots_are_of_two_kinds(run):
    last = emergence.by_level(run.table)
    narrow = last[(last["network"] == "tree") & (last["units"] == 2) & (last["level"] == 5)][
        "value"
    ]
    wide = last[(last["network"] == "tree") & (last["units"] == 5) & (last["level"] == 5)]["value"]
    assert narrow.std() > 2 * wide.std()
    assert (narrow < 0.3).any()
    assert (narrow > 0.6).any()
