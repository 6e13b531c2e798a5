"""SimSiam: a predictor on one view's projection predicts the other view's, which has no gradient.

Chen and He (arXiv 2011.10566, equations 1 to 4). With z = f(x) the projection, p = h(z) the prediction and
sg the stop-gradient,

    L = D(p1, sg z2) / 2 + D(p2, sg z1) / 2,   D(p, z) = - cos(p, z),

averaged over the batch: BYOL whose target is the online network itself. As in the paper, the projector
has BatchNorm on its output, too, and the predictor is a bottleneck without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dualnets._checks import check_kind, check_switch
from dualnets._lazy import torch
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
from dualnets.networks.heads import BatchMoments, Head
from dualnets.networks.normalizations import BatchNorm

if TYPE_CHECKING:
    from torch import Tensor, nn

PROJECTOR, PREDICTOR = 0, 1  # places of their random numbers


@dataclass(frozen=True)
class SimSiam(Method):
    """One network, a projector, a predictor.

    State: `projector.…` and `predictor.…`, trained except for their running moments.

    Attributes:
        projector: head on the network's outputs; `Head()` for none.
        predictor: head on the projections; `Head()` for none.
        stop_gradient: whether the branch without predictor has no gradient.

    Raises:
        TypeError: a value of another type.
        ValueError: before training, a predictor with other outputs than the projector's, or a head
            with a constant output.

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
        # BYOL's loss is 4 - 2 cos - 2 cos; a quarter of it less 1 is SimSiam's
        return SiameseSpec(
            self.projector,
            self.predictor,
            slow=False,
            ema_decay=_no_average,
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
        below: list[BatchMoments] = []  # of the projector
        above: list[BatchMoments] = []  # of the predictor
        projector, predictor = (strip_prefix(state, name) for name in ("projector", "predictor"))
        z = self.projector(projector, both, passes=2, record=below)  # (S, 2 * B, U)
        p = self.predictor(predictor, z, passes=2, record=above)
        carried = update_running_stats("projector", self.projector, state, below)
        carried |= update_running_stats("predictor", self.predictor, state, above)
        other = z.detach() if self.stop_gradient else z
        # half of two means over B is the mean over 2 B
        return -cosine_similarity(p, other.roll(batch.size, 1)).mean(-1), carried


def _no_average(step: int, steps: int) -> float:
    """The EMA decay of a target that never changes; SimSiam has no target of its own."""
    return 1.0
