"""Measuring the layers of a network, or activations as arrays, in one pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hltm.inference.ceiling import Leaves
from hltm.model.nodes import Node
from hltm.probe.batches import ROWS, Label, Posteriors, batches
from hltm.probe.layer import LatentCeilings, Layer, LayerProbe
from hltm.probe.metric_kinds import (
    Chosen,
    check_numbers,
    check_states,
    metric_kinds,
    usual_metrics,
)
from hltm.probe.metrics.specificity import RivalBaseline
from hltm.probe.null import LAGS
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed, is_network, members_of
from hltm.probe.sources.undisturbed import undisturbed
from hltm.probe.table import to_frame, with_initial
from hltm.probe.targets import Compared, Targets, chosen_latents, compared, latents_of
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1 << 21  # activations of a layer that are held at a time: few enough to stay in cache
NULL_CHUNK = 1 << 23  # the null holds a product for each unit, target and row
FIRST = 256  # rows of the first batch, which shows how wide the layers are
SEVERAL = 20  # comparisons, from which on it is strange that none is far above its null
FAR = 1.5  # times its null: further than chance gets


def probe_layers(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    metrics: Chosen | None = None,
    nodes: Sequence[Node] | None = None,
    leaves: Leaves | None = None,
    lags: int = LAGS,
    details: bool = True,
    targets: Targets | None = None,
    batch_axis: BatchAxis | None = None,
) -> dict[Label, Layer]:
    """Measure how the units of every layer follow the latents, in one pass that stores no activations.

    Arguments are those of `measure`, which makes a table of this.

    Returns:
        The source's name of a layer -> `Layer`, tensors on the CPU.

    Raises:
        ValueError: as `measure`.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> layer = probe_layers(draw.leaves.float(), tree, draw=draw)["activations"]
        >>> layer.scores["correlation"].strength.shape  # (S, U, T): leaves by latents
        torch.Size([1, 4, 3])
    """
    with undisturbed(source):
        found = _probe(
            source, tree, draw=draw, samples=samples, seed=seed, metrics=metrics, nodes=nodes,
            leaves=leaves, lags=lags, details=details, targets=targets, batch_axis=batch_axis,
            known=Posteriors(tree),
        )  # fmt: skip
    _warn_of_other_rows(source, draw, found)
    return found


def _probe(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None,
    samples: int | None,
    seed: int | None,
    metrics: Chosen | None,
    nodes: Sequence[Node] | None,
    leaves: Leaves | None,
    lags: int,
    details: bool,
    targets: Targets | None,
    batch_axis: BatchAxis | None,
    known: Posteriors,
) -> dict[Label, Layer]:
    """As `probe_layers`, without a warning.

    Args:
        known: posteriors, of the same rows where another source was measured on them.
    """
    given = None if metrics is None else metric_kinds(metrics)
    if leaves not in (None, "own", "all"):
        raise ValueError(f"leaves must be 'own' or 'all', got {leaves!r}")
    if lags < 0:
        raise ValueError(f"lags must be at least 0, got {lags}")
    wanted = None if nodes is None else chosen_latents(tree, nodes)
    if wanted is not None and targets is not None:
        raise ValueError("give nodes, which are latents, or targets of your own, not both")
    if seed is not None:
        check_seed(seed)
    if given is not None and targets is None:
        check_states(given, tree)
    ceilings = LatentCeilings(tree)
    probes: dict[Label, LayerProbe] = {}
    rivals: dict[Leaves, RivalBaseline] = {}  # layers share them, as the posteriors
    shown = details and targets is None
    rows = batches(
        source, tree, draw, samples, seed, lags, batch_axis,
        size=lambda: ROWS if details else _cached_rows(probes.values(), lags),
    )  # fmt: skip
    for batch in rows:
        layers = {layer.label: layer for layer in compared(batch, tree, targets, wanted)}
        if probes and layers.keys() != probes.keys():
            raise ValueError(f"layers changed from {list(probes)} to {list(layers)}")
        latents = latents_of(batch.draw)
        exact: dict[Leaves, Tensor] = {}
        for label, layer in layers.items():
            if label not in probes:
                kinds, near = given or usual_metrics(tree, layer), leaves or layer.leaves
                check_numbers(kinds, layer)
                states = _states(tree, layer)
                probes[label] = LayerProbe(
                    label, tree, layer.nodes, layer.names, own=layer.own,
                    kinds=kinds, states=states, lags=lags,
                    leaves=near, ceilings=ceilings, members=batch.draw.members,
                    details=rivals.setdefault(near, RivalBaseline(states)) if shown else None,
                )  # fmt: skip
            probe = probes[label]
            if probe.reads_posterior and probe.leaves not in exact:
                exact[probe.leaves] = known.of(batch.draw, own=probe.leaves == "own")
                if shown:
                    rivals[probe.leaves].update(exact[probe.leaves], latents)
            posterior = exact[probe.leaves] if probe.reads_posterior else None
            probe.update(
                layer.values, layer.rectified, layer.targets, layer.other, latents, posterior
            )
    return {label: probe.result() for label, probe in probes.items()}


def _warn_of_other_rows(source: Any, draw: Rowed | None, layers: Mapping[Label, Layer]) -> None:
    """Warn where units given as arrays beat their nulls hardly more often, or further, than by chance."""
    if draw is None or is_network(source) or isinstance(source, nn.Module):
        return
    heads = [next(iter(layer.scores.values())) for layer in layers.values()]
    known = [head for head in heads if not head.null.isnan().any()]
    count = sum(head.best.numel() for head in known)
    above = sum(int((head.best > head.null).sum()) for head in known)
    far = any(bool((head.best > FAR * head.null).any()) for head in known)
    # latents are correlated, so several are above their null by one chance
    if count < SEVERAL or far or above > count / 3:
        return
    warnings.warn(
        f"no unit of any layer follows a latent clearly better than chance ({above} of {count} comparisons "
        "are above their null): the activations were most likely computed on other rows than the draw's "
        "(another seed, start or order)",
        UserWarning,
        stacklevel=3,
    )


def _states(tree: LatentTree, layer: Compared) -> int:
    """K, the largest number of states of a target."""
    states = int(tree.tables.cardinality[list(tree.latents)].max())
    if layer.nodes or layer.targets.is_floating_point():
        return states
    return max(states, int(layer.targets.max()) + 1)


def _cached_rows(probes: Iterable[LayerProbe], lags: int) -> int:
    """Rows of a batch of which a layer's activations stay in cache, and the null's products in memory."""
    sizes = [probe.sizes for probe in probes]
    if not sizes:
        return FIRST
    units, products = (max(column) for column in zip(*sizes, strict=True))
    return min(CHUNK // units, NULL_CHUNK // products) if lags else CHUNK // units


def measure(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    initial: Any = None,
    metrics: Chosen | None = None,
    nodes: Sequence[Node] | None = None,
    leaves: Leaves | None = None,
    lags: int = LAGS,
    details: bool = True,
    targets: Targets | None = None,
    batch_axis: BatchAxis | None = None,
) -> pd.DataFrame:
    """Measure how the layers of a network follow the latents, as one tidy table.

    Args:
        source: activations `(B, U)` or, of stacked draws, `(S, B, U)`; with a block of units for
            every latent of a level `(B, V, U)` or `(S, B, V, U)`; a mapping layer -> such; or a
            network with `activations(leaves)` that returns such a mapping. A layer whose name is a
            level's number is compared with that level's latents, any other layer with all latents.
            Vectors at the leaves, `(B, X, U)`, of a network with a method `positions` are no latents'
            blocks: all their units are candidates (`measure_positions` keeps positions apart).
            A network of S members has `stacked = True` and `members`, a number for each; it takes leaves
            `(S, B, X)`, rows of its own for each member, and returns `(S, B, U)` or `(S, B, V, U)`.
            A torch module shows its parts; `hltm.probe.TorchNetwork` chooses them and its inputs.
        tree: the tree of the latents; S draws or networks may share one tree.
        draw: the rows that the activations were computed on. For a network, rows to run it on.
        samples, seed: for a network without a draw: so many rows, from a stream that training never
            reads.
        initial: the same source before training, for the columns `initial` and `gap_closed`.
        metrics: names in `hltm.probe.METRICS`; subclasses of `Metric`; functions from activations
            `(B, U)` and states `(B, T)` of all rows of one member to `(U, T)` numbers, of which more is
            better, or to `(T,)` for all units together; or a mapping name -> any of these. A function
            is called once for each lag of the null, and all rows are kept for it. The first metric
            chooses the units that are matched and whose specificity is reported. By default
            correlation and selectivity, or the correlation ratio where a latent has more than two
            states.
        nodes: latents that a shared layer is compared with.
        leaves: which leaves ceilings and posteriors are given: a latent's `own` leaves or `all`; by
            default its own where it has a block of units, all where latents share a layer.
        lags: pairings with other rows that make the null, at most half of the rows; 0 for none.
        details: False leaves out all but the metrics, their nulls and ceilings, `below_null` and dead
            units, as learning curves need it; then blocks are compared with their own latents alone.
        targets: what units are compared with instead of the latents: a function from a `Draw` to layer ->
            states or, for `correlation`, real numbers, `(B, T)` or `(S, B, T)` for a layer or
            `(B, V, T)` or `(S, B, V, T)` for blocks, such as a teacher's activations or a part of a
            latent's state. It is called for the rows measured and for those of the null; layers that it
            leaves out are not measured, and there are no details. By default the correlation, or the
            correlation ratio of states.
        batch_axis: the axis of the rows where it is not the first, or layer -> axis; the axis of
            members is not counted.

    Returns:
        One row per member, layer, node and metric: member, layer, level, node, metric, candidates,
        unit, rival, value, null, initial, ceiling, ceiling_error, gap_closed, n, note. `unit` counts
        within the candidates; -1 and NaN stand for what does not apply, and `note` says in a few words
        why a number has no null or no ceiling. Besides the metrics, each unsigned and of the best
        candidate:

        - `…_post_relu`: the first metric as the next layer reads the units, for a network with
          `rectify`; without details its null is that of the units before the nonlinearity;
        - `matched_…`: the first metric, where no unit may stand for two latents; its null is that of
          the best unit, which is never smaller;
        - `rival`: the correlation ratio of the best unit with the other latent that it follows
          best, which the column `rival` names, beside the ceiling of that latent; `rival_baseline`: the
          correlation ratio of that rival's exact posterior with this latent, which needs no unit for
          this latent; `partial_correlation`: what remains given the parent (`Specificity`);
        - `linear_probe`: held-out correlation of a ridge readout of all candidates;
        - `below_null`: 1 where the best candidate's strength is at or below its null;
        - `dead_units`: units that never vary as the next layer reads them (`StreamingUnits` says what
          that is), of a latent's own block and of the layer;
        - per layer (node is empty, level -1 unless the layer is one): `linear_cka` with the
          posteriors, `feature_spread`, `effective_rank`, `units_below_null`: units at or below
          their own null on all latents.

        The ceiling of correlations is `tree.ceiling`; of selectivities that times the unit's standard
        deviation over 2 sqrt(p (1 - p)) for a state of share p; of the ROC area it is that of the exact
        posterior on the same rows, of mutual information that of the leaves on the same rows.

    Warns:
        UserWarning: arrays of which no unit in any layer is clearly above its null, in 20 comparisons or
            more: they are most likely of other rows than the draw's.

    Raises:
        ValueError: activations that are not finite (the error names member, layer and unit) or of another
            shape, a metric's or a function's result of another shape or not finite, arrays without a
            draw, a draw of another tree, an unknown metric or one for two
            states only, nodes that are not latents, too few rows for the lags, or an initial source
            with other layers.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(2000, seed=1)
        >>> table = measure({"leaves": draw.leaves.float()}, tree, draw=draw)
        >>> best = table[table.metric == "correlation"]
        >>> best.node.tolist(), bool((best.value < best.ceiling + 0.05).all())
        (['0', '1', '2'], True)
        >>> table[table.metric == "dead_units"].value.tolist()
        [0.0]
    """
    options: dict[str, Any] = {
        "draw": draw, "samples": samples, "seed": seed, "metrics": metrics, "nodes": nodes,
        "leaves": leaves, "lags": lags, "details": details, "targets": targets,
        "batch_axis": batch_axis,
    }  # fmt: skip
    known = Posteriors(tree, keep=initial is not None)
    with undisturbed(source):
        found = _probe(source, tree, **options, known=known)
    _warn_of_other_rows(source, draw, found)
    table = to_frame(found, tree, members_of(source, tree, draw))
    before = None
    if initial is not None:
        # units that were not trained yet may follow nothing
        with undisturbed(initial):
            layers = _probe(initial, tree, **options, known=known)
        before = to_frame(layers, tree, members_of(initial, tree, draw))
    return with_initial(table, before)
