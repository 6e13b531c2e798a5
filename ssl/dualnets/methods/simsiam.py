"""SimSiam: a predictor on one view's projection foretells the other view's; gradients stop there.

Chen and He (arXiv 2011.10566). With z = f(x) behind a projector and p = h(z) a predictor,

    L = D(p1, sg z2) / 2 + D(p2, sg z1) / 2,   D(p, z) = - cos(p, z),

averaged over the batch: BYOL whose target is the online network itself. As in the paper, the
projector has BatchNorm on its output too, the predictor is a bottleneck without it, and a switch
lets gradients through the second branch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dualnets._checks import check_kind, check_switch
from dualnets.methods._cosine import cosine_similarity
from dualnets.methods.protocol import (
    Batch,
    Method,
    Needs,
    State,
    TrainContext,
    init_head,
    output_units,
    outputs,
    strip_prefix,
    update_running_stats,
    with_prefix,
)
from dualnets.methods.siamese import SiameseSpec
from dualnets.networks.heads import Head, Seen
from dualnets.networks.normalizations import BatchNorm

PROJECTOR, PREDICTOR = 0, 1  # places of their random numbers


@dataclass(frozen=True)
class SimSiam(Method):
    """One network, a projector, a predictor.

    State: `projector.…` and `predictor.…`, trained but for their running moments.

    Attributes:
        projector: on the network's outputs; `Head()` for none.
        predictor: on the projections; `Head()` for none.
        stop_gradient: False lets gradients flow through both branches.

    Raises:
        TypeError: a head or switch of another kind.
        ValueError: before training, a predictor with other outputs than the projector's, or a head
            with a layer that says nothing.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, bias=True, seed=1)
        >>> final = dualnets.train(network, SimSiam(), trees, augment=hltm.keep_root(), steps=10,
        ...                        batch=32, optimizer=dualnets.SGD(lr=0.05, momentum=0.9), seed=2)
        >>> bool((final.losses.abs() <= 1).all())
        True
    """

    projector: Head = field(
        default_factory=lambda: Head((32, 32, 16), norm=BatchNorm(), last_norm=BatchNorm())
    )
    predictor: Head = field(default_factory=lambda: Head((4, 16), norm=BatchNorm()))
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        for name in ("projector", "predictor"):
            check_kind(name, getattr(self, name), Head, "dualnets.Head((32, 16))")
        check_switch("stop_gradient", self.stop_gradient)

    @property
    def needs(self) -> Needs:
        return Needs(views=2)

    @property
    def siamese(self) -> SiameseSpec:
        # a quarter of BYOL's 4 - 2 cos - 2 cos, less 1
        return SiameseSpec(
            self.projector,
            self.predictor,
            slow=False,
            ema_decay=_never,
            stop_gradient=self.stop_gradient,
            scale=0.25,
            offset=-1.0,
        )

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where the predictor's outputs are not as many as the projector's."""
        super().check(network, setup)
        units = self.projector.outputs(output_units(network, setup))
        if self.predictor.outputs(units) != units:
            raise ValueError(
                f"the predictor must have as many outputs as the projector, {units}, got "
                f"{self.predictor.outputs(units)}"
            )
        self.predictor.check(units, "predictor")

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        inputs = output_units(network, setup)
        units = self.projector.outputs(inputs)
        projector = init_head(self.projector, inputs, network, setup, PROJECTOR)
        predictor = init_head(self.predictor, units, network, setup, PREDICTOR)
        return with_prefix("projector", projector) | with_prefix("predictor", predictor)

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        both = torch.cat(list(outputs(network, batch)), dim=1)
        below: list[Seen] = []
        above: list[Seen] = []
        z = self.projector(
            strip_prefix(state, "projector"), both, passes=2, seen=below
        )  # (S, 2 * B, U)
        p = self.predictor(strip_prefix(state, "predictor"), z, passes=2, seen=above)
        carried = update_running_stats("projector", self.projector, state, below)
        carried |= update_running_stats("predictor", self.predictor, state, above)
        other = z.detach() if self.stop_gradient else z
        # half of two means over B is the mean over 2 B
        return -cosine_similarity(p, other.roll(batch.size, 1)).mean(-1), carried


def _never(step: int, steps: int) -> float:
    """How much of itself a target that is not there keeps."""
    return 1.0
