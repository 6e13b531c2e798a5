"""The scores of one member's features: the formulas of `dictionary_scores`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.probe.metrics.matching import match_units
from hltm.probe.null import QUANTILE
from hltm.tree import LatentTree

GAIN = 0.02  # of φ, by which one more feature of a state must raise that of the union
ABSORBED = 0.1  # of the rows of two states, beyond chance: less is not counted as an absorption


class States(NamedTuple):
    """The T states of all latents, `(N, T)` bool, with the latent and the state that each stands for."""

    on: np.ndarray
    node: np.ndarray
    state: np.ndarray


def indicators(own: np.ndarray, tree: LatentTree) -> States:
    """Indicators of the states of all latents."""
    sizes = tree.tables.cardinality[list(tree.latents)]
    node = np.repeat(np.arange(len(sizes)), sizes)
    state = np.concatenate([np.arange(k) for k in sizes])
    return States(own[:, node] == state, node, state)


def _phi(both: np.ndarray, a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """Matthews' correlations from counts of both, of a, of b, and of all rows; 0 for what never varies."""
    scale = np.sqrt(a * (n - a)) * np.sqrt(b * (n - b))
    found = np.divide(n * both - a * b, scale, out=np.zeros(np.shape(scale)), where=scale > 0)
    return found.clip(-1, 1)  # rounding may exceed 1


def posterior_ceilings(tree: LatentTree, leaves: Tensor, states: States) -> dict[str, np.ndarray]:
    """`(T,)` φ with the best cut, and correlation, of every state with its exact posterior."""
    latents = list(tree.latents)
    # int64: torch can neither compare nor index uint16
    posterior = tree.posterior(
        leaves.to(torch.int64)[None] if tree.stacked else leaves.to(torch.int64)
    )
    marginals = posterior.marginals[0] if tree.stacked else posterior.marginals
    p = marginals[:, latents].cpu().numpy()[:, states.node, states.state]  # (N, T)
    n, on = len(p), states.on.astype(float)
    order = np.argsort(-p, axis=0, kind="stable")
    ranked, hit = np.take_along_axis(p, order, 0), np.take_along_axis(on, order, 0)
    above = np.arange(1, n + 1)[:, None].astype(float)
    phi = _phi(hit.cumsum(0), np.broadcast_to(above, p.shape), on.sum(0)[None], n)
    ends = np.ones(p.shape, dtype=bool)
    ends[:-1] = ranked[:-1] > ranked[1:]  # a cut between equal values is none
    return {"phi": np.where(ends, phi, 0).max(0), "correlation": _correlations(p, on)}


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlations of columns with columns; 0 for one that never varies."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    return np.divide((a * b).sum(0), scale, out=np.zeros(scale.shape), where=scale > 0)


class FeatureScores:
    """All scores of one member's features `(N, F)` of one kind."""

    def __init__(
        self, features: np.ndarray, states: States, tree: LatentTree,
        ceilings: dict[str, np.ndarray], lags: int,
    ) -> None:  # fmt: skip
        self.features, self.states, self.tree, self.ceilings = features, states, tree, ceilings
        self.lags = lags
        self.on = features > 0
        self.single = self.on.astype(np.float32)  # counts below 2^24 are exact
        self.count_on = self.on.sum(0).astype(float)
        self.count = states.on.sum(0).astype(float)
        self.rows_count = len(features)
        self.phi = self._phi_with(states.on)
        step = self.rows_count // (lags + 1)
        self.shifts = [step * (i + 1) for i in range(lags)]
        shifted = [self._phi_with(np.roll(states.on, shift, 0)) for shift in self.shifts]
        self.null_phi = np.stack(shifted)  # (lags, F, T)
        self.null_unit = np.quantile(self.null_phi.max(2), QUANTILE, axis=0)  # (F,)
        self.null = np.quantile(self.null_phi.max(1), QUANTILE, axis=0)  # (T,)

    def _phi_with(self, states: np.ndarray) -> np.ndarray:
        both = (self.single.T @ states.astype(np.float32)).astype(float)
        return _phi(both, self.count_on[:, None], self.count[None], self.rows_count)

    def rows(self) -> list[dict[str, Any]]:
        best = self.phi.argmax(0)
        value = self.phi.max(0).clip(0)
        matched = match_units(torch.from_numpy(self.phi.clip(0)))
        pair, pair_value = matched.unit.numpy(), matched.strength.numpy()
        pair = np.where(pair_value > self.null, pair, -1)
        null_pair = self._null_over(
            lambda phi: match_units(torch.from_numpy(phi.clip(0))).strength.numpy()
        )
        split, union, self.together = self._split(self.phi, pair, self.states.on)
        null_split = [
            self._split(phi, None, np.roll(self.states.on, shift, 0))
            for phi, shift in zip(self.null_phi[::5], self.shifts[::5], strict=True)
        ]
        limits = [np.quantile([x[i] for x in null_split], QUANTILE, axis=0) for i in (0, 1)]
        chosen = self.features[:, best].astype(np.float64)
        correlation = _correlations(chosen, self.states.on.astype(float))
        null_correlation = np.quantile(
            [_correlations(chosen, np.roll(self.states.on, s, 0).astype(float)) for s in self.shifts],
            QUANTILE, axis=0,
        )  # fmt: skip
        top = self.ceilings["phi"]
        found = [
            *self._each("recovery", best, value, self.null, top),
            *self._each("matched_recovery", pair, pair_value, null_pair, top),
            *self._each(
                "correlation", best, correlation, null_correlation, self.ceilings["correlation"]
            ),
            *self._each("splitting", pair, split, limits[0], np.ones(len(top))),
            *self._each("union_recovery", pair, union, limits[1], top),
        ]
        absorbed, beyond = self._absorption(pair)
        recovered = (self.null_phi.max(1) > self.null).sum(1)
        many = [(parts > 1).sum() for parts, *_ in null_split]
        # value, null, ceiling, note
        totals: dict[str, tuple[float, float, float, str]] = {
            "recovered_states": (
                (value > self.null).sum(), np.quantile(recovered, QUANTILE), len(value), "",
            ),
            "split_states": ((split > 1).sum(), np.quantile(many, QUANTILE), 0, ""),
            "absorbed_pairs": (sum(x > ABSORBED for x in beyond), 0, 0, "counts what is beyond chance"),
            "dead_features": ((self.count_on == 0).sum(), np.nan, 0, "no null: a count of features alone"),
        }  # fmt: skip
        nothing = {
            "node": "", "level": -1, "state": -1, "child": "", "child_state": -1, "feature": -1,
        }  # fmt: skip
        for metric, (*numbers, note) in totals.items():
            row = dict(zip(("value", "null", "ceiling"), map(float, numbers), strict=True))
            absorbed.append(nothing | row | {"metric": metric, "note": note})
        return [{"note": ""} | row for row in (*found, *absorbed)]

    def _null_over(self, of: Any) -> np.ndarray:
        """The 95% point, over lags, of a function of the φ of all features and states."""
        return np.quantile([of(phi) for phi in self.null_phi], QUANTILE, axis=0)

    def _each(
        self,
        metric: str,
        feature: np.ndarray,
        value: np.ndarray,
        null: np.ndarray,
        ceiling: np.ndarray,
    ) -> list[dict[str, Any]]:
        topology = self.tree.topology
        return [
            {
                "node": topology.names[v], "level": int(topology.level[v]), "state": int(k),
                "child": "", "child_state": -1, "metric": metric, "feature": int(feature[t]),
                "value": float(value[t]), "null": float(null[t]), "ceiling": float(ceiling[t]),
            }
            for t, (v, k) in enumerate(zip(self.states.node, self.states.state, strict=True))
        ]  # fmt: skip

    def _split(
        self, phi: np.ndarray, pair: np.ndarray | None, on: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(T,)` how many features share every state, the φ of their union, and the union `(N, T)`."""
        first = phi.argmax(1)  # the state that a feature follows best
        above = phi.max(1) > self.null_unit
        parts, union = np.zeros(len(self.count)), np.zeros(len(self.count))
        every = np.zeros(on.shape, dtype=bool)
        for t in range(len(self.count)):
            open_ = {int(i) for i in np.flatnonzero((first == t) & above)}
            if pair is not None and pair[t] >= 0:
                open_.add(int(pair[t]))
            covered = np.zeros(self.rows_count, dtype=bool)
            while open_:
                order = sorted(open_)
                together = covered[:, None] | self.on[:, order]
                score = _phi(
                    (together & on[:, t : t + 1]).sum(0).astype(float), together.sum(0).astype(float),
                    np.full(len(order), self.count[t]), self.rows_count,
                )  # fmt: skip
                i = int(score.argmax())
                if score[i] < union[t] + GAIN:
                    break
                parts[t] += 1
                union[t], covered = score[i], together[:, i]
                open_.remove(order[i])
            every[:, t] = covered
        return parts, union, every

    def _absorption(self, pair: np.ndarray) -> tuple[list[dict[str, Any]], list[float]]:
        """Rows for every state of a latent with every state of its children, and the share beyond chance."""
        topology, states = self.tree.topology, self.states
        rows, beyond = [], []
        for t, (v, k) in enumerate(zip(states.node, states.state, strict=True)):
            inside = states.on[:, t]
            for u in np.flatnonzero(topology.parent[states.node] == v):
                child = int(states.node[u])
                row = {
                    "node": topology.names[v], "level": int(topology.level[v]), "state": int(k),
                    "child": topology.names[child], "child_state": int(states.state[u]),
                    "metric": "absorption", "feature": int(pair[t]), "value": 0.0, "null": 0.0,
                    "ceiling": 0.0,
                }  # fmt: skip
                both = states.on[inside, u]
                off = ~self.together[inside, t]
                instead = both & self.together[inside, u]
                if not off.all() and instead.any():
                    row["value"] = float((off & instead).sum() / both.sum())
                    chance = [
                        (np.roll(off, len(off) * (i + 1) // (self.lags + 1)) & instead).sum()
                        / both.sum()
                        for i in range(self.lags)
                    ]
                    row["null"] = float(np.quantile(chance, QUANTILE))
                    beyond.append(row["value"] - float(np.mean(chance)))
                rows.append(row)
        return rows, beyond
