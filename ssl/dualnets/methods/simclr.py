"""SimCLR: views of a sample attract each other, views of different samples repel each other.

Chen, Kornblith, Norouzi, Hinton (arXiv 2002.05709, equation 1); here with any loss of
`dualnets.methods.losses`, on the network's outputs or those of a projector. With f(x) these outputs, an
anchor a, its positive + and negatives k, for example InfoNCE:

    L = -τ log( exp(-r_+/τ) / (exp(-r_+/τ) + Σ_k exp(-r_k/τ)) ),   r_k = ||f(a) - f(k)||^2 / 2.

The paper's loss is NTXent, whose negatives are the rest of the batch, on outputs of length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets._checks import check_kind
from dualnets._lazy import torch
from dualnets.methods._projector import projections
from dualnets.methods.losses import InfoNCE, Loss
from dualnets.methods.protocol import Batch, Method, Needs, State
from dualnets.networks.heads import Head

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class SimCLR(Method):
    """One network, two views of a sample, and a contrastive loss.

    State: `projector.…`, trained except for its running moments.

    Attributes:
        criterion: a loss of `dualnets.methods.losses`.
        projector: head on the network's outputs; `Head()` for none.

    Raises:
        TypeError: a criterion or projector of another type, such as a class.
        ValueError: before training, a projector with a constant output.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> method = SimCLR(dualnets.NTXent(0.5), projector=Head((8, 4)))
        >>> final = dualnets.train(network, method, trees, augment=hltm.keep_root(), steps=10,
        ...                        batch=32, optimizer=dualnets.SGD(lr=0.1), seed=2)
        >>> sorted(final.state)
        ['projector.0.bias', 'projector.0.weight', 'projector.1.bias', 'projector.1.weight']
    """

    criterion: Loss = InfoNCE()  # noqa: RUF009, frozen
    projector: Head = Head()  # noqa: RUF009, frozen

    def __post_init__(self) -> None:
        given: object = self.criterion
        if isinstance(given, type) or not callable(given):
            raise TypeError(f"criterion must be such as dualnets.InfoNCE(), got {given!r}")
        if not hasattr(given, "negatives"):
            raise TypeError(
                f"criterion {getattr(given, '__name__', given)!r} needs an attribute negatives, the number "
                "of fresh negatives per anchor that it is called with, e.g. 1"
            )
        check_kind("projector", self.projector, Head, "dualnets.Head((32, 16))")

    @property
    def needs(self) -> Needs:
        original = getattr(self.criterion, "original", False)
        return Needs(views=2, negatives=self.criterion.negatives, original=original)

    @property
    def plain_loss(self) -> Loss | None:
        return None if self.projector.widths else self.criterion

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        found, carried = projections(self.projector, network, state, batch)
        anchor, positive, *others = found
        samples = [others.pop(0)] if self.needs.original else []
        if len(others) == 1:
            negatives = others[0][:, None]
        else:  # (S, H, B, U), in batch-last storage; none is a slice of nothing
            stored = [own.mT for own in others]
            negatives = torch.stack(stored, dim=1).mT if stored else anchor[:, None][:, :0]
        return self.criterion(anchor, positive, negatives, *samples), carried
