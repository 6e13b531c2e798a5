"""Recovery, splitting and absorption: exact where they are planted, none where they are not."""

import numpy as np
import pandas as pd
import pytest
import torch

import hltm
from hltm.probe import dictionary_scores

TREE = hltm.symmetric_binary(depth=3, polarity=(0.4, 0.8), seed=0)
DRAW = TREE.sample(4096, seed=1)
STATES = torch.nn.functional.one_hot(DRAW.states[:, :7].long(), 2).flatten(1).bool()
GENERATOR = torch.Generator().manual_seed(0)
LABELS = ["node", "state", "child", "child_state"]


def scores(features, tree=TREE, draw=DRAW, **options):
    return dictionary_scores(features.float(), tree, draw=draw, **({"lags": 40} | options))


def totals(table):
    return table[table["node"] == ""].set_index("metric")["value"].astype(int).to_dict()


def only(table, metric):
    return table[table["metric"] == metric]


def test_one_feature_for_every_state():
    table = scores(torch.cat([STATES, STATES[:, :3], torch.zeros(4096, 2)], 1))  # and copies
    for metric in ("recovery", "matched_recovery", "union_recovery", "splitting", "correlation"):
        assert np.allclose(only(table, metric)["value"], 1, atol=1e-12)
        assert len(only(table, metric)) == 14
    assert (only(table, "absorption")["value"] == 0).all()
    assert (
        len(only(table, "absorption")) == 2 * 2 * 6
    )  # states of six children and of their parents
    expected = {"recovered_states": 14, "split_states": 0, "absorbed_pairs": 0, "dead_features": 2}
    assert totals(table) == expected
    assert table["ceiling"].notna().all()
    assert (table["null"].notna() | (table["note"] != "")).all()
    recovery = only(table, "recovery")
    assert (recovery["null"] < 0.06).all()
    assert recovery["ceiling"].between(0.3, 1).all()


def test_planted_splitting_is_counted_and_nothing_else():
    parts = torch.randint(3, (4096,), generator=GENERATOR)
    thirds = [STATES[:, 3] & (parts == i) for i in range(3)]
    halves = [STATES[:, 12] & (parts > 0), STATES[:, 12] & (parts == 0)]
    features = torch.cat(
        [STATES[:, [i for i in range(14) if i not in (3, 12)]], torch.stack(thirds + halves, 1)], 1
    )
    table = scores(features)
    split = only(table, "splitting")["value"].astype(int).tolist()
    assert split == [3 if t == 3 else 2 if t == 12 else 1 for t in range(14)]
    assert totals(table)["split_states"] == 2
    assert totals(table)["absorbed_pairs"] == 0
    assert np.allclose(only(table, "union_recovery")["value"], 1)
    assert only(table, "recovery")["value"].iloc[12] < 0.95


def test_planted_absorption_is_counted_and_nothing_else():
    features = STATES.clone()
    features[:, 3] &= ~STATES[:, 7]  # state 1 of node 1 has no feature beside state 1 of node 3
    table = scores(features)
    assert totals(table)["absorbed_pairs"] == 1
    assert totals(table)["split_states"] == 0
    found = only(table, "absorption")
    best = found.loc[found["value"].idxmax()]
    assert best[LABELS].tolist() == ["1", 1, "3", 1]
    assert best["value"] == 1
    assert best["null"] < 0.85
    # the twin: a feature of the parent that misses as many rows, whatever the child
    missed = (STATES[:, 3] & STATES[:, 7]).sum() / STATES[:, 3].sum()
    features[:, 3] = STATES[:, 3] & (torch.rand(4096, generator=GENERATOR) > missed)
    twin = scores(features)
    assert totals(twin)["absorbed_pairs"] == 0
    assert only(twin, "absorption")["value"].max() > 0.5  # which its null explains


def test_noise_recovers_nothing_beyond_chance():
    above = []
    for _ in range(5):
        table = scores(torch.randn(4096, 12, generator=GENERATOR), lags=30)
        above += (only(table, "recovery")["value"] > only(table, "recovery")["null"]).tolist()
        assert totals(table)["absorbed_pairs"] == totals(table)["split_states"] == 0
    assert np.mean(above) < 0.2  # 5% are expected; binary states come in pairs


def test_recovery_is_matthews_correlation_and_ceilings_are_the_posteriors():
    features = STATES.float() + 0.7 * torch.randn(STATES.shape, generator=GENERATOR) - 0.4
    table = scores(features)
    for t in (0, 5, 13):
        each = [np.corrcoef(STATES[:, t], features[:, i] > 0)[0, 1] for i in range(14)]
        assert np.isclose(only(table, "recovery")["value"].iloc[t], max(each))
        assert only(table, "recovery")["feature"].iloc[t] == int(np.argmax(each))
        p = TREE.posterior(DRAW.leaves).marginals[:, t // 2, t % 2].numpy()
        cuts = [np.corrcoef(STATES[:, t], p >= cut)[0, 1] for cut in np.unique(p)[1:]]
        assert np.isclose(only(table, "recovery")["ceiling"].iloc[t], max(cuts))
        linear = np.corrcoef(p, STATES[:, t])[0, 1]
        assert np.isclose(only(table, "correlation")["ceiling"].iloc[t], linear)


def test_members_more_states_and_kinds():
    trees = hltm.balanced(depth=2, cardinality=(3, 2, 4), members=2, seed=0)
    draw = trees.sample(1000, seed=1)
    features = torch.randn(2, 1000, 5, generator=GENERATOR)
    table = dictionary_scores({"a": features, "b": -features}, trees, draw=draw, lags=20)
    assert table.groupby(["member", "features"]).ngroups == 4
    assert len(only(table, "recovery")) == 4 * (3 + 2 + 2)
    alone = dictionary_scores(features[1], trees[1], draw=trees[1].sample(1000, seed=1), lags=20)
    rows = table[(table["member"] == 1) & (table["features"] == "a")].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows.drop(columns="features"), alone.drop(columns="features"))


def test_bad_input_is_refused():
    features = torch.zeros(4096, 3)
    cases = [
        (features[:10], {}, "shape"),
        (features[:, :0], {}, "shape"),
        (features + torch.nan, {}, "not finite"),
        (features, {"lags": 0}, "lags"),
        (features, {"lags": 3000}, "need at least"),
        (features, {"tree": hltm.symmetric_binary(depth=2, seed=0)}, "nodes"),
    ]
    for values, options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            scores(values, **options)
        assert len(str(error.value)) < 300
