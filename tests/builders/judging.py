"""Rules on made-up tables, which have no curves that could be flat."""

import dataclasses

from dualnets.lab.stats import NOTHING, Judgement
from dualnets.lab.verdicts import verdict_on


def judge(experiment, table, claim=0):
    """The verdict of one claim's rule, whatever became of the curves."""
    return verdict_on(dataclasses.replace(experiment.claims[claim], plateau=None), table)


def undecided(table):
    """A rule that finds nothing."""
    return Judgement("open", "nothing", "nothing", NOTHING, [], of="networks")
