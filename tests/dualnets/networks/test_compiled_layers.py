"""The compiled layers of networks and heads against plain torch: outputs, gradients, threads, fallbacks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dualnets
import hltm
from dualnets import BatchNorm, GroupNorm, Head, LayerNorm
from dualnets.networks.compiled import head_pass, memory, network_pass
from dualnets.networks.compiled.plain import plain_layers

NORMS = [
    None,
    BatchNorm(),
    BatchNorm("stop", "on", affine=True),
    LayerNorm(affine=True),
    GroupNorm(2),
]
TREES = hltm.symmetric_binary(depth=2, members=3, seed=0)
LEAVES = TREES.sample(9, seed=1).leaves


def network_of(kind, **options):
    trees = {"wired": hltm.caterpillar(depth=3, members=2, seed=0)}.get(kind, TREES)
    make = {"mlp": dualnets.mlp, "conv": dualnets.conv_tree}.get(kind, dualnets.tree_network)
    return make(trees, seed=1, dtype=torch.float64, **options), trees


def plain_output(network, leaves):
    for hidden in network._layers(leaves, training=True, in_place=True):
        top = hidden
    return network._output(top)


def gradients(output, inputs):
    slopes = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad(output, inputs, slopes.cos())


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["tree", "wired", "mlp", "conv"]),
    units=st.sampled_from([4, 6, 12]),
    batch=st.sampled_from([2, 31, 33, 65]),
    norm=st.sampled_from(NORMS),
    bias=st.booleans(),
    normalize=st.booleans(),
)
def test_a_network_has_the_numbers_of_plain_torch(kind, units, batch, norm, bias, normalize):
    network, trees = network_of(kind, units=units, norm=norm, bias=bias, normalize=normalize)
    twin = copy.deepcopy(network)
    leaves = trees.sample(batch, seed=2).leaves
    found, expected = network(leaves), plain_output(twin, leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    pairs = zip(
        gradients(found, list(network.parameters())),
        gradients(expected, list(twin.parameters())),
        strict=True,
    )
    for own, other in pairs:
        torch.testing.assert_close(
            own, other, rtol=1e-11, atol=1e-12 * float(1 + other.abs().max())
        )
    for own, other in zip(network.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


@settings(max_examples=15)
@given(
    passes=st.integers(1, 3),
    norm=st.sampled_from(NORMS),
    last=st.sampled_from(NORMS),
    widths=st.sampled_from([(4,), (8, 6), (12, 8, 4)]),
    bias=st.booleans(),
)
def test_a_head_has_the_numbers_of_plain_torch(passes, norm, last, widths, bias):
    head = Head(widths, norm=norm, last_norm=last, bias=bias)
    head_inputs = torch.randn(2, passes * 7, 5, dtype=torch.float64, requires_grad=True)
    parameters = head.init(5, seed=0, members=(0, 1), place=0, dtype=torch.float64)
    parameters = {name: own.requires_grad_() for name, own in parameters.items()}
    found, expected = [], []
    used = head(parameters, head_inputs, passes, record=found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_pass, "head_output", lambda *arguments: None)
        plain = head(parameters, head_inputs, passes, record=expected)
    torch.testing.assert_close(used, plain, rtol=1e-9, atol=1e-10)
    every = [head_inputs, *parameters.values()]
    for own, other in zip(gradients(used, every), gradients(plain, every), strict=True):
        torch.testing.assert_close(
            own, other, rtol=1e-10, atol=1e-10 * float(1 + other.abs().max())
        )
    for own, other in zip(found, expected, strict=True):
        assert (own.layer, own.samples) == (other.layer, other.samples)
        torch.testing.assert_close(own.moments, other.moments, rtol=1e-9, atol=1e-11)


def test_the_bits_are_those_of_one_thread_and_of_members_alone():
    network, _ = network_of("tree", units=5, bias=True)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        output = network(LEAVES)
        found.append([output, *gradients(output, list(network.parameters()))])
    torch.set_num_threads(before)
    assert all(one.equal(two) for one, two in zip(*found, strict=True))
    passes, alone = network_pass.network_passes(network), slice(1, 2)
    features = network.read(LEAVES.transpose(1, 2))
    parameters = network_pass.network_parameters(network)
    own = passes.forward(features[alone], [each[alone] for each in parameters])
    assert own.output.transpose(1, 2).equal(found[0][0][alone])


def test_what_was_not_kept_is_computed_again_with_the_same_bits():
    network, _ = network_of("tree", units=5, norm=BatchNorm(affine=True))
    passes = network_pass.network_passes(network)
    features = network.read(LEAVES.transpose(1, 2))
    parameters = [own.detach() for own in network_pass.network_parameters(network)]
    found = passes.forward(features, parameters, keep=True)
    other = passes.forward(features, parameters, keep=True)  # has memory of its own
    assert found.kept is not None
    assert other.kept.address != found.kept.address
    arrived = found.output.cos()
    kept, _ = passes.backward(features, parameters, arrived, found=found)
    again, _ = passes.backward(features, parameters, arrived)
    assert all(one.equal(two) for one, two in zip(kept, again, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stays_with_its_member(bad):
    network, _ = network_of("tree", units=5)
    with torch.no_grad():
        network.weights[0][1, 0, 0, 0] = bad
    output = network(torch.ones_like(LEAVES))
    parts = gradients(output, list(network.parameters()))
    finite = torch.stack([own.flatten(1).isfinite().all(1) for own in (output, *parts)]).all(0)
    assert finite.tolist() == [True, False, True]
    assert not output[1].isfinite().any() or bad > 0


def test_gradients_of_gradients_and_transforms_are_those_of_plain_torch():
    network, _ = network_of("tree", units=3, bias=True)
    weights = list(network.parameters())

    def slope_length(output):
        first = torch.autograd.grad(output.square().sum(), weights, create_graph=True)
        return sum(own.square().sum() for own in first)

    second = torch.autograd.grad(slope_length(network(LEAVES)), weights)
    expected = torch.autograd.grad(slope_length(plain_output(network, LEAVES)), weights)
    torch.testing.assert_close(second, expected, rtol=1e-10, atol=1e-12)
    named = {name: own.detach() for name, own in network.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(network, parameters, (LEAVES,)).square().sum()

    by_transform = torch.func.grad(loss)(named)
    network(LEAVES).square().sum().backward()
    for name, own in network.named_parameters():
        torch.testing.assert_close(own.grad, by_transform[name], rtol=1e-10, atol=1e-12)


def test_hooks_of_norms_and_subclasses_keep_plain_torch(monkeypatch):
    network, _ = network_of("tree", units=4, norm=LayerNorm())
    assert network_pass.network_output(network, LEAVES) is not None
    handle = network.norms[0].register_forward_hook(lambda module, given, output: 2 * output)
    assert network_pass.network_output(network, LEAVES) is None
    handle.remove()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network_pass.network_output(network, LEAVES) is None
    assert network_pass.network_output(network.bfloat16(), LEAVES) is None


def test_a_recorded_graph_has_one_node_for_each_pass():
    from torch.fx.experimental.proxy_tensor import make_fx

    network, _ = network_of("tree", units=4, normalize=True)
    weights = tuple(own.detach().requires_grad_() for own in network.parameters())
    names = [name for name, _ in network.named_parameters()]

    def step(*given):
        own = dict(zip(names, given, strict=True))
        output = torch.func.functional_call(network, own, (LEAVES,))
        return torch.autograd.grad(output.cos().sum(), given)

    graph = make_fx(step)(*weights)
    called = [str(node.target) for node in graph.graph.nodes if "hltm" in str(node.target)]
    assert called == ["hltm.layers.default", "hltm.layers_backward.default"]
    expected = torch.autograd.grad(network(LEAVES).cos().sum(), list(network.parameters()))
    assert all(own.equal(other) for own, other in zip(graph(*weights), expected, strict=True))


def test_plain_layers_are_those_of_the_network():
    network, _ = network_of("tree", units=4, norm=GroupNorm(2), bias=True, normalize=True)
    passes = network_pass.network_passes(network)
    features = network.read(LEAVES.transpose(1, 2))
    found = plain_layers(passes, features, network_pass.network_parameters(network))
    torch.testing.assert_close(found.transpose(1, 2), plain_output(network, LEAVES))


def test_parameters_of_another_shape_never_reach_the_kernels():
    network, _ = network_of("tree", units=4, bias=True)
    given = {name: own.detach() for name, own in network.named_parameters()}
    fewer = {name: own[:2] for name, own in given.items()}
    with pytest.raises(RuntimeError):
        torch.func.functional_call(network, fewer, (LEAVES,))
    head = Head((4, 3))
    parameters = head.init(5, seed=0, members=(0, 1), place=0)
    with pytest.raises(RuntimeError):
        head(parameters, torch.zeros(3, 7, 5))
    narrow = given | {"biases.1": given["biases.1"][..., :1]}  # broadcasts
    found = torch.func.functional_call(network, narrow, (LEAVES,))
    wide = narrow | {"biases.1": narrow["biases.1"].expand_as(given["biases.1"])}
    expected = torch.func.functional_call(network, wide, (LEAVES,))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_options_and_methods_that_were_replaced_are_heeded():
    network, _ = network_of("tree", units=4)
    network(LEAVES)
    network.normalize = True
    torch.testing.assert_close(network(LEAVES), plain_output(network, LEAVES))
    assert network_pass.network_output(network, LEAVES) is not None
    network._output = lambda top: torch.zeros(3)
    assert network(LEAVES).equal(torch.zeros(3))


def test_several_gradients_at_once_are_those_of_plain_torch():
    network, _ = network_of("tree", units=4)
    output, weights = network(LEAVES), list(network.parameters())
    several = torch.stack([output.detach().cos(), output.detach().sin()])
    found = torch.autograd.grad(output, weights, several, is_grads_batched=True, retain_graph=True)
    expected = torch.autograd.grad(output, weights, several[1])
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own[1], other, rtol=1e-12, atol=1e-12)


def test_torch_compiles_a_network_that_was_never_used():
    network, _ = network_of("tree", units=4)
    found = torch.compile(network.forward, backend="eager", fullgraph=True)(LEAVES)
    torch.testing.assert_close(found, network(LEAVES), rtol=1e-12, atol=1e-12)


def test_parameters_that_change_before_the_backward_pass_are_noticed():
    network, _ = network_of("tree", units=4)
    output = network(LEAVES)
    with torch.no_grad():
        network.weights[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_buffer_may_be_deleted_while_another_is_made(monkeypatch):
    """As by the garbage collector, in the same thread."""
    first = [memory.Buffer(999)]
    address = first[0].address
    original = torch.empty

    def collecting(*arguments, **options):
        first.clear()
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "empty", collecting)
    assert memory.Buffer(998).address != address
    assert memory.Buffer(999).address == address
