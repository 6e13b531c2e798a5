"""Methods that remember: MoCo's queue, SwAV's prototypes and queue, PIRL's memory bank.

Their losses, updates and states are held to plain versions in `test_methods.py`; here is what their
docstrings claim beyond a step.
"""

import itertools
import math

import pytest
import torch
from scipy import stats

import dualnets
import hltm
from dualnets.methods._directions import direction, random_directions
from dualnets.methods.protocol import Batch, TrainContext
from dualnets.methods.swav import sinkhorn
from dualnets.training.data import FixedData, FreshData
from dualnets.training.steps import TrainConfig, train_steps_eager

TREES = hltm.symmetric_binary(depth=2, members=3, seed=0)
BATCH, SEED = 8, 5


def network(trees=TREES, **given):
    settings = {"units": 4, "bias": True, "seed": 1, "dtype": torch.float64} | given
    return dualnets.tree_network(trees, **settings)


def progresses(method, steps, net=None, optimizer=None, samples=None, precision="float32"):
    """The network, and where training stands before each step and after the last.

    What is trained, and the optimiser's memory, is as after the last: it changes in place.
    """
    net = network() if net is None else net
    given = {
        "source": TREES, "members": TREES.members, "augment": hltm.keep_root(), "batch": BATCH,
        "seed": SEED, "stacked": True, "device": torch.device("cpu"),
    }  # fmt: skip
    data = FreshData(**given) if samples is None else FixedData(**given, samples=samples)
    setup = TrainContext(TREES, SEED, steps, BATCH, samples)
    method.check(net, setup)
    recipe = TrainConfig(method, optimizer or dualnets.SGD(0.1), data, setup, precision)
    found = [recipe.init(net)]
    for step in range(steps):
        found.append(train_steps_eager(net, recipe, found[-1], step, 1))
    return net, found


# directions


def test_random_directions_are_even_on_the_sphere_and_are_addressed():
    found = random_directions(20_000, 3, seed=3, members=(0, 9), place=7, dtype=torch.float64)
    assert (found.norm(dim=-1) - 1).abs().max() < 1e-12
    # Archimedes: a coordinate of an even direction in three dimensions is even in -1..1
    p = [
        stats.kstest(own[:, u], stats.uniform(-1, 2).cdf).pvalue for own in found for u in range(3)
    ]
    assert min(p) > 1e-3 / len(p)
    squares = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    twin = direction(squares)  # a cube's corners draw its directions
    assert stats.kstest(twin[:, 0], stats.uniform(-1, 2).cdf).pvalue < 1e-3
    address = {"seed": 3, "place": 7, "dtype": torch.float64}
    assert found[1, :50].equal(random_directions(50, 3, members=[9], **address)[0])
    for change in ({"seed": 4}, {"place": 8}):
        other = random_directions(20_000, 3, members=(0, 9), **(address | change))
        assert (found * other).sum(-1).mean().abs() < 4 / math.sqrt(3 * 40_000)


def test_a_direction_has_length_1_and_no_overflow_passes_for_a_number():
    rows = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1e-30, 0.0]], dtype=torch.float64)
    rows.requires_grad_()
    found = direction(rows)
    assert found.tolist() == [[0.6, -0.8], [0.0, 0.0], [1e-18, 0.0]]
    (slope,) = torch.autograd.grad(found.sum(), rows)
    assert slope.isfinite().all()
    assert direction(torch.tensor([1e200, 1.0], dtype=torch.float64)).isnan().all()


# MoCo


def test_mocos_queue_is_first_in_first_out_to_the_key():
    method = dualnets.MoCo(queue=21, ema_decay=0.9, temperature=0.5)
    _, found = progresses(method, 4)
    queues = [now.state["queue"] for now in found]
    for before, after in itertools.pairwise(queues):
        assert after[:, BATCH:].equal(before[:, :-BATCH])
    assert queues[0].equal(
        random_directions(21, 4, seed=SEED, members=TREES.members, place=64, dtype=torch.float64)
    )
    assert torch.cat([queues[0], queues[4]], dim=1).norm(dim=-1).sub(1).abs().max() < 1e-12


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_mocos_key_encoder_is_the_network_or_stays_where_it_was(decay):
    method = dualnets.MoCo(queue=8, ema_decay=decay, projector=dualnets.Head((3,)))
    start = network()
    net, found = progresses(method, 3)
    state = found[-1].state
    for name, now in net.named_parameters():
        expected = dict(start.named_parameters())[name] if decay else now
        assert state[f"key.{name}"].equal(expected.detach())
        assert not start.get_parameter(name).equal(now)
    expected = (found[0].state["key_projector.0.weight"], state["projector.0.weight"])
    assert state["key_projector.0.weight"].equal(expected[decay == 0.0].detach())


class Counting(torch.nn.Module):
    """A network with a buffer that counts its passes, as running statistics do."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.members, self.stacked = inner, inner.members, inner.stacked
        self.inputs = inner.inputs
        self.register_buffer("passes", torch.zeros(len(inner.members)))

    def forward(self, leaves):
        self.passes += 1
        return self.inner(leaves)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mocos_keys_leave_the_networks_running_statistics_alone(symmetric):
    net = Counting(network())
    method = dualnets.MoCo(queue=2 * BATCH, symmetric=symmetric)
    state = method.init(net, TrainContext(TREES, SEED, 1, BATCH))
    method.loss(net, state, Batch(TREES.sample(2 * BATCH, seed=1).leaves, BATCH))
    assert net.passes.tolist() == [1, 1, 1]  # the queries'
    assert not any("passes" in name for name in state)


# SwAV


def test_sinkhorn_uses_every_prototype_equally():
    scores = direction(torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(0)).double())
    found = sinkhorn(scores, 0.3, 200)
    torch.testing.assert_close(found.sum(2), torch.ones(3, 12).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.full((3, 4), 3.0).double(), rtol=0, atol=1e-9)
    # the best of all such assignments but for the entropy: scaled rows and columns of exp(score / ε)
    logs = found.log() - scores / 0.3
    mixed = logs - logs.mean(1, keepdim=True) - logs.mean(2, keepdim=True)
    assert (mixed - mixed.mean((1, 2), keepdim=True)).abs().max() < 1e-12
    assert sinkhorn(scores.float(), 1e-3, 3).isfinite().all()


def test_samples_that_do_not_count_change_no_assignment():
    scores = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1)).double()
    used = torch.tensor([[True] * 6 + [False] * 3, [True] * 9])
    found = sinkhorn(scores, 0.5, 3, used)
    torch.testing.assert_close(found[:1, :6], sinkhorn(scores[:1, :6], 0.5, 3))
    torch.testing.assert_close(found[1:], sinkhorn(scores[1:], 0.5, 3))


def test_prototypes_stay_then_move_on_the_sphere_and_keep_their_momentum():
    method = dualnets.SwAV(prototypes=5, epsilon=0.3, frozen_steps=3)
    optimizer = dualnets.SGD(0.1, momentum=0.9, weight_decay=0.01)
    where, speed = [], []
    _, start = progresses(method, 0)
    begun = start[0].state["prototypes"].detach().clone()
    for steps in range(1, 7):
        _, found = progresses(method, steps, optimizer=optimizer)
        where.append(found[-1].state["prototypes"].detach())
        speed.append(found[-1].memory["momentum.state.prototypes"])
    for step in range(3):
        assert where[step].equal(begun)
        assert speed[step].eq(0).all()
    for step in range(3, 6):
        before, velocity = where[step - 1], speed[step]
        torch.testing.assert_close(where[step], direction(before - 0.1 * velocity))
        assert where[step].norm(dim=-1).sub(1).abs().max() < 1e-12
        assert not where[step].equal(before)
        # a velocity that was forgotten would be the last gradient alone
        gradient = velocity - 0.9 * speed[step - 1]
        assert step == 3 or not torch.allclose(gradient, velocity, rtol=1e-3)
        assert velocity.abs().max() > 0


def test_swavs_queue_counts_once_it_is_full_and_its_step_has_come():
    plain, queue, late = (
        dualnets.SwAV(prototypes=5, epsilon=0.3, queue=q, queue_from=start)
        for q, start in ((0, 0), (12, 0), (12, 4))
    )
    losses = [
        torch.stack([now.losses for now in progresses(method, 6)[1][1:]])
        for method in (plain, queue, late)
    ]
    assert losses[1][:2].equal(losses[0][:2])  # 16 outputs fill it after two steps
    assert (losses[1][2] != losses[0][2]).all()
    assert losses[2][:4].equal(losses[0][:4])
    assert (losses[2][4] != losses[0][4]).all()


# PIRL


def test_pirls_bank_changes_where_the_batch_was_and_nowhere_else():
    method = dualnets.PIRL(negatives=9, temperature=0.5)
    _, found = progresses(method, 4, samples=20)
    seen = torch.zeros(20, dtype=torch.int64)
    for before, after in itertools.pairwise(found):
        changed = (before.state["bank"] != after.state["bank"]).any(-1)
        assert changed.sum(1).eq(BATCH).all()
        assert changed.eq(changed[0]).all()  # all members see the same places
        seen += changed[0]
    assert seen.max() == 2  # two epochs
    assert found[-1].state["bank"].norm(dim=-1).sub(1).abs().max() < 1e-12


def test_pirls_negatives_are_even_over_the_bank_and_differ_by_member_and_step():
    method = dualnets.PIRL(negatives=10, temperature=0.5)
    _, found = progresses(method, 100, samples=11)
    drawn = torch.stack([now.state["negatives"] for now in found])  # (T, S, N)
    counts = [torch.bincount(drawn[:, s].flatten(), minlength=11).numpy() for s in range(3)]
    assert min(stats.chisquare(own).pvalue for own in counts) > 1e-3 / 3
    assert all(len(own) == 11 for own in counts)
    assert not drawn[0, 0].equal(drawn[0, 1])
    assert not drawn[0, 0].equal(drawn[1, 0])
    halves = (drawn // 2 * 2).clamp(max=10)  # a broken twin: even places alone
    assert stats.chisquare(torch.bincount(halves[:, 0].flatten(), minlength=11)).pvalue < 1e-3


@pytest.mark.parametrize("classify", [True, False])
def test_a_sample_alone_among_its_negatives_costs_nothing(classify):
    method = dualnets.PIRL(negatives=1, temperature=0.5, classify_negatives=classify)
    net = network()
    setup = TrainContext(TREES, SEED, 1, 2, 20)
    state = method.init(net, setup) | {"negatives": torch.full((3, 1), 4)}
    leaves = TREES.sample(4, seed=1).leaves
    losses, _ = method.loss(net, state, Batch(leaves, 2, places=torch.tensor([4, 7])))
    other, _ = method.loss(
        net, state, Batch(leaves[:, [1, 3]], 1, places=torch.tensor([7]))
    )  # the second sample alone
    torch.testing.assert_close(2 * losses, other)
    gradients = torch.autograd.grad(losses.sum(), list(net.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


# all three


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dualnets.MoCo(queue=0), "queue must be at least 1 key, got 0"),
        (lambda: dualnets.MoCo(ema_decay=1.1), r"ema_decay must be in 0..1, got 1.1"),
        (lambda: dualnets.MoCo(temperature=0.0), "temperature must be above 0 and finite, got 0.0"),
        (lambda: dualnets.SwAV(prototypes=1), "prototypes must be at least 2, got 1"),
        (
            lambda: dualnets.SwAV(temperature=-1.0),
            "temperature must be above 0 and finite, got -1.0",
        ),
        (lambda: dualnets.SwAV(epsilon=0.0), "epsilon must be above 0 and finite, got 0.0"),
        (lambda: dualnets.SwAV(iterations=0), "iterations must be at least 1, got 0"),
        (lambda: dualnets.SwAV(frozen_steps=-1), "frozen_steps must be at least 0, got -1"),
        (lambda: dualnets.SwAV(queue_from=5), "queue_from=5 needs a queue, got queue=0"),
        (lambda: dualnets.PIRL(weight=1.5), r"weight must be in 0..1, got 1.5"),
        (lambda: dualnets.PIRL(bank_momentum=-0.1), r"bank_momentum must be in 0..1, got -0.1"),
        (
            lambda: dualnets.PIRL(temperature=float("nan")),
            "temperature must be above 0 and finite, got nan",
        ),
        (lambda: dualnets.PIRL(negatives=0), "negatives must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "samples", "message"),
    [
        (dualnets.MoCo(queue=7), None, "at least the 8 keys of a step .batch 8, symmetric=False."),
        (dualnets.MoCo(queue=15, symmetric=True), None, "at least the 16 keys of a step"),
        (dualnets.SwAV(prototypes=9), None, "9 prototypes are more than a batch of 8 and a queue "
         "of 0 can fill"),
        (dualnets.SwAV(prototypes=17, queue=8), None, "17 prototypes are more than a batch of 8"),
        (dualnets.SwAV(prototypes=4, queue=7), None, "at least a batch of 8, got queue=7"),
        (dualnets.PIRL(negatives=4), None, "needs a fixed data set: give samples="),
        (dualnets.PIRL(negatives=20), 20, "20 negatives need more than 20 samples"),
        (dualnets.PIRL(negatives=4, projector=dualnets.Head((3,)), view_projector=dualnets.Head()),
         20, "projector has 3, view_projector 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_any_work(method, samples, message, monkeypatch):
    for rows in (FreshData, FixedData):
        monkeypatch.setattr(rows, "draw", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(ValueError, match=message):
        dualnets.train(
            network(), method, TREES, augment=hltm.keep_root(), steps=2, batch=BATCH, seed=SEED,
            optimizer=dualnets.SGD(0.1), samples=samples,
        )  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [
        dualnets.MoCo(queue=8, projector=dualnets.Head((3,))),
        dualnets.SwAV(prototypes=5, queue=8),
        dualnets.PIRL(negatives=5),
    ],
    ids=lambda method: type(method).__name__,
)
def test_losses_in_half_precision_leave_the_state_in_its_own(method):
    _, plain = progresses(method, 3, network(dtype=torch.float32), samples=20)
    _, found = progresses(method, 3, network(dtype=torch.float32), samples=20, precision="bfloat16")
    for name, tensor in found[-1].state.items():
        assert tensor.dtype == plain[-1].state[name].dtype, name
        assert tensor.isfinite().all(), name
    torch.testing.assert_close(found[-1].losses, plain[-1].losses, rtol=0.1, atol=0.1)
    assert not found[-1].losses.equal(plain[-1].losses)


LEARNERS = {  # and the loss of an embedding that is a single point
    "moco": (dualnets.MoCo(queue=128, ema_decay=0.9, temperature=0.2), None, math.log(129)),
    "swav": (dualnets.SwAV(prototypes=8), None, math.log(8)),
    "pirl": (
        dualnets.PIRL(negatives=128, temperature=0.2),
        1024,
        math.log(129) + 128 * math.log(129 / 128),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_the_root_emerges_where_views_share_it_and_not_where_they_share_nothing(name):
    method, samples, collapsed = LEARNERS[name]
    trees = hltm.symmetric_binary(depth=3, members=4, seed=0)
    draw = trees.sample(2000, seed=9)
    root = draw.root.double()[..., None]

    def alignment(snapshot):
        """The mean over members of the root's |correlation| with the best unit."""
        with torch.no_grad():
            z = method.embedding(snapshot.network, snapshot.state, draw.leaves).double()
        z, r = z - z.mean(1, keepdim=True), root - root.mean(1, keepdim=True)
        size = (z.square().sum(1) * r.square().sum(1)).sqrt().clamp(min=1e-12)
        return float(((z * r).sum(1) / size).abs().amax(-1).mean())

    def trained(augment):
        """Alignment before and after, and the loss."""
        net = network(trees, units=6, dtype=torch.float32)
        first, last = dualnets.trajectory(
            net, method, trees, augment=augment, steps=200, snapshots=[0, 200], batch=64,
            optimizer=dualnets.Adam(0.01), seed=2, samples=samples,
        )  # fmt: skip
        return alignment(first), alignment(last), float(last.losses.mean())

    start, end, loss = trained(hltm.keep_root())
    _, control, control_loss = trained(hltm.keep_nothing())
    ceiling = float(trees.ceiling(trees.root, leaves="all").value.mean())
    assert (end - start) / (ceiling - start) > 0.5
    assert end > control
    # views that share nothing can do no better than a point
    assert loss < collapsed - 0.1 < control_loss
