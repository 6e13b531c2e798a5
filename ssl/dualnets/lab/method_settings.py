"""The settings of every method as flat fields, made from the methods' own dataclasses.

An option that several methods have under one name is one field; None stands for each method's own default.
Heads are texts, such as `32-16`; `usual` is the method's own head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from dualnets.lab.fields import LATER, Conditions, Stored, given_options, with_options
from dualnets.lab.settings import ContrastSettings, build_norm, by_flags, in_flags, setting
from dualnets.methods import discover
from dualnets.methods._direct_predictor import DirectPredictor
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import NORMS

if TYPE_CHECKING:
    from torch import nn

    from dualnets.lab.settings import NetworkSettings
    from dualnets.methods.protocol import Method

USUAL = "usual"
DIRECT = {"direct": "root", "copy": "copy"}  # predictor's word -> rule of a DirectPredictor
HEADS = ("projector", "view_projector", "predictor")
METHODS: dict[str, type] = discover()
FIELDS = {word: {item.name for item in fields(kind)} for word, kind in METHODS.items()}
# Fields that were part of a cell's identity before they were made from dataclasses, and renamed ones.
STORED = {
    **dict.fromkeys(("predictor_lr", "redraw_every", "redraw", "target", "copy_every"), Stored()),
    **dict.fromkeys(("stop_gradient", "normalized_loss", "symmetric", "labels"), Stored()),
    "predictor_weight_decay": Stored(values={None: -1.0}),
    "ema_decay": Stored("target_momentum"),
    "ema_schedule": Stored("target_schedule", later=True),
    "key_ema_decay": Stored("key_momentum", later=True),
    "bank_negatives": Stored(later=True, explicit=True),
}


def _methods_with(*names: str) -> tuple[str, ...]:
    """The methods whose dataclass has one of these fields."""
    return tuple(word for word, own in FIELDS.items() if own & set(names))


_WITH_HEADS = _methods_with(*HEADS, "readout")
_CONTRASTIVE = {"method": _methods_with("criterion")}
_OWN_PREDICTOR = _methods_with("predictor_lr")  # BYOL, and what derives from it
_TAUGHT = [{"method": _methods_with("teacher")}]


@dataclass(frozen=True, kw_only=True)
@with_options(METHODS, "method", stored=STORED)
@with_options(
    NORMS,
    "head_norm",
    prefix="head_norm_",
    needed={"method": _WITH_HEADS},
    stored={"head_norm_mean": Stored("bn_mean"), "head_norm_std": Stored("bn_std")},
)
class MethodSettings(ContrastSettings):
    """A method, its heads and its options."""

    CONDITIONS: ClassVar[Conditions] = {
        "loss": [_CONTRASTIVE],
        "intra_pair": [_CONTRASTIVE],
        **{
            name: [{**_CONTRASTIVE, **needed} for needed in alternatives]
            for name, alternatives in ContrastSettings.CONDITIONS.items()
        },
        **{name: [{"method": _methods_with(name)}] for name in HEADS},
        "head_norm": [{"method": _WITH_HEADS}],
        "head_weight_standardization": [{"method": _WITH_HEADS}],
        "head_input_norm": [{"method": _WITH_HEADS}],
        **dict.fromkeys(("readout", "teacher_units", "teacher_seed"), _TAUGHT),
    }
    method: str = setting("simclr", "training method", choices=tuple(METHODS))
    projector: str = setting(
        USUAL,
        "layers of the head on the network's outputs: usual (the method's own; none for simclr, moco, swav "
        "and pirl), none, or widths such as 32-16",
    )
    view_projector: str = setting(
        USUAL,
        "layers of the head on the second view: usual (the projector), none, or widths",
        stored=LATER,
    )
    predictor: str = setting(
        USUAL,
        "layers of the head on the projections: usual, none, or widths such as 16 (linear) or 32-16; for "
        "byol and latent-prediction also direct (DirectPred) or copy (DirectCopy)",
    )
    head_norm: str = setting(
        "batch", "normalisation of the heads' hidden layers", choices=(*NORMS, "none")
    )
    head_weight_standardization: bool = setting(
        False,
        "whether the weights of the heads' hidden layers are standardised",
        stored=Stored("weight_standardization"),
    )
    head_input_norm: str = setting(
        "none",
        "normalisation of the heads' inputs, without gain and shift",
        choices=("none", *NORMS),
        stored=LATER,
    )
    readout: str = setting(
        USUAL,
        "layers of the head on the student's outputs: usual (none where it has as many as the teacher, "
        "else one linear layer), none, or widths",
        stored=LATER,
    )
    teacher_units: int = setting(
        5, "units of the teacher, per latent or layer", low=1, high=1 << 16, stored=LATER
    )
    teacher_seed: int = setting(
        1, "number added to the seed for the teacher's weights", low=1, high=1 << 32, stored=LATER
    )

    if TYPE_CHECKING:  # the fields that are made from dataclasses

        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*HEADS, "readout"):
            _widths(name, getattr(self, name))

    def unused(self) -> dict[str, str]:
        found = super().unused()
        heads = [head for head in self._heads().values() if isinstance(head, Head)]
        if heads and not any(map(_normed_widths, heads)):
            names = [
                n
                for n in _head_fields()
                if n != "head_input_norm" or not any(h.widths for h in heads)
            ]
            reason = "heads with hidden layers, and there are none"
            found |= {name: reason for name in names if name not in found}
        if self.method in _OWN_PREDICTOR and self.predictor in ("none", *DIRECT):
            reason = f"a trained predictor, and predictor is {self.predictor}"
            trained = ("predictor_lr", "predictor_weight_decay", "predictor_scale")
            found |= dict.fromkeys((*trained, "redraw_every", "redraw"), reason)
        return found

    def build_teacher(self) -> nn.Module:
        """The network that the student imitates; only settings with trees and networks can build it.

        Raises:
            ValueError: these settings have none.
        """
        raise ValueError("method teacher-student needs settings that build a teacher")

    def build_method(self) -> Method:
        """The method that these settings describe.

        Raises:
            ValueError: a value that the method refuses, with the flag's name.
        """
        kind, takes = METHODS[self.method], FIELDS[self.method]
        given = given_options(kind, self)
        if "criterion" in takes:
            given["criterion"] = self.build_loss()
        if "teacher" in takes:
            given["teacher"] = teacher = self.build_teacher()
            given["readout"] = self._readout(teacher)
        given |= self._heads()
        return in_flags(kind, lambda: kind(**given))

    def by_flags(self, message: str) -> str:
        """A message of the method in which its fields have the names of their flags."""
        return by_flags(METHODS[self.method], message)

    def _heads(self) -> dict[str, Any]:
        """The method's heads by name; the readout of a teacher's student is built with the teacher."""
        takes = FIELDS[self.method]
        if "teacher" in takes:
            return {}
        usual = METHODS[self.method]()
        return {name: self._head(name, getattr(usual, name)) for name in HEADS if name in takes}

    def _head(self, name: str, usual: Any) -> Any:
        """A head by its text, with the normalisation of all heads."""
        text = getattr(self, name)
        if text in DIRECT:
            if self.method not in _OWN_PREDICTOR:
                words = " and ".join(_OWN_PREDICTOR)
                raise ValueError(f"predictor {text} applies to {words}, got method {self.method}")
            return DirectPredictor(DIRECT[text])  # type: ignore[arg-type]
        if text == "none":
            return None if (name, self.method) == ("predictor", "byol") else Head()
        head = usual if text == USUAL else Head(_widths(name, text))
        return self._normed(head) if isinstance(head, Head) else head

    def _readout(self, teacher: Any) -> Head:
        if self.readout == "none":
            return Head()
        if self.readout != USUAL:
            return self._normed(Head(_widths("readout", self.readout)))
        outputs = teacher.units[-1]
        student = cast("NetworkSettings", self)  # settings that build a teacher have a network
        return Head() if outputs == student.units else Head((outputs,), bias=False)

    def _normed(self, head: Head) -> Head:
        """The head with the normalisation of all heads."""
        norm, word = build_norm(self, "head_norm"), self.head_input_norm
        for layer, units in enumerate(_normed_widths(head) if norm is not None else ()):
            norm.check_units(units, f"in layer {layer} of a head")  # type: ignore[union-attr]
        return replace(
            head,
            norm=norm if len(head.widths) > 1 else None,
            last_norm=None if head.last_norm is None else norm,
            weight_standardization=self.head_weight_standardization,
            input_norm=NORMS[word]() if word != "none" and head.widths else None,
        )


def _head_fields() -> list[str]:
    names = [item.name for item in fields(MethodSettings)]
    return [n for n in names if n.startswith("head_")]


def _normed_widths(head: Head) -> tuple[int, ...]:
    """The widths of the layers that have a normalisation."""
    return head.widths[:-1] if head.last_norm is None else head.widths


def _widths(name: str, text: str) -> tuple[int, ...]:
    """Widths of a text such as `32-16`; none for words."""
    words = (USUAL, "none", *(DIRECT if name == "predictor" else ()))
    if text in words:
        return ()
    try:
        widths = tuple(int(part) for part in text.split("-"))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        name = name.replace("_", "-")
        raise ValueError(f"{name} must be {', '.join(words)} or widths such as 32-16, got {text!r}")
    return widths
