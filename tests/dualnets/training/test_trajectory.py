"""Training: ensembles equal single runs, chunks of steps do not matter, diverged members are frozen."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets.training.compiled import pairs, siamese
from dualnets.training.data import FreshData
from dualnets.training.steps import WORTH_RECORDING
from dualnets.training.trajectory import describe_frozen
from hltm.sampling.philox import Stream

TREES = hltm.symmetric_binary(depth=3, members=3, seed=0)
SETTINGS = {
    "augment": hltm.keep_root(),
    "batch": 16,
    "optimizer": dualnets.SGD(lr=0.2),
    "seed": 5,
}


@pytest.fixture(params=["compiled", "eager"])
def path(request, monkeypatch):
    """Both ways to train."""
    if request.param == "eager":
        monkeypatch.setattr(pairs, "supported_kernel", lambda network, loss: None)
    return request.param


def network(trees=TREES, **changes):
    given = {"units": 4, "seed": 1, "dtype": torch.float64, "normalize": True} | changes
    return dualnets.tree_network(trees, **given)


def trained(net, trees=TREES, loss=None, steps=20, **changes):
    method = dualnets.SimCLR(loss or dualnets.InfoNCE(0.1))
    return dualnets.train(net, method, trees, steps=steps, **(SETTINGS | changes))


def difference(a, b) -> float:
    both = zip(a.network.parameters(), b.network.parameters(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in both)


@pytest.mark.parametrize(
    "loss", [dualnets.InfoNCE(0.1, 2), dualnets.NTXent(0.1), dualnets.BatchwiseNCE(0.1)], ids=repr
)
def test_an_ensemble_equals_its_members_trained_alone(path, loss):
    for steps, bound in ((1, 1e-12), (20, 1e-6)):
        whole = trained(network(), loss=loss, steps=steps)
        for s in range(3):
            alone = trained(network(TREES[s]), TREES[s], loss=loss, steps=steps)
            for ours, its in zip(
                whole.network.parameters(), alone.network.parameters(), strict=True
            ):
                torch.testing.assert_close(ours[s : s + 1], its, rtol=0, atol=bound)


def test_many_networks_on_one_tree_read_rows_of_their_own(path):
    many = trained(network(TREES[0], members=3), TREES[0])
    alone = trained(network(TREES[0]), TREES[0])
    first = next(many.network.parameters())
    torch.testing.assert_close(first[:1], next(alone.network.parameters()), rtol=0, atol=1e-9)
    assert not torch.allclose(first[0], first[1])


def test_neither_chunks_of_steps_nor_snapshots_matter(path, monkeypatch):
    usual = trained(network(), steps=23)
    monkeypatch.setattr("dualnets.training.trajectory.STEPS_AT_ONCE", 7)
    found = list(
        dualnets.trajectory(
            network(), dualnets.SimCLR(), TREES, steps=23, snapshots=[0, 3, 11], **SETTINGS
        )
    )
    assert [snapshot.step for snapshot in found] == [0, 3, 11, 23]
    assert difference(found[-1], usual) < 1e-12
    assert difference(found[0], dualnets.Snapshot(0, network(), {}, None, None)) == 0


def test_every_width_and_method_reads_the_same_rows(monkeypatch):
    seen = []
    original = FreshData.draw

    def spy(self, needs, first_step, steps):
        drawn = original(self, needs, first_step, steps)
        seen.append(drawn.views)
        return drawn

    monkeypatch.setattr(FreshData, "draw", spy)
    trained(network(units=2), steps=3)
    trained(network(units=5), loss=dualnets.NTXent(0.1), steps=3)
    trained(dualnets.mlp(TREES, units=6, seed=9), loss=dualnets.InfoNCE(0.1, 3), steps=3)
    first, *others = seen
    for drawn in others:
        assert all(a.equal(b) for a, b in zip(first, drawn, strict=True))
    base = TREES.sample(48, seed=5)
    views = TREES.views(base, hltm.keep_root())
    assert first[0].transpose(1, 2).equal(views[0].leaves)
    assert first[1].transpose(1, 2).equal(views[1].leaves)


def test_a_step_is_gradient_descent_on_the_mean_loss(path):
    net = network()
    rates = [0.2, 0.4, 0.1]
    after = trained(net, steps=1, optimizer=dualnets.SGD(lr=rates))
    base = TREES.sample(16, seed=5)
    anchor, positive = (net(view.leaves) for view in TREES.views(base, hltm.keep_root()))
    other = TREES.draw(16, seed=5, stream=Stream.NEGATIVES)
    (view,) = TREES.views(other, hltm.keep_root(), count=1)
    loss = dualnets.InfoNCE(0.1)(anchor, positive, net(view.leaves)[:, None])
    gradients = torch.autograd.grad(loss.sum(), list(net.parameters()))
    for before, now, gradient in zip(
        net.parameters(), after.network.parameters(), gradients, strict=True
    ):
        rate = torch.tensor(rates, dtype=torch.float64)[:, None, None, None]
        torch.testing.assert_close(now, before - rate * gradient, rtol=0, atol=1e-13)
    torch.testing.assert_close(after.losses, loss.detach(), rtol=1e-12, atol=0)


def test_the_given_network_is_left_as_it_was(path):
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    trained(net)
    assert all(p.equal(q) for p, q in zip(net.parameters(), before, strict=True))


def diverging(net):
    """Make member 1's output overflow: its loss is not a number from the first step."""
    with torch.no_grad():
        net.weights[0][1] *= 1e300
        net.weights[1][1] *= 1e300
    return net


def test_a_diverged_member_is_frozen_and_named(path):
    bad = diverging(network())
    found = trained(bad, steps=10)
    assert found.frozen_at.tolist() == [-1, 0, -1]
    for ours, given, healthy in zip(
        found.network.parameters(),
        bad.parameters(),
        trained(network(), steps=10).network.parameters(),
        strict=True,
    ):
        assert ours[1].equal(given[1])
        torch.testing.assert_close(ours[[0, 2]], healthy[[0, 2]], rtol=0, atol=1e-12)
    assert describe_frozen((4, 5, 6), found.frozen_at) == (
        "loss or gradient not finite: member 5 at step 0"
    )


def test_strict_stops_instead(path):
    with pytest.raises(dualnets.DivergedError, match="member 1 at step 0"):
        trained(diverging(network()), strict=True)


def test_a_member_that_diverges_later_keeps_its_last_finite_weights(path):
    net = network(normalize=False)
    found = trained(
        net, loss=dualnets.Simple(), steps=400, optimizer=dualnets.SGD(lr=[1e-3, 50.0, 1e-3])
    )
    at = found.frozen_at.tolist()
    assert at[0] == at[2] == -1
    assert at[1] > 0
    assert all(torch.isfinite(p).all() for p in found.network.parameters())


def test_training_lowers_the_loss_and_the_control_does_not_matter(path):
    losses = {}
    for augment in (hltm.keep_root(), hltm.keep_nothing()):
        final = trained(network(units=6), steps=300, augment=augment, batch=64)
        losses[augment.name] = float(final.losses.mean())
    assert losses["keep-root"] < 0.8 * losses["keep-nothing"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"batch": 1}, "batch must be at least 2, got 1"),
        ({"optimizer": dualnets.SGD(lr=[0.1, 0.2])}, "expected 3 learning rates"),
        ({"seed": 1 << 64}, "seed must be in 0..2\\^64-1"),
        ({"augment": hltm.keep_level(9)}, "level must be in 0..3, got 9"),
        (
            {"augment": hltm.drop_leaves(0.2)},
            "as one bit, which cannot be missing, but drop-leaves:0.2 leaves some out",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(changes, message, monkeypatch):
    monkeypatch.setattr(FreshData, "draw", lambda *_: pytest.fail("rows were drawn"))
    with pytest.raises(ValueError, match=message):
        trained(network(), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": dualnets.SimCLR}, r"method must be such as dualnets\.SimCLR\(\), got <class"),
        (
            {"method": "byol"},
            r"method must be such as dualnets\.BYOL\(\), got 'byol', its word on the",
        ),
        (
            {"augment": "keep-root"},
            r"hltm\.keep_root\(\), got 'keep-root', its name on the command line",
        ),
        ({"optimizer": "sgd"}, r"optimizer must be such as dualnets\.SGD\(lr=0\.1\), got 'sgd'"),
        ({"checkpoints": "here"}, r"checkpoints must be such as dualnets\.Checkpoints\(folder\)"),
    ],
)
def test_names_and_classes_for_objects_are_refused(changes, message):
    with pytest.raises(TypeError, match=message):
        dualnets.train(
            network(),
            **{"method": dualnets.SimCLR(), "source": TREES, "steps": 1} | SETTINGS | changes,
        )


@dataclass(frozen=True)
class Own:
    """A loss of one's own, with `change` applied to distances `(S, B)`."""

    change: Callable
    negatives: int = 1

    def __call__(self, anchor, positive, negatives):
        return self.change((anchor - positive).square().sum(-1))


@dataclass(frozen=True)
class OwnMethod(dualnets.Method):
    change: Callable

    def loss(self, network, state, batch):
        return self.change(network(batch.leaves).sum((1, 2)))


@pytest.mark.parametrize("steps", [2, WORTH_RECORDING])
@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (dualnets.SimCLR(Own(lambda d: d)), ValueError, r"loss Own .*\(3,\), .*got \(3, 16\)$"),
        (dualnets.SimCLR(Own(torch.mean)), ValueError, r"loss Own .*\(3,\), .*got \(\)$"),
        (dualnets.SimCLR(Own(lambda d: 3.0)), TypeError, r"loss Own .*\(3,\), .*got float$"),
        (
            dualnets.SimCLR(Own(lambda d: d.mean(1).detach())),
            ValueError,
            "losses of SimCLR do not depend on any trained parameter",
        ),
        (OwnMethod(lambda d: d), TypeError, r"`return losses, \{\}`; got Tensor$"),
        (OwnMethod(lambda d: (d, None)), TypeError, r"`return losses, \{\}`; got Tensor"),
        (OwnMethod(lambda d: (d.mean(), {})), ValueError, r"OwnMethod\.loss .*\(3,\), .*got \(\)$"),
    ],
)
def test_a_loss_of_another_shape_is_one_error_at_the_first_step(method, error, message, steps):
    done = []
    with pytest.raises(error, match=message):
        dualnets.train(network(), method, TREES, steps=steps, progress=done.append, **SETTINGS)
    assert done == []


def test_a_function_without_negatives_is_named():
    def hinge(anchor, positive, negatives):
        return anchor

    with pytest.raises(TypeError, match="criterion 'hinge' needs an attribute negatives"):
        dualnets.SimCLR(hinge)


def test_frozen_members_are_shown_and_can_be_left_out():
    found = trained(diverging(network()), steps=10)
    assert repr(found) == (
        f"Snapshot(step 10, BlockNetwork of 3, losses [{found.losses[0]:.3g}, nan, "
        f"{found.losses[2]:.3g}], 0 tensors of state, loss or gradient not finite: member 1 at step 0)"
    )
    with pytest.raises(
        ValueError, match=r"of member 1 .*; where training diverged a member is frozen"
    ):
        hltm.probe.measure(found.network, TREES, samples=600, seed=7, lags=0, details=False)
    kept, trees = found.without_frozen(TREES)
    assert kept.members == trees.members == (0, 2)
    leaves = TREES.sample(8, seed=1).leaves
    assert kept(leaves[[0, 2]]).equal(found.network(leaves)[[0, 2]])
    tree = TREES[0]
    one = trained(network(tree, members=3), tree, steps=1)
    assert one.without_frozen(tree)[1] is tree
    with pytest.raises(
        ValueError, match=r"the networks are members \(0, 1, 2\), the trees \(0, 1\)"
    ):
        found.without_frozen(TREES[:2])
    lost = found._replace(frozen_at=torch.tensor([3, 0, 4]))
    with pytest.raises(ValueError, match=r"no member is left: .*member 0 at step 3, member 1"):
        lost.without_frozen(TREES)


def test_trees_that_do_not_fit_are_refused():
    deeper = hltm.symmetric_binary(depth=4, members=3, seed=0)
    with pytest.raises(ValueError, match="the data have 16 leaves, the network reads 8"):
        trained(network(), deeper)
    with pytest.raises(ValueError, match="2 trees cannot train 3 networks"):
        trained(network(), TREES[:2])
    with pytest.raises(ValueError, match="a learning rate must be above 0 and finite, got 0"):
        dualnets.SGD(lr=0)


def test_log_spaced_steps():
    assert dualnets.log_spaced(0) == [0]
    for steps, count in itertools.product((1, 2, 17, 2000), (2, 5, 12)):
        found = dualnets.log_spaced(steps, count)
        assert found[0] == 0
        assert found[-1] == steps
        assert found == sorted(set(found))
        assert len(found) <= max(count, 2)
    gaps = np.diff(np.log(dualnets.log_spaced(10**6, 8)[1:]))
    assert np.ptp(gaps) < 1e-3


def test_progress_counts_every_step(path):
    counts = []
    trained(network(), steps=150, progress=counts.append)
    assert sum(counts) == 150


HEAD = dualnets.Head((6, 4), norm=dualnets.BatchNorm())
SWEEPS = {
    "byol-predictor": (
        lambda lr, decay, m: dualnets.BYOL(HEAD, HEAD, predictor_lr=lr, predictor_weight_decay=decay),
        {},
    ),
    "byol-decay": (lambda lr, decay, m: dualnets.BYOL(HEAD, HEAD, ema_decay=m), {}),
    "byol-cosine": (
        lambda lr, decay, m: dualnets.BYOL(HEAD, HEAD, ema_decay=m, ema_schedule="cosine"),
        {},
    ),
    "moco": (lambda lr, decay, m: dualnets.MoCo(queue=32, ema_decay=m, projector=HEAD), {}),
    "supervised": (
        lambda lr, decay, m: dualnets.Supervised(rates=dualnets.Group(lr, decay)),
        {"augment": hltm.resample_leaves(0.0)},
    ),
}  # fmt: skip
RATES = [(0.5, 3.0, 0.0), (0.0, 0.1, 0.3), (0.9, 0.5, 1.0)]


@pytest.mark.parametrize(
    ("name", "way"),
    [  # every method and every way in turn
        pytest.param(name, way, marks=[pytest.mark.slow] * ((i + j) % 3 > 0))
        for i, name in enumerate(SWEEPS)
        for j, way in enumerate(["compiled", "eager", "parts"])
    ],
)
def test_a_sweep_over_a_methods_rates_is_its_members_trained_alone(name, way, monkeypatch):
    if way == "eager":
        monkeypatch.setattr(siamese, "supported_kernel", lambda *given: None)
    make, changes = SWEEPS[name]

    def train(method, trees):
        given = SETTINGS | {"steps": 12, "optimizer": dualnets.SGD(0.1, momentum=0.5)} | changes
        if way == "parts" and trees is TREES:
            given["members_at_once"] = 2
        return dualnets.train(network(trees, bias=True), method, trees, **given)

    whole = train(make(*RATES), TREES)
    for s in range(3):
        alone = train(make(*(rates[s] for rates in RATES)), TREES[s])
        for ours, its in zip(whole.network.parameters(), alone.network.parameters(), strict=True):
            torch.testing.assert_close(ours[s : s + 1], its, rtol=0, atol=1e-9)
        for key, tensor in alone.state.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(whole.state[key][s : s + 1], tensor, rtol=0, atol=1e-9)
    same = train(make(*(rates[0] for rates in RATES)), TREES)
    assert any(
        not torch.allclose(a[1], b[1])
        for a, b in zip(
            [*whole.network.parameters(), *whole.state.values()],
            [*same.network.parameters(), *same.state.values()],
            strict=True,
        )
        if a.is_floating_point()
    ), "the rates should matter"


def test_a_sweep_over_momenta_of_the_target_is_not_compiled():
    assert dualnets.BYOL(ema_decay=0.9).siamese is not None
    assert dualnets.BYOL(predictor_lr=[1.0, 2.0]).siamese is not None
    assert dualnets.BYOL(ema_decay=[0.9, 0.8]).siamese is None
