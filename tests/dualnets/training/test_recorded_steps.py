"""Recorded steps have the numbers of eager ones; what is not known to repeat itself is not recorded."""

import gc
from dataclasses import dataclass
from weakref import WeakSet

import pytest
import torch
from few import few
from torch import fx

import dualnets
import hltm
from dualnets.methods.losses import InfoNCE
from dualnets.methods.protocol import Batch, TrainContext
from dualnets.networks.compiled.passes import ForwardPass
from dualnets.training import steps as steps_module
from dualnets.training.data import FixedData, FreshData
from dualnets.training.eager import differentiate, train_steps_eager
from dualnets.training.recorded import capture
from dualnets.training.recorded.capture import Recording, is_repeatable
from dualnets.training.recorded.repeated import OtherInputsError, repeated
from dualnets.training.recorded.simplified import simplify
from dualnets.training.state import TrainConfig
from dualnets.training.threads import on_threads

TREES = hltm.symmetric_binary(depth=2, members=2, seed=0)
HEAD = dualnets.Head((4, 3), norm=dualnets.BatchNorm(affine=True))
PLAIN = dualnets.Head((5, 3))
METHODS = {
    "simclr": dualnets.SimCLR(),
    "simclr-head": dualnets.SimCLR(dualnets.InfoNCE(negatives=2), projector=HEAD),
    "ntxent": dualnets.SimCLR(dualnets.NTXent()),
    "batchwise": dualnets.SimCLR(dualnets.BatchwiseNCE()),
    "detached": dualnets.SimCLR(dualnets.Detached(dualnets.Triplet())),
    "covariance": dualnets.SimCLR(
        dualnets.IntraPair(dualnets.CovarianceObjective(weights_from="samples"), 0.5)
    ),
    "byol": dualnets.BYOL(HEAD, HEAD),
    "byol-online": dualnets.BYOL(
        HEAD, PLAIN, target="online", stop_gradient=False, symmetric=False
    ),
    "byol-direct": dualnets.BYOL(PLAIN, dualnets.DirectPredictor()),
    "byol-redrawn": dualnets.BYOL(PLAIN, PLAIN, redraw_every=2),
    "simsiam": dualnets.SimSiam(HEAD, HEAD),
    "moco": dualnets.MoCo(queue=16, projector=HEAD),
    "swav": dualnets.SwAV(prototypes=4, queue=16, queue_from=1, frozen_steps=1, projector=HEAD),
    "pirl": dualnets.PIRL(negatives=5),
    "barlow": dualnets.BarlowTwins(HEAD),
    "vicreg": dualnets.VICReg(HEAD),
    "supervised": dualnets.Supervised("latents"),
    "masked": dualnets.MaskedPrediction(),
    "denoising": dualnets.Denoising(),
    "latent": dualnets.LatentPrediction(HEAD, PLAIN),
    "teacher": dualnets.TeacherStudent(
        dualnets.tree_network(hltm.symmetric_binary(depth=2, members=3, seed=0), units=2, seed=7),
        readout=dualnets.Head((2,), bias=False),
    ),
}
ONE_OF_A_KIND = (
    "simclr", "ntxent", "byol-redrawn", "moco", "swav", "pirl", "vicreg", "supervised", "teacher",
)  # fmt: skip


def setting(method, norm=None, optimizer=None, network=None, members=2):
    trees = hltm.symmetric_binary(depth=2, members=members, seed=0)
    masked = isinstance(method, dualnets.MaskedPrediction)
    if network is None:
        network = dualnets.tree_network(
            trees, units=3, seed=1, bias=True, norm=norm, one_hot=masked
        ).train()
    augment = hltm.drop_leaves(0.5) if masked else hltm.resample_leaves(0.0)
    rows = (trees, trees.members, augment, 8, 2, True, torch.device("cpu"))
    data = FixedData(*rows, samples=32) if method.needs.places else FreshData(*rows)
    context = TrainContext(trees, 2, 10, 8, 32 if method.needs.places else None)
    config = TrainConfig(method, optimizer or dualnets.AdamW(0.01), data, context)
    return network, config, config.init(network)


def record(network, config, before):
    batch = next(iter(config.data.batches(config.method.needs, 0, 1)))
    return Recording(network, config, before, batch)


def everything(network, state):
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return named | state.state | {"losses": state.losses} | state.memory


@pytest.mark.parametrize("members", few([3, 1]))
@pytest.mark.parametrize("name", few(METHODS, ONE_OF_A_KIND))
def test_recorded_steps_have_the_numbers_of_eager_ones(name, members):
    norm = dualnets.BatchNorm() if name in ("simclr", "moco") else None
    network, config, before = setting(METHODS[name], norm, members=members)
    assert is_repeatable(network, config)
    recording, steps = record(network, config, before), []

    def gradients(*given):
        buffers = [own.clone() for own in network.buffers()]
        theirs = differentiate(*given)
        kept = [own.clone() for own in network.buffers()]
        for now, own in zip(network.buffers(), buffers, strict=True):
            now.copy_(own)
        ours = recording(*given)
        pairs = [(theirs[0], ours[0]), *zip(theirs[1], ours[1], strict=True)]
        assert theirs[2].keys() == ours[2].keys()
        pairs += [(own, ours[2][name]) for name, own in theirs[2].items()]
        pairs += zip(kept, network.buffers(), strict=True)
        size = max(float(own.detach().abs().max()) for own, _ in pairs if own.is_floating_point())
        for own, found in pairs:
            assert torch.allclose(found, own, rtol=1e-4, atol=2e-6 * size)
        steps.append(all(own.isfinite().all() for own, _ in pairs))
        return ours

    train_steps_eager(network, config, before, 0, 4, gradients)
    assert steps == [True] * 4


@pytest.mark.parametrize("name", few(["moco", "vicreg"]))
def test_layers_shared_by_threads_give_the_same_bits(name, monkeypatch):
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for worth in (0, 2**40):
            monkeypatch.setattr(capture, "WORTH_THREADS", worth)
            network, config, before = setting(METHODS[name], members=3)
            batch = next(iter(config.data.batches(config.method.needs, 0, 1)))
            recording = Recording(network, config, before, batch)
            losses, gradients, carried = recording(network, config, before.state, batch)
            found.append([losses, *(own.clone() for own in gradients), *carried.values()])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_long_trainings_are_recorded(monkeypatch):
    made = []
    monkeypatch.setattr(steps_module, "WORTH_RECORDING", 8)
    monkeypatch.setattr(
        steps_module, "Recording", lambda *given: made.append(1) or Recording(*given)
    )
    for steps, count in ((7, 0), (9, 1)):
        dualnets.train(
            dualnets.tree_network(TREES, units=2, seed=1), dualnets.VICReg(), TREES, steps=steps,
            augment=hltm.keep_root(), batch=4, optimizer=dualnets.SGD(0.1), seed=2,
        )  # fmt: skip
        assert len(made) == count


def test_parts_on_several_threads_are_recorded(monkeypatch):
    monkeypatch.setattr(steps_module, "WORTH_RECORDING", 1)
    settings = [setting(dualnets.VICReg()) for _ in range(4)]

    def advance(given):
        steps_module.train_steps(*given, 0, 1)
        assert isinstance(steps_module._recordings[given[0]], Recording)

    on_threads(advance, settings, 4)


class Own(dualnets.SimCLR):
    """A subclass, which may compute something else."""


@dataclass(frozen=True)
class Annealed(InfoNCE):
    """A user's own loss, which may change from step to step."""


def replaced_forward():
    network = dualnets.tree_network(TREES, units=3, seed=1)
    network.forward = type(network).forward.__get__(network)
    return network


def hooked():
    network = dualnets.tree_network(TREES, units=3, seed=1)
    network.register_forward_hook(lambda *given: None)
    return network


@pytest.mark.parametrize(
    ("method", "network"),
    [
        (Own(), None),
        (dualnets.SimCLR(Annealed()), None),
        (dualnets.SimCLR(), replaced_forward),
        (dualnets.SimCLR(), hooked),
        (dualnets.TeacherStudent(hooked()), None),
    ],
    ids=["subclass", "loss", "forward", "hook", "teacher"],
)
def test_what_may_change_is_not_recorded(method, network):
    assert not is_repeatable(*setting(method, network=network and network())[:2])


@dataclass(frozen=True)
class Deciding(dualnets.SimCLR):
    """Decides by a value, so that its operations are not always the same."""

    def loss(self, network, state, batch):
        losses, carried = super().loss(network, state, batch)
        return (losses if bool(losses.sum() > 1) else 2 * losses), carried


def test_a_decision_by_value_cannot_be_recorded():
    with pytest.raises(RuntimeError):
        record(*setting(Deciding()))


def traced(function, *inputs):
    from torch.fx.experimental.proxy_tensor import make_fx

    recorded = make_fx(function)(*inputs)
    simplify(recorded.graph)
    return repeated(recorded.graph, fixed=1), recorded.graph


def test_what_changes_in_place_is_made_again_and_random_numbers_are_drawn_again():
    def function(fixed, other):
        count = torch.zeros(2)  # a constant, but changed in place
        count += other
        fixed += 1
        return [count, torch.rand(2), fixed.detach() + fixed.view(2), torch.ones_like(other) * 3]

    fixed, other = torch.zeros(2), torch.ones(2)
    code, graph = traced(function, fixed.clone(), other)
    repeat = code.bind(fixed)
    first, second = (repeat(other) for _ in range(2))
    assert first[0].tolist() == second[0].tolist() == [1, 1]
    assert not first[1].equal(second[1])
    assert first[2].tolist() == [2, 2]
    assert second[2].tolist() == [4, 4]
    assert second[3].tolist() == [3, 3]
    assert isinstance(graph, fx.Graph)
    assert "mul = " not in code.code.split("def _repeat")[1]  # 3 times ones is a constant


def test_a_view_is_read_again_after_its_memory_has_changed():
    def function(fixed, other):
        view, again = fixed[:2], (other * 3)[:2]
        first = [view * 2, again.sin()]
        fixed.add_(other)
        again.mul_(2)
        return [*first, view * 2, again.sin(), torch.zeros(2)]

    other = torch.ones(3)
    code, _ = traced(function, torch.zeros(3), other)
    repeat, fixed = code.bind(torch.zeros(3)), torch.zeros(3)
    for _ in range(2):
        found, expected = repeat(other), function(fixed, other)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.allclose(ours, theirs)
        found[-1].add_(1)  # the caller's own


@pytest.mark.parametrize(
    "change", [lambda own: own.to(torch.uint8), lambda own: own.double(), lambda own: own[:1],
               lambda own: own.to("meta")],
)  # fmt: skip
def test_other_inputs_than_were_recorded_are_refused(change):
    fixed, other = torch.zeros(2, 3), torch.ones(2, 3)
    repeat = traced(lambda fixed, other: [fixed + other * 2], fixed, other)[0].bind(fixed)
    with pytest.raises(OtherInputsError):
        repeat(change(other))


def test_a_changed_input_is_changed_where_it_is():
    def function(fixed, other):
        before = other * 2 + fixed
        return [other.add_(1), before]

    fixed = torch.zeros(2, 3)
    repeat = traced(function, fixed, torch.zeros(2, 3))[0].bind(fixed)
    other = torch.zeros(2, 3)
    assert not repeat(other)[1].any()
    assert other.eq(1).all()
    with pytest.raises(OtherInputsError):
        repeat(torch.zeros(3, 2).T)


def test_shapes_that_depend_on_values_are_not_recorded():
    with pytest.raises(RuntimeError, match="values"):
        traced(lambda fixed, other: [other.nonzero() + fixed], torch.zeros(1), torch.ones(2))


def test_other_batches_are_left_to_plain_torch():
    network, config, before = setting(METHODS["vicreg"])
    recording = record(network, config, before)
    for leaves in (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.rand(2, 16, 4)):
        batch = Batch(leaves, len(leaves[0]) // 2)
        expected = differentiate(network, config, before.state, batch)
        found = recording(network, config, before.state, batch)
        assert found[0].equal(expected[0])
        assert all(map(torch.equal, found[1], expected[1]))


def dropped(graph, node):
    node.replace_all_uses_with(node.args[0])
    graph.erase_node(node)


def swapped(_, node):
    node.args = (node.args[1], node.args[0])


def wrong_by_a_thousandth(_, node):
    node.args = (node.args[0], 1.001 * node.args[1])


@pytest.mark.parametrize(
    ("name", "operation", "change"),
    [
        ("vicreg", "mul_11", dropped),  # 0 where views are equal, as they are here
        ("vicreg", "sub", swapped), ("simclr", "div", wrong_by_a_thousandth),
    ],
)  # fmt: skip
def test_a_recording_that_computes_something_else_is_refused(monkeypatch, name, operation, change):
    def simplified(graph):
        simplify(graph)
        nodes = [own for own in graph.nodes if own.op == "call_function"]
        change(graph, next(own for own in nodes if own.name.startswith(operation)
                           and str(own.target).startswith(f"aten.{operation.split('_')[0]}.")
                           and (change is dropped or len(own.args) == 2)))  # fmt: skip

    monkeypatch.setattr(capture, "simplify", simplified)
    with pytest.raises(RuntimeError, match="other numbers"):
        record(*setting(METHODS[name], members=1))


def replaced(network):
    for own in network.parameters():
        own.data = own.data.clone()


def reshaped(network):
    for own in network.parameters():
        own.data = own.data[..., ::1].mT


@pytest.mark.parametrize(
    "change",
    [
        replaced, lambda own: own.eval(), lambda own: own.double(), reshaped,
        lambda own: own.register_forward_hook(print), lambda own: own.to("meta"),
    ],
)  # fmt: skip
def test_a_recording_fits_only_the_tensors_and_the_network_that_it_is_of(change):
    network, config, before = setting(METHODS["supervised"], members=1)
    recording = record(network, config, before)
    network.load_state_dict({name: own + 0.1 for name, own in network.state_dict().items()})
    assert recording.fits(network, config, before)
    change(network)
    assert not recording.fits(network, config, before)


def test_memory_of_layers_lives_as_long_as_the_recording(monkeypatch):
    gc.freeze()  # what was there before, of which there is much, is not looked through
    made, prepare = WeakSet(), ForwardPass.__init__
    monkeypatch.setattr(
        ForwardPass, "__init__", lambda own, *given, **named: made.add(own) or prepare(own, *given, **named)
    )  # fmt: skip
    recording = record(*setting(METHODS["supervised"], members=1))
    gc.collect()
    assert made
    del recording
    gc.collect()
    gc.unfreeze()
    assert not made


def test_work_without_effect_is_left_out_and_no_bit_changes():
    def function(fixed, other):
        unused = fixed.exp()
        twice = [(other * 1).pow(1).sin() + fixed.sin() for _ in range(2)]
        return [*twice, unused[:0]]

    fixed, other = torch.randn(3), torch.randn(3)
    code, graph = traced(function, fixed, other)
    found = code.bind(fixed)(other)
    assert found[0].equal(other.sin() + fixed.sin())
    assert found[1].equal(found[0])
    assert sum("sin" in str(node.target) for node in graph.nodes) == 2


def test_memory_is_shared_only_by_what_is_never_needed_together():
    def function(fixed, other):
        first = other * 3
        second = first.transpose(0, 1).exp()  # needs the first through a view
        third = second + first
        fourth = third.neg().exp()  # by now the first two are free
        fifth = fourth @ second.reshape(9).reshape(3, 3)
        sixth = fifth.neg().exp() + fourth
        return [sixth, third.detach(), fifth.transpose(0, 1)]

    fixed = torch.zeros(1)
    others = [torch.rand(3, 3) for _ in range(3)]
    code, _ = traced(function, fixed, others[0])
    repeat = code.bind(fixed)
    found = [repeat(other) for other in others]
    for other, own in zip(others, found, strict=True):
        for ours, theirs in zip(own, function(fixed, other), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-6)  # results of a call outlive the next one
    before = code.code.split("def _repeat")[0]
    assert before.count("as_strided") > before.count("    _slot") > 0
