"""Probes: how well a trained network's units follow the latents, with null and ceiling."""

from hltm.probe.accumulators.correlation import StreamingCorrelation
from hltm.probe.accumulators.histogram import StreamingHistogram
from hltm.probe.accumulators.moments import StreamingMoments
from hltm.probe.best_units import Level, ProbedNetwork, alignment, best_units
from hltm.probe.capture import TorchNetwork, capture
from hltm.probe.heatmap import heatmap_figure
from hltm.probe.intervals import over_members
from hltm.probe.layer import Layer, Score
from hltm.probe.measure import measure, probe_layers, to_frame
from hltm.probe.metric import Metric
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
from hltm.probe.null import StreamingNull
from hltm.probe.shifted_null import ShiftedNull

__all__ = [
    "Collapse",
    "Collapsed",
    "Correlation",
    "CorrelationRatio",
    "Layer",
    "Level",
    "LinearCKA",
    "LinearProbe",
    "LinearReadout",
    "Matching",
    "Metric",
    "MutualInformation",
    "ProbedNetwork",
    "RivalBaseline",
    "RocAuc",
    "Score",
    "Selectivity",
    "ShiftedNull",
    "Specific",
    "Specificity",
    "StreamingCorrelation",
    "StreamingHistogram",
    "StreamingMoments",
    "StreamingNull",
    "TorchNetwork",
    "alignment",
    "best_units",
    "capture",
    "heatmap_figure",
    "match_units",
    "measure",
    "over_members",
    "probe_layers",
    "to_frame",
]
