"""The tidy table of intervention effects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from hltm.probe.batches import Label
from hltm.probe.causal.do_ceiling import KINDS
from hltm.probe.causal.flat_network import FlatNetwork

if TYPE_CHECKING:
    import pandas as pd

    from hltm.probe.causal.intervention import LayerEffect

COLUMNS = [
    "member", "layer", "level", "node", "metric", "candidates", "unit", "states", "value", "standard_error",
    "null", "ceiling", "ceiling_error", "parent_baseline", "n", "note",
]  # fmt: skip


def effect_table(
    layers: Mapping[Label, LayerEffect], network: FlatNetwork, samples: int
) -> pd.DataFrame:
    """One row per member, layer, latent, candidate and metric."""
    import pandas as pd

    topology = network.tree.topology

    def rows() -> Iterator[list[Any]]:
        for label, found in layers.items():
            chosen = "whole layer" if network.blocks[label] is None else "own block"
            for s, member in enumerate(network.members):
                for t, v in enumerate(found.nodes):
                    index = [member, label, int(topology.level[v]), topology.names[v]]
                    units = found.allowed[:, t].nonzero()[:, 0]
                    for kind in KINDS:
                        effect = kind == "effect"
                        value = getattr(found, kind)[s, units, t]
                        missing = torch.full_like(value, torch.nan)
                        error = found.standard_error[s, units, t] if effect else missing
                        null = found.null[kind][s, units, t].where(value.isfinite(), missing)
                        ceiling, wrong = (float(part[s, t]) for part in found.ceiling[kind])
                        parent = float(found.parent_baseline[s, t]) if effect else float("nan")
                        columns = (value.tolist(), error.tolist(), null.tolist())
                        pairs = found.states[kind][s, units, t].tolist()
                        for i, (x, e, y) in enumerate(zip(*columns, strict=True)):
                            low, high = pairs[i]
                            yield [
                                *index, kind, chosen, i, f"{low}-{high}", x, e, y, ceiling, wrong, parent,
                                samples, _note(x, ceiling),
                            ]  # fmt: skip

    return pd.DataFrame(list(rows()), columns=COLUMNS)


def _note(value: float, ceiling: float) -> str:
    """Why there is no value or no ceiling."""
    if value != value:
        return "no value: the states do not both occur in these rows"
    if ceiling == float("inf"):
        return "no ceiling: do makes leaves that cannot occur otherwise"
    return ""
