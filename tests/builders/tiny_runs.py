"""Runs of experiments that take a second, for tests of what surrounds them."""

import contextlib
import importlib
from types import ModuleType

import pytest

import dualnets
from dualnets import experiments

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
