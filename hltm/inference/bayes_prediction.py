"""The best classifier of a latent: the least cross-entropy and the highest accuracy that leaves allow.

Of all predictors q of the state z of a node that see leaves x, the posterior π(x) = P(z | x) has the
least cross-entropy, and its likeliest state is the guess that is right most often:

    E[-log q(z | x)] >= E[H(π)] = H(z | x),    P(guess(x) = z) <= E[max over k of π_k].

Both means are over x: a sum over all joint states of the leaves where these are few, and else a mean
over samples of x, whose variance is smaller than that of -log π_z and of the count of right guesses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm._results import by_content
from hltm.inference.ceiling import MAX_EXACT, Leaves
from hltm.inference.masks import joint_count, possible_leaves, seen_states
from hltm.inference.posterior import posterior
from hltm.model.moments import marginals
from hltm.model.nodes import NodeNumber
from hltm.model.tables import Tables
from hltm.sampling.philox import Stream, check_seed
from hltm.sampling.sample import sample

HELD = 1 << 22  # posterior probabilities that are computed at a time


@by_content
class BayesPrediction(NamedTuple):
    """The best cross-entropies and accuracies of nodes, and their standard errors.

    Attributes:
        cross_entropy: `(V,)` or `(S, V)` float64, H(node | leaves) in nats: no predictor has less.
        accuracy: the same shape, in [0, 1]: no guess is right more often.
        cross_entropy_error, accuracy_error: their standard errors; 0 where the value is exact.
    """

    cross_entropy: Tensor
    accuracy: Tensor
    cross_entropy_error: Tensor
    accuracy_error: Tensor


def bayes_prediction(
    tables: Tables,
    members: Sequence[int],
    nodes: np.ndarray,
    *,
    leaves: Leaves,
    seed: int,
    samples: int,
) -> BayesPrediction:
    """The best predictions `(S, V)` of nodes, exact where their leaves have at most 2^16 joint states.

    In trees with probabilities of 0 only joint states that can occur count.

    Args:
        members: `S` addresses, of the samples.
        nodes: `(V,)` node numbers.
        leaves: `all`, or each node's `own`, those below it; a leaf's own leaf is itself.
        seed: 64 bits, of the samples that are drawn where the prediction is not exact.
        samples: how many, at least 2.

    Raises:
        ValueError: `leaves` is neither own nor all, or fewer than 2 samples.
    """
    if leaves not in ("own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    if as_integer("samples", samples) < 2:
        raise ValueError(f"a prediction needs at least 2 samples, got {samples}")
    seed = check_seed(seed)
    value, error = np.zeros((2, 2, len(members), len(nodes)))  # of cross-entropy and accuracy
    with torch.no_grad():
        for s, member in enumerate(members):
            one = tables.take([s])
            rest = nodes < tables.topology.leaves.start  # a leaf sees itself
            value[1, s, ~rest] = 1
            for at, tree, within in _parts(one, nodes, np.flatnonzero(rest), leaves):
                every = seen_states(
                    tree, np.arange(len(tree.topology.leaves)), possible_leaves(tree)
                )
                if every is None:
                    continue
                for part in every.split(_chunk(tree, len(at))):
                    found, probability = _scores(tree, part.T[None], within, own=False)
                    value[:, s, at] += found @ probability
                rest[at] = False
            if rest.any():
                draw = sample(
                    one, [member], samples, seed=seed, stream=Stream.CEILING,
                    first=one.topology.leaves.start,
                )  # fmt: skip
                parts = draw.states_SVB.to(torch.int64).split(_chunk(one, int(rest.sum())), dim=-1)
                each = np.concatenate(
                    [_scores(one, part, nodes[rest], own=leaves == "own")[0] for part in parts], -1
                )
                value[:, s, rest] = each.mean(-1)
                error[:, s, rest] = each.std(-1, ddof=1) / samples**0.5
    return BayesPrediction(*map(torch.from_numpy, (*value, *error)))


def _parts(
    tables: Tables, nodes: np.ndarray, latent: np.ndarray, leaves: Leaves
) -> Iterator[tuple[np.ndarray, Tables, np.ndarray]]:
    """Trees all of whose leaves are seen by some latents: the latents' places in `nodes`, the tables of
    the tree, and the numbers that the latents have in it.

    Subtrees without a probability of 0 whose leaves have more than MAX_EXACT joint states are left out.
    """
    if leaves == "all":
        if len(latent):
            yield latent, tables, nodes[latent]
        return
    prior, zeros = marginals(tables), bool((tables.flat == 0).any())
    for i in latent.tolist():
        topology, kept = tables.topology.subtree(NodeNumber(nodes[i]))
        cardinality = tables.cardinality[kept]
        if zeros or joint_count(cardinality[topology.leaves.start :]) <= MAX_EXACT:
            below = [tables.of(v).flatten(1) for v in kept[1:].tolist()]
            flat = torch.cat([prior[nodes[i]], *below], dim=1)
            yield np.array([i]), Tables(topology, cardinality, flat), np.zeros(1, dtype=np.int64)


def _scores(
    tables: Tables, leaves_SXB: Tensor, nodes: np.ndarray, *, own: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`(2, V, B)` entropy and maximum of posteriors, 0 where leaves cannot occur; `(B,)` P(leaves)."""
    found = posterior(tables, leaves_SXB, nodes, own=own)
    p = found.marginals[0].nan_to_num(0)
    entropy = -torch.where(p > 0, p * p.clamp(0, 1).log(), 0).sum(1)
    return torch.stack([entropy, p.amax(1)]).numpy(), found.log_evidence[0].exp().numpy()


def _chunk(tables: Tables, nodes: int) -> int:
    """How many rows to compute at a time."""
    return max(HELD // (nodes * int(tables.cardinality.max())), 256)
