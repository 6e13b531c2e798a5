"""The connection K of a weight: how the output of a network moves when that weight does.

For a weight w of a network f and a sample x, K(x) = (∂f/∂w)ᵀ, of shape (P, n): P entries of w by n
outputs (theory, Section 1). In a bias-free ReLU network K_l(x) = f_{l-1}(x) ⊗ J_l(x)ᵀ, with J_l the
derivative of the output with respect to the pre-activations of layer l.

**How vec is laid out**: as torch's `reshape(-1)`, rows first, so entry (o, i) of a layer's weight is
number o · fan_in + i and K_l = J_lᵀ ⊗ f_{l-1}; papers stack columns, which permutes the P rows of K.
In an ensemble of blocks it is entry (v, o, i) of each member: the blocks come one after the other.

Products with K need no K: Kᵀ v is a derivative in direction v (forward mode), K u a derivative
against the cotangent u (reverse mode).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dualnets._checks import check_whole

MAX_ENTRIES = 1 << 26  # of an array that is asked for explicitly: 512 MiB in float64


class Connection:
    """K of one weight of a network at given inputs, as an array or as products; made by `connection`.

    Where the network has the S axis, so have all arrays; otherwise none has. Products accept and
    return the network's dtype.

    Attributes:
        name: the parameter's.
        weight: `(S, P)` its entries.
        inputs: what the network reads.
        outputs: `(S, B, n)` the network's.
    """

    def __init__(self, network: nn.Module, name: str, inputs: Tensor, block: int | None) -> None:
        self._network, self.name, self.inputs = network, name, inputs
        self.block = block
        self._fixed = {key: value.detach() for key, value in network.named_parameters()}
        parameter = self._fixed[name]
        members = getattr(network, "members", None)
        self._shape = tuple(parameter.shape)
        self._entries = parameter.reshape(1 if members is None else len(members), -1)
        self.stacked = shown_members(network) is not None
        self._part = self.part_of(block)
        self._weight = self._entries[:, self._part]
        self._check_finite("inputs", inputs)
        for key, value in self._fixed.items():
            self._check_finite(f"weight {key!r} of the network", value)
        self._outputs = self._first_outputs()
        axis = int(self.stacked)
        if self._outputs.ndim != 3 or self._outputs.shape[1] != inputs.shape[axis]:
            shape = tuple(self._outputs.shape[0 if self.stacked else 1 :])
            raise ValueError(
                f"the network's output has shape {shape} for {inputs.shape[axis]} samples, expected "
                "one row per sample"
            )
        self._check_finite("outputs of the network", self._outputs)

    @property
    def network(self) -> nn.Module:
        """The network, in the dtype that was asked for."""
        return self._network

    @property
    def weight(self) -> Tensor:
        """`(P,)` or `(S, P)` the weight, flat."""
        return self._public(self._weight)

    @property
    def outputs(self) -> Tensor:
        """`(B, n)` or `(S, B, n)` what the network makes of the inputs."""
        return self._public(self._outputs)

    @property
    def size(self) -> int:
        """P, the number of entries of the weight (of the block)."""
        return self._weight.shape[1]

    @property
    def members(self) -> int:
        """S, 1 where there is no such axis."""
        return len(self._weight)

    def __repr__(self) -> str:
        where = "" if self.block is None else f", block {self.block}"
        rows, outputs = self._outputs.shape[1:]
        return f"Connection({self.name}{where}: {rows} samples, K {self.size} x {outputs})"

    def part_of(self, block: int | None) -> slice:
        """Which entries of the whole layer's weight are one block's; all of them for None.

        Raises:
            ValueError: a block that the layer does not have.
        """
        size = self._entries.shape[1]
        if block is None:
            return slice(0, size)
        ensemble = getattr(self._network, "members", None) is not None
        blocks = self._shape[1] if ensemble and len(self._shape) == 4 else 1
        block = check_whole("block", block, low=0)
        if block >= blocks:
            raise ValueError(
                f"block must be in 0..{blocks - 1} for weight {self.name!r}, got {block}"
            )
        return slice(block * size // blocks, (block + 1) * size // blocks)

    def transposed(self, direction: Tensor) -> Tensor:
        """Kᵀ v of every sample: `(P,)` to `(B, n)`, in one forward-mode pass."""
        return self._public(self.transposed_S(self._inside(direction, (self.size,))))

    def summed(self, cotangent: Tensor) -> Tensor:
        """Σ over samples of K u: `(B, n)` to `(P,)`, in one reverse-mode pass."""
        shape = tuple(self._outputs.shape[1:])
        return self._public(self.summed_S(self._inside(cotangent, shape)))

    def times(self, cotangent: Tensor) -> Tensor:
        """K u of every sample: `(B, n)` to `(B, P)`.

        Raises:
            ValueError: a result of more than 2^26 numbers.
        """
        shape = tuple(self._outputs.shape[1:])
        self._check_size(self.members * shape[0] * self.size, "K u of every sample")
        return self._public(self.times_S(self._inside(cotangent, shape)))

    def explicit(self, *, most_entries: int = MAX_ENTRIES) -> Tensor:
        """K itself: `(B, P, n)` or `(S, B, P, n)`.

        Raises:
            ValueError: more entries than `most_entries`.
        """
        rows, outputs = self._outputs.shape[1:]
        count = self.members * rows * self.size * outputs
        self._check_size(count, f"K of {rows} samples, {self.size} x {outputs} each", most_entries)
        return self._public(torch.stack([self.column_S(u) for u in range(outputs)], dim=-1))

    # the same with S in front throughout

    def transposed_S(self, direction: Tensor) -> Tensor:
        """`(S, P)` to `(S, B, n)`."""
        with warnings.catch_warnings():
            # torch's forward mode warns of its own use of torch.jit when it is first used
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            return jvp(lambda w: self._call(w, self.inputs), (self._weight,), (direction,))[1]

    def summed_S(self, cotangent: Tensor) -> Tensor:
        """`(S, B, n)` to `(S, P)`."""
        pull = vjp(lambda w: self._call(w, self.inputs), self._weight)[1]
        return pull(cotangent.to(self._weight.dtype))[0]

    def times_S(self, cotangent: Tensor) -> Tensor:
        """`(S, B, n)` to `(S, B, P)`."""
        axis = int(self.stacked)

        def of_one(weight: Tensor, sample: Tensor, u: Tensor) -> Tensor:
            return (self._call(weight, sample.unsqueeze(axis))[:, 0] * u).sum()

        each = vmap(grad(of_one), in_dims=(None, axis, 1), out_dims=1)
        return each(self._weight, self.inputs, cotangent)

    def column_S(self, output: int) -> Tensor:
        """`(S, B, P)`, the column of K that belongs to one output: its gradient, sample by sample."""
        chosen = torch.zeros_like(self._outputs)
        chosen[..., output] = 1
        return self.times_S(chosen)

    def _call(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """`(S, B, n)` outputs with this weight, `(S, P)`, in the place of the network's own."""
        before, after = self._entries[:, : self._part.start], self._entries[:, self._part.stop :]
        whole = torch.cat([before, weight, after], dim=1) if self.block is not None else weight
        parameters = {**self._fixed, self.name: whole.view(self._shape)}
        found = functional_call(self._network, parameters, (inputs,))
        if not isinstance(found, Tensor):
            raise TypeError(f"the network's output must be a tensor, got {type(found).__name__}")
        return found if self.stacked else found[None]

    def _first_outputs(self) -> Tensor:
        """`(S, B, n)`, where a network that cannot read its inputs, or gives no tensor, is told."""
        shape = tuple(self.inputs.shape)
        try:
            found = self._call(self._weight, self.inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(f"the network cannot read inputs of shape {shape}: {error}") from error
        return found

    def _inside(self, given: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not isinstance(given, Tensor):
            raise TypeError(f"expected a tensor, got {type(given).__name__}")
        expected = (*([self.members] if self.stacked else []), *shape)
        if tuple(given.shape) != expected:
            raise ValueError(f"expected an array of shape {expected}, got {tuple(given.shape)}")
        given = given.to(self._weight.device, self._weight.dtype)
        return given if self.stacked else given[None]

    def _public(self, found: Tensor) -> Tensor:
        return found if self.stacked else found[0]

    @staticmethod
    def _check_finite(what: str, given: Tensor) -> None:
        lost = int((~given.isfinite()).sum())
        if lost:
            raise ValueError(
                f"{what} must be finite, {lost} of {given.numel()} numbers are NaN or infinite"
            )

    @staticmethod
    def _check_size(count: int, what: str, most: int = MAX_ENTRIES) -> None:
        if count > most:
            raise ValueError(
                f"{what}: {count} numbers, more than the {most} that are made; use products "
                "with K, fewer samples or a block"
            )


def connection(
    network: nn.Module,
    layer: int | str,
    inputs: Tensor,
    *,
    block: int | None = None,
    dtype: torch.dtype | None = None,
) -> Connection:
    """K of one weight of a network at the given inputs.

    Args:
        network: of this library, or any torch module whose output is one row per sample; in
            evaluation mode where it has batch statistics or dropout, for K(x) is of one sample.
        layer: of a network here, 1 (lowest) .. L; of any module, the name of a parameter.
        inputs: `(B, ...)`, or `(S, B, X)` for a network with the S axis. A torch module reads numbers in
            its weight's dtype; integers that it cannot read as numbers, such as tokens, as int64.
        block: of a network of blocks: the weight of one block (one node of the tree) alone.
        dtype: compute in this dtype, with a copy of the network; float64 makes identities exact.

    Raises:
        TypeError: what is no torch module, or inputs that are no tensor.
        ValueError: a layer, weight or block that the network does not have, a network whose output
            for a sample depends on its batch, no samples, or inputs, weights or outputs that are
            not finite.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> network = dualnets.tree_network(tree, units=4, seed=1)
        >>> found = connection(network, 2, tree.sample(5, seed=2).leaves, dtype=torch.float64)
        >>> found
        Connection(weights.1: 5 samples, K 64 x 4)
        >>> found.explicit().shape
        torch.Size([5, 64, 4])
        >>> torch.allclose(found.transposed(found.weight), found.outputs)  # Kᵀ w = f
        True
    """
    check_module(network)
    name = _parameter_name(network, layer)
    _check_one_sample_at_a_time(network)
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
    if inputs.is_complex():
        raise TypeError(f"inputs must be real, got {inputs.dtype}")
    axis = int(shown_members(network) is not None)
    if inputs.ndim <= axis or inputs.shape[axis] < 1:
        raise ValueError(f"inputs have shape {tuple(inputs.shape)}, expected at least one sample")
    network = in_dtype(network, layer, dtype)
    if getattr(network, "members", None) is None:
        inputs = _as_read(network, dict(network.named_parameters())[name], inputs)
    return Connection(network, name, inputs, block)


def in_dtype(network: nn.Module, layer: int | str, dtype: torch.dtype | None) -> nn.Module:
    """The network, or a copy of it in another dtype than the weight's, whose caller makes it once."""
    check_module(network)
    weight = dict(network.named_parameters())[_parameter_name(network, layer)]
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating torch.dtype or None, got {dtype!r}")
    return network if dtype in (None, weight.dtype) else copy.deepcopy(network).to(dtype)


def check_module(network: nn.Module) -> None:
    """Raise TypeError unless the network is a torch module."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch module, got {type(network).__name__}")


def shown_members(network: nn.Module) -> tuple[int, ...] | None:
    """The members' addresses where a network's arrays have the S axis, else None."""
    members: tuple[int, ...] | None = getattr(network, "members", None)
    return members if getattr(network, "stacked", False) else None


def _as_read(network: nn.Module, weight: Tensor, inputs: Tensor) -> Tensor:
    """Inputs as a torch module reads them: numbers in the weight's dtype, tokens as int64."""
    numbers = inputs.to(weight.device, weight.dtype)
    if inputs.is_floating_point():
        return numbers
    try:
        with torch.no_grad():
            network(numbers[:1])
    except (RuntimeError, IndexError, TypeError) as refusal:
        tokens = inputs.to(weight.device, torch.int64)
        try:
            with torch.no_grad():
                network(tokens[:1])
        except (RuntimeError, IndexError, TypeError) as other:
            raise ValueError(
                f"the network reads these inputs, {inputs.dtype} of shape {tuple(inputs.shape)}, "
                f"neither as numbers ({refusal}) nor as indices ({other})"
            ) from refusal
        return tokens
    return numbers


def _parameter_name(network: nn.Module, layer: int | str) -> str:
    """The name of a weight given by layer or name."""
    known = [name for name, _ in network.named_parameters()]
    if isinstance(layer, int) and not isinstance(layer, bool):
        depth = len(weights) if (weights := _block_weights(network)) is not None else 0
        if not depth:
            raise ValueError(
                f"layer {layer} is for networks of this library; name one of {', '.join(known)}"
            )
        if not 1 <= layer <= depth:
            raise ValueError(f"layer must be in 1..{depth}, got {layer}")
        return f"weights.{layer - 1}"
    if layer not in known:
        raise ValueError(f"unknown weight {layer!r}, expected one of {', '.join(known)}")
    return str(layer)


def _block_weights(network: nn.Module) -> Any:
    found = getattr(network, "weights", None)
    return found if isinstance(found, nn.ParameterList) else None


def _check_one_sample_at_a_time(network: nn.Module) -> None:
    for name, module in network.named_modules():
        mixes = isinstance(module, (_BatchNorm, _DropoutNd))
        always = isinstance(module, _BatchNorm) and module.running_mean is None
        if always or (mixes and module.training):
            raise ValueError(
                f"{type(module).__name__} {name!r} makes an output depend on more than its own "
                "sample; call eval() first"
            )
    if getattr(network, "batch_dependent", False) and network.training:
        raise ValueError("the network's outputs depend on the batch in training; call eval() first")
