"""SimSiam: a predictor on one view's projection predicts the other view's, which has no gradient.

Chen and He (arXiv 2011.10566, equations 1 to 4). With z = f(x) the projection, p = h(z) the prediction and
sg the stop-gradient,

    L = D(p1, sg z2) / 2 + D(p2, sg z1) / 2,   D(p, z) = - cos(p, z),

averaged over the batch: BYOL whose target is the online network itself. As in the paper, the projector
has BatchNorm on its output, too, and the predictor is a bottleneck without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets._checks import check_kind, check_switch
from dualnets.methods._cosine import cosine_similarity
from dualnets.methods._projector import joined
from dualnets.methods.protocol import (
    Batch,
    Method,
    State,
    TrainContext,
    apply_head,
    init_head,
    output_units,
    outputs,
)
from dualnets.methods.siamese import SiameseSpec, check_predictor
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm

if TYPE_CHECKING:
    from torch import Tensor, nn

PREDICTOR = 1  # place of its random numbers


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

    projector: Head = Head((32, 32, 16), norm=BatchNorm(), last_norm=BatchNorm())  # noqa: RUF009, frozen
    predictor: Head = Head((4, 16), norm=BatchNorm())  # noqa: RUF009, frozen
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        for name in ("projector", "predictor"):
            check_kind(name, getattr(self, name), Head, "dualnets.Head((32, 16))")
        check_switch("stop_gradient", self.stop_gradient)

    @property
    def siamese(self) -> SiameseSpec:
        # BYOL's loss is 4 - 2 cos - 2 cos; a quarter of it less 1 is SimSiam's
        return SiameseSpec(
            self.projector, self.predictor, separate_target=False, stop_gradient=self.stop_gradient,
            scale=0.25, offset=-1.0,
        )  # fmt: skip

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where the predictor's outputs are not as many as the projector's."""
        super().check(network, setup)
        units = self.projector.outputs(output_units(network, setup))
        check_predictor(self.predictor, units)

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        units = self.projector.outputs(output_units(network, setup))
        predictor = init_head("predictor", self.predictor, units, network, setup, PREDICTOR)
        return super().init(network, setup) | predictor

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        both = joined(outputs(network, batch))
        z, carried = apply_head("projector", self.projector, state, both, 2)  # (S, 2 * B, U)
        p, above = apply_head("predictor", self.predictor, state, z, 2)
        other = z.detach() if self.stop_gradient else z
        # half of two means over B is the mean over 2 B
        return -cosine_similarity(p, other.roll(batch.size, 1)).mean(-1), carried | above
