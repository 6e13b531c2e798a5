"""K as an array against autograd, its products against the array, Kᵀ w = f and where it fails."""

import pytest
import torch
from theory_cases import module, networks, tree
from torch import nn

import dualnets
from dualnets.theory import check_operator_form, connection


def random_like(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def jacobian(network, name, inputs):
    """`(B, P, n)` one output and one sample at a time."""
    parameter = dict(network.named_parameters())[name]
    rows = []
    for x in inputs:
        outputs = network(x[None])[0]
        rows.append(
            torch.stack(
                [
                    torch.autograd.grad(f, parameter, retain_graph=True)[0].flatten()
                    for f in outputs
                ],
                dim=-1,
            )
        )
    return torch.stack(rows)


@pytest.mark.parametrize(("depth", "branching"), [(3, 2), (2, 3)])
def test_the_array_is_autograds_and_products_are_the_arrays(depth, branching):
    one = tree(depth, branching)
    inputs = one.sample(6, seed=3).leaves
    for network in networks(one):
        for layer in range(1, network.depth + 1):
            found = connection(network, layer, inputs)
            k = found.explicit()
            assert (k - jacobian(network, f"weights.{layer - 1}", inputs)).abs().max() < 1e-14
            v, u = random_like(found.weight.shape), random_like(found.outputs.shape)
            assert (torch.einsum("bpn,p->bn", k, v) - found.transposed(v)).abs().max() < 1e-13
            assert (torch.einsum("bpn,bn->bp", k, u) - found.times(u)).abs().max() < 1e-13
            assert (torch.einsum("bpn,bn->p", k, u) - found.summed(u)).abs().max() < 1e-13
            assert (found.transposed(found.weight) - found.outputs).abs().max() < 1e-14
            check_operator_form(found)


def test_rows_of_k_are_laid_out_as_documented():
    one = tree(2)
    network = dualnets.mlp(one, units=5, seed=1, dtype=torch.float64)
    leaves = one.sample(4, seed=2).leaves
    below = leaves.double()
    pre = network.activations(leaves)[1].detach().requires_grad_()
    outputs = pre.relu() @ network.weights[1][0, 0].T
    for b in range(4):
        j = torch.stack(
            [torch.autograd.grad(f, pre, retain_graph=True)[0][b] for f in outputs[b]]
        )  # (n, U)
        ours = connection(network, 1, leaves).explicit()[b]
        assert (ours - torch.kron(j.T.contiguous(), below[b][:, None])).abs().max() < 1e-14
        stacked_by_columns = torch.kron(below[b][:, None], j.T.contiguous())
        permuted = stacked_by_columns.view(4, 5, -1).transpose(0, 1).reshape(20, -1)
        assert (ours - permuted).abs().max() < 1e-14


def test_blocks_are_the_layers_rows_and_their_parts_sum_to_the_output():
    one = tree(3)
    (network, _) = networks(one)
    leaves = one.sample(5, seed=2).leaves
    for layer, blocks in ((1, 4), (2, 2)):
        whole = connection(network, layer, leaves)
        parts = [connection(network, layer, leaves, block=v) for v in range(blocks)]
        assert torch.cat([part.explicit() for part in parts], 1).equal(whole.explicit())
        total = sum(part.transposed(part.weight) for part in parts)
        assert (total - whole.outputs).abs().max() < 1e-14
        assert (parts[0].transposed(parts[0].weight) - whole.outputs).abs().max() > 1e-3
        with pytest.raises(ValueError, match=rf"block must be in 0..{blocks - 1}"):
            connection(network, layer, leaves, block=blocks)


def test_an_ensemble_is_its_members_side_by_side():
    trees = tree(2, members=3)
    leaves = trees.sample(5, seed=2).leaves
    for together, *alone in zip(
        networks(trees), *(networks(trees[m]) for m in range(3)), strict=True
    ):
        found = connection(together, 1, leaves)
        k, u = found.explicit(), random_like(found.outputs.shape)
        for m, network in enumerate(alone):
            one = connection(network, 1, leaves[m])
            assert (one.explicit() - k[m]).abs().max() < 1e-14
            assert (one.summed(u[m]) - found.summed(u)[m]).abs().max() < 1e-13
            assert (one.transposed(one.weight) - found.outputs[m]).abs().max() < 1e-14


def test_any_module_has_connections_of_its_weights():
    network, inputs = module(), random_like((6, 4))
    for name in ("1.weight", "4.weight", "6.weight"):
        found = connection(network, name, inputs)
        assert (found.explicit() - jacobian(network, name, inputs)).abs().max() < 1e-14
        check_operator_form(found)
    single = connection(module().float(), "1.weight", inputs)
    assert single.outputs.dtype == torch.float32
    assert connection(module().float(), "1.weight", inputs, dtype=torch.float64).weight.dtype == (
        torch.float64
    )


def test_homogeneity_fails_where_it_must_and_the_error_names_why():
    one = tree(2)
    leaves = one.sample(8, seed=2).leaves
    for network in networks(one, bias=True):
        for layer in range(1, network.depth):
            with pytest.raises(ValueError, match=r"biases \(biases.0, "):
                check_operator_form(connection(network, layer, leaves))
        top = connection(network, network.depth, leaves)
        bias = network.biases[-1].detach().flatten()
        assert (top.transposed(top.weight) + bias - top.outputs).abs().max() < 1e-14
        check_operator_form(top)  # a constant drops out of differences
    for network in networks(one, normalize=True):
        found = connection(network, 1, leaves)
        assert found.transposed(found.weight).abs().max() < 1e-14
        assert found.outputs.abs().max() > 0.1
        with pytest.raises(ValueError, match="a normalised output"):
            check_operator_form(found)
    biased, inputs = module(bias=True), random_like((6, 4))
    with pytest.raises(ValueError, match=r"1.bias, 4.bias, 6.bias"):
        check_operator_form(connection(biased, "4.weight", inputs))
    biased[4].bias.data.zero_()  # a bias below the layer does no harm, nor one on top
    check_operator_form(connection(biased, "4.weight", inputs))


def test_one_sample_cannot_distinguish_a_constant():
    """With one distinct sample, f - Kᵀ w is the same for all: then it must be 0."""
    biased = module(bias=True)
    for inputs in (random_like((1, 4)), random_like((1, 4)).expand(5, 4)):
        with pytest.raises(ValueError, match=r"misses by .* of \|f\| at the one distinct sample"):
            check_operator_form(connection(biased, "4.weight", inputs))
        check_operator_form(connection(module(), "4.weight", inputs))
    with pytest.raises(ValueError, match=r"beyond a constant, by .* of the outputs' spread"):
        check_operator_form(connection(biased, "1.weight", random_like((2, 4))))
    (network, _) = networks(tree(2))
    with pytest.raises(ValueError, match="one block's weight carries only the part of f"):
        check_operator_form(connection(network, 1, tree(2).sample(5, seed=1).leaves, block=0))


def test_one_bad_member_is_not_hidden_by_large_ones():
    trees = tree(2, members=2)
    (network, _) = networks(trees, bias=True)
    leaves = trees.sample(6, seed=1).leaves
    with torch.no_grad():
        for bias in network.biases:
            bias[0] = 0
        network.weights[1][0] *= 1e12
    with pytest.raises(ValueError, match="needs Kᵀ w = f"):
        check_operator_form(connection(network, 1, leaves))


class Reader(nn.Module):
    """Tokens through an embedding, a layer norm and a ReLU network."""

    def __init__(self, by_hand):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = nn.Embedding(7, 3)
            self.linear = nn.Linear(3, 4, bias=False)
            self.top = nn.Linear(4, 2, bias=False)
        self.by_hand = by_hand

    def forward(self, tokens):
        table = self.embedding.weight
        found = table[tokens] if self.by_hand else self.embedding(tokens)
        return self.top(self.linear(found).relu().mean(1))


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_tokens_are_read_as_indices(by_hand, dtype):
    network = Reader(by_hand).double()
    tokens = torch.randint(7, (6, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    for name in ("embedding.weight", "linear.weight", "top.weight"):
        found = connection(network, name, tokens)
        expected = jacobian(network, name, tokens.long())
        assert (found.explicit() - expected).abs().max() < 1e-14
        check_operator_form(found)
    copy = connection(Reader(by_hand), "linear.weight", tokens, dtype=torch.float64)
    assert copy.outputs.dtype == torch.float64
    numbers = connection(module(), "1.weight", tokens[:, :4])  # others read integers as numbers
    assert numbers.outputs.equal(module()(tokens[:, :4].double()))
    with pytest.raises(ValueError, match=r"reads these inputs, torch.int64 .* neither as numbers"):
        connection(network, "linear.weight", torch.full((2, 5), 7))


def test_what_is_not_finite_or_no_input_is_refused():
    inputs = random_like((4, 4))
    broken = inputs.clone()
    broken[1, 2], broken[2, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="inputs must be finite, 2 of 16 numbers are NaN"):
        connection(module(), "4.weight", broken)
    network = module()
    network[6].weight.data[0, 0] = torch.nan
    with pytest.raises(
        ValueError, match=r"weight '6.weight' of the network must be finite, 1 of 10"
    ):
        connection(network, "4.weight", inputs)
    with pytest.raises(ValueError, match="outputs of the network must be finite"):
        connection(nn.Sequential(module(), nn.Threshold(9.0, torch.inf)), "0.4.weight", inputs)
    with pytest.raises(TypeError, match="network must be a torch module, got function"):
        connection(random_like, "w", inputs)
    with pytest.raises(ValueError, match=r"cannot read inputs of shape \(4, 3\): mat1 and mat2"):
        connection(nn.Linear(4, 2), "weight", inputs[:, :3])
    with pytest.raises(TypeError, match="network's output must be a tensor, got tuple"):
        connection(nn.LSTM(4, 2), "weight_ih_l0", inputs)
    with pytest.raises(TypeError, match=r"inputs must be real, got torch\.complex128"):
        connection(nn.Linear(4, 2), "weight", inputs * 1j)
    for dtype in ("float64", torch.int64):
        with pytest.raises(TypeError, match=rf"dtype must be a floating .* got '?{dtype}"):
            connection(nn.Linear(4, 2), "weight", inputs, dtype=dtype)
    with pytest.raises(TypeError, match="block must be a whole number, got 'a'"):
        connection(nn.Linear(4, 2), "weight", inputs, block="a")
    with pytest.raises(TypeError, match="expected a tensor, got list"):
        connection(module(), "4.weight", inputs).transposed([0.0] * 60)
    with pytest.raises(TypeError, match="inputs must be a tensor, got list"):
        connection(module(), "4.weight", [[1.0] * 4])
    with pytest.raises(
        ValueError, match=r"inputs have shape \(0, 4\), expected at least one sample"
    ):
        connection(module(), "4.weight", inputs[:0])
    with pytest.raises(
        ValueError, match=r"shape \(1, 8\) for 4 samples, expected one row per sample"
    ):
        connection(nn.Sequential(nn.Linear(4, 2), nn.Flatten(0), nn.Unflatten(0, (1, 8))),
                   "0.weight", inputs)  # fmt: skip


def test_what_makes_no_sense_is_refused():
    one = tree(2)
    leaves = one.sample(8, seed=2).leaves
    (network, _) = networks(one)
    with pytest.raises(ValueError, match=r"layer must be in 1..2, got 3"):
        connection(network, 3, leaves)
    with pytest.raises(
        ValueError, match=r"unknown weight 'w', expected one of weights.0, weights.1"
    ):
        connection(network, "w", leaves)
    with pytest.raises(ValueError, match=r"give one of the names 1.weight, 4.weight"):
        connection(module(), 1, leaves)
    found = connection(network, 1, leaves)
    with pytest.raises(ValueError, match=r"K of 8 samples, 12 x 3 each: 288 numbers"):
        found.explicit(most_entries=100)
    with pytest.raises(ValueError, match=r"shape \(12,\), got \(3,\)"):
        found.transposed(torch.zeros(3))
    normed = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="BatchNorm1d '1' makes an output depend on more"):
        connection(normed, "0.weight", leaves)
    assert connection(normed.eval(), "0.weight", leaves).outputs.shape == (8, 3)
