"""Population losses against sums over every triple, and large batches; training on them."""

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets.methods.losses import (
    BatchwiseNCE,
    InfoNCE,
    NTXent,
    Simple,
    SpectralContrastive,
    Triplet,
)
from dualnets.theory import (
    InfiniteInfoNCE,
    population_loss,
    population_trajectory,
    view_distribution,
)

AUGMENT = hltm.resample_leaves(0.3)
TREES = hltm.symmetric_binary(depth=2, members=2, seed=0)
NETWORK = dualnets.tree_network(TREES, units=4, seed=1, dtype=torch.float64)
VIEWS = view_distribution(TREES, AUGMENT, dtype=torch.float64, device="cpu")


@pytest.fixture(scope="module")
def outputs():
    return NETWORK(VIEWS.leaves.expand(2, -1, -1)).detach()


def test_pairs_are_what_views_do():
    draw = TREES.sample(100_000, seed=0)
    a, b = (view.leaves.long() for view in TREES.views(draw, AUGMENT))
    place = 2 ** torch.arange(3, -1, -1)
    number = (a * place).sum(-1) * 16 + (b * place).sum(-1)
    for s in range(2):
        counts = torch.bincount(number[s], minlength=256).double() / 100_000
        error = (counts - VIEWS.pairs[s].flatten()).abs() / (VIEWS.pairs[s].flatten() + 1e-5).sqrt()
        assert error.max() < 4.5 / 100_000**0.5
    assert torch.allclose(VIEWS.pairs.sum(2), VIEWS.marginal)


@pytest.mark.parametrize("loss", [Simple(), Triplet(0.5, 0.3), InfoNCE(0.05), InfoNCE(0.001)])
def test_sums_over_every_triple(loss, outputs):
    a, b, k = (torch.tensor(i.ravel()) for i in np.indices((16, 16, 16)))
    weight = VIEWS.pairs[:, a, b] * VIEWS.marginal[:, k]  # (S, 4096)
    shape = (2 * 4096, 1, 4)  # every triple a batch of one
    parts = [outputs[:, i].reshape(shape) for i in (a, b, k)]
    values = loss(parts[0], parts[1], parts[2][:, None]).view(2, 4096)
    assert torch.allclose(
        population_loss(loss, outputs, VIEWS), (weight * values).sum(1), rtol=1e-11
    )


@pytest.mark.parametrize("loss", [Triplet(0.5, 0.3), InfoNCE(0.05), InfoNCE(0.0005)])
def test_gradients_of_triples(loss, outputs):
    some = outputs[:, :, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: population_loss(loss, f, VIEWS), (some,))


def drawn(n):
    draw = TREES.sample(n, seed=3)
    anchor, positive = (NETWORK(view.leaves) for view in TREES.views(draw, AUGMENT))
    return anchor, positive, NETWORK(TREES.sample(n, seed=4).leaves)


def test_losses_of_large_batches_approach_it(outputs):
    with torch.no_grad():
        anchor, positive, negative = drawn(100_000)
        batchwise = BatchwiseNCE(0.05)(anchor, positive, negative[:, None])
        spectral = SpectralContrastive()(anchor, positive, negative[:, None])
        assert torch.allclose(
            population_loss(BatchwiseNCE(0.05), outputs, VIEWS), batchwise, atol=2e-3
        )
        expected = population_loss(SpectralContrastive(), outputs, VIEWS)
        assert torch.allclose(expected, spectral, atol=2e-3)
        anchor, positive, _ = drawn(2000)
        limit = population_loss(InfiniteInfoNCE(0.1), outputs, VIEWS)
        together = NTXent(0.1)(anchor, positive, anchor[:, None, :0]) - 0.1 * np.log(2 * 2000 - 2)
        assert torch.allclose(limit, together, atol=4e-3)


@pytest.mark.slow
def test_one_step_of_a_huge_batch_is_one_step_of_the_flow():
    start = dualnets.tree_network(TREES, units=4, seed=1, normalize=True)
    one_step = {"augment": AUGMENT, "steps": 1, "optimizer": dualnets.SGD(lr=1.0)}
    moved = []
    flow = population_trajectory(start, InfoNCE(0.1), TREES, **one_step)
    final = [*flow][-1].network
    for batch in (100, 5_000):
        method = dualnets.SimCLR(InfoNCE(0.1))
        found = dualnets.train(start, method, TREES, batch=batch, seed=0, **one_step)
        moved.append(float((found.network.weights[0] - final.weights[0]).detach().abs().max()))
    assert 3 * moved[1] < moved[0]


def test_the_flow_descends_and_members_do_not_meet():
    every = population_trajectory(
        NETWORK, InfoNCE(0.1), TREES, augment=AUGMENT, steps=10,
        optimizer=dualnets.SGD(lr=0.2), snapshots=[0, 3, 6, 10],
    )  # fmt: skip
    found = list(every)
    losses = torch.stack([snapshot.losses for snapshot in found])
    assert (losses.diff(dim=0) < 0).all()
    assert [snapshot.step for snapshot in found] == [0, 3, 6, 10]
    one = dualnets.tree_network(TREES[1], units=4, seed=1, dtype=torch.float64)
    alone = population_trajectory(
        one, InfoNCE(0.1), TREES[1], augment=AUGMENT, steps=10, optimizer=dualnets.SGD(lr=0.2)
    )
    last = [*alone][-1].network
    for a, b in zip(last.weights, found[-1].network.weights, strict=True):
        assert torch.allclose(a[0], b[1], atol=1e-12)
    assert NETWORK.weights[0].equal(found[0].network.weights[0])  # the given one is left alone


def test_errors(outputs):
    with pytest.raises(ValueError, match="NTXent takes its negatives"):
        population_loss(NTXent(), outputs, VIEWS)
    with pytest.raises(ValueError, match=r"3 negatives has X\^5"):
        population_loss(InfoNCE(0.1, 3), outputs, VIEWS)
    with pytest.raises(ValueError, match="int has no population form"):
        population_loss(3, outputs, VIEWS)
    big = hltm.symmetric_binary(depth=4, seed=0)
    with pytest.raises(ValueError, match="65536 joint states"):
        view_distribution(big, AUGMENT, dtype=torch.float64, device="cpu")
    wide = hltm.symmetric_binary(depth=1, branching=10, seed=0)
    network = dualnets.tree_network(wide, units=2, seed=0)
    with pytest.raises(ValueError, match="triples of 1024"):
        population_trajectory(
            network, InfoNCE(), wide, augment=AUGMENT, steps=1, optimizer=dualnets.SGD()
        )


def test_what_is_no_block_network_is_refused():
    trees = hltm.symmetric_binary(depth=2, seed=0)
    common = {"augment": hltm.keep_root(), "steps": 1, "optimizer": dualnets.SGD(lr=0.1)}
    with pytest.raises(TypeError, match=r"expected a block network .* got Linear"):
        population_trajectory(torch.nn.Linear(4, 2), dualnets.Simple(), trees, **common)
    network = dualnets.tree_network(trees, units=3, seed=1)
    with pytest.raises(
        TypeError, match=r"an optimizer such as dualnets\.SGD\(lr=0\.1\), got 'sgd'"
    ):
        population_trajectory(network, Simple(), trees, **{**common, "optimizer": "sgd"})
    with pytest.raises(TypeError, match=r"an Augmentation, e\.g\. hltm\.keep_root\(\), got 'keep'"):
        population_trajectory(network, Simple(), trees, **{**common, "augment": "keep"})
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got inf"):
        InfiniteInfoNCE(float("inf"))
    several = hltm.symmetric_binary(depth=2, members=3, seed=0)
    views = view_distribution(several, hltm.keep_root(), dtype=torch.float64, device="cpu")
    for shape in ((2, 16, 2), (3, 4, 2)):
        with pytest.raises(ValueError, match=r"expected \(S, 16, U\) with S = 3"):
            population_loss(Simple(), torch.zeros(shape, dtype=torch.float64), views)
