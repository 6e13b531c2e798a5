"""On a GPU: the same data, and the same training up to the order of sums."""

import pytest
import torch

import dualnets
import hltm
from dualnets.training import steps
from dualnets.training.recorded.graphs import Graph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine"),
]
LOSSES = [
    dualnets.Simple(),
    dualnets.Triplet(0.2),
    dualnets.InfoNCE(0.1, 2),
    dualnets.NTXent(0.1),
    dualnets.BatchwiseNCE(0.1),
]


def test_draws_and_views_have_the_same_bits():
    trees = hltm.symmetric_binary(depth=4, members=3, seed=0)
    here, there = (trees.sample(1000, seed=1, start=77, device=d) for d in ("cpu", "cuda"))
    assert there.states.is_cuda
    assert here.states.equal(there.states.cpu())
    for augmentation in (hltm.keep_root(), hltm.keep_level(2), hltm.resample_leaves(0.3)):
        pairs = zip(trees.views(here, augmentation), trees.views(there, augmentation), strict=True)
        assert all(a.states.equal(b.states.cpu()) for a, b in pairs)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("make", [dualnets.tree_network, dualnets.mlp])
def test_training_gives_the_cpus_numbers(make, loss):
    trees = hltm.symmetric_binary(depth=3, members=3, seed=0)
    finals = [
        dualnets.train(
            make(trees, units=5, seed=1, normalize=True, dtype=torch.float64, device=device),
            dualnets.SimCLR(loss),
            trees,
            augment=hltm.keep_root(),
            steps=10,
            batch=32,
            optimizer=dualnets.SGD([0.1, 0.05, 0.2]),
            seed=2,
        )
        for device in ("cpu", "cuda")
    ]
    here, there = (list(final.network.parameters()) for final in finals)
    assert all(p.is_cuda for p in there)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-8, atol=1e-10)


def test_probes_give_the_cpus_numbers():
    trees = hltm.symmetric_binary(depth=3, members=3, seed=0)
    tables = [
        hltm.probe.measure(
            dualnets.tree_network(trees, units=5, seed=1, device=device),
            trees,
            samples=2000,
            seed=3,
            details=False,
        )
        for device in ("cpu", "cuda")
    ]
    here, there = (table["value"].to_numpy() for table in tables)
    assert abs(here - there).max() < 1e-4


def test_the_main_job_runs(tmp_path):
    run = dualnets.run(
        "emergence", scale="smoke", device="cuda", out=tmp_path, steps=50, members=3,
        evaluation_samples=512,
    )  # fmt: skip
    assert run.verdicts[0].verdict == "open"
    assert (run.folder / "index.html").exists()


class Counted(Graph):
    """Counts the graphs that are made."""

    made = 0

    def __init__(self, *given):
        super().__init__(*given)
        Counted.made += 1


@pytest.mark.parametrize(
    "method",
    [
        dualnets.SimCLR(dualnets.NTXent()),
        dualnets.BYOL(dualnets.Head((4, 3), norm=dualnets.BatchNorm()), dualnets.Head((4, 3))),
        dualnets.MoCo(queue=64),
    ],
    ids=["simclr", "byol", "moco"],
)
def test_a_step_in_a_graph_gives_the_cpus_numbers(method, monkeypatch):
    """Schedule and step number change from step to step, one member diverges, and the graph stays."""
    Counted.made = 0
    monkeypatch.setattr(steps, "WORTH_A_GRAPH", 2)
    monkeypatch.setattr(steps, "Graph", Counted)
    trees = hltm.symmetric_binary(depth=3, members=3, seed=0)
    optimizer = dualnets.AdamW([0.01, 1e38, 0.02], schedule=dualnets.Schedule("cosine", warm_up=3))
    finals = [
        dualnets.train(
            dualnets.tree_network(trees, units=5, seed=1, dtype=torch.float64, device=device),
            method, trees, augment=hltm.keep_root(), steps=10, batch=32, optimizer=optimizer, seed=2,
        )
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    assert Counted.made == 1
    here, there = finals
    assert here.frozen_at.equal(there.frozen_at.cpu())
    for a, b in zip(here.network.parameters(), there.network.parameters(), strict=True):
        torch.testing.assert_close(a[[0, 2]], b[[0, 2]].cpu(), rtol=1e-8, atol=1e-10)
