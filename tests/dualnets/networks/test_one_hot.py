"""Networks that read leaves of two states one-hot, so that these can be missing."""

from functools import partial

import pytest
import torch

import dualnets
import hltm
from dualnets.networks.compiled.structure import network_layers
from dualnets.theory import latent_inputs
from dualnets.training.compiled import pairs, siamese

BINARY = hltm.symmetric_binary(depth=3, members=2, seed=0)
UNEVEN = hltm.random_tree(
    nodes=14, cardinality=(2, 4), members=2, seed=1
)  # also of irregular shape
MAKE = {
    "mlp": partial(dualnets.mlp, layers=2),
    "tree": dualnets.tree_network,
    "conv": dualnets.conv_tree,
    "shuffled": dualnets.shuffled_tree,
}
options = {"units": 3, "seed": 2, "dtype": torch.float64}
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def with_some_missing(trees, marked):
    """Leaves `(S, B, X)` of which some are `marked`, as int64."""
    leaves = trees.sample(9, seed=1).leaves.long()
    missing = torch.rand(leaves.shape, generator=torch.manual_seed(0)) < 0.3
    return leaves.masked_fill(missing, marked)


@pytest.mark.parametrize("trees", [BINARY, UNEVEN], ids=["binary", "uneven"])
@pytest.mark.parametrize("marked", [-1, 255, 65535])
def test_features_are_one_per_state_and_zero_for_a_missing_leaf(trees, marked):
    network = dualnets.mlp(trees, one_hot=True, **options)
    cardinality = trees.tables.cardinality[list(trees.leaves)].tolist()
    assert network.features == sum(cardinality)
    leaves = with_some_missing(trees, marked)
    expected = [
        [float(states[x] == k) for x, count in enumerate(cardinality) for k in range(count)]
        for states in leaves.flatten(0, 1).tolist()
    ]
    features = torch.tensor(expected, dtype=torch.float64).view(2, 9, -1)
    assert features.sum(-1).equal((leaves != marked).sum(-1).double())
    close(network.activations(leaves)[1], features @ network.weights[0][:, 0].mT)


@pytest.mark.parametrize("kind", MAKE)
def test_a_bit_is_a_one_hot_leaf_whose_weights_are_a_difference(kind):
    """With w_1 x for a bit and w_1 x + w_0 (1 - x) one-hot, a network with w_0 = 0 is the plain one."""
    network, plain = (MAKE[kind](BINARY, one_hot=own, **options) for own in (True, False))
    with torch.no_grad():
        for own, its in zip(network.weights, plain.weights, strict=True):
            own.copy_(its if own.shape == its.shape else torch.zeros(own.shape))
        network.weights[0][..., 1::2] = plain.weights[0]
    leaves = BINARY.sample(20, seed=1).leaves
    close(network(leaves), plain(leaves))
    missing = torch.full_like(leaves, 255)
    assert (network(missing) == 0).all()  # no biases: nothing is left of a sample without leaves
    network.weights[0].data[..., ::2] = 1.0
    assert not network(leaves).allclose(plain(leaves))
    assert (network.reads_missing, plain.reads_missing) == (True, False)


@pytest.mark.parametrize("kind", MAKE)
def test_no_kernel_takes_the_states_for_the_features(kind):
    network, plain = (MAKE[kind](BINARY, one_hot=own, **options) for own in (True, False))
    assert not network.plain
    assert network.equal_shares == plain.equal_shares
    assert network_layers(network).features == 16
    spec = dualnets.BYOL(projector=dualnets.Head(), predictor=dualnets.Head((3,))).siamese
    assert siamese.supported_kernel(network, spec) is None
    assert (siamese.supported_kernel(plain, spec) is not None) == plain.plain
    # this one reads features: it trains on missing leaves what plain torch does
    kernel = pairs.supported_kernel(network, dualnets.InfoNCE(0.5))
    assert (kernel is not None) == plain.equal_shares
    with pytest.raises(ValueError, match="expected a block of units per latent"):
        latent_inputs(network, BINARY)


class Eager(dualnets.SimCLR):
    """A subclass, for which there is no compiled code."""


@pytest.mark.parametrize("kind", ["mlp", "tree"])
def test_compiled_and_plain_training_on_missing_leaves_are_the_same(kind):
    train = partial(
        dualnets.train, source=BINARY, augment=hltm.drop_leaves(0.3), steps=3, batch=8,
        optimizer=dualnets.SGD(0.1), seed=3,
    )  # fmt: skip
    network = MAKE[kind](BINARY, one_hot=True, **options)
    found, expected = (
        train(network, method(dualnets.InfoNCE(0.5))) for method in (dualnets.SimCLR, Eager)
    )
    close(found.losses, expected.losses, rtol=1e-9)
    for own, its, before in zip(
        *(n.parameters() for n in (found.network, expected.network, network)), strict=True
    ):
        close(own, its, rtol=1e-9, atol=1e-10)
        assert not own.equal(before)


def test_only_networks_that_read_missing_leaves_train_on_them():
    train = partial(
        dualnets.train, source=BINARY, augment=hltm.drop_leaves(0.3), steps=1, batch=8,
        optimizer=dualnets.SGD(0.1), seed=3,
    )  # fmt: skip
    message = r"as one bit, which cannot be missing, but drop-leaves:0\.3 .* one_hot=True"
    plain, able = (dualnets.mlp(BINARY, one_hot=own, **options) for own in (False, True))
    tokens = dualnets.transformer(BINARY, width=4, layers=1, heads=1, seed=0, dtype=torch.float64)
    method = Eager(dualnets.InfoNCE(0.5))
    with pytest.raises(ValueError, match=message):
        train(plain, method)
    for network in (able, tokens):
        assert train(network, method).losses.isfinite().all()
    with pytest.raises(ValueError, match=message):  # a teacher reads the same views
        train(able, dualnets.TeacherStudent(plain))
    assert train(able, dualnets.TeacherStudent(able)).losses.max() < 1e-12
    # three states and more have always been one-hot
    three = hltm.random_hierarchy(v=3, m=2, s=2, L=2, classes=3, members=2, seed=0)
    train(dualnets.mlp(three, **options), method, source=three)


def test_what_is_no_switch_is_refused():
    with pytest.raises(TypeError, match="one_hot must be True or False, got 1"):
        dualnets.mlp(BINARY, units=3, one_hot=1, seed=0)
