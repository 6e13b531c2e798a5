"""The compiled decisions whether views miss leaves equal those of the reference, at any rows."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hltm.sampling.kernels.missing import missing, words
from hltm.sampling.kernels.request import decision_limits
from hltm.sampling.philox import MAX_ROWS, words_at


@given(
    rows=st.one_of(
        st.lists(st.integers(0, 300), max_size=70),
        st.lists(st.integers(0, MAX_ROWS - 1), max_size=40),
        st.builds(
            lambda start, count: list(range(start, start + count)),
            st.integers(0, MAX_ROWS - 200),
            st.integers(0, 150),
        ),
    ),
    rates=st.lists(st.sampled_from([0.0, 1e-12, 1e-9, 0.2, 0.5, 0.999, 1.0]), max_size=4),
    seed=st.integers(0, 2**64 - 1),
    members=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True),
    view=st.integers(0, 2**24 - 1),
    stream=st.integers(0, 255),
)
@settings(max_examples=60, deadline=None)
def test_it_equals_the_reference(rows, rates, seed, members, view, stream):
    nodes = np.arange(len(rates)) * 70_001
    limits = decision_limits(np.array(rates))
    address = {"seed": seed, "stream": stream, "members": members, "view": view}
    found = missing(np.array(rows, dtype=np.int64), limits, nodes, **address)
    assert found.shape == (len(members), len(rates), len(rows))
    if rates and rows:
        reference = words_at(torch.tensor(rows), nodes=nodes, **address)
        assert np.array_equal(found, reference >= torch.from_numpy(limits)[:, None])
        assert np.array_equal(words(np.array(rows), nodes, **address), reference)
