"""What data must have to be trained on: a tree, or anything with the four names of `Source`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from hltm.model.nodes import Node
    from hltm.tree import LatentTree


@runtime_checkable
class Source(Protocol):
    """Data other than trees, such as labelled pictures.

    Attributes:
        inputs: X, the numbers of a sample that a network reads.
        digest: a short text that differs where the data differ.
    """

    @property
    def inputs(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def target_classes(self, targets: str | tuple[Node, ...]) -> list[int]:
        """The number of classes of each of T targets.

        Raises:
            ValueError: targets that the data do not have.
        """
        ...

    def rows(
        self,
        *,
        members: tuple[int, ...],
        augment: Any,
        batch: int,
        seed: int,
        stacked: bool,
        device: Any,
        samples: int | None,
    ) -> Any:
        """The rows for an ensemble, of a class derived from `dualnets.training.rows.Rows`.

        Args:
            members, augment, batch, seed, stacked, device: as `Rows` describes them.
            samples: P, for a fixed data set in epochs; None for all there are.

        Raises:
            TypeError: an augmentation of other data.
            ValueError: members or samples that the data do not have.
        """
        ...


def check_shape(network: Any, source: Any) -> None:
    """Check that a network on pictures, which has a `shape`, reads pictures of the source's shape.

    Raises:
        ValueError: trees, or pictures of another shape, such as that of as many numbers.

    Example:
        >>> import dualnets
        >>> from dualnets.images import load
        >>> check_shape(dualnets.conv_net((1, 4, 16), seed=0), load("digits"))
        Traceback (most recent call last):
        ValueError: the pictures have the shape (1, 8, 8), the network reads (1, 4, 16)
    """
    from hltm.tree import LatentTree

    there, read = (getattr(thing, "shape", None) for thing in (source, network))
    if isinstance(source, LatentTree) and isinstance(read, tuple):
        raise ValueError(f"the network reads pictures of the shape {read}, the data are {source!r}")
    if isinstance(there, tuple) and isinstance(read, tuple) and there != read:
        raise ValueError(f"the pictures have the shape {there}, the network reads {read}")


def target_classes(source: LatentTree | Source, targets: str | tuple[Node, ...]) -> list[int]:
    """The number of classes of each of T targets: of a tree's nodes, their states.

    Raises:
        ValueError: targets that the data do not have.

    Example:
        >>> import hltm
        >>> target_classes(hltm.symmetric_binary(depth=2, seed=0), "latents")
        [2, 2, 2]
    """
    from hltm.data.view_batches import target_nodes
    from hltm.tree import LatentTree

    if not isinstance(source, LatentTree):
        return source.target_classes(targets)
    tables = source.tables
    return [int(count) for count in tables.cardinality[target_nodes(tables.topology, targets)]]
