"""Learning curves: a network is probed during its own training, which stays what it would have been."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import nn

from hltm._integers import as_integer
from hltm.inference.ceiling import Leaves
from hltm.model.nodes import Node
from hltm.probe.measure import measure
from hltm.probe.metric_kinds import Chosen
from hltm.probe.null import LAGS
from hltm.probe.sources.encodings import Encode
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import is_network
from hltm.probe.sources.torch_network import TorchNetwork
from hltm.probe.table import KEY, gap_closed
from hltm.probe.targets import Targets
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = [
    "member", "step", "layer", "level", "node", "metric", "value", "null", "initial", "ceiling",
    "gap_closed", "n",
]  # fmt: skip
COLUMNS_OF_PANELS = 4


class LearningCurves:
    """Probes a network while it trains: how well each latent is followed, step by step.

    Every time, the same rows are probed, from a stream that training never reads. Parameters, buffers,
    the modes of all parts and the random states of Python, numpy and torch are afterwards what they
    were, so training is the same with and without it.

    It is used in three ways: call `record(step)` where you like; as a context, `with curves:`, call
    `step()` after each step of training, or let `watch(optimizer)` do so; or give Lightning's trainer
    `curves.callback()`.

    Args:
        network: a torch module, a `TorchNetwork`, or anything with `activations(leaves)`.
        tree: the tree of the latents, as in `measure`.
        layers: of a torch module, as in `TorchNetwork`; by default all parts without parts.
        encode: of a torch module, as in `TorchNetwork`: the same as in training; by default `bits`.
        every: steps between two measurements.
        samples, seed: how many rows, and their seed.
        metrics, nodes, leaves, lags, targets, batch_axis: as `measure`; details are left out.

    Raises:
        TypeError: `every`, samples or a seed that are no integers.
        ValueError: `every` below 1, fewer than 2 samples, a seed outside 64 bits, layers of a
            network that names its own, or errors of `measure`.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> curves = LearningCurves(model, tree, layers=["0"], every=2, samples=500, seed=0, lags=20)
        >>> with curves.watch(optimizer):
        ...     for step in range(5):
        ...         draw = tree.sample(32, seed=1, start=32 * step)
        ...         optimizer.zero_grad()
        ...         loss = (model(draw.leaves.float())[:, 0] - draw.root).square().mean()
        ...         _ = loss.backward(), optimizer.step()
        >>> table = curves.table()
        >>> table["step"].unique().tolist(), table["node"][table["metric"] == "correlation"].nunique()
        ([0, 2, 4, 5], 3)
        >>> curves.figure().savefig("/dev/null", format="png")
    """

    def __init__(
        self,
        network: Any,
        tree: LatentTree,
        *,
        layers: Sequence[str] | Mapping[str, int | str] | None = None,
        encode: Encode | None = None,
        every: int = 100,
        samples: int = 2048,
        seed: int,
        metrics: Chosen | None = None,
        nodes: Sequence[Node] | None = None,
        leaves: Leaves | None = None,
        lags: int = LAGS,
        targets: Targets | None = None,
        batch_axis: BatchAxis | None = None,
    ) -> None:
        every, samples = as_integer("every", every, 1), as_integer("samples", samples, 2)
        if isinstance(network, nn.Module) and not is_network(network):
            network = TorchNetwork(network, layers, encode="bits" if encode is None else encode)
        elif layers is not None or encode is not None:
            name, given = ("layers", layers) if encode is None else ("encode", encode)
            raise ValueError(
                f"a {type(network).__name__} has its own layers and encode, got {name}={given!r:.80}"
            )
        self.network, self.tree, self.every = network, tree, every
        self.options: dict[str, Any] = {
            "samples": samples, "seed": check_seed(seed), "metrics": metrics, "nodes": nodes,
            "leaves": leaves, "lags": lags, "targets": targets, "batch_axis": batch_axis,
            "details": False,
        }  # fmt: skip
        self.steps = 0  # that `step` has counted
        self._tables: dict[float, pd.DataFrame] = {}
        self._handles: list[Any] = []

    def __repr__(self) -> str:
        steps = list(self._tables)
        shown = f"steps {steps[0]} to {steps[-1]}" if steps else "nothing yet"
        return f"LearningCurves({shown}, {len(steps)} recorded; table() and figure() show them)"

    def record(self, step: float) -> None:
        """Measure now, as step `step`.

        Raises:
            ValueError: a step below 0 or not above those recorded, or errors of `measure`.
            TypeError: a step that is no finite number.
        """
        last = max(self._tables, default=-1)
        given: Any = step
        if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given):
            raise TypeError(f"step must be a finite number, got {step!r:.60}")
        if not self._tables and step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        if step <= last:
            raise ValueError(f"step {last} is recorded, expected a later one, got {step}")
        self._tables[step] = measure(self.network, self.tree, **self.options)

    def step(self) -> None:
        """Count a step of training, and measure where it is a multiple of `every`."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.record(self.steps)

    def watch(self, optimizer: torch.optim.Optimizer) -> Self:
        """Count the steps of an optimiser, until the context is left; returns itself.

        Raises:
            TypeError: no optimiser of torch.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"watch an optimizer of torch, or call step() yourself, got a {type(optimizer).__name__}"
            )
        hook = optimizer.register_step_post_hook(lambda *_: self.step())
        self._handles.append(hook)
        return self

    def __enter__(self) -> Self:
        if not self._tables:
            self.record(self.steps)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        if kind is None and self.steps not in self._tables:
            self.record(self.steps)

    def callback(self) -> Any:
        """A callback for the trainer of Lightning, which the caller has imported.

        It measures before training, after every `every` batches, and at the end.

        Raises:
            RuntimeError: neither `lightning` nor `pytorch_lightning` is imported.
        """
        loaded = (sys.modules.get(name) for name in ("lightning.pytorch", "pytorch_lightning"))
        lightning = next(filter(None, loaded), None)
        if lightning is None:
            raise RuntimeError("import lightning or pytorch_lightning before callback()")

        def start(*_: Any) -> None:
            self.__enter__()

        def batch_end(*_: Any, **named: Any) -> None:
            self.step()

        def end(*_: Any) -> None:
            self.__exit__(None)

        methods = {"on_train_start": start, "on_train_batch_end": batch_end, "on_train_end": end}
        return type("LearningCurvesCallback", (lightning.Callback,), methods)()

    def table(self) -> pd.DataFrame:
        """All measurements as one tidy table.

        Returns:
            One row per member, step, layer, node and metric: member, step, layer, level, node, metric,
            value, null, initial, ceiling, gap_closed, n. `initial` is the value at the first step
            that was recorded, and gap_closed = (value - initial) / (ceiling - initial).

        Raises:
            ValueError: nothing is recorded.
        """
        import pandas as pd

        if not self._tables:
            raise ValueError("nothing is recorded; call record(step), or use it as a context")
        parts = [part.assign(step=step) for step, part in self._tables.items()]
        first = parts[0].set_index(KEY)["value"].rename("initial")
        found = pd.concat(parts, ignore_index=True).drop(columns=["initial", "gap_closed"])
        found = found.join(first, on=KEY)
        found["gap_closed"] = gap_closed(found)
        return found[COLUMNS]

    def figure(
        self, metric: str | None = None, *, by: Literal["layer", "level"] = "layer"
    ) -> Figure:
        """A metric against steps, with its null (dotted) and ceiling (dashed): means over latents.

        Args:
            metric: of the table; by default the first one.
            by: whether there is a panel for each `layer`, with a line for each level, or the reverse.
                Several members have a thin line each beside their mean.

        Raises:
            ValueError: another `by`, or a metric of no latents.
        """
        if by not in ("layer", "level"):
            raise ValueError(f"by must be 'layer' or 'level', got {by!r}")
        table = self.table()
        name = table["metric"].iloc[0] if metric is None else metric
        shown = table[(table["metric"] == name) & (table["node"] != "")]
        if shown.empty:
            names = ", ".join(table["metric"][table["node"] != ""].unique())
            raise ValueError(f"no latent has the metric {name!r}, expected one of {names}")

        from hltm._figures import Figure

        line = "level" if by == "layer" else "layer"
        panels = list(shown.groupby(by, sort=False))
        columns = min(len(panels), COLUMNS_OF_PANELS)
        lines = -(-len(panels) // columns)
        size = (3.6 * columns + 0.8, 3.2 * lines)
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for spare in axes.flat[len(panels) :]:
            spare.remove()
        for panel, (label, part) in zip(axes.flat, panels, strict=False):
            for i, (key, own) in enumerate(part.groupby(line, sort=True)):
                _curve(panel, own, f"{line} {key}", f"C{i % 10}")
            panel.set_title(f"{by} {label}".replace("$", r"\$"), fontsize=9, loc="left")
            panel.set_xlabel("step", fontsize=9)
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=8)
            for style, text in ((":", "null"), ("--", "ceiling")):
                panel.plot([], [], color="gray", linewidth=0.9, linestyle=style, label=text)
            panel.legend(fontsize=7, frameon=False)
        for panel in axes[:, 0]:
            panel.set_ylabel(name.replace("_", " ").replace("$", r"\$"), fontsize=9)
        return figure


def _curve(axes: Axes, rows: pd.DataFrame, label: str, color: str) -> None:
    """The mean of some rows at every step, that of each member, and those of null and ceiling."""
    means = rows.groupby("step")[["value", "null", "ceiling"]].mean()
    axes.plot(means["value"], color=color, linewidth=1.6, label=label.replace("$", r"\$"))
    axes.plot(means["null"], color=color, linewidth=0.9, linestyle=":")
    axes.plot(means["ceiling"], color=color, linewidth=0.9, linestyle="--")
    members = rows["member"].unique()
    for member in members if len(members) > 1 else ():
        own = rows[rows["member"] == member].groupby("step")["value"].mean()
        axes.plot(own, color=color, linewidth=0.5, alpha=0.4)
