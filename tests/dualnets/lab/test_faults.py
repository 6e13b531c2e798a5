"""Each fault of `benchmarks/faults.py` once, for real."""

import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")
pytest.importorskip("psutil")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

import faults


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The table of a run that nothing disturbs."""
    return faults.undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", faults.FAULTS)
def test_the_same_command_gives_the_undisturbed_table(fault, tmp_path, expected):
    random.seed(0)
    assert faults.attempt(fault, tmp_path / "out", expected)
