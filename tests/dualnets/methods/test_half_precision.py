"""Networks of float16 and bfloat16: every method trains them, dead outputs included."""

import pytest
import torch

import dualnets
import hltm
from dualnets import Head
from dualnets.methods import discover

TREES = hltm.symmetric_binary(depth=2, polarity=0.9, members=2, seed=0)
HIERARCHIES = hltm.random_hierarchy(v=3, m=1, s=2, L=2, classes=3, members=2, seed=0)
HALVES = (torch.float16, torch.bfloat16)
METHODS = {
    "simclr": dualnets.SimCLR(),
    "simclr, ntxent": dualnets.SimCLR(dualnets.NTXent(), projector=Head((4,))),
    "byol": dualnets.BYOL(projector=Head((4, 3), norm=dualnets.BatchNorm()), predictor=Head((3,))),
    "byol, bare": dualnets.BYOL(projector=Head(), predictor=None),
    "byol, direct": dualnets.BYOL(projector=Head(), predictor=dualnets.DirectPredictor()),
    "moco": dualnets.MoCo(queue=16),
    "swav": dualnets.SwAV(prototypes=5, queue=16),
    "pirl": dualnets.PIRL(negatives=8),
    "barlow-twins": dualnets.BarlowTwins(projector=Head()),
    "vicreg": dualnets.VICReg(projector=Head()),
    "simsiam": dualnets.SimSiam(projector=Head(), predictor=Head()),
    "supervised": dualnets.Supervised(),
    "masked-prediction": dualnets.MaskedPrediction(),
    "denoising": dualnets.Denoising(),
    "latent-prediction": dualnets.LatentPrediction(projector=Head(), predictor=Head((3,))),
    "teacher-student": dualnets.TeacherStudent(dualnets.tree_network(TREES, units=3, seed=9)),
}


def trained(method, dtype, *, dead=True, steps=3, optimizer=None, **options):
    keeps = isinstance(method, dualnets.Supervised | dualnets.TeacherStudent)
    augment = hltm.resample_leaves(0.0) if keeps else hltm.keep_root()
    trees = TREES
    if isinstance(
        method, dualnets.MaskedPrediction
    ):  # of leaves that a network can read as missing
        trees, augment = HIERARCHIES, hltm.drop_leaves(0.5)
    network = dualnets.tree_network(trees, units=3, seed=1, dtype=dtype, **options)
    if dead:  # all outputs of member 1 are 0, where the slope of a direction is 1e12
        network.weights[-1].data[1] = 0
    final = dualnets.train(
        network, method, trees, steps=steps, batch=8, seed=2,
        augment=augment,
        samples=32 if isinstance(method, dualnets.PIRL) else None,
        optimizer=dualnets.SGD(lr=0.05) if optimizer is None else optimizer,
    )  # fmt: skip
    return network, final


def finite(final) -> bool:
    tensors = [final.losses, *final.network.parameters(), *final.network.buffers()]
    tensors += final.state.values()
    return all(torch.isfinite(own).all() for own in tensors)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_it(name, dtype):
    network, final = trained(METHODS[name], dtype)
    assert final.frozen_at.eq(-1).all()
    assert finite(final)
    assert final.losses.dtype == torch.float32
    kept = [own for own in final.state.values() if own.is_floating_point()]
    assert all(own.dtype == torch.float32 for own in kept if name != "teacher-student")
    assert {own.dtype for own in final.network.parameters()} == {dtype}
    assert not torch.equal(final.network.weights[0][0], network.weights[0][0])
    # the same as in float32, as far as 16 bits allow
    _, precise = trained(METHODS[name], torch.float32)
    torch.testing.assert_close(final.losses[0], precise.losses[0], rtol=0.1, atol=0.05)


def test_no_method_is_left_out():
    others = {"next-leaf"}  # of transformers alone
    assert set(discover()) == {name.partition(",")[0] for name in METHODS} | others


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "options",
    [
        {"normalize": True},
        {"norm": dualnets.BatchNorm(affine=True), "bias": True},
        {"norm": dualnets.GroupNorm(groups=1), "weight_standardization": True},
    ],
    ids=str,
)
def test_normalisations_do_not_divide_by_zero(options, dtype):
    _, final = trained(dualnets.MoCo(queue=16), dtype, **options)
    assert final.frozen_at.eq(-1).all()
    assert finite(final)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "optimizer",
    [
        dualnets.SGD(lr=0.05, momentum=0.9, clip=1.0),
        dualnets.Adam(lr=0.01),
        dualnets.AdamW(lr=0.01),
        dualnets.LARS(lr=0.1),
    ],
    ids=lambda own: type(own).__name__,
)
def test_optimisers_do_not_divide_by_zero(optimizer, dtype):
    """Unused weights have a gradient of 0, whose squares and 1e-8 are all 0 in float16."""
    _, final = trained(dualnets.SimCLR(), dtype, optimizer=optimizer)
    assert final.frozen_at.eq(-1).all()
    assert finite(final)


@pytest.mark.parametrize(
    "method", [METHODS["byol, bare"], dualnets.MoCo(queue=16)], ids=["byol", "moco"]
)
def test_slow_copies_move_by_less_than_16_bits_can_hold(method):
    """A step of 1 % of 1 % of the way is no step at all in bfloat16."""
    one, many = (
        trained(method, torch.bfloat16, dead=False, steps=steps)[1].state for steps in (1, 8)
    )
    slow = [name for name in one if name.startswith(("target.network", "key.weights"))]
    assert slow
    for name in slow:
        assert not torch.equal(one[name], many[name])
        assert not torch.equal(many[name], many[name].bfloat16().float())
