"""Probes: how well a network's units follow the latents, beside null and ceiling.

- `metrics/`: one file per metric, and `METRICS`, which finds them
- `accumulators/`: streaming sums that metrics are computed from
- `metric`: what every metric of units and latents has in common
- `null`: what meaningless units score
- `batches`: activations with the latents of the same rows, from arrays or from a network
- `layer`: all that is measured of one layer
- `measure`: all layers of a network, or activations as arrays, in one pass
- `table`: the measurements of layers as one tidy table
- `best_units`: the best unit of every latent of every level, as learning curves need it
- `capture`: activations of any torch module by name, and the module as a network to probe
- `heatmap`: a figure of units by latents
- `intervention`: what units make of do(latent = state), by counterfactual rows
- `patching`: whether a network uses the units of a latent: their replacement, and the exact answer
- `causal_figures`: latents by layers, and effects beside selectivities
- `causal/`: what that is made of, and the protocol of networks whose units can be replaced
- `intervals`: means over the members of an ensemble, with bootstrap intervals
"""

from hltm.probe.accumulators.correlation import StreamingCorrelation
from hltm.probe.accumulators.histogram import StreamingHistogram
from hltm.probe.accumulators.moments import StreamingMoments
from hltm.probe.best_units import Level, ProbedNetwork, alignment, best_units
from hltm.probe.capture import TorchNetwork, capture
from hltm.probe.causal.replacing import PatchableNetwork, Replacement, run_replaced, run_with
from hltm.probe.causal_figures import intervention_figure, patching_figure
from hltm.probe.heatmap import heatmap_figure
from hltm.probe.intervals import over_members
from hltm.probe.intervention import InterventionEffect, LayerEffect, intervention_effect
from hltm.probe.layer import Layer, Score
from hltm.probe.measure import measure, probe_layers
from hltm.probe.metric import Metric
from hltm.probe.metrics import METRICS
from hltm.probe.metrics.cka import LinearCKA
from hltm.probe.metrics.collapse import Collapse, Collapsed
from hltm.probe.metrics.correlation import Correlation
from hltm.probe.metrics.correlation_ratio import CorrelationRatio
from hltm.probe.metrics.linear_probe import LinearProbe, LinearReadout
from hltm.probe.metrics.matching import Matching, match_units
from hltm.probe.metrics.mutual_information import MutualInformation
from hltm.probe.metrics.roc_auc import RocAuc
from hltm.probe.metrics.selectivity import Selectivity
from hltm.probe.metrics.specificity import RivalBaseline, Specific, Specificity
from hltm.probe.null import CorrelationNull, MetricNull
from hltm.probe.patching import ablate, patch
from hltm.probe.table import to_frame

# fmt: off
__all__ = [
    "METRICS", "Collapse", "Collapsed", "Correlation", "CorrelationNull", "CorrelationRatio",
    "InterventionEffect", "Layer", "LayerEffect", "Level", "LinearCKA", "LinearProbe",
    "LinearReadout", "Matching", "Metric", "MetricNull", "MutualInformation", "PatchableNetwork",
    "ProbedNetwork", "Replacement", "RivalBaseline", "RocAuc", "Score", "Selectivity", "Specific",
    "Specificity", "StreamingCorrelation", "StreamingHistogram", "StreamingMoments", "TorchNetwork",
    "ablate", "alignment", "best_units", "capture", "heatmap_figure", "intervention_effect",
    "intervention_figure", "match_units", "measure", "over_members", "patch", "patching_figure",
    "probe_layers", "run_replaced", "run_with", "to_frame",
]
# fmt: on
