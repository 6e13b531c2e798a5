"""Metrics alone, as learning curves need them: perfect, meaningless, duplicated and dead units; the table."""

import numpy as np
import pytest
import torch

import hltm
from hltm.probe import measure, probe_layers
from hltm.sampling.philox import Stream

TREES = hltm.symmetric_binary(depth=3, members=3, seed=0)


class Blocks:
    """Units of every latent's own block, made from the true latents by `make(z, generator)`."""

    members = TREES.members

    def __init__(self, make, rectified=False):
        self.make, self.start = make, 0
        self.generator = torch.Generator().manual_seed(0)
        if rectified:
            self.rectify = lambda shown: {level: values.relu() for level, values in shown.items()}

    def activations(self, leaves):
        # leaves determine latents only in part, but a draw's address determines them: drawn again
        count = leaves.shape[1]
        draw = TREES.draw(count, seed=1, start=self.start, stream=Stream.EVALUATION)
        assert draw.leaves.equal(leaves)  # rows that training never reads
        self.start += count
        return {
            level: self.make(draw.level(level).float() * 2 - 1, self.generator)
            for level in (1, 2, 3)
        }


def scored(blocks, samples=2000, seed=1, lags=50):
    found = probe_layers(
        blocks, TREES, samples=samples, seed=seed, lags=lags, metrics="correlation", details=False
    )
    return {level: (layer, layer.scores["correlation"]) for level, layer in found.items()}


def noise(z, generator):
    return torch.randn(*z.shape, 4, generator=generator)


def test_a_perfect_unit_scores_one_and_is_named():
    def make(z, generator):
        units = noise(z, generator)
        units[..., 2] = -3 * z + 7
        return units

    for layer, score in scored(Blocks(make)).values():
        assert torch.allclose(score.best, torch.ones_like(score.best), atol=1e-6)
        assert (score.unit == 4 * torch.arange(score.best.shape[1]) + 2).all()
        assert torch.allclose(score.value[:, :, 2, 0], -score.best, atol=1e-6)  # signed
        assert score.strength.shape == (
            3,
            score.best.shape[1],
            4,
            1,
        )  # of a block's own pairs alone
        assert (layer.samples, layer.candidates, layer.details) == (2000, "own block", None)


def test_meaningless_units_rarely_beat_their_null():
    """The 95% point is one: about 5% of 21 x 20 latents, no more and no fewer."""
    above = []
    for seed in range(20):
        blocks = Blocks(noise)
        blocks.generator.manual_seed(seed)
        for _, score in scored(blocks, samples=1000, lags=199).values():
            above.append((score.best > score.null).double().flatten())
    rate = float(torch.cat(above).mean())
    assert 0.02 < rate < 0.085


def test_duplicated_units_do_not_raise_the_null():
    def copies(z, generator):
        return torch.randn(*z.shape, 1, generator=generator).expand(*z.shape, 8)

    def one(z, generator):
        return torch.randn(*z.shape, 1, generator=generator)

    many, single = (scored(Blocks(make)) for make in (copies, one))
    for level in (1, 2, 3):
        assert torch.allclose(many[level][1].null, single[level][1].null, atol=1e-6)
    wide = scored(Blocks(lambda z, g: torch.randn(*z.shape, 8, generator=g)))
    assert (wide[1][1].null > single[1][1].null).double().mean() > 0.9


def test_units_that_are_dead_for_the_next_layer_are_counted_and_never_win():
    def make(z, generator):
        units = noise(z, generator)
        units[..., 0] = 5.0
        units[..., 1] = -units[..., 1].abs() - 1  # dead behind the ReLU alone
        return units

    layer, score = scored(Blocks(make))[2]
    assert list(layer.scores) == ["correlation"]
    assert layer.dead.tolist() == [[True, False, False, False] * 2] * 3
    assert (score.unit % 4 != 0).all()
    layer, _ = scored(Blocks(make, rectified=True))[2]
    assert layer.dead.tolist() == [[True, True, False, False] * 2] * 3
    table = measure(Blocks(make, rectified=True), TREES, samples=1000, seed=1, lags=20)
    dead = table[(table["metric"] == "dead_units") & (table["layer"] == 2)]
    assert dead[dead["node"] != ""]["value"].tolist() == [2] * 6
    assert dead[dead["node"] == ""]["value"].tolist() == [4] * 3
    assert (dead["note"] == "a count has no null and no ceiling").all()


def test_the_first_metric_is_measured_behind_the_nonlinearity_too():
    def make(z, generator):
        noise = torch.randn(*z.shape, 2, generator=generator)
        noise[..., 0] += z  # after the ReLU less than before
        return noise

    blocks = Blocks(make, rectified=True)
    layer, before = scored(blocks)[2]
    after = layer.scores["correlation_post_relu"]
    draw = TREES.draw(2000, seed=1, stream=Stream.EVALUATION)
    blocks.start = 0
    blocks.generator.manual_seed(0)
    found = {level: values.relu() for level, values in blocks.activations(draw.leaves).items()}
    assert list(found) == [1, 2, 3]
    assert (after.best < before.best).all()
    plain = probe_layers({2: found[2]}, TREES, draw=draw, lags=50, details=False)[2]
    alone = plain.scores["correlation"]
    # the other rows that make the null belong to the seed, and batches differ
    assert torch.allclose(after.best, alone.best, atol=0.1)
    assert torch.allclose(after.null, alone.null, atol=0.03)
    assert torch.equal(
        layer.ceilings["correlation_post_relu"].value, layer.correlation_ceiling.value
    )


def test_values_are_those_of_all_rows_at_once():
    """Small batches, a large common mean and another order of units; against numpy in float64."""
    weight = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))

    class Mix:
        def activations(self, leaves):
            return {"mix": leaves.float() @ weight + 1000}

    found = probe_layers(Mix(), TREES, samples=5000, seed=4, lags=0, details=False)["mix"]
    draw = TREES.draw(5000, seed=4, stream=Stream.EVALUATION)
    for s in range(3):
        a = (draw.leaves[s].double() @ weight.double()).numpy()
        z = draw.states[s, :, :7].numpy()
        expected = np.corrcoef(a.T, z.T)[:5, 5:]
        assert np.allclose(found.scores["correlation"].value[s], expected, atol=1e-4)


def test_all_units_of_a_shared_layer_are_candidates():
    def make(z, generator):
        return torch.cat([torch.randn(*z.shape[:2], 3, generator=generator), -z], dim=2)

    for layer, score in scored(Blocks(make)).values():
        assert layer.candidates == "whole layer"
        assert torch.allclose(score.best, torch.ones_like(score.best), atol=1e-6)
        nodes = score.best.shape[1]
        assert score.unit.tolist() == [[3 + v for v in range(nodes)]] * 3


def test_the_table_has_what_curves_need_and_no_more():
    class Reader:
        members = TREES.members

        def activations(self, leaves):
            return {level: leaves.float() for level in (1, 2)}

    table = measure(Reader(), TREES, samples=3000, seed=2, metrics="correlation", details=False)
    assert sorted(table["metric"].unique()) == [
        "below_null", "correlation", "dead_units", "units_below_null",
    ]  # fmt: skip
    best = table[table["metric"] == "correlation"]
    assert len(best) == 3 * (4 + 2)
    # a leaf's correlation with its latent is known: the product of polarities between them
    for row in best.itertuples():
        tree = TREES[row.member]
        expected = tree.correlation(row.node, tree.leaves).abs().max()
        assert row.value == pytest.approx(float(expected), abs=0.06)
    assert (best["value"] < best["ceiling"] + 0.05).all()
    whole = measure(Reader(), TREES, samples=3000, seed=2)
    merged = best.merge(whole, on=["member", "layer", "node", "metric"])
    assert np.allclose(merged["value_x"], merged["value_y"], atol=1e-6)
    assert np.allclose(merged["null_x"], merged["null_y"], atol=0.03)
    assert merged["ceiling_x"].equals(merged["ceiling_y"])


def test_a_single_tree_needs_no_member_axis():
    tree = TREES[1]

    class Reader:
        def activations(self, leaves):
            assert leaves.ndim == 2
            return {3: leaves.float()}

    found = probe_layers(Reader(), tree, samples=500, seed=2, details=False)[3]
    assert found.scores["correlation"].best.shape == (1, 1)


def test_a_last_batch_of_one_row_is_read_as_the_others():
    tree = TREES[1]

    class Reader:
        def activations(self, leaves):
            return {2: leaves[:, None, :4].float().expand(-1, 2, -1)}

    found = probe_layers(Reader(), tree, samples=257, seed=2, lags=0, details=False)[2]
    assert found.candidates == "own block"
    assert found.scores["correlation"].best.shape == (1, 2)
    assert found.samples == 257


@pytest.mark.parametrize("shape", [(3, 50, 4), (2, 50, 4, 5), (3, 50, 3, 5)])
def test_activations_of_the_wrong_shape_are_named(shape):
    class Wrong:
        members = TREES.members

        def activations(self, leaves):
            return {1: torch.zeros(shape)}

    options = {"samples": 50, "seed": 0, "lags": 0, "details": False}
    if shape == (3, 50, 4):
        assert probe_layers(Wrong(), TREES, **options)[1].candidates == "whole layer"
    else:
        with pytest.raises(ValueError, match="activations of layer 1 have shape"):
            probe_layers(Wrong(), TREES, **options)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="0 lags need at least 2 rows, got 1"):
        scored(Blocks(noise), samples=1, lags=0)
