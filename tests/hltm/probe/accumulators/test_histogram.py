"""Cells of values, and histograms that adapt to all rows."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_units import noisy_mixtures, streamed
from scipy.stats import rankdata

from hltm.probe import StreamingHistogram
from hltm.probe.accumulators.cells import HEAVY, Cells, Ordered, fold, mid_ranks
from hltm.probe.accumulators.histogram import BUFFER


def cells_of(values, bins):
    """The cell of each value: the rule in exact arithmetic, one value at a time."""
    rows = {v: Fraction(values.count(v)) for v in sorted(set(values))}
    rest, left, atoms = Fraction(len(values)), bins, set()
    while found := {v for v, n in rows.items() if v not in atoms and n * left >= rest}:
        atoms |= found
        left -= len(found)
        rest -= sum(rows[v] for v in found)
    keys, before = {}, Fraction(0)
    for v, n in rows.items():
        keys[v] = (
            ("atom", v)
            if v in atoms
            else ("share", before * left // rest, len(keys) and sum(1 for w in atoms if w < v))
        )
        before += 0 if v in atoms else n
    order = list(dict.fromkeys(keys.values()))
    return [order.index(keys[v]) for v in values]


@given(
    st.lists(st.one_of(st.integers(-3, 3), st.integers(-40, 40)), min_size=1, max_size=60),
    st.integers(2, 9),
)
def test_cells_follow_their_rule(values, bins):
    rows = torch.tensor([values], dtype=torch.float32)
    found = fold(Cells.empty(1, np.dtype(np.float32)), Ordered.of(rows), bins)
    assert found.cell[0].tolist() == cells_of(values, bins)
    used = found.cells.filled[0]
    assert used <= 2 * bins - 1
    assert (np.bincount(found.cell[0]) == found.cells.weight[0, :used]).all()
    for c in range(used):
        inside = rows[0][torch.from_numpy(found.cell[0] == c)]
        assert (found.cells.low[0, c], found.cells.high[0, c]) == (inside.min(), inside.max())
    if len(set(values)) <= bins:
        assert used == len(set(values))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_mid_ranks_are_those_of_scipy(values):
    found = mid_ranks(torch.tensor([values], dtype=torch.float32))[0].numpy()
    assert (found == 2 * rankdata(values) - len(values) - 1).all()


@given(
    st.lists(
        st.tuples(st.sampled_from(["normal", "atoms", "tiny", "shifted"]), st.integers(1, 60)),
        min_size=1,
        max_size=8,
    ),
    st.integers(2, 12),
)
def test_folding_loses_no_row_and_keeps_cells_apart(parts, bins):
    generator = torch.Generator().manual_seed(len(parts))
    cells = Cells.empty(2, np.dtype(np.float32))
    every, total = [], 0
    for kind, rows in parts:
        x = torch.randn(2, rows, generator=generator)
        x = {"normal": x, "atoms": x.round(), "tiny": x * 1e-3, "shifted": x + 5}[kind]
        found = fold(cells, Ordered.of(x), bins)
        cells = found.cells
        every.append(x)
        total += rows
        assert cells.weight.sum(-1).tolist() == [total, total]
        for u in range(2):
            used = cells.filled[u]
            low, high = cells.low[u, :used], cells.high[u, :used]
            assert (low <= high).all()
            assert (high[:-1] < low[1:]).all()
            assert (low[found.cell[u]] <= x[u].numpy()).all()
            assert (high[found.cell[u]] >= x[u].numpy()).all()
            wide = cells.weight[u, :used][low < high]
            assert (wide * bins <= (HEAVY + 2) * total).all()
    x = torch.cat(every, -1)
    assert (cells.low[:, 0] == x.amin(-1).numpy()).all()


def test_bins_hold_equal_shares_and_few_values_keep_a_bin_each():
    a, z = noisy_mixtures()
    a[:, 0] = torch.tensor([0.0, 5.0, 2.0]).repeat(1000)
    share = streamed(StreamingHistogram(8), a, z).result()[..., 0, :].sum(-1)
    assert ((share[:, 1:] - 3000 / 8).abs() <= 1).all()
    assert (share[:, 0] > 0).sum(-1).tolist() == [3, 3]
    assert share[:, 0].max() == 1000


def test_an_atom_has_a_cell_and_the_others_share_the_rest():
    values = torch.cat([torch.zeros(970), torch.arange(1.0, 31.0)])[None]
    share = streamed(StreamingHistogram(16), values, torch.zeros(1, 1000)).result()[0, :, 0, 0]
    assert share.tolist() == [970.0] + [2.0] * 15


@pytest.mark.parametrize("states", [2, 3])
def test_counts_of_many_rows_are_those_of_every_state(states):
    a, z = noisy_mixtures(states=states, samples=3 * BUFFER + 100)
    a[:, 1], a[:, 2] = a[:, 1].round(), (a[:, 2] - 1).relu()
    found = streamed(StreamingHistogram(16, states), a, z, sizes=5000)
    rows = torch.stack([(z == k).sum(-1) for k in range(states)], -1).double()
    assert found.result().sum(-3).equal(rows[:, None].expand(-1, 6, -1, -1))
    off = ((a[:, 2] == 0)[:, None] & (z == 0)).sum(-1).double()
    assert found.result()[:, 2, 0, :, 0].equal(off)
    assert found.result().equal(found.result())  # asking changes nothing


def test_a_batch_may_be_written_again_once_it_was_given():
    a, z = noisy_mixtures(samples=50)
    given = a.clone()
    histogram = StreamingHistogram(4)
    histogram.update(given, z)
    given.zero_()
    assert histogram.result().equal(streamed(StreamingHistogram(4), a, z).result())
