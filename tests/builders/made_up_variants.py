"""Made-up tables of variants, as the cells of an ablation leave them: gains and spreads are given."""

import numpy as np
import pandas as pd

from dualnets import experiments
from dualnets.lab.variants import PRE, RANK, SPREAD

WELL, FLAT = (0.2, 0.8), (0.0, 0.01)  # gain in |correlation|, spread
# settings that make a cell of any ablation small
TINY = {"depth": 2, "steps": 6, "members": 3, "units": 4, "snapshots": 2, "batch": 16,
        "evaluation_samples": 512}  # fmt: skip


def cell(variant, gain, *, trees=14, levels=(1, 2, 3), start=0.5, ceiling=0.9, noise=0.01, spread=0.5,
         steps=(0, 10), seed=0, metric=PRE, name=None, **settings):  # fmt: skip
    """The rows of one variant.

    Args:
        variant: its name.
        gain: of the alignment of all levels >= 2, or level -> gain; it grows with the logarithm of
            updates + 1.
        trees: the members.
        levels: of the latents; a level has twice as many as the one above.
        start, ceiling: of every latent.
        noise: of the gain, latent by latent.
        spread: of the embedding, after training.
        steps: of the snapshots.
        seed: of the noise.
        metric: the score.
        name: of the cell, by default the variant.
        **settings: columns to the left of what was measured.
    """
    rng = np.random.default_rng([seed, len(variant)])
    gains = gain if isinstance(gain, dict) else {level: gain for level in levels if level >= 2}
    top, last = max(levels), steps[-1]
    # (S, V) per level
    places = [(level, at) for level in levels for at in range(2 ** (top - level))]
    before = start + rng.normal(0, 0.02, (trees, len(places)))
    growth = np.array([gains.get(level, 0.0) for level, _ in places])
    growth = growth + rng.normal(0, noise, before.shape)
    spreads = spread + rng.normal(0, 0.001, trees)
    # settings stand left of what was measured
    left = {"cell": variant if name is None else name, **settings, "variant": variant}
    of_latents = {
        "member": np.repeat(np.arange(trees), len(places)),
        "level": np.tile([level for level, _ in places], trees),
        "node": np.tile([f"{level}.{at}" for level, at in places], trees),
        "initial": before.ravel(), "ceiling": ceiling, "null": 0.03,
    }  # fmt: skip
    of_trees = {"member": np.arange(trees), "level": top, "node": "embedding"}
    parts = []
    for step in steps:
        share = np.log1p(step) / np.log1p(last)
        value = (before + share * growth).ravel()
        parts.append(left | of_latents | {"step": step, "metric": metric, "value": value})
        for collapse, values in ((SPREAD, spreads if step == last else 0.5), (RANK, 3.0)):
            own = {"step": step, "metric": collapse, "value": values, "initial": values}
            parts.append(left | of_trees | own)
    return stacked(parts)


def stacked(parts):
    """One table of blocks of rows: columns by name, of one length or a single value; without one, NaN."""
    sizes = [max(map(np.size, part.values())) for part in parts]
    names = dict.fromkeys(name for part in parts for name in part)
    every = {
        name: [np.broadcast_to(part.get(name, np.nan), n) for part, n in zip(parts, sizes, strict=True)]
        for name in names
    }  # fmt: skip
    return pd.DataFrame({name: np.concatenate(columns) for name, columns in every.items()})


def joined(*cells):
    """Cells as one table."""
    return pd.concat(cells, ignore_index=True)


def seeded(table, seeds):
    """The same trees, the later half of them as the same members of a second seed."""
    half = int(table["member"].max() + 1) // len(seeds)
    at = (table["member"] // half).astype(int)
    made = table.assign(seed=at.map(dict(enumerate(seeds))), member=table["member"] % half)
    made["cell"] = made["cell"].astype(str) + "." + made["seed"].astype(str)
    first = ["cell", "seed"]
    return made[[*first, *(name for name in made.columns if name not in first)]].sort_values(
        ["cell"], kind="stable"
    )


def made_up(name, ends, *, trees=12, noise=0.01, more=()):
    """A table of a BYOL experiment's default scale.

    Args:
        name: of the experiment.
        ends: variant -> (gain, spread); the others do well.
        trees, noise: as of `cell`.
        more: (metric, {variant: value}) of the network, for more rows.
    """
    cells = []
    rng = np.random.default_rng(0)
    for at, grid in enumerate(experiments.load(name).grids["default"]):
        variant, steps = grid["variant"].value, grid["steps"][0]
        gain, spread = ends.get(variant, WELL)
        made = cell(variant, gain, trees=trees, levels=(2,), noise=noise, spread=spread,
                    steps=(0, 1000), seed=at, name=str(at))  # fmt: skip
        made.insert(1, "steps", steps)
        if not cells:
            first = made["initial"].where(made["metric"] == PRE)
        # all variants start with the same networks
        shift = (first - made["initial"]).fillna(0)
        made[["initial", "value"]] = made[["initial", "value"]].add(shift, axis=0)
        cells.append(made)
        rows = []
        for metric, by_variant in more:
            for step in (0, 10):
                value = by_variant.get(variant, 0.0)
                values = value + bool(value) * rng.normal(0, noise, trees)
                rows.append({
                    "cell": str(at), "steps": steps, "variant": variant, "member": np.arange(trees),
                    "step": step, "level": 2, "node": "network", "metric": metric, "value": values,
                })  # fmt: skip
        cells += [stacked(rows)] if rows else []
    return joined(*cells)
