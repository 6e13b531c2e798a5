"""What linear BYOL conserves and which modes it loses: cells and two rules of `byol_linear`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.byol import _byol_linear_alignment as aligning
from dualnets.experiments.byol.byol_linear import (
    AGREE,
    EXACT,
    FEWEST,
    FIRST_ORDER,
    NEAR,
    Settings,
)
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, last_step, mean_interval
from dualnets.theory.byol.byol_modes import Modes, critical_decay, integrate_modes, largest_decay
from dualnets.theory.byol.linear_byol import (
    LinearByol,
    Path,
    Weights,
    conserved,
    integrate,
    random_weights,
    sampled,
)

CONSERVED, MODE, PHASE, EDGE = "conserved", "mode", "phase", "edge"


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Paths or alignment of one set of rates, or one column of the phase diagram."""
    parts = {"paths": _paths, "alignment": _alignment, "phase": _phase}
    return CellResult(pd.DataFrame(parts[settings.part](settings)))


def _row(
    quantity: str, source: str, member: int, time: float, value: float, **more: Any
) -> dict[str, Any]:
    """One number; `predicted` is its value by the theory, `step` the time as a share of all, if it is one."""
    place = {"step": np.nan, "step_decay": np.nan, "predicted": np.nan, "initial": np.nan,
             "null": np.nan, "mode": -1, "quantity": quantity, "source": source, "member": member,
             "time": time}  # fmt: skip
    return place | {"value": value} | more


def _system(settings: Settings, mean: Any, noise: Any, decay: float) -> LinearByol:
    """The equations for data with these second moments (docs/theory.md, Equation 6.4)."""
    return LinearByol(
        mean, noise, decay=decay, predictor_rate=settings.predictor_rate,
        target_rate=settings.target_rate,
    )  # fmt: skip


def _isotropic(settings: Settings, decay: float) -> LinearByol:
    """The equations for data with the same variance along all inputs: every mode is on its own (6.9)."""
    one = np.eye(settings.inputs)
    return _system(settings, one, settings.noise * one, decay)


def _random_moments(settings: Settings) -> LinearByol:
    """The equations for data with random second moments."""
    rng = np.random.default_rng([settings.seed, 1])
    moments = []
    for scale in (1.0, settings.noise):
        a = rng.standard_normal((settings.inputs, settings.inputs))
        moments.append(scale * a @ a.T / settings.inputs)
    return _system(settings, moments[0], moments[1], settings.decay)


def _random_start(settings: Settings) -> Weights:
    return random_weights(
        features=settings.features, inputs=settings.inputs, members=settings.members,
        seed=settings.seed,
    )  # fmt: skip


def _alignment(settings: Settings) -> list[dict[str, Any]]:
    """The alignment of predictor and inputs' correlation along the integrated equations."""
    random = settings.data == "random"
    system = _random_moments(settings) if random else _isotropic(settings, settings.decay)
    times = np.linspace(0, 1, 33) ** 2 * settings.until  # denser at first
    times = np.unique([*times, settings.until / 2])
    path = integrate(system, _random_start(settings), times, tolerance=1e-9)
    found = aligning.aligned(path, system.mean + system.noise, settings.seed)
    ends = times / settings.until
    return [
        _row(aligning.ALIGNMENT, "integrated", m, float(times[i]), float(found.value[i, m]),
             step=float(ends[i]), null=float(found.null[i, m]), predicted=1.0,
             initial=float(found.value[0, m]))
        for i, m in np.ndindex(*found.value.shape)
    ]  # fmt: skip


def _paths(settings: Settings) -> list[dict[str, Any]]:
    """Conserved quantities and modes, by integration and by SGD at two rates."""
    system, weights = _random_moments(settings), _random_start(settings)
    times = np.linspace(0, settings.until, 21)
    found = _drift(system, integrate(system, weights, times), "integrated")
    for share in (1, 2):
        lr = settings.lr / share
        path = sampled(
            system, weights, steps=round(settings.until / lr), lr=lr, batch=settings.batch,
            seed=settings.seed, snapshots=[round(t / lr) for t in times],
        )  # fmt: skip
        found += _drift(system, path, f"sgd lr / {share}")
    # modes of given sizes: a symmetric predictor that shares the directions of W Wᵀ
    p = settings.start * np.linspace(0.5, 2, settings.features)
    w = p[::-1]
    one, _, _ = _rotated(settings, np.random.default_rng([settings.seed, 2, 0]), p, w)
    path = integrate(_isotropic(settings, settings.decay), one, times)
    modes = Modes(settings.noise, settings.decay, settings.predictor_rate, settings.target_rate)
    predicted = integrate_modes(modes, [p, w, w * settings.lag], times)[:, 0]
    turn = np.linalg.eigh(one.predictor)[1]
    order = np.argsort(p)
    for i, t in enumerate(times):
        seen = np.diag(turn.T @ path.predictor[i] @ turn)
        for k, mode in enumerate(order):
            found.append(_row(MODE, "integrated", 0, float(t), float(seen[k]), mode=k,
                              predicted=float(predicted[i, mode]), initial=float(p[mode])))  # fmt: skip
    return found


def _drift(system: LinearByol, path: Path, source: str) -> list[dict[str, Any]]:
    """How far e^{2ηt} D(t) has moved, relative to D(0), member by member (docs/theory.md, Equation 6.5)."""
    kept = conserved(system, path)
    size = np.linalg.norm(kept[0], axis=(1, 2))
    moved = np.linalg.norm(kept - kept[0], axis=(2, 3)) / size
    return [
        _row(CONSERVED, source, m, float(t), float(moved[i, m]), predicted=0.0, initial=0.0)
        for i, t in enumerate(path.times)
        for m in range(moved.shape[1])
    ]


def _rotated(
    settings: Settings, rng: np.random.Generator, p: Any, w: Any
) -> tuple[Weights, Any, Any]:
    """Weights with these modes, and the rotations to the left and right of them."""
    turn = np.linalg.qr(rng.standard_normal((settings.features, settings.features)))[0]
    right = np.linalg.qr(rng.standard_normal((settings.inputs, settings.inputs)))[0]
    right = right[: settings.features]
    online = turn @ np.diag(w) @ right
    return Weights(turn @ np.diag(p) @ turn.T, online, settings.lag * online), turn, right


def _phase(settings: Settings) -> list[dict[str, Any]]:
    """Which modes of networks with these rates are lost, decay by decay, and the predicted edges."""
    modes = Modes(settings.noise, 0.0, settings.predictor_rate, settings.target_rate)
    rng = np.random.default_rng([settings.seed, 3])
    reach = np.log(settings.spread)
    size = (2, settings.members, settings.features)
    p, w = settings.start * np.exp(rng.uniform(-reach, reach, size))  # (S, R) each
    made = [_rotated(settings, rng, p[m], w[m]) for m in range(settings.members)]
    weights, turns, rights = (list(part) for part in zip(*made, strict=True))
    stacked = Weights(*(np.stack(parts) for parts in zip(*weights, strict=True)))
    edge = critical_decay(modes, np.stack([p, w, settings.lag * w]))
    most = float(largest_decay(modes))
    places = list(np.ndindex(*edge.shape))
    found = [_row(EDGE, "modes", m, 0.0, float(edge[m, k]), mode=k, step=0.0, predicted=most,
                  initial=float(p[m, k] * w[m, k])) for m, k in places]  # fmt: skip
    for decay in np.geomspace(0.05, 1.2, settings.points) * most:
        slowest = min(float(decay), settings.target_rate)
        end = 15 / float(decay) + 10 / slowest
        times = [0.0, end / 2, end]
        path = integrate(_isotropic(settings, float(decay)), stacked, times, tolerance=1e-7)
        for at, (m, k) in itertools.product((1, 2), places):
            left = turns[m][:, k] @ path.predictor[at][m] @ path.online[at][m] @ rights[m][k]
            found.append(_row(PHASE, "integrated", m, times[at], abs(float(left)), mode=k, step=at / 2,
                              step_decay=float(decay), predicted=float(decay > edge[m, k]),
                              initial=float(p[m, k] * w[m, k])))  # fmt: skip
    return found


def collapsed(rows: pd.DataFrame) -> pd.Series:
    """Whether each mode of the diagram, p w, ended at 0.

    Survivors rest at p+²/√α, which is at least 1 / (4 (1 + σ²)² √α): 0.09 for α = 4 and σ² = 0.2.
    """
    return rows["value"] < 1e-4


def networks(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network of the diagram: whether it lost the predicted modes, and how near an edge.

    They are read at the last time of each cell.
    """
    keys = ["predictor_rate", "target_rate", "member", "mode"]
    edges = table[table["quantity"] == EDGE].set_index(keys)["value"].rename("edge")
    phase = last_step(table[table["quantity"] == PHASE]).join(edges, on=keys)
    each = phase.assign(
        agrees=collapsed(phase) == (phase["predicted"] > 0),
        away=np.abs(np.log(phase["step_decay"] / phase["edge"])),
    )
    found = each.groupby([*keys[:-1], "step_decay"])
    return found.agg(agrees=("agrees", "all"), away=("away", "min")).reset_index()


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """What is conserved, and how often networks lose the modes that are predicted."""
    found = []

    def add(what: str, how: str, decay: str, rows: pd.DataFrame, **numbers: Any) -> None:
        first = rows.iloc[0]
        found.append({"what": what, "how": how, "decay": decay, "predictor rate": first["predictor_rate"],
                      "target rate": f"{first['target_rate']:g}", **numbers})  # fmt: skip

    drift = table[table["quantity"] == CONSERVED]
    by_rates = drift.groupby(["decay", "predictor_rate", "source"], sort=False)
    for (decay, _, source), rows in by_rates:
        last = rows[rows["time"] == rows["time"].max()]["value"]
        add("drift of e^(2ηt) D", source, f"{decay:g}", rows, mean=f"{last.mean():.1e}",
            largest=f"{last.max():.1e}", n=len(last))  # fmt: skip
    paths = table[table["quantity"] == MODE]
    for (decay, _), rows in paths.groupby(["decay", "predictor_rate"]):
        gap = (rows["value"] - rows["predicted"]).abs()
        add("modes, |matrix - mode|", "integrated", f"{decay:g}", rows,
            mean=f"{gap.mean():.1e}", largest=f"{gap.max():.1e}", n=rows["mode"].nunique())  # fmt: skip
    edges = table[table["quantity"] == EDGE].groupby(["predictor_rate", "target_rate"])["value"]
    for (rate, target), rows in networks(table).groupby(["predictor_rate", "target_rate"]):
        edge = edges.get_group((rate, target))
        add("modes lost where predicted", "integrated", f"edges {edge.min():.2g} to {edge.max():.2g}",
            rows, mean=f"{rows['agrees'].mean():.2f}", largest="", n=len(rows))  # fmt: skip
    aligned = last_step(table[table["quantity"] == aligning.ALIGNMENT])
    for (data, _), rows in aligned.groupby(["data", "predictor_rate"]):
        means = " -> ".join(f"{rows[of].mean():.3f}" for of in ("initial", "value"))
        add(f"alignment, {data} data", "integrated", f"{rows['decay'].iloc[0]:g}", rows, mean=means,
            largest=f"null {rows['null'].mean():.3f}", n=len(rows))  # fmt: skip
    return pd.DataFrame(found)


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    if (table["quantity"] == PHASE).any():
        edges = table[table["quantity"] == EDGE]["value"]
        right = networks(table)["agrees"].mean()
        return (
            f"edges at η = {edges.min():.2g} to {edges.max():.2g}, right in {right:.0%} of networks"
        )
    if (table["quantity"] == aligning.ALIGNMENT).any():
        end = last_step(table)
        return f"alignment {end['initial'].mean():.2f} -> {end['value'].mean():.3f}"
    exact = table[(table["quantity"] == CONSERVED) & (table["source"] == "integrated")]["value"]
    return f"drift of the conserved matrix {exact.max():.1e}"


def judge_balance(table: pd.DataFrame) -> Judgement:
    """Apply the rule on what is conserved; the effect is the ratio of SGD's drifts."""
    drift = table[table["quantity"] == CONSERVED]
    effect = "drift of SGD at half the learning rate, over that at the rate"
    if drift.empty:
        return Judgement("open", "no paths", effect, NOTHING, [], "starts")
    exact = drift[drift["source"] == "integrated"]["value"]
    ends = drift[drift["time"] == drift.groupby("cell")["time"].transform("max")]
    sgd = ends.pivot_table(index=["cell", "member"], columns="source", values="value")
    # the cells have the same starts
    ratios = (sgd["sgd lr / 2"] / sgd["sgd lr / 1"]).groupby("member").mean()
    ratio = mean_interval(ratios.to_numpy(np.float64))
    kept, shrinks = bool(exact.max() < EXACT), ratio.high < FIRST_ORDER
    details = [
        {"part": "integrated drift", "value": float(exact.max()), "bound": EXACT},
        {"part": "drift of SGD, lr / 2 over lr", **ratio.detail(), "bound": FIRST_ORDER},
    ]
    outcome: Outcome = "fails" if not kept else "holds" if shrinks else "open"
    words = "shrinks" if shrinks else "is not shown to shrink"
    reason = f"drift {exact.max():.1e}, and SGD's {words} with its rate"
    return Judgement(outcome, reason, effect, ratio, details, "starts")


def right_shares(table: pd.DataFrame) -> dict[str, Estimate]:
    """The mean share over starts of networks that lose the predicted modes by the last time of a table."""
    if not (table["quantity"] == PHASE).any():
        return {}
    found = networks(table)
    # a start has a network at every rate and decay: these are no independent values
    shares = found[found["away"] > NEAR].groupby("member")["agrees"].mean()
    return {"modes lost where predicted": mean_interval(shares.to_numpy(np.float64))}


def judge_collapse(table: pd.DataFrame) -> Judgement:
    """Apply the rule on the phase diagram."""
    effect = "share of a start's networks that lose the modes that the separatrix says"
    found = right_shares(table).get("modes lost where predicted", NOTHING)
    reason = f"modes are lost where predicted in {found.value:.1%} of networks"
    outcome: Outcome = "open"
    if found.n < FEWEST:
        reason = f"{found.n} starts are fewer than {FEWEST}"
    elif found.low > AGREE:
        outcome = "holds"
    elif found.high < AGREE:
        outcome = "fails"
    details = [{"part": "modes lost where predicted", **found.detail(), "bound": AGREE}]
    return Judgement(outcome, reason, effect, found, details, "starts")
