"""LatentTree: a topology, its tables and its members' addresses; thin methods over the functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from hltm.inference import ceiling as ceilings
from hltm.inference import most_probable
from hltm.inference import posterior as inference
from hltm.model import enumeration, moments, view_moments
from hltm.model.tables import GivenTables, Tables, make_tables
from hltm.model.topology import Node, Parents, Topology
from hltm.sampling.augment import Augmentation
from hltm.sampling.draw import Draw
from hltm.sampling.packed import PackedDraw, sample_packed
from hltm.sampling.philox import MAX_MEMBERS, MAX_VIEWS, Stream
from hltm.sampling.sample import check_rows, redraw, sample, views

if TYPE_CHECKING:
    import networkx as nx

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
    def from_parents(
        cls,
        parents: Parents,
        tables: GivenTables,
        names: Sequence[str] | None = None,
        members: int | None = None,
    ) -> LatentTree:
        """A tree from the parent and the table P(node | parent) of every node, in any order.

        Args:
            parents: each node's parent, by name or place; None for the root. Either a mapping
                name -> parent, or a sequence with `names` beside it.
            tables: by name, or in the order of `parents`. The root's is its prior `(K,)`; any
                other is `(K_parent, K)`, a row for each state of the parent. Stacked trees may put
                S in front of each.
            names: a distinct name for each node; the default is each node's place in `parents`.
            members: None for one tree; S for S trees (tables without an S axis are then shared).

        Raises:
            ValueError: naming the node and the value; see `Topology.from_parents` and
                `hltm.tables.make_tables`.

        Example:
            >>> tree = LatentTree.from_parents(
            ...     {"topic": None, "word": "topic", "picture": "topic"},
            ...     {
            ...         "topic": [0.5, 0.3, 0.2],
            ...         "word": [[0.9, 0.1], [0.5, 0.5], [0.0, 1.0]],
            ...         "picture": [[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]],
            ...     },
            ... )
            >>> tree
            LatentTree(3 nodes, 2 leaves, depth 1, 2..3 states)
            >>> tree.sample(4, seed=0).node("word").shape
            torch.Size([4])
        """
        topology = Topology.from_parents(parents, names)
        if not isinstance(tables, Mapping):
            given = list(parents) if isinstance(parents, Mapping) else names
            labels = range(len(topology)) if given is None else given
            if len(tables) != len(topology):
                raise ValueError(
                    f"expected {len(topology)} tables, one per node, got {len(tables)}"
                )
            tables = {str(name): table for name, table in zip(labels, tables, strict=True)}
        return cls.from_tables(topology, tables, members)

    @classmethod
    def from_tables(
        cls, topology: Topology, tables: GivenTables, members: int | None = None
    ) -> LatentTree:
        """A tree from one table per node, by name or in storage order; see `make_tables`.

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

    def table(self, node: Node) -> Tensor:
        """`(K_parent, K)` or `(S, K_parent, K)` P(node | parent); `(K,)` or `(S, K)` for the root."""
        v = self.topology.node(node)
        found = self.tables.of(v)
        return self._public(found[:, 0] if v == 0 else found)

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
            augmentation: what a view redraws, and which leaves it misses.
            count: how many views.
            first_view: the number of the first; other numbers give other views of the same rows.
        """
        self._check_draw(draw)
        return views(
            self.tables,
            draw,
            augmentation.rates(self.topology),
            missing_rates=augmentation.missing_rates(self.topology),
            count=count,
            first_view=first_view,
        )

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
            and NaN marginals. Both are differentiable in `tables.flat` where that requires a
            gradient.

        Raises:
            ValueError: leaves of the wrong shape, states that a leaf does not have, or a dtype
                that is not a float.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
            >>> post = tree.posterior(torch.tensor([[1, 1], [0, -1]]), nodes="0")
            >>> post.marginals[:, 0, 1]  # P(root = 1): .81 / (.81 + .01), and .1
            tensor([0.9878, 0.1000], dtype=torch.float64)
            >>> post.log_evidence.exp()
            tensor([0.4100, 0.5000], dtype=torch.float64)
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

    def most_likely(self, leaves: Tensor) -> most_probable.MostLikely:
        """The joint state of all nodes that is most likely given the leaves.

        Of several that are equally likely to twelve digits, the first in lexicographic order of
        storage: the lowest state of the root, then of node 1, and so on.

        Args:
            leaves: `(B, X)` or `(S, B, X)` integer states, -1 where missing.

        Returns:
            states `(B, V)` int64 and log_probability `(B,)`, with S in front for stacked trees;
            leaves that cannot occur have states -1 and log_probability -inf.

        Raises:
            ValueError: leaves of the wrong shape, or states that a leaf does not have.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
            >>> tree.most_likely(torch.tensor([[1, -1], [0, 1]])).states  # a tie goes to root 0
            tensor([[1, 1, 1],
                    [0, 0, 1]])
        """
        found = most_probable.most_likely(self.tables, self._check_leaves(leaves))
        states = found.states.transpose(1, 2)
        return most_probable.MostLikely(self._public(states), self._public(found.log_probability))

    def posterior_samples(
        self, leaves: Tensor, count: int, *, seed: int, start: int = 0, first: int = 0
    ) -> Tensor:
        """Joint states of all nodes drawn from P(all nodes | leaves).

        Sample n of row i has an address like any draw: the same states however rows and samples
        are split. Missing leaves are drawn too.

        Args:
            leaves: `(B, X)` or `(S, B, X)` integer states, -1 where missing.
            count: N, how many samples of each row.
            seed: 64 bits.
            start: the number of the first row.
            first: the number of the first sample.

        Returns:
            `(N, B, V)` int64, or `(S, N, B, V)` for stacked trees; -1 for leaves that cannot occur.

        Raises:
            ValueError: leaves of the wrong shape, states that a leaf does not have, a count below
                1, rows or samples without an address.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
            >>> draw = tree.sample(5, seed=1)
            >>> states = tree.posterior_samples(draw.leaves, 3, seed=2)
            >>> states.shape, bool((states[..., 3:] == draw.leaves).all())
            (torch.Size([3, 5, 7]), True)
        """
        leaves_SXB = self._check_leaves(leaves)
        check_rows(start, leaves_SXB.shape[-1])
        if count < 1 or first < 0 or first + count > MAX_VIEWS:
            raise ValueError(f"samples must be numbered 0..2^24-1, got {count} from number {first}")
        found = most_probable.posterior_samples(
            self.tables,
            leaves_SXB,
            count,
            seed=seed,
            members=self.members,
            start=start,
            first=first,
        )
        return self._public(found.transpose(2, 3))

    def correlation(self, a: Nodes, b: Nodes) -> Tensor:
        """Correlation between nodes of a binary tree, in closed form.

        Args:
            a, b: one node or several, by number or name.

        Returns:
            float64 `(A, B)`, with S in front for stacked trees; an axis is dropped where a single
            node was given.
        """
        return self._of_pairs(moments.correlation, a, b)

    def covariance(self, a: Nodes, b: Nodes) -> Tensor:
        """Covariance between the one-hot states of nodes, in closed form, for any number of states.

        Args:
            a, b: one node or several, by number or name.

        Returns:
            float64 `(A, B, K, K)`, with S in front for stacked trees; an axis is dropped where a
            single node was given. States that a node does not have get 0.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
            >>> tree.covariance("1", "2")  # ± 0.8 · 0.8 / 4
            tensor([[ 0.1600, -0.1600],
                    [-0.1600,  0.1600]], dtype=torch.float64)
        """
        return self._of_pairs(moments.covariance, a, b)

    def mutual_information(self, a: Nodes, b: Nodes) -> Tensor:
        """Mutual information of nodes in nats, in closed form, for any number of states.

        Args:
            a, b: one node or several, by number or name; of a node with itself it is the entropy.

        Returns:
            float64 `(A, B)`, with S in front for stacked trees; an axis is dropped where a single
            node was given.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
            >>> tree.mutual_information(0, [0, 1])  # ln 2, and 0.9 ln 1.8 + 0.1 ln 0.2
            tensor([0.6931, 0.3681], dtype=torch.float64)
        """
        return self._of_pairs(moments.mutual_information, a, b)

    def view_correlation(
        self, nodes: Nodes, augmentation: Augmentation, *, other: Augmentation | None = None
    ) -> Tensor:
        """Correlation of a node's states in two views of a row, in closed form.

        For more than two states it is the largest that any function of the state has with itself
        in the other view (see `hltm.view_moments`). Views have coins of their own; two that shared
        their coins would relate as a view and the data themselves do: `other=keep_level(0)`. A
        leaf's state counts whether the view misses it or not.

        Args:
            nodes: one node or several, by number or name.
            augmentation: of the first view.
            other: of the second view; the same by default.

        Returns:
            float64 `(A,)`, with S in front for stacked trees; the axis A is dropped where a single
            node was given.

        Raises:
            ValueError, KeyError, IndexError: nodes or levels that the tree does not have.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
            >>> tree.view_correlation([0, 1], hltm.keep_root())  # 1, and 0.8²
            tensor([1.0000, 0.6400], dtype=torch.float64)
            >>> tree.view_correlation(1, hltm.resample_leaves(0.5))  # 1/4 + 3/4 · 0.8²
            tensor(0.7300, dtype=torch.float64)
        """
        kept = self._both_kept(augmentation, other)
        return self._of_nodes(
            view_moments.view_correlation(self.tables, self.topology.nodes(nodes), kept), nodes
        )

    def view_information(
        self, nodes: Nodes, augmentation: Augmentation, *, other: Augmentation | None = None
    ) -> Tensor:
        """Mutual information, in nats, of a node's states in two views of a row, in closed form.

        Args, returns, raises: as `view_correlation`. A leaf's state counts whether the view misses
        it or not; what two views show of a leaf that each misses with chance m has (1 - m)² of it.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
            >>> tree.view_information([0, 1], hltm.keep_root())  # ln 2, .82 ln 1.64 + .18 ln .36
            tensor([0.6931, 0.2218], dtype=torch.float64)
        """
        kept = self._both_kept(augmentation, other)
        return self._of_nodes(
            view_moments.view_information(self.tables, self.topology.nodes(nodes), kept), nodes
        )

    def _both_kept(self, one: Augmentation, other: Augmentation | None) -> np.ndarray:
        """`(V,)` the chance that no coin of a node comes up in either view."""
        rates = one.rates(self.topology), (other or one).rates(self.topology)
        return (1 - rates[0]) * (1 - rates[1])

    def _of_nodes(self, found: Tensor, nodes: Nodes) -> Tensor:
        """`(S, A)` as it is shown: the axis dropped where a single node was given."""
        single = isinstance(nodes, (int, str, np.integer))
        return self._public(found[:, 0] if single else found)

    def _of_pairs(
        self, answer: Callable[[Tables, np.ndarray, np.ndarray], Tensor], a: Nodes, b: Nodes
    ) -> Tensor:
        """Ask about all pairs `(S, A, B, ...)`, dropping an axis where a single node was given."""
        found = answer(self.tables, self.topology.nodes(a), self.topology.nodes(b))
        if isinstance(b, (int, str, np.integer)):
            found = found[:, :, 0]
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

    def joint(self) -> enumeration.Joint:
        """Every joint state and its probability, by enumeration.

        Raises:
            ValueError: more than 2^20 joint states.
        """
        found = enumeration.joint(self.tables)
        return enumeration.Joint(found.states, self._public(found.probability))

    def leaf_distribution(self, given: Nodes | Mapping[Node, int]) -> Tensor:
        """P(leaves | states of nodes), by enumeration.

        Args:
            given: nodes, for all of their joint states; or a mapping node -> state for one.

        Returns:
            float64 `(N_given, N_leaves)`, or `(N_leaves,)` for a mapping, with S in front for
            stacked trees; joint states count up, the last node varying fastest. NaN where the
            condition has probability 0.

        Raises:
            ValueError: more than 2^20 joint states, a node given twice, or a state that a node
                does not have.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
            >>> tree.leaf_distribution({"0": 1})  # leaves 00, 01, 10, 11 below root 1
            tensor([0.0100, 0.0900, 0.0900, 0.8100], dtype=torch.float64)
        """
        if isinstance(given, Mapping):
            states = {self.topology.node(v): int(state) for v, state in given.items()}
            return self._public(enumeration.leaf_distribution_at(self.tables, states))
        return self._public(enumeration.leaf_distribution(self.tables, self.topology.nodes(given)))

    # other formats; they build on this class, so they are imported where they are used

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a JSON file that `hltm.load_tree` reads back to the last bit."""
        import_module("hltm.formats.json").save(self, path)

    def to_networkx(self) -> nx.DiGraph[str]:
        """A directed graph that holds the tables; see `hltm.formats.networkx`."""
        return import_module("hltm.formats.networkx").to_networkx(self)

    def to_newick(self) -> str:
        """Newick text: shape, names and branch lengths; see `hltm.formats.newick`."""
        return import_module("hltm.formats.newick").to_newick(self)

    def to_bif(self) -> str:
        """A Bayesian network in BIF text; see `hltm.formats.bif`."""
        return import_module("hltm.formats.bif").to_bif(self)

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph[Any]) -> LatentTree:
        """The tree of a directed graph that holds tables; see `hltm.formats.networkx`."""
        return import_module("hltm.formats.networkx").from_networkx(graph)

    @classmethod
    def from_newick(cls, text: str) -> LatentTree:
        """The symmetric binary tree of a Newick text with lengths; see `hltm.formats.newick`."""
        return import_module("hltm.formats.newick").from_newick(text)

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
        if found.dtype.is_floating_point or found.dtype.is_complex:
            raise ValueError(f"leaves have dtype {found.dtype}, expected integer states")
        if found.shape[-2] == 0:
            raise ValueError("leaves have no rows, expected at least one")
        # torch cannot compare 16-bit unsigned numbers; 8-bit ones stay as small as they are
        found = found if found.dtype == torch.uint8 else found.to(torch.int64)
        states = torch.as_tensor(self.tables.cardinality[list(self.leaves)], device=found.device)
        rows = tuple(range(found.ndim - 1))
        low, high = found.amin(rows).to(torch.int64), found.amax(rows).to(torch.int64)
        if ((low < inference.MISSING) | (high >= states)).any():
            found = found.to(torch.int64)
            where = ((found < inference.MISSING) | (found >= states)).nonzero()[0]
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
