"""The best unit of every latent: perfect, meaningless, duplicated and dead units; the tidy table."""

import pytest
import torch

import hltm
from hltm.probe import alignment, best_units
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


def scored(blocks, samples=2000, **more):
    return best_units(blocks, TREES, samples=samples, seed=1, **more)


def noise(z, generator):
    return torch.randn(*z.shape, 4, generator=generator)


def test_a_perfect_unit_scores_one_and_is_named():
    def make(z, generator):
        units = noise(z, generator)
        units[..., 2] = -3 * z + 7
        return units

    for level in scored(Blocks(make)).values():
        assert torch.allclose(level.best, torch.ones_like(level.best), atol=1e-6)
        assert (level.unit == 2).all()
        assert level.samples == 2000
        assert level.candidates == "own block"


def test_meaningless_units_rarely_beat_their_null():
    """The 95% point is one: about 5% of 21 x 20 latents, no more and no fewer."""
    above = []
    for seed in range(20):
        blocks = Blocks(noise)
        blocks.generator.manual_seed(seed)
        for level in scored(blocks, samples=1000).values():
            above.append((level.best > level.null).double().flatten())
    rate = float(torch.cat(above).mean())
    assert 0.02 < rate < 0.085


def test_duplicated_units_do_not_raise_the_null():
    def copies(z, generator):
        return torch.randn(*z.shape, 1, generator=generator).expand(*z.shape, 8)

    def one(z, generator):
        return torch.randn(*z.shape, 1, generator=generator)

    many, single = scored(Blocks(copies)), scored(Blocks(one))
    for level in (1, 2, 3):
        assert torch.allclose(many[level].null, single[level].null, atol=1e-6)
    wide = scored(Blocks(lambda z, g: torch.randn(*z.shape, 8, generator=g)))
    assert (wide[1].null > single[1].null).double().mean() > 0.9


def test_dead_units_are_counted_and_never_win():
    def make(z, generator):
        units = noise(z, generator)
        units[..., 0] = 5.0
        units[..., 1] = -units[..., 1].abs() - 1  # dead behind the ReLU alone
        return units

    before = scored(Blocks(make))[2]
    assert (before.dead == 1).all()
    assert before.best_post_relu is None
    after = scored(Blocks(make, rectified=True))[2]
    assert (after.dead == 2).all()
    assert after.best_post_relu is not None
    assert (before.unit != 0).all()


def test_all_units_of_a_shared_layer_are_candidates():
    def make(z, generator):
        return torch.cat([torch.randn(*z.shape[:2], 3, generator=generator), -z], dim=2)

    for level in scored(Blocks(make)).values():
        assert level.candidates == "whole layer"
        assert torch.allclose(level.best, torch.ones_like(level.best), atol=1e-6)
        nodes = level.best.shape[1]
        assert level.unit.tolist() == [[3 + v for v in range(nodes)]] * 3


def test_the_table_is_tidy_and_bounded():
    class Reader:
        members = TREES.members

        def activations(self, leaves):
            return {level: leaves.float() for level in (1, 2)}

    table = alignment(Reader(), TREES, samples=3000, seed=2)
    assert list(table.columns) == [
        "member", "level", "node", "metric", "candidates", "unit", "value", "null", "ceiling",
        "ceiling_error", "n",
    ]  # fmt: skip
    best = table[table["metric"] == "best_abs_correlation"]
    assert len(best) == 3 * (4 + 2)
    # a leaf's correlation with its latent is known: the product of polarities between them
    for row in best.itertuples():
        tree = TREES[row.member]
        expected = tree.correlation(row.node, tree.leaves).abs().max()
        assert row.value == pytest.approx(float(expected), abs=0.06)
    assert (best["value"] < best["ceiling"] + 0.05).all()


def test_a_single_tree_needs_no_member_axis():
    tree = TREES[1]

    class Reader:
        def activations(self, leaves):
            assert leaves.ndim == 2
            return {3: leaves.float()}

    assert len(alignment(Reader(), tree, samples=500, seed=2)["member"].unique()) == 1


def test_a_last_batch_of_one_row_is_read_as_the_others():
    tree = TREES[1]

    class Reader:
        def activations(self, leaves):
            return {2: leaves[:, None, :4].float().expand(-1, 2, -1)}

    found = best_units(Reader(), tree, samples=257, seed=2, lags=0)[2]
    assert found.candidates == "own block"
    assert found.best.shape == (1, 2)
    assert found.samples == 257


@pytest.mark.parametrize("shape", [(3, 50, 4), (2, 50, 4, 5), (3, 50, 3, 5)])
def test_activations_of_the_wrong_shape_are_named(shape):
    class Wrong:
        members = TREES.members

        def activations(self, leaves):
            return {1: torch.zeros(shape)}

    if shape == (3, 50, 4):
        assert best_units(Wrong(), TREES, samples=50, seed=0, lags=0)[1].candidates == "whole layer"
    else:
        with pytest.raises(ValueError, match="activations of level 1 have shape"):
            best_units(Wrong(), TREES, samples=50, seed=0, lags=0)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        best_units(Blocks(noise), TREES, samples=1, seed=0)
    with pytest.raises(ValueError, match="lags must be at least 1, got 0"):
        alignment(Blocks(noise), TREES, samples=10, seed=0, lags=0)
