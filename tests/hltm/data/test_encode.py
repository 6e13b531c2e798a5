"""States as inputs: shapes, missing leaves, addresses of noise, and the quadtree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import hltm
from hltm import Topology
from hltm.data import encode

TREE = hltm.symmetric_binary(depth=3, polarity=0.8, seed=0)
DRAW = TREE.sample(300, seed=1)


def test_bits_and_signs():
    leaves = DRAW.leaves
    assert encode.bits(leaves).tolist() == leaves.tolist()
    assert encode.signs(leaves).equal(2 * leaves.float() - 1)
    assert encode.signs(leaves, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("encoder", [encode.bits, encode.signs])
def test_missing_leaves_need_a_number(encoder):
    (view,) = TREE.views(DRAW, hltm.drop_leaves(0.3), count=1)
    gone = int(view.missing.sum())
    with pytest.raises(ValueError, match=f"{gone} of 2400 states are missing"):
        encoder(view.leaves)
    found = encoder(view.leaves, missing=0.25)
    assert (found[view.missing] == 0.25).all()
    assert found[~view.missing].equal(encoder(DRAW.leaves)[~view.missing])


@pytest.mark.parametrize("encoder", [encode.bits, encode.signs])
@pytest.mark.parametrize(
    ("states", "match"),
    [
        (torch.tensor([0, 2], dtype=torch.uint8), "state 2 is not binary, expected 0 or 1, or -1"),
        (torch.tensor([0, 300], dtype=torch.uint16), "state 300 is not binary"),
        (torch.tensor([0, -2]), "state -2 is not binary"),
        (np.array([0, 2**64 - 1], dtype=np.uint64), r"states hold a state above 2\^63 - 1"),
        (torch.tensor([0.0, 1.0]), r"torch\.float32, expected integers; convert them with"),
        (torch.tensor([-1.0, 1.0]), "they look like signs"),
        (torch.tensor([0.0, torch.nan]), "NaN is no state"),
        (["a"], "states hold the text 'a', expected integers"),
    ],
)
def test_states_that_are_not_binary(encoder, states, match):
    with pytest.raises(ValueError, match=match):
        encoder(states, missing=0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: encode.signs(DRAW.leaves, torch.uint8),
            "uint8 does not hold -1, expected a signed",
        ),
        (lambda: encode.signs(DRAW.leaves, torch.bool), "bool does not hold -1"),
        (lambda: encode.bits([0, -1], torch.uint8, missing=0.5), "uint8 does not hold 0.5"),
        (lambda: encode.bits([0, -1], torch.uint8, missing=-1), "uint8 does not hold -1"),
        (lambda: encode.signs([0, -1], torch.int8, missing=0.5), "int8 does not hold 0.5"),
    ],
)
def test_numbers_that_a_dtype_does_not_hold(call, match):
    with pytest.raises(ValueError, match=match):
        call()


INTEGERS = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.int64,
    torch.bool,
]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_encoder_takes_integers_of_every_type(dtype):
    leaves = DRAW.leaves.to(dtype)
    for form in (leaves, leaves.numpy(), leaves.tolist()):
        assert encode.bits(form).equal(DRAW.leaves.float())
        assert encode.signs(form).equal(2 * DRAW.leaves.float() - 1)
        assert encode.one_hot(form, 2).equal(encode.one_hot(DRAW.leaves, 2))
        assert encode.one_hot(form, np.full(8, 2)).equal(encode.one_hot(DRAW.leaves, 2))
        assert embedded(form).equal(embedded())
    assert encode.signs(leaves, torch.int8, missing=5).dtype == torch.int8


def test_no_rows_are_encoded_as_no_rows():
    none = DRAW.leaves[:0]
    assert encode.bits(none).shape == encode.signs(none).shape == (0, 8)
    assert encode.one_hot(none, 2).shape == (0, 8, 2)
    assert encode.one_hot(none, 2, padded=False).shape == (0, 16)
    assert embedded(none, rows=[]).shape == (0, 8, 3)
    assert encode.image(torch.zeros(0, 16)).shape == (0, 1, 4, 4)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_one_hot_has_a_one_in_place(cardinality, data):
    rows = data.draw(st.integers(1, 4))
    states = torch.tensor(
        [[data.draw(st.integers(-1, k - 1)) for k in cardinality] for _ in range(rows)]
    )
    padded = encode.one_hot(states, cardinality)
    own = encode.one_hot(states, cardinality, padded=False)
    assert padded.shape == (rows, len(cardinality), max(cardinality))
    assert own.shape == (rows, sum(cardinality))
    for b in range(rows):
        at = 0
        for v, k in enumerate(cardinality):
            expected = [float(states[b, v] == i) for i in range(k)]
            assert padded[b, v].tolist() == expected + [0.0] * (max(cardinality) - k)
            assert own[b, at : at + k].tolist() == expected
            at += k


def test_one_hot_of_stacked_trees_and_one_cardinality():
    trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
    draw = trees.sample(5, seed=1)
    found = encode.one_hot(draw.leaves, 2)
    assert found.shape == (3, 5, 4, 2)
    assert found.argmax(-1).equal(draw.leaves.long())


@pytest.mark.parametrize(
    ("states", "cardinality", "message"),
    [
        ([[0, 2]], 2, r"position 1 has state 2, expected 0..1, or -1"),
        ([[0, -2]], 2, r"position 1 has state -2"),
        ([[0, 1]], [2, 2, 2], r"expected 2 cardinalities, got shape \(3,\)"),
        ([[0, 1]], [2, 0], r"cardinality must be at least 1, got 0"),
        ([[0.0, 1.0]], 2, r"states have dtype torch\.float32, expected integers; convert them"),
        ([[0.0, torch.nan]], 2, "expected integers; NaN is no state"),
        ([[0, 1]], [2.5, 2], "cardinalities have dtype torch.float64, expected integers"),
        (1, 2, r"states have shape \(\), expected \(…, V\)"),
    ],
)
def test_one_hot_names_what_is_wrong(states, cardinality, message):
    with pytest.raises(ValueError, match=message):
        encode.one_hot(torch.tensor(states), cardinality)


def embedded(leaves=DRAW.leaves, **changes):
    arguments = {"cardinality": 2, "dimension": 3, "seed": 5, "noise": 0.5, "rows": DRAW.rows}
    return encode.embeddings(leaves, **(arguments | changes))


def test_a_state_has_one_vector_and_others_have_others():
    found = embedded(noise=0, rows=None)
    vectors = {tuple(v) for x in range(8) for v in found[:, x].tolist()}
    assert len(vectors) == 16
    for x in range(8):
        assert len({tuple(v) for v in found[DRAW.leaves[:, x] == 1, x].tolist()}) == 1
    # neither the dimension nor the number of states moves a vector
    wider = embedded(noise=0, cardinality=5, dimension=7)
    assert wider[..., :3].equal(found)


@settings(max_examples=20)
@given(st.permutations(range(12)), st.integers(1, 11))
def test_noise_is_by_address(order, split):
    whole = embedded()
    rows = torch.tensor(order)
    found = [embedded(DRAW.leaves[part], rows=part) for part in rows.split(split)]
    assert torch.cat(found).equal(whole[rows])


def test_noise_is_by_address_over_chunks(monkeypatch):
    whole = embedded()
    monkeypatch.setattr(encode, "CHUNK", 24 * 7)
    assert embedded().equal(whole)


def test_noise_is_standard_normal_and_independent():
    leaves = torch.full((4000, 3), -1)  # missing leaves are noise alone
    views = [
        encode.embeddings(leaves, 4, dimension=2, seed=s, noise=2.0, rows=range(4000), view=v)
        for s, v in [(5, 1), (5, 2), (6, 1)]
    ]
    columns = torch.cat([v.flatten(1) for v in views], dim=1).double().T
    for column in columns:
        assert stats.kstest(column.numpy() / 2, "norm").pvalue > 1e-3 / len(columns)
    others = torch.corrcoef(columns).fill_diagonal_(0).abs().max() * 4000**0.5
    assert others < stats.norm.isf(1e-3 / len(columns) ** 2)


def test_missing_leaves_are_noise_alone():
    (view,) = TREE.views(DRAW, hltm.drop_leaves(0.3), count=1)
    clean = embedded(view.leaves, noise=0)
    assert not clean[view.missing].any()
    assert clean[~view.missing].equal(embedded(noise=0)[~view.missing])
    assert embedded(view.leaves)[view.missing].abs().min() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leaves": DRAW.leaves[None]}, r"leaves have shape \(1, 300, 8\), expected \(B, X\)"),
        ({"dimension": 0}, r"dimension must be in 1\.\.16777216, got 0"),
        ({"dimension": 2.5}, r"dimension must be an integer, got 2\.5"),
        ({"dimension": 1 << 22}, r"number of leaves times dimension must be in .*, got 33554432"),
        ({"view": -1}, r"view must be in 0\.\.16777215, got -1"),
        ({"member": 1 << 32}, r"member must be in 0\.\.4294967295, got 4294967296"),
        ({"noise": torch.nan}, "noise must be at least 0 and finite, got nan"),
        ({"rows": [0.5] * 300}, r"numbers of rows have dtype torch\.float64, expected integers"),
        ({"rows": range(-1, 299)}, r"rows must lie in 0\.\.2\^34-1, got -1"),
        ({"leaves": DRAW.leaves.float()}, r"states have dtype torch\.float32, expected integers"),
        ({"noise": -1}, "noise must be at least 0 and finite, got -1"),
        ({"rows": None}, "needs the numbers of the rows"),
        ({"rows": range(3)}, r"expected 300 rows, got shape \(3,\)"),
        ({"cardinality": 1}, "has state 1, expected 0..0"),
        ({"seed": -1}, r"seed must be in 0..2\^64-1, got -1"),
    ],
)
def test_embeddings_name_what_is_wrong(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        embedded(**changes)


def test_squares_of_an_image_are_subtrees():
    tree = hltm.random_tables(Topology.balanced(depth=3, branching=4), cardinality=3, seed=0)
    draw = tree.sample(6, seed=1)
    found = encode.image(draw.leaves)
    assert found.shape == (6, 1, 8, 8)
    for level, side in [(1, 2), (2, 4)]:
        for i, node in enumerate(tree.level(level)):
            # nodes of a level count along quarters of quarters: bits of the row and the column
            row = sum(((i >> (2 * b + 1)) & 1) << b for b in range(3))
            column = sum(((i >> (2 * b)) & 1) << b for b in range(3))
            below = [v for v in tree.topology.descendants(node) if v in tree.leaves]
            leaves = torch.stack([draw.node(int(v)) for v in below], 1)
            square = found[:, 0, row * side :, column * side :][:, :side, :side]
            assert square.flatten(1).sort(1)[0].equal(leaves.sort(1)[0])


def test_pixels_are_read_in_order_and_patches_hold_together():
    values = torch.arange(2 * 16 * 12).reshape(2, 16, 12)
    found = encode.image(values, channels=3)
    assert found.shape == (2, 3, 8, 8)
    for leaf, (row, column) in {0: (0, 0), 1: (0, 1), 2: (1, 0), 7: (1, 3), 13: (2, 3)}.items():
        patch = found[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert patch.equal(values[:, leaf].reshape(2, 3, 2, 2))
    np.testing.assert_array_equal(encode.image(values[..., 0])[:, 0], found[:, 0, ::2, ::2])


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((2, 8), None, "a power of 4 leaves .*, got 8"),
        ((2, 0), None, "a power of 4 leaves .*, got 0"),
        ((2, 16, 5), 1, "a leaf has 5 numbers, .* channels = 1"),
        ((2, 16, 12), 0, "a leaf has 12 numbers, .* channels = 0"),
        ((16,), 1, r"expected \(…, X, F\)"),
    ],
)
def test_images_name_what_is_wrong(shape, channels, message):
    with pytest.raises(ValueError, match=message):
        encode.image(torch.zeros(shape), channels=channels)


def test_encoding_leaves_the_states_as_they_are() -> None:
    states = torch.tensor([0, 1], dtype=torch.int8)
    assert encode.signs(states, torch.int8).tolist() == [-1, 1]
    assert states.tolist() == [0, 1]
