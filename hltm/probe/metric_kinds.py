"""Which metrics a layer is measured by: what a user may give, the usual ones, and what each is for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hltm.probe.function_metric import Function, function_metric
from hltm.probe.metric import Metric
from hltm.probe.metrics import METRICS
from hltm.probe.targets import Compared
from hltm.tree import LatentTree

OneMetric = str | type[Metric] | Function
Chosen = OneMetric | Iterable[OneMetric] | Mapping[str, OneMetric]
KINDS = "a name, a subclass of Metric or a function"
RESERVED = (
    "rival", "rival_baseline", "partial_correlation", "linear_probe", "below_null", "dead_units",
    "units_below_null", "linear_cka", "feature_spread", "effective_rank",
)  # fmt: skip


def metric_kinds(metrics: Chosen) -> dict[str, type[Metric]]:
    """Name -> metric, in order, of what a user may give as `metrics`.

    Args:
        metrics: names in `METRICS`, subclasses of `Metric`, functions (see `function_metric`), or a
            mapping name -> any of these; a single one need not be in a list.

    Raises:
        ValueError: no metric, an unknown name, something else, two metrics of one name, a name that
            other numbers of the table have, or a function without a name.

    Example:
        >>> def overlap(activations, states):
        ...     return (activations > 0).double().T @ states.double() / len(states)
        >>> list(metric_kinds(["correlation", overlap])), list(metric_kinds({"mine": overlap}))
        (['correlation', 'overlap'], ['mine'])
    """
    pairs: list[tuple[str | None, Any]]
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    elif isinstance(metrics, str) or callable(metrics):
        pairs = [(None, metrics)]
    else:
        pairs = [(None, metric) for metric in metrics]
    found: dict[str, type[Metric]] = {}
    for given, metric in pairs:
        name, kind = _named(given, metric)
        if name in found:
            raise ValueError(f"two metrics are named {name!r}; give a mapping of distinct names")
        taken = name in RESERVED or name.startswith("matched_") or name.endswith("_post_relu")
        if taken or (name in METRICS and kind is not METRICS[name]):
            raise ValueError(
                f"the table has another number named {name!r}; give your metric another name"
            )
        found[name] = kind
    if not found:
        raise ValueError(f"metrics is empty, expected {KINDS}")
    return found


def _named(name: str | None, metric: Any) -> tuple[str, type[Metric]]:
    """The name of a metric in the table, and its class."""
    if name is not None and not (isinstance(name, str) and name):
        raise ValueError(f"a metric's name must be text, got {name!r}")
    if isinstance(metric, str):
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}, expected one of {', '.join(METRICS)}")
        return name or metric, METRICS[metric]
    if isinstance(metric, type) and issubclass(metric, Metric):
        known = (own for own in METRICS if METRICS[own] is metric)
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", metric.__name__).lower()
        return name or next(known, words), metric
    if isinstance(metric, type | Metric) or not callable(metric):
        raise ValueError(f"a metric must be {KINDS}, got {metric!r:.80}")
    own = str(name or getattr(metric, "__name__", "<lambda>"))
    if own == "<lambda>":
        raise ValueError("a function without a name needs one: metrics={'mine': function}")
    return own, function_metric(own, metric)


def _binary(tree: LatentTree) -> bool:
    return bool((tree.tables.cardinality[list(tree.latents)] == 2).all())


def check_states(kinds: Mapping[str, type[Metric]], tree: LatentTree) -> None:
    """Raise for a metric of two states on a tree with more."""
    for name, kind in kinds.items():
        if kind.two_states and not _binary(tree):
            raise ValueError(f"{name} is for latents of two states; use correlation_ratio instead")


def check_numbers(kinds: Mapping[str, type[Metric]], layer: Compared) -> None:
    """Raise for a metric of states where the targets are real numbers."""
    for name, kind in kinds.items():
        if layer.targets.is_floating_point() and not kind.numbers:
            raise ValueError(
                f"{name} is for states, but the targets of layer {layer.label!r} are real numbers; "
                "use correlation"
            )


def usual_metrics(tree: LatentTree, layer: Compared) -> dict[str, type[Metric]]:
    """The metrics of a layer where none are named."""
    if layer.nodes:
        return metric_kinds(
            ("correlation", "selectivity") if _binary(tree) else "correlation_ratio"
        )
    numbers = layer.targets.is_floating_point()
    return metric_kinds("correlation" if numbers else "correlation_ratio")
