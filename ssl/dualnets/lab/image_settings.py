"""Settings of an ensemble that is trained on pictures: a data set, networks, a method, views, probes.

The method, its heads and losses, the optimiser and the norms are those of trees, and so are their flags.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

from dualnets.lab.ablation import NamedSettings
from dualnets.lab.fields import APART, Checked, setting
from dualnets.lab.settings import NormSettings, ProbeSettings, TrainSettings

if TYPE_CHECKING:
    import torch

    from dualnets.images import ImageAugmentation, LabelledImages

# data set -> (C, H, W), so that settings are checked where the data set itself is absent
SHAPES = {
    "digits": (1, 8, 8),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "stl10": (3, 96, 96),
}
NETWORKS = {
    "conv": "conv_net",
    "resnet18": "resnet18",
}  # word -> a function in a module of its name
USUAL = "usual"


@dataclass(frozen=True, kw_only=True)
class PictureSettings(Checked):
    """A data set of pictures, and networks that each have initial weights and views of their own."""

    MEMBERS: ClassVar[str] = "networks"

    data: str = setting("digits", "data set of pictures", choices=tuple(SHAPES))
    data_folder: str = setting(
        "",
        "folder with the data set's files; empty for that of HLTM_DATA or of a package",
        stored=APART,
    )
    members: int = setting(
        12, "networks, each with initial weights and views of its own", low=1, high=1 << 20
    )
    seed: int = setting(0, "of initial weights, views and probes", low=0, high=2**64 - 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), the shape of a picture."""
        return SHAPES[self.data]

    def build_images(self) -> LabelledImages:
        """The data set.

        Raises:
            FileNotFoundError: it is not on this machine; the text says what to put where.
            ValueError: a file is damaged or another one.
        """
        try:
            return _load(self.data, self.data_folder)
        except FileNotFoundError as error:
            text = str(error).replace("--data,", "--data-folder,")
            raise FileNotFoundError(text) from None


@lru_cache(maxsize=2)
def _load(name: str, folder: str) -> LabelledImages:
    from dualnets.images import load

    return load(name, folder or None)


@dataclass(frozen=True, kw_only=True)
class ImageNetworkSettings(NormSettings):
    """One convolutional network per member."""

    network: str = setting(
        "conv",
        "three strided convolutions (conv), or ResNet-18 for small pictures (resnet18)",
        choices=tuple(NETWORKS),
    )
    widths: str = setting(
        USUAL,
        "channels: of every convolution, such as 32-64-80 (conv), or of the first stage, such as 64 "
        "(resnet18); usual for these",
    )
    bias: bool = setting(True, "whether channels have biases")
    normalize: bool = setting(False, "whether the output is scaled to length 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        norm = self.build_network_norm()
        for width in self._widths():
            if norm is not None:
                norm.check_units(width)

    def _widths(self) -> tuple[int, ...]:
        """The widths that are given; none for the usual ones."""
        if self.widths == USUAL:
            return ()
        parts = self.widths.split("-")
        if not all(part.isdecimal() and int(part) for part in parts):
            raise ValueError(
                f"widths must be {USUAL} or whole numbers such as 32-64-80, got {self.widths!r}"
            )
        if self.network == "resnet18" and len(parts) > 1:
            raise ValueError(f"widths of resnet18 are one number, got {self.widths!r}")
        return tuple(map(int, parts))

    def build_network(self, images: Any, seed: int, device: torch.device) -> Any:
        """Untrained networks, as many as there are members; `images` is a data set, or a shape."""
        name, widths = NETWORKS[self.network], self._widths()
        given: dict[str, Any] = (
            {"width": widths[0]} if self.network == "resnet18" and widths else {}
        )
        if self.network == "conv" and widths:
            given = {"widths": widths}
        make = getattr(import_module(f"dualnets.networks.{name}"), name)
        return make(
            images,
            **given,
            members=getattr(self, "members", None),
            norm=self.build_network_norm(),
            bias=self.bias,
            weight_standardization=self.network_weight_standardization,
            normalize=self.normalize,
            seed=seed,
            device=device,
        )


@dataclass(frozen=True, kw_only=True)
class ImageProbeSettings(ProbeSettings):
    """When the networks are probed, and on which pictures."""

    evaluation_samples: int = setting(0, "test pictures per probe; 0 for all", low=0, high=1 << 30)
    probe_samples: int = setting(
        0, "training pictures with labels that probes are fitted to; 0 for all", low=0, high=1 << 30
    )
    few_labels: int = setting(
        100, "labels of the second probe, balanced by class", low=1, high=1 << 30
    )
    splits: int = setting(1, "draws of these few labels per network", low=1, high=1000)

    def probing(self) -> dict[str, Any]:
        """Arguments of `dualnets.images.evaluate`."""
        return {
            "labels": (None, self.few_labels),
            "splits": self.splits,
            "train_samples": self.probe_samples or None,
            "test_samples": self.evaluation_samples or None,
        }


@dataclass(frozen=True, kw_only=True)
class ImageTrainSettings(TrainSettings):
    """An optimiser on views of training pictures; beside `PictureSettings`."""

    augment: str = setting(
        "default",
        "how views differ from a picture: default, simclr, byol, none, or operations joined by +, such as "
        "crop:0.5+flip+blur+light:0.4 (hltm images lists them)",
    )
    samples: int = setting(0, "training pictures, used in epochs; 0 for all", low=0, high=1 << 30)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_augmentation()

    def build_augmentation(self) -> ImageAugmentation:  # type: ignore[override]
        """How views differ from a picture; of a preset what pictures of this shape have."""
        from dualnets.images import parse_views

        return parse_views(self.augment).for_shape(cast("PictureSettings", self).shape)


@dataclass(frozen=True, kw_only=True)
class ImageSettings(  # the first base's defaults count
    ImageTrainSettings, NamedSettings, ImageProbeSettings, ImageNetworkSettings, PictureSettings
):
    """One variant on pictures.

    Raises:
        ValueError: also where the views or the method do not fit the pictures.

    Example:
        >>> settings = ImageSettings(method="byol", members=2, augment="crop:0.5+noise:0.1")
        >>> settings.shape, str(settings.build_augmentation())
        ((1, 8, 8), 'crop:0.5+noise:0.1')
    """

    def check(self) -> None:
        """Start to train one network, as `check_training` does.

        Raises:
            FileNotFoundError: the pictures are not on this machine.
            ValueError: what does not fit, in the flags' names.
        """
        import torch

        images = self.build_images()
        self._check_probes(images)
        one = replace(self, members=1)
        self.check_training(images, one.build_network(images, self.seed, torch.device("cpu")))

    def _check_probes(self, images: LabelledImages) -> None:
        """Raise ValueError where the probes need other numbers of pictures, in the flags' names."""
        for flag, given, part in (
            ("probe-samples", self.probe_samples, images.train),
            ("evaluation-samples", self.evaluation_samples, images.test),
        ):
            if given > len(part.labels):
                raise ValueError(
                    f"{flag} must be at most the {len(part.labels)} pictures of {images.name}, got {given}"
                )
        classes, most = len(images.classes), self.probe_samples or len(images.train.labels)
        if not 2 * classes <= self.few_labels <= most:
            raise ValueError(
                f"few-labels must be in {2 * classes}..{most}, from two for each of {classes} classes to "
                f"all pictures that probes are fitted to, got {self.few_labels}"
            )
