"""Probes: how well a network's units follow the latents, beside null and ceiling.

- `sources/`: whatever is probed, as batches of activations
- `accumulators/`: streaming sums that metrics are computed from
- `metrics/`: one file per metric, and `METRICS`, which finds them
- `metric`: what every metric of units and latents has in common; `metric_kinds`: what a user may give as
  metrics; `function_metric`: a function as one
- `null`: what meaningless units score; `information_null`: the same for mutual information
- `batches`: activations and the rows that they were computed on
- `targets`: what the units of a layer are compared with
- `score`: the metrics of one layer's units with their targets, beside their nulls
- `layer`: all that is measured of one layer; `details`: what that is besides its metrics
- `measure`: all layers of a network, or activations as arrays, in one pass
- `table`: the measurements of layers as one tidy table
- `intervals`: means over the members of an ensemble, with bootstrap intervals
- `heatmap`: a figure of units by latents
- `positions`: which ancestor of its leaf the vector at a position follows; `visible`: what it can know
- `beliefs`: how much of the exact posterior is linear in the activations
- `training`: learning curves of a network that trains, which is not disturbed
- `causal/`: what units make of interventions, and whether a network uses them
- `dictionaries/`: a sparse dictionary of activations, and what its features are for
- `tree_recovery/`: which tree a network learned, and how far it is from the truth
"""

from hltm.probe.accumulators.correlation import StreamingCorrelation
from hltm.probe.accumulators.histogram import StreamingHistogram
from hltm.probe.accumulators.moments import StreamingMoments
from hltm.probe.beliefs import belief_geometry
from hltm.probe.causal.figures import intervention_figure, patching_figure
from hltm.probe.causal.intervention import InterventionEffect, LayerEffect, intervention_effect
from hltm.probe.causal.patching import ablate, patch
from hltm.probe.causal.replacing import PatchableNetwork, Replacement, run_replaced, run_with
from hltm.probe.dictionaries.dictionary import Dictionary, dictionary
from hltm.probe.dictionaries.dictionary_scores import baselines, dictionary_scores
from hltm.probe.heatmap import heatmap_figure
from hltm.probe.intervals import over_members
from hltm.probe.layer import Layer
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
from hltm.probe.metrics.partial_ceiling import partial_ceiling
from hltm.probe.metrics.roc_auc import RocAuc
from hltm.probe.metrics.selectivity import Selectivity
from hltm.probe.metrics.specificity import RivalBaseline, Specific, Specificity
from hltm.probe.null import MetricNull, NullSet
from hltm.probe.positions import measure_positions
from hltm.probe.score import Score
from hltm.probe.sources.capture import capture
from hltm.probe.sources.torch_network import TorchNetwork
from hltm.probe.table import to_frame
from hltm.probe.training import LearningCurves
from hltm.probe.tree_recovery.recover import recover_table, recover_tree
from hltm.probe.tree_recovery.recovered import Recovered
from hltm.probe.tree_recovery.splits import RobinsonFoulds, robinson_foulds

# fmt: off
__all__ = [
    "METRICS",
    "Collapse",
    "Collapsed",
    "Correlation",
    "CorrelationRatio",
    "Dictionary",
    "InterventionEffect",
    "Layer",
    "LayerEffect",
    "LearningCurves",
    "LinearCKA",
    "LinearProbe",
    "LinearReadout",
    "Matching",
    "Metric",
    "MetricNull",
    "MutualInformation",
    "NullSet",
    "PatchableNetwork",
    "Recovered",
    "Replacement",
    "RivalBaseline",
    "RobinsonFoulds",
    "RocAuc",
    "Score",
    "Selectivity",
    "Specific",
    "Specificity",
    "StreamingCorrelation",
    "StreamingHistogram",
    "StreamingMoments",
    "TorchNetwork",
    "ablate",
    "baselines",
    "belief_geometry",
    "capture",
    "dictionary",
    "dictionary_scores",
    "heatmap_figure",
    "intervention_effect",
    "intervention_figure",
    "match_units",
    "measure",
    "measure_positions",
    "over_members",
    "partial_ceiling",
    "patch",
    "patching_figure",
    "probe_layers",
    "recover_table",
    "recover_tree",
    "robinson_foulds",
    "run_replaced",
    "run_with",
    "to_frame",
]
# fmt: on
