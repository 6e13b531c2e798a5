"""A figure of what an augmentation does: pictures, and views of each beside it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from dualnets._checks import check_kind, check_whole
from dualnets.images import PRESETS, ImageAugmentation, LabelledImages
from dualnets.lab.report.style import house_style
from hltm._names import PLAIN, brief
from hltm.sampling.philox import Stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL, GAP = 0.92, 0.035  # inches, the side of a picture; space between pictures, as a share of it
APART = 0.22  # of a cell, between the pictures themselves and their views
LINE = 96  # characters


def views_figure(
    images: LabelledImages,
    augmentation: ImageAugmentation,
    *,
    seed: int,
    pictures: int = 6,
    views: int = 6,
) -> Figure:
    """A row for each picture: the picture, then its views as a training with this seed reads them.

    The pictures are the first training pictures of the first classes; member 0, views 1, 2, ….

    Args:
        images: a data set.
        augmentation: e.g. `dualnets.images.parse_views("crop:0.5+flip")`.
        seed: 64 bits.
        pictures, views: how many rows, and how many views in each.

    Raises:
        TypeError, ValueError: a wrong kind of argument, a number below 1, or operations on colour that are no
            preset's for grey pictures.

    Example:
        >>> from dualnets.images import load, parse_views
        >>> figure = views_figure(load("digits"), parse_views("default"), seed=0, pictures=2, views=3)
        >>> len(figure.axes)
        8
    """
    check_kind("images", images, LabelledImages, "dualnets.images.load('digits')")
    check_kind(
        "augmentation", augmentation, ImageAugmentation, "dualnets.images.parse_views('flip')"
    )
    check_whole("pictures", pictures, low=1)
    check_whole("views", views, low=1)
    suited = augmentation.for_shape(images.shape)
    rows, columns = pictures_and_views(images, suited, seed=seed, pictures=pictures, views=views)

    import matplotlib.pyplot as plt

    names = [brief(images.classes[images.train.labels[row]], 16) for row in rows]
    text = textwrap.wrap(spelled(augmentation, suited), LINE)
    widths = [1, APART, *[1] * views]
    left, top = 0.3 + 0.078 * max(map(len, names)), 0.72 + 0.17 * len(text)
    width, height = left + CELL * (sum(widths) + 0.1), top + CELL * (len(rows) + 0.1)
    with house_style():
        figure = plt.figure(figsize=(width, height))
        grid = figure.add_gridspec(
            len(rows), len(widths), width_ratios=widths, wspace=GAP, hspace=GAP,
            left=left / width, right=1 - 0.1 * CELL / width,
            bottom=0.1 * CELL / height, top=1 - top / height,
        )  # fmt: skip
        for at, column in enumerate(columns):
            for row, picture in enumerate(column):
                axes = figure.add_subplot(grid[row, at + (at > 0)])
                show(axes, picture)
                if row == 0:
                    axes.set_title(
                        f"view {at}" if at else "picture", loc="center", fontsize=9,
                        fontweight="normal" if at else "bold", color="0.35" if at else "black", pad=5,
                    )  # fmt: skip
                if at == 0:
                    axes.set_ylabel(
                        names[row],
                        rotation=0,
                        ha="right",
                        va="center",
                        labelpad=8,
                        fontsize=9,
                        **PLAIN,
                    )
        figure.text(
            left / width, 1 - 0.12 / height, f"Views of {brief(images.name)}", ha="left", va="top",
            fontsize=12, fontweight="bold", **PLAIN,
        )  # fmt: skip
        figure.text(
            left / width, 1 - 0.38 / height, "\n".join(text), ha="left", va="top", fontsize=9,
            color="0.35", linespacing=1.35, **PLAIN,
        )  # fmt: skip
    return figure


def pictures_and_views(
    images: LabelledImages, augmentation: ImageAugmentation, *, seed: int, pictures: int, views: int
) -> tuple[list[int], list[np.ndarray]]:
    """The places of the first training pictures of the first classes; `(N, C, H, W)` these and each view."""
    rows = _one_of_each(images.train.labels, pictures)
    shown = np.ascontiguousarray(images.train.images[rows])
    address: Any = {"seed": seed, "stream": Stream.DATA, "members": (0,), "rows": rows}
    drawn = [augmentation.views(shown, view=v, **address)[0].numpy() for v in range(1, views + 1)]
    return rows, [shown / np.float32(255), *drawn]


def _one_of_each(labels: np.ndarray, count: int) -> list[int]:
    """Places of `count` pictures: the first of every class, then the second of every class, and so on."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    turn = np.concatenate([np.arange(size) for size in sizes])  # which one of its class
    return order[np.lexsort((labels[order], turn))][:count].tolist()


def show(axes: Any, picture: np.ndarray) -> None:
    """One picture `(C, H, W)` in 0..1, in colour where it has three channels, else its first."""
    pixels = picture.clip(0, 1)
    if len(picture) == 3:
        axes.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
    else:
        axes.imshow(pixels[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color="0.8", linewidth=0.4)  # a white picture ends, too


def spelled(asked: ImageAugmentation, done: ImageAugmentation) -> str:
    """The operations, behind the name of a preset."""
    operations = " + ".join(map(str, done.operations)) or "every view is the picture"
    return f"{asked}: {operations}" if asked.name in PRESETS else operations
