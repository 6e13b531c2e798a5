"""Devices by name: what a machine has is taken, anything else is refused in one line."""

import pytest
import torch

import dualnets
import hltm
from hltm import _devices
from hltm._devices import check_device, float64_device, has_float64

TREE = hltm.symmetric_binary(depth=2, seed=0)
HERE = [
    ("cuda:1", "cpu, cuda:0, cuda:1, mps:0", True), ("cuda", "", True), ("mps", "", True),
    ("cpu", "", True), (torch.device("cuda", 0), "", True),
    ("cuda:2", "there is no device 'cuda:2'; this machine has cpu, cuda:0, cuda:1, mps:0$", False),
    ("xpu", "there is no device 'xpu'; this machine has cpu, cuda:0, cuda:1, mps:0$", False),
    ("gpu", "unknown device 'gpu', expected auto, cpu, cuda, cuda:1, mps or xpu$", False),
    ("meta", "unknown device 'meta'", False), ("cuda:x", "unknown device 'cuda:x'", False),
    ("", "unknown device ''", False), (None, "unknown device 'None'", False),
]  # fmt: skip


@pytest.mark.parametrize(("device", "message", "taken"), HERE, ids=str)
def test_a_device_is_taken_or_refused(device, message, taken, monkeypatch):
    """On a machine that is said to have two cards and Metal."""
    counts = {"cpu": 1, "cuda": 2, "mps": 1, "xpu": 0}
    monkeypatch.setattr(_devices, "_count", counts.__getitem__)
    if taken:
        assert check_device(device) == torch.device(device)
        return
    with pytest.raises(ValueError, match=message) as refused:
        check_device(device)
    assert "\n" not in str(refused.value)


def test_auto_is_cuda_or_the_cpu():
    assert check_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


NAMES = ["cuda:99", "xpu:99", "mps:99", "tpu"]
TAKERS = {
    "sample": lambda device: TREE.sample(3, seed=1, device=device),
    "packed": lambda device: TREE.sample(3, seed=1, packed=True, device=device),
    "draw": lambda device: TREE.draw(3, seed=1, device=device),
    "network": lambda device: dualnets.tree_network(TREE, units=2, seed=1, device=device),
    "beliefs": lambda device: dualnets.belief_network(TREE, device=device),
    "run": lambda device: dualnets.run("emergence", scale="smoke", device=device),
}


@pytest.mark.parametrize("device", NAMES)
@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
def test_everything_that_takes_a_device_refuses_in_one_line(take, device):
    with pytest.raises(ValueError, match=f"device '{device}'") as refused:
        take(device)
    assert "\n" not in str(refused.value)


def test_a_device_without_float64_is_given_none(monkeypatch):
    monkeypatch.setattr(_devices, "_count", lambda kind: 1)
    assert not has_float64(torch.device("mps"))
    assert float64_device("mps") == torch.device("cpu")
    assert float64_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(
        ValueError, match=r"'mps' has no float64, use dtype=torch.float32 or the CPU"
    ):
        dualnets.tree_network(TREE, units=2, seed=1, dtype=torch.float64, device="mps")
    assert check_device("mps", torch.float32) == torch.device("mps")
