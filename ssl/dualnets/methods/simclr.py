"""SimCLR: views of a sample attract each other, views of other samples repel them.

Chen, Kornblith, Norouzi, Hinton (arXiv 2002.05709); here with any loss of `dualnets.losses`, and
without a projection head unless the network has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dualnets.losses import InfoNCE, Loss
from dualnets.methods.protocol import Batch, Method, Needs, State, outputs


@dataclass(frozen=True)
class SimCLR(Method):
    """One network, two views of a sample, and a contrastive loss.

    Attributes:
        criterion: a loss of `dualnets.losses`, given anchor, positive and negatives.
    """

    criterion: Loss = field(default_factory=InfoNCE)

    @property
    def needs(self) -> Needs:
        return Needs(views=2, negatives=self.criterion.negatives)

    @property
    def plain_loss(self) -> Loss:
        return self.criterion

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        anchor, positive, *others = outputs(network, batch)
        negatives = torch.stack(others, dim=1) if others else anchor[:, None][:, :0]
        return self.criterion(anchor, positive, negatives), {}
