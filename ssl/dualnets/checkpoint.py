"""Checkpoints: where training stands as files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualnets.records import MANIFEST, read_json, replace_folder, write_json
from dualnets.span import Progress

TENSORS = "tensors.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints; training goes on from the newest one.

    Attributes:
        folder: of one training; what it was made with is written beside the tensors, and another
            training's is refused.
        every: how many updates between two.
        keep: how many of the newest stay; those at the snapshots of a trajectory all stay, so that a
            resumed trajectory yields them again.

    Raises:
        ValueError: every or keep below 1.
    """

    folder: str | os.PathLike[str]
    every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 update, got {self.every}")
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1 checkpoint, got {self.keep}")

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, oldest first."""
        found = Path(self.folder).glob(f"step-*/{MANIFEST}")
        return sorted(int(path.parent.name.removeprefix("step-")) for path in found)

    def save(
        self, step: int, made_with: Mapping[str, str], network: nn.Module, progress: Progress,
        snapshot: bool,
    ) -> None:  # fmt: skip
        """Write one, then remove old ones.

        Args:
            step: how many updates were made.
            made_with: what must be the same where training goes on.
            network, progress: where training stands.
            snapshot: whether it stays for good.
        """
        from safetensors.torch import save_file

        tensors = {
            **{f"network/{name}": tensor for name, tensor in _named(network)},
            **{f"state/{name}": tensor for name, tensor in progress.state.items()},
            **{f"memory/{name}": tensor for name, tensor in progress.memory.items()},
            "losses": progress.losses,
            "frozen_at": progress.frozen_at,
        }
        # tensors that share memory are told apart by a copy
        flat = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
        }
        with replace_folder(self._home(step)) as folder:
            save_file(flat, folder / TENSORS)
            manifest = {"format": FORMAT, "step": step, "snapshot": snapshot}
            write_json(folder / MANIFEST, manifest | {"made_with": dict(made_with)})
        passing = [s for s in self.steps() if not self._manifest(s)["snapshot"]]
        for old in passing[: -self.keep]:
            # out of sight first: a process killed while it removes leaves no half of one
            hidden = self._home(old).with_name(f".step-{old}-old")
            os.replace(self._home(old), hidden)
            shutil.rmtree(hidden)

    def check(self, made_with: Mapping[str, str]) -> None:
        """Raise ValueError if the folder holds checkpoints of another training.

        What a killed process left half written or half removed goes.

        Raises:
            ValueError: naming what differs.
            OSError: a folder that cannot be written.
        """
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        for step in self.steps():
            theirs = self._manifest(step)["made_with"]
            for name, ours in made_with.items():
                if theirs.get(name) != ours:
                    raise ValueError(
                        f"{self.folder} holds checkpoints of another training: there {name} is "
                        f"{theirs.get(name)}, here {ours}"
                    )
        for left in Path(self.folder).glob(".step-*"):
            shutil.rmtree(left)

    def load(self, step: int, network: nn.Module, like: Progress) -> Progress:
        """Read one: the network changes in place.

        Args:
            step: one of `steps()`.
            network: of the same shape.
            like: a training's beginning, which says what is trained.
        """
        from safetensors.torch import load_file

        found = load_file(self._home(step) / TENSORS)
        device = like.losses.device
        with torch.no_grad():
            for name, tensor in _named(network):
                tensor.copy_(found[f"network/{name}"])

        def named(kind: str, names: Sequence[str]) -> dict[str, Tensor]:
            return {name: found[f"{kind}/{name}"].to(device) for name in names}

        state = named("state", [*like.state])
        for name, tensor in like.state.items():
            state[name].requires_grad_(tensor.requires_grad)
        losses, frozen_at = (found[name].to(device) for name in ("losses", "frozen_at"))
        return Progress(state, named("memory", [*like.memory]), losses, frozen_at)

    def _home(self, step: int) -> Path:
        return Path(self.folder) / f"step-{step:010d}"

    def _manifest(self, step: int) -> dict[str, Any]:
        return read_json(self._home(step) / MANIFEST)


def digest(*arrays: Tensor | np.ndarray) -> str:
    """A short fingerprint of the dtypes, shapes and bytes of arrays.

    Example:
        >>> digest(torch.zeros(2)) == digest(torch.zeros(2)) != digest(torch.zeros(3))
        True
    """
    hashed = hashlib.sha256()
    for array in arrays:
        values = torch.as_tensor(array).detach().cpu().contiguous()
        hashed.update(f"{values.dtype} {tuple(values.shape)} ".encode())
        hashed.update(values.flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:16]


def _named(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [*network.named_parameters(), *network.named_buffers()]
