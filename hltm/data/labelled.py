"""A torch data set of leaves and labels, for supervised learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from hltm.data.batch_items import BatchItems, batch_type, item_of
from hltm.data.dataset import Places, find_places
from hltm.data.view_batches import Targets, ViewReader
from hltm.sampling.philox import Stream
from hltm.tree import LatentTree


@batch_type
class LabelledBatch(NamedTuple):
    """Inputs and labels of some rows, or of one row, a tuple of two tensors.

    Attributes:
        inputs: `(B, X)` leaf states, or the result of `encode`; `(X,)` for one row.
        targets: `(B,)` int64 states of the root, or `(B, T)` of other targets; one row has no axis B.
    """

    inputs: Tensor
    targets: Tensor


class LabelledDataset(ViewReader, Dataset[LabelledBatch]):
    """A map-style data set for supervised learning: pairs (x, y) of leaves and the states of targets.

    Item i is row start + i of the endless data set of the seed, the states that `tree.sample` draws
    there; a slice or a list of places gives whole arrays: `x, y = data[:]`.

    Args:
        tree, samples, seed, start, targets, encode, stream: as `hltm.ViewDataset`. Any node may be a
            target, since nothing is drawn again.

    Raises:
        ValueError: stacked trees, samples below 1, or unknown targets.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> data = LabelledDataset(tree, samples=1000, seed=1, encode=hltm.encode.signs)
        >>> x, y = data[:]
        >>> x.shape, x.dtype, y.equal(tree.sample(1000, seed=1).root.long())
        (torch.Size([1000, 8]), torch.float32, True)
    """

    def __init__(
        self,
        tree: LatentTree,
        *,
        samples: int,
        seed: int,
        start: int = 0,
        targets: Targets = "root",
        encode: Callable[..., Tensor] | None = None,
        stream: Stream = Stream.DATA,
    ) -> None:
        super().__init__(
            tree, None, samples=samples, seed=seed, start=start, targets=targets, encode=encode,
            stream=stream,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int | Places) -> LabelledBatch:
        places = find_places(index, self.samples)
        (leaves,), targets, _ = self._draw(places.reshape(-1), 0)
        found = LabelledBatch(leaves, targets)
        return found if places.ndim else item_of(found, 0)

    def __getitems__(self, indices: Sequence[int]) -> BatchItems[LabelledBatch]:
        """The items of several places, drawn in one call; a torch loader uses this where it exists."""
        return BatchItems(self[indices], len(indices))

    def _summary(self) -> dict[str, str]:
        found = super()._summary()
        del found["views"]
        return found
