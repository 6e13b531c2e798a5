"""The settings of every method as flat flags; a flag that a method does not have is not used."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from dualnets import methods
from dualnets.settings import ContrastSettings, setting

if TYPE_CHECKING:
    from dualnets.methods.protocol import Method
    from dualnets.networks.heads import Head
    from dualnets.normalizations import Normalization

USUAL = "usual"
PART = ("on", "off", "stop")


@dataclass(frozen=True, kw_only=True)
class MethodSettings(ContrastSettings):
    """A method, its heads and its switches. `usual` is the method's own default."""

    method: str = setting(
        "simclr",
        "how to train",
        choices=tuple(methods.names()),
    )
    projector: str = setting(USUAL, "its layers: usual, none, or widths such as 32-16")
    predictor: str = setting(
        USUAL, "its layers: usual, none, widths such as 16 (linear) or 32-16, direct, copy"
    )
    head_norm: str = setting(
        "batch", "behind hidden layers of heads", choices=("batch", "layer", "group", "none")
    )
    bn_mean: str = setting("on", "whether BatchNorm subtracts its mean; stop: no gradient through it",
                           choices=PART)  # fmt: skip
    bn_std: str = setting("on", "whether BatchNorm divides by its deviation; stop as for the mean",
                          choices=PART)  # fmt: skip
    weight_standardization: bool = setting(False, "of hidden layers of heads")
    predictor_lr: float = setting(1.0, "times the learning rate; 0: never trained", low=0)
    predictor_weight_decay: float = setting(-1.0, "of the predictor; -1 for that of all", low=-1)
    redraw_every: int = setting(0, "updates between two redraws of the predictor; 0: never", low=0)
    redraw: str = setting("all", "layers that are redrawn", choices=("all", "top", "bottom"))
    target: str = setting(
        "ema", "target network of byol", choices=("ema", "online", "random", "copy")
    )
    target_momentum: float = setting(0.99, "of the moving average", low=0, high=1)
    copy_every: int = setting(0, "updates between two hard copies, for target copy", low=0)
    stop_gradient: bool = setting(True, "whether the target's side gets no gradient")
    normalized_loss: bool = setting(True, "cosine loss of byol, or plain squares")
    symmetric: bool = setting(True, "both directions of byol summed")
    labels: str = setting("root", "what is labelled, for supervised", choices=("root", "latents"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_norm != "batch" and (self.bn_mean, self.bn_std) != ("on", "on"):
            raise ValueError(
                f"bn-mean and bn-std are parts of head-norm batch, got head-norm {self.head_norm}"
            )
        for name in ("projector", "predictor"):
            _widths(name, getattr(self, name))

    def build_norm(self) -> Normalization | None:
        """The normalisation of heads."""
        from dualnets.normalizations import BatchNorm, GroupNorm, LayerNorm

        if self.head_norm == "batch":
            return BatchNorm(mean=self.bn_mean, std=self.bn_std)  # type: ignore[arg-type]
        others: dict[str, Normalization | None] = {
            "layer": LayerNorm(),
            "group": GroupNorm(),
            "none": None,
        }
        return others[self.head_norm]

    def build_method(self) -> Method:
        """The method these settings describe.

        Raises:
            ValueError: what the method refuses.
        """
        from dualnets.methods import discover

        kind = discover()[self.method]
        usual = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        given: dict[str, Any] = {
            "criterion": self.build_loss(),
            "temperature": self.temperature,
            "predictor_lr": self.predictor_lr,
            "redraw_every": self.redraw_every,
            "redraw": self.redraw,
            "target": self.target,
            "momentum": self.target_momentum,
            "copy_every": self.copy_every,
            "stop_gradient": self.stop_gradient,
            "normalized": self.normalized_loss,
            "symmetric": self.symmetric,
            "targets": self.labels,
        }
        if self.predictor_weight_decay >= 0:
            given["predictor_weight_decay"] = self.predictor_weight_decay
        for name in ("projector", "predictor"):
            if name in usual:
                given[name] = self._head(name, getattr(kind(), name))
        return kind(**{name: value for name, value in given.items() if name in usual})

    def _head(self, name: str, usual: Any) -> Any:
        """A head by its flag, with the normalisation of all heads."""
        from dualnets.networks.heads import Head

        text = getattr(self, name)
        widths = _widths(name, text)
        if text in ("direct", "copy"):
            from dualnets.methods._direct_predictor import DirectPredictor

            return DirectPredictor("root" if text == "direct" else "copy")
        if text == "none":
            return None if name == "predictor" else Head()
        head = usual if text == USUAL else Head(widths)
        return self._normed(head) if isinstance(head, Head) else head

    def _normed(self, head: Head) -> Head:
        norm = self.build_norm()
        return replace(
            head,
            norm=norm if len(head.widths) > 1 else None,
            last_norm=None if head.last_norm is None else norm,
            weight_standardization=self.weight_standardization,
        )


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
        raise ValueError(f"{name} must be {words} or widths such as 32-16, got {text!r}")
    return widths
