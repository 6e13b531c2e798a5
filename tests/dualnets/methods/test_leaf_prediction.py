"""Methods that predict leaves: the exact posterior's loss, BYOL as a special case, and what is refused."""

import dataclasses
import re

import pytest
import torch
from leaf_cases import STATES, TREE, causal, transformer
from torch import nn

import dualnets
import hltm
from dualnets import BatchNorm, Denoising, Head, LatentPrediction, MaskedPrediction, NextLeaf
from dualnets.methods.protocol import Batch, TrainContext

F64 = {"dtype": torch.float64, "device": "cpu"}
SETUP = TrainContext(TREE, seed=5, steps=10, batch=4)
HIDDEN = hltm.drop_leaves(0.4)


def batch_of(tree=TREE, *, stacked=True, rows=4, seed=1):
    """A view and the sample; of member 1 the view misses nothing."""
    draw = tree.sample(rows, seed=seed)
    (view,) = tree.views(draw, HIDDEN, count=1)
    shown = view.leaves.clone()
    if stacked:
        shown[1] = draw.leaves[1]
    assert (shown < 0).any()
    # as training has it: the largest number of the dtype where a leaf is missing
    return Batch(torch.cat([shown.to(torch.uint8), draw.leaves], dim=-2), rows)


class Exact(nn.Module):
    """Log-probabilities of every leaf's states given the leaves that are shown, at its position."""

    causal, stacked, depth = False, True, 1

    def __init__(self, tree):
        super().__init__()
        self.tree, self.members, self.inputs = tree, tree.members, len(tree.leaves)
        self.unused = nn.Parameter(torch.zeros(len(tree.members), 1, dtype=torch.float64))

    def positions(self, leaves):
        counts = torch.tensor(STATES)
        given = leaves.long()
        given = torch.where((given < 0) | (given >= counts), -1, given)
        found = self.tree.posterior(given, nodes=self.tree.leaves).marginals
        return found.clamp(min=1e-300).log()

    def forward(self, leaves):
        return self.positions(leaves).mean(2)


def exact_state(network):
    state = MaskedPrediction().init(network, SETUP)
    with torch.no_grad():
        state["classifier.0.weight"].copy_(torch.eye(max(STATES), dtype=torch.float64))
        state["classifier.0.bias"].zero_()
    return state


def test_the_loss_of_the_posterior_is_its_cross_entropy():
    batch, network = batch_of(), Exact(TREE)
    state = exact_state(network)
    losses, carried = MaskedPrediction().loss(network, state, batch)
    assert carried == {}
    view, sample = batch.leaves.split(4, dim=1)
    losses, log_posterior = losses.detach(), network.positions(view)
    for s in (0, 2):
        each = [
            -float(log_posterior[s, i, x, int(sample[s, i, x])])
            for i in range(4)
            for x, many in enumerate(STATES)
            if view[s, i, x] >= many
        ]
        assert abs(float(losses[s]) - sum(each) / len(each)) < 1e-12
    assert losses[1] == 0


@pytest.mark.parametrize("method", [MaskedPrediction(), LatentPrediction(Head((3,)), Head((3,)))])
def test_a_member_whose_batch_misses_nothing_has_no_loss_and_no_gradient(method):
    network = transformer(TREE, **F64)
    state = method.init(network, SETUP)
    losses, _ = method.loss(network, state, batch_of())
    assert losses[1] == 0
    assert (losses[[0, 2]] > 0.1).all()
    trained = [*network.parameters(), *(t for t in state.values() if t.requires_grad)]
    for gradient in torch.autograd.grad(losses.sum(), trained):
        assert (gradient[1] == 0).all()
        assert (gradient[0] != 0).any()


@pytest.mark.parametrize("per_leaf", [False, True])
def test_states_that_a_leaf_does_not_have_have_no_probability(per_leaf):
    network, method = transformer(TREE, **F64), Denoising(per_leaf=per_leaf)
    logits = method.logits(
        network, method.init(network, SETUP), Batch(TREE.sample(5, seed=1).leaves, 5)
    )
    assert logits.shape == (3, 5, 4, 4)
    finite = logits.isfinite().all(1).all(0)  # (X, K)
    assert finite.sum(1).tolist() == list(STATES)
    assert (logits.softmax(-1)[:, :, [0, 2], 3] == 0).all()


@pytest.mark.parametrize(
    "method",
    [MaskedPrediction(), NextLeaf(), LatentPrediction(target_layers=1)],
    ids=lambda own: type(own).__name__,
)
def test_a_network_without_a_member_axis_is_the_first_member(method):
    make = causal if isinstance(method, NextLeaf) else transformer
    tree = TREE[0]
    whole, alone = make(TREE, **F64), make(tree, **F64)
    batch = batch_of()
    single = batch._replace(leaves=batch.leaves[0])
    if isinstance(method, NextLeaf):
        batch, single = (b._replace(leaves=b.leaves[..., 4:, :]) for b in (batch, single))
    expected, _ = method.loss(whole, method.init(whole, SETUP), batch)
    setup = SETUP._replace(source=tree)
    found, _ = method.loss(alone, method.init(alone, setup), single)
    torch.testing.assert_close(found, expected[:1], rtol=0, atol=1e-12)


BYOL_SETTINGS = {
    "projector": Head((6, 3), norm=BatchNorm()), "predictor": Head((5, 3)), "ema_decay": 0.8,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"normalized": False, "target": "online"}], ids=str)
def test_with_one_output_it_is_byol_from_the_view_to_the_sample(changes):
    """Loss, gradients and state after updates, on views that differ from their samples."""
    ours = LatentPrediction(**BYOL_SETTINGS, **changes)
    theirs = dualnets.BYOL(**BYOL_SETTINGS, **changes, symmetric=False)
    network = dualnets.mlp(TREE, units=4, bias=True, seed=1, dtype=torch.float64)
    found = []
    for method in (ours, theirs):
        state, out = method.init(network, SETUP), []
        for step in range(2):
            batch = batch_of(seed=step)
            losses, carried = method.loss(network, state, batch)
            out += [losses, *torch.autograd.grad(losses.sum(), list(network.parameters()))]
            with torch.no_grad():
                state = method.after_step(network, state, carried, step, SETUP)
        found.append((out, state))
    (a, ours_after), (b, theirs_after) = found
    assert [*ours_after] == [*theirs_after]
    for x, y in zip([*a, *ours_after.values()], [*b, *theirs_after.values()], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_trained_on_views_that_miss_nothing_it_is_byol():
    ours = LatentPrediction(**BYOL_SETTINGS)
    theirs = dualnets.BYOL(**BYOL_SETTINGS, symmetric=False)
    final = [
        dualnets.train(
            dualnets.mlp(TREE, units=4, bias=True, seed=1, dtype=torch.float64), method, TREE,
            augment=hltm.resample_leaves(0.0), steps=10, batch=8, seed=2,
            optimizer=dualnets.SGD(0.05, momentum=0.9),
        )
        for method in (ours, theirs)
    ]  # fmt: skip
    torch.testing.assert_close(final[0].losses, final[1].losses, rtol=0, atol=1e-12)
    for x, y in zip(*(f.network.parameters() for f in final), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def train(network, method, augment, trees=TREE):
    return dualnets.train(
        network, method, trees, augment=augment, steps=1, batch=4, seed=0,
        optimizer=dualnets.SGD(0.1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "make", "augment", "message"),
    [
        (MaskedPrediction(), transformer, hltm.resample_leaves(0.5),
         "leave out some, e.g. hltm.drop_leaves(0.3), got resample-leaves:0.5"),
        (LatentPrediction(), transformer, hltm.keep_root(), "leave out some, e.g. hltm.drop_leaves"),
        (NextLeaf(), causal, HIDDEN, "augment must leave out none, got drop-leaves:0.4"),
        (NextLeaf(), transformer, hltm.keep_root(), "a causal network, e.g. dualnets.transformer(trees"),
        (NextLeaf(), None, hltm.keep_root(), "got BlockNetwork that is not causal"),
        (MaskedPrediction(per_leaf=True), None, HIDDEN, "per_leaf=True needs a network with outputs"),
        (LatentPrediction(target_layers=2), transformer, HIDDEN, "at most the network's 1 layers, got 2"),
        (LatentPrediction(target_layers=1), None, HIDDEN, "target_layers=1 needs a network with outputs"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_any_work(method, make, augment, message):
    network = dualnets.mlp(TREE, units=4, seed=1) if make is None else make(TREE, **F64)
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        train(network, method, augment)
    assert "\n" not in str(refused.value)


def test_values_of_another_type_are_refused():
    with pytest.raises(TypeError, match="per_leaf must be True or False, got 1"):
        MaskedPrediction(per_leaf=1)
    with pytest.raises(TypeError, match=r"rates must be such as dualnets\.Group"):
        Denoising(rates=2.0)
    with pytest.raises(ValueError, match="target_layers must be at least 0, got -1"):
        LatentPrediction(target_layers=-1)
    with pytest.raises(TypeError, match="symmetric"):
        LatentPrediction(symmetric=True)
    assert "symmetric" not in {item.name for item in dataclasses.fields(LatentPrediction)}


# evaluation


def test_the_posterior_attains_the_exact_bayes_loss():
    """Enumeration of all samples and masks; a uniform predictor is far above it."""
    tree = TREE[:1]
    network, rate = Exact(tree), 0.4
    grid = torch.cartesian_prod(*(torch.arange(k) for k in STATES))
    log_p = tree.posterior(grid[None], nodes=0).log_evidence[0]
    total = count = 0.0
    for mask in torch.cartesian_prod(*[torch.arange(2).bool()] * 4):
        chance = rate ** int(mask.sum()) * (1 - rate) ** int((~mask).sum())
        shown = torch.where(mask, 255, grid)[None]
        log_q = network.positions(shown)[0].gather(-1, grid[..., None])[..., 0]
        total -= chance * float((log_p.exp()[:, None] * log_q * mask).sum())
        count += chance * int(mask.sum())
    given = {"augment": hltm.drop_leaves(rate), "seed": 3, "batch": 128}
    state = {n: t[:1].detach() for n, t in exact_state(network).items()}
    found = dualnets.evaluate_loss(network, MaskedPrediction(), state, tree, samples=2560, **given)
    assert found.value.shape == found.standard_error.shape == (1,)
    assert 0 < found.standard_error < 0.01
    assert abs(found.value - total / count) < 3.3 * found.standard_error  # p = 1e-3
    state["classifier.0.weight"] = torch.zeros_like(state["classifier.0.weight"])
    broken = dualnets.evaluate_loss(network, MaskedPrediction(), state, tree, samples=2560, **given)
    assert abs(broken.value - total / count) > 10 * found.standard_error


def test_fresh_rows_are_those_of_another_training_and_networks_stay_as_they_are():
    network = transformer(TREE, **F64)
    method = MaskedPrediction()
    state = method.init(network, SETUP._replace(seed=7))
    before = [p.detach().clone() for p in network.parameters()]
    given = {"augment": HIDDEN, "batch": 8, "seed": 7}
    found = dualnets.evaluate_loss(network, method, state, TREE, samples=17, **given)
    # the first batch's loss is that of the first step of a training with this seed
    first = dualnets.train(network, method, TREE, steps=1, optimizer=dualnets.SGD(1e-12), **given)
    second = 2 * found.value - first.losses
    spread = (torch.stack([first.losses, second])).std(0) / 2**0.5
    assert found.standard_error.dtype == torch.float64
    torch.testing.assert_close(found.standard_error, spread, rtol=1e-9, atol=1e-12)
    assert all(map(torch.equal, before, network.parameters()))
    with pytest.raises(ValueError, match="at least 2 batches, got 15 samples in batches of 8"):
        dualnets.evaluate_loss(network, method, state, TREE, samples=15, **given)
    with pytest.raises(ValueError, match="state must be that of"):
        dualnets.evaluate_loss(network, method, {}, TREE, samples=17, **given)


def test_networks_are_evaluated_with_their_running_moments_which_stay():
    network = dualnets.mlp(TREE, units=4, norm=BatchNorm(), seed=1, dtype=torch.float64)
    method = MaskedPrediction()
    state = method.init(network, SETUP)
    given = {"augment": HIDDEN, "batch": 8, "seed": 7, "samples": 16}
    first = dualnets.evaluate_loss(network, method, state, TREE, **given)
    again = dualnets.evaluate_loss(network, method, state, TREE, **given)
    assert again.value.equal(first.value)
    for buffer in network.buffers():
        buffer += 1
    moved = dualnets.evaluate_loss(network, method, state, TREE, **given)
    assert (moved.value != first.value).all()
    assert network.training
