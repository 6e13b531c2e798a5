"""Rows in any order are the rows of the addressed draw, from either kernel."""

import numpy as np
import pytest
import torch
from draw_cases import BINARY, MIXED, PARENTS, random_tables, random_tree
from hypothesis import given, settings
from hypothesis import strategies as st

from hltm.sampling import rows as rows_module
from hltm.sampling.kernels import cpu, reference
from hltm.sampling.kernels.request import DrawRequest
from hltm.sampling.rows import draw_rows

RATES = np.array([0.0, 0.3, 0.0, 1.0, 0.2, 0.0, 0.5])


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.booleans(), st.integers(0, 6))
def test_any_rows_are_those_of_the_whole_draw(rows, binary, first):
    trees = random_tree(PARENTS, BINARY if binary else MIXED, seed=1, members=2)
    draw = trees.sample(3001, seed=5)
    rows = np.array(rows)
    found = draw_rows(trees.tables, (0, 1), rows, seed=5, views=(0, 2, 7), rates=RATES, first=first)
    whole = [draw.states_SVB]
    for view in (2, 7):
        request = DrawRequest(
            topology=trees.topology, seed=5, stream=1, members=(0, 1), start=0, samples=3001,
            views=(view,), rates=RATES, base=draw.states_SVB,
        )  # fmt: skip
        whole += reference.draw(trees.tables, request)
    for a, b in zip(found, whole, strict=True):
        assert a.equal(b[:, first:][..., rows])


@pytest.mark.parametrize("cardinality", [BINARY, MIXED, [300] * 7])
def test_blocks_are_the_same_from_both_kernels(cardinality):
    tables = random_tables(PARENTS, cardinality, seed=1, members=2)
    blocks = np.array([5, 0, 77, 1 << 26])
    request = DrawRequest(
        topology=tables.topology, seed=3, stream=1, members=(4, 9), start=0, samples=512,
        views=(0, 3), rates=RATES, blocks=blocks,
    )  # fmt: skip
    fast, slow = cpu.draw(tables, request), reference.draw(tables, request)
    given_base = DrawRequest(**{**vars_of(request), "views": (3,), "base": slow[0]})
    again = cpu.draw(tables, given_base), reference.draw(tables, given_base)
    for a, b in zip([*fast, *again[0]], [*slow, *again[1]], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(again[0][0], fast[1])


def vars_of(request):
    return {name: getattr(request, name) for name in request.__dataclass_fields__}


def test_more_blocks_than_are_drawn_at_a_time(monkeypatch):
    tree = random_tree(PARENTS, BINARY, seed=1)
    rows = np.random.default_rng(0).integers(0, 5000, 200)
    (whole,) = draw_rows(tree.tables, (0,), rows, seed=5)
    monkeypatch.setattr(rows_module, "CHUNK", 3)
    (found,) = draw_rows(tree.tables, (0,), rows, seed=5)
    assert found.equal(whole)
    assert found[0].T.equal(tree.sample(5000, seed=5).states[rows])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1], [2]], r"expected a list of samples, got shape \(2, 1\)"),
        ([3, -1], r"rows must lie in 0..2\^34-1, got -1..3"),
        ([1 << 34], r"rows must lie in 0..2\^34-1"),
    ],
)
def test_rows_that_cannot_be_are_named(rows, message):
    tree = random_tree(PARENTS, BINARY, seed=1)
    with pytest.raises(ValueError, match=message):
        draw_rows(tree.tables, (0,), np.array(rows, dtype=np.int64), seed=5)
