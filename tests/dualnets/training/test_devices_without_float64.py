"""Training in float32 on a device without float64, for which `meta` stands in.

On `meta` nothing is computed, but every operation of a step is carried out; a dispatcher sees their
tensors. A step that asked for a number would fail too, so the CPU never waits for the device.
"""

import pytest
import torch
from few import few
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dualnets
import hltm
from dualnets.methods._byol_target import shuffled_parameters
from dualnets.methods._directions import random_directions
from dualnets.methods.protocol import TrainContext
from dualnets.training.data import FixedData, FreshData
from dualnets.training.eager import Update, differentiate
from dualnets.training.steps import TrainConfig, train_steps_eager
from hltm import _devices

TREES = hltm.symmetric_binary(depth=3, members=2, seed=0)
META = torch.device("meta")
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default, aten.index.Tensor, aten.index_put_.default)
METHODS = [
    dualnets.SimCLR(dualnets.InfoNCE(0.1, 2)), dualnets.BYOL(), dualnets.MoCo(queue=16), dualnets.SwAV(),
    dualnets.PIRL(), dualnets.VICReg(), dualnets.BarlowTwins(), dualnets.SimSiam(), dualnets.Supervised(),
    *(dualnets.SimCLR(loss) for loss in (
        dualnets.Simple(), dualnets.Triplet(0.2), dualnets.BatchwiseNCE(0.1), dualnets.NTXent(),
    )),
]  # fmt: skip
OPTIMIZERS = [dualnets.SGD([0.1, 0.2], momentum=0.9), dualnets.Adam(0.01), dualnets.LARS(0.1)]
CASES = few([(method, OPTIMIZERS[0]) for method in METHODS], 6)
CASES += few(
    [(METHODS[0], other) for other in OPTIMIZERS[1:]]
)  # updates do not depend on the method


class NoFloat64(TorchDispatchMode):
    """Refuses operations with tensors of float64 on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, found)):
            wrong = isinstance(each, torch.Tensor) and each.is_meta and each.dtype == torch.float64
            assert not wrong, f"{func} with float64"
        return found


class NoCopies(TorchDispatchMode):
    """Refuses copies from the CPU, which no graph of a GPU can record, and numbers that are read."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        given = [own for own in tree_leaves((args, kwargs)) if isinstance(own, torch.Tensor)]
        made = [own for own in tree_leaves(found) if isinstance(own, torch.Tensor)]
        copied = func in COPIES and any(own.is_meta for own in made)
        assert not copied or all(own.is_meta for own in given), f"{func} from the CPU"
        assert func is not aten.lift_fresh.default or not made[0].is_meta, "a constant from the CPU"
        return found


@pytest.fixture
def without_float64(monkeypatch):
    monkeypatch.setattr(_devices, "has_float64", lambda device: device.type != "meta")


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case)[1:30])
def test_a_step_needs_no_float64(case, without_float64):
    method, optimizer = case
    network = dualnets.tree_network(TREES, units=4, seed=1, normalize=True).to(META)
    samples = 50 if method.needs.places else None
    given = {
        "source": TREES, "members": TREES.members, "augment": hltm.resample_leaves(0.3), "batch": 8,
        "seed": 0, "stacked": True, "device": META,
    }  # fmt: skip
    data = FreshData(**given) if samples is None else FixedData(**given, samples=samples)
    config = TrainConfig(method, optimizer, data, TrainContext(TREES, 0, 20, 8, samples))
    state = config.init(network)
    with NoFloat64():
        after = train_steps_eager(network, config, state, 0, 2)
    assert after.losses.dtype == torch.float32
    # as a graph is recorded: with the number of the step as a tensor
    update = Update(network, config, after, after.frozen_at)
    (batch,) = data.batches(method.needs, 2, 1)
    number = torch.zeros((), dtype=torch.int64, device=META)
    with NoFloat64(), NoCopies():
        update(differentiate(network, config, after.state, batch), number)


def test_what_methods_begin_with_needs_no_float64(without_float64):
    network = dualnets.tree_network(TREES, units=4, seed=1).to(META)
    with NoFloat64():
        found = random_directions(5, 3, seed=0, members=(0, 1), place=1, device=META)
        shuffled_parameters(network, TrainContext(TREES, 0, 20, 8, None))
    assert found.device == META
