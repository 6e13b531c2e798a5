"""Trees that cannot fit the memory are refused before any work."""

import pytest

import hltm


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hltm.symmetric_binary(depth=3, members=1 << 31, seed=0), "lower depth, branching"),
        (lambda: hltm.random_tree(nodes=10_000, cardinality=60_000, seed=0), "lower nodes, states"),
        (lambda: hltm.random_hierarchy(v=60_000, m=1, s=2, L=3, classes=2, seed=0), "lower v or m"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_the_memory_are_refused(make, message, monkeypatch):
    monkeypatch.setattr("hltm._memory.physical_memory", lambda: 1 << 34)
    with pytest.raises(MemoryError, match=rf"GB, this machine has 17\.2 GB: {message}"):
        make()
