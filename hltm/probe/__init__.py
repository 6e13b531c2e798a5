"""Probes: how well a trained network's units follow the latents, with null and ceiling."""

from hltm.probe.best_unit import Level, Network, alignment, score
from hltm.probe.cka import LinearCKA
from hltm.probe.collapse import Collapse, Collapsed
from hltm.probe.correlation import Correlation
from hltm.probe.correlation_ratio import CorrelationRatio
from hltm.probe.heatmap import heatmap_figure
from hltm.probe.histogram import StreamingHistogram
from hltm.probe.intervals import over_members
from hltm.probe.layer import Layer, Score
from hltm.probe.linear_probe import LinearProbe, Readout
from hltm.probe.matching import Matching, match_units
from hltm.probe.metric import Metric
from hltm.probe.moments import StreamingCorrelation
from hltm.probe.mutual_information import MutualInformation
from hltm.probe.null import StreamingNull
from hltm.probe.roc_auc import RocAuc
from hltm.probe.second_moments import StreamingMoments
from hltm.probe.selectivity import Selectivity
from hltm.probe.shifted_null import ShiftedNull
from hltm.probe.specificity import Relay, Specific, Specificity
from hltm.probe.table import examine, measure, tabulate
from hltm.probe.torch_module import TorchNetwork, capture

__all__ = [
    "Collapse",
    "Collapsed",
    "Correlation",
    "CorrelationRatio",
    "Layer",
    "Level",
    "LinearCKA",
    "LinearProbe",
    "Matching",
    "Metric",
    "MutualInformation",
    "Network",
    "Readout",
    "Relay",
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
    "capture",
    "examine",
    "heatmap_figure",
    "match_units",
    "measure",
    "over_members",
    "score",
    "tabulate",
]
