"""Maximum-likelihood tables from leaves with any pattern of missing ones, by expectation-maximisation.

EM (Dempster, Laird and Rubin 1977) repeats two steps. E: the expected counts of every table's entries
given the evidence under the present tables, exactly (`hltm.inference.expected_counts`). M: every row
of every table becomes its expected counts, divided by their sum:

    θ_v(i, j) <- (N_v(i, j) + α) / sum over j' of (N_v(i, j') + α),    α = `pseudo_count`.

No step lowers the objective, sum over rows w_b log P(evidence b) + α · sum over entries log θ, whose
second part is the log density of Dirichlet(1 + α) priors up to a constant. It ends in a local maximum
or, from a start at which nodes are exchangeable or independent, in a saddle point.

What can be learned: a latent's states may be renamed without a change of P(leaves), so tables are
determined at best up to that; latents with too few children (a root with two, an inner node with one)
are not determined even so (Allman, Matias and Rhodes 2009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm._results import by_content
from hltm.inference.expected_counts import Rows, expected_counts
from hltm.model.tables import Tables
from hltm.sampling.philox import Stream, check_seed, uniform

Model = TypeVar("Model")
MAX_CODE = 1 << 62


@by_content
class Fit(NamedTuple, Generic[Model]):
    """The result of EM.

    Attributes:
        tree: with the fitted tables; shape, names, members and numbers of states are those of the start.
        log_evidence: `(..., T)` float64, the weighted sum of log P(evidence) in nats under the start and
            after every iteration; a model that converged before others keeps its last value.
        objective: `(..., T)` float64, the same plus the log prior: it never falls. Without pseudo-counts
            it is the log evidence.
        converged: `(...)` bool, whether the last gain was within the tolerance.
        iterations: `(...)` int64, how many were made.
    """

    tree: Model
    log_evidence: Tensor
    objective: Tensor
    converged: Tensor
    iterations: Tensor


def _in_one_line(found: Fit[Any]) -> str:
    last = found.log_evidence[..., -1].flatten()
    shown = f"{float(last[0]):.6g}" + (f" … {float(last[-1]):.6g}" if len(last) > 1 else "")
    done = int(found.converged.sum())
    share = "converged" if done == len(last) else f"{done} of {len(last)} models converged"
    share = share if len(last) > 1 or done else "not converged"
    made = int(found.iterations.max())
    return f"Fit({found.tree}, log evidence {shown}, {made} iterations, {share})"


Fit.__repr__ = _in_one_line  # type: ignore[method-assign, assignment]


def fit(
    tables: Tables,
    leaves_SXB: Tensor,
    likelihoods: Mapping[int, Tensor] | None = None,
    *,
    weights: Tensor | None = None,
    fixed: Sequence[int] | np.ndarray = (),
    pseudo_count: float = 0.0,
    tolerance: float = 1e-6,
    iterations: int = 2000,
    seed: int | None = None,
    restarts: int = 1,
    members: Sequence[int] = (),
) -> Fit[Tables]:
    """Tables that maximise the likelihood of evidence, for S models at once.

    Equal rows of evidence are computed once. Rows of a table whose parent's state never occurs, and
    the tables of `fixed` nodes, stay as they are; an entry that is 0 at the start stays 0 unless there
    are pseudo-counts.

    Args:
        tables: the start, and the shape and numbers of states of the result.
        leaves_SXB: `(S, X, B)` integer states, -1 where missing; with stride 0 along S all models share
            them, and then `(S, B)` weights and likelihoods must be shared, too.
        likelihoods: node -> `(S or 1, K, B)` float64 at least 0, factors of the states of any nodes.
        weights: `(S or 1, B)` finite and at least 0, how often each row counts; None for 1.
        fixed: nodes whose tables are kept.
        pseudo_count: α, added to the expected count of every entry that is not fixed.
        tolerance: a model has converged when an iteration gains at most this share of the objective: by
            default .03 nats where 10,000 rows have 3 nats each, which no data tell apart. EM gains ever less
            and may take dozens of times as many iterations for the rest; ask for less, such as 1e-9, where
            the tables themselves are wanted to many digits.
        iterations: how many at most.
        seed: None starts from `tables`; otherwise every row of every table that is not fixed starts
            uniform over all distributions, by address.
        restarts: how many such starts; of each model, the fit with the highest objective is returned.
        members: S addresses of members, for `seed`.

    Raises:
        ValueError: rows of positive weight that cannot occur under the start, no such rows, weights
            or settings outside their range.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
        >>> data = tree.sample(10_000, seed=1)
        >>> found = hltm.random_tables(tree.topology, seed=2).fit(data.leaves)
        >>> bool(found.converged), bool((found.log_evidence.diff() >= 0).all())
        (True, True)
        >>> truth = tree.posterior(data.leaves).log_evidence.sum()
        >>> bool(found.log_evidence[-1] > truth)  # the maximum is above the tables that made the data
        True
    """
    _check_settings(pseudo_count, tolerance, iterations, seed, restarts)
    rows, first = _gather(leaves_SXB, likelihoods or {}, weights, tables.cardinality)
    flat = tables.flat.detach().cpu().numpy().copy()
    free = np.repeat(
        ~np.isin(np.arange(len(tables.topology)), fixed), tables.rows * tables.cardinality
    )
    count = len(flat)
    if seed is not None:
        starts = [_random(tables, seed, members, restart) for restart in range(restarts)]
        flat = np.where(free, np.concatenate(starts), np.tile(flat, (restarts, 1)))
        rows = rows._replace(bounds=np.tile(rows.bounds, (restarts, 1)))
    found, log_evidence, objective, converged, made = _maximise(
        tables, flat, rows, free, pseudo_count, tolerance, iterations, first
    )
    # of the restarts of every model, the best
    best = objective[-1].reshape(restarts, count).argmax(0) * count + np.arange(count)
    last = int(made[best].max()) + 1
    return Fit(
        Tables(tables.topology, tables.cardinality, torch.from_numpy(found[best])),
        torch.from_numpy(log_evidence[:last, best].T.copy()),
        torch.from_numpy(objective[:last, best].T.copy()),
        torch.from_numpy(converged[best]),
        torch.from_numpy(made[best]),
    )


def _maximise(
    tables: Tables,
    flat: np.ndarray,
    rows: Rows,
    free: np.ndarray,
    pseudo_count: float,
    tolerance: float,
    iterations: int,
    first: list[np.ndarray],
) -> tuple[np.ndarray, ...]:
    """EM of M models until each converges: tables `(M, N)`, two curves `(T, M)`, converged, iterations."""
    models = len(flat)
    active = np.arange(models)  # the models that have not converged
    before, last = flat.copy(), np.full(models, -np.inf)
    now, curves = np.empty((2, models)), []
    made = np.zeros(models, dtype=np.int64)
    converged = np.zeros(models, dtype=bool)
    for step in range(iterations + 1):
        counts, log_p = expected_counts(
            Tables(tables.topology, tables.cardinality, torch.from_numpy(flat[active])),
            rows._replace(bounds=rows.bounds[active]),
        )
        if step == 0:
            _check_possible(log_p, first, rows.bounds)
        bounds = rows.bounds[active].tolist()
        sums = np.array([rows.weights[a:b] @ x for x, (a, b) in zip(log_p, bounds, strict=True)])
        with np.errstate(divide="ignore", invalid="ignore"):
            prior = pseudo_count * np.log(flat[active][:, free]).sum(1) if pseudo_count else 0.0
            new = np.stack([sums, sums + prior])
            gain = new[1] - last[active]
            # a fall is rounding at the maximum: the tables before it are kept
            fell, done = gain < 0, gain <= tolerance * np.abs(new[1])
        flat[active[fell]] = before[active[fell]]
        now[:, active[~fell]] = new[:, ~fell]
        last[active] = now[1, active]
        made[active] = step - fell
        curves.append(now.copy())
        converged[active] = done
        active, counts = active[~done], counts[~done]
        if len(active) == 0 or step == iterations:
            break
        before[active] = flat[active]
        flat[active] = _normalised(tables, counts, flat[active], free, pseudo_count)
    log_evidence, objective = np.stack(curves, axis=1)
    return flat, log_evidence, objective, converged, made


def _normalised(
    tables: Tables, counts: np.ndarray, old: np.ndarray, free: np.ndarray, pseudo_count: float
) -> np.ndarray:
    """The M-step: rows of counts divided by their sums; the old row where that is 0 or fixed."""
    counts = counts + pseudo_count
    width = np.repeat(tables.cardinality, tables.rows)  # states of every row
    total = np.repeat(np.add.reduceat(counts, np.cumsum(width) - width, axis=1), width, axis=1)
    kept = ~free | (total <= 0)
    return np.where(kept, old, counts / np.where(kept, 1, total))


def _random(tables: Tables, seed: int, members: Sequence[int], restart: int) -> np.ndarray:
    """`(S, N)` tables whose rows are uniform over all distributions, by address.

    `hltm.random_tables` reads view 0 of these addresses, so a fit never starts at the tables of the
    same seed.
    """
    u = uniform(
        tables.flat.shape[1], seed=seed, stream=Stream.TABLES, members=members, node=0,
        view=restart + 1,
    ).numpy()  # fmt: skip
    exponential = -np.log1p(-np.maximum(u, 2.0**-54))
    free = np.ones(u.shape[1], dtype=bool)
    return _normalised(tables, exponential, exponential, free, 0.0)


def _gather(
    leaves_SXB: Tensor,
    likelihoods: Mapping[int, Tensor],
    weights: Tensor | None,
    cardinality: np.ndarray,
) -> tuple[Rows, list[np.ndarray]]:
    """The distinct rows of evidence of every model, and where each of them is first."""
    members, leaves, samples = leaves_SXB.shape
    w = np.ones((1, samples)) if weights is None else _check_weights(weights, members, samples)
    factors = {v: factor.detach().cpu().numpy() for v, factor in likelihoods.items()}
    shared = leaves_SXB.stride(0) == 0 and len(w) == 1
    shared = shared and all(
        len(factor) == 1 or factor.strides[0] == 0 for factor in factors.values()
    )
    parts, firsts = [], []
    sizes = cardinality[len(cardinality) - leaves :]
    for s in range(1 if shared else members):
        part, first = _distinct(
            np.ascontiguousarray(leaves_SXB[s].cpu().numpy(), dtype=np.int32), sizes,
            {v: factor[s % len(factor)] for v, factor in factors.items()}, w[s % len(w)],
        )  # fmt: skip
        if len(first) == 0:
            raise ValueError("a fit needs at least one row of positive weight, got none")
        parts.append(part)
        firsts.append(first)
    ends = np.cumsum([len(first) for first in firsts])
    bounds = np.stack([ends - [len(first) for first in firsts], ends], axis=1)
    rows = Rows(
        np.concatenate([part.leaves for part in parts], axis=1),
        {v: np.concatenate([part.likelihoods[v] for part in parts], axis=1) for v in factors},
        np.concatenate([part.weights for part in parts]),
        np.repeat(bounds, members, axis=0) if shared else bounds,
    )
    return rows, firsts * members if shared else firsts


def _distinct(
    leaves: np.ndarray, sizes: np.ndarray, factors: dict[int, np.ndarray], weights: np.ndarray
) -> tuple[Rows, np.ndarray]:
    """The distinct rows of one model's evidence with their total weights, and where each is first.

    Rows are compared by a code of mixed radix, which is made dense again before it overflows.
    """
    code, radix = np.zeros(len(weights), dtype=np.int64), 1
    columns = [(states + 1, int(size) + 1) for states, size in zip(leaves, sizes, strict=True)]
    for factor in factors.values():
        values, place = np.unique(factor.T, axis=0, return_inverse=True)
        columns.append((place.ravel(), len(values)))
    for values, size in columns:
        if radix * size > MAX_CODE:
            distinct, code = np.unique(code, return_inverse=True)
            code, radix = code.ravel(), len(distinct)
            if radix == len(weights):  # all rows differ already
                break
        code, radix = code * size + values, radix * size
    _, first, place = np.unique(code, return_index=True, return_inverse=True)
    total = np.bincount(place.ravel(), weights=weights, minlength=len(first))
    first, total = first[total > 0], total[total > 0]
    kept = {v: factor[:, first] for v, factor in factors.items()}
    return Rows(leaves[:, first], kept, total, np.array([[0, len(first)]])), first


def _check_settings(
    pseudo_count: float, tolerance: float, iterations: int, seed: int | None, restarts: int
) -> None:
    numbers: dict[str, Any] = {"pseudo_count": pseudo_count, "tolerance": tolerance}
    for name, value in numbers.items():
        number = isinstance(value, Real)  # numpy's too
        if not (number and 0 <= value < np.inf):
            raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}")
    for name, count in (("iterations", iterations), ("restarts", restarts)):
        as_integer(name, count, 1)
    if seed is not None:
        check_seed(seed)
    elif restarts > 1:
        raise ValueError(f"{restarts} restarts need a seed for their tables, got seed=None")


def _check_weights(weights: Tensor, members: int, samples: int) -> np.ndarray:
    try:
        given = torch.as_tensor(weights).detach().cpu().to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"weights are {repr(weights)[:40]}, expected numbers") from error
    found = given[None] if given.ndim == 1 else given
    if tuple(found.shape) not in ((1, samples), (members, samples)):
        shown = f" or ({members}, {samples})" if members > 1 else ""
        raise ValueError(f"weights have shape {tuple(given.shape)}, expected ({samples},){shown}")
    wrong = found[~((found >= 0) & (found < torch.inf))]
    if len(wrong):
        raise ValueError(f"weights must be finite and at least 0, got {float(wrong[0])}")
    return found.numpy()


def _check_possible(log_p: list[np.ndarray], first: list[np.ndarray], bounds: np.ndarray) -> None:
    """Raise if a row cannot occur under the start: EM could not learn from it."""
    for m, part in enumerate(log_p):
        never = np.flatnonzero(part == -np.inf)
        if len(never):
            of = m % len(first)
            row = int(first[of][never].min())
            where = f"row {row}" + (f" of tree {of}" if len(first) > 1 else "")
            raise ValueError(
                f"{where} has probability 0 under the tables that EM starts from, whose zeros it keeps; "
                "start from tables without zeros, as `seed=` does, or leave the row out"
            )
