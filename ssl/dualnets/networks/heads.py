"""Heads: small dense networks on top, such as projectors and predictors, as settings and pure functions.

A head's parameters are a flat dict of tensors with the S axis in front, so that a method keeps them
in its state, copies them into a target, or draws them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dualnets.checks import check_kind, check_switch, check_whole
from dualnets.layers import initial_parameters, linear
from dualnets.normalizations import GroupNorm, LayerNorm, Normalization, standardize
from hltm.philox import Stream

LAYERS = 256  # addresses of a head's layers


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

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor, passes: int = 1) -> Tensor:
        """Outputs of every member, by the batch's own statistics where a norm asks for them.

        Args:
            parameters: as `init` makes them.
            inputs: `(S, B, U)`, or several passes `(S, passes * B, U)` one after the other.
            passes: how many; each has batch statistics of its own.

        Returns:
            `(S, B, U)`, or `(S, passes * B, U)`.
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
                apart = passes > 1 and norm.batch_dependent
                hidden = (
                    norm(hidden.unflatten(2, (passes, -1))).flatten(2) if apart else norm(hidden)
                )
                if norm.affine:
                    hidden = hidden * parameters[f"{layer}.gain"] + parameters[f"{layer}.shift"]
            if not last:
                hidden = hidden.relu()
        return hidden.transpose(1, 2)

    def _norm(self, layer: int) -> Normalization | None:
        return self.last_norm if layer == len(self.widths) - 1 else self.norm
