"""Methods that change their state where it lies, against `after_step`, which makes new tensors."""

import dataclasses

import pytest
import torch

import dualnets
import hltm
from dualnets.methods.compiled.in_place import Places
from dualnets.training import eager, ensemble
from dualnets.training.data import FixedData
from dualnets.training.state import TrainConfig, TrainContext
from hltm.sampling.philox import MAX_VIEWS, Stream, uniform

TREES = hltm.symmetric_binary(depth=2, members=3, seed=0)
HEAD = dualnets.Head((4, 3), norm=dualnets.BatchNorm())
SMALL = dualnets.Head((3,))
METHODS = {
    "simclr": dualnets.SimCLR(dualnets.NTXent(), projector=HEAD),
    "byol": dualnets.BYOL(HEAD, HEAD, ema_decay=(0.9, 0.5, 1.0), ema_schedule="cosine"),
    "byol-copy": dualnets.BYOL(SMALL, SMALL, target="copy", copy_every=2),
    "byol-random": dualnets.BYOL(SMALL, SMALL, target="random"),
    "byol-redrawn": dualnets.BYOL(SMALL, SMALL, redraw_every=2),
    "byol-direct": dualnets.BYOL(SMALL, dualnets.DirectPredictor()),
    "moco": dualnets.MoCo(queue=37, projector=HEAD, ema_decay=(0.9, 0.0, 1.0)),
    "moco-symmetric": dualnets.MoCo(queue=16, symmetric=True, ema_decay=0.5),
    "swav": dualnets.SwAV(prototypes=4, queue=19, queue_from=2),
    "swav-frozen": dualnets.SwAV(prototypes=4, frozen_steps=2),
    "pirl": dualnets.PIRL(negatives=5, bank_momentum=0.3, view_projector=SMALL, projector=SMALL),
    "vicreg": dualnets.VICReg(HEAD),
}
PLAIN = {"byol-redrawn", "byol-direct", "swav-frozen"}  # which have no work in place


def trained(method, rates=(0.05, 0.05, 0.05), norm=None, steps=7):
    """The parameters and all of the state after two spans of steps, the first of three."""
    network = dualnets.tree_network(
        TREES, units=3, seed=1, bias=True, norm=norm, dtype=torch.float64
    )
    rows = (TREES, TREES.members, hltm.keep_root(), 8, 2, True, torch.device("cpu"))
    optimizer = dualnets.SGD(rates, momentum=0.5)
    context = TrainContext(TREES, 2, 9, 8, 32)
    config = TrainConfig(method, optimizer, FixedData(*rows, samples=32), context)
    (part,) = ensemble.split(network, config, 3)
    state = part.state
    for first, many in ((0, 3), (3, steps - 3)):
        state = eager.train_steps_eager(part.network, config, state, first, many)
    named = {**dict(part.network.named_parameters()), **dict(part.network.named_buffers())}
    return named | {f"state.{n}": own for n, own in state.state.items()}, state.frozen_at


def assert_same(method, monkeypatch, **given):
    found, frozen = trained(method, **given)
    monkeypatch.setattr(eager, "_in_place", lambda _network, _config, state: (state, None))
    expected, expected_frozen = trained(method, **given)
    assert frozen.equal(expected_frozen)
    assert found.keys() == expected.keys()
    for name, own in found.items():
        assert own.dtype == expected[name].dtype
        torch.testing.assert_close(own, expected[name], rtol=1e-10, atol=1e-11)
    return frozen


@pytest.mark.parametrize("name", METHODS)
def test_work_in_place_equals_after_step(name, monkeypatch):
    assert (assert_same(METHODS[name], monkeypatch) == -1).all()


@pytest.mark.parametrize("name", ["moco", "swav", "pirl", "byol"])
def test_a_member_that_diverges_on_the_way_keeps_its_last_numbers(name, monkeypatch):
    frozen = assert_same(METHODS[name], monkeypatch, rates=(0.05, 1e150, 0.05))
    assert (frozen >= 0).tolist() == [False, True, False]


def test_averages_of_a_network_with_moments_of_its_own(monkeypatch):
    norm = dualnets.BatchNorm()
    assert (assert_same(METHODS["byol"], monkeypatch, norm=norm) == -1).all()


@pytest.mark.parametrize("name", METHODS)
def test_which_methods_have_it(name):
    network = dualnets.tree_network(TREES, units=3, seed=1)
    context, method = TrainContext(TREES, 2, 9, 8, 32), METHODS[name]
    state = method.init(network, context)
    assert (method.in_place(network, state, context) is None) == (name in PLAIN)


@dataclasses.dataclass(frozen=True)
class Slower(dualnets.MoCo):
    """Does something else after a step, of which the inherited function knows nothing."""

    def after_step(self, network, state, carried, step, setup):
        return super().after_step(network, state, carried, step, setup) | {"queue": state["queue"]}


def test_a_subclass_with_its_own_after_step_is_called():
    method = Slower(queue=16)
    found, _ = trained(method)
    network = dualnets.tree_network(TREES, units=3, seed=1, bias=True, dtype=torch.float64)
    untouched = method.init(network, TrainContext(TREES, 2, 9, 8, 32))["queue"]
    assert found["state.queue"].equal(untouched)


@pytest.mark.parametrize("seed", [0, 1, (1 << 64) - 1])
@pytest.mark.parametrize("count", [1, 2, 15, 33])
def test_places_have_the_bits_of_the_generator(seed, count):
    members = (0, 5, (1 << 32) - 1)
    found = torch.empty(3, count, dtype=torch.int64)
    for samples in (1, 77, 1 << 34):
        for node, view in ((0, 0), (4160, MAX_VIEWS - 1)):
            Places(seed, members, Stream.PREDICTOR, samples).draw(node, view, found.numpy())
            numbers = uniform(
                count, seed=seed, stream=Stream.PREDICTOR, members=members, node=node, view=view
            )
            assert found.equal((numbers * samples).long().clamp(max=samples - 1))
