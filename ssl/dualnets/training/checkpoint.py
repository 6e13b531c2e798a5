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

from dualnets._checks import check_kind, check_whole
from dualnets._files import read_json, replace_folder, write_json
from dualnets.training.steps import TrainState

TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"
FORMAT = 2
NUMBERS = ("initial outputs",)  # compared up to the rounding of another machine


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
        TypeError: a folder, every or keep of another kind.
        ValueError: every or keep below 1.
    """

    folder: str | os.PathLike[str]
    every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        check_kind("folder", self.folder, str | os.PathLike, "'checkpoints'")
        check_whole("every", self.every, low=1, unit="update")
        check_whole("keep", self.keep, low=1, unit="checkpoint")

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, oldest first.

        Raises:
            ValueError: a folder that is called like a checkpoint and is none.
        """
        found = []
        for path in Path(self.folder).glob(f"step-*/{MANIFEST}"):
            number = path.parent.name.removeprefix("step-")
            if not number.isdecimal() or path.parent != self._home(int(number)):
                raise _unreadable(path.parent, "its name is no step", "move it elsewhere")
            found.append(int(number))
        return sorted(found)

    def save(
        self, step: int, made_with: Mapping[str, str], network: nn.Module, progress: TrainState,
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
            ValueError: naming what differs; or what cannot be read, and what to do about it.
            OSError: a folder that cannot be written.
        """
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        for step in self.steps():
            theirs = self._manifest(step)["made_with"]
            for name, ours in made_with.items():
                if not _is_same(name, str(theirs.get(name)), ours):
                    there, here = _excerpts(str(theirs.get(name)), ours)
                    raise ValueError(
                        f"{self.folder} holds checkpoints of another training: there {name} is "
                        f"{there}, here {here}; choose another folder"
                    )
        for left in Path(self.folder).glob(".step-*"):
            shutil.rmtree(left)

    def load(self, step: int, network: nn.Module, like: TrainState) -> TrainState:
        """Read one: the network changes in place.

        Args:
            step: one of `steps()`.
            network: of the same shape.
            like: the beginning of a training of some of its members, which says what is trained.

        Raises:
            ValueError: tensors that are damaged, missing or of other shapes.
        """
        found = self._tensors(step)
        device = like.losses.device
        members = next(network.parameters()).shape[0]
        expected = {f"network/{name}": tensor.shape for name, tensor in _named(network)}
        for kind, tensors in (("state", like.state), ("memory", like.memory)):
            for name, tensor in tensors.items():
                expected[f"{kind}/{name}"] = torch.Size((members, *tensor.shape[1:]))
        expected |= dict.fromkeys(("losses", "frozen_at"), torch.Size((members,)))
        for name, shape in expected.items():
            if name not in found or found[name].shape != shape:
                what = tuple(found[name].shape) if name in found else "missing"
                raise _unreadable(
                    self._home(step) / TENSORS, f"{name} is {what}, expected {tuple(shape)}"
                )
        with torch.no_grad():
            for name, tensor in _named(network):
                tensor.copy_(found[f"network/{name}"])

        def named(kind: str, names: Sequence[str]) -> dict[str, Tensor]:
            return {name: found[f"{kind}/{name}"].to(device) for name in names}

        state = named("state", [*like.state])
        for name, tensor in like.state.items():
            state[name].requires_grad_(tensor.requires_grad)
        losses, frozen_at = (found[name].to(device) for name in ("losses", "frozen_at"))
        return TrainState(state, named("memory", [*like.memory]), losses, frozen_at)

    def _home(self, step: int) -> Path:
        return Path(self.folder) / f"step-{step:010d}"

    def _manifest(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself, checked."""
        path = self._home(step) / MANIFEST
        try:
            found = read_json(path)
        except (ValueError, OSError) as error:  # no JSON, or no text
            raise _unreadable(path, f"it is no JSON ({error})") from error
        if not isinstance(found, dict) or "format" not in found:
            raise _unreadable(path, "it says no format")
        if found["format"] != FORMAT:
            raise _unreadable(
                path, f"its format is {found['format']!r}, this version reads {FORMAT}",
                "go on with the version that wrote it, or choose another folder",
            )  # fmt: skip
        kinds = {"step": int, "snapshot": bool, "made_with": dict}
        for name, kind in kinds.items():
            if not isinstance(found.get(name), kind):
                raise _unreadable(path, f"{name} is {found.get(name)!r}")
        if found["step"] != step:
            raise _unreadable(path, f"it is of step {found['step']}")
        return found

    def _tensors(self, step: int) -> dict[str, Tensor]:
        """All tensors of a checkpoint."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._home(step) / TENSORS
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, f"its tensors cannot be read ({error})") from error


def _unreadable(
    path: Path,
    finding: str,
    remedy: str = "remove its folder, and training goes on from an older one",
) -> ValueError:
    return ValueError(f"{path} is no checkpoint that can be read: {finding}; {remedy}")


def _is_same(name: str, there: str, here: str) -> bool:
    """Whether what two trainings were made with is the same; numbers are, up to rounding."""
    if there == here or name not in NUMBERS:
        return there == here
    try:
        theirs, ours = (np.array(text.split(), dtype=float) for text in (there, here))
    except ValueError:
        return False
    if theirs.shape != ours.shape:
        return False
    return bool((np.abs(theirs - ours) <= 1e-3 * np.abs(ours).max(initial=0)).all())


def _excerpts(there: str, here: str, width: int = 60) -> tuple[str, str]:
    """Two texts on one line each; of long ones what stands where they first differ."""
    texts = [" ".join(text.split()) for text in (there, here)]
    if max(map(len, texts)) <= 2 * width:
        return texts[0], texts[1]
    pairs = enumerate(zip(*texts, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(map(len, texts)))
    low = max(at - width // 2, 0)
    found = []
    for text in texts:
        high = at + width // 2
        found.append("…" * (low > 0) + text[low:high] + "…" * (high < len(text)))
    return found[0], found[1]


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
