"""Belief propagation as a network: its units are log-messages of the latents, and its answer is exact.

A network whose use of every unit is known, so that what probes say of use can be checked: the messages are
read by the level above, distractors and copies of messages are read by nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dualnets._checks import check_switch, check_whole
from dualnets.networks.network import Network, leaf_states, network_members
from hltm._devices import check_device
from hltm.model.nodes import Nodes
from hltm.probe.causal.replacing import Replacement, replaced
from hltm.tree import LatentTree

SMALLEST = 1e-30  # a sum of exponentials above it has lost nothing to underflow, in float32 either


class BeliefNetwork(Network):
    """S networks that propagate beliefs on their trees; `belief_network` makes them.

    Units of latent v are λ_v(s) = log P(leaves below v | v = s) - max over s, from those of its children c
    (Pearl 1988, "Probabilistic Reasoning in Intelligent Systems", Section 4.2):

        λ_v(s) = Σ_c m_c(s) - max,   m_c(s) = log Σ_k P(c = k | v = s) exp λ_c(k).

    A state that the leaves exclude has `floor` instead of -inf, so that activations are finite; its
    exponential is 0.

    Attributes:
        tree: whose tables it has.
        readout: numbers of the nodes whose posteriors are the output.
        causal: whether `positions` conditions a leaf on the leaves before it alone.
        distractors, copies: units of each latent that nothing reads.
        floor: stands for the logarithm of 0; below all that belief propagation can give otherwise.
    """

    def __init__(
        self,
        tree: LatentTree,
        *,
        readout: list[int],
        distractors: int,
        copies: int,
        causal: bool,
        members: int | None,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        addresses, stacked = network_members(tree, members)
        super().__init__(states=leaf_states(tree), members=addresses, stacked=stacked)
        self.tree, self.readout, self.causal = tree, readout, causal
        self.distractors, self.copies = distractors, copies
        topology = tree.topology
        positive = tree.tables.flat[tree.tables.flat > 0]
        smallest = -float(positive.min().clamp(min=torch.finfo(torch.float64).tiny).log())
        self.floor = -4 * (smallest * len(topology) + 250)  # exp(floor) is 0
        for v in range(len(topology)):  # (S or 1, K of the parent, K), log P(v | parent)
            self.constants[f"table{v}"] = tree.tables.of(v).to(dtype).log()
        self.to(check_device(device, dtype))

    def extra_repr(self) -> str:
        names = [self.tree.topology.names[v] for v in self.readout]
        return (
            f"members={len(self.members)}, inputs={self.inputs}, readout={names}, "
            f"distractors={self.distractors}, copies={self.copies}"
        )

    @property
    def depth(self) -> int:
        """L, the level of the root."""
        return self.tree.topology.depth

    @property
    def device(self) -> torch.device:
        """Where the tables lie."""
        return self.constants["table0"].device

    @property
    def dtype(self) -> torch.dtype:
        """The tables' dtype."""
        return self.constants["table0"].dtype

    @property
    def reads_missing(self) -> bool:
        """Yes: a missing leaf is one of which nothing is known."""
        return True

    def forward(self, leaves: Tensor) -> Tensor:
        """`(S, B, T · K)` posteriors of the readout's T nodes; K is their largest number of states.

        States that a node does not have get 0; leaves that cannot occur give NaN.
        """
        return self.run_with(leaves, {})

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Level -> `(S, B, V, U)`: K messages, then distractors, then copies of the K messages.

        K is the largest number of states at the level; states that a node does not have get 0. No S
        where the network has none.
        """
        shown, _ = self._upward(leaves, {})
        return shown

    def run_with(self, leaves: Tensor, replace: Mapping[int, Replacement]) -> Tensor:
        """The output of `forward` where some units are replaced; see `hltm.probe.causal.replacing`."""
        _, message = self._upward(leaves, replace)
        context = self._downward(message, self.readout)
        states = max(int(self.tree.tables.cardinality[v]) for v in self.readout)
        found = []
        for v in self.readout:
            belief = context[v] + message[v]
            impossible = belief.amax(-1, keepdim=True) <= self.floor / 2
            belief = belief.softmax(-1).masked_fill(impossible, torch.nan)
            found.append(torch.nn.functional.pad(belief, (0, states - belief.shape[-1])))
        output = torch.cat(found, -1)
        return output if self.stacked else output[0]

    @torch.no_grad()
    def positions(self, leaves: Tensor) -> Tensor:
        """The logarithm of the exact probability of each leaf's states given others that are not missing.

        Args:
            leaves: `(S, B, X)` states, or `(B, X)` without the S axis; those that are no state of a leaf
                are missing.

        Returns:
            `(S, B, X, K)` or `(B, X, K)`: log P(leaf x = k | all leaves but x), or where causal
            log P(leaf x = k | the leaves before x). -inf for states that a leaf does not have; NaN where the
            leaves that are given cannot occur.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=2, seed=0)
            >>> leaves = tree.sample(5, seed=1).leaves
            >>> found = belief_network(tree, causal=True).positions(leaves)
            >>> one_by_one = found.gather(-1, leaves.long()[..., None]).sum((-2, -1))
            >>> torch.allclose(one_by_one, tree.posterior(leaves).log_evidence)
            True
        """
        topology = self.tree.topology
        if self.causal:
            found = self._after_those_before(self._checked(leaves).to(self.device))
        else:
            _, message = self._upward(leaves, {})
            context = self._downward(message, list(topology.leaves))
            found = [context[v] for v in topology.leaves]
        states = max(own.shape[-1] for own in found)
        logarithms = [
            torch.nn.functional.pad(
                self._log_share(own), (0, states - own.shape[-1]), value=-torch.inf
            )
            for own in found
        ]
        output = torch.stack(logarithms, 2)
        return output if self.stacked else output[0]

    def _after_those_before(self, given: Tensor) -> list[Tensor]:
        """Per leaf: log P(leaf = k, the leaves before it) up to a constant, `(S, B, K)`.

        A leaf that becomes known changes the messages of its ancestors and no others.
        """
        topology = self.tree.topology
        nothing = torch.full(given.shape, -1, device=self.device)
        _, message = self._upward(nothing if self.stacked else nothing[0], {})
        found = []
        for x, leaf in enumerate(topology.leaves):
            found.append(self._downward(message, [leaf])[leaf])
            message[leaf] = self._of_leaf(leaf, given[..., x])
            v = int(topology.parent[leaf])
            while v >= 0:
                message[v] = self._from_children(v, message)[0]
                v = int(topology.parent[v])
        return found

    def _log_share(self, belief: Tensor) -> Tensor:
        """Log-probabilities from logarithms up to a constant, `(S, B, K)`; -inf for excluded states."""
        return belief.masked_fill(belief <= self.floor / 2, -torch.inf).log_softmax(-1)

    def _upward(
        self, leaves: Tensor, replace: Mapping[int, Replacement]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Level -> activations, and node -> λ `(S, B, K)`, both with replacements."""
        given = self._checked(leaves).to(self.device)
        topology = self.tree.topology
        message = {v: self._of_leaf(v, given[..., x]) for x, v in enumerate(topology.leaves)}
        shown: dict[int, Tensor] = {}
        for level in range(1, topology.depth + 1):
            nodes = list(topology.at_level(level))
            states = [int(self.tree.tables.cardinality[v]) for v in nodes]
            blocks = [self._block(v, message, max(states)) for v in nodes]
            values = torch.stack(blocks, 2)  # (S, B, V, U)
            values = values if self.stacked else values[0]
            values = replaced(values, replace.get(level))
            shown[level] = values
            full = values if self.stacked else values[None]
            message |= {
                v: full[:, :, i, :k] for i, (v, k) in enumerate(zip(nodes, states, strict=True))
            }
        return shown, message

    def _of_leaf(self, v: int, states: Tensor) -> Tensor:
        """λ of a leaf: 0 for its state, `floor` for others; 0 for all where it has none of them."""
        count = int(self.tree.tables.cardinality[v])
        every = torch.arange(count, device=states.device)
        states = states.to(torch.int64)[..., None]
        excluded = (states >= 0) & (states < count) & (states != every)
        return torch.zeros(excluded.shape, dtype=self.dtype, device=self.device).masked_fill(
            excluded, self.floor
        )

    def _to_parent(self, v: int, message: Tensor) -> Tensor:
        """m_v `(S, B, K of the parent)`."""
        table = self.constants[f"table{v}"]  # (S or 1, K of the parent, K)
        return self._log_product(message, table.mT)

    def _log_product(self, message: Tensor, table: Tensor) -> Tensor:
        """log Σ_k exp(message_k + table_kj), `(S, B, J)`, at least `floor`."""
        found = message.exp() @ table.exp()
        if bool(((found > SMALLEST) & found.isfinite()).all()):
            return found.log()
        # numbers that exp does not hold, or true zeros
        return (message[..., None] + table[:, None]).logsumexp(-2).clamp(min=self.floor)

    def _block(self, v: int, message: Mapping[int, Tensor], states: int) -> Tensor:
        """`(S, B, U)` units of a latent."""
        own, received = self._from_children(v, message)
        own = torch.nn.functional.pad(own, (0, states - own.shape[-1]))
        # a distractor is what one child alone says of the latent: the log odds of its last state
        odds = [
            (received[i % len(received)][..., -1] - received[i % len(received)][..., 0])[..., None]
            for i in range(self.distractors)
        ]
        return torch.cat([own, *odds, *[own] * self.copies], -1)

    def _from_children(self, v: int, message: Mapping[int, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """λ of a latent, and m of each child, of which it is the sum; `(S, B, K)` each."""
        children = self.tree.topology.children[v].tolist()
        received = [self._to_parent(c, message[c]) for c in children]
        return self._normalised(sum(received[1:], received[0])), received

    def _normalised(self, total: Tensor) -> Tensor:
        """A sum of messages minus its largest, and `floor` for excluded states."""
        best = total.amax(-1, keepdim=True)
        excluded = (total <= self.floor / 2) | (best <= self.floor / 2)
        return (total - best).masked_fill(excluded, self.floor)

    def _downward(self, message: Mapping[int, Tensor], nodes: Sequence[int]) -> dict[int, Tensor]:
        """Node -> log P(node = s, leaves that are not below it) up to a constant, `(S, B, K)`.

        For `nodes` and their ancestors; a leaf itself counts as below it.
        """
        topology = self.tree.topology
        context = {0: self.constants["table0"].clamp(min=self.floor)}  # (S or 1, 1, K)
        needed = topology.with_ancestors(np.array(nodes))
        for v in topology.latents:
            below = [c for c in topology.children[v].tolist() if needed[c]]
            if not below:
                continue
            received = {c: self._to_parent(c, message[c]) for c in topology.children[v].tolist()}
            for child in below:
                others = [m for c, m in received.items() if c != child]
                above = self._normalised(
                    sum(others, context[v] + torch.zeros_like(received[child]))
                )
                context[child] = self._log_product(above, self.constants[f"table{child}"])
        return context


def belief_network(
    tree: LatentTree,
    *,
    readout: Nodes | None = None,
    distractors: int = 0,
    copies: int = 0,
    causal: bool = False,
    members: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> BeliefNetwork:
    """A network that is wired to do belief propagation: its output is `tree.posterior`, exactly.

    It has nothing to train. Any tables, also with zeros, and any shape of tree. A leaf that has none of its
    states, such as -1 or 255, is missing. With `readout=tree.leaves` the output at missing leaves has the
    least cross-entropy that is possible, the Bayes loss, and so has `network.positions`.

    Args:
        tree: one tree or S trees, which make S networks.
        readout: nodes whose posteriors are the output; the root by default.
        distractors: units per latent that correlate with it, and that nothing reads: what single children
            say of it.
        copies: copies of each latent's messages that nothing reads.
        causal: whether `network.positions(leaves)`, the log-probabilities of each leaf, are given the leaves
            before it alone, rather than all others.
        members: for one tree only: this many networks on it.
        dtype, device: of the tables.

    Raises:
        ValueError: distractors or copies below 0, no readout, or `members` beside several trees.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> leaves = tree.sample(5, seed=1).leaves
        >>> network = belief_network(tree, copies=1)
        >>> torch.allclose(network(leaves), tree.posterior(leaves, nodes=[0]).marginals[:, 0])
        True
        >>> {level: tuple(a.shape) for level, a in network.activations(leaves).items()}
        {1: (5, 2, 4), 2: (5, 1, 4)}
    """
    check_whole("distractors", distractors, low=0)
    check_whole("copies", copies, low=0)
    check_switch("causal", causal)
    nodes = [0] if readout is None else [int(v) for v in tree.topology.nodes(readout)]
    if not nodes:
        raise ValueError("readout must have at least one node, got none")
    return BeliefNetwork(
        tree, readout=nodes, distractors=distractors, copies=copies, causal=causal, members=members,
        dtype=dtype, device=device,
    )  # fmt: skip
