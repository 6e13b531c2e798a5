"""Stored runs without training: cells and runs as `lab/runner.py` leaves them, with made-up numbers."""

import dataclasses
import json

import pandas as pd

from dualnets import experiments
from dualnets._checksums import OWN, with_checksums
from dualnets._files import write_json
from dualnets.lab.grids import cell_name, cells, name_of_cells, repeat_command
from dualnets.lab.store import MANIFEST, RESULTS, VERDICT, Store

DATE = "2026-11-{:02d}T05:30:00Z"


def table(cell, value, steps=(0, 5, 10), metrics=("correlation", "spread")):
    """The rows of a cell: two members, two latents, and values that grow with the steps."""
    rows = [
        {"cell": cell, "member": member, "step": step, "level": 1, "node": f"1.{node}",
         "metric": metric, "value": value + step / 100 + member / 1000}
        for metric in metrics for step in steps for member in (0, 1) for node in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def store_run(out, name="losses", day=1, only=(), value=0.5, scale="smoke", **changes):
    """Store a run with its cells, and return its folder.

    Args:
        out: the folder of all results.
        name: of an experiment.
        day: of the date.
        only, scale, **changes: as of `dualnets.run`; every change is a list.
        value: of all metrics at the start, and of every effect.
    """
    experiment, store = experiments.load(name), Store(out, name)
    wanted = cells(experiment, scale, changes, only)
    named = {cell_name(experiment, settings): settings for settings in wanted}
    run = name_of_cells(experiment, named)
    entries, parts = [], []
    for cell, settings in named.items():
        rows = table(cell, value)
        entry = {"experiment": name, "cell": cell, "settings": dataclasses.asdict(settings),
                 "seconds": 2.0, "cpu_seconds": 1.0, "device": "cpu", "peak_memory": 500_000_000,
                 "notes": [], "versions": {}}  # fmt: skip
        if not store.has_cell(cell):
            store.write_cell(cell, rows, entry, {})
        entries.append(entry)
        parts.append(rows)
    folder = store.run(run)
    (folder / "networks").mkdir(parents=True)
    pd.concat(parts).to_parquet(folder / RESULTS, index=False)
    verdicts = [
        {"name": claim.name, "claim": claim.text, "reference": "", "verdict": "holds", "rule": "",
         "reason": "it grew", "effect": "gap closed", "effect_value": value, "n": 2, "of": "trees",
         "interval": [value - 0.1, value + 0.1]}
        for claim in experiment.claims
    ]  # fmt: skip
    write_json(folder / VERDICT, verdicts)
    manifest = {
        "experiment": name, "run": run, "scale": scale, "date": DATE.format(day),
        "command": repeat_command(name, scale, changes, only), "cells": entries, "versions": {},
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return folder


def edit(path, **changes):
    """Change entries of a JSON object, and the checksums of one that has some; None removes an entry."""
    found = json.loads(path.read_text()) | changes
    found = {key: value for key, value in found.items() if value is not None}
    if OWN in found:
        path.unlink()
        found = with_checksums(path.parent, {k: v for k, v in found.items() if k != OWN})
    path.write_text(json.dumps(found))
