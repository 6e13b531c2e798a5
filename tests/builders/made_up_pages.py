"""A run of made-up numbers on a tree whose names are what HTML, plotly or TeX would read, and its page."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from dualnets import experiments
from dualnets.experiments.emergence.emergence import Settings
from dualnets.lab.report.page import run_page
from dualnets.lab.verdicts import Verdict
from hltm.model.topology import Topology

# what must be text and nothing else
HOSTILE = (
    '<img src=x onerror="window.hit=1">',
    "\"quoted\" & 'so'",
    r"$\frac{1$",
    "</script><b>x</b>",
    f"{chr(0x202E)}reversed{chr(0x200B)}zero",
    400 * "long",
)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="110" height="66"><rect width="9" height="9"/></svg>'
STEPS = (0, 10, 100)
TREE = Topology.from_parents([None, 0, 0, 1, 1, 2, 2], [*HOSTILE[:3], *HOSTILE[4:], "c", "d"])


class HostileSettings(Settings):
    """Settings of trees with hostile names."""

    def build_topology(self):
        return TREE


EXPERIMENT = replace(experiments.load("emergence"), Settings=HostileSettings)


def made_up_run(date="2026-11-29T05:30:00Z", run="0123456789ab", **versions):
    """Experiment, table, summary, verdicts and manifest of a run with two cells."""
    rng = np.random.default_rng(0)
    cells, parts = [], []
    for units in (2, 5):
        settings = HostileSettings(depth=2, units=units, members=2, steps=100)
        cells.append({"cell": f"cell{units}", "settings": asdict(settings), "device": "cpu", "seconds": 1.0,
                      "cpu_seconds": 1.0, "notes": [HOSTILE[0], *HOSTILE[3:]],
                      "versions": {"hltm": versions.get(f"of_{units}", "1.0")}})  # fmt: skip
        for step in STEPS:
            for member in (0, 1):
                rows = {"cell": f"cell{units}", "member": member, "step": step, "level": [2, 1, 1],
                        "node": list(HOSTILE[:3]), "metric": "correlation", "candidates": "own block",
                        "unit": [1, 0, 1], "ceiling": 0.9, "null": 0.05, "n": 8,
                        "value": rng.uniform(0.1, 0.2, 3) + STEPS.index(step) * 0.3}  # fmt: skip
                parts.append(pd.DataFrame(rows))
                parts += [
                    pd.DataFrame(
                        rows | {"metric": "strength", "unit": unit, "value": 0.2 + unit / 10}
                    )
                    for unit in range(units)
                    if step in (STEPS[0], STEPS[-1])
                ]
    summary = pd.DataFrame({"network": [HOSTILE[0], HOSTILE[5]], "gap closed": [0.5, 0.25],
                            "text": ["0.90 [0.1, 1.0]", "–"], "n": [2, 2]})  # fmt: skip
    details = [{"part": HOSTILE[0], "gap": 0.5, "low": 0.4, "high": 0.6}]
    reason = HOSTILE[1] + HOSTILE[4] + HOSTILE[5]
    verdict = Verdict("", HOSTILE[0], HOSTILE[2], "open", HOSTILE[3], reason, "gap closed", 0.5,
                      (0.4, 0.6), 2, details=details)  # fmt: skip
    manifest = {"experiment": "emergence", "run": run, "scale": "smoke", "cells": cells,
                "command": f"hltm run emergence --x {HOSTILE[0]}", "versions": {"hltm": "9.9"}}  # fmt: skip
    if date:
        manifest["date"] = date
    return EXPERIMENT, pd.concat(parts, ignore_index=True), summary, [verdict], manifest


def made_up_page(site=None, **changes):
    """The page of such a run."""
    return run_page(*made_up_run(**changes), SVG, site)
