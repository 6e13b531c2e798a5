"""The measuring, summary and verdict of the experiment `byol_linear`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.stats import Verdict
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
    from matplotlib.figure import Figure

    from dualnets.theory.byol.linear_byol import Path

from dualnets.experiments.byol.byol_linear import (
    AGREE,
    EXACT,
    EXPERIMENT,
    FEWEST,
    FIRST_ORDER,
    NEAR,
    RULE,
    Settings,
)

CONSERVED, MODE, PHASE, EDGE = "conserved", "mode", "phase", "edge"


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Paths of one set of rates, or one column of the phase diagram."""
    rows = _paths(settings) if settings.part == "paths" else _phase(settings)
    return CellResult(pd.DataFrame(rows))


def _row(
    quantity: str, source: str, member: int, time: float, value: float, **more: Any
) -> dict[str, Any]:
    """One number; `predicted` is what theory says of it."""
    blank = {"step_decay": np.nan, "predicted": np.nan, "initial": np.nan, "mode": -1}
    return (
        blank
        | {"quantity": quantity, "source": source, "member": member, "time": time, "value": value}
        | more
    )


def _paths(settings: Settings) -> list[dict[str, Any]]:
    """Conserved quantities and modes, by integration and by SGD at two rates."""
    rng = np.random.default_rng([settings.seed, 1])
    moments = []
    for scale in (1.0, settings.noise):
        a = rng.standard_normal((settings.inputs, settings.inputs))
        moments.append(scale * a @ a.T / settings.inputs)
    rates = {
        "decay": settings.decay,
        "predictor_rate": settings.predictor_rate,
        "target_rate": settings.target_rate,
    }
    system = LinearByol(moments[0], moments[1], **rates)
    weights = random_weights(
        features=settings.features,
        inputs=settings.inputs,
        members=settings.members,
        seed=settings.seed,
    )
    times = np.linspace(0, settings.until, 21)
    found = _drift(system, integrate(system, weights, times), "integrated")
    for share in (1, 2):
        lr = settings.lr / share
        steps = round(settings.until / lr)
        path = sampled(
            system, weights, steps=steps, lr=lr, batch=settings.batch, seed=settings.seed,
            snapshots=[round(t / lr) for t in times],
        )  # fmt: skip
        found += _drift(system, path, f"sgd lr / {share}")
    isotropic = LinearByol(
        np.eye(settings.inputs), settings.noise * np.eye(settings.inputs), **rates
    )
    p, w, one = _aligned(settings)
    path = integrate(isotropic, one, times)
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
    """How far e^{2ηt} D(t) has moved, relative to D(0), member by member."""
    kept = conserved(system, path)
    size = np.linalg.norm(kept[0], axis=(1, 2))
    moved = np.linalg.norm(kept - kept[0], axis=(2, 3)) / size
    return [
        _row(CONSERVED, source, m, float(t), float(moved[i, m]), predicted=0.0, initial=0.0)
        for i, t in enumerate(path.times)
        for m in range(moved.shape[1])
    ]


def _aligned(settings: Settings) -> tuple[Any, Any, Weights]:
    """Modes of given sizes in a random rotation: a symmetric predictor that shares W W^T's directions."""
    sizes = settings.start * np.linspace(0.5, 2, settings.features)
    p, w = sizes, sizes[::-1]
    return p, w, _rotated(settings, np.random.default_rng([settings.seed, 2, 0]), p, w)[0]


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
    """Which modes of networks with these rates are lost, decay by decay, and their edges."""
    rates = settings.predictor_rate, settings.target_rate
    modes = Modes(settings.noise, 0.0, *rates)
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
        system = LinearByol(
            np.eye(settings.inputs), settings.noise * np.eye(settings.inputs), decay=float(decay),
            predictor_rate=rates[0], target_rate=rates[1],
        )  # fmt: skip
        slowest = min(float(decay), rates[1])
        end = 15 / float(decay) + 10 / slowest
        path = integrate(system, stacked, [0.0, end], tolerance=1e-7)
        for m, k in places:
            left = turns[m][:, k] @ path.predictor[-1][m] @ path.online[-1][m] @ rights[m][k]
            found.append(_row(PHASE, "integrated", m, end, abs(float(left)), mode=k,
                              step_decay=float(decay), predicted=float(decay > edge[m, k]),
                              initial=float(p[m, k] * w[m, k])))  # fmt: skip
    return found


# what the table says


def collapsed(rows: pd.DataFrame) -> pd.Series:
    """Whether each mode of the diagram, p w, ended at 0.

    Survivors rest at p+²/√α, which is at least 1 / (4 (1 + σ²)² √α): 0.09 for α = 4 and σ² = 0.2.
    """
    return rows["value"] < 1e-4


def networks(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network of the diagram: whether it lost the modes it should, and how near an edge."""
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
    """What is conserved, and how often networks do as their modes say."""
    found = []
    for (decay, rate, source), rows in table[table["quantity"] == CONSERVED].groupby(
        ["decay", "predictor_rate", "source"], sort=False
    ):
        last = rows[rows["time"] == rows["time"].max()]["value"]
        found.append(
            {"what": "drift of e^(2ηt) D", "how": source, "decay": f"{decay:g}", "predictor rate": rate,
             "target rate": f"{rows['target_rate'].iloc[0]:g}", "mean": f"{last.mean():.1e}",
             "largest": f"{last.max():.1e}", "n": len(last)}
        )  # fmt: skip
    for (decay, rate), rows in table[table["quantity"] == MODE].groupby(
        ["decay", "predictor_rate"]
    ):
        gap = (rows["value"] - rows["predicted"]).abs()
        found.append(
            {"what": "modes, |matrix - mode|", "how": "integrated", "decay": f"{decay:g}",
             "predictor rate": rate, "target rate": f"{rows['target_rate'].iloc[0]:g}",
             "mean": f"{gap.mean():.1e}", "largest": f"{gap.max():.1e}", "n": rows["mode"].nunique()}
        )  # fmt: skip
    for (rate, target), rows in networks(table).groupby(["predictor_rate", "target_rate"]):
        edges = table[
            (table["quantity"] == EDGE)
            & (table["predictor_rate"] == rate)
            & (table["target_rate"] == target)
        ]["value"]
        found.append(
            {"what": "modes lost where predicted", "how": "integrated",
             "decay": f"edges {edges.min():.2g} to {edges.max():.2g}", "predictor rate": rate,
             "target rate": f"{target:g}", "mean": f"{rows['agrees'].mean():.2f}", "largest": "",
             "n": len(rows)}
        )  # fmt: skip
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


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE."""
    drift = table[table["quantity"] == CONSERVED]
    exact = drift[drift["source"] == "integrated"]["value"]
    ends = drift[drift["time"] == drift.groupby("cell")["time"].transform("max")]
    means = ends.groupby("source")["value"].mean()
    phase = networks(table)
    problems, details = [], []
    if exact.empty or len(phase) < FEWEST:
        problems.append(
            f"{len(exact)} integrated and {len(phase)} networks in the diagram are too few"
        )
    kept = bool(len(exact)) and float(exact.max()) < EXACT
    shrinks = {"sgd lr / 1", "sgd lr / 2"} <= set(means.index) and bool(
        means["sgd lr / 2"] < FIRST_ORDER * means["sgd lr / 1"]
    )
    details.append({"part": "integrated drift", "value": float(exact.max()) if len(exact) else None,
                    "bound": EXACT, "passes": kept, "n": int(drift["member"].nunique())})  # fmt: skip
    if len(means) >= 2:
        ratio = float(means.get("sgd lr / 2", np.nan) / means.get("sgd lr / 1", np.nan))
        details.append({"part": "drift of SGD, lr / 2 over lr", "value": ratio, "bound": FIRST_ORDER,
                        "passes": shrinks, "n": int(drift["member"].nunique())})  # fmt: skip
    share, n = float("nan"), 0
    if len(phase):
        right = phase[phase["away"] > NEAR]["agrees"]
        share, n = float(right.mean()), len(right)
        details.append({"part": "modes lost where predicted", "value": share, "bound": AGREE,
                        "passes": share >= AGREE, "n": n})  # fmt: skip
    if problems:
        outcome, reason = "open", "; ".join(problems)
    elif not kept or not share >= AGREE:
        outcome, reason = (
            "fails",
            f"drift {exact.max():.1e}, modes lost where predicted in {share:.1%} of networks",
        )
    elif not shrinks:
        outcome, reason = "open", "SGD's drift does not shrink with its rate"
    else:
        outcome = "holds"
        reason = (
            f"drift {exact.max():.1e}, SGD's shrinks with its rate, and modes are lost where predicted in "
            f"{share:.1%} of networks"
        )
    return Verdict(
        claim=EXPERIMENT.claim,
        verdict=outcome,  # type: ignore[arg-type]
        rule=RULE,
        reason=reason,
        effect="share of networks that lose the modes that the separatrix says",
        effect_value=share if np.isfinite(share) else None,
        interval=None,
        n=n,
        details=details,
        of="networks",
    )


def plot(table: pd.DataFrame) -> Figure:
    """Conserved quantity, modes, phase diagram."""
    from dualnets.experiments.byol._byol_linear_figure import draw

    return draw(table, collapsed)
