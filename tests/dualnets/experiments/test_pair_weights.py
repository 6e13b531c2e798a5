"""Fixed pair weights and the intra-pair term: the rules on made-up tables, and one small run."""

import pytest
from judging import judge
from made_up_variants import cell, joined
from tiny_runs import few_cells

from dualnets.experiments import load
from dualnets.experiments.objectives.pair_weights import LESS, MORE, SAMPLES, VIEWS

LEVELS = (1, 2, 3)
GAINS = {"ntxent": 0.2, VIEWS: 0.2, SAMPLES: 0.2, MORE: 0.25, LESS: 0.1}


def made_up(gains, trees=14, **options):
    return joined(*(
        cell(name, gain, trees=trees, levels=LEVELS, seed=at, **options)
        for at, (name, gain) in enumerate(gains.items())
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "trees", "expected"),
    [
        ({}, 14, ("holds", "holds", "holds")),
        ({SAMPLES: 0.12, LESS: 0.0}, 14, ("holds", "fails", "holds")),
        ({VIEWS: 0.0, SAMPLES: 0.0, LESS: 0.1, MORE: -0.1}, 14, ("fails", "holds", "fails")),
        ({SAMPLES: 0.2, MORE: 0.1}, 14, ("holds", "holds", "open")),
        # other variants decide nothing
        ({"ntxent": -0.2, LESS: -0.2}, 14, ("holds", "holds", "holds")),
        ({}, 11, ("open", "open", "open")),
    ],
)
def test_the_rules(changed, trees, expected):
    experiment, table = load("pair_weights"), made_up(GAINS | changed, trees)
    found = [judge(experiment, table, claim) for claim in range(3)]
    assert tuple(each.verdict for each in found) == expected
    assert {each.n for each in found} == {trees}


def test_what_was_not_run_is_not_compared():
    table = made_up({VIEWS: 0.2, MORE: 0.2})
    for claim in (1, 2):
        assert judge(load("pair_weights"), table, claim).verdict == "open"


def test_only_what_a_claim_is_about_must_be_flat():
    table = made_up(GAINS, steps=(0, 5, 10))
    parts = [
        {each["part"] for each in found.plateau} for found in load("pair_weights").verdicts(table)
    ]
    terms = {f"{MORE} less {SAMPLES}", f"{SAMPLES} less {LESS}"}
    assert parts == [
        {VIEWS, SAMPLES}, {VIEWS, SAMPLES, f"{SAMPLES} less {VIEWS}"}, {MORE, SAMPLES, LESS, *terms},
    ]  # fmt: skip


@pytest.mark.slow
def test_small_cells():
    table, _ = few_cells(load("pair_weights"), lambda own: True, members=2, steps=5)
    settings = table.drop_duplicates("variant").set_index("variant")
    assert settings.loc[MORE, ["loss", "weights_from", "intra_pair"]].tolist() == [
        "covariance", "samples", 0.5,
    ]  # fmt: skip
    last = table[(table["metric"] == "correlation") & (table["step"] == 5)]
    assert last.groupby("variant")["value"].mean().nunique() == 8
