"""Probes: how well a trained network's units follow the latents, with null and ceiling."""

from hltm.probe.best_unit import Level, Network, alignment, score
from hltm.probe.moments import StreamingCorrelation
from hltm.probe.null import StreamingNull
from hltm.probe.torch_module import TorchNetwork, capture

__all__ = [
    "Level",
    "Network",
    "StreamingCorrelation",
    "StreamingNull",
    "TorchNetwork",
    "alignment",
    "capture",
    "score",
]
