"""One cell on pictures: train one ensemble, and measure accuracy and collapse along the way.

Accuracy is that of probes of the network's features on test pictures: a linear one on all labels, by which
variants are judged, a linear one on few labels, and nearest neighbours. The most that features of this kind
can reach is not known; gaps are closed to an accuracy of 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from dualnets.images import evaluate
from dualnets.images.standardised import standardised
from dualnets.lab.ablation_cell import COLLAPSE_SAMPLES, collapse_of
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import snapshot_steps
from dualnets.lab.stats import last_step, mean_interval
from dualnets.lab.variants import ACCURACY, RANK, SPREAD, by_variant, variant_stats
from dualnets.training.trajectory import describe_frozen, trajectory

if TYPE_CHECKING:
    from dualnets.lab.image_settings import ImageSettings

LEVEL = 1  # of everything: pictures have no levels
MOST = 1.0  # accuracy
# metric -> its column; the labels of the latter are `few_labels`
OTHERS = {"neighbours all": "neighbours", "linear few": "few labels"}
INTERVALS = (
    "means over n networks; ± and [ ]: 95% intervals over networks; gap closed: from the untrained network's "
    "accuracy by a linear probe on all labels to 1, as the best that is possible is not known"
)


def run_cell(
    settings: ImageSettings, device: torch.device, progress: ProgressListener
) -> CellResult:
    """Train one ensemble, and measure its learning curves and whether its embeddings collapse."""
    images, method, seed = settings.build_images(), settings.build_method(), settings.seed
    shown = torch.from_numpy(images.test.images[:COLLAPSE_SAMPLES].copy()).float() / 255
    pictures = standardised(images, shown).flatten(1)
    few = f" {settings.few_labels}"
    parts = []
    for snapshot in trajectory(
        settings.build_network(images, seed, device), method, images, seed=seed,
        snapshots=snapshot_steps(settings), progress=progress.updated, **settings.training(),
    ):  # fmt: skip
        network = snapshot.network
        found = evaluate(network, images, seed=seed, **settings.probing())
        found = found[~found["metric"].isin((SPREAD, RANK))]  # below, as of trees
        found["metric"] = found["metric"].str.replace(few, " few", regex=False)
        # several draws of the few labels are one number
        by_metric = found.groupby(["member", "metric"], sort=False)[["value", "n"]].mean()
        accuracy = by_metric.reset_index().assign(step=snapshot.step, level=LEVEL, node="probe",
                                                  candidates="all")  # fmt: skip
        rows = pictures.expand(len(network.members), -1, -1) if network.stacked else pictures
        parts += [accuracy, collapse_of(snapshot, method, rows, network.members, LEVEL)]
        judged = accuracy[accuracy["metric"] == ACCURACY]
        progress.probed(snapshot.step, {"accuracy": float(judged["value"].mean())})
    table = pd.concat(parts, ignore_index=True)
    by_curve = table.groupby(["metric", "node", "member"], sort=False)["value"]
    table["initial"] = by_curve.transform("first")
    table["ceiling"] = np.where(table["node"] == "probe", MOST, np.nan)
    frozen = describe_frozen(network.members, snapshot.frozen_at)
    return CellResult(
        table, {"final": dict(network.named_parameters())}, [frozen] if frozen else []
    )


def headline(table: pd.DataFrame) -> str:
    """Mean accuracy before and after training."""
    rows = table[table["metric"] == ACCURACY]
    before, after = (rows[rows["step"] == step]["value"].mean() for step in (0, rows["step"].max()))
    return f"accuracy {before:.3f} -> {after:.3f}"


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: accuracies before and after, gap closed, spread, rank, n."""
    found = []
    for name, rows in by_variant(table).items():
        own, last = variant_stats(rows), last_step(rows)
        row = {
            "variant": name,
            "untrained": f"{own.initial.mean():.3f}",
            "accuracy": f"{mean_interval(own.value):.3f}",
        }
        for metric, column in OTHERS.items():
            other = last[last["metric"] == metric]
            row[column] = f"{other['initial'].mean():.3f} → {other['value'].mean():.3f}"
        found.append({**row, "gap closed": str(own.gap), **own.collapse_columns})
    made = pd.DataFrame(found)
    made.attrs["caption"] = INTERVALS
    return made
