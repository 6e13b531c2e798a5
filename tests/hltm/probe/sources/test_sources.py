"""What is probed and on which rows: containers, axes of rows, labels, draws, folders, networks."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

import hltm
from hltm.probe import measure
from hltm.probe.sources.containers import as_array, as_floats
from hltm.probe.sources.open_source import open_source

TREE = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
TREES = hltm.symmetric_binary(depth=3, polarity=0.9, members=3, seed=0)
N = 60
DRAW, DRAWS = TREE.sample(N, seed=1), TREES.sample(N, seed=1)
A = (DRAW.leaves.float() - torch.arange(8.0)).numpy()
UNITS = torch.from_numpy(A)
STACK = np.stack([A, 2 * A, A - 1])  # (T, B, D)
FLAT = torch.from_numpy(STACK).transpose(0, 1).flatten(1)


def read(source, *, tree=TREE, draw=DRAW, rows=range(10, N), **options):
    """Layer -> `(S, U, B)` of some rows, as a probe gets them."""
    opened = open_source(source, tree, draw=draw, **options)
    return opened.read(rows, opened.rows.draw(rows).states_SVB[:, tree.leaves.start :])


def units(source, **options):
    (found,) = read(source, **options).values()
    assert found.is_floating_point()
    assert not found.requires_grad
    return found[0].T


@pytest.mark.parametrize(
    "source",
    [
        A.tolist(),
        A.astype(">f4"),
        A.astype("i2"),
        A.astype("i8"),
        A.astype("g"),
        A[::-1].copy()[::-1],
        np.asfortranarray(A),
        np.ma.masked_array(A, mask=False),
        [A[:7], A[7:20], A[20:]],
        [row[None] for row in A],
        list(A),
        [UNITS[:7], UNITS[7:]],
        {"fc": pd.DataFrame(A)},
        pd.DataFrame(A, columns=list("abcdefgh")),
        pd.DataFrame(A.astype("i8")).astype("Int64"),
        pd.DataFrame(A).astype({3: "f8"}),
        pd.DataFrame(A, index=range(100, 100 + N)),
        UNITS.clone().requires_grad_() * 1,
        UNITS.to_sparse(),
        UNITS.double(),
        UNITS.half(),
        UNITS.bfloat16(),
        UNITS.to(torch.int64),
        scipy.sparse.csr_array(A),
    ],
    ids=lambda source: type(source).__name__,
)
def test_the_same_numbers_in_any_container(source):
    assert units(source).double().equal(UNITS[10:].double())


@given(st.sampled_from(["u1", "u2", "u4", "i1", "i4", "u8", "?", ">f8", "<f2"]), st.integers(0, 3))
def test_numbers_of_any_dtype_keep_their_values(dtype, seed):
    made = np.random.default_rng(seed).integers(0, 100, (N, 2)).astype(dtype)
    assert units(made).double().numpy().tolist() == made[10:].astype(float).tolist()


def test_large_integers_are_not_rounded():
    assert as_floats(np.array([2**40 + 1])).item() == 2**40 + 1
    assert as_floats(torch.tensor([2**40 + 1])).item() == 2**40 + 1


def test_one_unit_without_an_axis():
    assert units({"x": A[:, 2]}).equal(UNITS[10:, 2:3])
    assert units(pd.Series(A[:, 2], name="x")).equal(UNITS[10:, 2:3])


def test_a_file_on_disk_is_read_row_by_row(tmp_path):
    held = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", ">f4", A.shape)
    held[:] = A
    held.flush()
    stored = np.load(tmp_path / "a.npy", mmap_mode="r")
    opened = open_source({"fc": stored}, TREE, draw=DRAW)
    assert np.shares_memory(opened.given["fc"], stored)  # nothing is copied before it is read
    assert units(stored).equal(UNITS[10:])
    np.savez(tmp_path / "a.npz", fc=A)
    with np.load(tmp_path / "a.npz") as archive:
        assert list(read(archive)) == ["fc"]


MASKED = np.ma.masked_array(A, mask=A.mean() < A)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (MASKED, f"'activations' have {MASKED.mask.sum()} masked entries of 480, expected none"),
        (A + 1j, r"are complex \(complex64\), expected real numbers; give their modulus"),
        (UNITS + 1j, r"are complex \(complex64\), expected real numbers; give their modulus"),
        (A.astype(str), "a ndarray of dtype <U32, expected an array of numbers"),
        (A.astype(object), "a ndarray of dtype object, expected an array of numbers"),
        (A.astype("M8[s]"), "dtype datetime64"),
        (np.zeros(N, [("a", "f4")]), "expected an array of numbers"),
        (A[:, :0], r"shape \(60, 0\), so no units at all"),
        (A[:0], r"shape \(0, 8\), expected 60 rows on axis 0"),
        (3.0, "are a single float, expected an array"),
        ({"h": None}, "layer 'h' are a NoneType"),
        ("acts.npz", "are a str, expected an array of numbers"),
        ({"h": {"fc": A}}, "layer 'h' are a dict"),
        ([A, A], r"list of 2 arrays of 60 rows each; if they are layers, give \{name: array\}"),
        ([A[:9], A[:8]], "list of 2 arrays of 17 rows in all, expected batches of 60 rows"),
        ([A[:30], A[30:, :2]], "expected batches of 60 rows and of one width"),
        ([A[:30], A[30]], "expected one number of axes"),
        (pd.DataFrame(A).assign(name="x"), "column 'name' of the data frame has dtype"),
        (pd.DataFrame(A + 1j), "are complex"),
        (pd.DataFrame(A).sample(frac=1, random_state=0), "so they are not in order; sort_index"),
        (UNITS.to("meta"), "on the device 'meta'"),
        (len, "len is a function, expected arrays, a torch module, or an object with"),
        ({}, "the mapping of activations is empty"),
    ],
)  # fmt: skip
def test_what_is_no_array_of_units_is_refused_in_a_sentence(source, message):
    with pytest.raises(ValueError, match=message) as refusal:
        read(source)
    assert len(str(refusal.value)) < 300


def test_rows_on_another_axis_are_refused_or_named():
    with pytest.raises(
        ValueError, match=r"\(3, 60, 8\), expected 60 rows on axis 0; .* give batch_axis=1"
    ):
        read(STACK)
    for source in (STACK, torch.from_numpy(STACK)):
        assert units(source, batch_axis=1).equal(FLAT[10:])
        assert units({"h": source}, batch_axis={"h": -2}).equal(FLAT[10:])
    assert units(np.swapaxes(STACK, 0, 1)).equal(FLAT[10:])
    found = read({"h": STACK, "fc": A}, batch_axis={"h": 1})
    assert found["fc"][0].T.equal(UNITS[10:])
    assert units(STACK.transpose(0, 2, 1), batch_axis=2).equal(FLAT.view(N, 3, 8)[10:].flatten(1))
    assert units(A[:, :, None, None]).equal(UNITS[10:])
    with pytest.raises(ValueError, match=r"rows on axis 0 \(batch_axis=0\); if axis 1"):
        read(STACK, batch_axis=0)
    with pytest.raises(ValueError, match=r"rows on axis 5 \(batch_axis=5\)"):
        read(STACK, batch_axis=5)
    with pytest.raises(ValueError, match="batch_axis names no layer 'g', expected 'h'"):
        read({"h": STACK}, batch_axis={"g": 1})


def test_as_many_positions_as_rows_need_an_axis():
    square = np.random.default_rng(0).normal(size=(N, N, 2))
    with pytest.raises(
        ValueError, match="so two axes may be that of its 60 rows: give batch_axis=0"
    ):
        read({"h": square})
    rows, columns = (units({"h": square}, batch_axis=axis) for axis in (0, 1))
    assert rows.equal(torch.from_numpy(square)[10:].flatten(1))
    assert columns.equal(torch.from_numpy(square).transpose(0, 1)[10:].flatten(1))


def test_members_are_in_front():
    stacked = torch.stack([UNITS, UNITS + 1, UNITS + 2])
    options = {"tree": TREES, "draw": DRAWS}
    for source in (stacked, stacked.numpy(), list(stacked), [stacked[:, :9], stacked[:, 9:]]):
        (found,) = read(source, **options).values()
        assert found.transpose(1, 2).equal(stacked[:, 10:])
    times = torch.stack([stacked, -stacked], 1)  # (S, T, B, D)
    (found,) = read(times, batch_axis=1, **options).values()
    assert found.transpose(1, 2).equal(torch.cat([stacked, -stacked], 2)[:, 10:])
    with pytest.raises(ValueError, match=r"on axis 0 behind that of the members; .* batch_axis=1"):
        read(times, **options)
    with pytest.raises(ValueError, match=r"shape \(60, 8\), expected 3 members on axis 0"):
        read(UNITS, **options)


def test_a_name_of_digits_is_a_name_and_a_number_is_a_level():
    found = read({"2": A, "02": A, 2: A, np.int64(1): A})
    assert list(found) == ["2", "02", 2, 1]
    table = measure({"2": A, 2: A}, TREE, draw=DRAW, lags=0, details=False)
    best = table[table["metric"] == "correlation"]
    assert best.groupby("layer").size().to_dict() == {"2": 7, 2: 2}
    for label in (0, 4, -1, True, None, 1.5, ("fc", 1)):
        with pytest.raises(
            ValueError, match=r"is neither a name .* nor a level of the tree \(1..3\)"
        ):
            read({label: A})
    blocks = A.reshape(N, 2, 4)
    assert read({2: blocks})[2].shape == (1, 2, 4, N - 10)
    assert read({"2": blocks})["2"][0].T.equal(UNITS[10:])
    with pytest.raises(ValueError, match=r"\(50, 4, 2\), expected \(50, U\) or \(50, 2, U\)"):
        read({2: A.reshape(N, 4, 2)})


def same(table, expected):
    """Up to rounding, which depends on how arrays lie in memory and decides between equal units."""
    table, expected = (x.drop(columns=["unit", "rival"]) for x in (table, expected))
    pd.testing.assert_frame_equal(table, expected, check_exact=False, rtol=0, atol=1e-5)


class Network:
    def __init__(self, activations):
        self.activations = activations


@pytest.mark.parametrize(
    "made",
    [
        lambda x: x.numpy(),
        lambda x: pd.DataFrame(x.numpy()),
        lambda x: x.numpy().tolist(),
        lambda x: x.requires_grad_() * 1,
        lambda x: x.half(),
        lambda x: x.int(),
        lambda x: x.to_sparse(),
        lambda x: x[:, None, :, None],
    ],
)
def test_networks_may_return_any_container(made):
    network = Network(lambda leaves: {"fc": made(leaves.float())})
    assert units(network).equal(DRAW.leaves[10:].float())


def test_networks_that_return_something_else_are_refused():
    for activations, message in [
        (lambda x: x.float(), r"activations\(leaves\) returned a Tensor, expected a mapping"),
        (lambda x: {}, "the mapping of activations is empty"),
        (lambda x: {"fc": x + 1j}, "are complex"),
        (
            lambda x: {"fc": x.float().expand(3, -1, -1)},
            "expected 50 rows on axis 0; .*batch_axis=1",
        ),
        (lambda x: {0: x}, "layer 0 is neither a name"),
    ]:
        with pytest.raises(ValueError, match=message):
            read(Network(activations))
    times = Network(lambda x: {"fc": torch.stack([x.float(), -x.float()])})
    x = DRAW.leaves[10:].float()
    assert units(times, batch_axis=1).equal(torch.cat([x, -x], 1))


@pytest.mark.parametrize("nodes", ["leaves", "all"])
def test_folders_and_their_rows(tmp_path, nodes):
    hltm.export(TREE, tmp_path / "data", N, seed=1, start=7, nodes=nodes, rows_per_shard=25)
    data = hltm.load(tmp_path / "data")
    draw = TREE.sample(N, seed=1, start=7)
    expected = measure(draw.leaves.contiguous(), TREE, draw=draw, lags=5, details=False)
    same(measure(data.leaves, TREE, draw=data, lags=5, details=False), expected)
    assert data.draw() == draw
    part = data.draw(slice(10, 50))
    assert part == TREE.sample(40, seed=1, start=17)
    assert measure(data.leaves[10:50], TREE, draw=part, lags=5, details=False)[
        "n"
    ].unique().tolist() == [40]
    network = Network(lambda leaves: {"activations": leaves})
    same(measure(network, TREE, draw=data, lags=5, details=False), expected)
    opened = open_source(data.leaves, TREE, draw=data)
    assert opened.rows.draw(range(3, 9)).states_SVB.equal(draw.states_SVB[..., 3:9])
    with pytest.raises(ValueError, match="the draw is of tree"):
        measure(data.leaves, hltm.symmetric_binary(depth=3, polarity=0.8, seed=2), draw=data)
    with pytest.raises(ValueError, match="rows must be consecutive and at least one"):
        data.draw(slice(0, 9, 2))
    with pytest.raises(TypeError, match=r"draw must be a draw .*, got a FolderBatch"):
        measure(data.leaves[:9], TREE, draw=data[:9])


def test_folders_of_several_trees(tmp_path):
    data = hltm.export(TREES, tmp_path / "data", N, seed=1, nodes="leaves")
    table = measure(np.asarray(data.leaves), TREES, draw=data, lags=5, details=False)
    same(table, measure(DRAWS.leaves.contiguous(), TREES, draw=DRAWS, lags=5, details=False))
    one = measure(data[1].leaves, TREES[1], draw=data[1], lags=5, details=False)
    assert one["member"].unique().tolist() == [1]


def test_latents_follow_from_the_address_of_a_draw():
    expected = measure(A, TREE, draw=DRAW, lags=5)
    alone = TREE.draw(N, seed=1, first=7)
    packed = TREE.sample(N, seed=1, packed=True)
    same(measure(A, TREE, draw=alone, lags=5), expected)
    same(measure(A, TREE, draw=packed, lags=5), expected)
    view, _ = TREE.views(DRAW, hltm.keep_root())
    found = measure(view.leaves, TREE, draw=view, lags=5)  # the latents of the view
    states = view.level(2)[:, 0].numpy(), view.leaves.numpy()
    known = max(abs(np.corrcoef(states[0], unit)[0, 1]) for unit in states[1].T)
    row = found[(found["metric"] == "correlation") & (found["node"] == TREE.topology.names[1])]
    assert row["value"].item() == pytest.approx(known, abs=1e-6)
    for changed in ({"view": 1}, {"origin": None}):
        with pytest.raises(
            ValueError, match="keeps nodes from 7 on, but a probe needs its latents"
        ):
            measure(A, TREE, draw=dataclasses.replace(alone, **changed))


def test_draws_that_cannot_be_probed_are_named():
    (missing,) = TREE.views(DRAW, hltm.drop_leaves(0.3), count=1)
    gone = int(missing.missing.sum())
    with pytest.raises(ValueError, match=f"{gone} leaves of the draw are missing"):
        measure(A, TREE, draw=missing)
    data = hltm.ViewDataset(TREE, hltm.keep_root(), samples=N, seed=1)
    for draw in (data, data[:N], DRAW.states, pd.DataFrame(A), "out/"):
        with pytest.raises(TypeError, match=f"got a {type(draw).__name__}"):
            measure(A, TREE, draw=draw)
    with pytest.raises(ValueError, match="activations as arrays need the draw"):
        measure(A, TREE)


def test_as_array_tells_members_from_batches():
    parts = [np.ones((4, 2)), np.zeros((4, 2))]
    assert as_array("h", parts, rows=8).shape == (8, 2)
    assert as_array("h", parts, rows=4, members=2).shape == (2, 4, 2)


def test_one_unit_needs_no_axis_of_units():
    unit = A[:, 0]
    for values in (unit, unit.tolist(), pd.Series(unit), torch.from_numpy(np.array(unit))):
        table = measure(values, TREE, draw=DRAW, lags=0, details=False, metrics=["correlation"])
        states = DRAW.states.numpy()[:, : TREE.leaves.start].astype(float)
        expected = [abs(np.corrcoef(unit, z)[0, 1]) for z in states.T]
        found = table["value"][(table["metric"] == "correlation") & (table["node"] != "")]
        assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("index", [np.arange(N) * 2, np.arange(N) * 1.0, np.arange(N) + 7])
def test_frames_whose_rows_were_shuffled_are_refused(index):
    frame = pd.DataFrame(A).set_index(pd.Index(index)).sample(frac=1, random_state=0)
    with pytest.raises(ValueError, match="so they are not in order; sort_index"):
        measure(frame, TREE, draw=DRAW)
    assert as_array("h", frame.sort_index(), rows=N).shape == (N, A.shape[1])


def test_an_axis_that_is_no_number_and_long_names_are_one_sentence():
    for axis in ("0", 1.0, True, [0]):
        with pytest.raises(ValueError, match="batch_axis must be a whole number"):
            measure(A, TREE, draw=DRAW, batch_axis=axis)
    with pytest.raises(ValueError, match="expected 60 rows") as refusal:
        measure({"x" * 400: A[:-1]}, TREE, draw=DRAW)
    assert len(str(refusal.value)) < 300


def test_an_ensemble_of_ones_own_modules():
    models = [torch.nn.Linear(8, 3) for _ in range(2)]
    for several in (models, tuple(models), dict(enumerate(models))):
        with pytest.raises(ValueError, match="got several modules: measure one at a time"):
            measure(several, TREE, samples=N, seed=0)

    class Both:
        stacked, members = True, range(2)

        def activations(self, leaves):  # (S, B, X)
            pairs = zip(models, leaves.float(), strict=True)
            return {"top": torch.stack([model(x) for model, x in pairs])}

    table = measure(Both(), TREE, samples=N, seed=0, lags=0, details=False)
    assert table["member"].unique().tolist() == [0, 1]
