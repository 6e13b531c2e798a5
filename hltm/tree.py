"""LatentTree: a topology, its tables and its members' addresses; thin methods over the functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from hltm import brute, inference, moments
from hltm import ceiling as ceilings
from hltm.augment import Augmentation
from hltm.packed import PackedDraw, sample_packed
from hltm.philox import MAX_MEMBERS, Stream
from hltm.sample import Draw, redraw, sample, views
from hltm.tables import Tables, make_tables
from hltm.topology import Node, Topology

Nodes = Node | Iterable[Node]


@dataclass(frozen=True, eq=False)
class LatentTree:
    """One hierarchical latent tree model, or S of them over one topology.

    A tree is arrays; a draw is returned, never stored on it. Where `stacked`, every array has the
    member axis S in front, also for one member; otherwise none has it.

    Attributes:
        tables: P(child | parent) of every edge and the root's prior.
        members: `S` addresses; member m of two trees drawn with one seed reads the same numbers.
        stacked: whether the S axis is public.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> draw.leaves.shape, draw.root.shape
        (torch.Size([1000, 8]), torch.Size([1000]))
        >>> trees = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), members=4, seed=0)
        >>> trees[2].sample(5, seed=1).leaves.equal(trees.sample(5, seed=1).leaves[2])
        True
    """

    tables: Tables
    members: tuple[int, ...] = (0,)
    stacked: bool = False

    def __post_init__(self) -> None:
        if len(self.tables.flat) != len(self.members):
            raise ValueError(
                f"expected {len(self.tables.flat)} member addresses, got {len(self.members)}"
            )
        if not self.stacked and len(self.members) != 1:
            raise ValueError(f"a tree without the S axis has one member, got {len(self.members)}")
        bad = [m for m in self.members if not 0 <= m < MAX_MEMBERS]
        if bad:
            raise ValueError(f"a member's address must be in 0..2^32-1, got {bad[0]}")

    @classmethod
    def from_tables(
        cls, topology: Topology, tables: Sequence[Tensor | np.ndarray], members: int | None = None
    ) -> LatentTree:
        """A tree from one table per node, in storage order; see `hltm.tables.make_tables`.

        Args:
            members: None for one tree; S for S trees (tables without an S axis are then shared).
        """
        made = make_tables(topology, tables)
        return cls.of_members(made, members)

    @classmethod
    def of_members(cls, tables: Tables, members: int | None) -> LatentTree:
        """Give trees their addresses 0..S-1; one set of tables serves any number of members."""
        count = check_members(members)
        if len(tables.flat) not in (1, count):
            raise ValueError(f"the tables are for {len(tables.flat)} trees, members is {members}")
        flat = tables.flat.expand(count, -1)
        return cls(
            Tables(tables.topology, tables.cardinality, flat),
            tuple(range(count)),
            members is not None,
        )

    def __repr__(self) -> str:
        states = sorted(set(self.tables.cardinality.tolist()))
        shown = f"{states[0]}" if len(states) == 1 else f"{states[0]}..{states[-1]}"
        members = f"{len(self.members)} x " if self.stacked else ""
        return (
            f"LatentTree({members}{len(self.topology)} nodes, {len(self.leaves)} leaves, "
            f"depth {self.topology.depth}, {shown} states)"
        )

    def __len__(self) -> int:
        if not self.stacked:
            raise TypeError("a single tree has no length; topology has the number of nodes")
        return len(self.members)

    def __getitem__(self, index: int | slice) -> LatentTree:
        """One member without the S axis, or a slice with it; addresses are kept."""
        if not self.stacked:
            raise TypeError("a single tree has no members to choose from")
        chosen = range(len(self.members))[index]
        if isinstance(chosen, int):
            return LatentTree(self.tables.take([chosen]), (self.members[chosen],), False)
        if len(chosen) == 0:
            raise IndexError(f"no member in {index} of {len(self.members)}")
        picked = tuple(self.members[i] for i in chosen)
        return LatentTree(self.tables.take(list(chosen)), picked, True)

    # structure

    @property
    def topology(self) -> Topology:
        """The shape of the tree."""
        return self.tables.topology

    @property
    def root(self) -> int:
        """The root's number, 0."""
        return 0

    @property
    def leaves(self) -> range:
        """The numbers of the observed nodes."""
        return self.topology.leaves

    @property
    def latents(self) -> range:
        """The numbers of the unobserved nodes."""
        return self.topology.latents

    def level(self, level: int) -> range:
        """The numbers of the nodes of one level: 0 = leaves … L = root."""
        return self.topology.at_level(level)

    @property
    def polarity(self) -> Tensor:
        """`(V,)` or `(S, V)` correlation of every node of a binary tree with its parent; root: 1."""
        return self._public(moments.edge_correlation(self.tables))

    # draws

    @overload
    def sample(
        self,
        n: int,
        *,
        seed: int,
        start: int = 0,
        device: torch.device | str = "cpu",
        packed: Literal[False] = False,
    ) -> Draw: ...

    @overload
    def sample(
        self,
        n: int,
        *,
        seed: int,
        start: int = 0,
        device: torch.device | str = "cpu",
        packed: Literal[True],
    ) -> PackedDraw: ...

    def sample(
        self,
        n: int,
        *,
        seed: int,
        start: int = 0,
        device: torch.device | str = "cpu",
        packed: bool = False,
    ) -> Draw | PackedDraw:
        """Rows start .. start + n - 1 of the endless data set of `seed`.

        Args:
            n: B, how many rows.
            seed: 64 bits.
            start: the first row.
            device: where to draw; the bits do not depend on it.
            packed: one bit a state, of binary trees: see `PackedDraw`.

        Raises:
            ValueError: n below 1, rows beyond 2^34, a seed outside 64 bits, no such device, or
                packed states of a tree that is not binary.
        """
        if packed:
            return sample_packed(
                self.tables,
                self.members,
                n,
                seed=seed,
                start=start,
                stacked=self.stacked,
                device=device,
            )
        return self.draw(n, seed=seed, start=start, device=device)

    def draw(
        self,
        n: int,
        *,
        seed: int,
        start: int = 0,
        stream: Stream = Stream.DATA,
        first: int = 0,
        device: torch.device | str = "cpu",
    ) -> Draw:
        """`sample` from any stream, keeping the nodes from `first` on."""
        return sample(
            self.tables,
            self.members,
            n,
            seed=seed,
            start=start,
            stream=stream,
            stacked=self.stacked,
            first=first,
            device=device,
        )

    def views(
        self, draw: Draw, augmentation: Augmentation, *, count: int = 2, first_view: int = 1
    ) -> tuple[Draw, ...]:
        """Augmented draws of a draw's own rows, independent of each other given what they keep.

        Args:
            draw: from `sample` of this tree.
            augmentation: what a view redraws.
            count: how many views.
            first_view: the number of the first; other numbers give other views of the same rows.
        """
        self._check_draw(draw)
        rates = augmentation.rates(self.topology)
        return views(self.tables, draw, rates, count=count, first_view=first_view)

    def redraw(self, draw: Draw, nodes: Nodes, *, view: int | None = None) -> Draw:
        """The draw with everything below some nodes drawn again; the nodes keep their states.

        Args:
            draw: of this tree: from `sample`, a view, a redraw, or one with states of your own.
            nodes: by number or name; all that lies below any of them is drawn again.
            view: the address of the new numbers, above the draw's own; one above it by default.

        Raises:
            ValueError: a leaf, no node, another tree's draw, states that a node does not have, or
                a view number that is not above the draw's own.
            KeyError, IndexError: a node that the tree does not have.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
            >>> draw = tree.sample(1000, seed=1)
            >>> again = tree.redraw(draw, tree.root)
            >>> again.root.equal(draw.root), again.leaves.equal(draw.leaves)
            (True, False)
        """
        self._check_draw(draw)
        return redraw(self.tables, draw, self.topology.nodes(nodes), view=view)

    def _check_draw(self, draw: Draw) -> None:
        """Raise ValueError unless a draw can be of this tree."""
        if draw.topology is not self.topology and len(draw.topology) != len(self.topology):
            raise ValueError(
                f"the draw has {len(draw.topology)} nodes, this tree {len(self.topology)}"
            )
        if draw.members != self.members:
            raise ValueError(f"the draw is of members {draw.members}, this tree of {self.members}")

    # exact answers

    def posterior(
        self,
        leaves: Tensor,
        *,
        nodes: Nodes | None = None,
        given: ceilings.Leaves = "all",
        dtype: torch.dtype = torch.float64,
    ) -> inference.Posterior:
        """P(node | leaves) and the evidence, exactly.

        Args:
            leaves: `(B, X)` or `(S, B, X)` integer states, -1 where missing.
            nodes: which nodes; all by default.
            given: `all` leaves, or the node's `own`, those below it.
            dtype: float64 or float32.

        Returns:
            marginals `(B, V, K)` and log_evidence `(B,)`, with S in front for stacked trees; for
            own leaves log_evidence is `(B, V)`. Leaves that cannot occur have log_evidence -inf
            and NaN marginals.

        Raises:
            ValueError: leaves of the wrong shape, or states that a leaf does not have.
        """
        wanted = np.arange(len(self.topology)) if nodes is None else self.topology.nodes(nodes)
        leaves_SXB = self._check_leaves(leaves)
        if given == "all":
            found = inference.posterior(self.tables, leaves_SXB, wanted, dtype)
            evidence = found.log_evidence
        elif given == "own":
            found = inference.own_posterior(self.tables, leaves_SXB, wanted, dtype)
            evidence = found.log_evidence.transpose(1, 2)
        else:
            raise ValueError(f"given must be 'all' or 'own', got {given!r}")
        marginals = found.marginals.permute(0, 3, 1, 2)
        return inference.Posterior(self._public(marginals), self._public(evidence))

    def correlation(self, a: Nodes, b: Nodes) -> Tensor:
        """Correlation between nodes of a binary tree, in closed form.

        Args:
            a, b: one node or several, by number or name.

        Returns:
            float64 `(A, B)`, with S in front for stacked trees; an axis is dropped where a single
            node was given.
        """
        found = moments.correlation(self.tables, self.topology.nodes(a), self.topology.nodes(b))
        if isinstance(b, (int, str, np.integer)):
            found = found[..., 0]
        if isinstance(a, (int, str, np.integer)):
            found = found[:, 0]
        return self._public(found)

    def ceiling(
        self,
        nodes: Nodes,
        *,
        leaves: ceilings.Leaves = "own",
        seed: int = 0,
        samples: int = ceilings.SAMPLES,
    ) -> ceilings.Ceiling:
        """The best correlation with each node that any function of its own, or all, leaves has.

        Returns:
            value and standard_error, `(V,)` or `(S, V)`; exact (standard error 0) where the leaves
            have at most 2^16 states, otherwise from `samples` rows of their own stream.
        """
        found = ceilings.ceiling(
            self.tables,
            self.members,
            self.topology.nodes(nodes),
            leaves=leaves,
            seed=seed,
            samples=samples,
        )
        return ceilings.Ceiling(self._public(found.value), self._public(found.standard_error))

    def joint(self) -> brute.Joint:
        """Every joint state and its probability, by enumeration.

        Raises:
            ValueError: more than 2^20 joint states.
        """
        found = brute.joint(self.tables)
        return brute.Joint(found.states, self._public(found.probability))

    def leaf_distribution(self, given: Nodes) -> Tensor:
        """`(N_given, N_leaves)` or `(S, …)` P(leaves | states of nodes), by enumeration.

        Raises:
            ValueError: more than 2^20 joint states.
        """
        return self._public(brute.leaf_distribution(self.tables, self.topology.nodes(given)))

    def _public(self, found: Tensor) -> Tensor:
        return found if self.stacked else found[0]

    def _check_leaves(self, leaves: Tensor) -> Tensor:
        """Leaves as `(S, X, B)` int64.

        Raises:
            ValueError: the wrong shape, or a state that a leaf does not have.
        """
        found = torch.as_tensor(leaves)
        expected = ((len(self.members),) if self.stacked else ()) + ("B", len(self.leaves))
        if found.ndim != len(expected) or any(
            isinstance(want, int) and want != size
            for want, size in zip(expected, found.shape, strict=True)
        ):
            shown = ", ".join(map(str, expected))
            raise ValueError(f"leaves have shape {tuple(found.shape)}, expected ({shown})")
        found = found.to(torch.int64)
        states = torch.as_tensor(self.tables.cardinality[list(self.leaves)], device=found.device)
        bad = (found < inference.MISSING) | (found >= states)
        if bad.any():
            where = bad.nonzero()[0]
            leaf = int(where[-1])
            raise ValueError(
                f"leaf {self.topology.names[self.leaves[leaf]]!r} has state "
                f"{int(found[tuple(where)])}, expected 0..{int(states[leaf]) - 1}, or -1 if missing"
            )
        stacked = found if self.stacked else found[None]
        return stacked.transpose(1, 2)


def check_members(members: int | None) -> int:
    """The number of members that `members` asks for: 1 for None.

    Raises:
        ValueError: below 1 or above 2^32.
    """
    if members is None:
        return 1
    if not 1 <= members <= MAX_MEMBERS:
        raise ValueError(f"members must be at least 1, got {members}")
    return int(members)
