"""The moments that a head's BatchNorms collect in training, and use in evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dualnets._lazy import no_grad, torch
from dualnets.networks.normalizations import BatchNorm, Moments, Normalization

if TYPE_CHECKING:
    from torch import Tensor

INPUT = -1  # the number of the norm of the inputs; its running moments are under the name `input`
RUNNING = ("mean", "variance", "batches")  # last names of running statistics


class BatchMoments(NamedTuple):
    """The moments of the batches that one BatchNorm normalised in one call.

    Attributes:
        layer: number of the layer, counted from 0, or INPUT.
        moments: `(S, U, passes)` each.
        samples: B, the samples of each pass.
    """

    layer: int
    moments: Moments
    samples: int

    def of_first_pass(self) -> BatchMoments:
        """The same without the other passes."""
        return self._replace(moments=Moments(*(own[..., :1] for own in self.moments)))


class RunningMoments:
    """What a head with BatchNorms keeps of its batches; the head says which norm each layer has."""

    widths: tuple[int, ...]

    def norm_of(self, layer: int) -> Normalization | None:
        """The norm of a layer, or of the inputs (INPUT)."""
        raise NotImplementedError

    def init_running_stats(
        self,
        members: int,
        like: Tensor,
        layers: Sequence[int] | None = None,
        inputs: int | None = None,
    ) -> dict[str, Tensor]:
        """Running moments of every BatchNorm before the first batch, for evaluation.

        They are kept beside the parameters, under the same layers' names. A part that is off has none.

        Args:
            members: S.
            like: a tensor that gives dtype and device.
            layers: only these layers, counted from 0; all by default.
            inputs: number of input features, for the norm of the inputs; None for the layers' only.

        Returns:
            Names such as `0.mean` and `0.variance` `(S, U, 1)` and `0.batches` `(S,)` int64; of the norm
            of the inputs `input.mean` and so on.
        """
        found: dict[str, Tensor] = {}
        units = {} if inputs is None else {INPUT: inputs}
        units |= {n: width for n, width in enumerate(self.widths) if layers is None or n in layers}
        for layer, width in units.items():
            norm, name = self.batch_norm(layer), _name(layer)
            if norm is None:
                continue
            zeros = torch.zeros(members, width, 1, dtype=like.dtype, device=like.device)
            if norm.mean != "off":
                found[f"{name}.mean"] = zeros
            if norm.std != "off":
                found[f"{name}.variance"] = torch.ones_like(zeros)
            found[f"{name}.batches"] = torch.zeros(members, dtype=torch.int64, device=like.device)
        return found

    def batch_norm(self, layer: int) -> BatchNorm | None:
        """A layer's BatchNorm, unless both of its parts are off."""
        norm = self.norm_of(layer)
        if not isinstance(norm, BatchNorm) or norm.mean == norm.std == "off":
            return None
        return norm

    @no_grad
    def update_running_stats(
        self, parameters: Mapping[str, Tensor], record: Sequence[BatchMoments]
    ) -> dict[str, Tensor]:
        """The running moments after an update, from the batches of all its passes.

        They move once per update, towards the mean over its passes in any order: by the norm's
        momentum, or by 1/n in update n while that is larger. So they are the plain mean of the first
        few updates and do not depend on their initial value. The variance is the unbiased one.

        Args:
            parameters: with the running moments before the update.
            record: the moments that calls within this update have appended.

        Returns:
            The running moments, as new tensors; nothing where there are none.

        Raises:
            ValueError: a batch of one sample, which has no variance.
        """
        found: dict[str, Tensor] = {}
        for layer in sorted({own.layer for own in record}):
            norm, calls = self.batch_norm(layer), [own for own in record if own.layer == layer]
            assert norm is not None
            samples = calls[0].samples
            if samples < 2:
                raise ValueError("a BatchNorm in training needs at least 2 samples, got 1")
            mean, variance = (
                parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
                for parts in zip(*(own.moments for own in calls), strict=True)
            )
            name = _name(layer)
            batches = parameters[f"{name}.batches"] + 1
            step = (1 / batches.to(mean.dtype)).clamp_min(norm.momentum).view(-1, 1, 1)
            found[f"{name}.batches"] = batches
            new = {"mean": mean.mean(2, keepdim=True), "variance": variance.mean(2, keepdim=True)}
            new["variance"] *= samples / (samples - 1)
            for part, value in new.items():
                old = parameters.get(f"{name}.{part}")
                if old is not None:  # a part that is off has none
                    found[f"{name}.{part}"] = old.lerp(value.to(old.dtype), step.to(old.dtype))
        return found

    def running_moments(
        self, parameters: Mapping[str, Tensor], layer: int, values: Tensor
    ) -> Moments:
        """A layer's running moments; for members trained on no batch, those of the batch at hand."""
        name = _name(layer)
        if f"{name}.batches" not in parameters:
            raise ValueError(
                f"layer {name} of a head needs running moments in evaluation, but its parameters "
                f"are only {sorted(parameters)}: see Head.init_running_stats"
            )
        own = BatchNorm.moments(values)
        fresh = (parameters[f"{name}.batches"] == 0).view(-1, 1, 1)
        mean, variance = (
            torch.where(fresh, now, parameters.get(f"{name}.{part}", now))
            for part, now in zip(("mean", "variance"), own, strict=True)
        )
        return Moments(mean, variance)


def _name(layer: int) -> str:
    """The first part of the names of a layer's running moments."""
    return "input" if layer == INPUT else str(layer)
