"""The transformer against a plain torch module: outputs, gradients, masks, positions, missing leaves."""

from functools import partial

import pytest
import torch
from torch import nn

import dualnets
import hltm
from dualnets.networks.transformer import TransformerBlock, rotary_angles, rotated
from hltm.probe.causal.replacing import Replacement, run_with

TREES = hltm.random_tree(nodes=14, cardinality=(2, 4), members=3, seed=1)
LEAVES = TREES.sample(5, seed=2).leaves
SIZES = {"width": 12, "layers": 2, "heads": 3, "mlp_width": 20}
make = partial(dualnets.transformer, **SIZES, seed=3, dtype=torch.float64)
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


class Attention(nn.Module):
    """Softmax attention, one head at a time; rotary positions as products of complex numbers."""

    def __init__(self, width: int, heads: int, causal: bool, rotary: bool) -> None:
        super().__init__()
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.read = nn.Linear(width, 3 * width, bias=False)
        self.write = nn.Linear(width, width, bias=False)

    def turned(self, values: torch.Tensor) -> torch.Tensor:
        places, units = values.shape[-2:]
        found = []
        for x in range(places):
            for i in range(units // 2):
                pair = torch.complex(values[:, x, i], values[:, x, i + units // 2])
                angle = torch.tensor(x / 10000 ** (2 * i / units), dtype=torch.float64)
                found.append(pair * torch.complex(angle.cos(), angle.sin()))
        turned = torch.stack(found, -1).unflatten(-1, (places, -1))
        return torch.cat([turned.real, turned.imag], -1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = []
        each = [part.chunk(self.heads, -1) for part in self.read(values).chunk(3, -1)]
        for q, k, v in zip(*each, strict=True):
            if self.rotary:
                q, k = self.turned(q), self.turned(k)
            scores = q @ k.mT / q.shape[-1] ** 0.5
            if self.causal:
                later = torch.ones(scores.shape[-2:]).triu(1).bool()
                scores = scores.masked_fill(later, -torch.inf)
            found.append(scores.softmax(-1) @ v)
        return self.write(torch.cat(found, -1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_width: int, causal: bool, rotary: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attention = Attention(width, heads, causal, rotary)
        self.up = nn.Linear(width, mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.norms[0](hidden))
        return hidden + self.down(self.up(self.norms[1](hidden)).relu())


class PlainTransformer(nn.Module):
    """One member as a user would write it; `shown` are the values behind each block."""

    def __init__(self, network, member: int) -> None:
        super().__init__()
        rotary = network.places is None
        options = (SIZES["width"], SIZES["heads"], SIZES["mlp_width"], network.causal, rotary)
        self.network, self.states = network, network.states
        self.tokens = nn.Embedding(network.tokens.shape[1], SIZES["width"])
        self.places = None if rotary else nn.Embedding(network.inputs, SIZES["width"])
        self.blocks = nn.ModuleList(Block(*options) for _ in network.blocks)
        self.norm = nn.LayerNorm(SIZES["width"], bias=False)
        self.double()
        with torch.no_grad():
            for own, theirs in self.pairs():
                own.copy_(theirs[member])

    def pairs(self):
        """Own parameters beside those of all members."""
        yield self.tokens.weight, self.network.tokens
        if self.places is not None:
            yield self.places.weight, self.network.places
        norms = [(self.norm, self.network.norm)]
        for own, theirs in zip(self.blocks, self.network.blocks, strict=True):
            norms += zip(own.norms, (theirs.before_attention, theirs.before_mlp), strict=True)
            yield own.attention.read.weight, theirs.read
            yield own.attention.write.weight, theirs.write
            yield own.up.weight, theirs.up
            yield own.down.weight, theirs.down
        for own, theirs in norms:
            yield own.weight, theirs.gain

    def forward(self, leaves: torch.Tensor) -> torch.Tensor:
        tokens = leaves.long()
        if self.network.causal:
            begin = torch.full_like(tokens[:, :1], self.states + 1)
            tokens = torch.cat([begin, tokens[:, :-1]], 1)
        hidden = self.tokens(tokens)
        if self.places is not None:
            hidden = hidden + self.places.weight
        self.shown = {}
        for level, block in enumerate(self.blocks, start=1):
            hidden = self.shown[level] = block(hidden)
        return self.norm(hidden)


def shaken(network):
    """The network with gains that are not 1."""
    generator = torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(
                parameter.shape, dtype=parameter.dtype, generator=generator
            )
    return network


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_a_plain_module_and_its_gradients(causal, positions):
    network = shaken(make(TREES, causal=causal, positions=positions))
    twins = [PlainTransformer(network, s) for s in range(3)]
    output = network.positions(LEAVES)
    push = torch.randn(output.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    (output * push).sum().backward()
    shown = network.activations(LEAVES)
    close(network(LEAVES), output.mean(2))
    compared = 0
    for s, twin in enumerate(twins):
        expected = twin(LEAVES[s])
        close(output[s], expected)
        assert shown.keys() == twin.shown.keys()
        for level, values in shown.items():
            close(values[s], twin.shown[level])
        (expected * push[s]).sum().backward()
        for own, theirs in twin.pairs():
            close(theirs.grad[s], own.grad, rtol=1e-10)
            compared += 1
    assert compared == 3 * len([*network.parameters()])
    assert all(len(parameter) == 3 for parameter in network.parameters())
    assert not [*network.buffers()]


def test_a_member_is_the_same_network_in_any_ensemble():
    whole, single, part = make(TREES), make(TREES[1]), make(TREES[1:])
    for ours, its, others in zip(
        whole.parameters(), single.parameters(), part.parameters(), strict=True
    ):
        assert ours[1:2].equal(its)
        assert ours[1:].equal(others)
    output = whole.positions(LEAVES)
    close(single.positions(LEAVES[1]), output[1])
    close(part(LEAVES[1:]), whole(LEAVES)[1:])
    assert single.activations(LEAVES[1])[2].shape == output.shape[1:]
    many = dualnets.transformer(TREES[0], members=5, seed=3)
    assert many(LEAVES[0].expand(5, -1, -1)).shape == (5, 5, 64)
    assert (many.dtype, many.depth, len(many.tokens)) == (torch.float32, 4, 5)


def test_layers_and_members_start_with_weights_of_their_own():
    network = dualnets.transformer(TREES, width=32, layers=2, seed=3)
    drawn = [p for name, p in network.named_parameters() if "before" not in name]
    drawn = [p for p in drawn if p.ndim == 3]
    for weight in drawn:
        assert not weight[0].equal(weight[1])
        bound = (
            1 if weight is network.tokens or weight is network.places else weight.shape[2] ** -0.5
        )
        assert 0.9 * bound < weight.abs().max() <= bound
    starts = {tuple(weight.flatten()[:3].div(weight.abs().max()).tolist()) for weight in drawn}
    assert len(starts) == len(drawn) == 10


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_causal_output_depends_on_the_leaves_before_it_alone(positions):
    network = make(TREES, causal=True, positions=positions)
    before = network.positions(LEAVES)
    for x in range(network.inputs):
        changed = LEAVES.clone()
        changed[..., x:] = (changed[..., x:] + 1) % 2
        after = network.positions(changed)
        close(after[:, :, : x + 1], before[:, :, : x + 1])
        assert ((after - before).abs().amax(-1) > 1e-6)[:, :, x + 1 :].all()
    both = make(TREES, positions=positions)  # the check fails where nothing is masked
    assert ((both.positions(changed) - both.positions(LEAVES)).abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("causal", [False, True])
def test_a_missing_leaf_is_a_token_however_it_is_marked(causal):
    tree = hltm.symmetric_binary(depth=3, seed=0)
    network = make(tree, causal=causal)
    leaves = tree.sample(6, seed=1).leaves
    missing = torch.rand(leaves.shape, generator=torch.manual_seed(0)) < 0.4
    marked = leaves.masked_fill(missing, 255)
    expected = network.positions(marked)
    close(network.positions(leaves.long().masked_fill(missing, -1)), expected)
    close(network.positions(leaves.to(torch.int16).masked_fill(missing, 2)), expected)
    close(network.positions(leaves.to(torch.int32).masked_fill(missing, 65535)), expected)
    twin = PlainTransformer(network, 0)
    close(twin(leaves.long().masked_fill(missing, 2)), expected)
    assert not expected.allclose(network.positions(leaves))


def test_rotary_scores_depend_on_differences_of_positions_alone():
    generator = torch.manual_seed(0)
    query, key = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    angles = rotary_angles(9, 8)
    assert angles[:, 0].equal(torch.arange(9, dtype=torch.float64))
    close(angles[5], 5 * torch.tensor([1, 1e-1, 1e-2, 1e-3], dtype=torch.float64))
    turn = angles.cos(), angles.sin()
    scores = rotated(query.expand(9, 8), *turn) @ rotated(key.expand(9, 8), *turn).T
    for offset in range(-8, 9):
        along = scores.diagonal(offset)
        close(along, along[:1].expand_as(along))
    assert scores[0].unique().numel() == 9


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_no_rows_have_no_outputs(positions):
    network = make(TREES, positions=positions)
    assert network.positions(LEAVES[:, :0]).shape == (3, 0, network.inputs, 12)
    assert network(LEAVES[:, :0]).shape == (3, 0, 12)


def test_units_are_replaced():
    network = make(TREES)
    other = TREES.sample(5, seed=9).leaves
    plain, expected = network(LEAVES), network(other)
    close(run_with(network, LEAVES, {}), plain)
    every = torch.ones(1, dtype=torch.bool)
    for level, values in network.activations(other).items():
        close(run_with(network, LEAVES, {level: Replacement(every, values)}), expected)
    single = make(TREES[0])
    units = torch.zeros(network.inputs, 12, dtype=torch.bool)
    units[3] = True  # of one position
    found = run_with(single, LEAVES[0], {1: Replacement(units, torch.zeros(12))})
    assert found.shape == (5, 12)
    assert not found.allclose(plain[0])


def test_trains_in_parts_and_on_rotary_positions():
    network = dualnets.transformer(TREES, **SIZES, positions="rotary", seed=3, dtype=torch.float64)
    train = partial(
        dualnets.train, network, dualnets.SimCLR(), TREES, augment=hltm.resample_leaves(0.3),
        steps=2, batch=8, optimizer=dualnets.AdamW(1e-2), seed=3,
    )  # fmt: skip
    together, single = (train(members_at_once=count).network for count in (None, 1))
    states = together.state_dict(), single.state_dict(), network.state_dict()
    for name, tensor in states[0].items():
        close(tensor, states[1][name], rtol=1e-7, atol=1e-9)
        assert not tensor.equal(states[2][name]), name


def test_precision_follows_the_weights():
    network = dualnets.transformer(TREES, **SIZES, positions="rotary", seed=3)
    exact = make(TREES, positions="rotary")
    assert network(LEAVES).dtype == torch.float32
    torch.testing.assert_close(network(LEAVES).double(), exact(LEAVES), rtol=1e-4, atol=1e-5)
    close(network.double()(LEAVES), exact(LEAVES), rtol=1e-5, atol=1e-5)
    assert isinstance(network.blocks[0], TransformerBlock)
    assert network.blocks[0].turns[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"mlp_width": 0}, "mlp_width must be at least 1, got 0"),
        ({"heads": 5}, "heads must divide the width 12, got 5"),
        ({"heads": 4, "positions": "rotary"}, "even number of units of each head, got 3"),
        ({"positions": "none"}, "positions must be one of learned, rotary, got 'none'"),
        ({"members": 3}, "members=3 is for a single tree"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dualnets.transformer(TREES, **{**SIZES, "seed": 3, **options})


def test_leaves_that_cannot_be_read_are_named():
    with pytest.raises(TypeError, match="causal must be True or False, got 1"):
        make(TREES, causal=1)
    network = make(TREES)
    with pytest.raises(ValueError, match=rf"expected \(3, B, {network.inputs}\)"):
        network.positions(LEAVES[..., 1:])
    with pytest.raises(TypeError, match=r"leaves must be whole numbers, got torch\.float64"):
        network.activations(LEAVES.double())
