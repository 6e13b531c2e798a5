"""Whether a network uses the units that follow a latent: units are replaced, and its answer is compared.

Interchange interventions (Geiger et al. 2021, arXiv 2106.02997; Vig et al. 2020, arXiv 2004.12265): units
of a run on source leaves are put into a run on base leaves. The tree knows what the answer should then
be: the posterior given the base leaves in which a latent's own leaves, those below it, are the source's.
Given the latent's state, these leaves are independent of all others, so what the answer needs of them is
one message, and a network that reads it in some units changes its answer just so when they are replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from math import nan
from typing import TYPE_CHECKING, Any, Literal

import torch

from hltm.inference.ceiling import Leaves
from hltm.model.nodes import Node
from hltm.probe.batches import Label, row_ranges
from hltm.probe.causal.chosen_units import Units
from hltm.probe.causal.grouped_sums import GroupedSums
from hltm.probe.causal.readout import Readout
from hltm.probe.causal.scores import (
    CHANGES,
    ChangeScore,
    answer_numbers,
    change,
    change_numbers,
    drop,
    to_table,
)
from hltm.probe.causal.setup import prepare
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 20  # random sets of units that make the null
Ablation = Literal["mean", "zero", "resample"]


def patch(
    source: Any,
    tree: LatentTree,
    *,
    samples: int,
    seed: int,
    nodes: Sequence[Node] | None = None,
    layers: Sequence[Label] | None = None,
    units: Units = None,
    metric: str = "correlation_ratio",
    target: Node = 0,
    readout: Readout = None,
    leaves: Leaves = "all",
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Put a latent's units of other rows into a run, and compare the answer's change with the exact one.

    For each of `samples` pairs of a base row b and a source row, let E be the change of the exact posterior
    of the target when the latent's own leaves in b become the source's, C the change of the network's
    answer when its input is swapped in the same way, and Δ the change of its answer on b when only
    the units are replaced by those of the source.

    Args:
        source: a network with `activations(leaves)` and `run_with(leaves, replace)`, see
            `hltm.probe.PatchableNetwork`, or a `TorchNetwork`.
        tree: of the latents; S networks may share one tree.
        samples: pairs of rows, at least 40; base and source rows are independent, from the stream that
            training never reads, and units are chosen and the readout fitted on further rows.
        seed: of the rows and of the random units.
        nodes: latents; all by default.
        layers: names of layers; all that the network shows by default.
        units: which units stand for a latent: by default its own block and, where latents share a
            layer, its best unit; a number for so many best candidates; or latent -> units, counted
            within its block or layer. Where a part of a `TorchNetwork` returns `(B, X, D)`, a unit is a
            channel at a position, number position * D + channel: all of position 1 are
            `range(D, 2 * D)`. Of a convolution's `(B, D, X)` it is channel * X + position.
        metric: a name in `hltm.probe.METRICS`, which says what is best.
        target: the latent that the network answers about.
        readout: from the network's outputs to the target's K states: None for a linear probe, `output` for
            outputs that are probabilities, or a function `(S, B, O) -> (S, B, K)`.
        leaves: which leaves of the source row the source run has, `all` or the latent's `own`; the others
            are then the base row's. It makes a difference where units see more than a latent's own
            leaves: with `all` a unit that knows other things of the source brings them along.
        draws: random sets of units that make the null; 0 for none.

    Returns:
        One row per member, layer, latent and metric: member, layer, level, node, metric, candidates,
        units (their number), value, standard_error (jackknife), others, null, ceiling, n (pairs whose
        swapped leaves can occur and have an answer), note. The metrics are

        - `exact_change`: 2 ΣΔE / (Σ|Δ|² + Σ|E|²), Lin's concordance (1989, Biometrics 45) of changes: 1
          where the answer changes exactly as it should, 0 where it does not change, -1 where it changes
          the other way, and near 0 where the answer changes and the exact one hardly does; its ceiling is
          the same of C, what the network makes of swapped leaves;
        - `own_change`: 2 ΣΔC / (Σ|Δ|² + Σ|C|²), 1 where the answer changes as the network's own does;
          its ceiling is 1;
        - `own_share`: ΣΔC / Σ|C|², the share of the network's own change that comes through these
          units. With `own` leaves the shares of the units of a layer of a linear network add up to 1, and
          so they may be negative, or above the ceiling of 1, where others counteract;
        - `change_correlation`: ΣΔE / sqrt(Σ|Δ|² Σ|E|²), with the ceiling of C;
        - `interchange_accuracy`: how often the likeliest state is that of the exact answer.

        `others` is the mean, and the null the 95% point, over random sets of as many other units: of
        the latent's candidates where there are enough, else of the layer. `note` says why a number
        is missing, and where fewer than `draws` such sets exist, so that the same ones come again.

    Raises:
        TypeError: a source whose units cannot be replaced.
        ValueError: layers that are read with pool, positions, select or call, too few samples, nodes that
            are not latents, units or a metric that the network or the tree does not have, or a readout that
            is not finite or of another shape.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> network = hltm.probe.TorchNetwork(model, ["1"])
        >>> table = patch(network, tree, samples=200, seed=1, units=2)
        >>> table[table.metric == "own_change"][["node", "candidates", "units"]].values.tolist()
        [['0', 'best 2', 2], ['1', 'best 2', 2], ['2', 'best 2', 2]]
    """
    if leaves not in ("own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    given = prepare(
        source, tree, samples=samples, seed=seed, nodes=nodes, layers=layers, units=units, metric=metric,
        target=target, readout=readout, draws=draws,
    )  # fmt: skip
    sums: dict[Any, GroupedSums] = defaultdict(GroupedSums)
    network = given.network
    for rows in row_ranges(given.samples, 1):
        base, other = (network.leaves(network.draw(each)) for each in (rows, given.later(rows)))
        if leaves == "all":  # else each latent has a source run of its own
            values = network.activations(other)
        before, exact_before = given.answers(base), given.exact(base)
        for v in given.nodes:
            mixed = torch.where(given.own_leaves(v), other, base)
            if leaves == "own":
                values = network.activations(mixed)
            exact, swapped = given.exact(mixed), given.answers(mixed)
            numbers = partial(
                change_numbers,
                before=before,
                exact=change(exact, exact_before),
                own=change(swapped, before),
                target=exact,
            )
            sums[v].update(numbers(swapped))
            for label, i, units_SU in given.sets(v):
                after = given.answers(base, {label: (units_SU, values[label])})
                sums[label, v, i].update(numbers(after))

    def score(label: Label, v: int) -> dict[str, ChangeScore]:
        null = [sums[label, v, i + 1] for i in range(len(given.others[label, v]))]
        return {
            name: ChangeScore(
                statistic,
                sums[label, v, 0],
                null,
                1.0 if name in ("own_change", "own_share") else sums[v],
                given.notes[label, v],
            )
            for name, statistic in CHANGES.items()
        }

    return to_table(given, score)


def ablate(
    source: Any,
    tree: LatentTree,
    *,
    samples: int,
    seed: int,
    by: Ablation = "mean",
    nodes: Sequence[Node] | None = None,
    layers: Sequence[Label] | None = None,
    units: Units = None,
    metric: str = "correlation_ratio",
    target: Node = 0,
    readout: Readout = None,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Take a latent's units out of a network, and measure how much worse it answers.

    Arguments are those of `patch`, and:

    Args:
        by: what the units are replaced by: their `mean`, `zero`, or by `resample` their values in
            another row.

    Returns:
        The columns of `patch`, and the metrics

        - `drop`: how much lower the correlation of the answer with the target's state is, over all
          states together. The ceiling is the drop without the whole layer, the null that without as
          many other units, drawn at random;
        - `exact_drop`: the drop of the exact posterior's correlation when the latent's own leaves
          are missing: what these leaves are needed for. It has no null and no ceiling.

    Raises:
        TypeError: as `patch`.
        ValueError: as `patch`, or `by` something else.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> network = hltm.probe.TorchNetwork(model, ["1"])
        >>> table = ablate(network, tree, samples=200, seed=1, units=8, nodes=["0"])
        >>> table["metric"].tolist(), bool(table["value"][0] == table["ceiling"][0])
        (['drop', 'exact_drop'], True)
    """
    if by not in ("mean", "zero", "resample"):
        raise ValueError(f"by must be 'mean', 'zero' or 'resample', got {by!r}")
    given = prepare(
        source, tree, samples=samples, seed=seed, nodes=nodes, layers=layers, units=units, metric=metric,
        target=target, readout=readout, draws=draws,
    )  # fmt: skip
    sums: dict[Any, GroupedSums] = defaultdict(GroupedSums)
    network = given.network
    for rows in row_ranges(given.samples, 1):
        draw = network.draw(rows)
        leaves, truth = network.leaves(draw), given.indicator(draw.states_SVB[:, given.target])
        values = {label: mean if by == "mean" else 0 * mean for label, mean in given.means.items()}
        if by == "resample":
            values = network.activations(network.leaves(network.draw(given.later(rows))))
        before, exact_before = given.answers(leaves), given.exact(leaves)
        for label, mean in given.means.items():
            every = torch.ones_like(mean[..., 0], dtype=torch.bool)
            after = given.answers(leaves, {label: (every, values[label])})
            sums[label].update(answer_numbers(truth, before, after))
        for v in given.nodes:
            missing = leaves.to(torch.int64).masked_fill(given.own_leaves(v), -1)
            sums["exact", v].update(answer_numbers(truth, exact_before, given.exact(missing)))
            for label, i, units_SU in given.sets(v):
                after = given.answers(leaves, {label: (units_SU, values[label])})
                sums[label, v, i].update(answer_numbers(truth, before, after))

    def score(label: Label, v: int) -> dict[str, ChangeScore]:
        null = [sums[label, v, i + 1] for i in range(len(given.others[label, v]))]
        return {
            "drop": ChangeScore(drop, sums[label, v, 0], null, sums[label], given.notes[label, v]),
            "exact_drop": ChangeScore(
                drop,
                sums["exact", v],
                [],
                nan,
                "no null and no ceiling: exact, no units are chosen",
            ),
        }

    return to_table(given, score)
