"""The connection K of a weight: the derivative of a network's output with respect to that weight.

For a weight w of a network f and a sample x (docs/theory.md, Section 1):

    K(x) = (∂f/∂w)ᵀ                      shape (P, n): P entries of w, n outputs       (Equation 1.1)
    K_l(x) = f_{l-1}(x) ⊗ J_l(x)ᵀ        in a bias-free ReLU network                   (Equation 1.2)
    K(x)ᵀ w = f(x)                       where f is homogeneous in w                   (Equation 1.3)

with f_{l-1} the activations below layer l and J_l the derivative of the output with respect to the
pre-activations of layer l.

**The order of entries** (vec) is that of torch's `reshape(-1)`, rows first: entry (o, i) of a layer's
weight, from input i to output o, has number o · fan_in + i, so here K_l = J_lᵀ ⊗ f_{l-1}. The paper
stacks columns, which permutes the P rows of K. In a network of blocks the order is that of (v, o, i):
the blocks v come one after the other.

**Products with K need no K**: Kᵀ v is a Jacobian-vector product of f in the direction v of the weight
(forward mode), K u is a vector-Jacobian product with the cotangent u (reverse mode).

Axes: S member, B sample, P entry of the weight, n output.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from dualnets._checks import check_whole
from dualnets.theory.updates.any_network import (
    as_read,
    batch_axis,
    check_module,
    check_one_sample_at_a_time,
    in_dtype,
    parameter_name,
    stacked_members,
)
from dualnets.theory.updates.fitting import check_finite

MAX_ENTRIES = 1 << 26  # of an array that is made explicitly: 512 MiB in float64


class Connection:
    """K of one weight of a network at given inputs, as an array or as products; made by `connection`.

    Arrays have the S axis if and only if the network has it. Products accept and return the network's
    dtype. Names that end in `_S` always have the S axis, of length 1 where the network has none.

    Attributes:
        network: the network, in the dtype that was asked for.
        name: the parameter's name.
        block: the block whose weight it is, or None for the whole layer's.
        inputs: `(B, ...)` or `(S, B, ...)` the network's inputs.
        stacked: whether there is an S axis.
        weight_S: `(S, P)` the entries of the weight.
        outputs_S: `(S, B, n)` the network's outputs.
    """

    def __init__(self, network: nn.Module, name: str, inputs: Tensor, block: int | None) -> None:
        self.network, self.name, self.inputs, self.block = network, name, inputs, block
        self._fixed = {key: value.detach() for key, value in network.named_parameters()}
        parameter = self._fixed[name]
        members = getattr(network, "members", None)
        self._shape = tuple(parameter.shape)
        self._entries = parameter.reshape(1 if members is None else len(members), -1)
        self.stacked = stacked_members(network) is not None
        self._slice = self.entries_of(block)
        self.weight_S = self._entries[:, self._slice]
        check_finite("inputs", inputs)
        for key, value in self._fixed.items():
            check_finite(f"weight {key!r} of the network", value)
        self.outputs_S = self._first_outputs()
        samples = inputs.shape[batch_axis(network)]
        if self.outputs_S.ndim != 3 or self.outputs_S.shape[1] != samples:
            shape = tuple(self.outputs_S.shape[0 if self.stacked else 1 :])
            raise ValueError(
                f"the network's output has shape {shape} for {samples} samples, expected "
                "one row per sample"
            )
        check_finite("outputs of the network", self.outputs_S)

    @property
    def weight(self) -> Tensor:
        """`(P,)` or `(S, P)` the entries of the weight."""
        return self.without_axis(self.weight_S)

    @property
    def outputs(self) -> Tensor:
        """`(B, n)` or `(S, B, n)` the network's outputs f."""
        return self.without_axis(self.outputs_S)

    @property
    def size(self) -> int:
        """P, the number of entries of the weight (of the block)."""
        return self.weight_S.shape[1]

    @property
    def members(self) -> int:
        """S, 1 where there is no such axis."""
        return len(self.weight_S)

    @property
    def is_part_of_layer(self) -> bool:
        """Whether the weight is that of one block among several."""
        return self.size < self._entries.shape[1]

    def __repr__(self) -> str:
        where = "" if self.block is None else f", block {self.block}"
        samples, outputs = self.outputs_S.shape[1:]
        return f"Connection({self.name}{where}: {samples} samples, K {self.size} x {outputs})"

    def entries_of(self, block: int | None) -> slice:
        """The entries of the whole layer's weight that are one block's; all of them for None.

        Raises:
            TypeError: a block that is not a whole number.
            ValueError: a block that the layer does not have.
        """
        size = self._entries.shape[1]
        if block is None:
            return slice(0, size)
        ensemble = getattr(self.network, "members", None) is not None
        blocks = self._shape[1] if ensemble and len(self._shape) == 4 else 1
        block = check_whole("block", block, low=0)
        if block >= blocks:
            raise ValueError(
                f"block must be in 0..{blocks - 1} for weight {self.name!r}, got {block}"
            )
        return slice(block * size // blocks, (block + 1) * size // blocks)

    def transposed(self, direction: Tensor) -> Tensor:
        """Kᵀ v of every sample: `(P,)` to `(B, n)`, in one forward-mode pass."""
        return self.without_axis(self.transposed_S(self.with_axis(direction, (self.size,))))

    def summed(self, cotangent: Tensor) -> Tensor:
        """Σ over samples of K u: `(B, n)` to `(P,)`, in one reverse-mode pass."""
        shape = tuple(self.outputs_S.shape[1:])
        return self.without_axis(self.summed_S(self.with_axis(cotangent, shape)))

    def times(self, cotangent: Tensor) -> Tensor:
        """K u of every sample: `(B, n)` to `(B, P)`.

        Raises:
            ValueError: a result of more than 2^26 numbers.
        """
        shape = tuple(self.outputs_S.shape[1:])
        self._check_size(self.members * shape[0] * self.size, "K u of every sample")
        return self.without_axis(self.times_S(self.with_axis(cotangent, shape)))

    def explicit(self, *, most_entries: int = MAX_ENTRIES) -> Tensor:
        """K itself: `(B, P, n)` or `(S, B, P, n)`.

        Raises:
            ValueError: more entries than `most_entries`.
        """
        samples, outputs = self.outputs_S.shape[1:]
        count = self.members * samples * self.size * outputs
        self._check_size(
            count, f"K of {samples} samples, {self.size} x {outputs} each", most_entries
        )
        columns = [self.column_S(u) for u in range(outputs)]  # n times (S, B, P)
        return self.without_axis(torch.stack(columns, dim=-1))

    # the same with the S axis in front throughout

    def transposed_S(self, direction: Tensor) -> Tensor:
        """Kᵀ v: `(S, P)` to `(S, B, n)`."""
        with warnings.catch_warnings():
            # torch's forward mode warns of its own use of torch.jit when it is first used
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            return jvp(lambda w: self._call(w, self.inputs), (self.weight_S,), (direction,))[1]

    def summed_S(self, cotangent: Tensor) -> Tensor:
        """Σ_i K_i u_i: `(S, B, n)` to `(S, P)`."""
        pull = vjp(lambda w: self._call(w, self.inputs), self.weight_S)[1]
        return pull(cotangent.to(self.weight_S.dtype))[0]

    def times_S(self, cotangent: Tensor) -> Tensor:
        """K_i u_i: `(S, B, n)` to `(S, B, P)`."""
        axis = int(self.stacked)

        # The gradient of f(x_i)·u_i is K_i u_i; vmap takes it for each sample on its own.
        def of_one_sample(weight: Tensor, sample: Tensor, u: Tensor) -> Tensor:
            return (self._call(weight, sample.unsqueeze(axis))[:, 0] * u).sum()

        each = vmap(grad(of_one_sample), in_dims=(None, axis, 1), out_dims=1)
        return each(self.weight_S, self.inputs, cotangent)

    def column_S(self, output: int) -> Tensor:
        """`(S, B, P)` the column of K that belongs to one output: that output's gradient."""
        chosen = torch.zeros_like(self.outputs_S)
        chosen[..., output] = 1
        return self.times_S(chosen)

    # from and to public arrays, which have the S axis only where the network has it

    def with_axis(self, given: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A caller's array of this shape, on the weight's device, with the S axis in front.

        Raises:
            TypeError: no tensor.
            ValueError: a tensor of another shape.
        """
        if not isinstance(given, Tensor):
            raise TypeError(f"expected a tensor, got {type(given).__name__}")
        expected = (*([self.members] if self.stacked else []), *shape)
        if tuple(given.shape) != expected:
            raise ValueError(f"expected an array of shape {expected}, got {tuple(given.shape)}")
        given = given.to(self.weight_S.device, self.weight_S.dtype)
        return given if self.stacked else given[None]

    def without_axis(self, found: Tensor) -> Tensor:
        """The array as callers see it: without the S axis where the network has none."""
        return found if self.stacked else found[0]

    def _call(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """`(S, B, n)` outputs with this weight, `(S, P)`, in the place of the network's own."""
        before, after = self._entries[:, : self._slice.start], self._entries[:, self._slice.stop :]
        whole = torch.cat([before, weight, after], dim=1) if self.block is not None else weight
        parameters = {**self._fixed, self.name: whole.view(self._shape)}
        found = functional_call(self.network, parameters, (inputs,))
        if not isinstance(found, Tensor):
            raise TypeError(f"the network's output must be a tensor, got {type(found).__name__}")
        return found if self.stacked else found[None]

    def _first_outputs(self) -> Tensor:
        """`(S, B, n)` outputs; the first call, so it explains inputs that the network cannot read."""
        try:
            return self._call(self.weight_S, self.inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            shape = tuple(self.inputs.shape)
            raise ValueError(f"the network cannot read inputs of shape {shape}: {error}") from error

    @staticmethod
    def _check_size(count: int, what: str, most: int = MAX_ENTRIES) -> None:
        if count > most:
            raise ValueError(
                f"{what}: {count} numbers, more than the largest allowed array of {most}; use products "
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
    """K = (∂f/∂w)ᵀ of one weight of a network at the given inputs (docs/theory.md, Equation 1.1).

    Args:
        network: of this library, or any torch module whose output is one row per sample. It must be
            in evaluation mode if it has batch statistics or dropout, since K(x) is of one sample.
        layer: 1 (lowest) .. L in a network of this library; in any module, the name of a parameter.
        inputs: `(B, ...)`, or `(S, B, X)` for a network with the S axis. A torch module reads them in
            its weight's dtype; integers that it cannot read as numbers, such as tokens, as int64.
        block: the weight of one block (one node of the tree) alone, in a network of blocks.
        dtype: compute in this dtype, with a copy of the network; in float64 identities hold to 1e-14.

    Raises:
        TypeError: a network that is not a torch module, or inputs that are not a real tensor.
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
        >>> torch.allclose(found.transposed(found.weight), found.outputs)  # Kᵀ w = f, Equation 1.3
        True
    """
    check_module(network)
    name = parameter_name(network, layer)
    check_one_sample_at_a_time(network)
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
    if inputs.is_complex():
        raise TypeError(f"inputs must be real, got {inputs.dtype}")
    axis = batch_axis(network)
    if inputs.ndim <= axis or inputs.shape[axis] < 1:
        raise ValueError(f"inputs have shape {tuple(inputs.shape)}, expected at least one sample")
    network = in_dtype(network, layer, dtype)
    if getattr(network, "members", None) is None:
        inputs = as_read(network, dict(network.named_parameters())[name], inputs)
    return Connection(network, name, inputs, block)
