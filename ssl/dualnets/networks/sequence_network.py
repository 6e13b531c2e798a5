"""Networks that read leaves as tokens and have an output at each leaf's position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from dualnets.networks.layers import initial_parameters
from dualnets.networks.network import Network, leaf_states
from hltm._devices import check_device
from hltm.probe.causal.replacing import Replacement, replaced
from hltm.tree import LatentTree


class Scale(nn.Module):
    """The gain of a layer normalisation over units, `(S, U)`, which is 1 at first.

    It computes x̂ · gain, where x̂ is x with mean 0 and variance 1 over its units (Ba, Kiros and Hinton,
    arXiv 1607.06450): torch.nn.LayerNorm without a bias, with its epsilon of 1e-5.
    """

    def __init__(self, members: int, units: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(members, units, dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """Normalised values `(S, B, X, U)`."""
        return standardised(values) * self.gain[:, None, None]

    def into(self, weight: Tensor) -> Tensor:
        """Weights `(S, U_out, U)` by which standardised values give what normalised ones give by `weight`.

        The gain is multiplied into the weights, which are few, and not into all values.
        """
        return weight * self.gain[:, None]


def standardised(values: Tensor) -> Tensor:
    """`(…, U)` values with mean 0 and variance 1 over units."""
    return nn.functional.layer_norm(values, values.shape[-1:])


class SequenceNetwork(Network):
    """S networks on the leaves as a sequence of tokens, in the tree's order.

    Tokens 0..K-1 are states, K the largest number of states of a leaf; token K is anything else: a leaf that
    is missing, whether marked by -1 or by the largest number of its dtype. A causal network reads the token
    K + 1, the beginning, and then all leaves but the last, so that its output at position i depends on the
    leaves before i alone and can predict leaf i.

    Args:
        tree: one tree or S trees.
        width: U, of the tokens' vectors and of every block.
        blocks: the layers, each of which maps `(S, B, X, U)` to the same shape.
        norm: of the output; None for none.
        places: whether a vector of each position is added to that of its token.
        causal: whether blocks let no position read a later one.
        members: S addresses.
        stacked: whether public arrays have the S axis.
        seed: of the vectors of tokens and places.
        dtype, device: of the parameters.

    Attributes:
        tokens: `(S, K + 1, U)`, `(S, K + 2, U)` where causal.
        places: `(S, X, U)`, or None.
    """

    places: nn.Parameter | None

    def __init__(
        self,
        tree: LatentTree,
        *,
        width: int,
        blocks: Sequence[nn.Module],
        norm: Scale | None,
        places: bool,
        causal: bool,
        members: Sequence[int],
        stacked: bool,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__(states=leaf_states(tree), members=members, stacked=stacked)
        self.width, self.causal = width, causal
        self.states = max(leaf_states(tree))

        def vectors(count: int, layer: int) -> nn.Parameter:
            shape = 1, count, width
            drawn, _ = initial_parameters(
                shape, seed=seed, members=members, layer=layer, bias=False
            )
            return nn.Parameter(drawn[:, 0] * width**0.5)  # uniform in ±1

        # layers of blocks are counted from 1
        self.tokens = vectors(self.states + 1 + causal, 0)
        vector_of_place = vectors(self.inputs, len(blocks) + 1) if places else None
        self.register_parameter("places", vector_of_place)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.to(check_device(device, dtype), dtype)

    def extra_repr(self) -> str:
        return (
            f"members={len(self.members)}, inputs={self.inputs}, width={self.width}, "
            f"causal={self.causal}"
        )

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def reads_missing(self) -> bool:
        """Yes: a missing leaf is a token of its own."""
        return True

    def forward(self, leaves: Tensor) -> Tensor:
        """`(S, B, U)`, the mean of `positions` over leaves; no S where the network has none."""
        return self.positions(leaves).mean(-2)

    def positions(self, leaves: Tensor) -> Tensor:
        """The output at every leaf.

        Args:
            leaves: `(S, B, X)` whole numbers, or `(B, X)` without the S axis; see the class for those
                that are missing.

        Returns:
            `(S, B, X, U)` or `(B, X, U)`.

        Raises:
            TypeError: leaves that are not whole numbers.
            ValueError: leaves of the wrong shape.
        """
        return self._output(leaves, {})

    @torch.no_grad()
    def run_with(self, leaves: Tensor, replace: Mapping[int, Replacement]) -> Tensor:
        """`forward` in evaluation where some units are replaced; see `hltm.probe.causal.replacing`.

        Args:
            leaves: as for `positions`.
            replace: level -> units and values, which broadcast against its `activations`.
        """
        return self._output(leaves, replace).mean(-2)

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """The outputs of all blocks, before the norm of the output.

        Args:
            leaves: as for `positions`.

        Returns:
            Level 1..L -> `(S, B, X, U)`, a block of units for each leaf's position; no S where the network
            has none.
        """
        return {
            level: hidden if self.stacked else hidden[0]
            for level, hidden in enumerate(self._hidden(leaves, {}), start=1)
        }

    def _output(self, leaves: Tensor, replace: Mapping[int, Replacement]) -> Tensor:
        """`positions`, with some units replaced."""
        for hidden in self._hidden(leaves, replace):
            top = hidden
        output = top if self.norm is None else self.norm(top)
        return output if self.stacked else output[0]

    def _hidden(self, leaves: Tensor, replace: Mapping[int, Replacement]) -> Iterator[Tensor]:
        """`(S, B, X, U)` outputs of one block after the other, with some units replaced."""
        hidden = self._embedded(self._checked(leaves))
        for level, block in enumerate(self.blocks, start=1):
            hidden = block(hidden)
            if level in replace:
                shown = hidden if self.stacked else hidden[0]
                shown = replaced(shown, replace[level])
                hidden = shown if self.stacked else shown[None]
            yield hidden

    def _embedded(self, leaves: Tensor) -> Tensor:
        """`(S, B, X, U)` vectors of tokens, and of their places."""
        if leaves.is_floating_point() or leaves.is_complex():
            raise TypeError(f"leaves must be whole numbers, got {leaves.dtype}")
        states = leaves.to(self.device, torch.int64)
        given = states.masked_fill((states < 0) | (states >= self.states), self.states)
        if self.causal:
            begin = torch.full_like(given[..., :1], self.states + 1)
            given = torch.cat([begin, given[..., :-1]], -1)
        count = self.tokens.shape[1]
        first = count * torch.arange(len(given), device=self.device)[:, None, None]
        hidden = nn.functional.embedding(given + first, self.tokens.flatten(0, 1))
        return hidden if self.places is None else hidden + self.places[:, None]
