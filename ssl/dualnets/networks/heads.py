"""Heads: small dense networks on a network's outputs, such as projectors and predictors.

A head is a frozen dataclass with pure functions. Its parameters are a flat dict of tensors with the S axis
in front, so that a method can keep them in its state, copy them into a target, or draw them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets._checks import check_kind, check_switch, check_whole
from dualnets._lazy import torch
from dualnets.networks.layers import initial_parameters, linear
from dualnets.networks.normalizations import Moments, Normalization, standardize
from dualnets.networks.running_moments import INPUT, BatchMoments, RunningMoments

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = 256  # the largest number of layers of a head, each with an address of its own


@dataclass(frozen=True)
class Head(RunningMoments):
    """Linear layers with a normalisation and a ReLU between them; without widths it is the identity.

    Attributes:
        widths: units of every layer, the output last: `(32, 16)` is Linear(32), norm, ReLU, Linear(16).
        norm: normalisation of hidden layers' pre-activations; None for none.
        last_norm: normalisation of the output; None for none.
        bias: whether linear layers have biases.
        weight_standardization: whether the weights of hidden layers are standardised.
        input_norm: normalisation of the inputs, which has no gain and shift; None for none.

    Raises:
        TypeError: widths that are not whole numbers, or a norm that is not a normalisation.
        ValueError: a width below 1, more than 256 layers, or a norm of the inputs that is affine or
            stands before no layer.

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
    input_norm: Normalization | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.widths, tuple | list):
            raise TypeError(f"a head's widths must be such as (32, 16), got {self.widths!r}")
        widths = tuple(check_whole("a head's width", width, low=-1) for width in self.widths)
        if any(width < 1 for width in widths) or len(widths) > LAYERS:
            raise ValueError(f"a head has up to {LAYERS} layers of 1 unit or more, got {widths}")
        object.__setattr__(self, "widths", widths)
        for name in ("norm", "last_norm", "input_norm"):
            if getattr(self, name) is not None:
                check_kind(name, getattr(self, name), Normalization, "dualnets.BatchNorm()")
        check_switch("bias", self.bias)
        check_switch("weight_standardization", self.weight_standardization)
        if self.input_norm is not None and (self.input_norm.affine or not widths):
            raise ValueError(
                "input_norm needs layers after it, whose weights stand for its gain and shift, got "
                f"{self.input_norm!r} and widths {widths}"
            )

    def check(self, inputs: int, name: str = "head") -> None:
        """Raise ValueError where the output of some layer would be constant.

        Args:
            inputs: number of input features.
            name: name of the head in the error.

        Raises:
            ValueError: units that a norm cannot divide into equal groups of 2 or more; standardised
                weights of a single input, which are 0.

        Example:
            >>> from dualnets.networks.normalizations import LayerNorm
            >>> Head((1, 4), norm=LayerNorm()).check(8)  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ValueError: LayerNorm needs equal groups of 2 units or more, got 1 units in ...
        """
        if self.input_norm is not None:
            self.input_norm.check_units(inputs, f"at the input of the {name}")
        for layer, width in enumerate(self.widths):
            norm = self.norm_of(layer)
            if norm is not None:
                norm.check_units(width, f"in layer {layer} of the {name}")
            if self.weight_standardization and inputs < 2 and layer < len(self.widths) - 1:
                raise ValueError(
                    f"standardised weights need at least 2 inputs per unit, layer {layer} of the "
                    f"{name} has {inputs}"
                )
            inputs = width

    @property
    def batch_dependent(self) -> bool:
        """Whether the output of a sample depends on the other samples of its batch."""
        norms = [self.norm_of(layer) for layer in range(INPUT, len(self.widths))]
        return any(norm is not None and norm.batch_dependent for norm in norms)

    def outputs(self, inputs: int) -> int:
        """The number of outputs on a given number of inputs."""
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
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Initial parameters, drawn by address from the distribution of torch.nn.Linear.

        Args:
            inputs: number of input features.
            seed: 64 bits.
            members: S addresses.
            place: number of the head within its method, 0..65535, a part of the address.
            version: number of times it was drawn before, a part of the address.
            layers: only these layers, counted from 0; all by default.
            dtype, device: of the parameters; float32 by default.

        Returns:
            Names such as `0.weight` `(S, 1, U_out, U_in)` and `0.bias` `(S, 1, U_out)`; where a
            norm is affine, `0.gain` and `0.shift` `(S, U, 1)`.
        """
        from hltm.sampling.philox import Stream

        dtype = torch.float32 if dtype is None else dtype
        found: dict[str, Tensor] = {}
        only_shapes = torch.device(device).type == "meta"
        for layer, width in enumerate(self.widths):
            if layers is None or layer in layers:
                weight, bias = initial_parameters(
                    (1, width, inputs), seed=seed, members=members, layer=place * LAYERS + layer,
                    bias=self.bias, stream=Stream.PREDICTOR, version=version,
                    device=device if only_shapes else "cpu",
                )  # fmt: skip
                found[f"{layer}.weight"] = weight.to(device, dtype)
                if bias is not None:
                    found[f"{layer}.bias"] = bias.to(device, dtype)
                norm = self.norm_of(layer)
                if norm is not None and norm.affine:
                    ones = torch.ones(len(members), width, 1, dtype=dtype, device=device)
                    found[f"{layer}.gain"], found[f"{layer}.shift"] = ones, torch.zeros_like(ones)
            inputs = width
        return found

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        passes: int = 1,
        *,
        running: bool = False,
        record: list[BatchMoments] | None = None,
    ) -> Tensor:
        """Outputs of every member.

        Args:
            parameters: as returned by `init`, and by `init_running_stats` where `running`.
            inputs: `(S, B, U)`, or several passes `(S, passes * B, U)` one after the other.
            passes: number of passes; each is normalised by batch statistics of its own.
            running: whether BatchNorm uses its running moments, as in evaluation; for a member
                that was trained on no batch it uses the moments of the batch at hand.
            record: a list to which the moments of every BatchNorm are appended, for
                `update_running_stats`.

        Returns:
            `(S, B, U)`, or `(S, passes * B, U)`.

        Raises:
            ValueError: `running` without running moments among the parameters.
        """
        hidden = inputs.transpose(1, 2)  # (S, U, B)
        running = running and any(map(self.batch_norm, range(INPUT, len(self.widths))))
        if (
            self.widths and not running and type(self) is Head
        ):  # a subclass may compute something else
            from dualnets.networks.compiled.head_pass import head_output

            found = head_output(self, parameters, hidden, passes)
            if found is not None:
                if record is not None:
                    samples = hidden.shape[2] // passes
                    record += [BatchMoments(*own, samples) for own in found[1].items()]
                return found[0].transpose(1, 2)

        def normalized(layer: int, values: Tensor) -> Tensor:
            norm, batch_norm = self.norm_of(layer), self.batch_norm(layer)
            if norm is None:
                return values
            if running and batch_norm is not None:
                values = batch_norm(values, self.running_moments(parameters, layer, values))
            else:
                apart = passes > 1 and norm.batch_dependent
                split = values.unflatten(2, (passes, -1)) if apart else values
                if batch_norm is None or record is None:
                    split = norm(split)
                else:
                    split, moments = batch_norm.with_moments(split)
                    kept = (own.detach().flatten(2) for own in moments)
                    record.append(BatchMoments(layer, Moments(*kept), split.shape[-1]))
                values = split.flatten(2) if apart else split
            if norm.affine:
                values = values * parameters[f"{layer}.gain"] + parameters[f"{layer}.shift"]
            return values

        hidden = normalized(INPUT, hidden)
        for layer in range(len(self.widths)):
            weight = parameters[f"{layer}.weight"]
            last = layer == len(self.widths) - 1
            if self.weight_standardization and not last:
                weight = standardize(weight)
            hidden = linear(hidden, weight, parameters.get(f"{layer}.bias"))
            hidden = normalized(layer, hidden)
            if not last:
                hidden = hidden.relu()
        return hidden.transpose(1, 2)

    def parameter_names(self, parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Names of the parameters that a call uses, layer after layer."""
        names: list[str] = []
        for layer in range(len(self.widths)):
            names.append(f"{layer}.weight")
            if f"{layer}.bias" in parameters:
                names.append(f"{layer}.bias")
            norm = self.norm_of(layer)
            if norm is not None and norm.affine:
                names += [f"{layer}.gain", f"{layer}.shift"]
        return tuple(names)

    def norm_of(self, layer: int) -> Normalization | None:
        """The norm of a layer, or of the inputs (INPUT); None for none."""
        if layer == INPUT:
            return self.input_norm
        return self.last_norm if layer == len(self.widths) - 1 else self.norm
