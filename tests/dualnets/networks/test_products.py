"""Products of rows against numpy, sizes around whole vectors, tiles and panels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualnets
import hltm
from dualnets.networks.compiled.addresses import padded, size_of
from dualnets.networks.compiled.blocks import count_room
from dualnets.networks.compiled.products import DEPTH, combine_rows, row_products
from dualnets.networks.compiled.structure import network_layers
from hltm._compile import compiled

PLAIN, RELU, MASKED = 0, 1, 2
SIZES = st.one_of(st.integers(1, 24), st.sampled_from([31, 64, 97, DEPTH + 1, 2 * DEPTH + 19]))


@compiled()
def combine(a, transposed, bias, x, x_rows, y, y_rows, mask, then):
    size = size_of(a[0, 0])
    row, step = (size, a.shape[1] * size) if transposed else (a.shape[1] * size, size)
    count, depth = (a.shape[1], a.shape[0]) if transposed else a.shape
    combine_rows(
        a[0, 0], count, x.shape[1], a.ctypes.data, row, step, depth, bias.ctypes.data, size,
        x.ctypes.data, x_rows.ctypes.data, y.ctypes.data, y_rows.ctypes.data, mask.ctypes.data, then,
    )  # fmt: skip


@compiled()
def multiply(g, x, x_rows, out):
    row_products(
        g[0, 0], g.shape[0], g.ctypes.data, len(x_rows), x.ctypes.data, x_rows.ctypes.data, g.shape[1],
        out.ctypes.data, out.shape[1] * size_of(g[0, 0]),
    )  # fmt: skip


@compiled()
def whole(columns):
    return padded(columns, 8)


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


@settings(max_examples=40)
@given(
    count=SIZES,
    depth=SIZES,
    columns=st.sampled_from([1, 8, 31, 40, 64, 100]),
    transposed=st.booleans(),
    then=st.sampled_from([PLAIN, RELU, MASKED]),
    seed=st.integers(0, 99),
)
def test_rows_are_combined_as_by_numpy(count, depth, columns, transposed, then, seed):
    columns = whole(columns)
    a, bias, x, y, mask = arrays(
        seed,
        (count, depth),
        count,
        (depth + 3, columns),
        (count + 2, columns),
        (count + 2, columns),
    )
    rng = np.random.default_rng(seed)
    x_rows, y_rows = rng.permutation(depth + 3)[:depth], rng.permutation(count + 2)[:count]
    before = y.copy()
    combine(
        np.ascontiguousarray(a.T) if transposed else a,
        transposed,
        bias,
        x,
        x_rows,
        y,
        y_rows,
        mask,
        then,
    )
    expected = bias[:, None] + a @ x[x_rows]
    if then == RELU:
        expected = np.maximum(expected, 0)
    elif then == MASKED:
        expected = np.where(mask[y_rows] > 0, expected, 0)
    np.testing.assert_allclose(y[y_rows], expected, rtol=1e-11, atol=1e-12 * depth)
    others = np.setdiff1d(np.arange(count + 2), y_rows)
    assert np.array_equal(y[others], before[others])


@settings(max_examples=40)
@given(
    count=SIZES,
    others=SIZES,
    columns=st.sampled_from([1, 31, 64, DEPTH + 1, 300]),
    seed=st.integers(0, 99),
)
def test_products_of_rows_are_numpys(count, others, columns, seed):
    g, x, out = arrays(
        seed, (count, whole(columns)), (others + 3, whole(columns)), (count, others + 4)
    )
    x_rows = np.random.default_rng(seed).permutation(others + 3)[:others]
    beside = out[:, others:].copy()
    multiply(g, x, x_rows, out)
    np.testing.assert_allclose(
        out[:, :others], g @ x[x_rows].T, rtol=1e-11, atol=1e-12 * g.shape[1]
    )
    assert np.array_equal(out[:, others:], beside)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("depth", [3, DEPTH + 5])
def test_numbers_that_are_not_finite_stay_so_through_a_relu(depth, bad):
    a, bias, x, y, mask = arrays(0, (30, depth), 30, (depth, 64), (30, 64), (30, 64))
    a[7, depth - 1] = bad
    x[:] = abs(x)
    rows = np.arange(max(depth, 30))
    combine(a, False, bias, x, rows, y, rows, mask, RELU)
    assert (~np.isfinite(y)).any(1).tolist() == [r == 7 for r in range(30)]


def test_there_is_room_for_the_gradients_of_shared_weights_of_one_block():
    tree = hltm.symmetric_binary(depth=2, seed=0)
    layers = network_layers(dualnets.conv_tree(tree, units=40, seed=1))
    assert count_room(layers, 64) * 64 >= 40 * 80
    assert count_room(network_layers(dualnets.tree_network(tree, units=40, seed=1)), 64) == 2
