"""Metrics, one file each.

Of every pair of a unit and a latent; these are what `METRICS` holds:

- `correlation`: Pearson correlation, for latents of two states
- `correlation_ratio`: the same for any number of states
- `mutual_information`: nats that a binned unit has of a latent
- `roc_auc`: area under the ROC curve, for latents of two states
- `selectivity`: half the difference of a unit's means, for latents of two states

Of a layer as a whole, or of chosen units:

- `cka`: linear centred kernel alignment with the exact posteriors
- `collapse`: feature spread, effective rank and units that never vary
- `linear_probe`: how well a linear readout of all units predicts each latent
- `matching`: one-to-one matching of units with latents
- `partial_ceiling`: the largest partial correlation that any function of the leaves has
- `partial_correlation`: partial correlations given the parent, and what the best unit scores by chance
- `specificity`: rival latents and partial correlations; what the rival's posterior alone scores
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hltm.probe.metric import Metric


class Metrics(Mapping[str, "type[Metric]"]):
    """Every metric of units and latents by name; a file in this folder that defines one is found.

    Raises:
        KeyError: an unknown name.

    Example:
        >>> sorted(METRICS)[:3]
        ['correlation', 'correlation_ratio', 'mutual_information']
        >>> METRICS["roc_auc"].two_states
        True
    """

    def __getitem__(self, name: str) -> type[Metric]:
        found = _metric_of(name) if name in _files() else None
        if found is None:
            raise KeyError(f"unknown metric {name!r}, expected one of {', '.join(self)}")
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in _files() if _metric_of(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _files() -> list[str]:
    return [module.name for module in iter_modules(__path__)]


def _metric_of(name: str) -> type[Metric] | None:
    """The metric that a file defines; None for a file of another kind."""
    from hltm.probe.metric import Metric

    module = import_module(f"{__name__}.{name}")
    found = (x for x in vars(module).values() if isinstance(x, type) and issubclass(x, Metric))
    return next((x for x in found if x.__module__ == module.__name__), None)


METRICS = Metrics()
