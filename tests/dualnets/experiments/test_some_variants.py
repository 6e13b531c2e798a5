"""A run of some variants alone: every rule, figure and short table of an ablation bears it."""

import pytest
from test_experiment_figures import EVERY, made_up

from dualnets import experiments

# their rules read what the made-up tables do not have
NOT_JUDGED = ("augmentation", "samples")


@pytest.mark.parametrize("name", sorted({*EVERY} - {*NOT_JUDGED}))
@pytest.mark.parametrize("at", [0, pytest.param(-1, marks=pytest.mark.slow)])
def test_one_variant_alone_is_judged_open(name, at):
    experiment, table = experiments.load(name), made_up(name, alike=False)
    alone = table[table["variant"] == table["variant"].unique()[at]]
    for verdict in experiment.verdicts(alone, "only some of the variants: no verdict"):
        assert verdict.verdict == "open"
        assert verdict.reason.startswith("only some of the variants: no verdict")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVERY))
def test_one_variant_alone_is_drawn(name):
    experiment, table = experiments.load(name), made_up(name, alike=False)
    for variant in table["variant"].unique()[::4]:
        assert experiment.plot(table[table["variant"] == variant]).axes
