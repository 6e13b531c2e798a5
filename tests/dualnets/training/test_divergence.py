"""A member that diverges keeps its last finite numbers: network, heads, target, moments and queue."""

import pytest
from leaf_cases import TREE

import dualnets
import hltm
from dualnets.training import steps, trajectory
from dualnets.training.steps import train_steps_eager

TREES = hltm.symmetric_binary(depth=2, members=2, seed=0)
HEAD = dualnets.Head((4, 3), norm=dualnets.BatchNorm())
METHODS = {
    "simclr": dualnets.SimCLR(dualnets.Simple()),
    "ntxent": dualnets.SimCLR(dualnets.NTXent()),
    "byol": dualnets.BYOL(HEAD, HEAD, ema_decay=0.9),
    "byol-free": dualnets.BYOL(HEAD, HEAD, normalized=False),
    "byol-direct": dualnets.BYOL(dualnets.Head((3,)), dualnets.DirectPredictor(), normalized=False),
    "simsiam": dualnets.SimSiam(HEAD, HEAD),
    "moco": dualnets.MoCo(queue=16, projector=HEAD),
    "swav": dualnets.SwAV(prototypes=4, queue=16, projector=HEAD),
    "pirl": dualnets.PIRL(negatives=5),
    "barlow": dualnets.BarlowTwins(HEAD),
    "vicreg": dualnets.VICReg(HEAD),
    "supervised": dualnets.Supervised(),
}
OPTIMIZERS = {
    "sgd": dualnets.SGD,
    "momentum": lambda lr: dualnets.SGD(lr, momentum=0.9, weight_decay=0.1),
    "adam": dualnets.Adam,
    "adamw": dualnets.AdamW,
    "lars": lambda lr: dualnets.LARS(lr, weight_decay=0.1),
}


NETWORKS = {  # that read leaves of several states
    "transformer": lambda trees: dualnets.transformer(
        trees, width=4, layers=1, heads=2, mlp_width=5, seed=1
    ),
    "causal": lambda trees: dualnets.transformer(
        trees, width=4, layers=1, heads=2, mlp_width=5, seed=1, causal=True
    ),
    "conv_sequence": lambda trees: dualnets.conv_sequence(trees, width=4, seed=1),
    "one_hot": lambda trees: dualnets.mlp(
        trees, units=4, seed=1, one_hot=True, norm=dualnets.BatchNorm()
    ),
}
PREDICTING = {
    "masked": (dualnets.MaskedPrediction(), hltm.drop_leaves(0.4), ("transformer", "one_hot")),
    "next": (dualnets.NextLeaf(), hltm.resample_leaves(0.0), ("causal",)),
    "denoise": (dualnets.Denoising(), hltm.flip_leaves(0.2), ("conv_sequence", "one_hot")),
    "latent": (
        dualnets.LatentPrediction(HEAD, HEAD, normalized=False), hltm.drop_leaves(0.4),
        ("transformer", "one_hot"),
    ),
    "byol-one-hot": (METHODS["byol-free"], hltm.resample_leaves(0.0), ("transformer", "one_hot")),
}  # fmt: skip


def finals(method, optimizer, norm=None, network=None, augment=None, trees=TREES):
    """Every snapshot of a training of one healthy member and one with an absurd rate."""
    network = network or dualnets.tree_network(trees, units=3, seed=1, bias=True, norm=norm)
    return [
        *trajectory.trajectory(
            network, method, trees, augment=augment or hltm.resample_leaves(0.0), steps=6, batch=16,
            optimizer=optimizer, seed=2, samples=32, snapshots=range(7),
        )
    ]  # fmt: skip


def tensors(snapshot, member):
    named = {**dict(snapshot.network.named_parameters()), **dict(snapshot.network.named_buffers())}
    named |= {f"state.{name}": own for name, own in snapshot.state.items()}
    return {name: own[member].detach() for name, own in named.items()}


def check(method, make, rates, norm=None):
    for rate in rates:
        check_finite(finals(METHODS[method], make((0.01, rate)), norm), rate)


COMPILED_FOR_LONG = ("moco", "pirl", "swav")


def check_finite(found, rate):
    """Every number of the last snapshot is finite, and of a frozen member as it was before that step."""
    last = found[-1]
    assert last.frozen_at[0] == -1
    for member in range(2):
        for what, own in tensors(last, member).items():
            assert own.isfinite().all() or not own.is_floating_point(), (rate, what)
    at = int(last.frozen_at[1])
    if at >= 0:  # nothing of it changes afterwards
        kept = tensors(found[at + 1], 1)
        assert all(own.equal(kept[what]) for what, own in tensors(last, 1).items())


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        # every method and every optimiser in turn; all pairs if asked for
        pytest.param(
            method,
            optimizer,
            marks=[pytest.mark.slow]
            * ((i + j) % len(OPTIMIZERS) > 0 or method in COMPILED_FOR_LONG),
        )
        for i, method in enumerate(METHODS)
        for j, optimizer in enumerate(OPTIMIZERS)
    ],
)
def test_what_is_kept_is_finite(method, optimizer, monkeypatch):
    monkeypatch.setattr(trajectory, "train_steps", train_steps_eager)
    norm = dualnets.BatchNorm() if method == "simclr" else None
    check(method, OPTIMIZERS[optimizer], (1e6, 1e37), norm)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("method", ["simclr", "byol", "byol-free", "simsiam"])
def test_what_compiled_steps_keep_is_finite(method, optimizer):
    check(method, OPTIMIZERS[optimizer], (1e6, 1e18, 1e30, 1e38))


@pytest.mark.parametrize(
    "eager", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["recorded", "eager"]
)
@pytest.mark.parametrize(
    ("method", "network", "optimizer"),
    [
        pytest.param(
            method, network, optimizer,
            marks=[pytest.mark.slow] * ((network, optimizer) != (found[2][0], "sgd")),
        )
        for method, found in PREDICTING.items()
        for network in found[2]
        for optimizer in OPTIMIZERS
    ],
)  # fmt: skip
def test_what_methods_that_predict_keep_is_finite(method, network, optimizer, eager, monkeypatch):
    monkeypatch.setattr(steps, "WORTH_RECORDING", 10**9 if eager else 1)
    made, augment, _ = PREDICTING[method]
    trees = TREE[:2]
    for rate in (1e6, 1e30):
        own = NETWORKS[network](trees)
        check_finite(
            finals(made, OPTIMIZERS[optimizer]((0.01, rate)), None, own, augment, trees), rate
        )
