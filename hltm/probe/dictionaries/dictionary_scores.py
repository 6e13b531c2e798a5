"""What the features of a dictionary are for: recovery, splitting and absorption of the latents' states.

A feature is on in a row where it is positive. How well "feature i is on" follows "latent v has state k"
is measured by Matthews' correlation φ of the two, which is 1 if each implies the other.

- **Recovery** of a state: the largest φ of any feature; `matched_recovery`: where no feature may stand for
  two states.
- **Splitting** of a state: how many features share it. Its candidates are the features that follow no
  other state better, with a φ above the null. Beginning with the best of them, that one is added
  whose union with those before raises φ most, as long as it rises by at least 0.02. 1 means one
  feature, 0 that none follows the state best; `union_recovery` is the φ of the union.
- **Absorption** along the tree (Chanin et al. 2024, arXiv 2409.14507): of the rows in which a latent has
  state p and its child state c, the share in which all features of p are off and one of c is on; the
  features of a state are those that `splitting` counts. If p's feature is off just where c's is on, it is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hltm.probe.accumulators.checks import as_numbers
from hltm.probe.batches import Label
from hltm.probe.dictionaries.dictionary import Dictionary
from hltm.probe.dictionaries.feature_scores import FeatureScores, indicators, posterior_ceilings
from hltm.probe.dictionaries.layer_rows import LayerRows
from hltm.probe.sources.containers import as_array, as_floats
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed, Rows, as_rows
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

LAGS = 100  # pairings with other rows that make the null
COLUMNS = [
    "member", "features", "node", "level", "state", "child", "child_state", "metric", "feature",
    "value", "null", "ceiling", "n", "note",
]  # fmt: skip


def dictionary_scores(
    features: Tensor | Mapping[str, Tensor],
    tree: LatentTree,
    *,
    draw: Rowed,
    lags: int = LAGS,
) -> pd.DataFrame:
    """Recovery, splitting and absorption of the latents' states by features, as one tidy table.

    `hltm.probe.dictionaries.dictionary_scores`, this function's module, defines these metrics.

    Features of other kinds go through the same: random directions and the units themselves are what a
    dictionary must beat (`baselines`).

    Args:
        features: `(B, F)` or, of stacked draws, `(S, B, F)`, such as from `Dictionary.encode`, on
            where positive; or a mapping name -> such.
        tree, draw: the rows that the features were computed on.
        lags: pairings with other rows that make the null, at least 1.

    Returns:
        One row per member, kind of features, latent, state and metric: member, features (the name),
        node, level, state, child, child_state, metric, feature, value, null, ceiling, n, note. `feature` is
        the best one, -1 where none applies. Metrics, beside those of the module:

        - `correlation`: of the feature of `recovery`, its coefficients with the state;
        - `absorption`: one row for every state of every child, `child` and `child_state`; its null is
          what the same gaps of the features score if they have nothing to do with the child;
        - per kind of features (node is empty): `recovered_states` (above the null), `split_states` (of
          two features or more), `absorbed_pairs` (absorption in a tenth of the rows more than such
          gaps give by chance), and `dead_features`, which are never on.

        Nulls are 95% points over pairings with shifted rows. The ceiling of `recovery`, `matched_recovery`,
        `union_recovery` and `correlation` is that of the exact posterior given all leaves, with the
        best cut; features that were made from latents themselves can exceed it. That of `splitting` is
        1 and that of `absorption` 0: what an ideal dictionary has.

    Raises:
        TypeError: a `Dictionary` instead of its features.
        ValueError: features of another shape, not finite, or without a column; a draw of another
            tree or without latents, fewer rows than twice the lags.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.6, seed=0)
        >>> draw = tree.sample(4000, seed=1)
        >>> states = torch.nn.functional.one_hot(draw.states[:, :3].long(), 2).flatten(1)
        >>> table = dictionary_scores(states, tree, draw=draw)
        >>> table[table.metric == "recovery"].value.tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        >>> table[table.node == ""][["metric", "value"]].values.tolist()
        [['recovered_states', 6.0], ['split_states', 0.0], ['absorbed_pairs', 0.0], ['dead_features', 0.0]]
    """
    import pandas as pd

    if isinstance(features, Dictionary):
        raise TypeError("expected features of the draw's rows, dictionary.encode(activations)")
    kinds = features if isinstance(features, Mapping) else {"dictionary": features}
    if isinstance(lags, bool) or not hasattr(lags, "__index__") or lags < 1:
        raise ValueError(f"lags must be a positive integer, got {lags!r:.60}")
    drawn = as_rows(draw, tree, None, None, None)
    if drawn.total < 2 * lags:
        raise ValueError(f"{lags} lags need at least {2 * lags} rows, got {drawn.total}")
    rows: list[dict[str, Any]] = []
    found = {str(name): _columns(name, values, drawn) for name, values in kinds.items()}
    nodes = drawn.states(range(drawn.total))
    for s, member in enumerate(drawn.members):
        own = nodes[s].cpu().numpy().T
        states = indicators(own, tree)
        one = tree[s] if tree.stacked else tree
        ceilings = posterior_ceilings(one, nodes[s, tree.leaves.start :].T, states)
        for name, values in found.items():
            scores = FeatureScores(values[s], states, tree, ceilings, lags)
            for row in scores.rows():
                rows.append({"member": member, "features": name, "n": len(own)} | row)
    return pd.DataFrame(rows)[COLUMNS]


def baselines(
    source: Any,
    tree: LatentTree,
    found: Dictionary,
    *,
    draw: Rowed,
    layer: Label | None = None,
    batch_axis: BatchAxis | None = None,
) -> dict[str, Tensor]:
    """Features of a dictionary, of as many random directions, and the units themselves, for the scores.

    Random directions keep as many features on as the dictionary does; a unit is on above its mean.

    Args:
        source, tree, draw, layer, batch_axis: as in `dictionary`.

    Raises:
        ValueError: as `dictionary`.

    Example:
        >>> import hltm
        >>> from hltm.probe import dictionary
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> a = draw.leaves.float()
        >>> found = dictionary(a, tree, draw=draw, features=8, active=3, seed=0, steps=10)
        >>> {k: tuple(x.shape) for k, x in baselines(a, tree, found, draw=draw).items()}
        {'dictionary': (1000, 8), 'random directions': (1000, 8), 'units': (1000, 4)}
    """
    a = LayerRows(source, tree, draw, None, None, layer, batch_axis).all()
    mean = a.double().mean(1, keepdim=True)
    a = a if draw.stacked else a[0]
    generator = torch.Generator().manual_seed(0)
    shape = found.decoder.shape
    directions = torch.randn(shape, generator=generator).to(found.decoder)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    random = found._replace(
        decoder=directions, encoder=directions, encoder_bias=torch.zeros_like(found.encoder_bias),
        bias=mean[:, 0] if draw.stacked else mean[0, 0], selection="row",
    )  # fmt: skip
    centred = a - (mean if draw.stacked else mean[0])
    return {"dictionary": found.encode(a), "random directions": random.encode(a), "units": centred}


def _columns(name: object, values: Any, rows: Rows) -> np.ndarray:
    """`(S, B, F)` floats."""
    members = len(rows.members) if rows.stacked else 0
    f = as_floats(as_array(name, values, rows=rows.total, members=members)).cpu()
    full = f if rows.stacked else f[None]
    shape = len(rows.members), rows.total
    if full.ndim != 3 or tuple(full.shape[:2]) != shape:
        front = f"{shape[0]}, " if rows.stacked else ""
        raise ValueError(
            f"features {name!r:.60} have shape {tuple(f.shape)}, expected ({front}{shape[1]}, F)"
        )
    found = as_numbers(full).numpy()
    if not np.isfinite(found).all():
        raise ValueError(f"features {name!r:.60} are not finite")
    return found
