"""Loss and update are one graph each, in which nothing depends on a number that changes from step to step.

A GPU records them once, with the number of the step as a tensor; here the same code runs on a CPU.
"""

import pytest
import torch
from few import few
from test_recorded_steps import METHODS, setting

import dualnets
from dualnets.networks.compiled import head_pass, network_pass
from dualnets.training.eager import Update, differentiate

SCHEDULE = dualnets.Schedule("cosine", warm_up=2, final=0.1)
OPTIMIZERS = [
    dualnets.SGD((0.1, 0.2), momentum=0.9, nesterov=True, clip=1.0, schedule=SCHEDULE),
    dualnets.AdamW(0.1, schedule=SCHEDULE),
    dualnets.LARS(0.1, weight_decay=0.1, schedule=dualnets.Schedule(warm_up=3)),
]


@pytest.fixture
def plain(monkeypatch):
    """What is compiled for the CPU alone is left out, as on a GPU."""
    for module in (network_pass, head_pass):
        monkeypatch.setattr(module, "are_plain", lambda parameters: False)


def update(method, optimizer):
    network, config, before = setting(method, optimizer=optimizer)
    return Update(network, config, before, before.frozen_at.clone()), (network, config, before)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .functools.lru_cache")
@pytest.mark.parametrize("optimizer", few(OPTIMIZERS), ids=lambda own: type(own).__name__)
def test_an_update_is_one_graph_for_every_step(optimizer):
    ours, given = update(dualnets.SimCLR(), optimizer)
    theirs, _ = update(dualnets.SimCLR(), optimizer)
    theirs.compiled = None
    network, config, before = given
    batch = next(iter(config.data.batches(config.method.needs, 0, 1)))
    found = differentiate(network, config, before.state, batch)
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    compiled = torch.compile(
        lambda step: ours(found, step), backend=backend, fullgraph=True, dynamic=False
    )
    for step in range(6):
        compiled(torch.tensor(step))
        theirs(found, step)  # with a number in place of a tensor
        for name, own in ours.trained.items():
            torch.testing.assert_close(own, theirs.trained[name])
    assert len(graphs) == 1


@pytest.mark.parametrize(
    "name", few(["swav", "byol", "moco", "simclr-head", "vicreg", "supervised"])
)
def test_a_loss_is_one_graph(name, plain):
    network, config, before = setting(METHODS[name])
    batch = next(iter(config.data.batches(config.method.needs, 0, 1)))
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    def loss(leaves):
        return config.method.loss(network, before.state, batch._replace(leaves=leaves))[0]

    found = torch.compile(loss, backend=backend, fullgraph=True)(batch.leaves)
    torch.testing.assert_close(found, loss(batch.leaves))  # which may be compiled code
    assert len(graphs) == 1
