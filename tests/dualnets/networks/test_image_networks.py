"""Ensembles on pictures against plain torch modules with the same numbers."""

import copy
from functools import partial

import pytest
import torch
from few import few
from torch import nn
from torch.nn import functional

import dualnets
from dualnets.networks.channel_norm import ChannelNorm
from dualnets.networks.image_network import ImageNetwork
from dualnets.networks.normalizations import Moments
from hltm.probe.causal.replacing import Replacement

MEMBERS, BATCH = 3, 6
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)


class Plain(nn.Module):
    """One member as one would write it by hand: `nn.Conv2d`, torch's norms, blocks with shortcuts."""

    def __init__(self, network: ImageNetwork, member: int) -> None:
        super().__init__()
        self.blocks, self.normalize = network.blocks, network.normalize
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for n, own in enumerate(network.weights):
            weight = own[member].detach()
            padding = weight.shape[-1] // 2
            conv = nn.Conv2d(
                weight.shape[1], len(weight), weight.shape[-1], padding=padding,
                bias=network.biases is not None,
            )  # fmt: skip
            conv.weight.data = weight.clone()
            if network.biases is not None:
                conv.bias.data = network.biases[n][member].detach().clone()
            self.convolutions.append(conv)
            if network.norm is not None:
                self.norms.append(plain_norm(network.norm, len(weight)))
        self.double()
        self.standardized = network.weight_standardization

    def forward(self, pictures):
        layers = iter(range(len(self.convolutions)))

        def layer(below, stride=1):
            n = next(layers)
            conv = self.convolutions[n]
            weight = conv.weight
            if self.standardized:
                centred = weight - weight.mean((1, 2, 3), keepdim=True)
                spread = (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
                weight = centred / spread / weight[0].numel() ** 0.5
            maps = functional.conv2d(below, weight, conv.bias, stride, conv.padding)
            return self.norms[n](maps) if len(self.norms) else maps

        self.shown, below = [], pictures
        for block in self.blocks:
            maps = layer(below, block.stride)
            for _ in range(block.convolutions - 1):
                maps = layer(maps.relu())
            if block.residual:
                same = block.stride == 1 and below.shape[1] == block.channels
                maps = maps + (below if same else layer(below, block.stride))
            self.shown.append(maps)
            below = maps.relu()
        output = below.mean((2, 3))
        return functional.normalize(output, dim=1) if self.normalize else output


def plain_norm(norm, channels):
    if isinstance(norm, dualnets.BatchNorm):
        return nn.BatchNorm2d(channels, norm.epsilon, norm.momentum, affine=norm.affine)
    groups = norm.groups if isinstance(norm, dualnets.GroupNorm) else 1
    return nn.GroupNorm(groups, channels, norm.epsilon, affine=norm.affine)


def pictures(shape, seed=0, samples=BATCH):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(MEMBERS, samples, *shape, generator=generator, dtype=torch.float64)


NETWORKS = {
    "conv": (partial(dualnets.conv_net, widths=(4, 6, 8)), (1, 9, 10)),
    "conv, three colours": (partial(dualnets.conv_net, widths=(4, 6), bias=False), (3, 8, 7)),
    "resnet": (partial(dualnets.resnet18, width=4), (3, 9, 8)),
}
OPTIONS = {
    "plain": {"norm": None},
    "length 1": {"norm": None, "normalize": True, "bias": True},
    "BatchNorm": {"norm": dualnets.BatchNorm()},
    "affine BatchNorm": {"norm": dualnets.BatchNorm(affine=True, epsilon=1e-3, momentum=1.0)},
    "GroupNorm, standardised weights": {
        "norm": dualnets.GroupNorm(2, affine=True),
        "weight_standardization": True,
        "bias": True,
    },
    "LayerNorm": {"norm": dualnets.LayerNorm()},
}
every_network = pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS.keys())
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


@every_network
@every_option
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "grouped"])
def test_equals_plain_modules(make, shape, options, together, monkeypatch):
    # together: as on a GPU, and as small pictures on a CPU
    monkeypatch.setattr(ImageNetwork, "members_per_part", MEMBERS if together else 1)
    network = make(shape, members=MEMBERS, seed=2, dtype=torch.float64, **options)
    twins = [Plain(network, s) for s in range(MEMBERS)]
    given, others = pictures(shape), pictures(shape, 1)
    output = network(given)
    assert output.equal(network(given.flatten(2)))
    push = torch.randn(output.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    (output * push).sum().backward()
    kept = [
        layer.running_mean
        for twin in twins
        for layer in twin.norms
        if hasattr(layer, "running_mean")
    ]
    for s, twin in enumerate(twins):
        expected = twin(given[s])
        close(output[s], expected)
        (expected * push[s]).sum().backward()
        for n, conv in enumerate(twin.convolutions):
            close(network.weights[n].grad[s], conv.weight.grad)
            if network.biases is not None:
                close(network.biases[n].grad[s], conv.bias.grad)
            if network.norm is not None and network.norm.affine:
                close(network.norms[n].gain.grad[s].flatten(), twin.norms[n].weight.grad)
                close(network.norms[n].shift.grad[s].flatten(), twin.norms[n].bias.grad)
    if kept:  # our first moments are those of one batch, as torch's with a momentum of 1
        for s, twin in enumerate(twins):
            for norm in twin.norms:
                norm.momentum = 1.0
            twin(given[s])
            for ours, theirs in zip(network.norms, twin.norms, strict=True):
                close(ours.mean[s].flatten(), theirs.running_mean)
                close(ours.variance[s].flatten(), theirs.running_var)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shown = network.activations(others)
    evaluated = network.eval()(others)
    for name, tensor in network.state_dict().items():  # looking changes nothing
        assert tensor.equal(before[name])
    for s, twin in enumerate(twins):
        close(evaluated[s], twin.eval()(others[s]))
        assert list(shown) == list(range(1, network.depth + 1))
        for values, layer in zip(shown.values(), twin.shown, strict=True):
            close(values[s], layer.flatten(2).mT)
    top = network.rectify(shown)[network.depth].mean(2)
    close(functional.normalize(top, dim=-1) if network.normalize else top, evaluated)


@every_network
@pytest.mark.parametrize("options", few(OPTIONS.values(), 3), ids=OPTIONS.keys())
def test_a_member_is_the_same_network_in_any_ensemble(make, shape, options, monkeypatch):
    monkeypatch.setattr(ImageNetwork, "members_per_part", 1)  # several: equal but for rounding
    whole = make(shape, members=MEMBERS, seed=2, **options)
    more = make(shape, members=MEMBERS + 2, seed=2, **options)
    single = make(shape, seed=2, **options)
    for ours, its, others in zip(
        whole.parameters(), single.parameters(), more.parameters(), strict=True
    ):
        assert ours[:1].equal(its)
        assert ours.equal(others[:MEMBERS])
    given = pictures(shape).float()
    output = whole(given)
    assert output.shape == (MEMBERS, BATCH, whole.blocks[-1].channels)
    assert output[0].equal(single(given[0]))
    for level, values in single.activations(given[0]).items():
        assert values.equal(whole.activations(given)[level][0])
    other = given.clone()
    other[1] = torch.nan
    assert whole(other)[[0, 2]].equal(output[[0, 2]])


@every_network
def test_says_what_it_is(make, shape):
    network = make(shape, members=2, norm=dualnets.BatchNorm(), seed=1)
    assert (network.members, network.stacked) == ((0, 1), True)
    assert network.inputs == network.features == shape[0] * shape[1] * shape[2]
    assert (network.device.type, network.dtype) == ("cpu", torch.float32)
    assert network.members_per_part == 12
    assert make((shape[0], 17, 16), seed=1).members_per_part == 1
    assert network.batch_dependent
    assert not make(shape, norm=dualnets.GroupNorm(2), seed=1).batch_dependent
    assert all(len(own) == 2 for own in (*network.parameters(), *network.buffers()))
    assert all(own.is_meta for own in network.to("meta").state_dict().values())
    assert network(torch.zeros(2, 3, network.inputs, device="meta")).is_meta


def test_sizes_of_the_known_networks(monkeypatch):
    def count(network):
        return sum(own.numel() for own in network.parameters())

    assert count(dualnets.conv_net((1, 28, 28), seed=0)) == 64_976
    # drawing so many numbers takes seconds
    monkeypatch.setattr(
        "dualnets.networks.image_network.initial_parameters",
        lambda shape, *, members, **_: (torch.zeros(len(members), *shape), None),
    )
    # torchvision's ResNet-18 has 11,689,512: its stem is 7x7 and it ends in a layer of 1,000 classes
    network = dualnets.resnet18((3, 32, 32), seed=0)
    assert count(network) == 11_689_512 - 3 * 64 * (49 - 9) - 513 * 1000
    shown = network.activations(torch.zeros(1, 3072))
    assert {level: values.shape[-2:] for level, values in shown.items()} == {
        1: (1024, 64), 2: (1024, 64), 3: (1024, 64), 4: (256, 128), 5: (256, 128),
        6: (64, 256), 7: (64, 256), 8: (16, 512), 9: (16, 512),
    }  # fmt: skip


def test_whole_numbers_are_divided_by_255():
    network = dualnets.conv_net((1, 8, 8), widths=(4,), seed=0)
    given = torch.arange(128, dtype=torch.uint8).view(2, 64) * 2
    assert network(given).equal(network(given.float() / 255))
    with pytest.raises(TypeError, match=r"floating-point numbers or uint8, got torch\.int64"):
        network(given.long())
    with pytest.raises(TypeError, match=r"pictures must be such as torch.rand.*, got a ndarray"):
        network(given.numpy())


# parts of BatchNorm

PARTS = ("on", "off", "stop")


def maps(seed: int = 0) -> torch.Tensor:
    """(B, 2 C, H, W) of two members with four channels each."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(5, 8, 3, 2, generator=generator, dtype=torch.float64) + 1


@pytest.mark.parametrize("mean", PARTS)
@pytest.mark.parametrize("std", PARTS)
@pytest.mark.parametrize("affine", [False, True])
def test_every_part_by_its_own_formula(mean, std, affine):
    """Values and gradients of all nine variants: a stopped part is a constant of the same value."""
    norm = dualnets.BatchNorm(mean, std, affine, epsilon=0.01)
    layer = ChannelNorm(norm, members=2, channels=4).double()
    gain, shift = (
        torch.linspace(1, 2, 8).double().view(2, 1, 4, 1) if affine else None for _ in range(2)
    )

    def plain(p):
        axes = (0, 2, 3)
        centre, spread = p.mean(axes, keepdim=True), p.var(axes, correction=0, keepdim=True) + 0.01
        centre = {"on": centre, "stop": centre.detach(), "off": torch.zeros_like(centre)}[mean]
        spread = {"on": spread, "stop": spread.detach(), "off": torch.ones_like(spread)}[std]
        found = (p - centre) / spread.sqrt()
        return found if gain is None else found * gain.view(1, 8, 1, 1) + shift.view(1, 8, 1, 1)

    p, above = maps().requires_grad_(), maps(1)
    found, moments = layer.normalize(p, 0, gain, shift, training=True)
    close(found, plain(p))
    close(*(torch.autograd.grad((own * above).sum(), p)[0] for own in (found, plain(p))))
    close(moments.mean.flatten(), p.detach().mean((0, 2, 3)))
    close(moments.variance.flatten(), p.detach().var((0, 2, 3), correction=0))
    assert not any(own.requires_grad for own in moments)
    # in evaluation the running moments of the second member, of which the first has none
    layer.batches[1], layer.mean[1], layer.variance[1] = 1, 7.0, 4.0
    found, none = layer.normalize(p, 0, gain, shift, training=False)
    assert none is None
    close(found[:, :4], plain(p)[:, :4])
    expected = (p - 7 * (mean != "off")) / (4.01**0.5 if std != "off" else 1)
    if affine:
        expected = expected * gain.view(1, 8, 1, 1) + shift.view(1, 8, 1, 1)
    close(found[:, 4:], expected[:, 4:])
    second = (own if own is None else own[1:] for own in (gain, shift))
    close(layer.normalize(p[:, 4:], 1, *second, training=False)[0], expected[:, 4:])


@pytest.mark.parametrize("norm", [dualnets.LayerNorm(), dualnets.GroupNorm(2)], ids=repr)
def test_groups_are_those_of_the_norm_itself(norm):
    """Channels and places of a group are normalised as the units of a dense layer are."""
    p = maps()
    found, _ = ChannelNorm(norm, members=2, channels=4).normalize(p, 0, None, None, training=True)
    close(found.unflatten(1, (2, 4)).flatten(2), norm(p.unflatten(1, (2, 4)).flatten(2).mT).mT)


def test_running_moments_are_the_mean_of_few_batches_and_then_move_by_the_momentum():
    norm = dualnets.BatchNorm(momentum=0.5)
    network = dualnets.conv_net(
        (1, 6, 6), widths=(4,), norm=norm, members=MEMBERS, seed=0, dtype=torch.float64
    )
    raw = dualnets.conv_net((1, 6, 6), widths=(4,), members=MEMBERS, seed=0, dtype=torch.float64)
    batches = [pictures((1, 6, 6), seed) for seed in range(3)]
    seen = [raw.activations(batch)[1].flatten(1, 2) for batch in batches]  # (S, B * V, C)
    own = [Moments(values.mean(1), values.var(1)) for values in seen]
    for batch in batches:
        network(batch)
    for name in ("mean", "variance"):
        first, second, third = (getattr(moments, name) for moments in own)
        expected = ((first + second) / 2 + third) / 2
        close(getattr(network.norms[0], name)[:, 0, :, 0], expected)
    assert network.norms[0].batches.tolist() == [3] * MEMBERS


@every_network
@pytest.mark.parametrize(
    ("mean", "together"), [("on", True), ("stop", False)], ids=["grouped", "one by one"]
)
def test_moments_of_batches_are_those_of_one_batch(make, shape, mean, together, monkeypatch):
    each = property(lambda self: MEMBERS if together else 1)
    monkeypatch.setattr(ImageNetwork, "members_per_part", each)
    network = make(
        shape, members=MEMBERS, seed=2, dtype=torch.float64, norm=dualnets.BatchNorm(mean)
    )
    whole, given = copy.deepcopy(network), pictures(shape, samples=11)
    whole.train()(given)
    network.take_moments(given.split(4, dim=1))
    for ours, theirs in zip(network.norms, whole.norms, strict=True):
        torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.variance, theirs.variance, rtol=1e-10, atol=1e-12)
        assert ours.batches.tolist() == [1] * MEMBERS
    seen = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.take_moments([pictures(shape, seed=3)])  # there are moments
    assert all(tensor.equal(seen[name]) for name, tensor in network.state_dict().items())
    make(shape, members=MEMBERS, seed=2, norm=None).take_moments([given])  # nothing to do


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", [dualnets.BatchNorm(affine=True), dualnets.BatchNorm("stop"),
                                  dualnets.GroupNorm(2, affine=True)], ids=repr)  # fmt: skip
def test_short_numbers_are_normalised_in_float32(norm, dtype):
    layer = ChannelNorm(norm, members=2, channels=4).to(dtype)
    p = (maps() + 20).to(dtype)
    found, _ = layer.normalize(p, 0, layer.gain, layer.shift, training=True)
    long, _ = layer.float().normalize(p.float(), 0, layer.gain, layer.shift, training=True)
    assert found.dtype == dtype
    assert found.equal(long.to(dtype))


# replaced units, copies, mistakes


@every_network
@pytest.mark.parametrize("stacked", [True, False])
def test_replaced_units_are_what_the_blocks_above_read(make, shape, stacked):
    network = make(shape, members=MEMBERS if stacked else None, seed=1, dtype=torch.float64)
    given = pictures(shape) if stacked else pictures(shape)[0]
    others = given.roll(1, dims=-4)
    theirs = network.activations(others)
    every = torch.ones(1, dtype=torch.bool)
    swapped = network.run_with(given, {1: Replacement(every, theirs[1])})
    close(swapped, network.eval()(others))
    one = torch.arange(theirs[network.depth].shape[-1]) == 2
    changed = network.run_with(given, {network.depth: Replacement(one, torch.tensor(-1.0))})
    assert (changed[..., 2] == 0).all()
    assert changed[..., ~one].equal(network(given)[..., ~one])
    assert network.run_with(given, {}).equal(network(given))


def test_a_copy_is_a_network_of_its_own():
    network = dualnets.conv_net((1, 8, 8), members=2, norm=dualnets.BatchNorm(), seed=0)
    given = pictures((1, 8, 8)).float()[:2]
    network(given)
    before = network.eval()(given)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    twin.train()(given)
    assert network(given).equal(before)
    twin.load_state_dict(network.state_dict())
    assert twin.eval()(given).equal(before)


def conv(images=(1, 8, 8), seed=0, **options):
    return dualnets.conv_net(images, seed=seed, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conv((28, 28)), r"images must have a shape \(C, H, W\), got \(28, 28\)"),
        (lambda: conv((1, 0, 28)), "size of images must be at least 1, got 0"),
        (lambda: conv("digits"), r"must be \(C, H, W\) or a data set .* got 'digits'"),
        (lambda: conv(widths=(4, 0)), "channels must be at least 1, got 0"),
        (lambda: conv(widths=8), r"widths must be a sequence such as \(32, 64, 80\), got 8"),
        (lambda: conv(widths=()), "widths must be those of 1 convolution or more"),
        (lambda: dualnets.resnet18((1, 8, 8), width=0, seed=0), "width must be at least 1, got 0"),
        (lambda: conv(members=0), "members must be at least 1, got 0"),
        (lambda: conv(seed=-1), "seed must be in"),
        (lambda: conv(bias=1), "bias must be True or False, got 1"),
        (lambda: conv(norm="batch"), r"norm must be such as dualnets.BatchNorm\(\), got 'batch'"),
        (lambda: conv(norm=dualnets.GroupNorm(3)), "GroupNorm needs equal groups"),
        (lambda: conv()(torch.rand(5, 63)), r"pictures have shape \(5, 63\), expected \(B, 64\)"),
        (lambda: conv()(torch.rand(5, 1, 4, 16)), r"shape \(5, 1, 4, 16\), expected \(B, 64\)"),
        (lambda: conv(members=2)(torch.rand(5, 64)), r"shape \(5, 64\), expected \(2, B, 64\)"),
        (lambda: conv((1, 2, 2), norm=dualnets.BatchNorm())(torch.rand(1, 4)), "2 samples, got 1"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")
@every_network
@every_option
def test_cuda_gives_the_cpus_numbers(make, shape, options):
    network = make(shape, members=MEMBERS, seed=2, dtype=torch.float64, **options)
    given = pictures(shape)
    output = network(given)
    there = make(shape, members=MEMBERS, seed=2, dtype=torch.float64, device="cuda", **options)
    found = there(given.to("cuda"))
    close(found.cpu(), output)
    for own in (output, found):
        own[..., 0].sum().backward()
    for ours, theirs in zip(network.parameters(), there.parameters(), strict=True):
        close(theirs.grad.cpu(), ours.grad)
