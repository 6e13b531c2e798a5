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
