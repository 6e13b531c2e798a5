"""Operations as rows of a table have the numbers of torch, for tensors of any shape and strides."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from dualnets.methods.compiled import assignments, samples
from dualnets.training.recorded.calls import call
from dualnets.training.recorded.repeated import repeated
from dualnets.training.recorded.rows import Rows, UnknownError
from dualnets.training.recorded.simplified import simplify

aten = torch.ops.aten
NAN, INFINITY = float("nan"), float("inf")
UNARY = (
    aten.neg.default, aten.reciprocal.default, aten.sqrt.default, aten.exp.default, aten.relu.default,
    aten.sigmoid.default, aten.clone.default,
)  # fmt: skip
BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.maximum.default)
SCALAR = (
    (aten.mul.Scalar, 2.5), (aten.div.Scalar, 3), (aten.rsub.Scalar, 1), (aten.clamp_min.default, 0.25),
    (aten.pow.Tensor_Scalar, 2), (aten.add.Tensor, 1.5),
)  # fmt: skip


@st.composite
def tensors(draw, shape=None, dtype=torch.float64):
    """A tensor with dimensions in any order in memory, some of which have gaps or step 0."""
    shape = draw(st.lists(st.integers(1, 5), max_size=4)) if shape is None else shape
    order = draw(st.permutations(range(len(shape))))
    wide = [shape[d] * draw(st.integers(1, 2)) for d in order]
    seed = draw(st.integers(0, 2**16))
    values = torch.randn(wide, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    if draw(st.booleans()):
        special = torch.tensor([0.0, -0.0, 1.0, NAN, INFINITY, -INFINITY], dtype=dtype)
        values.flatten()[: len(special)] = special[: values.numel()]
    for d, size in enumerate(shape[o] for o in order):
        values = values.narrow(d, 0, size)
    back = [order.index(d) for d in range(len(shape))]
    found = values.permute(back)
    for d, size in enumerate(shape):
        if draw(st.integers(0, 5)) == 0:
            found = found.narrow(d, 0, 1).expand(*shape[:d], size, *shape[d + 1 :])
    return found


@st.composite
def broadcast(draw, shape):
    """A tensor that broadcasts to a shape."""
    own = [1 if draw(st.integers(0, 3)) == 0 else size for size in shape]
    return draw(tensors(own[draw(st.integers(0, len(own))) :]))


def run(target, *given, **options):
    """An operation in torch, and as rows that write into memory of the same strides."""
    expected = target(*given, **options)
    several = not isinstance(expected, torch.Tensor)
    results = [
        own if own is None else torch.full_like(own, 7)
        for own in (expected if several else [expected])
    ]
    table = Rows(torch.float64)
    table.add(target, results if several else results[0], *given, **options)
    table.bound(np.zeros(1, dtype=np.int64))()
    return (expected if several else [expected]), results


def check(target, *given, floor=0.0, **options):
    try:
        pairs = zip(*run(target, *given, **options), strict=True)
    except UnknownError as error:
        assert str(error) == "dimensions"  # noqa: PT017, of which there are more than four
        return
    for expected, found in pairs:
        if expected is None:
            continue
        if expected.dtype != torch.float64:
            assert expected.equal(found)
            continue
        scale = float(expected.nan_to_num(0, 0, 0).abs().max()) if expected.numel() else 0.0
        assert torch.allclose(
            found, expected, rtol=1e-13, atol=1e-13 * scale + floor, equal_nan=True
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_numbers_of_one_or_two_tensors(data):
    a = data.draw(tensors())
    check(data.draw(st.sampled_from(UNARY)), a)
    target, number = data.draw(st.sampled_from(SCALAR))
    check(target, a, number)
    b = data.draw(broadcast(a.shape))
    check(data.draw(st.sampled_from(BINARY)), a, b)
    check(data.draw(st.sampled_from((aten.gt.Tensor, aten.lt.Tensor))), a, b)
    check(aten.where.self, b > 0, a, b)
    check(aten.masked_fill.Scalar, a, b > 0, -INFINITY)
    check(aten.threshold_backward.default, a, a.clone(), 0.5)
    check(aten.lerp.Tensor, a, a * 2, b.abs().clamp(0.0, 1.0))
    check(aten.sigmoid_backward.default, a, a.sigmoid())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sums_copies_and_joins(data):
    a = data.draw(tensors())
    dims = data.draw(st.lists(st.sampled_from(range(a.ndim)), unique=True)) if a.ndim else []
    keep = data.draw(st.booleans())
    check(aten.sum.dim_IntList, a, dims, keep)
    check(aten.mean.dim, a, dims, keep)
    b = data.draw(tensors([*a.shape]))
    check(aten.stack.default, [a, b], data.draw(st.integers(0, a.ndim)))
    if a.ndim:
        dim = data.draw(st.integers(0, a.ndim - 1))
        check(aten.cat.default, [a, b, a], dim)
        check(aten.roll.default, a, [data.draw(st.integers(-3, 7))], [dim])
        place = data.draw(st.integers(0, 3))
        check(aten.select_backward.default, a, [*a.shape[:dim], 4, *a.shape[dim:]], dim, place)
        check(
            aten.repeat.default,
            a,
            data.draw(st.lists(st.integers(1, 2), min_size=a.ndim, max_size=4)),
        )
        check(aten._log_softmax.default, a.contiguous(), dim, False)
    if 0 < a.ndim < 4:
        check(aten.diag_embed.default, a)
    whole = torch.arange(12).view(3, 4).T
    check(aten.add.Tensor, whole, 2**40)
    check(aten._to_copy.default, whole, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_products_and_places(data):
    size = st.sampled_from([1, 2, 3, 5, 8, 9, 17, 33])
    batch, rows, terms, columns = (data.draw(size) for _ in range(4))
    a, b = data.draw(tensors([batch, rows, terms])), data.draw(tensors([batch, terms, columns]))
    a, b = (
        a.nan_to_num(0, 1, -1),
        b.nan_to_num(0, 1, -1),
    )  # of which a product makes NaN in other orders, too
    check(aten.bmm.default, a, b)
    index = torch.randint(0, rows, (batch, 4, terms), generator=torch.Generator().manual_seed(rows))
    check(aten.gather.default, a, 1, index)
    check(aten.index.Tensor, a, [None, index[0, :, 0]])
    check(aten.scatter_add.default, a, 1, index, torch.ones(batch, 4, terms, dtype=a.dtype))
    found = aten.native_layer_norm.default(a.contiguous(), [terms], None, None, 1e-5)
    check(aten.native_layer_norm.default, a.contiguous(), [terms], None, None, 1e-5, floor=1e-12)
    check(
        aten.native_layer_norm_backward.default, a.contiguous(), found[0] + 1, [terms], *found[1:], None,
        None, [True, False, False], floor=1e-10,
    )  # fmt: skip
    found = a.contiguous().log_softmax(1)
    check(aten._log_softmax_backward_data.default, found.exp() - 0.1, found, 1, torch.float64)


@pytest.mark.parametrize("target", [aten.bmm.default, aten.exp.default, aten.mul.Tensor])
@pytest.mark.slow
def test_single_precision_and_again_in_the_same_memory(target):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 10, 128, generator=generator)
    given = {aten.bmm.default: [a, a.mT], aten.exp.default: [a], aten.mul.Tensor: [a, a[:, :1]]}[
        target
    ]
    expected = target(*given)
    found = torch.empty_like(expected)
    table = Rows(torch.float32)
    table.add(target, found, *given)
    repeat = table.bound(np.zeros(1, dtype=np.int64))
    for _ in range(50):
        found.fill_(NAN)
        repeat()
        assert torch.allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("place", [3, -4])
def test_an_index_out_of_range_is_refused(place):
    values, index = torch.zeros(3, dtype=torch.float64), torch.tensor([0, place])
    table, found = Rows(torch.float64), torch.zeros(2, dtype=torch.float64)
    table.add(aten.gather.default, found, values, 0, index)
    with pytest.raises(IndexError, match="out of range"):
        table.bound(np.zeros(1, dtype=np.int64))()


@pytest.mark.parametrize(
    ("target", "given"),
    [
        (aten.sin.default, ()),
        (aten.pow.Tensor_Scalar, (3,)),
        (aten.add.Tensor, (torch.zeros(2), 1)),
        (aten.mul.Tensor, (torch.zeros(2, dtype=torch.float32),)),
    ],
)
def test_what_is_not_known_is_refused(target, given):
    a = torch.zeros(2, dtype=torch.float64 if given else torch.float32)
    with pytest.raises((UnknownError, TypeError)):
        Rows(torch.float64).add(target, torch.zeros(2, dtype=torch.float32), a, *given)


def test_calls_read_and_write_arrays_where_they_are():
    values = np.random.default_rng(0).normal(size=(3, 5, 7))
    found, lengths = np.zeros_like(values), np.zeros((3, 7))
    table = Rows(torch.float64)
    table._call(samples._direction, 1, 3, values, found, lengths)
    table.bound(np.zeros(1, dtype=np.int64))()
    assert np.allclose(lengths[1:], np.linalg.norm(values, axis=1)[1:])
    assert not lengths[0].any()
    assert call(samples._direction, 0, 1, values, found, lengths).function


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_random_graphs(data):
    """Graphs of known and unknown operations, whose inputs move between calls."""
    steps = data.draw(
        st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 9)), max_size=12)
    )

    def function(fixed, *given):
        made = [fixed, *given]
        for kind, i, j in steps:
            a, b = made[i % len(made)], made[j % len(made)]
            made.append(
                (a + b, a * b, a - b.mean(1, keepdim=True), (a @ b.mT) / 4, a.tanh(), a.mT, a.relu(),
                 torch.cat([a[:, :2], b[:, 2:]], 1))[kind]
            )  # fmt: skip
        return [made[-1], sum(made), made[len(made) // 2].sum(0)]

    fixed, *others = (torch.randn(2, 4, 4, dtype=torch.float64) for _ in range(4))
    graph = make_fx(function)(fixed, *others).graph
    simplify(graph)
    repeat = repeated(graph, fixed=1).bind(fixed)
    for offset in range(3):
        given = [torch.randn(5, 4, 4, dtype=torch.float64)[offset : offset + 2] for _ in others]
        expected, found = function(fixed, *given), repeat(*given)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max()))


def test_assignments_with_too_small_exponentials_are_made_in_plain_torch():
    """Also where another row reads what a later operation will make."""

    def function(fixed, scores, used):
        found = assignments.sinkhorn(scores + fixed, 0.05, 3, used)
        return [(found + 1).cumsum(0) * 2, found]

    fixed, used = torch.zeros(2, 8, 4), torch.ones(2, 8, dtype=torch.bool)
    used[1, 5:] = False
    scores = torch.randn(2, 8, 4)
    graph = make_fx(function)(fixed, scores, used).graph
    repeat = repeated(graph, fixed=1).bind(fixed)
    for scale in (1000.0, 1.0, 500.0):
        expected = function(fixed, scale * scores, used)
        for ours, theirs in zip(repeat(scale * scores, used), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
