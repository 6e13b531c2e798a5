"""BYOL and SimSiam: targets, redraws, predictors that are set, and what is refused."""

import copy

import pytest
import torch
from plain_byol import plain_random_target

import dualnets
import hltm
from dualnets import BYOL, BatchNorm, DirectPredictor, GroupNorm, Head, LayerNorm, SimSiam
from dualnets.methods._cosine import cosine_similarity
from dualnets.methods.protocol import Batch, TrainContext, outputs, strip_prefix

TREES = hltm.symmetric_binary(depth=2, members=4, seed=0)[1:]
SETUP = TrainContext(TREES, 5, 10, 8)
SMALL = Head((6, 3), norm=BatchNorm())


def network(trees=TREES, **changes):
    given = {"units": 4, "bias": True, "seed": 1, "dtype": torch.float64} | changes
    return dualnets.tree_network(trees, **given)


def batch(trees=TREES):
    leaves = torch.cat([trees.sample(8, seed=seed).leaves for seed in (1, 2)], dim=-2)
    return Batch(leaves, 8)


def begun(method):
    net = network()
    return net, method.init(net, SETUP)


def test_a_random_target_has_the_initial_entries_elsewhere():
    net, state = begun(BYOL(SMALL, SMALL, target="random"))
    for s, member in enumerate(TREES.members):
        expected = plain_random_target(net, SETUP, member)
        for name, tensor in expected.items():
            assert state[f"target.network.{name}"][s].equal(tensor)
            assert not tensor.equal(net.get_parameter(name)[s])
    drawn = SMALL.init(4, seed=5, members=TREES.members, place=0, version=1, dtype=torch.float64)
    assert all(state[f"target.projector.{name}"].equal(t) for name, t in drawn.items())


def test_targets_begin_as_the_online_network_and_online_ones_keep_nothing():
    net, state = begun(BYOL(SMALL, SMALL))
    assert all(state[f"target.network.{name}"].equal(p) for name, p in net.named_parameters())
    assert all(
        t.equal(state[f"projector.{n}"]) for n, t in strip_prefix(state, "target.projector").items()
    )
    assert not any(t.requires_grad for t in strip_prefix(state, "target").values())
    assert strip_prefix(begun(BYOL(SMALL, SMALL, target="online"))[1], "target") == {}


def test_nothing_but_the_redrawn_layers_changes_at_a_redraw():
    method = BYOL(SMALL, SMALL, redraw_every=3, redraw="top", target="online")
    net, state = begun(method)
    for step in (0, 1, 2, 3):
        after = method.after_step(net, state, {}, step, SETUP)
        changed = {name for name in state if after[name] is not state[name]}
        expected = {"predictor.1.weight", "predictor.1.bias"} if step == 2 else set()
        assert changed == expected


def test_the_predictors_initial_weights_are_scaled_and_nothing_else():
    usual, scaled = (begun(BYOL(SMALL, SMALL, predictor_scale=scale))[1] for scale in (1.0, 0.25))
    for name, tensor in usual.items():
        weight = name.startswith("predictor.") and name.endswith(".weight")
        assert scaled[name].equal(tensor * 0.25 if weight else tensor)
        assert scaled[name].requires_grad == tensor.requires_grad
        assert scaled[name].is_leaf


def test_the_linear_theorys_predictor_is_the_root_of_its_inputs_correlation():
    rows = torch.randn(3, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = DirectPredictor(epsilon=0.0)
    after = own.after_step(own.init(4, rows), rows, step=0)
    weight = after["weight"]
    torch.testing.assert_close(
        weight @ weight, rows.transpose(1, 2) @ rows / 50, rtol=0, atol=1e-12
    )
    assert torch.linalg.eigvalsh(weight).min() > 0


def test_a_diverged_member_leaves_the_set_predictors_of_the_others_alone():
    own = DirectPredictor()
    rows = torch.randn(3, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bad = rows.clone()
    bad[1, 0, 0] = torch.nan
    ours, theirs = (own.after_step(own.init(4, rows), given, 0)["weight"] for given in (bad, rows))
    assert ours[[0, 2]].equal(theirs[[0, 2]])
    assert ours[1].isnan().all()


def test_simsiam_is_byol_of_the_online_network():
    heads = (SMALL, Head((2, 3)))
    for stop in (True, False):
        ours, theirs = SimSiam(*heads, stop), BYOL(*heads, target="online", stop_gradient=stop)
        net, state = begun(ours)
        simsiam, byol = (m.loss(net, state, batch())[0] for m in (ours, theirs))
        torch.testing.assert_close(byol, 4 + 4 * simsiam, rtol=0, atol=1e-12)
        gradients = [
            torch.autograd.grad(loss.sum(), list(net.parameters())) for loss in (simsiam, byol)
        ]
        for g, h in zip(*gradients, strict=True):
            torch.testing.assert_close(4 * g, h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", [None, BatchNorm(affine=True), LayerNorm(), GroupNorm(2)])
def test_passes_together_are_passes_alone_for_a_head(norm):
    head = Head((6, 4), norm=norm, last_norm=norm)
    parameters = head.init(5, seed=0, members=(0, 1), place=0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 21, 5, dtype=torch.float64, generator=generator).requires_grad_()
    together = head(parameters, rows, passes=3)
    alone = torch.cat([head(parameters, own) for own in rows.split(7, dim=1)], dim=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    weights = torch.randn(together.shape, dtype=torch.float64, generator=generator)
    gradients = [torch.autograd.grad((own * weights).sum(), rows)[0] for own in (together, alone)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_moments_and_cosines_are_torchs_own_with_their_gradients():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.randn(3, 5, 1, dtype=torch.float64, generator=generator)
    variance, mean = torch.var_mean(a, dim=-1, correction=0, keepdim=True)
    ours = BatchNorm.moments(a)
    theirs = (variance * weights).sum() + (mean * weights.flip(1)).sum()
    own = (ours.variance * weights).sum() + (ours.mean * weights.flip(1)).sum()
    same_with_gradient(own, theirs, a)
    cosines = [f(a, b) for f in (cosine_similarity, torch.nn.CosineSimilarity(dim=-1))]
    same_with_gradient(*((c * weights[..., 0]).sum() for c in cosines), a)
    zero = torch.zeros(1, 1, 3).requires_grad_()
    cosine_similarity(zero, torch.ones(1, 1, 3)).sum().backward()
    assert zero.grad.isfinite().all()


def same_with_gradient(own, theirs, at):
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(f, at, retain_graph=True)[0] for f in (own, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [BYOL(SMALL, SMALL), SimSiam(SMALL, SMALL)], ids=["byol", "ss"])
def test_embeddings_are_what_the_loss_compares(method):
    net, state = begun(method)
    leaves = TREES.sample(8, seed=1).leaves
    expected = SMALL(strip_prefix(state, "projector"), net(leaves))
    torch.testing.assert_close(method.embedding(net, state, leaves), expected)


@pytest.mark.parametrize("method", [BYOL(SMALL, SMALL), SimSiam(SMALL, SMALL)], ids=["byol", "ss"])
def test_a_network_without_an_axis_of_members_is_trained_as_one_of_many(method):
    alone, many = (
        dualnets.train(
            net, method, trees, augment=hltm.keep_root(), steps=3, batch=8,
            optimizer=dualnets.SGD(0.1), seed=5,
        )
        for net, trees in ((network(t), t) for t in (TREES[0], TREES[:1]))
    )  # fmt: skip
    for name, tensor in alone.state.items():
        torch.testing.assert_close(tensor, many.state[name])


class Counting(torch.nn.Module):
    """A network whose forward pass changes a buffer in place, as running statistics do."""

    stacked, members, inputs = True, TREES.members, 4

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(4, dtype=torch.float64).repeat(3, 1, 1))
        self.register_buffer("seen", torch.zeros(3, 1, dtype=torch.float64))
        self.register_buffer("passes", torch.zeros(3, dtype=torch.int64))

    def forward(self, leaves):
        self.seen += leaves.shape[1]
        self.passes += 1
        return leaves.double() @ self.weight


def test_running_statistics_follow_the_online_network_and_are_not_changed_in_place():
    net, method = Counting(), BYOL(SMALL, SMALL, ema_decay=0.75)
    state = method.init(net, SETUP)
    assert net.seen.eq(0).all()
    before = copy.deepcopy({n: t.detach() for n, t in state.items()})
    method.loss(net, state, batch())
    assert net.seen.eq(16).all()
    assert all(t.equal(before[n]) for n, t in state.items())
    after = method.after_step(net, state, {}, 0, SETUP)
    assert after["target.network.seen"].eq(4).all()
    assert after["target.network.passes"].eq(net.passes).all()
    assert outputs(net, batch(), strip_prefix(after, "target.network"))[0].shape == (3, 8, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "slow"}, "target must be one of ema, online, random, copy, got 'slow'"),
        ({"redraw": "middle"}, "redraw must be one of all, top, bottom, got 'middle'"),
        ({"ema_schedule": "linear"}, "ema_schedule must be one of constant, cosine"),
        ({"ema_decay": 1.5}, "ema_decay must be in 0..1, got 1.5"),
        ({"ema_decay": float("nan")}, "ema_decay must be in 0..1, got nan"),
        ({"predictor_lr": -1.0}, "predictor_lr must be at least 0 and finite, got -1"),
        ({"predictor_weight_decay": -0.1}, "predictor_weight_decay must be at least 0"),
        ({"redraw_every": -1}, "redraw_every must be at least 0 updates, got -1"),
        ({"predictor": None, "redraw_every": 5}, "redraw_every=5 needs a predictor that is"),
        ({"predictor": Head(), "redraw_every": 5}, "redraw_every=5 needs a predictor that is"),
        ({"predictor": DirectPredictor(), "predictor_lr": 2.0}, "predictor_lr=2.0 needs a pred"),
        ({"predictor_scale": 0.0}, "predictor_scale must be above 0 and finite, got 0.0"),
        ({"predictor": None, "predictor_scale": 0.5}, "predictor_scale=0.5 needs a predictor that"),
        ({"target": "copy"}, "target='copy' needs copy_every of at least 1 update, got 0"),
        ({"copy_every": 5}, "copy_every=5 needs target='copy', got 'ema'"),
        ({"target": "random", "ema_schedule": "cosine"}, "'cosine' needs target='ema'"),
        ({"stop_gradient": False}, "stop_gradient=False needs target='online'"),
    ],
)
def test_switches_without_what_they_belong_to_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BYOL(**settings)


@pytest.mark.parametrize("method", [BYOL(SMALL, Head((6, 5))), SimSiam(SMALL, Head((6, 5)))])
def test_a_predictor_of_another_width_is_refused_before_training(method):
    with pytest.raises(ValueError, match="as many outputs as the projector, 3, got 5"):
        method.check(network(), SETUP)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "square"}, "rule must be one of root, copy, got 'square'"),
        ({"rate": 1.0}, "rate must be in 0 <= rate < 1, got 1.0"),
        ({"epsilon": -1.0}, "epsilon must be at least 0 and finite, got -1.0"),
        ({"every": 0}, "every must be at least 1, got 0"),
    ],
)
def test_a_direct_predictor_refuses_what_it_cannot_do(settings, message):
    with pytest.raises(ValueError, match=message):
        DirectPredictor(**settings)
