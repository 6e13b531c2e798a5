"""The largest partial correlation, given the parent, that any function of the leaves has with a latent."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling, Leaves
from hltm.inference.posterior import posterior
from hltm.model.enumeration import all_states
from hltm.model.moments import marginals
from hltm.model.tables import Tables
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample
from hltm.tree import LatentTree

PAIRS = 256  # joint states of a latent and its parent, at most
SAMPLES = 8192
ENUMERATED = 1 << 12  # joint states of leaves; with more, leaves are sampled
DETERMINED = 1e-9  # a share of variance that is left where the parent explains all


def partial_ceiling(
    tree: LatentTree, *, leaves: Leaves = "all", seed: int = 0, samples: int = SAMPLES
) -> Ceiling:
    """The largest partial correlation of any function of the leaves with each latent, given its parent.

    With z a latent, p its parent, Q(x) = P(z, p | leaves x) and C = Cov(Q), a function f of the leaves that
    has a larger one than others lies in the span of Q, since E[f | z, p] depends on Cov(f, Q) alone. For
    f = a · Q it is the square root of

        ρ² = aᵀ (C D⁻¹ C - B) a / aᵀ (C - B) a,  B = C Mᵀ E⁻¹ M C,

    where D and E are the diagonal matrices of P(z, p) and of P(p), and M sums over the states of z: the
    largest generalised eigenvalue. It is exact where leaves have at most 2^12 joint states; otherwise
    C is that of `samples` drawn rows, and the largest is chosen on the same rows, which makes it too
    large by about K² / samples.

    Args:
        leaves: `own` for functions of the leaves below the latent, `all` for functions of all leaves.
        seed, samples: of the rows that are drawn.

    Returns:
        `(L,)` or `(S, L)` of all latents; NaN for the root and for a latent with more than 256 joint states
        with its parent.

    Raises:
        ValueError: `leaves` is neither own nor all.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
        >>> bound = partial_ceiling(tree)
        >>> bool(bound.value[1] < tree.ceiling([1], leaves="all").value[0])
        True
    """
    if leaves not in ("own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    if samples < 2:
        raise ValueError(f"a ceiling needs at least 2 samples, got {samples}")
    first = tree.topology.leaves.start
    cardinality = tree.tables.cardinality
    exact = bool(np.log2(cardinality[first:]).sum() <= np.log2(ENUMERATED) + 1e-9)
    found = torch.full((2, len(tree.members), first), torch.nan, dtype=torch.float64)
    for s, member in enumerate(tree.members):
        tables = tree.tables.take([s])
        if exact:
            rows = all_states(cardinality[first:]).T[None]
        else:
            draw = sample(tables, [member], samples, seed=seed, stream=Stream.CEILING, first=first)
            rows = draw.states_SVB.long()
        pairs = PairPosterior(tables, rows, own=leaves == "own")
        weight = pairs.probability if exact else torch.full((samples,), 1 / samples).double()
        for v in range(1, first):
            if cardinality[v] * cardinality[tree.topology.parent[v]] > PAIRS:
                continue
            square, influence = _largest(pairs.prior(v), pairs.of(v), weight)
            found[0, s, v] = square**0.5
            spread = 0.0 if exact else float(influence.std()) / samples**0.5
            found[1, s, v] = spread / (2 * square**0.5) if square > 0 else 0.0
    return Ceiling(*(found if tree.stacked else found[:, 0]))


class PairPosterior:
    """P(latent, parent | leaves) of one tree and rows of leaves.

    Given its parent, a latent depends on the leaves below it alone, so the posterior is
    P(parent | leaves) P(latent | parent, own leaves) for all leaves, and for the latent's own leaves
    P(latent | own leaves) P(parent | latent).

    Args:
        tables: of one tree.
        leaves: `(1, X, B)` states.
        own: whether the leaves are those below the latent, or all.
    """

    def __init__(self, tables: Tables, leaves: Tensor, *, own: bool) -> None:
        self.tables, self.own = tables, own
        nodes = np.arange(tables.topology.leaves.start)
        everything = posterior(tables, leaves, nodes)
        self.probability = everything.log_evidence[0].exp()
        # leaves that cannot occur have no posterior
        self.given_all = everything.marginals[0].nan_to_num()  # (V, K, B)
        self.given_own = posterior(tables, leaves, nodes, own=True).marginals[0].nan_to_num()
        self.priors = [found[0] for found in marginals(tables)]

    def prior(self, v: int) -> Tensor:
        """`(K of the parent, K)` P(parent, latent)."""
        parent = int(self.tables.topology.parent[v])
        return self.priors[parent][:, None] * self.tables.of(v)[0]

    def of(self, v: int) -> Tensor:
        """`(K of the parent, K, B)` P(parent, latent | leaves)."""
        joint, parent = self.prior(v), int(self.tables.topology.parent[v])
        own = self.given_own[v, : joint.shape[1]]
        prior = self.priors[v]
        likelihood = own / prior.where(prior > 0, 1.0)[:, None]  # up to a factor of the row
        if self.own:
            return joint[..., None] * likelihood
        together = self.tables.of(v)[0][..., None] * likelihood
        total = together.sum(1, keepdim=True)
        above = self.given_all[parent, : len(joint), None]
        return above * together / total.where(total > 0, 1.0)


def _largest(prior: Tensor, pairs: Tensor, weight: Tensor) -> tuple[float, Tensor]:
    """The largest ρ², and `(B,)` the change that a row's weight makes to it.

    Args:
        prior: `(K of the parent, K)`, and pairs `(K of the parent, K, B)` posteriors.
        weight: `(B,)` of every row, with sum 1.
    """
    inverse, above = (1 / x.where(x > 0, torch.inf) for x in (prior, prior.sum(1)))
    q = (pairs - prior[..., None]).flatten(0, 1)  # (P, B)
    covariance = (q * weight) @ q.mT
    summed = covariance.unflatten(0, tuple(prior.shape)).sum(1)  # M C
    by_pair = covariance * inverse.flatten() @ covariance
    by_parent = summed.mT * above @ summed
    size, direction = torch.linalg.eigh(covariance)
    some = size > DETERMINED * size[-1]
    if not bool(some.any()) or not float(size[-1]) > 0:
        return 0.0, torch.zeros_like(weight)
    basis = direction[:, some] / size[some].sqrt()
    left, direction = torch.linalg.eigh(basis.mT @ (covariance - by_parent) @ basis)
    some = left > DETERMINED
    if not bool(some.any()):
        return 0.0, torch.zeros_like(weight)
    basis = basis @ direction[:, some] / left[some].sqrt()
    values, direction = torch.linalg.eigh(basis.mT @ (by_pair - by_parent) @ basis)
    a = basis @ direction[:, -1]  # aᵀ (C - B) a = 1
    square = float(values[-1].clamp(0, 1))
    # to first order in the weights the best a does not change
    function = a @ q
    given_pair = (inverse.flatten() * (covariance @ a)) @ q
    given_parent = (above * (summed @ a)) @ q.unflatten(0, tuple(prior.shape)).sum(1)
    influence = 2 * function * (given_pair - given_parent)
    return square, influence - square * (function.square() - 2 * function * given_parent)
