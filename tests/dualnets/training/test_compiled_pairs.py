"""Compiled training on losses of pairs against the eager one, over networks and losses."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualnets
import hltm
from dualnets.training.compiled import pairs as compiled

LOSSES = [
    dualnets.Simple(),
    dualnets.Triplet(0.2, 0.5),
    dualnets.InfoNCE(0.1),
    dualnets.InfoNCE(0.3, 3),
]


def both(network, trees, loss, steps, batch, optimizer, monkeypatch):
    """The compiled training and the eager one; a number or list for an optimiser is the rate of SGD."""
    if not isinstance(optimizer, dualnets.optim.optimizers.Optimizer):
        optimizer = dualnets.SGD(lr=optimizer)
    found = []
    for supported in (compiled.supported_kernel, lambda network, loss: None):
        with monkeypatch.context() as patch:
            patch.setattr(compiled, "supported_kernel", supported)
            found.append(
                dualnets.train(
                    network,
                    dualnets.SimCLR(loss),
                    trees,
                    augment=hltm.resample_leaves(0.3).then(hltm.keep_level(1)),
                    steps=steps,
                    batch=batch,
                    optimizer=optimizer,
                    seed=3,
                )
            )
    return found


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    depth=st.integers(1, 3),
    branching=st.integers(1, 4),
    units=st.integers(1, 9),
    batch=st.integers(2, 40),
    loss=st.sampled_from(LOSSES),
    dense=st.booleans(),
    bias=st.booleans(),
    normalize=st.booleans(),
)
def test_gives_the_eager_numbers(
    monkeypatch, depth, branching, units, batch, loss, dense, bias, normalize
):
    trees = hltm.symmetric_binary(depth=depth, branching=branching, members=2, seed=0)
    make = dualnets.mlp if dense else dualnets.tree_network
    network = make(trees, units=units, seed=1, bias=bias, normalize=normalize, dtype=torch.float64)
    fast, slow = both(network, trees, loss, 4, batch, [0.05, 0.1], monkeypatch)
    for a, b in zip(fast.network.parameters(), slow.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(fast.losses, slow.losses, rtol=1e-9, atol=1e-11)
    assert fast.frozen_at.equal(slow.frozen_at)


@pytest.mark.parametrize("loss", LOSSES[2:], ids=repr)
def test_leaves_of_many_states_and_shuffled_ones_are_read_as_the_eager_path_reads_them(
    loss, monkeypatch
):
    many = hltm.balanced(depth=2, branching=2, cardinality=3, members=2, seed=0)
    mixed = hltm.balanced(depth=2, branching=3, cardinality=(4, 4, 5), members=2, seed=0)
    pairs = hltm.symmetric_binary(depth=3, members=2, seed=0)
    options = {"units": 5, "seed": 1, "bias": True, "normalize": True, "dtype": torch.float64}
    for network, trees in (
        (dualnets.tree_network(many, **options), many),
        (dualnets.mlp(many, **options), many),
        (dualnets.tree_network(mixed, **options), mixed),
        (dualnets.shuffled_tree(many, **options), many),
        (dualnets.shuffled_tree(pairs, **options), pairs),
    ):
        assert compiled.supported_kernel(network, loss) is not None
        fast, slow = both(network, trees, loss, 4, 12, [0.05, 0.1], monkeypatch)
        for a, b in zip(fast.network.parameters(), slow.network.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(fast.losses, slow.losses, rtol=1e-9, atol=1e-11)


def test_single_precision_agrees_to_single_precision(monkeypatch):
    trees = hltm.symmetric_binary(depth=3, members=3, seed=0)
    network = dualnets.tree_network(trees, units=7, seed=1, normalize=True)
    fast, slow = both(network, trees, dualnets.InfoNCE(0.1), 10, 32, 0.1, monkeypatch)
    for a, b in zip(fast.network.parameters(), slow.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_does_not_matter():
    trees = hltm.symmetric_binary(depth=3, members=5, seed=0)
    network = dualnets.tree_network(trees, units=4, seed=1)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            final = dualnets.train(
                network, dualnets.SimCLR(), trees, augment=hltm.keep_root(), steps=5, batch=16,
                optimizer=dualnets.SGD(0.1), seed=3,
            )  # fmt: skip
            found.append(list(final.network.parameters()))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize("loss", [dualnets.NTXent(), dualnets.BatchwiseNCE()], ids=repr)
def test_losses_of_whole_batches_are_not_supported(loss):
    network = dualnets.tree_network(hltm.symmetric_binary(depth=2, seed=0), units=2, seed=0)
    assert compiled.supported_kernel(network, loss) is None
    assert compiled.supported_kernel(network, dualnets.InfoNCE()) is not None
    assert compiled.supported_kernel(network.half(), dualnets.InfoNCE()) is None
    assert compiled.supported_kernel(torch.nn.Linear(2, 2), dualnets.InfoNCE()) is None


def test_a_loss_that_differs_is_found_out(monkeypatch):
    """A broken twin: the eager path computes twice the loss that the kernel has."""

    class Broken(dualnets.InfoNCE):
        def __call__(self, anchor, positive, negatives):
            return 2 * super().__call__(anchor, positive, negatives)

    trees = hltm.symmetric_binary(depth=2, members=2, seed=0)
    network = dualnets.tree_network(trees, units=3, seed=1, dtype=torch.float64)
    monkeypatch.setattr(compiled, "LOSSES", (*compiled.LOSSES, Broken))
    fast, slow = both(network, trees, Broken(0.1), 2, 16, 0.1, monkeypatch)
    worst = max(
        float((a - b).detach().abs().max())
        for a, b in zip(fast.network.parameters(), slow.network.parameters(), strict=True)
    )
    assert worst > 1e-3


COSINE = dualnets.Schedule("cosine", warm_up=3, final=0.1)
OPTIMIZERS = [  # a large epsilon, since Adam enlarges the rounding of small gradients
    dualnets.SGD([0.05, 0.1], schedule=COSINE),
    dualnets.SGD(0.05, momentum=[0.9, 0.0], weight_decay=[0.1, 0.0], clip=[0.01, float("inf")]),
    dualnets.SGD(0.05, momentum=0.9, nesterov=True),
    dualnets.Adam([0.01, 0.02], weight_decay=0.1, beta1=[0.9, 0.5], clip=0.1, epsilon=1e-2),
    dualnets.AdamW([0.01, 0.02], schedule=COSINE, epsilon=1e-2),
    dualnets.LARS(0.5, weight_decay=[0.1, 0.0], trust=[0.1, 0.2], clip=0.1),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[3]], ids=repr)
def test_gives_the_eager_numbers_with_any_optimizer(optimizer, loss, monkeypatch):
    trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
    network = dualnets.tree_network(trees, units=4, seed=1, bias=True, dtype=torch.float64)
    calls = []
    train = compiled.train
    monkeypatch.setattr(compiled, "train", lambda *given: calls.append(1) or train(*given))
    for steps, close in ((1, 1e-12), (20, 1e-9)):
        fast, slow = both(network, trees, loss, steps, 12, optimizer, monkeypatch)
        assert len(calls) == 2  # once to compile it, and once to train
        calls.clear()
        for a, b in zip(fast.network.parameters(), slow.network.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=close, atol=close)
        assert fast.frozen_at.equal(slow.frozen_at)


@pytest.mark.parametrize(
    "optimizer",
    [dualnets.SGD([0.1, 1e200], momentum=0.9), dualnets.AdamW([0.1, 1e300]), dualnets.LARS([0.1, 1e308])],
    ids=repr,
)  # fmt: skip
def test_a_frozen_member_keeps_its_last_finite_numbers(optimizer, monkeypatch):
    trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
    network = dualnets.tree_network(trees, units=4, seed=1, bias=True, dtype=torch.float64)
    fast, slow = both(network, trees, dualnets.Simple(), 9, 12, optimizer, monkeypatch)
    assert fast.frozen_at.equal(slow.frozen_at)
    assert (fast.frozen_at >= 0).tolist() == [False, True]
    stopped = both(
        network, trees, dualnets.Simple(), int(fast.frozen_at[1]), 12, optimizer, monkeypatch
    )
    for own, before in zip(fast.network.parameters(), stopped[0].network.parameters(), strict=True):
        assert own[1].equal(before[1])
        assert own[1].isfinite().all()
