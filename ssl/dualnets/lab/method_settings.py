"""The settings of every method as flat flags; a flag that a method does not have is not used.

A flag's help says which methods it is for. `usual`, or -1 where a number is asked for, is the method's
own default.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

from dualnets import methods
from dualnets.lab.settings import ContrastSettings, setting

if TYPE_CHECKING:
    from torch import nn

    from dualnets.lab.settings import NetworkSettings
    from dualnets.methods.protocol import Method
    from dualnets.networks.heads import Head
    from dualnets.networks.normalizations import Normalization

USUAL = "usual"
PART = ("on", "off", "stop")


# method -> its fields, by the flags that set them; heads and losses are built beside these
FLAGS: dict[str, dict[str, str]] = {
    "byol": {
        "predictor_lr": "predictor_lr",
        "predictor_weight_decay": "predictor_weight_decay",
        "redraw_every": "redraw_every",
        "redraw": "redraw",
        "target": "target",
        "target_momentum": "momentum",
        "target_schedule": "momentum_schedule",
        "copy_every": "copy_every",
        "stop_gradient": "stop_gradient",
        "normalized_loss": "normalized",
        "symmetric": "symmetric",
    },
    "simsiam": {"stop_gradient": "stop_gradient"},
    "moco": {
        "temperature": "temperature",
        "queue": "queue",
        "key_momentum": "momentum",
        "key_symmetric": "symmetric",
    },
    "swav": {
        "temperature": "temperature",
        "queue": "queue",
        "queue_from": "queue_from",
        "prototypes": "prototypes",
        "assignment_epsilon": "epsilon",
        "assignment_iterations": "iterations",
        "frozen_prototypes": "frozen_steps",
    },
    "pirl": {
        "temperature": "temperature",
        "bank_negatives": "negatives",
        "bank_momentum": "bank_momentum",
        "second_view": "weight",
        "classify_negatives": "classify_negatives",
    },
    "barlow-twins": {"off_diagonal": "off_diagonal"},
    "vicreg": {
        "invariance": "invariance",
        "variance": "variance",
        "covariance": "covariance",
        "wanted_spread": "spread",
    },
    "supervised": {"labels": "targets", "classifier_bias": "bias"},
}
HEADS = ("projector", "view_projector", "predictor")
OF_HEADS = ("head_norm", "bn_mean", "bn_std", "weight_standardization")
CONTRAST = ("loss", "temperature", "negatives", "margin")
OWN = (-1, USUAL)  # values that leave a method its own default


@dataclass(frozen=True, kw_only=True)
class MethodSettings(ContrastSettings):
    """A method, its heads and its switches."""

    method: str = setting(
        "simclr",
        "how to train",
        choices=tuple(methods.names()),
    )
    temperature: float = setting(
        0.1,
        "of simclr's loss (the simple loss has none), moco, swav and pirl, the same for all of them",
        above=0,
    )
    projector: str = setting(
        USUAL,
        "layers on the network's outputs, for all but supervised and teacher-student: usual (the "
        "method's own; none for simclr, moco, swav and pirl), none, or widths such as 32-16",
    )
    predictor: str = setting(
        USUAL,
        "layers on the projections, for byol and simsiam: usual, none, widths such as 16 (linear) or "
        "32-16; for byol also direct, copy",
    )
    head_norm: str = setting(
        "batch", "behind hidden layers of heads", choices=("batch", "layer", "group", "none")
    )
    bn_mean: str = setting("on", "whether BatchNorm subtracts its mean; stop: no gradient through it",
                           choices=PART)  # fmt: skip
    bn_std: str = setting("on", "whether BatchNorm divides by its deviation; stop as for the mean",
                          choices=PART)  # fmt: skip
    weight_standardization: bool = setting(False, "of hidden layers of heads")
    predictor_lr: float = setting(1.0, "times the learning rate, for byol; 0: never trained", low=0)
    predictor_weight_decay: float = setting(
        -1.0, "of the predictor, for byol; -1 for that of all", low=-1
    )
    redraw_every: int = setting(
        0, "updates between two redraws of byol's predictor; 0: never", low=0
    )
    redraw: str = setting(
        "all", "layers of byol's predictor that are redrawn", choices=("all", "top", "bottom")
    )
    target: str = setting(
        "ema", "target network of byol", choices=("ema", "online", "random", "copy")
    )
    target_momentum: float = setting(
        0.99, "of byol's moving average (moco has key-momentum)", low=0, high=1
    )
    copy_every: int = setting(0, "updates between two hard copies, for byol's target copy", low=0)
    stop_gradient: bool = setting(
        True, "whether the target's side gets no gradient, for byol and simsiam"
    )
    normalized_loss: bool = setting(True, "cosine loss of byol, or plain squares")
    symmetric: bool = setting(True, "both directions of byol summed (moco has key-symmetric)")
    labels: str = setting("root", "what is labelled, for supervised", choices=("root", "latents"))
    target_schedule: str = setting(
        "constant",
        "of byol's moving average; cosine: ever slower",
        choices=("constant", "cosine"),
        later=True,
    )
    queue: int = setting(
        -1,
        "earlier outputs that are kept: moco's keys (-1: 1024, at least those of a step), those that "
        "swav assigns beside each view's batch (-1: none)",
        low=-1,
        high=1 << 30,
        later=True,
    )
    key_momentum: float = setting(
        -1.0,
        "of moco's key encoder; -1: 0.999, as in its paper, which takes 700 updates to forget half of "
        "the initial network",
        low=-1,
        high=1,
        later=True,
    )
    key_symmetric: bool = setting(
        False,
        "whether each view is query and key, for moco; in its paper the first is the query",
        later=True,
    )
    queue_from: int = setting(
        0, "first update that uses swav's queue, which is full by then", low=0, later=True
    )
    prototypes: int = setting(
        -1, "of swav; -1: 32; not more than batch and queue", low=-1, later=True
    )
    assignment_epsilon: float = setting(
        -1.0, "swav's assignments are hard where it is small; -1: 0.05", low=-1, later=True
    )
    assignment_iterations: int = setting(
        -1, "how often swav scales prototypes and samples; -1: 3", low=-1, later=True
    )
    frozen_prototypes: int = setting(
        0, "first updates in which swav's prototypes stay as they are", low=0, later=True
    )
    bank_negatives: int = setting(
        -1, "of pirl per update, fewer than samples; -1: 256", low=-1, later=True
    )
    bank_momentum: float = setting(-1.0, "of pirl's memory; -1: 0.5", low=-1, high=1, later=True)
    second_view: float = setting(
        -1.0, "what the second view weighs in pirl's loss; -1: 0.5", low=-1, high=1, later=True
    )
    classify_negatives: bool = setting(
        True, "whether pirl's loss also classifies each negative", later=True
    )
    view_projector: str = setting(
        USUAL,
        "layers on pirl's second view: usual (those of the first), none, or widths",
        later=True,
    )
    off_diagonal: float = setting(
        -1.0,
        "what correlations between units weigh in barlow-twins; -1: 0.005",
        low=-1,
        later=True,
    )
    invariance: float = setting(
        -1.0, "weight of vicreg's agreement of views; -1: 25", low=-1, later=True
    )
    variance: float = setting(
        -1.0, "weight of vicreg's spread of every unit; -1: 25", low=-1, later=True
    )
    covariance: float = setting(
        -1.0, "weight of vicreg's correlations between units; -1: 1", low=-1, later=True
    )
    wanted_spread: float = setting(
        -1.0, "deviation that vicreg asks of every unit; -1: 1", low=-1, later=True
    )
    classifier_bias: bool = setting(
        True, "whether the classifier has biases, for supervised", later=True
    )
    teacher_units: int = setting(
        5,
        "of the teacher, per latent or layer, for teacher-student",
        low=1,
        high=1 << 16,
        later=True,
    )
    teacher_seed: int = setting(
        1, "added to seed, for the teacher's weights", low=1, high=1 << 32, later=True
    )
    readout: str = setting(
        USUAL,
        "layers on the student's outputs, for teacher-student: usual (none where it has as many as the "
        "teacher, else one linear layer), none, or widths",
        later=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*HEADS, "readout"):
            _widths(name, getattr(self, name))

    def unused(self) -> dict[str, str]:
        from dualnets.networks.heads import Head

        of_others = {
            flag: f"{' and '.join(sorted(owners))}, and method is {self.method}"
            for flag, owners in _owners().items()
            if self.method not in owners
        }
        # what a loss does not take, another method may
        found = {
            flag: of
            for flag, of in super().unused().items()
            if flag not in CONTRAST or self.method == "simclr"
        }
        if self.head_norm != "batch":
            of = f"head-norm batch, and head-norm is {self.head_norm}"
            found |= dict.fromkeys(("bn_mean", "bn_std"), of)
        heads = [head for head in self._heads().values() if isinstance(head, Head)]
        if heads and not any(map(_normed_widths, heads)):
            found |= dict.fromkeys(OF_HEADS, "heads with hidden layers, and there are none")
        if self.method == "byol":
            found |= self._unused_of_byol()
        return found | of_others

    def _unused_of_byol(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.target != "ema":
            of = f"target ema, and target is {self.target}"
            found |= {"target_momentum": of, "target_schedule": of}
        if self.target != "copy":
            found["copy_every"] = f"target copy, and target is {self.target}"
        if self.redraw_every == 0:
            found["redraw"] = "redraw-every above 0, which is 0"
        if self.predictor in ("none", "direct", "copy"):
            of = f"a trained predictor, and predictor is {self.predictor}"
            names = ("predictor_lr", "predictor_weight_decay", "redraw_every", "redraw")
            found |= dict.fromkeys(names, of)
        return found

    def _heads(self) -> dict[str, Any]:
        """The method's heads by name; none of a method that learns from a teacher."""
        from dualnets.methods import discover

        kind: Any = discover()[self.method]
        takes = {item.name for item in fields(kind)}
        if "teacher" in takes:  # whose outputs say what its readout is
            return {}
        usual = kind()
        return {name: self._head(name, getattr(usual, name)) for name in HEADS if name in takes}

    def build_norm(self) -> Normalization | None:
        """The normalisation of heads."""
        from dualnets.networks.normalizations import BatchNorm, GroupNorm, LayerNorm

        if self.head_norm == "batch":
            return BatchNorm(mean=self.bn_mean, std=self.bn_std)  # type: ignore[arg-type]
        others: dict[str, Normalization | None] = {
            "layer": LayerNorm(),
            "group": GroupNorm(),
            "none": None,
        }
        return others[self.head_norm]

    def build_teacher(self) -> nn.Module:
        """The network that teaches; only settings with trees and networks can build it.

        Raises:
            ValueError: there are none.
        """
        raise ValueError("method teacher-student needs a teacher, which is not built here")

    def build_method(self) -> Method:
        """The method these settings describe.

        Raises:
            ValueError: what the method refuses, flag and value named.
        """
        from dualnets.methods import discover

        kind = discover()[self.method]
        takes = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        given: dict[str, Any] = {}
        for flag, name in FLAGS.get(self.method, {}).items():
            if (value := getattr(self, flag)) not in OWN:
                given[name] = value
        if "criterion" in takes:
            given["criterion"] = self.build_loss()
        if "teacher" in takes:
            given["teacher"] = teacher = self.build_teacher()
            given["readout"] = self._readout(teacher)
        given |= self._heads()
        try:
            return kind(**given)
        except ValueError as error:
            raise ValueError(self.by_flags(str(error))) from None

    def by_flags(self, message: str) -> str:
        """What a method says of its fields, said of the flags that set them."""
        for flag, name in FLAGS.get(self.method, {}).items():
            message = re.sub(rf"(?<![\w-]){name}(?![\w-])", flag.replace("_", "-"), message)
        return message

    def _readout(self, teacher: Any) -> Head:
        from dualnets.networks.heads import Head

        if self.readout == "none":
            return Head()
        if self.readout != USUAL:
            return self._normed(Head(_widths("readout", self.readout)))
        outputs = teacher.units[-1]
        student = cast("NetworkSettings", self)  # what builds a teacher has a network of its own
        return Head() if outputs == student.units else Head((outputs,), bias=False)

    def _head(self, name: str, usual: Any) -> Any:
        """A head by its flag, with the normalisation of all heads."""
        from dualnets.networks.heads import Head

        text = getattr(self, name)
        widths = _widths(name, text)
        if text in ("direct", "copy"):
            from dualnets.methods._direct_predictor import DirectPredictor

            if self.method != "byol":
                raise ValueError(f"predictor {text} is byol's, got method {self.method}")
            return DirectPredictor("root" if text == "direct" else "copy")
        if text == "none":
            return None if (name, self.method) == ("predictor", "byol") else Head()
        head = usual if text == USUAL else Head(widths)
        return self._normed(head) if isinstance(head, Head) else head

    def _normed(self, head: Head) -> Head:
        norm = self.build_norm()
        groups = int(getattr(norm, "groups", 1))
        for units in _normed_widths(head) if self.head_norm in ("layer", "group") else ():
            # one unit less its own mean is 0, whatever it was
            if units % groups or units == groups:
                raise ValueError(
                    f"head-norm {self.head_norm} needs equal groups of 2 units or more, got a layer "
                    f"of {units} units in {groups} group(s)"
                )
        return replace(
            head,
            norm=norm if len(head.widths) > 1 else None,
            last_norm=None if head.last_norm is None else norm,
            weight_standardization=self.weight_standardization,
        )


@functools.cache
def _owners() -> dict[str, set[str]]:
    """Flag -> the methods that it is for; flags of all methods are not among them."""
    from dualnets.methods import discover

    found: dict[str, set[str]] = {}
    for method, kind in discover().items():
        takes = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        flags = [*FLAGS.get(method, {}), *(name for name in HEADS if name in takes)]
        flags += CONTRAST if "criterion" in takes else ()
        flags += ("readout", "teacher_units", "teacher_seed") if "teacher" in takes else ()
        flags += OF_HEADS if {*HEADS, "readout"} & {*flags} else ()
        for flag in flags:
            found.setdefault(flag, set()).add(method)
    return found


def _normed_widths(head: Head) -> tuple[int, ...]:
    """Of the layers that a normalisation follows."""
    return head.widths[:-1] if head.last_norm is None else head.widths


def _widths(name: str, text: str) -> tuple[int, ...]:
    """Widths such as `32-16`; none for words."""
    if text in (USUAL, "none") or (name == "predictor" and text in ("direct", "copy")):
        return ()
    try:
        widths = tuple(int(part) for part in text.split("-"))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        words = "usual, none, direct, copy" if name == "predictor" else "usual, none"
        name = name.replace("_", "-")
        raise ValueError(f"{name} must be {words} or widths such as 32-16, got {text!r}")
    return widths
