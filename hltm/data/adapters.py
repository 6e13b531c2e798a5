"""Batches of views in the shapes that other self-supervised libraries expect.

Each function is a loader's `collate_fn`, for items of a `ViewDataset` and for whole batches of a
`ViewStream` alike. It does not import the library itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor
from torch.utils.data import default_collate

from hltm.data.view_batches import ViewBatch


def lightly_batch(batch: ViewBatch | Sequence[ViewBatch]) -> tuple[list[Tensor], Tensor, list[str]]:
    """`(views, targets, file names)`, as the loaders of lightly return them.

    Returns:
        C inputs `(B, …)`, targets `(B,)` or `(B, T)`, and, since there are no files, B strings with
        each row's place in the data set.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> data = hltm.ViewDataset(tree, hltm.keep_root(), samples=10, seed=1)
        >>> (a, b), root, names = lightly_batch([data[4], data[7]])
        >>> a.shape, root.shape, names
        (torch.Size([2, 4]), torch.Size([2]), ['4', '7'])
    """
    views, targets, places = _whole(batch)
    return list(views), targets, [str(i) for i in cast(Tensor, places).tolist()]


def solo_learn_batch(batch: ViewBatch | Sequence[ViewBatch]) -> tuple[Tensor, list[Tensor], Tensor]:
    """`(places, views, targets)`, as the loaders of solo-learn return them.

    Returns:
        Places in the data set `(B,)` int64, C inputs `(B, …)`, and targets `(B,)` or `(B, T)`;
        solo-learn's own classifier needs `(B,)`, which are the states of the root.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> data = hltm.ViewStream(tree, hltm.keep_root(), batch=3, seed=1)
        >>> places, (a, b), root = solo_learn_batch(next(iter(data)))
        >>> places, a.shape, root.shape
        (tensor([0, 1, 2]), torch.Size([3, 4]), torch.Size([3]))
    """
    views, targets, places = _whole(batch)
    return cast(Tensor, places), list(views), targets


def _whole(batch: ViewBatch | Sequence[ViewBatch]) -> ViewBatch:
    """The batch itself, or the one that the items come from or make up."""
    return batch if isinstance(batch, ViewBatch) else default_collate(cast(Any, batch))
