"""Heads: small dense networks on top, such as projectors and predictors, as settings and pure functions.

A head's parameters are a flat dict of tensors with the S axis in front, so that a method keeps them
in its state, copies them into a target, or draws them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dualnets._checks import check_kind, check_switch, check_whole
from dualnets.networks.layers import initial_parameters, linear
from dualnets.networks.normalizations import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    Moments,
    Normalization,
    standardize,
)
from hltm.sampling.philox import Stream

LAYERS = 256  # addresses of a head's layers
RUNNING = ("mean", "variance", "batches")  # names of running moments


class Seen(NamedTuple):
    """The batches that a layer's BatchNorm has seen in one call: `(S, U, passes)` moments, of B samples."""

    layer: int
    moments: Moments
    samples: int

    def of_first_pass(self) -> Seen:
        """Without the other passes."""
        return self._replace(moments=Moments(*(own[..., :1] for own in self.moments)))


@dataclass(frozen=True)
class Head:
    """Linear layers with a normalisation and a ReLU between them; no width at all is the identity.

    Attributes:
        widths: of every layer, the output last: `(32, 16)` is Linear(32), norm, ReLU, Linear(16).
        norm: behind every hidden linear layer; None for none.
        last_norm: behind the last linear layer; None for none.
        bias: whether linear layers have biases.
        weight_standardization: whether the weights of hidden layers are standardised.

    Raises:
        TypeError: widths that are no whole numbers, or a norm that is none of the three.
        ValueError: a width below 1, or more than 256 layers.

    Example:
        >>> head = Head((8, 4))
        >>> parameters = head.init(5, seed=0, members=(0, 1), place=0)
        >>> head(parameters, torch.zeros(2, 7, 5)).shape
        torch.Size([2, 7, 4])
    """

    widths: tuple[int, ...] = ()
    norm: Normalization | None = None
    last_norm: Normalization | None = None
    bias: bool = True
    weight_standardization: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.widths, tuple | list):
            raise TypeError(f"a head's widths must be such as (32, 16), got {self.widths!r}")
        widths = tuple(check_whole("a head's width", width, low=-1) for width in self.widths)
        if any(width < 1 for width in widths) or len(widths) > LAYERS:
            raise ValueError(f"a head has up to {LAYERS} layers of 1 unit or more, got {widths}")
        object.__setattr__(self, "widths", widths)
        for name in ("norm", "last_norm"):
            if getattr(self, name) is not None:
                check_kind(name, getattr(self, name), Normalization, "dualnets.BatchNorm()")
        check_switch("bias", self.bias)
        check_switch("weight_standardization", self.weight_standardization)

    def check(self, inputs: int, name: str = "head") -> None:
        """Raise ValueError where some layer would say the same of everything.

        Args:
            inputs: features below.
            name: of the head, for the error.

        Raises:
            ValueError: groups of units that are no equal shares or hold one unit, which a
                normalisation over units would set to zero; standardised weights of a single input.

        Example:
            >>> Head((1, 4), norm=LayerNorm()).check(8)  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ValueError: LayerNorm needs equal groups of 2 units or more, got 1 units in ...
        """
        below = inputs
        for layer, width in enumerate(self.widths):
            where = f"behind layer {layer} of the {name}"
            norm = self._norm(layer)
            if isinstance(norm, LayerNorm | GroupNorm):
                groups = norm.groups if isinstance(norm, GroupNorm) else 1
                if width % groups or width == groups:
                    raise ValueError(
                        f"{type(norm).__name__} needs equal groups of 2 units or more, got {width} "
                        f"units in {groups} group(s) {where}"
                    )
            if self.weight_standardization and below < 2 and layer < len(self.widths) - 1:
                raise ValueError(
                    f"standardised weights need at least 2 inputs per unit, layer {layer} of the "
                    f"{name} has {below}"
                )
            below = width

    @property
    def batch_dependent(self) -> bool:
        """Whether an output depends on the other samples of its batch."""
        norms = [self.norm] * (len(self.widths) - 1) + [self.last_norm] * bool(self.widths)
        return any(norm is not None and norm.batch_dependent for norm in norms)

    def outputs(self, inputs: int) -> int:
        """How many outputs the head has on so many inputs."""
        return self.widths[-1] if self.widths else inputs

    def init(
        self,
        inputs: int,
        *,
        seed: int,
        members: Sequence[int],
        place: int,
        version: int = 0,
        layers: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Initial parameters by address, drawn as torch.nn.Linear draws them.

        Args:
            inputs: features below.
            seed: 64 bits.
            members: S addresses.
            place: which head of the method, 0..65535, a part of the address.
            version: how many times it was drawn before.
            layers: only these, counted from 0; all by default.
            dtype, device: of the parameters.

        Returns:
            Names such as `0.weight` `(S, 1, U_out, U_in)` and `0.bias` `(S, 1, U_out)`; where a
            norm is affine, `0.gain` and `0.shift` `(S, U, 1)`.
        """
        found: dict[str, Tensor] = {}
        only_shapes = torch.device(device).type == "meta"
        for layer, width in enumerate(self.widths):
            if layers is None or layer in layers:
                weight, bias = initial_parameters(
                    (1, width, inputs),
                    seed=seed,
                    members=members,
                    layer=place * LAYERS + layer,
                    bias=self.bias,
                    stream=Stream.PREDICTOR,
                    version=version,
                    device=device if only_shapes else "cpu",
                )
                found[f"{layer}.weight"] = weight.to(device, dtype)
                if bias is not None:
                    found[f"{layer}.bias"] = bias.to(device, dtype)
                norm = self._norm(layer)
                if norm is not None and norm.affine:
                    ones = torch.ones(len(members), width, 1, dtype=dtype, device=device)
                    found[f"{layer}.gain"], found[f"{layer}.shift"] = ones, torch.zeros_like(ones)
            inputs = width
        return found

    def moments(
        self, members: int, like: Tensor, layers: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Running moments of every BatchNorm before the first batch, for evaluation.

        They belong beside the parameters, under the same names. A part that is off has none.

        Args:
            members: S.
            like: whose dtype and device they have.
            layers: only these, counted from 0; all by default.

        Returns:
            Names such as `0.mean` and `0.variance` `(S, U, 1)` and `0.batches` `(S,)` int64.
        """
        found: dict[str, Tensor] = {}
        for layer, width in enumerate(self.widths):
            norm = self._remembers(layer)
            if norm is None or (layers is not None and layer not in layers):
                continue
            zeros = torch.zeros(members, width, 1, dtype=like.dtype, device=like.device)
            if norm.mean != "off":
                found[f"{layer}.mean"] = zeros
            if norm.std != "off":
                found[f"{layer}.variance"] = torch.ones_like(zeros)
            found[f"{layer}.batches"] = torch.zeros(members, dtype=torch.int64, device=like.device)
        return found

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        passes: int = 1,
        *,
        running: bool = False,
        seen: list[Seen] | None = None,
    ) -> Tensor:
        """Outputs of every member, by the batch's own statistics where a norm asks for them.

        Args:
            parameters: as `init` makes them, and as `moments` where they are `running`.
            inputs: `(S, B, U)`, or several passes `(S, passes * B, U)` one after the other.
            passes: how many; each has batch statistics of its own.
            running: whether a BatchNorm goes by its running moments, as in evaluation; that of a
                member that has seen no batch goes by the batch at hand.
            seen: to which the moments of every BatchNorm's batches are added, for `moved`.

        Returns:
            `(S, B, U)`, or `(S, passes * B, U)`.

        Raises:
            ValueError: running moments that are not among the parameters.
        """
        hidden = inputs.transpose(1, 2)  # (S, U, B)
        for layer in range(len(self.widths)):
            weight = parameters[f"{layer}.weight"]
            last = layer == len(self.widths) - 1
            if self.weight_standardization and not last:
                weight = standardize(weight)
            hidden = linear(hidden, weight, parameters.get(f"{layer}.bias"))
            norm = self._norm(layer)
            if norm is not None:
                if running and self._remembers(layer) is not None:
                    hidden = norm(hidden, self._running(parameters, layer, hidden))  # type: ignore[call-arg]
                else:
                    apart = passes > 1 and norm.batch_dependent
                    split = hidden.unflatten(2, (passes, -1)) if apart else hidden
                    known = None if seen is None else self._remembers(layer)
                    if known is None or seen is None:
                        split = norm(split)
                    else:
                        split, moments = known.with_moments(split)
                        kept = (own.detach().flatten(2) for own in moments)
                        seen.append(Seen(layer, Moments(*kept), split.shape[-1]))
                    hidden = split.flatten(2) if apart else split
                if norm.affine:
                    hidden = hidden * parameters[f"{layer}.gain"] + parameters[f"{layer}.shift"]
            if not last:
                hidden = hidden.relu()
        return hidden.transpose(1, 2)

    @torch.no_grad()
    def moved(self, parameters: Mapping[str, Tensor], seen: Sequence[Seen]) -> dict[str, Tensor]:
        """Running moments after an update, from the batches of its passes.

        They move once per update, to the mean over its passes, in whatever order these come: by the
        norm's momentum, or by 1/n in update n while that is more, so that they are the plain mean of
        the first few updates and forget where they began. The variance is the unbiased one.

        Args:
            parameters: with the running moments before.
            seen: what calls of this update have added.

        Returns:
            The running moments, as new tensors; nothing where there are none.

        Raises:
            ValueError: a batch of one sample, whose own moments say nothing.
        """
        found: dict[str, Tensor] = {}
        for layer in sorted({own.layer for own in seen}):
            norm, calls = self._remembers(layer), [own for own in seen if own.layer == layer]
            assert norm is not None
            samples = calls[0].samples
            if samples < 2:
                raise ValueError("a BatchNorm in training needs at least 2 samples, got 1")
            mean, variance = (
                parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
                for parts in zip(*(own.moments for own in calls), strict=True)
            )
            batches = parameters[f"{layer}.batches"] + 1
            step = (1 / batches.to(mean.dtype)).clamp_min(norm.momentum).view(-1, 1, 1)
            found[f"{layer}.batches"] = batches
            new = {"mean": mean.mean(2, keepdim=True), "variance": variance.mean(2, keepdim=True)}
            new["variance"] *= samples / (samples - 1)
            for name, value in new.items():
                old = parameters.get(f"{layer}.{name}")
                if old is not None:  # a part that is off has none
                    found[f"{layer}.{name}"] = old.lerp(value.to(old.dtype), step.to(old.dtype))
        return found

    def _running(self, parameters: Mapping[str, Tensor], layer: int, values: Tensor) -> Moments:
        """A layer's running moments; for members that have seen no batch, those of the batch at hand."""
        if f"{layer}.batches" not in parameters:
            raise ValueError(
                f"layer {layer} of a head goes by its running moments in evaluation, but its "
                f"parameters have none, only {sorted(parameters)}: see Head.moments"
            )
        own = BatchNorm.moments(values)
        fresh = (parameters[f"{layer}.batches"] == 0).view(-1, 1, 1)
        mean, variance = (
            torch.where(fresh, now, parameters.get(f"{layer}.{name}", now))
            for name, now in zip(("mean", "variance"), own, strict=True)
        )
        return Moments(mean, variance)

    def _remembers(self, layer: int) -> BatchNorm | None:
        """A layer's BatchNorm, where it does anything at all."""
        norm = self._norm(layer)
        if not isinstance(norm, BatchNorm) or norm.mean == norm.std == "off":
            return None
        return norm

    def _norm(self, layer: int) -> Normalization | None:
        return self.last_norm if layer == len(self.widths) - 1 else self.norm
