"""Convolutions over leaves against torch's own, one member at a time."""

from functools import partial

import pytest
import torch
from torch import nn

import dualnets
import hltm
from hltm.probe.causal.replacing import Replacement, run_with

TREES = hltm.random_tree(nodes=16, cardinality=(2, 4), members=2, seed=1)
LEAVES = TREES.sample(5, seed=2).leaves
make = partial(dualnets.conv_sequence, width=6, layers=3, seed=3, dtype=torch.float64)
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
OPTIONS = [
    {"kernel": 3},
    {"kernel": 5, "residual": False},
    {"kernel": 2, "causal": True},
    {"kernel": 3, "residual": False, "causal": True},
    {"kernel": 1},
]


def plain_layers(network, member, leaves, *, residual, causal):
    """The values `(B, X, U)` of every layer by nn.Conv1d, and its modules."""
    tokens = nn.Embedding.from_pretrained(network.tokens[member].detach(), freeze=False)
    given = leaves.long()
    if causal:
        begin = torch.full_like(given[:, :1], network.states + 1)
        given = torch.cat([begin, given[:, :-1]], 1)
    hidden, shown, modules = tokens(given).mT, [], []
    for layer, block in enumerate(network.blocks):
        outputs, inputs, kernel = block.weight.shape[1:]
        pad = kernel - 1 if causal else kernel // 2
        module = nn.Conv1d(inputs, outputs, kernel, padding=pad).double()
        module.load_state_dict({"weight": block.weight[member], "bias": block.bias[member]})
        found = module(hidden.relu() if layer else hidden)[..., : leaves.shape[1]]
        hidden = hidden + found if residual else found
        shown.append(hidden.mT)
        modules.append(module)
    return shown, tokens, modules


@pytest.mark.parametrize("options", OPTIONS)
def test_equals_torchs_convolutions_and_their_gradients(options):
    network = make(TREES, **options)
    output, shown = network.positions(LEAVES), network.activations(LEAVES)
    push = torch.randn(output.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    (output * push).sum().backward()
    close(network(LEAVES), output.mean(2))
    for s in range(2):
        own = {"residual": options.get("residual", True), "causal": options.get("causal", False)}
        layers, tokens, modules = plain_layers(network, s, LEAVES[s], **own)
        close(output[s], layers[-1])
        for level, values in enumerate(layers, start=1):
            close(shown[level][s], values)
        (layers[-1] * push[s]).sum().backward()
        close(network.tokens.grad[s], tokens.weight.grad)
        for block, module in zip(network.blocks, modules, strict=True):
            close(block.weight.grad[s], module.weight.grad)
            close(block.bias.grad[s], module.bias.grad)
    assert len([*network.parameters()]) == 1 + 2 * 3


def test_weights_start_as_torchs_and_a_member_is_the_same_in_any_ensemble():
    whole, single = make(TREES), make(TREES[1])
    for ours, its in zip(whole.parameters(), single.parameters(), strict=True):
        assert ours[1:].equal(its)
        assert not ours[0].equal(ours[1])
        share = ours.abs().max() * (1 if ours is whole.tokens else (6 * 3) ** 0.5)
        assert (0.5 if ours.ndim == 2 else 0.9) < share <= 1
    close(single.positions(LEAVES[1]), whole.positions(LEAVES)[1])


def test_an_output_reads_the_leaves_around_it_and_a_causal_one_those_before():
    count = len(TREES.leaves)
    for options, reads in (
        ({"kernel": 3}, lambda x: range(x - 3, x + 4)),
        ({"kernel": 3, "causal": True}, lambda x: range(x - 7, x)),
    ):
        network = make(TREES, **options)
        before = network.positions(LEAVES)
        for y in range(count):
            changed = LEAVES.clone()
            changed[..., y] = (changed[..., y] + 1) % 2
            moved = (network.positions(changed) - before).abs().amax((0, 1, 3)) > 1e-9
            assert moved.tolist() == [y in reads(x) for x in range(count)]


def test_missing_leaves_and_replaced_units():
    network = make(TREES)
    missing = torch.rand(LEAVES.shape, generator=torch.manual_seed(0)) < 0.4
    expected = network.positions(LEAVES.masked_fill(missing, 255))
    close(network.positions(LEAVES.long().masked_fill(missing, -1)), expected)
    assert not expected.allclose(network.positions(LEAVES))
    every = torch.ones(1, dtype=torch.bool)
    other = TREES.sample(5, seed=9).leaves
    for level, values in network.activations(other).items():
        found = run_with(network, LEAVES, {level: Replacement(every, values)})
        close(found, network(other))


def test_trains_in_parts():
    network = make(TREES)
    train = partial(
        dualnets.train, network, dualnets.SimCLR(dualnets.InfoNCE(0.5)), TREES,
        augment=hltm.drop_leaves(0.3), steps=2, batch=8, optimizer=dualnets.SGD(0.1), seed=3,
    )  # fmt: skip
    states = [train(members_at_once=count).network.state_dict() for count in (None, 1)]
    for name, tensor in states[0].items():
        close(tensor, states[1][name], rtol=1e-7, atol=1e-9)
        # InfoNCE depends on differences of outputs alone
        assert tensor.equal(network.state_dict()[name]) == (name == "blocks.2.bias"), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"kernel": 0}, "kernel must be at least 1, got 0"),
        ({"kernel": 4}, "kernel must be odd, or the network causal, got 4"),
        ({"members": 3}, "members=3 is for a single tree"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(TREES, **options)
