"""Checkpoints: the state of a training as files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualnets._checks import check_kind, check_whole
from dualnets._checksums import damage_of, damage_of_manifest, with_checksums
from dualnets._files import read_json, replace_folder, write_json
from dualnets.training.fingerprint import first_difference
from dualnets.training.state import TrainState
from hltm._paths import local_path, safetensors_errors

TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"
FORMAT = 2
# folders that are written or removed, of earlier versions as well; no one else's
HIDDEN = re.compile(r"\.step-(\d{10}-(removed-|\w{8})|\d+-old)")


class DamagedError(ValueError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints; training goes on from the newest one.

    Attributes:
        folder: for one training; what it was made with is written beside the tensors, and a training
            that was made with anything else is refused, also with another number of steps, on which
            schedules depend. To train further than that, train the last snapshot's network anew, in another
            folder; optimiser, target network and heads then begin anew.
        every: how many updates lie between two checkpoints.
        keep: how many of the newest are kept. Those at the snapshots of a trajectory are all kept, so
            that a resumed trajectory yields them again.

    Raises:
        TypeError: a folder, every or keep of another type.
        ValueError: a URL for the folder, or every or keep below 1.
    """

    folder: str | os.PathLike[str]
    every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        check_kind("folder", self.folder, str | os.PathLike, "'checkpoints'")
        local_path(self.folder)  # raises for a URL
        check_whole("every", self.every, low=1, unit="update")
        check_whole("keep", self.keep, low=1, unit="checkpoint")

    def steps(self) -> list[int]:
        """The steps of all checkpoints, oldest first.

        Raises:
            ValueError: a folder has the name of a checkpoint and is none.
        """
        found = []
        for path in local_path(self.folder).glob(f"step-*/{MANIFEST}"):
            number = path.parent.name.removeprefix("step-")
            if not number.isdecimal() or path.parent != self._home(int(number)):
                raise ValueError(
                    f"{path.parent} cannot be read as a checkpoint: its name is not that of a step; move "
                    "it elsewhere"
                )
            found.append(int(number))
        return sorted(found)

    def save(
        self, step: int, made_with: Mapping[str, str], network: nn.Module, state: TrainState,
        snapshot: bool,
    ) -> None:  # fmt: skip
        """Write a checkpoint, then remove old ones.

        Args:
            step: how many updates were made.
            made_with: the `fingerprint` of the training.
            network, state: the ensemble after this step.
            snapshot: whether it is kept for good.
        """
        from safetensors.torch import save_file

        tensors = {
            **{f"network/{name}": tensor for name, tensor in _named(network)},
            **{f"state/{name}": tensor for name, tensor in state.state.items()},
            **{f"memory/{name}": tensor for name, tensor in state.memory.items()},
            "losses": state.losses,
            "frozen_at": state.frozen_at,
        }
        # copies, as safetensors refuses tensors that share memory
        flat = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        with replace_folder(self._home(step)) as folder:
            with safetensors_errors(folder / TENSORS):
                save_file(flat, folder / TENSORS)
            manifest = {"format": FORMAT, "step": step, "snapshot": snapshot,
                        "made_with": dict(made_with)}  # fmt: skip
            write_json(folder / MANIFEST, with_checksums(folder, manifest))
        passing = [s for s in self.steps() if self._is_passing(s)]
        for old in passing[: -self.keep]:
            # renamed first, so that a process that is killed while it removes leaves no half of one
            hidden = self._home(old).with_name(f".{self._home(old).name}-removed-")
            os.replace(self._home(old), hidden)
            shutil.rmtree(hidden)

    def check(self, made_with: Mapping[str, str]) -> list[int]:
        """Check that the folder holds checkpoints of this training only, as they were written.

        A checkpoint that has changed since it was written is set aside, with a warning, and training goes
        on from the one before it. What a killed process left half written or half removed is removed.

        Args:
            made_with: the `fingerprint` of this training.

        Returns:
            The steps of the checkpoints before the first that is damaged, oldest first.

        Raises:
            ValueError: checkpoints of another training, with the first difference; or one that this version
                cannot read, with what to do about it.
            OSError: a folder that cannot be written.
        """
        local_path(self.folder).mkdir(parents=True, exist_ok=True)
        usable, damage = [], ""
        for step in self.steps():
            home = self._home(step)
            try:
                manifest = self._manifest(step)
                if problem := damage_of(home, manifest):
                    raise _unreadable(home, problem)
            except DamagedError as error:
                aside = home.with_name(f"damaged-{home.name}-{secrets.token_hex(4)}")
                os.replace(home, aside)
                damage = damage or f"{error}; it is set aside as {aside.name}"
                continue
            difference = first_difference(manifest["made_with"], made_with)
            if difference is not None:
                further = (
                    " (to train further than that, train the last snapshot's network anew there)"
                )
                raise ValueError(
                    f"{self.folder} holds checkpoints of another training: {difference}; choose another "
                    f"folder{further * difference.startswith('there steps ')}"
                )
            usable += [] if damage else [step]
        if damage:
            begin = f"step {usable[-1]}" if usable else "the beginning"
            warnings.warn(f"{damage}, and training goes on from {begin}", stacklevel=3)
        for left in local_path(self.folder).iterdir():
            if HIDDEN.fullmatch(left.name):
                shutil.rmtree(left)
        return usable

    def load(self, step: int, network: nn.Module, like: TrainState) -> TrainState:
        """Read a checkpoint into a network, in place, and return the state of the ensemble.

        Args:
            step: one of `steps()`.
            network: of the same shape.
            like: the initial state of some of its members, which has all names, shapes without the S
                axis, and whether a tensor is trained.

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
                problem = f"{name} is {what}, expected {tuple(shape)}"
                raise _unreadable(self._home(step) / TENSORS, problem)
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
        return local_path(self.folder) / f"step-{step:010d}"

    def _manifest(self, step: int) -> dict[str, Any]:
        """The manifest of a checkpoint, checked."""
        path = self._home(step) / MANIFEST
        try:
            found = read_json(path)
        except (ValueError, OSError) as error:  # not JSON, or not text
            raise _unreadable(path, f"it is not JSON ({error})") from error
        if not isinstance(found, dict) or "format" not in found:
            raise _unreadable(path, "it has no format")
        if found["format"] != FORMAT:
            raise ValueError(
                f"{path} cannot be read as a checkpoint: its format is {found['format']!r:.60}, this version "
                f"reads {FORMAT}; go on with the version that wrote it, or choose another folder"
            )
        kinds = {"step": int, "snapshot": bool, "made_with": dict}
        for name, kind in kinds.items():
            if not isinstance(found.get(name), kind):
                raise _unreadable(path, f"{name} is {found.get(name)!r:.60}")
        if found["step"] != step:
            raise _unreadable(path, f"it is of step {found['step']}")
        if changed := damage_of_manifest(found, "it"):
            raise _unreadable(path, changed)
        return found

    def _is_passing(self, step: int) -> bool:
        """Whether a checkpoint is removed in time; one that was damaged meanwhile is left to `check`."""
        try:
            return not self._manifest(step)["snapshot"]
        except DamagedError:
            return False

    def _tensors(self, step: int) -> dict[str, Tensor]:
        """All tensors of a checkpoint by name."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._home(step) / TENSORS
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, f"its tensors cannot be read ({error})") from error


def _unreadable(path: Path, problem: str) -> DamagedError:
    return DamagedError(f"{path} cannot be read as a checkpoint: {problem}")


def _named(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers with their names."""
    return [*network.named_parameters(), *network.named_buffers()]
