"""Targets of one's own: parts of a state, a teacher's activations, signed, in blocks and in layers."""

import numpy as np
import pytest
import torch

import hltm
from hltm.probe import Correlation, measure, probe_layers
from hltm.sampling.philox import Stream

TREES = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.95), members=2, seed=0)
WEIGHT = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))


class Student:
    """Shared layers 1 and 2 of five units, and blocks of two units at level 3's and 1's nodes."""

    def activations(self, leaves):
        shared = leaves.float() @ WEIGHT
        blocks = shared[:, :, :4, None] * torch.tensor([1.0, -2.0]) + 0.1 * shared[..., None, :2]
        return {1: blocks, 2: shared}


def teacher(draw):
    """Two units for each block of level 1, and three for the layer of level 2."""
    leaves = draw.leaves.float()
    return {1: leaves.unflatten(-1, (4, 2)), 2: leaves[..., :3]}


class Signed(Correlation):
    def strength(self):
        return self.result()


def test_a_teachers_units_are_compared_block_by_block():
    n = 4000
    found = probe_layers(
        Student(), TREES, samples=n, seed=3, lags=39, targets=teacher, metrics=[Signed],
        details=False,
    )  # fmt: skip
    draw = TREES.draw(n, seed=3, stream=Stream.EVALUATION)
    given, wanted = Student().activations(draw.leaves), teacher(draw)
    score = found[1].scores["signed"]
    assert score.value.shape == (2, 4, 2, 2)
    for s in range(2):
        for v in range(4):
            both = np.corrcoef(given[1][s, :, v].T, wanted[1][s, :, v].T)[:2, 2:]
            assert np.allclose(score.value[s, v], both, atol=1e-5)
            assert np.allclose(score.best[s, 2 * v : 2 * v + 2], both.max(0), atol=1e-5)
    layer = found[2].scores["signed"]
    both = np.corrcoef(given[2][0].T, wanted[2][0].T)[:5, 5:]
    assert np.allclose(layer.value[0], both, atol=1e-5)
    assert layer.null.shape == (2, 3)
    assert (layer.null > 0.01).all()
    assert (layer.null < 0.1).all()
    assert found[1].names[:3] == [f"{TREES.topology.names[3]}:{t}" for t in range(2)] + [
        f"{TREES.topology.names[4]}:0"
    ]


def test_the_null_calls_targets_for_other_rows():
    """A network that knows the rows' leaves gets nothing out of those of other rows."""
    streams = []

    def itself(draw):
        streams.append(draw.stream)
        return {"x": draw.leaves.float()}

    class Copy:
        def activations(self, leaves):
            return {"x": leaves.float()}

    table = measure(Copy(), TREES, samples=2000, seed=3, lags=20, targets=itself)
    assert set(streams) == {Stream.EVALUATION, Stream.NULL}
    best = table[table["metric"] == "correlation"]
    assert np.allclose(best["value"], 1)
    assert (best["null"] < 0.15).all()
    assert best["node"].tolist() == [str(t) for t in range(8)] * 2
    assert best["note"].unique().tolist() == ["no ceiling: targets are not the latents"]
    assert set(table["metric"]) == {
        "correlation", "below_null", "dead_units", "units_below_null",
    }  # fmt: skip


def test_a_part_of_a_state_is_a_target():
    """A state of six that is symbol · 2 + rule: the ratio with the symbol is that of its own table."""
    tree = hltm.balanced(depth=2, cardinality=6, members=2, seed=1)
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

    class Reader:
        def activations(self, leaves):
            return {1: noise[leaves.long()].flatten(2)}

    def symbols(draw):
        return {1: draw.level(1) // 2}

    found = probe_layers(Reader(), tree, samples=3000, seed=3, lags=19, targets=symbols)[1]
    score = found.scores["correlation_ratio"]  # the usual one for states
    draw = tree.draw(3000, seed=3, stream=Stream.EVALUATION)
    a, z = noise[draw.leaves.long()].flatten(2)[0].double(), draw.level(1)[0] // 2
    for t in range(z.shape[1]):
        means = torch.stack([a[z[:, t] == k].mean(0) for k in range(3)])
        share = torch.stack([(z[:, t] == k).double().mean() for k in range(3)])
        between = (share[:, None] * (means - a.mean(0)).square()).sum(0)
        expected = (between / a.var(0, correction=0)).sqrt()
        assert torch.allclose(score.value[0, :, t], expected, atol=1e-5)
    assert torch.isfinite(score.null).all()


def test_arrays_and_a_draw_serve_as_well():
    draw = TREES[0].sample(3000, seed=1)
    source = draw.leaves.float() + 0.1
    found = probe_layers(
        source, TREES[0], draw=draw, lags=0, targets=lambda d: {"activations": d.leaves.double()}
    )["activations"]
    assert torch.allclose(found.scores["correlation"].best, torch.ones(1, 8).double())
    assert found.details is None


def test_targets_that_do_not_fit_are_refused():
    cases = [
        (lambda draw: draw.leaves, "must return a mapping of layers to tensors, got Tensor"),
        (lambda draw: {}, "got an empty one"),
        (lambda draw: {3: draw.leaves}, r"targets are for layer 3, the source has \[1, 2\]"),
        (lambda draw: {1: draw.leaves[0]}, r"expected \(2, 100, T\) or \(2, 100, V, T\)"),
        (lambda draw: {1: draw.leaves[..., 0]}, r"expected \(2, 100, T\) or \(2, 100, V, T\)"),
        (lambda draw: {1: draw.leaves / 0}, "targets of layer 1 are not all finite"),
    ]
    options = {"samples": 100, "seed": 0, "lags": 0}
    for targets, message in cases:
        with pytest.raises(ValueError, match=message):
            measure(Student(), TREES, targets=targets, **options)
    with pytest.raises(ValueError, match=r"targets must be a function .*, got Tensor"):
        measure(Student(), TREES, targets=torch.zeros(100, 2), **options)
    with pytest.raises(ValueError, match="selectivity is for states, but the targets of layer 1"):
        measure(Student(), TREES, targets=teacher, metrics="selectivity", **options)
    with pytest.raises(ValueError, match="give nodes, which are latents, or targets of your own"):
        measure(Student(), TREES, targets=teacher, nodes=[0], **options)
