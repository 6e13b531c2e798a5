"""Latent prediction: a slow copy's representation of the whole sample, predicted where a view misses leaves.

data2vec (arXiv 2202.03555, Section 3) and I-JEPA (arXiv 2301.08243): with z the sample, v a view of it that
misses the leaves M, h_x the student's projection at the position of leaf x, p a predictor, h' the target
network's and sg the stop-gradient,

    L = 2 - 2 cos(p(h_x(v)), sg h'_x(z))   or   1/2 || p(h_x(v)) - sg h'_x(z) ||^2,

the mean over all x in M of a member's batch. What is predicted is thus not a state but what the target
network makes of all leaves, those beside it included. After every update the target moves as in BYOL.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dualnets._checks import check_whole
from dualnets._lazy import torch
from dualnets.methods._leaf_prediction import (
    check_leaves_out,
    has_positions,
    is_missing,
    leaf_passes,
    leaf_states,
    masked_mean,
    position_outputs,
)
from dualnets.methods.byol import BYOL
from dualnets.methods.protocol import (
    Batch,
    Needs,
    State,
    TrainContext,
    sample_parameter,
    strip_prefix,
    update_running_stats,
)
from dualnets.networks.running_moments import BatchMoments

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LatentPrediction(BYOL):
    """BYOL in one direction, from a view that misses leaves to the sample itself, position by position.

    A network with one output vector predicts the target's vector, and is trained as by
    `BYOL(symmetric=False)` whose second view is the sample; the view may then miss nothing. A network with
    outputs at positions is compared at the positions of missing leaves. Its heads read every position as
    a sample of its own, so that BatchNorm has the statistics of all positions of a batch. A member whose
    batch misses no leaf has the loss 0 in that step.

    State: that of BYOL, and for a network with positions `states` `(S, X)` int64, the numbers of states of
    the leaves. data2vec is `LatentPrediction(projector=Head(), predictor=Head((width,)), target_layers=…)`
    with the width of the network.

    Attributes:
        target_layers: number of top layers of the target network whose activations at a position, each
            normalised over its units, are averaged; 0 for its output. It needs a network with positions.

    Raises:
        TypeError: a value of another type.
        ValueError: as BYOL; before training, for a network with positions, data other than trees or an
            augmentation that leaves out no leaf; layers that the network does not have.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.random_hierarchy(v=4, m=2, s=2, L=2, classes=2, members=2, seed=0)
        >>> network = dualnets.mlp(trees, units=16, bias=True, seed=1)
        >>> final = dualnets.train(network, LatentPrediction(), trees, augment=hltm.drop_leaves(0.3),
        ...                        steps=10, batch=32, optimizer=dualnets.Adam(lr=0.01), seed=2)
        >>> final.losses.shape
        torch.Size([2])
    """

    target_layers: int = 0
    symmetric: ClassVar[bool] = False  # type: ignore[misc] # a view is predicted from nothing

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("target_layers", self.target_layers, low=0)

    @property
    def needs(self) -> Needs:
        return Needs(views=1, original=True)

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where there is nothing to predict, or too few layers."""
        super().check(network, setup)
        if has_positions(network):
            leaf_states(setup)
            check_leaves_out(setup, needed=True)
            layers = int(network.depth)  # type: ignore[arg-type]
            if self.target_layers > layers:
                raise ValueError(
                    f"target_layers must be at most the network's {layers} layers, got "
                    f"{self.target_layers}"
                )
        elif self.target_layers:
            raise ValueError(
                f"target_layers={self.target_layers} needs a network with outputs at positions, such as a "
                f"transformer, got {type(network).__name__}"
            )

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        state = super().init(network, setup)
        if has_positions(network):
            states = torch.tensor(leaf_states(setup), device=sample_parameter(network).device)
            state["states"] = states.repeat(len(network.members), 1)  # type: ignore[arg-type]
        return state

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        if not has_positions(network):
            return super().loss(network, state, batch)
        size = batch.size
        view, sample = (
            batch._replace(leaves=own)
            for own in batch.leaves.split(size, dim=batch.leaves.ndim - 2)
        )
        missing = is_missing(leaf_passes(view)[0], state["states"])  # (S, B, X)
        (online,) = position_outputs(network, view)
        record: list[BatchMoments] = []
        own = strip_prefix(state, "projector")
        projections = self.projector(own, online.flatten(1, 2), record=record)  # (S, B * X, U)
        predictions, carried = self._predictions(state, projections, projections, 1)
        distances = self._distances(predictions, self._target_projections(network, state, sample))
        losses = masked_mean(distances.unflatten(1, (size, -1)), missing)
        return losses, carried | update_running_stats("projector", self.projector, state, record)

    def _target_projections(self, network: nn.Module, state: State, sample: Batch) -> Tensor:
        """`(S, B * X, U)`, the target's projections at the positions of the whole sample."""
        is_own = self.target != "online"
        parameters = self._target_network(network, state) if is_own else None
        projector = strip_prefix(state, "target.projector" if is_own else "projector")
        with torch.no_grad() if is_own or self.stop_gradient else nullcontext():
            (found,) = position_outputs(network, sample, parameters, self.target_layers)
            return self.projector(projector, found.flatten(1, 2))
