"""One test for all methods: each against its plain single-member version, and the ensemble's promises.

What a `plain_<name>.py` has to say is written in `plain_network.py`.
"""

import importlib
import inspect
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from looped_head import SEEN, updated_moments
from plain_network import plain_batch, plain_member

import dualnets
import hltm
from dualnets.methods import discover, names
from dualnets.methods.protocol import TrainContext, output_units
from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.sequence_network import SequenceNetwork
from dualnets.training.data import FixedData, FreshData
from dualnets.training.steps import TrainConfig, train_steps_eager, trained_tensors

HERE = Path(__file__).parent
TREES = hltm.symmetric_binary(depth=2, members=4, seed=0)[1:]  # addresses are not places
BATCH, SEED, LR = 8, 5, 0.05
METHODS = discover()
PLAIN = {
    name: importlib.import_module(path.stem)
    for name in METHODS
    if (path := HERE / f"plain_{name.replace('-', '_')}.py").exists()
}
CASES = [
    pytest.param(
        name,
        label,
        id=f"{name}:{label}",
        marks=[pytest.mark.slow]
        * (place > 1 or (place > 0 and label in getattr(plain, "NETWORKS", ()))),
    )
    for name, plain in PLAIN.items()
    for place, label in enumerate(plain.CASES)
]
every_case = pytest.mark.parametrize(("name", "label"), CASES)
# of promises that hardly depend on a method's options: the first case of each method, the others if asked for
every_method = pytest.mark.parametrize(
    ("name", "label"),
    [
        pytest.param(
            *case.values,
            id=case.id,
            marks=[pytest.mark.slow] * (place > 0 or getattr(PLAIN[name], "SLOW", False)),
        )
        for name in PLAIN
        for place, case in enumerate(case for case in CASES if case.values[0] == name)
    ],
)


class Given:
    """A case with the data it is trained on."""

    def __init__(self, name: str, label: str) -> None:
        self.plain = PLAIN[name]
        self.method = self.plain.CASES[label]
        self.trees = getattr(self.plain, "TREE", TREES)
        self.make = getattr(self.plain, "NETWORKS", {}).get(label)
        self.lr = getattr(self.plain, "LR", LR)
        self.settings = {
            "augment": getattr(self.plain, "AUGMENT", hltm.keep_root()),
            "batch": BATCH,
            "seed": SEED,
            "samples": getattr(self.plain, "SAMPLES", None),
            "optimizer": dualnets.SGD(self.lr),
        }

    def network(self, trees=None, dtype=torch.float64, device="cpu"):
        trees = self.trees if trees is None else trees
        if self.make is not None:
            return self.make(trees, dtype, device)
        return dualnets.tree_network(trees, units=4, bias=True, seed=1, dtype=dtype, device=device)

    def trajectory(self, network=None, trees=None, **changes):
        network = self.network() if network is None else network
        trees = self.trees if trees is None else trees
        return dualnets.trajectory(network, self.method, trees, **(self.settings | changes))

    def final(self, *given, steps, **changes):
        *_, last = self.trajectory(*given, steps=steps, snapshots=[steps], **changes)
        return last


def tensors(snapshot) -> dict[str, torch.Tensor]:
    named = [*snapshot.network.named_parameters(), *snapshot.network.named_buffers()]
    found = {f"network.{name}": tensor for name, tensor in named}
    found |= {f"state.{name}": tensor for name, tensor in snapshot.state.items()}
    return {name: t.detach() for name, t in (found | {"losses": snapshot.losses}).items()}


def assert_same(ours, theirs, atol: float) -> None:
    assert [*ours] == [*theirs]
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=0, atol=atol, equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


def same_bits(ours, theirs) -> None:
    a, b = tensors(ours), tensors(theirs)
    assert [*a] == [*b]
    for name in a:
        as_bytes = (t[name].contiguous().view(torch.uint8) for t in (a, b))
        assert torch.equal(*as_bytes), name


def test_every_method_has_a_plain_version():
    assert sorted(PLAIN) == names()
    for name, plain in PLAIN.items():
        assert plain.CASES
        assert {type(case) for case in plain.CASES.values()} == {METHODS[name]}


def test_every_method_is_public_and_named_without_torch():
    for name, method in METHODS.items():
        assert getattr(dualnets, method.__name__) is method, name
    code = "import sys; from dualnets.methods import names; print(*names(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*names(), "False"]
    assert [*METHODS] == names()


@every_case
def test_loss_update_and_state_equal_the_plain_version(name, label):
    given = Given(name, label)
    steps = getattr(given.plain, "STEPS", 4)
    plain, method, network = given.plain, given.method, given.network()
    settings = given.settings
    samples = settings["samples"]
    rows = {
        "source": given.trees, "members": given.trees.members, "augment": settings["augment"],
        "batch": BATCH, "seed": SEED, "stacked": True, "device": torch.device("cpu"),
    }  # fmt: skip
    data = FreshData(**rows) if samples is None else FixedData(**rows, samples=samples)
    setup = TrainContext(given.trees, SEED, steps, BATCH, samples)
    method.check(network, setup)
    recipe = TrainConfig(method, settings["optimizer"], data, setup)
    progress = recipe.init(network)
    reads_before = "before" in inspect.signature(plain.plain_after_step).parameters
    for step in range(steps):
        members = range(len(given.trees.members))
        (batch,) = data.batches(method.needs, step, 1)
        batches = [plain_batch(batch, method.needs, s) for s in members]
        fs = [plain_member(network, s, requires_grad=True) for s in members]
        states = [
            {
                n: t.detach()[s].clone().requires_grad_(t.requires_grad)
                for n, t in progress.state.items()
            }
            for s in members
        ]
        untouched = {n: t.clone() for n, t in progress.state.items() if not t.requires_grad}
        kept = {n: t for n, t in progress.state.items() if not t.requires_grad}
        after = train_steps_eager(network, recipe, progress, step, 1)
        for n, tensor in untouched.items():
            assert tensor.equal(kept[n]), f"{n} was changed in place"
        for s, member in enumerate(given.trees.members):
            if step and s != step % len(members):
                continue  # after the first step one member at a time: plain versions are slow
            f, state, plain_data = fs[s], states[s], batches[s]
            SEEN.clear()
            loss = plain.plain_loss(method, f, state, plain_data)
            moved = updated_moments(state)
            torch.testing.assert_close(after.losses[s], loss.detach(), rtol=0, atol=1e-10)
            trained = [*f.parameters.values(), *(t for t in state.values() if t.requires_grad)]
            torch.autograd.backward(loss, inputs=trained)
            now_f = f.with_parameters({n: updated(p, given.lr) for n, p in f.parameters.items()})
            now_state = {
                n: updated(t, given.lr, group_of(method, n)) if t.requires_grad else t
                for n, t in state.items()
            } | moved
            for n, p in network.named_parameters():
                torch.testing.assert_close(p.detach()[s], now_f.parameters[n], rtol=0, atol=1e-10)
            before = {"before": (f, state)} if reads_before else {}
            with torch.no_grad():
                expected = plain.plain_after_step(
                    method, now_f, now_state, plain_data, step, setup, member, **before
                )
            assert set(expected) == set(after.state)
            for n, tensor in after.state.items():
                torch.testing.assert_close(
                    tensor.detach()[s], expected[n].detach(), rtol=0, atol=1e-10,
                    msg=lambda text, n=n, step=step: f"state {n} after step {step}: {text}",
                )  # fmt: skip
        progress = after


def group_of(method, name):
    fitting = [g for prefix, g in method.groups.items() if f"{name}.".startswith(f"{prefix}.")]
    return fitting[0] if fitting else dualnets.Group()


def updated(parameter, lr, group=None):
    """Plain gradient descent with the group's rates."""
    group = group or dualnets.Group()
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    decayed = gradient + (group.weight_decay or 0.0) * parameter.detach()
    return parameter.detach() - lr * group.lr * decayed


@every_method
def test_an_ensemble_equals_its_members_trained_alone(name, label):
    given = Given(name, label)
    before = torch.get_rng_state()
    whole = {s.step: tensors(s) for s in given.trajectory(steps=20, snapshots=[1])}
    for s in (0, len(given.trees.members) - 1):
        tree = given.trees[s]
        for alone in given.trajectory(given.network(tree), tree, steps=20, snapshots=[1]):
            ours = {n: t[s : s + 1] for n, t in whole[alone.step].items()}
            assert_same(ours, tensors(alone), 1e-12 if alone.step == 1 else 1e-6)
    assert before.equal(torch.get_rng_state()), "a global generator was used"


@every_method
def test_parts_of_an_ensemble_equal_the_whole(name, label):
    given = Given(name, label)
    whole, parts = (given.final(steps=5, members_at_once=n) for n in (None, 2))
    assert_same(tensors(whole), tensors(parts), 1e-10)


@every_method
def test_what_was_interrupted_and_resumed_equals_what_never_was(name, label, tmp_path):
    given = Given(name, label)
    plan = {"steps": 7, "snapshots": [0, 3, 7], "optimizer": dualnets.SGD(given.lr, momentum=0.9)}
    never = list(given.trajectory(**plan))
    plan["checkpoints"] = dualnets.Checkpoints(tmp_path, every=2, keep=1)
    first = given.trajectory(**plan)
    same_bits(next(first), never[0])
    same_bits(next(first), never[1])
    first.close()

    def stop(steps):
        raise KeyboardInterrupt

    second = given.trajectory(**plan, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        list(second)
    heard = []
    last = list(given.trajectory(**plan, progress=heard.append))
    assert [s.step for s in last] == [0, 3, 7]
    assert sum(heard) == 7
    for ours, theirs in zip(last, never, strict=True):
        same_bits(ours, theirs)


@every_method
def test_a_member_that_diverges_is_frozen_and_the_others_do_not_hear_of_it(name, label):
    given = Given(name, label)
    many = len(given.trees.members)
    wild = [given.lr, 1e200] + [given.lr] * (many - 2)
    found = [tensors(s) | {"frozen_at": s.frozen_at} for s in given.trajectory(
        steps=6, snapshots=range(7), optimizer=dualnets.SGD(wild)
    )]  # fmt: skip
    healthy = tensors(given.final(steps=6))
    at = found[-1].pop("frozen_at").tolist()
    assert at[1] >= 0, "this member should have diverged"
    assert all(step == -1 for s, step in enumerate(at) if s != 1)
    rest = [0, *range(2, many)]
    assert_same(
        {n: t[rest] for n, t in found[-1].items()}, {n: t[rest] for n, t in healthy.items()}, 1e-12
    )
    for n, tensor in found[-1].items():
        if n != "losses":
            assert tensor[1].equal(found[at[1]][n][1]), f"{n} of a frozen member changed"
            assert tensor[1].isfinite().all(), n


@every_method
def test_float32_stays_finite_and_embeddings_have_their_shape(name, label):
    given = Given(name, label)
    network = given.network(dtype=torch.float32)
    found = given.final(network, steps=8)
    assert found.frozen_at.eq(-1).all()
    for n, tensor in tensors(found).items():
        assert tensor.isfinite().all(), n
        assert tensor.dtype in (torch.float32, torch.int64, torch.bool), n
    leaves = given.trees.sample(6, seed=3).leaves
    embedded = given.method.embedding(found.network, found.state, leaves)
    assert embedded.shape[:2] == leaves.shape[:2]
    assert embedded.isfinite().all()
    assert output_units(network, TrainContext(given.trees, SEED, 1, BATCH)) == 4


@every_case
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")
def test_cuda_gives_the_cpus_numbers(name, label):
    given = Given(name, label)
    here, there = (
        tensors(given.final(given.network(device=device), steps=6)) for device in ("cpu", "cuda")
    )
    assert all(t.is_cuda for t in there.values())
    assert_same(here, {n: t.cpu() for n, t in there.items()}, 1e-10)


@every_method
def test_what_the_optimiser_changes_is_the_networks_and_the_states_own(name, label):
    """Nothing that is trained is a view of something else: two parameters never share memory."""
    given = Given(name, label)
    network = given.network()
    setup = TrainContext(given.trees, SEED, 3, BATCH, given.settings["samples"])
    state = given.method.init(network, setup)
    many = len(given.trees.members)
    for n, tensor in state.items():
        assert tensor.shape[:1] == (many,), f"{n} has no S axis"
    trained = trained_tensors(network, state)
    places = [tensor.data_ptr() for tensor in trained.values()]
    assert len(set(places)) == len(places)
    others = {t.data_ptr() for t in state.values() if not t.requires_grad and t.numel()}
    assert not others & set(places)


def begun(given, device, precision):
    """A network of float32, its recipe, where it stands and its first batch."""
    network = given.network(dtype=torch.float32, device=device)
    samples = given.settings["samples"]
    rows = {
        "source": given.trees, "members": given.trees.members, "augment": given.settings["augment"],
        "batch": BATCH, "seed": SEED, "stacked": True, "device": torch.device(device),
    }  # fmt: skip
    data = FreshData(**rows) if samples is None else FixedData(**rows, samples=samples)
    setup = TrainContext(given.trees, SEED, 3, BATCH, samples)
    recipe = TrainConfig(given.method, dualnets.SGD(given.lr), data, setup, precision)
    return network, recipe, recipe.init(network)


@every_method
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"),
            ],
        ),
    ],
)
def test_bfloat16_is_for_networks_and_neither_for_heads_nor_losses(
    monkeypatch, name, label, device
):
    """One update in bfloat16 is that of a network that rounds on its own, all else in float32."""
    given = Given(name, label)
    network, recipe, before = begun(given, device, "bfloat16")
    found = tensors_of(network, train_steps_eager(network, recipe, before, 0, 1))
    kind, calls = BlockNetwork, ("forward",)
    if given.make is not None:
        kind, calls = SequenceNetwork, ("positions", "activations")

    def rounding(self, own, leaves):
        with torch.autocast(leaves.device.type, dtype=torch.bfloat16):
            output = own(self, leaves)
        if isinstance(output, dict):
            return {level: values.float() for level, values in output.items()}
        assert output.dtype in (torch.bfloat16, torch.float32)
        return output.float()

    plain_network, plain_recipe, plain_before = begun(given, device, "float32")
    initial = tensors_of(plain_network, plain_before)
    with monkeypatch.context() as patch:
        for call in calls:
            patch.setattr(kind, call, partialmethod(rounding, getattr(kind, call)))
        after = train_steps_eager(plain_network, plain_recipe, plain_before, 0, 1)
    expected = tensors_of(plain_network, after)
    assert [*found] == [*expected]
    for n, tensor in found.items():
        assert tensor.dtype == expected[n].dtype == initial[n].dtype, n
        atol = 0 if device == "cpu" else 1e-6
        torch.testing.assert_close(tensor, expected[n], rtol=0, atol=atol, equal_nan=True)
    exact_network, exact_recipe, exact_before = begun(given, device, "float32")
    exact = train_steps_eager(exact_network, exact_recipe, exact_before, 0, 1)
    assert not exact.losses.equal(found["losses"]), "nothing was rounded"


def tensors_of(network, progress):
    found = {f"network.{n}": t for n, t in network.named_parameters()}
    found |= {f"state.{n}": t for n, t in progress.state.items()}
    return {n: t.detach().clone() for n, t in (found | {"losses": progress.losses}).items()}


def test_bfloat16_is_refused_for_networks_that_autocast_leaves_alone():
    given = Given("simclr", "infonce")
    network = given.network()
    _, recipe, _ = begun(given, "cpu", "bfloat16")
    with pytest.raises(ValueError, match=r"bfloat16 is for networks of float32.*torch\.float64"):
        recipe.init(network)
