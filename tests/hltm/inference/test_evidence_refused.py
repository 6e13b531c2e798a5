"""Evidence that is refused: every sentence, and that -1 and +1 are never taken for states by accident."""

import numpy as np
import pandas as pd
import pytest
import torch

import hltm

WEATHER = hltm.LatentTree.from_parents(
    {"season": None, "rain": "season", "wind": "season", "puddles": "rain"},
    {
        "season": [0.25, 0.5, 0.25],
        "rain": [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]],
        "wind": [[0.6, 0.4], [0.5, 0.5], [0.1, 0.9]],
        "puddles": [[1.0, 0.0], [0.3, 0.7]],
    },
)
TWO = hltm.random_tables(WEATHER.topology, cardinality=2, members=2, seed=0)
BINARY = hltm.symmetric_binary(depth=3, polarity=0.8, seed=0)
ROWS = BINARY.sample(100, seed=0)
SIGNS = 2 * ROWS.leaves.long() - 1


def refused(call, error, match):
    """The message has the match, is one short sentence, and every use of evidence raises it."""
    with pytest.raises(error, match=match) as found:
        call()
    assert len(str(found.value)) < 300


@pytest.mark.parametrize(
    ("evidence", "match"),
    [
        ({"rain": 1.0}, r"evidence on 'rain' is 1\.0, a float: a state is an integer \(give 1\)"),
        ({"rain": np.float32(0.5)}, r"is 0\.5, a float: a state is an integer \(0\.\.1\), and"),
        ({"rain": torch.tensor(torch.nan)}, r"is nan, a float: a state is an integer \(0\.\.1\)"),
        ({"rain": [0.0, 0.0]}, "evidence on 'rain' has likelihood 0 for every state, expected one"),
        ({"rain": [[0.5, 0.5], [0.0, 0.0]]}, "'rain' in row 1 has likelihood 0 for every state"),
        ({"rain": [0.1, 0.2, 0.7]}, r"floats of shape \(3,\): likelihoods have shape \(2,\) or"),
        ({"season": [[0.1, 0.9]]}, r"floats of shape \(1, 2\): likelihoods have shape \(3,\) or"),
        ({"rain": [-0.5, 0.5]}, r"likelihood -0\.5, expected finite numbers of at least 0"),
        ({"rain": [np.nan, 0.5]}, "likelihood nan, expected finite numbers of at least 0"),
        ({"rain": [np.inf, 0.5]}, "likelihood inf, expected finite numbers of at least 0"),
        ({"rain": [[[0.5, 0.5]]]}, r"shape \(1, 1, 2\), expected at most \(B, 2\)"),
        ({"rain": 2}, r"node 'rain' has state 2, expected 0\.\.1, or -1 if missing"),
        ({"season": [0, 3]}, r"node 'season' has state 3, expected 0\.\.2"),
        ({"rain": -2}, "node 'rain' has state -2"),
        ({"rain": 2**70}, "evidence on 'rain': values hold 'too large an integer'"),
        ({"rain": np.uint64(2**64 - 1)}, r"hold a state above 2\^63 - 1"),
        ({"rain": [[0, 1], [1, 0]]}, r"shape \(2, 2\), expected at most \(B,\); likelihoods are"),
        ({"rain": [0, 1], "wind": [0, 1, 1]}, "'rain' has 2 rows and on 'wind' 3, expected one"),
        ({"rain": [0, 1], "wind": [[0.1, 0.9]]}, "'rain' has 2 rows and on 'wind' 1, expected one"),
        ({"rain": 1, 1: 0}, "node 'rain' is given twice, as 'rain' and as 1"),
        ({"rain": "yes"}, "evidence on 'rain': values have dtype <U3, expected integers"),
        ({"rain": None}, "evidence on 'rain': values hold 'None', expected integers"),
        ({"rain": [1, None]}, "evidence on 'rain': values hold 'None', expected integers"),
        ({"rain": [[1, 0], [1]]}, "evidence on 'rain' is not an array"),
        ({"rain": 1 + 2j}, "evidence on 'rain': values have dtype complex128, expected integers"),
        ({"rain": np.ma.masked_invalid([0.0, np.nan])}, "dtype torch.float64, expected integers"),
        (
            pd.DataFrame({"rain": [0.5, 0.2]}),
            r"column 'rain' holds 0\.5 in floats, expected integer",
        ),
        (
            pd.DataFrame({"rain": [-1.0, 1.0]}),
            r"holds -1\.0 in floats.*\(frame > 0\)\.astype\(int\)",
        ),
        (pd.DataFrame({"rain": ["yes"]}), "column 'rain' does not hold integer states"),
        ({"rain": pd.Series([0.5, 0.5])}, r"column 'rain' holds 0\.5 in floats"),
        (pd.DataFrame({"rain": [0, 2]}), r"node 'rain' has state 2, expected 0\.\.1"),
        (pd.DataFrame({"rain": [1], "label": [0]}), "has column 'label', expected names of nodes"),
        (pd.DataFrame([[1, 0, 1]]), r"has column '0', expected .* or the numbers 0\.\.1 for the"),
        (pd.DataFrame([[1, 0]], columns=["Wind", "Puddles"]), "the frame has column 'Wind'"),
        (pd.DataFrame([[1, 0]], columns=["rain", "rain"]), "the frame has column 'rain' twice"),
        (
            BINARY.sample(2, seed=0),
            "a tree with other leaves: it has leaf '7', which this tree has",
        ),
        ([[0, 1], [1]], "leaves are not an array of integers"),
        ([[0, None]], "leaves hold 'None', expected integers"),
        ([{"rain": 1}], "leaves hold .*rain.*, expected integers"),
        ("rain", "leaves have dtype <U4, expected integers"),
        (None, "leaves hold 'None', expected integers"),
        ([], r"leaves have shape \(0,\), expected \(B, 2\)"),
        ([0, 1], r"leaves have shape \(2,\), expected \(B, 2\)"),
        ([[0, 1, 1]], r"leaves have shape \(1, 3\), expected \(B, 2\)"),
        ([[[0, 1]]], r"leaves have shape \(1, 1, 2\), expected \(B, 2\)"),
        ([[0, 2]], r"leaf 'puddles' has state 2, expected 0\.\.1, or -1 if missing"),
        ([[-2, 0]], "leaf 'wind' has state -2"),
        ([[0.0, 1.0]], r"torch\.float64, expected integers; convert them with \.long\(\)"),
        (torch.tensor([[0.5, 1.0]]), r"torch\.float32, expected integers; a missing one is -1"),
        ([[np.nan, 1.0]], "expected integers; NaN is no state, a missing one is -1"),
        ([[-1.0, 1.0]], r"look like signs: \(leaves > 0\)\.long\(\) makes states of them"),
        (torch.tensor([[1j, 0]]), "complex numbers are no states"),
        (np.array([[0, 2**64 - 1]], dtype=np.uint64), r"leaves hold a state above 2\^63 - 1"),
    ],
)
def test_what_is_refused_is_named(evidence, match):
    for call in (
        lambda: WEATHER.posterior(evidence),
        lambda: WEATHER.most_likely(evidence),
        lambda: WEATHER.posterior_samples(evidence, 1, seed=0),
    ):
        refused(call, ValueError, match)


def test_nodes_that_are_unknown():
    refused(
        lambda: WEATHER.posterior({"snow": 1}), KeyError, "'snow'; the tree has 'season', 'rain'"
    )
    refused(lambda: WEATHER.posterior({9: 1}), IndexError, r"0\.\.3, got 9")
    refused(lambda: WEATHER.posterior({1.5: 1}), TypeError, r"1\.5|float")
    refused(lambda: WEATHER.posterior({("rain", 1): 1}), TypeError, "rain|tuple")


def test_shapes_for_stacked_trees():
    refused(
        lambda: TWO.posterior({"rain": np.zeros((3, 4), dtype=int)}), ValueError,
        r"evidence on 'rain' has shape \(3, 4\), expected at most \(2, B\)",
    )  # fmt: skip
    refused(
        lambda: TWO.posterior({"rain": np.ones((3, 4, 2))}), ValueError,
        r"shape \(3, 4, 2\), expected at most \(2, B, 2\)",
    )  # fmt: skip
    refused(
        lambda: TWO.posterior(np.zeros((3, 4, 2), dtype=int)), ValueError,
        r"leaves have shape \(3, 4, 2\), expected \(2, B, 2\) or \(B, 2\)",
    )  # fmt: skip


def test_columns_that_count_from_zero_but_are_names():
    leaves = ROWS.leaves[:3].numpy()
    numbers = pd.DataFrame(leaves)  # integers are places of leaves
    assert BINARY.posterior(numbers) == BINARY.posterior(leaves)
    texts = numbers.rename(columns=str)  # as from a CSV file: also names of the latents
    refused(lambda: BINARY.posterior(texts), ValueError, "count from 0 and are names of nodes too")
    assert BINARY.posterior(texts.to_numpy()) == BINARY.posterior(leaves)
    by_name = {str(v): leaves[:, v] for v in range(8)}
    assert BINARY.posterior(texts.to_dict("list")) == BINARY.posterior(by_name)
    # columns that are all the names of leaves are taken by name, in any order
    star = hltm.LatentTree.from_parents(
        {"root": None, "1": "root", "0": "root"},
        {"root": [0.5, 0.5], "1": [[0.9, 0.1], [0.2, 0.8]], "0": [[0.7, 0.3], [0.4, 0.6]]},
    )
    expected = star.posterior({"0": 0, "1": 1})
    for columns in (["0", "1"], [0, 1]):
        assert star.posterior(pd.DataFrame([[0, 1]], columns=columns)) == expected


def test_signs_are_refused_and_say_how():
    match = (
        r"never 0, as signs are: \(leaves > 0\)\.long\(\) .*numpy\.ma\.masked_equal\(leaves, -1\)"
    )
    lists = {v: SIGNS[:, x].tolist() for x, v in enumerate(BINARY.leaves)}
    latent = {"0": 2 * ROWS.root.long() - 1}
    frame = pd.DataFrame(SIGNS.numpy())
    fair = hltm.symmetric_binary(depth=2, polarity=0.5, seed=0)
    few = 2 * fair.sample(10, seed=0).leaves.long() - 1
    refused(lambda: fair.posterior(few), ValueError, match)
    named = {str(v): few[:, x] for x, v in enumerate(fair.leaves)}
    refused(lambda: fair.posterior({**named, "0": few[:, 0], "1": few[:, 1]}), ValueError, match)
    for evidence in (SIGNS, SIGNS[:5], SIGNS.to(torch.int8).numpy(), lists, latent, frame):
        refused(lambda given=evidence: BINARY.posterior(given), ValueError, match)
        refused(lambda given=evidence: BINARY.most_likely(given), ValueError, match)
        refused(
            lambda given=evidence: BINARY.posterior_samples(given, 1, seed=0), ValueError, match
        )
    trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
    refused(lambda: trees.posterior(SIGNS.expand(2, -1, -1)), ValueError, match)
    # both ways out
    assert BINARY.posterior((SIGNS > 0).long()) == BINARY.posterior(ROWS.leaves)
    known = np.ma.masked_equal(SIGNS.numpy(), -1)
    assert BINARY.posterior(known) == BINARY.posterior(
        pd.DataFrame(known.astype(float).filled(np.nan))
    )
    column = np.ma.masked_equal(latent["0"].numpy(), -1)
    assert BINARY.posterior({"0": column}).log_evidence.isfinite().all()


def test_honest_missing_leaves_are_not_taken_for_signs():
    random = np.random.default_rng(0)
    for _ in range(300):  # rows one by one, and small batches
        rows = random.integers(1, 4)
        leaves = ROWS.leaves[random.integers(0, 100, rows)].long()
        leaves[torch.from_numpy(random.random(leaves.shape) < 0.5)] = -1
        BINARY.posterior(leaves, nodes=0)
    for leaves in ([[1, -1]], [[1, -1], [0, -1]], [[-1, -1], [1, 1]]):
        hltm.symmetric_binary(depth=1, polarity=0.8, seed=0).posterior(leaves)
    assert BINARY.posterior({"7": np.ones(1000, dtype=int)}).log_evidence.isfinite().all()
    assert (BINARY.posterior(torch.full((1000, 8), -1)).log_evidence.abs() < 1e-12).all()
    # leaves that nearly always are 1 do not have to show a 0
    likely = hltm.LatentTree.from_parents([None, 0, 0], [[0.5, 0.5], *[[[1e-9, 1 - 1e-9]] * 2] * 2])
    assert likely.posterior([[1, -1]] * 1000).log_evidence.isfinite().all()
    # every question that shows one node or two, and misses the rest
    for one in ([x] for x in range(8)):
        BINARY.posterior([[1 if x in one else -1 for x in range(8)]] * 100)
    for tree in (BINARY, hltm.symmetric_binary(depth=5, polarity=0.9, seed=0)):
        count = len(tree.leaves)
        tree.posterior(2 * torch.eye(count, dtype=torch.int64) - 1)
        pairs = [{a, b} for a in range(count) for b in range(a)]
        tree.posterior([[1 if x in pair else -1 for x in range(count)] for pair in pairs])
    # trees whose leaves have more than two states have no signs
    assert WEATHER.posterior({"season": [1, -1] * 500}).log_evidence.isfinite().all()
