"""Draws and posteriors have the same bits on one thread and on two; probes have the same numbers."""

import numba
import numpy as np
import pandas as pd
import pytest
import torch

import hltm
from hltm.probe import measure

TREES = hltm.symmetric_binary(depth=4, members=2, seed=0)
ROWS = 6000


@pytest.fixture
def on_threads():
    """Runs a function with a number of threads of torch and numba."""
    given = torch.get_num_threads(), numba.get_num_threads()

    def run(threads, function):
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        return function()

    yield run
    torch.set_num_threads(given[0])
    numba.set_num_threads(given[1])


def draws():
    draw = TREES.sample(ROWS, seed=1)
    views = TREES.views(draw, hltm.drop_leaves(0.3))
    return [draw.states, *(view.leaves for view in views)]


def posteriors():
    found = TREES.posterior(TREES.sample(ROWS, seed=1).leaves)
    return [found.marginals, found.log_evidence]


@pytest.mark.parametrize("function", [draws, posteriors])
def test_the_number_of_threads_changes_no_bit(function, on_threads):
    one, two = (on_threads(threads, function) for threads in (1, 2))
    assert all(map(torch.equal, one, two))


@pytest.mark.slow
def test_probes_are_the_same_up_to_rounding_and_on_as_many_threads_the_same_bits(on_threads):
    def probe():
        draw = TREES[0].sample(ROWS, seed=1)
        units = np.random.default_rng(0).normal(size=(ROWS, 70)).astype("f4")
        return measure({"a": units + np.asarray(draw.leaves)[:, :1]}, TREES[0], draw=draw)

    one, two, again = (on_threads(threads, probe) for threads in (1, 2, 2))
    pd.testing.assert_frame_equal(two, again, check_exact=True)
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-6)
