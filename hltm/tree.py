"""LatentTree: a topology, its tables and its members' addresses, with the library's functions as methods.

A method converts its arguments, calls the function of `hltm.model`, `hltm.sampling` or
`hltm.inference` that does the work, and drops the member axis of a single tree. That function's
docstring has the mathematics and what is raised. Axes: S members, B samples, V nodes, X leaves,
K states; `(..., B, V)` is `(B, V)` for a single tree and `(S, B, V)` for stacked trees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from operator import index
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from hltm.inference.bayes_loss import BayesLoss, Order, bayes_loss
from hltm.inference.bayes_prediction import BayesPrediction, bayes_prediction
from hltm.inference.ceiling import SAMPLES, Ceiling, Leaves, ceiling
from hltm.inference.change import ChangeCorrelation, change_correlation
from hltm.inference.denoise import corrupt, denoise, sample_back
from hltm.inference.evidence import Evidence, every_node, read_evidence
from hltm.inference.fit import Fit, fit
from hltm.inference.most_probable import MostLikely, most_likely, posterior_samples
from hltm.inference.noise import Noise, check_clean, check_noise
from hltm.inference.posterior import Posterior, posterior
from hltm.model import moments, view_moments
from hltm.model.enumeration import Joint, joint, leaf_distribution
from hltm.model.filtered import filtered
from hltm.model.intervene import Setting, intervene
from hltm.model.log_prob import log_prob
from hltm.model.nodes import Node, NodeNumber, NodeRange, Nodes, drop_single
from hltm.model.tables import GivenTables, Tables, make_tables, name_tables
from hltm.model.topology import Parents, Topology
from hltm.sampling.augment import Augmentation, check_augmentation
from hltm.sampling.counterfactual import AnyDraw, counterfactual
from hltm.sampling.draw import Draw, check_draw
from hltm.sampling.packed import PackedDraw, sample_packed
from hltm.sampling.philox import MAX_MEMBERS, Stream, check_members
from hltm.sampling.sample import redraw, sample, views

if TYPE_CHECKING:
    import networkx as nx

Device = torch.device | str


class WriteOptions(TypedDict, total=False):
    """Keywords of `LatentTree.save`: those of `LatentTree.to_newick`."""

    lengths: Literal["paralinear", "expected-changes"] | None
    rate: float
    annotations: bool
    tables: Literal["keep", "drop"]


@dataclass(frozen=True, repr=False)
class LatentTree:
    """One hierarchical latent tree model, or S of them over one topology.

    A tree is arrays; a draw is returned, never stored on it. Where `stacked`, every array has the
    member axis S in front, also for one member; otherwise none has it. Trees with the same tables,
    names and addresses are equal; a tree pickles.

    Where a method takes nodes, each is given by name, as text, or by number: its place in storage
    order, as `root`, `leaves`, `latents` and `level` give it. An integer of your own that is the number
    of one node while its text is the name of another is refused as ambiguous.

    Attributes:
        tables: P(child | parent) of every edge and the root's prior.
        members: `S` addresses; member m of two trees drawn with one seed reads the same random numbers.
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
        object.__setattr__(self, "members", tuple(map(index, self.members)))  # integers of any type
        object.__setattr__(self, "stacked", bool(self.stacked))
        count = self.tables.count
        if count != len(self.members):
            raise ValueError(f"expected {count} member addresses, got {len(self.members)}")
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
        *,
        normalise: bool = False,
    ) -> LatentTree:
        """A tree from the parent and the table P(node | parent) of every node, in any order.

        `parents` and `names` are those of `Topology.from_parents`; `tables` stand in the order of
        `parents` or under the nodes' names, with the shapes of `hltm.model.tables.make_tables`.
        `normalise` divides rows by their sums, e.g. rounded probabilities or counts. A node's number
        is its place in storage order, not in `parents`: use names, here the places as text.

        Example:
            >>> tree = LatentTree.from_parents(
            ...     {"topic": None, "word": "topic"},
            ...     {"topic": [0.5, 0.3, 0.2], "word": [[0.9, 0.1], [0.5, 0.5], [0.0, 1.0]]},
            ... )
            >>> tree
            LatentTree(2 nodes, 1 leaf, depth 1, 2..3 states, names 'topic', 'word')
        """
        topology = Topology.from_parents(parents, names)
        named = name_tables(parents, names, tables)
        return cls.from_tables(topology, named, members, normalise=normalise)

    @classmethod
    def from_tables(
        cls,
        topology: Topology,
        tables: GivenTables,
        members: int | None = None,
        *,
        normalise: bool = False,
    ) -> LatentTree:
        """A tree from one table per node, by name or in storage order; see `make_tables`.

        `members` is None for one tree, or S for S trees; tables without an S axis are then shared.
        """
        return cls.of_members(make_tables(topology, tables, normalise=normalise), members)

    @classmethod
    def of_members(cls, tables: Tables, members: int | None) -> LatentTree:
        """Trees with the addresses 0..S-1; one set of tables serves any number of members."""
        if not isinstance(tables, Tables):
            raise TypeError(
                f"of_members makes trees of tables, got {tables!r}; trees[2:4] are members 2 and 3 of trees"
            )
        count = check_members(members)
        if tables.count not in (1, count):
            raise ValueError(f"the tables are for {tables.count} trees, members is {members}")
        tables = Tables(tables.topology, tables.cardinality, tables.flat.expand(count, -1))
        return cls(tables, tuple(range(count)), members is not None)

    @property
    def digest(self) -> str | tuple[str, ...]:
        """64 hexadecimal digits of the shape and the tables, `S` of them for stacked trees.

        They determine the states at an address; names do not count: see `hltm.model.digest.Digest`.
        """
        each = tuple(self.tables.digest.of(s) for s in range(len(self.members)))
        return each if self.stacked else each[0]

    def __repr__(self) -> str:
        states = sorted(set(self.tables.cardinality.tolist()))
        shown = f"{states[0]}" if len(states) == 1 else f"{states[0]}..{states[-1]}"
        members = f"{len(self.members)} x " if self.stacked else ""
        names = self.topology.names
        few = ", ".join(map(repr, names[:3])) + ", …" * (len(names) > 3)
        named = "" if names[0] == "0" else f", names {few}"
        leaves = "1 leaf" if len(self.leaves) == 1 else f"{len(self.leaves)} leaves"
        return (
            f"LatentTree({members}{len(self.topology)} nodes, {leaves}, "
            f"depth {self.topology.depth}, {shown} states{named})"
        )

    def _repr_html_(self) -> str:
        """A picture of a small tree and a table of its nodes, for notebooks; see `hltm.display`."""
        return import_module("hltm.display").tree_html(self)

    def __len__(self) -> int:
        if not self.stacked:
            raise TypeError("a single tree has no length; topology has the number of nodes")
        return len(self.members)

    def __getitem__(self, index: int | slice | Sequence[int]) -> LatentTree:
        """One member without the S axis, or a slice or several with it; addresses are kept."""
        if not self.stacked:
            raise TypeError("a single tree has no members to choose from")
        every = range(len(self.members))
        chosen = [every[i] for i in index] if isinstance(index, Sequence) else every[index]
        if isinstance(chosen, int):
            return LatentTree(self.tables.take([chosen]), (self.members[chosen],), False)
        if len(chosen) == 0:
            raise IndexError(f"no member in {index} of {len(self.members)}")
        picked = tuple(self.members[i] for i in chosen)
        return LatentTree(self.tables.take(list(chosen)), picked, True)

    def _public(self, found: Tensor) -> Tensor:
        """`(S, ...)` as users see it: without S for a single tree."""
        return found if self.stacked else found[0]

    # structure

    @property
    def topology(self) -> Topology:
        """The shape of the tree and, as `topology.names`, the names of its nodes in storage order."""
        return self.tables.topology

    @property
    def root(self) -> int:
        """The root's number, 0."""
        return NodeNumber(0)

    @property
    def leaves(self) -> NodeRange:
        """The numbers of the observed nodes."""
        return self.topology.leaves

    @property
    def latents(self) -> NodeRange:
        """The numbers of the unobserved nodes."""
        return self.topology.latents

    def level(self, level: int) -> NodeRange:
        """The numbers of the nodes of one level: 0 = leaves … L = root."""
        return self.topology.at_level(level)

    def table(self, node: Node) -> Tensor:
        """`(..., K_parent, K)` float64 P(node | parent); `(..., K)` for the root."""
        v = self.topology.node(node)
        found = self.tables.of(v)
        return self._public(found[:, 0] if v == 0 else found)

    @property
    def polarity(self) -> Tensor:
        """`(..., V)` correlation of every node of a binary tree with its parent; 1 for the root."""
        return self._public(moments.edge_correlation(self.tables))

    # draws: hltm.sampling

    # fmt: off
    @overload
    def sample(self, samples: int, *, seed: int, start: int = 0, device: Device = "cpu",
               packed: Literal[False] = False) -> Draw: ...
    @overload
    def sample(self, samples: int, *, seed: int, start: int = 0, device: Device = "cpu",
               packed: Literal[True]) -> PackedDraw: ...
    # fmt: on

    def sample(
        self,
        samples: int,
        *,
        seed: int,
        start: int = 0,
        device: Device = "cpu",
        packed: bool = False,
    ) -> Draw | PackedDraw:
        """Samples start .. start + samples - 1 of the endless data set of a 64-bit seed.

        The states do not depend on the device, nor on how a range is split over calls. `packed`
        stores one bit per state, for binary trees: see `PackedDraw`.
        """
        if not packed:
            return self.draw(samples, seed=seed, start=start, device=device)
        return sample_packed(
            self.tables, self.members, samples, seed=seed, start=start, stacked=self.stacked,
            device=device,
        )  # fmt: skip

    def draw(
        self,
        samples: int,
        *,
        seed: int,
        start: int = 0,
        stream: Stream = Stream.DATA,
        first: int = 0,
        device: Device = "cpu",
    ) -> Draw:
        """`sample` from any stream of random numbers, keeping the nodes from number `first` on."""
        return sample(
            self.tables, self.members, samples, seed=seed, start=start, stream=stream,
            stacked=self.stacked, first=first, device=device,
        )  # fmt: skip

    def views(
        self, draw: Draw, augment: Augmentation, *, count: int = 2, first_view: int = 1
    ) -> tuple[Draw, ...]:
        """`count` augmented draws of a draw's own samples, independent given the states they keep.

        Views are numbered from `first_view` on; other numbers give other views of the same samples.
        """
        check_draw(self.tables, self.members, draw)
        check_augmentation(augment)
        return views(
            self.tables, draw, augment.rates(self), missing_rates=augment.missing_rates(self),
            flip_rates=augment.flip_rates(self), count=count, first_view=first_view,
        )  # fmt: skip

    def redraw(self, draw: Draw, nodes: Nodes, *, view: int | None = None) -> Draw:
        """The draw with everything below some nodes drawn again; the nodes keep their states.

        `view` is the address of the new random numbers: above the draw's own, by default by one.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
            >>> draw = tree.sample(1000, seed=1)
            >>> again = tree.redraw(draw, tree.root)
            >>> again.root.equal(draw.root), again.leaves.equal(draw.leaves)
            (True, False)
        """
        check_draw(self.tables, self.members, draw)
        return redraw(self.tables, draw, self.topology.nodes(nodes), view=view)

    # interventions: hltm.model.intervene, hltm.sampling.counterfactual

    def intervene(self, settings: Mapping[Node, Setting]) -> LatentTree:
        """The tree after do(node = setting): the nodes' tables replaced, all others kept.

        A setting is a state, a distribution over the node's states or a whole table, with an S axis
        in front for another one per stacked tree: see `hltm.model.intervene`.
        """
        tables = intervene(self.tables, settings, stacked=self.stacked)
        return replace(self, tables=tables)

    def counterfactual(self, draw: AnyDraw, settings: Mapping[Node, Setting]) -> AnyDraw:
        """The draw as it would have been with some nodes set: same address, same random numbers.

        Only the set nodes and those below them may differ. A setting is as in `intervene`, or states
        `(B,)` or `(S, B)`, one per sample: see `hltm.sampling.counterfactual`.
        """
        return counterfactual(self.tables, self.members, draw, settings)

    def filtered(self, level: int) -> LatentTree:
        """The tree without the correlations that levels above this one make: see `hltm.model.filtered`."""
        return replace(self, tables=filtered(self.tables, level))

    # given evidence: hltm.inference

    def posterior(
        self,
        evidence: Any,
        *,
        nodes: Nodes | None = None,
        given: Leaves = "all",
        dtype: torch.dtype = torch.float64,
    ) -> Posterior:
        """P(node | evidence) and log P(evidence), exactly; differentiable in `tables.flat`.

        Args:
            evidence: leaves, integer states `(..., B, X)`, -1 where missing; or a mapping from nodes to
                integer states or float likelihoods, a data frame, or a draw: all forms are explained
                at `hltm.inference.evidence.read_evidence`, and -1 beside 1 at `refuse_signs` there.
            nodes: one node or several, by number or name; None for all.
            given: `all` evidence, or the node's `own`, that on it and below it.
            dtype: float64 or float32.

        Returns:
            marginals `(..., B, V, K)` and log_evidence `(..., B)`, for own evidence `(..., B, V)`.
            The axis V is in the order of `nodes`, by default of `topology.names`. Without evidence,
            `{}`, marginals are the priors. Evidence that cannot occur has log_evidence -inf and NaN
            marginals. With likelihoods, P(evidence) is the sum over joint states of their
            probability times all likelihoods.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
            >>> post = tree.posterior(torch.tensor([[1, 1], [0, -1]]), nodes="0")
            >>> post.marginals[:, 0, 1]  # P(root = 1): .81 / (.81 + .01), and .1
            tensor([0.9878, 0.1000], dtype=torch.float64)
            >>> post.log_evidence.exp()
            tensor([0.4100, 0.5000], dtype=torch.float64)
            >>> tree.posterior({"0": 1}, nodes="1").marginals  # a state of an inner node
            tensor([[[0.1000, 0.9000]]], dtype=torch.float64)
            >>> tree.posterior({"1": [0.2, 0.6]}, nodes="1").marginals  # a likelihood of each state
            tensor([[[0.2500, 0.7500]]], dtype=torch.float64)
        """
        if given not in ("all", "own"):
            raise ValueError(f"given must be 'all' or 'own', got {given!r}")
        wanted = np.arange(len(self.topology)) if nodes is None else self.topology.nodes(nodes)
        known = self._read(evidence)
        found = posterior(
            self.tables, known.leaves_SXB, wanted, dtype, own=given == "own",
            likelihoods=known.likelihoods,
        )  # fmt: skip
        marginals = self._public(found.marginals.permute(0, 3, 1, 2))
        # log_evidence is (S, B), or (S, V, B) for own leaves
        return Posterior(marginals, self._public(found.log_evidence.movedim(-1, 1)))

    def most_likely(self, evidence: Any) -> MostLikely:
        """The joint state of all nodes that is most likely given evidence, in any form of `posterior`.

        Returns:
            states `(..., B, V)` int64 and log_probability `(..., B)`; evidence that cannot occur has
            states -1 and log_probability -inf. Ties go to the lowest states, the root's first.
        """
        found = most_likely(self.tables, *self._read(evidence))
        states = self._public(found.states.transpose(1, 2))
        return MostLikely(states, self._public(found.log_probability))

    def posterior_samples(
        self, evidence: Any, samples: int, *, seed: int, start: int = 0, first: int = 0
    ) -> Tensor:
        """Joint states of all nodes drawn from P(all nodes | evidence), by address like any draw.

        For each of the rows of evidence, in any form of `posterior` and numbered from `start`, it
        draws N = `samples` joint states, numbered from `first`.

        Returns:
            `(N, B, V)` int64, or `(S, N, B, V)` for stacked trees; -1 for evidence that cannot occur.
        """
        known = self._read(evidence)
        found = posterior_samples(
            self.tables, known.leaves_SXB, samples, seed=seed, members=self.members, start=start,
            first=first, likelihoods=known.likelihoods,
        )  # fmt: skip
        return self._public(found.transpose(2, 3))

    def fit(
        self,
        evidence: Any,
        *,
        weights: Tensor | None = None,
        fixed: Nodes = (),
        pseudo_count: float = 0.0,
        tolerance: float = 1e-6,
        iterations: int = 2000,
        seed: int | None = None,
        restarts: int = 1,
    ) -> Fit[LatentTree]:
        """The tree with tables that maximise the likelihood of evidence, by EM: see `hltm.inference.fit`.

        Stacked trees are fitted side by side, each to its own rows or all to the same. Without `seed`
        EM starts from this tree's tables, which should not be symmetric: a start at which states or
        leaves are exchangeable is a saddle point that it cannot leave.

        Args:
            evidence: leaves, or any other form of `posterior`.
            weights: `(B,)` or `(..., B)`, how often each row counts.
            fixed: nodes whose tables are kept.
            pseudo_count, tolerance, iterations: as in `hltm.inference.fit.fit`.
            seed: start from random tables of this seed, `restarts` times, and keep each tree's best.
        """
        known = self._read(evidence)
        found = fit(
            self.tables, known.leaves_SXB, known.likelihoods, weights=weights,
            fixed=self.topology.nodes(fixed), pseudo_count=pseudo_count, tolerance=tolerance,
            iterations=iterations, seed=seed, restarts=restarts, members=self.members,
        )  # fmt: skip
        return Fit(replace(self, tables=found.tree), *map(self._public, found[1:]))

    def log_prob(self, states: Any) -> Tensor:
        """`(..., B)` float64 log P(all nodes) of complete rows, in nats: the sum of log table entries.

        Rows that cannot occur have -inf; differentiable in `tables.flat`. The log probability of part
        of the nodes is `posterior(...).log_evidence`.

        Args:
            states: `(..., B, V)` integers in storage order, a draw, or a mapping or data frame with
                states of every node by name.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
            >>> tree.log_prob([[1, 1, 0]]).exp()  # .5 x .9 x .1
            tensor([0.0450], dtype=torch.float64)
        """
        self._check_members(states)
        return self._public(log_prob(self.tables, every_node(self.tables, states, self.stacked)))

    def _check_members(self, given: Any) -> None:
        """Raise for a draw of stacked trees that are not these members in this order."""
        draw = isinstance(given, Draw) and given.stacked
        if draw and self.stacked and given.members != self.members:
            raise ValueError(
                f"the draw is of members {str(given.members)[:60]}, this tree of {str(self.members)[:60]}; "
                "to pair them by place all the same, give draw.leaves or draw.states"
            )

    def _read(self, evidence: Any) -> Evidence:
        self._check_members(evidence)
        return read_evidence(self.tables, evidence, stacked=self.stacked)

    def ceiling(
        self, nodes: Nodes, *, leaves: Leaves = "own", seed: int = 0, samples: int = SAMPLES
    ) -> Ceiling:
        """The best correlation with each node that any function of its own leaves, or of all, has.

        Its value and standard_error `(..., V)` are exact, so the standard error is 0, where the leaves
        have at most 2^16 joint states; otherwise they are estimated from `samples` draws.
        """
        at = self.topology.nodes(nodes)
        found = ceiling(self.tables, self.members, at, leaves=leaves, seed=seed, samples=samples)
        return Ceiling(*map(self._public, found))

    def bayes_prediction(
        self, nodes: Nodes, *, leaves: Leaves = "all", seed: int = 0, samples: int = SAMPLES
    ) -> BayesPrediction:
        """The least cross-entropy, in nats, and the highest accuracy of any predictor of nodes' states.

        H(node | leaves) and the accuracy of the likeliest state, given all leaves or each node's own, with
        standard errors, each `(..., V)`: exact where the leaves have at most 2^16 joint states, otherwise
        from `samples` draws; see `hltm.inference.bayes_prediction`. What leaves are predicted to be given
        others is `bayes_loss`.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
            >>> best = tree.bayes_prediction(tree.root)  # both leaves agree with P = .82; then .81 / .82
            >>> best.cross_entropy, best.accuracy  # .82 H(.81 / .82) + .18 ln 2, and .81 + .18 / 2
            (tensor([0.1788], dtype=torch.float64), tensor([0.9000], dtype=torch.float64))
        """
        at = self.topology.nodes(nodes)
        found = bayes_prediction(
            self.tables, self.members, at, leaves=leaves, seed=seed, samples=samples
        )
        return BayesPrediction(*map(self._public, found))

    def bayes_loss(
        self,
        *,
        order: Order | None = None,
        context: int | None = None,
        mask: Augmentation | Nodes | None = None,
        noise: Noise | None = None,
        level: float | Sequence[float] | None = None,
        predictor: LatentTree | None = None,
        seed: int = 0,
        samples: int = SAMPLES,
    ) -> BayesLoss:
        """The least cross-entropy, in nats, that any predictor of leaves can have: `(...)` or `(..., X)`.

        Of every leaf given those before it in an `order`; or of leaves missing under a `mask`, an
        augmentation or nodes; or of leaves given all noisy ones. With a `predictor`, another tree over the
        same leaves, it is the loss of that tree's posterior on the data of this one. Exact where what is
        seen has few patterns, otherwise with a standard error: see
        `hltm.inference.bayes_loss.bayes_loss`.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
            >>> tree.bayes_loss().value  # ln 2, and H(.82)
            tensor([0.6931, 0.4714], dtype=torch.float64)
            >>> tree.bayes_loss(mask=hltm.drop_leaves(0.5)).value  # the other leaf is seen half the time
            tensor(0.5823, dtype=torch.float64)
            >>> tree.bayes_loss(predictor=tree.filtered(0)).value  # who takes leaves for independent
            tensor([0.6931, 0.6931], dtype=torch.float64)
        """
        if predictor is not None and not isinstance(predictor, LatentTree):
            raise TypeError(f"predictor must be a LatentTree, got {type(predictor).__name__}")
        other = None if predictor is None else predictor.tables
        found = bayes_loss(
            self.tables, self.members, order=order, context=context, mask=mask, noise=noise,
            level=level, predictor=other, seed=seed, samples=samples,
        )  # fmt: skip
        return BayesLoss(
            self._public(found.value), self._public(found.standard_error), found.leaves
        )

    # leaves with noise: hltm.inference.noise, hltm.inference.denoise

    def corrupt(
        self, leaves: Any, noise: Noise, level: float, *, seed: int, start: int = 0
    ) -> Tensor:
        """Leaves with noise: `(..., B, X)` states, -1 where missing, or `(..., B, X, K)` of Gaussian noise.

        Args:
            leaves: complete states `(..., B, X)`, numbered from `start`; of a draw give `draw.leaves`.
            noise: `hltm.Masking()`, `hltm.Flips()` or `hltm.Gaussian()`.
            level: from 0, no noise, to 1, where nothing of the leaves is left.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
            >>> tree.corrupt(tree.sample(2, seed=1).leaves, hltm.Masking(), 0.5, seed=2)
            tensor([[-1,  1,  0, -1],
                    [ 0,  0, -1, -1]])
        """
        check_noise(noise, self.tables)
        clean = check_clean(self.tables, leaves, stacked=self.stacked)
        return self._public(
            corrupt(self.tables, self.members, clean, noise, level, seed=seed, start=start)
        )

    def denoise(self, noisy: Any, noise: Noise, level: float) -> Tensor:
        """`(..., B, X, K)` float64 E[x_0 | x_t], exactly: the posterior of every leaf given noisy leaves.

        `noisy` is what `corrupt` makes. Of signs, E[x_0 | x_t] is 2 p - 1 with p the entry of state 1.
        Noisy leaves that cannot occur give NaN.
        """
        check_noise(noise, self.tables)
        seen = noise.check(self.tables, noisy, stacked=self.stacked)
        return self._public(denoise(self.tables, seen, noise, level))

    def sample_back(
        self, noisy: Any, noise: Noise, levels: Sequence[float], *, seed: int, start: int = 0
    ) -> list[Tensor]:
        """Draws from the exact reverse process of noise at each of `levels` but the first, that of `noisy`.

        Each has the shape of `noisy`, and at level 0 states `(..., B, X)`. `levels` decrease strictly;
        `(t, 0)` draws x_0 at once: see `hltm.inference.denoise.sample_back`.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
            >>> tree.sample_back([[0, 0, -1, -1]], hltm.Masking(), (0.5, 0.2, 0), seed=3)
            [tensor([[ 0,  0,  1, -1]]), tensor([[0, 0, 1, 1]])]
        """
        check_noise(noise, self.tables)
        seen = noise.check(self.tables, noisy, stacked=self.stacked)
        found = sample_back(self.tables, self.members, seen, noise, levels, seed=seed, start=start)
        return [self._public(each) for each in found]

    def change_correlation(
        self, noise: Noise, level: float, *, seed: int = 0, samples: int = SAMPLES
    ) -> ChangeCorrelation:
        """How leaves change together when noise is put on them and taken back, by their distance.

        Exact on small trees for masking and flips, otherwise estimated from `samples` draws: see
        `hltm.inference.change`.

        Example:
            >>> import hltm
            >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, signs="positive", seed=0)
            >>> tree.change_correlation(hltm.Flips(), 0.5).correlation  # itself, sibling, cousin
            tensor([1.0000, 0.5881, 0.3402], dtype=torch.float64)
        """
        check_noise(noise, self.tables)
        found = change_correlation(
            self.tables, self.members, noise, level, seed=seed, samples=samples
        )
        return ChangeCorrelation(*map(self._public, found))

    # closed forms and enumeration: hltm.model

    def correlation(self, a: Nodes, b: Nodes) -> Tensor:
        """`(..., A, B)` float64 correlations between nodes of a binary tree, in closed form.

        `maximal_correlation`, `covariance` and `mutual_information` take any number of states.
        In this and the next methods the axis of a node that is given singly is dropped.
        """
        return self._closed_form(moments.correlation, a, b)

    def covariance(self, a: Nodes, b: Nodes) -> Tensor:
        """`(..., A, B, K, K)` float64 covariances between the one-hot states of nodes, in closed form.

        For any number of states; those that a node does not have get 0.
        """
        return self._closed_form(moments.covariance, a, b)

    def maximal_correlation(self, a: Nodes, b: Nodes) -> Tensor:
        """`(..., A, B)` float64 highest correlations of any functions of two nodes' states, in closed form.

        For any number of states, and without a sign: see `hltm.model.moments.maximal_correlation`.
        """
        return self._closed_form(moments.maximal_correlation, a, b)

    def mutual_information(self, a: Nodes, b: Nodes) -> Tensor:
        """`(..., A, B)` float64 mutual information of nodes in nats; of a node with itself, its entropy."""
        return self._closed_form(moments.mutual_information, a, b)

    def view_correlation(
        self, nodes: Nodes, augment: Augmentation, *, other: Augmentation | None = None
    ) -> Tensor:
        """`(..., A)` float64 correlation of a node's states in two views of a sample, in closed form.

        For more than two states it is the maximal correlation: see `hltm.model.view_moments`. The
        second view has the augmentation `other`, by default the same; `other=keep_level(0)` compares
        a view with the data. A leaf's state counts whether or not it is missing from the view.
        """
        rates = [check_augmentation(each).rates(self) for each in (augment, other or augment)]
        return self._closed_form(view_moments.view_correlation, nodes, rates=rates)

    def view_information(
        self, nodes: Nodes, augment: Augmentation, *, other: Augmentation | None = None
    ) -> Tensor:
        """`(..., A)` float64 mutual information, in nats, of a node's states in two views of a sample.

        Arguments as in `view_correlation`. If each view misses a leaf with probability m, what both
        show of it is (1 - m)² of the leaf's value here.
        """
        rates = [check_augmentation(each).rates(self) for each in (augment, other or augment)]
        return self._closed_form(view_moments.view_information, nodes, rates=rates)

    def _closed_form(
        self, function: Callable[..., Tensor], *asked: Nodes, rates: Sequence[np.ndarray] = ()
    ) -> Tensor:
        found = function(self.tables, *map(self.topology.nodes, asked), *rates)
        return self._public(drop_single(found, *asked))

    def joint(self) -> Joint:
        """Every joint state `(N, V)` and its probability `(..., N)`, by enumeration of at most 2^20."""
        found = joint(self.tables)
        return Joint(found.states, self._public(found.probability))

    def leaf_distribution(self, given: Nodes | Mapping[Node, int]) -> Tensor:
        """`(..., N_given, N_leaves)` float64 P(leaves | states of nodes), by enumeration.

        `given` is a node or several, for all of their joint states, or a mapping node -> state, for
        one: `(..., N_leaves)`. See `hltm.model.enumeration.leaf_distribution`.
        """
        return self._public(leaf_distribution(self.tables, given))

    # other formats; they build on this class, so they are imported where they are used

    def save(self, path: str | os.PathLike[str], **options: Unpack[WriteOptions]) -> None:
        """Write a file that `hltm.load_tree` reads, in the format of its suffix; see `hltm.formats.files`."""
        import_module("hltm.formats.files").save(self, path, **options)

    def to_networkx(self, *, arrays: bool = False) -> nx.DiGraph[str]:
        """A directed graph that holds the tables, as text or arrays; see `hltm.formats.networkx`."""
        return import_module("hltm.formats.networkx").to_networkx(self, arrays=arrays)

    def to_newick(
        self,
        *,
        lengths: Literal["paralinear", "expected-changes"] | None = "paralinear",
        rate: float = 1.0,
        annotations: bool = True,
        tables: Literal["keep", "drop"] = "keep",
    ) -> str:
        """Newick text: shape, names, branch lengths, polarities; see `hltm.formats.newick_writing`."""
        return import_module("hltm.formats.newick_writing").to_newick(
            self, lengths=lengths, rate=rate, annotations=annotations, tables=tables
        )

    def to_bif(self) -> str:
        """A Bayesian network in BIF text; see `hltm.formats.bif`."""
        return import_module("hltm.formats.bif").to_bif(self)

    @classmethod
    def from_bif(cls, text: str) -> LatentTree:
        """The tree of a Bayesian network in BIF text; `hltm.load_tree` reads a file.

        States are numbered as they are declared, and `hltm.formats.bif.state_names` has their names.
        """
        return import_module("hltm.formats.bif").from_bif(text)

    @classmethod
    def from_networkx(cls, graph: nx.Graph[Any], root: Any = None) -> LatentTree:
        """The tree of a graph that holds tables or polarities; see `hltm.formats.networkx`."""
        return import_module("hltm.formats.networkx").from_networkx(graph, root)

    @classmethod
    def from_newick(
        cls,
        text: str,
        *,
        lengths: Literal["paralinear", "expected-changes"] = "paralinear",
        rate: float = 1.0,
        states: int | None = None,
        negative: Literal["refuse", "zero"] = "refuse",
        keep_underscores: bool = False,
    ) -> LatentTree:
        """The symmetric tree of a Newick or NEXUS text with lengths; see `hltm.formats.newick`.

        `hltm.load_tree` reads a file.

        Args:
            lengths: `expected-changes` per site, as phylogenies have them, or `paralinear`. The text does not
                say which: without it a phylogeny is read as another tree.
            rate: lengths are multiplied by it.
            states: of every node, 2 unless the text says it: 2 is the Cavender-Farris-Neyman model, 4
                Jukes-Cantor.
            negative: refuse negative lengths, or take them as zero.
            keep_underscores: whether underscores in names are not read as blanks.
        """
        return import_module("hltm.formats.newick").from_newick(
            text, lengths=lengths, rate=rate, states=states, negative=negative,
            keep_underscores=keep_underscores,
        )  # fmt: skip
