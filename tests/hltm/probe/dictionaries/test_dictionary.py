"""Dictionaries of planted directions: found exactly, whatever the scale; deterministic; what is refused."""

import pandas as pd
import pytest
import torch

import hltm
from hltm.probe import Dictionary, TorchNetwork, baselines, dictionary, dictionary_scores

TREE = hltm.symmetric_binary(depth=2, polarity=(0.5, 0.7), seed=0)
DRAW = TREE.sample(4096, seed=1)
STATES = torch.nn.functional.one_hot(DRAW.states[:, :3].long(), 2).flatten(1).float()


def planted(on, units=24, seed=0, noise=0.005):
    """Sums of random directions, one for every column that is on, of random sizes; and the directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(
        torch.randn(on.shape[1], units, generator=generator), dim=1
    )
    size = 0.5 + torch.rand(on.shape, generator=generator)
    rest = noise * torch.randn(len(on), units, generator=generator)
    return (on * size) @ directions + rest, directions


def split_and_absorbed():
    """State 1 of latent 1 with two directions by a coin; state 1 of the root without one beside it in 2."""
    coin = (torch.rand(4096, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    split = torch.cat([STATES, (STATES[:, 3] * coin)[:, None]], 1)
    split[:, 3] *= 1 - coin
    absorbed = STATES.clone()
    absorbed[:, 1] *= 1 - STATES[:, 3]
    return split, absorbed


def summary(table):
    rows = table[table["node"] == ""].set_index("metric")["value"]
    return rows[["recovered_states", "split_states", "absorbed_pairs"]].astype(int).tolist()


def test_planted_directions_are_found_and_nothing_else():
    a, directions = planted(STATES)
    before = torch.get_rng_state()
    found = dictionary(a, TREE, draw=DRAW, features=12, active=3, seed=0, steps=500, restarts=1)
    assert torch.get_rng_state().equal(before)
    assert found.decoder.norm(dim=-1).allclose(torch.ones(12))
    assert found.explained > 0.999
    assert 0.05 < found.null < 0.5
    assert ((found.decoder @ directions.T).amax(0) > 0.99).all()
    assert int((found.on > 0).sum()) == 6
    features = found.encode(a)
    assert int((features > 0).sum(1).max()) <= 3
    assert (found.decode(features) - a).square().mean() < 1e-3 * a.var()
    table = dictionary_scores(baselines(a, TREE, found, draw=DRAW), TREE, draw=DRAW, lags=10)
    kinds = dict(list(table.groupby("features", sort=False)))
    assert list(kinds) == ["dictionary", "random directions", "units"]
    assert summary(kinds["dictionary"]) == [6, 0, 0]
    for name, rows in kinds.items():
        recovery = rows[rows["metric"] == "recovery"]["value"]
        assert (recovery.min() > 0.999) == (name == "dictionary")
        assert (recovery.mean() < 0.97) == (name != "dictionary")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_splitting_and_absorption_are_counted(seed):
    split, absorbed = split_and_absorbed()
    for on, expected in ((STATES, [6, 0, 0]), (split, [6, 1, 0]), (absorbed, [6, 0, 1])):
        a, _ = planted(on, seed=seed)
        found = dictionary(a, TREE, draw=DRAW, features=3 * on.shape[1], active=3, seed=0)
        table = dictionary_scores(found.encode(a), TREE, draw=DRAW)
        assert summary(table) == expected


@pytest.mark.slow
def test_seven_latents_and_selection_over_a_batch():
    tree = hltm.symmetric_binary(depth=3, polarity=(0.6, 0.9), seed=0)
    draw = tree.sample(20_000, seed=1)
    on = torch.nn.functional.one_hot(draw.states[:, :7].long(), 2).flatten(1).float()
    a, directions = planted(on, units=32)
    for selection, least in (("row", 14), ("batch", 10)):  # which finds fewer in as many steps
        found = dictionary(
            a, tree, draw=draw, features=28, active=7, seed=0, selection=selection
        )  # fmt: skip
        near = (found.decoder @ directions.T).amax(0) > 0.99
        assert int(near.sum()) >= least
        assert (int((found.on > 0).sum()) == 14) == (selection == "row")


def short(a, tree=TREE, draw=DRAW, **options):
    settings = {"features": 10, "active": 3, "seed": 0, "steps": 20, "restarts": 2} | options
    return dictionary(a, tree, draw=draw, **settings)


def test_the_seed_decides_and_scale_and_offset_do_not_matter():
    a, _ = planted(STATES)
    found = short(a)
    torch.manual_seed(5)
    assert short(a) == found
    assert short(a, seed=1) != found
    for scale in (1e-30, 1e-12, 1e25):
        scaled = short(a * scale)
        assert scaled.decoder.allclose(found.decoder, atol=1e-3)
        assert scaled.encode(a * scale).allclose(
            found.encode(a) * scale, rtol=1e-2, atol=1e-2 * scale
        )
    one, far = (
        short(a.double() + offset) for offset in (1e4, 1e9)
    )  # float32 would keep nothing of the second
    assert abs(one.explained - far.explained) < 0.01
    assert far.explained > 0.5 * found.explained > 0
    assert (far.decode(far.encode(a.double() + 1e9)) - 1e9 - a).square().mean() < a.var()


@pytest.mark.parametrize("selection", ["row", "batch"])
def test_members_are_trained_side_by_side(selection):
    trees = hltm.symmetric_binary(depth=2, polarity=0.6, members=2, seed=0)
    draw = trees.sample(1000, seed=1)
    a = torch.stack([planted(states[:, :6].float(), 12)[0] for states in draw.states])
    found = short(a, trees, draw, selection=selection)
    assert found.decoder.shape == (2, 10, 12)
    assert found.explained.shape == found.null.shape == found.scale.shape == (2,)
    assert found.encode(a).shape == (2, 1000, 10)
    assert found.decode(found.encode(a)).shape == a.shape
    alone = short(a[1], trees[1], trees[1].sample(1000, seed=1), selection=selection)
    assert alone.decoder.allclose(found.decoder[1], atol=1e-5)
    on = (found.encode(a) > 0).double().sum(-1).mean(-1)
    assert ((on > 0.5) & (on < 6)).all()


def test_networks_and_layers():
    network = TorchNetwork(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()), ["0", "1"])
    options = {"features": 6, "active": 2, "seed": 3, "steps": 5, "restarts": 1}
    found = dictionary(network, TREE, samples=500, layer="1", **options)
    assert isinstance(found, Dictionary)
    assert found == dictionary(network, TREE, samples=500, layer="1", **options)
    with pytest.raises(ValueError, match="choose one with layer="):
        dictionary(network, TREE, samples=500, **options)
    with pytest.raises(ValueError, match="got layer='2'"):
        dictionary(network, TREE, samples=500, layer="2", **options)


def test_folders_axes_and_containers(tmp_path):
    hltm.export(TREE, tmp_path, 600, seed=1)
    folder, draw = hltm.load(tmp_path), TREE.sample(600, seed=1)
    a, _ = planted(STATES[:600])
    found = short(a, draw=draw)
    frame = pd.DataFrame(a.numpy())
    assert short(frame, draw=folder) == found
    assert short({"h": a.T.numpy()}, draw=folder, batch_axis=1, layer="h") == found
    packed = TREE.sample(600, seed=1, packed=True)
    assert short(list(a.split(200)), draw=packed) == found
    kinds = baselines(a.T, TREE, found, draw=folder, batch_axis=1)
    assert kinds["dictionary"].equal(found.encode(frame))
    kinds["dictionary"] = pd.DataFrame(kinds["dictionary"].numpy())
    expected = dictionary_scores(baselines(a, TREE, found, draw=draw), TREE, draw=draw, lags=10)
    for rows in (folder, packed):
        pd.testing.assert_frame_equal(dictionary_scores(kinds, TREE, draw=rows, lags=10), expected)


def test_bad_input_is_refused():
    a, _ = planted(STATES)
    nan = a.clone()
    nan[5, 2] = torch.nan
    cases = [
        (a, {"features": 0}, ValueError, "features must be at least 1"),
        (a, {"features": 2.5}, TypeError, "features must be an integer"),
        (a, {"active": 11}, ValueError, "active must be at most the 10 features"),
        (a, {"steps": 0}, ValueError, "steps"),
        (a, {"restarts": 0}, ValueError, "restarts"),
        (a, {"selection": "all"}, ValueError, "selection must be"),
        (a, {"seed": -1}, ValueError, "seed"),
        (a[:9], {"draw": TREE.sample(9, seed=0)}, ValueError, "at least 10 rows"),
        (a[:50], {}, ValueError, "shape"),
        (nan, {}, ValueError, "nan"),
        (a.double() * 1e60, {}, ValueError, "inf"),
        (torch.full_like(a, 3.0), {}, ValueError, "never vary"),
        (torch.zeros_like(a), {}, ValueError, "never vary"),
    ]
    for source, options, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            short(source, **options)
        assert len(str(error.value)) < 300
    found = short(a)
    with pytest.raises(ValueError, match=r"expected \(B, 24\)"):
        found.encode(a[:, :5])
    with pytest.raises(ValueError, match="nan"):
        found.encode(nan)
