"""Does gradient descent do what the theorems say, on networks as they are?

Every identity of the theory is evaluated beside what autograd does to the same weight of the same
network: connections and pairs (Theorem 1), covariance operators (Theorems 2 and 3), β-weighted pairs
(any contrastive loss), and the tree's top operator. Data are trees whose every sample is enumerated,
trees that are sampled, and photographed digits under crops, blur and noise. In the controls an
assumption is broken (biases, a normalised output, edges that skip a layer) and the form that rests on
it must miss; the form with the outputs f must not.

Found: 1364 comparisons that should be exact agree to 1.3e-14. 40 updates are estimated from samples,
with standard errors of 2% to 9% of the update, and the prediction is off by 0.6 to 1.4 of them (digits:
0.8 to 1.1); half of it would be off by 6 or more. Without its assumption the operator form is wrong by a
tenth to all of the update.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dualnets import theory
from dualnets.experiments.theorems._digits import digits
from dualnets.experiments.theorems._update_comparisons import (
    HALVED,
    Comparison,
    layers,
    pairs,
    tree_operators,
    updates,
)
from dualnets.lab.experiment import CellResult, Fixed, Grid, ProgressListener
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    TreeSettings,
    check_augmentation,
    setting,
)
from dualnets.lab.stats import Verdict
from hltm.sampling.augment import parse
from hltm.sampling.philox import Stream, uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY = "theorem by theorem: the predicted update, the actual one"
CLAIM = "Gradient descent updates a weight as the theorems predict"
REFERENCE = "arXiv 2010.00578, Theorems 1 to 4 and Section 5"
RESULT_VERSION = 2
EXACT = 1e-9  # largest relative error of an identity, in float64
BROKEN = 1e-3  # smallest error of a form whose assumption is broken
ERRORS = 2.5  # how many standard errors an estimate may be off; right ones are off by about 1
PRECISE = 0.1  # standard error, as a share of the update, from which an estimate cannot tell
COLUMNS = {
    "identity": "str", "form": "str", "exact": "bool", "assumptions": "str", "layer": "float64",
    "member": "int64", "relative_error": "float64", "standard_error": "float64",
    "entries": "int64",
}  # fmt: skip
PAIR = "pair"  # no contrastive loss: r = 1/2 |f(x1) - f(x2)|² itself


@dataclass(frozen=True, kw_only=True)
class Settings(ContrastSettings, NetworkSettings, TreeSettings):
    """Networks, data and a loss whose updates are predicted."""

    data: str = setting(
        "tree",
        "balanced trees, irregular ones (edges skip levels), or scikit-learn's digits",
        choices=("tree", "irregular", "digits"),
    )
    network: str = setting(
        "mlp",
        "a block of units per latent, one block shared by a level's latents, or dense layers",
        choices=("tree", "conv", "mlp"),
    )
    loss: str = setting(
        PAIR,
        "contrastive loss; pair: two samples' distance alone",
        choices=(PAIR, "simple", "triplet", "infonce", "ntxent", "batchwise-nce"),
    )
    depth: int = setting(2, "levels of the tree below its root", low=1, high=16)
    layers: int = setting(3, "of dense networks", low=1, high=16)
    units: int = setting(8, "units per latent, or per layer (mlp)", low=1, high=1 << 16)
    normalize: bool = setting(False, "whether the output is scaled to length 1")
    members: int = setting(4, "networks, each on a tree of its own", low=1, high=1 << 10)
    augment: str = setting("resample-leaves:0.4", "what a view of a tree keeps")
    batches: int = setting(0, "batches of an estimate; 0 for expectations by enumeration", low=0)
    batch: int = setting(32, "samples in each", low=2, high=1 << 16)
    temperature: float = setting(0.2, "of the loss", above=0)
    margin: float = setting(0.2, "of the triplet loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse(self.augment)
        if self.data == "tree":
            check_augmentation(self.augment, self.build_topology())
        if self.data == "digits" and (self.batches < 2 or self.network != "mlp"):
            raise ValueError("digits are sampled (batches of at least 2) and read by network mlp")
        if self.batches == 1:
            raise ValueError("one batch has no standard error: batches must be 0 or at least 2")
        if self.batches == 0 and self.loss in ("ntxent", "batchwise-nce"):
            raise ValueError(f"{self.loss} is a loss of whole batches: batches must be at least 2")


_TREES: dict[str, list[Any]] = {"network": ["tree", "mlp"]}
_SAMPLED: dict[str, list[Any]] = {"batches": [40], "batch": [64]}
# the simple loss's update is estimated, which takes more samples: of digits most, whose update is small
_TREES_ESTIMATED: dict[str, list[Any]] = {"loss": ["simple"], "batches": [40], "batch": [256]}
_DIGITS_ESTIMATED: dict[str, list[Any]] = {
    "data": ["digits"], "loss": ["simple"], "units": [32], "batches": [40], "batch": [4096],
}  # fmt: skip
_ON_SAMPLES = [PAIR, "triplet", "infonce", "ntxent", "batchwise-nce"]
_IN_POPULATION = [PAIR, "simple", "triplet", "infonce"]
_BROKEN: list[dict[str, Any]] = [{"bias": Fixed(True)}, {"normalize": Fixed(True)}]
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {**_TREES, "loss": [PAIR, "simple", "infonce"], "members": [2]},
        {"data": ["irregular"], **_TREES, "loss": ["simple"], "members": [2]},
        *({**broken, "loss": ["simple"], "members": [2]} for broken in _BROKEN),
        {"data": ["digits"], "loss": ["simple"], "batches": [8], "members": [2]},
    ],
    "default": [
        {**_TREES, "loss": _IN_POPULATION},
        {"network": ["conv"], "loss": ["simple", "infonce"]},
        {"depth": [3], "augment": ["keep-root"], **_TREES, "loss": [PAIR, "simple"]},
        {"data": ["irregular"], **_TREES, "loss": _IN_POPULATION},
        *({**_TREES, **broken, "loss": [PAIR, "simple", "infonce"]} for broken in _BROKEN),
        {"depth": [4], **_TREES, "loss": _ON_SAMPLES, **_SAMPLED},
        {"depth": [4], **_TREES, **_TREES_ESTIMATED},
        {"data": ["digits"], "loss": _ON_SAMPLES, **_SAMPLED},
        _DIGITS_ESTIMATED,
    ],
    "paper": [
        {**_TREES, "loss": _IN_POPULATION, "members": [16]},
        {**_TREES, "loss": ["infonce"], "negatives": [2], "members": [4]},
        {"network": ["conv"], "loss": ["simple", "infonce"], "members": [16]},
        {"depth": [3], "augment": ["keep-root", "resample-leaves:0.4"], **_TREES,
         "loss": [PAIR, "simple"], "members": [16]},
        {"depth": [3], "augment": ["keep-root"], **_TREES, "loss": ["triplet", "infonce"],
         "members": [2]},
        {"data": ["irregular"], "depth": [3, 5], **_TREES, "loss": _IN_POPULATION, "members": [16]},
        *({**_TREES, **broken, "loss": [PAIR, "simple", "infonce"], "members": [16]}
          for broken in _BROKEN),
        {"depth": [5], **_TREES, "units": [8, 32], "loss": _ON_SAMPLES, "batches": [100],
         "batch": [128], "members": [16]},
        {"depth": [5], **_TREES, **_TREES_ESTIMATED, "units": [8, 32], "batches": [100],
         "members": [16]},
        {"data": ["digits"], "units": [8, 64], "loss": _ON_SAMPLES, "batches": [100], "batch": [128],
         "members": [8]},
        {**_DIGITS_ESTIMATED, "units": [32, 64], "batches": [80], "members": [8]},
    ],
}  # fmt: skip
RULE = (
    f"Holds if every identity that is exact misses autograd by less than {EXACT:g} of the update, in "
    "float64 (for a pair's update the connection is an array, which backpropagation does not make); "
    "every update that is estimated misses the actual one, measured on other samples, by less than "
    f"{ERRORS:g} standard errors of the difference, these being below {PRECISE:g} of the update (all as "
    "norms over the weight: right predictions are off by about 1); half of every estimated prediction "
    f"misses by more than {ERRORS:g} standard errors; and every form whose assumption is broken misses by "
    f"more than {BROKEN:g} in the median over its networks and layers (where a pattern of active units "
    "happens to be the same for all samples, a bias is a constant there and does no harm). Fails if an "
    "exact identity or an estimate misses by more. Open if the comparison could not tell: standard "
    "errors are larger, a control did not miss, or none was run."
)


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Compare every identity that fits the settings with autograd, layer by layer."""
    networks, data, notes = _setting_up(settings, device)
    rows: list[dict[str, Any]] = []
    for first_member, network in networks:
        network.double()
        for layer, name in layers(network):
            found = (
                pairs(settings, network, data, name)
                if settings.loss == PAIR
                else updates(settings, network, data, name)
            )
            rows += _tidy(found, layer, first_member, settings)
            progress.updated(1)
        if settings.loss == PAIR:
            rows += _tidy(tree_operators(settings, network, data), None, first_member, settings)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    # columns without rows have no types of their own
    return CellResult(table if rows else table.astype(COLUMNS), notes=notes)


def _tidy(
    found: Iterator[Comparison], layer: int | None, first_member: int, settings: Settings
) -> list[dict[str, Any]]:
    """One row per comparison and member."""
    rows = []
    for identity, form, exact, met, predicted, actual, error in found:
        ensemble = [part if part.ndim == 2 else part[None] for part in (predicted, actual)]
        errors = None if error is None else (error if error.ndim == 2 else error[None])
        for m, (one, other) in enumerate(zip(*ensemble, strict=True)):
            length = float(other.norm())
            if length == 0:  # a network whose units are all dead there has nothing to predict
                continue
            rows.append(
                {
                    "identity": identity,
                    "form": form,
                    "exact": exact,
                    "assumptions": "met" if met else "broken",
                    "layer": np.nan if layer is None else layer,
                    "member": first_member + m,
                    "relative_error": float((one - other).norm()) / length,
                    "standard_error": 0.0 if errors is None else float(errors[m].norm()) / length,
                    "entries": len(other),
                }
            )
    return rows


# networks and data


def _setting_up(
    settings: Settings, device: torch.device
) -> tuple[list[tuple[int, nn.Module]], Any, list[str]]:
    """Networks with the number of their first member, data, and notes."""
    if settings.data == "digits":
        data = digits()
        if data is None:
            return [], None, ["scikit-learn is not installed: the rows of digits were left out"]
        networks: list[tuple[int, nn.Module]] = [
            (m, dense(64, settings, m).to(device)) for m in range(settings.members)
        ]
        return networks, data, []
    if settings.data == "tree":
        trees = settings.build_trees()
    else:
        from hltm.families.caterpillar import caterpillar

        trees = caterpillar(depth=settings.depth + 1, members=settings.members, seed=settings.seed)
    network: nn.Module
    if settings.network == "mlp":
        from dualnets.networks.mlp import mlp

        network = mlp(
            trees,
            units=settings.units,
            layers=settings.layers,
            bias=settings.bias,
            normalize=settings.normalize,
            seed=settings.seed,
            device=device,
        )
    else:
        network = settings.build_network(trees, settings.seed, device)
    return [(0, network)], theory.TreeViews(trees, parse(settings.augment)), []


def dense(inputs: int, settings: Settings, member: int) -> nn.Sequential:
    """A dense network as a plain torch module, with weights from our own addresses."""
    widths = [inputs] + [settings.units] * settings.layers
    made: list[nn.Module] = [nn.Flatten()]
    for layer in range(settings.layers):
        linear = nn.Linear(widths[layer], widths[layer + 1], bias=settings.bias)
        for part, parameter in enumerate(linear.parameters()):
            numbers = uniform(
                parameter.numel(), seed=settings.seed, stream=Stream.INIT, members=(member,),
                node=layer + 1, view=part,
            )  # fmt: skip
            bound = widths[layer] ** -0.5
            parameter.data = ((2 * numbers[0] - 1) * bound).float().view(parameter.shape)
        made += [linear, nn.ReLU()]
    return nn.Sequential(*made[:-1])


# what the table says


def headline(table: pd.DataFrame) -> str:
    """The largest error of what is exact."""
    if table.empty:
        return "left out"
    exact = table[table["exact"]]
    part = exact if len(exact) else table
    return f"{len(table)} comparisons, largest error {part['relative_error'].max():.0e}"


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per identity and form: errors over data, networks, losses and layers."""
    found = []
    marked = table.assign(broken=_broken(table), estimated=table["standard_error"] > 0)
    for (identity, form, broken, estimated), part in marked.groupby(
        ["identity", "form", "broken", "estimated"], sort=False
    ):
        off = part["relative_error"] / part["standard_error"].where(part["standard_error"] > 0)
        kinds = [kind for kind in ("tree", "irregular", "digits") if kind in set(part["data"])]
        found.append(
            {
                "identity": identity + (", estimated" if estimated else ""),
                "form": form,
                "data": broken or ", ".join(kinds),
                "median": part["relative_error"].median(),
                "largest": part["relative_error"].max(),
                "/ s.e.": off.max(),
                "n": len(part),
            }
        )
    names = list(dict.fromkeys(table["identity"]))
    found.sort(key=lambda row: names.index(row["identity"].removesuffix(", estimated")))
    made = pd.DataFrame(found or [{"identity": "nothing was compared"}])
    made.attrs["caption"] = (
        "relative errors |predicted - actual| / |actual| of whole weights, float64, over n networks, "
        "losses and layers"
    )
    return made


def _broken(table: pd.DataFrame) -> pd.Series:
    """Which assumption is broken, in a word; empty where all are met."""
    why = np.select(
        [table["form"] == HALVED, table["bias"], table["normalize"]],
        ["prediction halved", "biases", "normalised"],
        "skips a layer",
    )
    return pd.Series(np.where(table["assumptions"] == "broken", why, ""), index=table.index)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE."""
    exact = table[table["exact"]]
    estimated = table[~table["exact"] & (table["assumptions"] == "met")]
    halved = table[table["form"] == HALVED]
    broken = table[(table["assumptions"] == "broken") & (table["form"] != HALVED)]
    wrong = exact[~(exact["relative_error"] < EXACT)]
    near = estimated["relative_error"] < ERRORS * estimated["standard_error"]
    # both forms of a prediction are one estimate: they differ by rounding
    near = near.groupby([estimated[name] for name in ("cell", "layer", "member")]).all()
    vague = estimated[~(estimated["standard_error"] < PRECISE) & (estimated["form"] == "outputs")]
    caught = halved[halved["relative_error"] > ERRORS * halved["standard_error"]]
    kinds = ["identity", "form", _broken(broken).rename("why")]
    medians = broken.groupby(kinds)["relative_error"].median()
    blind = medians[~(medians > BROKEN)]
    largest = float(exact["relative_error"].max()) if len(exact) else None
    text = (
        f"{len(exact) - len(wrong)} of {len(exact)} exact comparisons agree to {EXACT:g}, "
        f"{near.sum()} of {len(near)} estimates lie within {ERRORS:g} standard "
        f"errors, {len(caught)} of {len(halved)} halved predictions do not, "
        f"{len(medians) - len(blind)} of {len(medians)} forms with a broken assumption miss"
    )
    if len(vague):
        text += (
            f"; {len(vague)} estimates have standard errors of {PRECISE:g} of the update or more"
        )
    if len(wrong) or not near.all():
        outcome: Any = "fails"
    elif (
        min(len(broken), len(exact), len(halved)) == 0
        or len(blind)
        or len(vague)
        or len(caught) < len(halved)
    ):
        outcome = "open"
    else:
        outcome = "holds"
    details = [
        {
            "identity": str(identity),
            "form": str(form),
            "assumptions": str(met),
            "exact": bool(is_exact),
            "largest_error": float(part["relative_error"].max()),
            "n": len(part),
        }
        for (identity, form, met, is_exact), part in table.groupby(
            ["identity", "form", "assumptions", "exact"], sort=False
        )
    ]
    return Verdict(
        claim=CLAIM,
        verdict=outcome,
        rule=RULE,
        reason=text,
        effect="largest relative error of an exact identity",
        effect_value=largest,
        interval=None,
        n=len(exact),
        details=details,
        of="comparisons",
    )


def plot(table: pd.DataFrame) -> Figure:
    """Every comparison's error, by identity; and estimates against their standard errors."""
    from dualnets.experiments.theorems._update_figure import draw

    return draw(table, EXACT, BROKEN, ERRORS)
