"""What steps do with a method's state: rates by name, replaced tensors start afresh, frozen ones stay."""

from dataclasses import dataclass

import pytest
import torch

import dualnets
import hltm
from dualnets.methods.protocol import Method, Needs

TREES = hltm.symmetric_binary(depth=2, members=3, seed=0)
TARGET = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)


@dataclass(frozen=True)
class Toy(Method):
    """Trains one number per member towards a target of its own; replaced after update `replaced_at`."""

    replaced_at: int = -1
    start: float = 0.0
    rates: dualnets.Group = dualnets.Group()  # noqa: RUF009

    @property
    def needs(self):
        return Needs(views=1)

    @property
    def groups(self):
        return {"place": self.rates}

    def init(self, network, setup):
        one, two = (torch.full((3, 1), self.start, dtype=torch.float64) for _ in range(2))
        count = torch.zeros(3, dtype=torch.int64)
        return {"place": one.requires_grad_(), "placebo": two.requires_grad_(), "count": count}

    def loss(self, network, state, batch):
        both = (state["place"], state["placebo"])
        away = sum((t[:, 0] - TARGET).square() for t in both)
        return away + 0 * network(batch.leaves).sum((1, 2)), {}

    def after_step(self, network, state, carried, step, setup):
        found = state | {"count": state["count"] + 1}
        if step == self.replaced_at:
            found["place"] = torch.full((3, 1), 10.0, dtype=torch.float64)
        return found


def state_after(method, steps, optimizer, broken=False):
    net = dualnets.tree_network(TREES, units=2, seed=1, dtype=torch.float64)
    if broken:
        with torch.no_grad():
            net.weights[0][1] = torch.nan
    return dualnets.train(
        net,
        method,
        TREES,
        augment=hltm.keep_root(),
        steps=steps,
        batch=4,
        optimizer=optimizer,
        seed=2,
    ).state


@pytest.mark.parametrize(
    "optimizer", [dualnets.Adam(0.3), dualnets.SGD(0.1, momentum=0.9), dualnets.LARS(0.1)], ids=repr
)
def test_the_optimiser_forgets_what_is_replaced(optimizer):
    replaced = state_after(Toy(replaced_at=2), 5, optimizer)
    fresh = state_after(Toy(start=10.0), 2, optimizer)  # two updates after the replacement
    torch.testing.assert_close(replaced["place"], fresh["place"], rtol=0, atol=1e-14)
    untouched = state_after(Toy(), 5, optimizer)
    assert replaced["placebo"].equal(untouched["placebo"])


def test_rates_belong_to_a_name_not_to_its_prefix():
    state = state_after(Toy(rates=dualnets.Group(lr=3.0)), 1, dualnets.SGD(0.1))
    torch.testing.assert_close(state["place"][:, 0].detach(), 0.6 * TARGET)
    torch.testing.assert_close(state["placebo"][:, 0].detach(), 0.2 * TARGET)


def test_frozen_members_keep_their_state_and_are_not_replaced():
    state = state_after(Toy(replaced_at=2), 5, dualnets.SGD(0.1), broken=True)
    assert state["count"].tolist() == [5, 0, 5]
    assert state["place"][1].tolist() == state["placebo"][1].tolist() == [0.0]
    healthy = state_after(Toy(replaced_at=2), 5, dualnets.SGD(0.1))
    assert state["place"][[0, 2]].equal(healthy["place"][[0, 2]])
