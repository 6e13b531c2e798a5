"""Every number beside its null and its ceiling, or why it has none; activations of other rows."""

import warnings

import numpy as np
import pytest
import torch
from made_up_units import noise_and_latents

import hltm
from hltm.probe import measure, probe_layers

TREES = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.95), members=2, seed=0)
TREE = TREES[0]
N = 1500
DRAW, DRAWS = TREE.sample(N, seed=1), TREES.sample(N, seed=1)
EVERY = ("correlation", "correlation_ratio", "selectivity", "roc_auc", "mutual_information")


def only(table, metric):
    return table[table["metric"] == metric].reset_index(drop=True)


def noisy_blocks(level):
    z = DRAWS.level(level).float()
    noise = torch.randn(*z.shape, 3, generator=torch.Generator().manual_seed(0))
    noise[..., 1] += 2 * z
    return {level: noise}


class Rectified:
    def __init__(self):
        self.weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))

    def activations(self, leaves):
        return {"h": leaves.float() @ self.weight}

    def rectify(self, shown):
        return {label: values.relu() for label, values in shown.items()}


TABLES = {
    "layer": lambda lags: measure(
        noise_and_latents(DRAW), TREE, draw=DRAW, metrics=EVERY, lags=lags
    ),
    "blocks": lambda lags: measure(noisy_blocks(2), TREES, draw=DRAWS, lags=lags),
    "rectified": lambda lags: measure(Rectified(), TREE, samples=N, seed=1, lags=lags),
    "curve": lambda lags: measure(
        Rectified(), TREE, samples=N, seed=1, lags=lags, metrics="correlation", details=False
    ),
    "few rows": lambda lags: measure(
        DRAW.leaves[:60].float(), TREE, draw=TREE.sample(60, seed=1), lags=lags
    ),
}


@pytest.mark.parametrize("lags", [0, 19])
@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_null_and_ceiling_or_says_why_not(name, lags):
    table = TABLES[name](lags)
    bare = table["null"].isna() | table["ceiling"].isna() | table["ceiling_error"].isna()
    known = bare & (table["metric"] != "roc_auc")  # whose ceiling's error is not estimated
    assert (table[known]["note"] != "").all(), table[known & (table["note"] == "")]
    complete = table[~bare]["note"]
    assert complete.isin(["", "null: of the units before the nonlinearity"]).all()
    assert (table["note"].str.len() < 80).all()
    scored = table[~bare]
    if lags:
        assert (scored["null"] < scored["ceiling"] + 1e-9).all()
        assert {"correlation", "selectivity"} & set(scored["metric"]) or name == "curve"


def test_ceilings_that_follow_from_that_of_correlations():
    for table in (TABLES["layer"](0), TABLES["blocks"](0)):
        correlation, selectivity = (only(table, m) for m in ("correlation", "selectivity"))
        share = correlation["value"] / correlation["ceiling"]
        assert np.allclose(selectivity["value"] / selectivity["ceiling"], share, atol=1e-6)
        assert selectivity["unit"].equals(correlation["unit"])
        matched = only(table, "matched_correlation")
        assert np.allclose(matched["ceiling"], correlation["ceiling"])
        assert np.allclose(matched["null"], correlation["null"], equal_nan=True)
        rival = only(table, "rival")
        for row in rival.itertuples():
            tree = TREES[row.member]
            expected = tree.ceiling([row.rival], leaves="all").value.item()
            assert row.ceiling == pytest.approx(expected, abs=1e-6)
    assert only(table, "linear_cka")["ceiling"].tolist() == [1.0, 1.0]
    for metric in ("effective_rank", "feature_spread"):  # larger is not better
        assert only(table, metric)[["ceiling", "gap_closed"]].isna().to_numpy().all()


def test_one_network_s_ceilings_are_computed_once(monkeypatch):
    calls = []
    plain = hltm.LatentTree.ceiling

    def counted(self, *arguments, **options):
        calls.append(options["leaves"])
        return plain(self, *arguments, **options)

    monkeypatch.setattr(hltm.LatentTree, "ceiling", counted)
    source = {"a": DRAW.leaves.float(), "b": DRAW.leaves.float(), 3: DRAW.leaves.float()}
    layers = probe_layers(source, TREE, draw=DRAW, lags=0, details=False)
    assert calls == []  # a learning curve that reads none pays for none
    hltm.probe.to_frame(layers, TREE)
    assert calls == ["all"]


DEEP = hltm.symmetric_binary(depth=4, polarity=0.9, seed=0)


def test_activations_of_other_rows_are_noticed():
    draw = DEEP.sample(N, seed=1)
    a = draw.leaves.float()
    generator = torch.Generator().manual_seed(0)
    noise, mix = (torch.randn(shape, generator=generator) for shape in (a.shape, (16, 9)))
    source = {"a": a + 0.1 * noise, "b": a @ mix}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(source, DEEP, draw=draw, lags=39, details=False)
    turned = {label: values.flip(0) for label, values in source.items()}
    for given, its in ((source, DEEP.sample(N, seed=2)), (turned, draw)):
        with pytest.warns(UserWarning, match="computed on other rows than the draw's") as found:
            measure(given, DEEP, draw=its, lags=39, initial=given, details=False)
        assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # too few comparisons to tell; and none without a null
        measure(turned, DEEP, draw=draw, lags=39, nodes=[0], details=False)
        measure(turned, DEEP, draw=draw, lags=0, details=False)


@pytest.mark.parametrize(("cardinality", "rows", "lags"), [(2, 2, 1), (2, 10, 2), (32, 400, 20)])
def test_what_has_no_value_null_or_ceiling_has_a_note(
    cardinality: int, rows: int, lags: int
) -> None:
    tree = hltm.balanced(depth=2, cardinality=cardinality, seed=0)
    activations = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    table = measure(activations, tree, draw=tree.sample(rows, seed=3), lags=lags)
    without = table[table[["value", "null", "ceiling"]].isna().any(axis=1)]
    assert (without["note"] != "").all()
