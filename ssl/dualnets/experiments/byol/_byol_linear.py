"""What linear BYOL conserves and which modes it loses: cells and rule of `byol_linear`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.byol.byol_linear import (
    AGREE,
    EXACT,
    FEWEST,
    FIRST_ORDER,
    NEAR,
    Settings,
)
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.stats import Estimate, Judgement, Outcome
from dualnets.theory.byol.byol_modes import Modes, critical_decay, integrate_modes, largest_decay
from dualnets.theory.byol.linear_byol import (
    LinearByol,
    Weights,
    conserved,
    integrate,
    random_weights,
    sampled,
)

if TYPE_CHECKING:
    from dualnets.theory.byol.linear_byol import Path

CONSERVED, MODE, PHASE, EDGE = "conserved", "mode", "phase", "edge"


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Paths of one set of rates, or one column of the phase diagram."""
    rows = _paths(settings) if settings.part == "paths" else _phase(settings)
    return CellResult(pd.DataFrame(rows))


def _row(
    quantity: str, source: str, member: int, time: float, value: float, **more: Any
) -> dict[str, Any]:
    """One number; `predicted` is its value by the theory."""
    place = {"step_decay": np.nan, "predicted": np.nan, "initial": np.nan, "mode": -1,
             "quantity": quantity, "source": source, "member": member, "time": time}  # fmt: skip
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


def _paths(settings: Settings) -> list[dict[str, Any]]:
    """Conserved quantities and modes, by integration and by SGD at two rates."""
    rng = np.random.default_rng([settings.seed, 1])
    moments = []
    for scale in (1.0, settings.noise):
        a = rng.standard_normal((settings.inputs, settings.inputs))
        moments.append(scale * a @ a.T / settings.inputs)
    system = _system(settings, moments[0], moments[1], settings.decay)
    weights = random_weights(
        features=settings.features, inputs=settings.inputs, members=settings.members,
        seed=settings.seed,
    )  # fmt: skip
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
    found = [_row(EDGE, "modes", m, 0.0, float(edge[m, k]), mode=k, predicted=most,
                  initial=float(p[m, k] * w[m, k])) for m, k in places]  # fmt: skip
    for decay in np.geomspace(0.05, 1.2, settings.points) * most:
        slowest = min(float(decay), settings.target_rate)
        end = 15 / float(decay) + 10 / slowest
        path = integrate(_isotropic(settings, float(decay)), stacked, [0.0, end], tolerance=1e-7)
        for m, k in places:
            left = turns[m][:, k] @ path.predictor[-1][m] @ path.online[-1][m] @ rights[m][k]
            found.append(_row(PHASE, "integrated", m, end, abs(float(left)), mode=k,
                              step_decay=float(decay), predicted=float(decay > edge[m, k]),
                              initial=float(p[m, k] * w[m, k])))  # fmt: skip
    return found


def collapsed(rows: pd.DataFrame) -> pd.Series:
    """Whether each mode of the diagram, p w, ended at 0.

    Survivors rest at p+²/√α, which is at least 1 / (4 (1 + σ²)² √α): 0.09 for α = 4 and σ² = 0.2.
    """
    return rows["value"] < 1e-4


def networks(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network of the diagram: whether it lost the predicted modes, and how near an edge."""
    keys = ["predictor_rate", "target_rate", "member", "mode"]
    edges = table[table["quantity"] == EDGE].set_index(keys)["value"].rename("edge")
    phase = table[table["quantity"] == PHASE].join(edges, on=keys)
    each = phase.assign(
        agrees=collapsed(phase) == (phase["predicted"] > 0),
        away=np.abs(np.log(phase["step_decay"] / phase["edge"])),
    )
    found = each.groupby([*keys[:-1], "step_decay"])
    return found.agg(agrees=("agrees", "all"), away=("away", "min")).reset_index()


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """What is conserved, and how often networks lose the modes that are predicted."""
    found = []

    def add(
        what: str, how: str, decay: str, rows: pd.DataFrame, mean: str, largest: str, n: int
    ) -> None:
        first = rows.iloc[0]
        found.append({"what": what, "how": how, "decay": decay, "predictor rate": first["predictor_rate"],
                      "target rate": f"{first['target_rate']:g}", "mean": mean, "largest": largest,
                      "n": n})  # fmt: skip

    drift = table[table["quantity"] == CONSERVED]
    by_rates = drift.groupby(["decay", "predictor_rate", "source"], sort=False)
    for (decay, _, source), rows in by_rates:
        last = rows[rows["time"] == rows["time"].max()]["value"]
        add("drift of e^(2ηt) D", source, f"{decay:g}", rows, f"{last.mean():.1e}",
            f"{last.max():.1e}", len(last))  # fmt: skip
    paths = table[table["quantity"] == MODE]
    for (decay, _), rows in paths.groupby(["decay", "predictor_rate"]):
        gap = (rows["value"] - rows["predicted"]).abs()
        add("modes, |matrix - mode|", "integrated", f"{decay:g}", rows,
            f"{gap.mean():.1e}", f"{gap.max():.1e}", rows["mode"].nunique())  # fmt: skip
    edges = table[table["quantity"] == EDGE].groupby(["predictor_rate", "target_rate"])["value"]
    for (rate, target), rows in networks(table).groupby(["predictor_rate", "target_rate"]):
        edge = edges.get_group((rate, target))
        add("modes lost where predicted", "integrated", f"edges {edge.min():.2g} to {edge.max():.2g}",
            rows, f"{rows['agrees'].mean():.2f}", "", len(rows))  # fmt: skip
    return pd.DataFrame(found)


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    if (table["quantity"] == PHASE).any():
        edges = table[table["quantity"] == EDGE]["value"]
        right = networks(table)["agrees"].mean()
        return (
            f"edges at η = {edges.min():.2g} to {edges.max():.2g}, right in {right:.0%} of networks"
        )
    exact = table[(table["quantity"] == CONSERVED) & (table["source"] == "integrated")]["value"]
    return f"drift of the conserved matrix {exact.max():.1e}"


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule."""
    outcome: Outcome
    drift = table[table["quantity"] == CONSERVED]
    exact = drift[drift["source"] == "integrated"]["value"]
    ends = drift[drift["time"] == drift.groupby("cell")["time"].transform("max")]
    sgd = ends.groupby("source")["value"].mean().reindex(["sgd lr / 1", "sgd lr / 2"])
    ratio = float(sgd["sgd lr / 2"] / sgd["sgd lr / 1"])
    phase = networks(table)
    right = phase[phase["away"] > NEAR]["agrees"]
    share = float(right.mean()) if len(right) else np.nan
    kept = bool(exact.max() < EXACT)
    details = []

    def add(part: str, value: float, bound: float, passes: bool, n: int) -> None:
        details.append({"part": part, "value": value, "bound": bound, "passes": passes, "n": n})

    members = int(drift["member"].nunique())
    add("integrated drift", float(exact.max()), EXACT, kept, members)
    if np.isfinite(sgd).any():
        add("drift of SGD, lr / 2 over lr", ratio, FIRST_ORDER, ratio < FIRST_ORDER, members)
    if len(phase):
        add("modes lost where predicted", share, AGREE, share >= AGREE, len(right))
    drifted = f"drift {exact.max():.1e}"
    agree = f"modes are lost where predicted in {share:.1%} of networks"
    if exact.empty or len(phase) < FEWEST:
        outcome = "open"
        reason = f"{len(exact)} integrated and {len(phase)} networks in the diagram are too few"
    elif not kept or not share >= AGREE:
        outcome, reason = "fails", f"{drifted}, {agree}"
    elif not ratio < FIRST_ORDER:
        outcome, reason = "open", "SGD's drift does not shrink with its rate"
    else:
        outcome, reason = "holds", f"{drifted}, SGD's shrinks with its rate, and {agree}"
    what = "share of networks that lose the modes that the separatrix says"
    found = Estimate(share, np.nan, np.nan, len(right))
    return Judgement(outcome, reason, what, found, details, "networks")
