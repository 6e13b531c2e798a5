"""Running moments of BatchNorms in heads: what evaluation goes by, and who keeps them."""

import pytest
import torch
from few import few
from torch import nn

import dualnets
import hltm
from dualnets import BYOL, SGD, BarlowTwins, BatchNorm, Head, MoCo, SimSiam, TeacherStudent, VICReg
from dualnets.methods.protocol import strip_prefix
from dualnets.networks.running_moments import RUNNING

TREES = hltm.symmetric_binary(depth=3, members=3, seed=0)
MEMBERS, INPUTS = (4, 7, 9), 5
SMALL = Head((6, 4), norm=BatchNorm())
DEEP = Head((6, 5, 4), norm=BatchNorm(momentum=0.3), last_norm=BatchNorm(affine=True))


def rows(batch: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(MEMBERS), batch, INPUTS, generator=generator, dtype=torch.float64)
    return 2 * drawn + 1


def initial(head):
    drawn = head.init(INPUTS, seed=3, members=MEMBERS, place=1, dtype=torch.float64)
    return drawn | head.init_running_stats(len(MEMBERS), rows(1, 0), inputs=INPUTS)


def after(head, parameters, batches, passes=1):
    for batch in batches:
        record = []
        head(parameters, batch, passes, record=record)
        parameters = parameters | head.update_running_stats(parameters, record)
    return parameters


def test_are_torchs_own_and_evaluation_goes_by_them():
    head = Head((6, 4), norm=BatchNorm(momentum=0.0), last_norm=BatchNorm(momentum=0.0))
    parameters = after(head, initial(head), [rows(9, seed) for seed in range(5)])
    held_out = rows(7, 99)
    ours = head(parameters, held_out, running=True)
    for s in range(len(MEMBERS)):
        layers = []
        for layer, width in enumerate(head.widths):
            linear = nn.Linear(INPUTS if layer == 0 else 6, width).double()
            linear.weight.data = parameters[f"{layer}.weight"][s, 0]
            linear.bias.data = parameters[f"{layer}.bias"][s, 0]
            layers += [linear, nn.BatchNorm1d(width, momentum=None, affine=False).double()]
            layers += [nn.ReLU()] if layer == 0 else []
        model = nn.Sequential(*layers)
        for seed in range(5):
            model(rows(9, seed)[s])
        for layer, norm in ((0, model[1]), (1, model[4])):
            for name, theirs in (("mean", norm.running_mean), ("variance", norm.running_var)):
                own = parameters[f"{layer}.{name}"][s, :, 0]
                torch.testing.assert_close(own, theirs, rtol=0, atol=1e-12)
        torch.testing.assert_close(ours[s], model.eval()(held_out[s]), rtol=0, atol=1e-12)
    assert parameters["0.batches"].tolist() == [5, 5, 5]


def test_a_norm_of_the_inputs_has_them_too():
    head, model = (
        Head((4,), input_norm=BatchNorm(momentum=0.0)),
        nn.BatchNorm1d(INPUTS, momentum=None),
    )
    parameters = after(head, initial(head), [rows(9, seed) for seed in range(3)])
    model = model.double().train()
    for seed in range(3):
        model(rows(9, seed)[1])
    torch.testing.assert_close(parameters["input.mean"][1, :, 0], model.running_mean)
    torch.testing.assert_close(parameters["input.variance"][1, :, 0], model.running_var)
    held_out = rows(7, 99)
    plain = {"0.weight": parameters["0.weight"][1:2], "0.bias": parameters["0.bias"][1:2]}
    expected = Head((4,))(plain, model.eval()(held_out[1])[None])
    torch.testing.assert_close(head(parameters, held_out, running=True)[1:2], expected)


def test_move_by_the_momentum_once_it_is_the_larger_step_and_once_for_all_passes():
    head = Head((4,), last_norm=BatchNorm(momentum=0.4))
    start, (a, b, c) = initial(head), (rows(8, seed) for seed in range(3))
    once = after(head, start, [torch.cat([a, b], 1)], passes=2)
    again = after(head, start, [torch.cat([b, a], 1)], passes=2)
    own = Head((4,))(start, torch.cat([a, b, c], 1))  # before the norm
    means = [x.mean(1) for x in own.split(8, 1)]
    variances = [x.var(1) for x in own.split(8, 1)]
    torch.testing.assert_close(once["0.mean"][..., 0], (means[0] + means[1]) / 2)
    torch.testing.assert_close(once["0.variance"][..., 0], (variances[0] + variances[1]) / 2)
    torch.testing.assert_close(once["0.mean"], again["0.mean"])
    third = after(head, once, [c, c])  # steps 1, 1/2, then 0.4 rather than 1/3
    expected = 0.6 * (0.5 * once["0.mean"][..., 0] + 0.5 * means[2]) + 0.4 * means[2]
    torch.testing.assert_close(third["0.mean"][..., 0], expected)


@pytest.mark.parametrize("mean", ["on", "off", "stop"])
@pytest.mark.parametrize("std", ["on", "off", "stop"])
def test_a_part_that_is_off_has_none(mean, std):
    head = Head((6, 4), norm=BatchNorm(mean, std))
    found = set(head.init_running_stats(3, rows(1, 0)))
    expected = {"0.mean"} if mean != "off" else set()
    expected |= {"0.variance"} if std != "off" else set()
    assert found == (expected | {"0.batches"} if expected else set())
    parameters = after(head, initial(head), [rows(9, 0), rows(9, 1)])
    whole = head(parameters, rows(5, 2), running=True)
    alone = head(parameters, rows(5, 2)[:, :1], running=True)
    torch.testing.assert_close(alone, whole[:, :1], rtol=0, atol=1e-12)


def test_a_member_that_has_seen_no_batch_goes_by_the_one_at_hand():
    parameters = after(SMALL, initial(SMALL), [rows(9, 0)])
    unseen = {n: t.clone() for n, t in parameters.items()}
    unseen["0.batches"][1] = 0
    found = SMALL(unseen, rows(9, 5), running=True)
    at_hand = SMALL(parameters, rows(9, 5))
    torch.testing.assert_close(found[1], at_hand[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0], SMALL(parameters, rows(9, 5), running=True)[0])
    assert not torch.allclose(found[0], at_hand[0], atol=1e-3)


def test_what_cannot_be_is_refused():
    drawn = SMALL.init(INPUTS, seed=3, members=MEMBERS, place=1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"its parameters are only \['0.bias'"):
        SMALL(drawn, rows(4, 0), running=True)
    record = []
    SMALL(initial(SMALL), rows(1, 0), record=record)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        SMALL.update_running_stats(initial(SMALL), record)


def teacher():
    return dualnets.tree_network(TREES, units=4, seed=7)


EVERY = {
    "byol": BYOL(SMALL, SMALL),
    "byol, eager": BYOL(Head((6, 4), norm=BatchNorm(affine=True)), SMALL),
    "simsiam": SimSiam(DEEP, SMALL),
    "simclr": dualnets.SimCLR(projector=DEEP),
    "moco": MoCo(queue=256, projector=DEEP),
    "swav": dualnets.SwAV(prototypes=6, projector=DEEP),
    "pirl": dualnets.PIRL(negatives=20, projector=DEEP),
    "pirl, two heads": dualnets.PIRL(negatives=20, projector=DEEP, view_projector=SMALL),
    "barlow": BarlowTwins(DEEP),
    "vicreg": VICReg(DEEP),
    "teacher": TeacherStudent(teacher(), readout=DEEP),
}


def train(method, steps=100, dtype=torch.float64, batch=32, lr=0.01):
    net = dualnets.tree_network(TREES, units=4, bias=True, seed=1, dtype=dtype)
    return dualnets.train(
        net, method, TREES, augment=hltm.resample_leaves(0.2), steps=steps, batch=batch, seed=3,
        optimizer=SGD(lr), samples=64 if isinstance(method, dualnets.PIRL) else None,
    )  # fmt: skip


@pytest.mark.parametrize("label", few(EVERY, ["byol", "byol, eager", "moco", "pirl, two heads"]))
def test_an_embedding_is_a_samples_own(label):
    method = EVERY[label]
    final = train(method, steps=40)
    leaves = TREES.sample(40, seed=5).leaves
    whole = method.embedding(final.network, final.state, leaves)
    alone = torch.cat(
        [method.embedding(final.network, final.state, leaves[:, i : i + 1]) for i in range(5)], 1
    )
    torch.testing.assert_close(alone, whole[:, :5], rtol=0, atol=1e-12)
    assert (whole.std(1).amax(-1) > 1e-6).all()
    batch = method.embedding(final.network, final.state, leaves, batch_statistics=True)
    assert not torch.allclose(batch, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("label", few([label for label in EVERY if label[:4] != "pirl"], 3))
def test_both_kinds_of_statistics_are_nearly_one_where_batches_are_large(label):
    method = EVERY[label]
    final = train(method, steps=20, batch=256, lr=1e-9)
    leaves = TREES.sample(4000, seed=6).leaves
    one, other = (
        method.embedding(final.network, final.state, leaves, batch_statistics=b) for b in (0, 1)
    )
    assert (one - other).square().mean() < 0.02 * other.square().mean()


def test_only_the_heads_that_are_evaluated_keep_any():
    state = train(BYOL(DEEP, SMALL), steps=2).state
    kept = {n for n in state if n.endswith(RUNNING)}
    assert kept == {
        f"{name}.{layer}.{own}"
        for name, layers in (("projector", (0, 1, 2)), ("predictor", (0,)))
        for layer in layers
        for own in RUNNING
    }
    assert not [n for n in train(MoCo(queue=64, projector=DEEP), 2).state if "key" in n
                and n.endswith(RUNNING)]  # fmt: skip
    assert not any(state[n].requires_grad for n in kept)


@pytest.mark.parametrize("redraw", ["all", "top", "bottom"])
@pytest.mark.parametrize("head", [SMALL, Head((6, 5, 4), norm=BatchNorm(affine=True))])
def test_those_of_a_layer_that_is_drawn_again_begin_anew(redraw, head):
    """Compiled and, with gains, eager."""
    state = train(BYOL(SMALL, head, redraw_every=3, redraw=redraw), steps=7).state
    counts = [int(state[f"predictor.{layer}.batches"][0]) for layer in range(len(head.widths) - 1)]
    anew = {"all": [1, 1], "top": [7, 7], "bottom": [1, 7]}[redraw]
    assert counts == anew[: len(counts)]
    assert state["projector.0.batches"].tolist() == [7, 7, 7]


def test_a_frozen_member_stops_at_its_step():
    net = dualnets.tree_network(TREES, units=4, bias=True, seed=1, dtype=torch.float64)
    found = dualnets.train(
        net, BYOL(SMALL, SMALL, normalized=False), TREES, augment=hltm.keep_root(), steps=9,
        batch=16, optimizer=SGD([0.01, 1e150, 0.01]), seed=3,
    )  # fmt: skip
    at = int(found.frozen_at[1])
    assert 0 < at < 9
    assert found.state["projector.0.batches"].tolist() == [9, at, 9]
    assert strip_prefix(found.state, "projector")["0.mean"].isfinite().all()
