"""Bootstrap intervals over the members of an ensemble."""

import math

import numpy as np
import pandas as pd
import pytest

from hltm.probe import over_members


def test_intervals_over_members_cover_and_average_latents_first():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        values = generator.normal(0.5, 0.1, size=40)
        table = pd.DataFrame(
            {"member": np.repeat(np.arange(20), 2), "metric": "m", "value": values}
        )
        found = over_members(table, by=["metric"], seed=seed)
        assert found["members"].item() == 20
        assert found["mean"].item() == pytest.approx(values.mean())
        covered += bool(found["low"].item() <= 0.5 <= found["high"].item())
    assert covered >= 50
    one = over_members(table[table["member"] == 0], by=["metric"], seed=0)
    assert math.isnan(one["low"].item())
    assert over_members(table, by=["metric"], seed=1).equals(
        over_members(table, by=["metric"], seed=1)
    )
    with pytest.raises(ValueError, match="no column 'level'"):
        over_members(table, by=["level"], seed=0)
    with pytest.raises(ValueError, match="confidence in"):
        over_members(table, by=["metric"], confidence=1, seed=0)


def test_gaps_closed_are_ratios_of_sums():
    table = pd.DataFrame(
        {
            "member": [0, 0, 1, 1, 1],
            "metric": "m",
            "value": [0.9, 0.59, 0.8, 0.7, 0.3],
            "initial": [0.1, 0.6, 0.4, 0.3, np.nan],
            "ceiling": [0.9, 0.61, 0.9, 0.8, 1.0],
        }
    )
    found = over_members(table, by=["metric"], of="gap_closed", seed=0)
    first, second = 0.79 / 0.81, 0.8 / 1.0  # the mean of ratios of member 0 is 0
    assert found["mean"].item() == pytest.approx((first + second) / 2, abs=1e-12)
    assert found["members"].item() == 2
    with pytest.raises(ValueError, match="measure with initial="):
        over_members(table.assign(initial=np.nan), by=["metric"], of="gap_closed", seed=0)
    with pytest.raises(ValueError, match="'value' or 'gap_closed', got 'null'"):
        over_members(table, of="null", seed=0)
