"""Runs of experiments that take a second, for tests of what surrounds them."""

import contextlib
import importlib
from dataclasses import replace
from types import ModuleType

import pandas as pd
import pytest
import torch

import dualnets
from dualnets import experiments
from dualnets.lab import grids
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.fields import with_columns

TINY = {"depth": 2, "steps": 20, "members": 2, "evaluation_samples": 512, "snapshots": 3}
FLAGS = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]


def tiny_run(out, **changes):
    """Four cells of `emergence` on trees of depth 2."""
    return dualnets.run("emergence", scale="smoke", out=out, **(TINY | changes))


def code_of(name: str) -> ModuleType:
    """The module that has an experiment's functions."""
    return importlib.import_module(experiments.load(name).code)


@contextlib.contextmanager
def blank_figures(name: str):
    """Let an experiment draw nothing, which takes most of the time of a tiny run."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(experiments.load(name)), "plot", lambda *_: Figure((1, 1)))
        yield


@contextlib.contextmanager
def drawn_once():
    """Let runs write their figures as SVG alone, in half of the time."""
    from dualnets.lab.report import style

    def save(figure, stem):
        with style.house_style():
            figure.savefig(f"{stem}.svg")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", save)
        yield


def few_cells(experiment, keep, **changes):
    """The table of those cells of the smoke scale whose settings are kept, small, and these settings."""
    small = {"members": 3, "snapshots": 2, "evaluation_samples": 512, "batch": 16} | changes
    steps = small.pop("steps", 6)  # which variants may fix
    axes = {name: value if isinstance(value, list) else [value] for name, value in small.items()}
    kept = [own for own in grids.cells(experiment, "smoke", axes) if keep(own)]
    kept = [replace(own, steps=steps) for own in kept]
    tables = []
    for at, settings in enumerate(kept):
        table = experiment.run_cell(settings, torch.device("cpu"), ProgressListener()).table
        table.insert(0, "cell", str(at))
        tables.append(with_columns(table, settings))
    return pd.concat(tables, ignore_index=True), kept
