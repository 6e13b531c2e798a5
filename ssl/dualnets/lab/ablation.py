"""Ablations, declared: named variants of one setting, one cell each, judged and drawn together.

A variant is a handful of settings that differ. All variants train on the same trees and read the same
samples, so that they can be compared tree by tree. A declaration is data: the claims with their rules, the
variants and what they have in common, the scales and the figure.

    EXPERIMENT = ablation(
        __name__,
        claims=(Claim("…", "…", all_emerge("width", "widths")),), summary="…",
        variants={"narrow": {"units": 2}, "wide": {"units": 20}},
        common={"members": 12, "steps": 1000},
        scales={"smoke": {"depth": 3, "steps": 150}, "default": {}, "paper": {"members": 30}},
    )

Cells are trained by `ablation_cell.py`, tables are read by `variants.py`; both are imported when called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from dualnets.lab.experiment import Experiment, Fixed, Grid
from dualnets.lab.fields import LATER
from dualnets.lab.method_settings import MethodSettings
from dualnets.lab.rules import Claim, Deferred
from dualnets.lab.settings import (
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    check_augment_setting,
    setting,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from dualnets.networks.block_network import BlockNetwork
    from hltm.probe.targets import Targets

Variants = Mapping[str, Mapping[str, Any]]  # name -> the settings that are its own

SUMMARY_TABLE = Deferred("dualnets.lab.variants:summary_table")
FIGURE = Deferred("dualnets.lab.report.ablation_figure:draw")


def sweep_figure(axis: str, label: str, **options: Any) -> Deferred:
    """The figure of a sweep over the setting `axis`; options are those of `lab/report/sweep_figure.py`."""
    options = {"axis": axis, "label": label, **options}
    return Deferred("dualnets.lab.report.sweep_figure:draw", options)


@dataclass(frozen=True, kw_only=True)
class NamedSettings(TrainSettings, MethodSettings):
    """One variant: a method and a budget under a name; a subclass adds networks and data."""

    variant: str = setting("given", "name of what is different")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()

    def check_training(self, source: Any, network: Any) -> None:
        """Start to train a network, which checks everything, and stop there.

        Raises:
            ValueError: what the method, the network or the data cannot do, in the flags' names.
        """
        from dualnets.training.trajectory import trajectory

        method = self.build_method()
        try:
            trajectory(network, method, source, **self.training(), seed=cast("Any", self).seed)
        except ValueError as error:
            raise ValueError(self.by_flags(str(error))) from None


@dataclass(frozen=True, kw_only=True)
class VariantSettings(NamedSettings, ProbeSettings, NetworkSettings):
    """One variant: a network on each tree, a method, a budget; a subclass adds the trees.

    Raises:
        ValueError: also where the method, its data and the network do not fit each other.
    """

    one_hot: bool = setting(
        False, "whether leaves of two states are one-hot, so that they can be missing", stored=LATER
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_augment_setting(self.augment, cast("TreeSettings", self).build_topology())

    def _build(self, make: Any, *given: Any) -> BlockNetwork:
        return super()._build(partial(make, one_hot=self.one_hot), *given)

    def build_probe(self) -> tuple[str, Targets | None]:
        """The metric of units, one of `ALIGNMENT`, and what they are compared with; None: the latents."""
        return "correlation", None


@dataclass(frozen=True, kw_only=True)
class AblationSettings(VariantSettings, TreeSettings):
    """One variant on symmetric binary trees."""

    def check(self) -> None:
        """Start to train one network on its tree, as `check_training` does."""
        import torch

        trees = self.build_trees()[:1]
        self.check_training(trees, self.build_network(trees, self.seed, torch.device("cpu")))

    def build_teacher(self) -> Any:
        """A network like the student's, with `teacher_units` and weights of its own."""
        import torch

        as_teacher = replace(self, method="simclr", units=self.teacher_units)
        seed = self.seed + self.teacher_seed
        return as_teacher.build_network(self.build_trees(), seed, torch.device("cpu"))


@dataclass(frozen=True)
class Sweep:
    """Learning rates that were tried for every variant; each variant is run with its best.

    Losses, targets and widths carry different factors, so that one rate for all would compare the rates.

    Attributes:
        command: the command that measured it: other trees, half the updates.
        rates: the learning rates, growing.
        gap_closed: variant -> gap closed on levels >= 2, rate by rate; NaN where the loss or a gradient
            of some network was not finite.
    """

    command: str
    rates: tuple[float, ...]
    gap_closed: Mapping[str, tuple[float, ...]]

    def best(self, variant: str) -> float:
        """The rate that closed most of the gap; of equal ones the lowest.

        Example:
            >>> Sweep("hltm run …", (0.1, 0.3, 1.0), {"wide": (0.5, 0.7, 0.7)}).best("wide")
            0.3
        """
        found = zip(self.gap_closed[variant], self.rates, strict=True)
        # NaN is not equal to itself; the first of equal maxima is the lowest rate
        return max((pair for pair in found if pair[0] == pair[0]), key=lambda pair: pair[0])[1]


@dataclass(frozen=True)
class Ablation(Experiment):
    """An experiment whose cells are named variants.

    Attributes:
        table: makes the short table of a run.
        figure: draws the figure of a run.
        sweep: the learning rates that were tried, if any were.
    """

    table: Deferred
    figure: Deferred
    sweep: Sweep | None

    def summary_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """One row per variant."""
        return cast("pd.DataFrame", self.table(table))

    @property
    def figure_module(self) -> str:
        """The module that draws the figure; its docstring says what is on it."""
        return self.figure.function.partition(":")[0]

    def _draw(self, table: pd.DataFrame) -> Figure:
        return cast("Figure", self.figure(table))


def ablation(
    module: str,
    *,
    claims: tuple[Claim, ...],
    summary: str,
    variants: Variants,
    common: Mapping[str, Any],
    scales: Mapping[str, Mapping[str, Any]],
    variants_at: Mapping[str, Variants] | None = None,
    sweep: Sweep | None = None,
    settings: type[NamedSettings] = AblationSettings,
    table: Deferred = SUMMARY_TABLE,
    figure: Deferred = FIGURE,
    code: str = "dualnets.lab.ablation_cell",
    result_version: int = 2,
) -> Ablation:
    """Declare an ablation.

    Args:
        module: the declaring file's `__name__`; its last part is the experiment's name.
        claims, summary, result_version: as in `Experiment`.
        variants: the variants, in the order of tables and figures.
        common: settings that all variants share; see `variant_grids`.
        scales: scale -> what differs there from `common`.
        variants_at: scale -> its variants, where they are not `variants`.
        sweep: the tuned learning rates of variants that have none of their own.
        settings: one cell's settings.
        table, figure: make the short table and the figure from the table of a run.
        code: a module whose `run_cell` trains one cell, for experiments that measure more.
    """

    def tuned(chosen: Variants) -> Variants:
        if sweep is None:
            return chosen
        return {
            name: {"lr": sweep.best(name), **own} if "lr" not in own else own
            for name, own in chosen.items()
        }

    own = variants_at or {}
    return Ablation(
        module=module,
        claims=claims,
        summary=summary,
        result_version=result_version,
        Settings=settings,
        grids={
            scale: variant_grids(
                {**common, **changes}, tuned(own.get(scale, variants)), settings=settings
            )
            for scale, changes in scales.items()
        },
        code=code,
        table=table,
        figure=figure,
        sweep=sweep,
    )


def variant_grids(
    common: Mapping[str, Any],
    variants: Variants,
    free: Sequence[str] = ("lr",),
    settings: type[NamedSettings] = AblationSettings,
) -> list[Grid]:
    """One grid per variant: whatever distinguishes variants is fixed in all of them.

    The name of a variant describes the fields that it changes, so a flag that set such a field in all of
    them would make the names false. Every variant therefore fixes it, those that do not change it at its
    common value, or else at its default. What is common and no variant changes is a value or a list of
    values, and free; what is common and `Fixed` stays fixed.

    Args:
        common: the settings of all variants.
        variants: name -> the settings that are its own.
        free: fields that a flag may replace although variants have values of their own: the learning
            rates, so that the command that tuned them can be given again.
        settings: whose defaults count.

    Raises:
        ValueError: several common values of a field that variants change: each would need a name.

    Example:
        >>> variant_grids({"steps": 10}, {"usual": {}, "wide": {"units": 20}})[0]
        {'steps': [10], 'variant': Fixed(value='usual'), 'units': Fixed(value=10)}
    """
    axes = {k: v if isinstance(v, Fixed) else _values(v) for k, v in common.items()}
    changed = dict.fromkeys(k for own in variants.values() for k in own if k not in free)
    usual = {item.name: item.default for item in fields(settings)}
    for name in changed:
        given = axes.pop(name, None)
        if isinstance(given, Fixed):
            usual[name] = given.value
        elif given is not None:
            if len(given) > 1:
                raise ValueError(
                    f"{name} makes variants and can have one common value only, got {given}"
                )
            usual[name] = given[0]
    return [
        {
            **axes,
            "variant": Fixed(name),
            **{k: Fixed(own.get(k, usual[k])) for k in changed},
            **{k: [own[k]] for k in own if k in free},
        }
        for name, own in variants.items()
    ]


def _values(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]
