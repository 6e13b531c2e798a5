"""Where the time of a step goes: its parts, each run by itself in eager torch."""

from __future__ import annotations

import resource
from collections.abc import Callable

import torch

from contenders.rates import Contender, timed
from contenders.task import Eager, Own, Task
from dualnets.methods.protocol import Batch, strip_prefix
from dualnets.networks.heads import Head
from dualnets.training.steps import trained_tensors


def parts(task: Task, seconds: float) -> dict[str, float]:
    """Microseconds per member-step of every part, and page faults per member-step.

    `loss` is what the loss takes beyond network and heads, passes of a target or teacher included; `rest`
    is what a step takes beyond drawing, loss and optimiser: the method's own work after the update,
    freezing, batches.
    """

    def spent(work: Callable[[], object]) -> float:
        once = max(_once(work, task) for _ in range(2))
        count = max(1, int(seconds / once))
        total = sorted(sum(_once(work, task) for _ in range(count)) / count for _ in range(3))[1]
        return 1e6 * total / task.members

    found, faults = {}, {}
    for name, kind in (("hltm", Own), ("eager", Eager)):
        own = Contender(lambda k=kind: k(task), task.members, task.device, seconds)
        own.calibrate()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        found[name] = 1e6 / own.rate()
        done = task.members * own.steps * own.calls
        faults[name] = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / done

    count = max(1, min(64, 1024 // task.members))
    drawing = spent(lambda: task.data.draw(task.needs, 0, count)) / count
    method, state = task.config.method, task.config.init(task.network).state
    batch = next(iter(task.data.batches(task.needs, 0, 1)))
    network = spent(lambda: _network(task, batch))
    heads = spent(lambda: _heads(task, state, batch)) if _named_heads(task) else 0.0
    trained = trained_tensors(task.network, state)

    def loss() -> tuple[torch.Tensor, ...]:
        losses, _ = method.loss(task.network, state, batch)
        return torch.autograd.grad(losses.sum(), list(trained.values()))

    whole = spent(loss)
    gradients = dict(zip(trained, loss(), strict=True))
    memory = task.config.optimizer.init(trained)
    alive = torch.ones(task.members, dtype=torch.bool, device=task.device)
    still = {name: torch.zeros_like(own) for name, own in gradients.items()}
    optimizer = spent(lambda: task.config.optimizer.update(trained, still, memory, alive))
    return {
        "hltm, whole step": found["hltm"],
        "eager, whole step": found["eager"],
        "drawing": drawing,
        "network": network,
        "heads": heads,
        "loss": whole - network - heads,
        "optimiser": optimizer,
        "rest": found["eager"] - drawing - whole - optimizer,
        "page faults, hltm": faults["hltm"],
        "page faults, eager": faults["eager"],
    }


def _once(work: Callable[[], object], task: Task) -> float:
    def whole() -> None:
        work()
        if task.device == "cuda":
            torch.cuda.synchronize()

    return timed(whole)


def _network(task: Task, batch: Batch) -> object:
    """Forward and backward of the trained network; MoCo's keys are another network's."""
    leaves = batch.leaves[:, : batch.size] if task.method == "moco" else batch.leaves
    output = task.network(leaves)
    return torch.autograd.grad(output, list(task.network.parameters()), torch.ones_like(output))


def _named_heads(task: Task) -> dict[str, Head]:
    names = ("projector", "predictor", "readout")
    heads = {name: getattr(task.config.method, name, None) for name in names}
    return {n: own for n, own in heads.items() if isinstance(own, Head) and own.widths}


def _heads(task: Task, state: dict[str, torch.Tensor], batch: Batch) -> object:
    """Forward and backward of the heads, one on the other, on outputs of the right shape."""
    passes = task.needs.views
    units = task.network.units[-1]
    shape = (task.members, units, passes * batch.size)
    hidden = torch.randn(shape, dtype=task.dtype, device=task.device).transpose(1, 2)
    inputs = [hidden.requires_grad_()]
    for name, head in _named_heads(task).items():
        parameters = strip_prefix(state, name)
        inputs += [own for own in parameters.values() if own.requires_grad]
        hidden = head(parameters, hidden, passes, record=[])
    return torch.autograd.grad(hidden, inputs, torch.ones_like(hidden))
