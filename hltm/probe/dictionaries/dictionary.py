"""A sparse dictionary of a layer's activations: a top-k autoencoder for each of S members, trained at once.

Activations a `(U,)` are written as a sum of few of F directions, each of length 1 (`d_i`, rows of the
decoder), with coefficients f_i that are never negative:

    f = TopK(ReLU(E (a - b) + e)),   a' = b + sum_i f_i d_i

(Makhzani and Frey 2013; Gao et al. 2024, arXiv 2406.04093). `active` features are kept in every row or,
with `selection="batch"`, on average over the rows of a batch, and then wherever they exceed a threshold
(Bussmann, Leask and Nanda 2024, arXiv 2412.06410).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm._results import by_content
from hltm.probe.accumulators.checks import as_numbers, check_finite
from hltm.probe.batches import Label
from hltm.probe.dictionaries.autoencoder import Autoencoder, best_of, largest, random_directions
from hltm.probe.dictionaries.layer_rows import LayerRows
from hltm.probe.sources.containers import as_array, as_floats
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed, members_of
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

Selection = Literal["row", "batch"]
STEPS, RESTARTS = 2000, 4
FAR = 3.0  # a mean of so many standard deviations is an offset, not part of the code


@by_content
class Dictionary(NamedTuple):
    """A dictionary of F features for activations of U units, from `dictionary`.

    S stands in front for stacked sources.

    Attributes:
        decoder: `(…, F, U)` float32 directions of length 1.
        encoder: `(…, F, U)` and its bias `(…, F)`, of activations without `bias`, divided by `scale`.
        encoder_bias: see encoder.
        bias: `(…, U)` float64, what is written without features.
        scale: `(…,)` float64, standard deviation of the activations around their mean, as a length.
        threshold: `(…,)` float32, what a feature must exceed to be on; 0 with `selection="row"`.
        on: `(…, F)` float64, the share of held-out rows in which a feature is on; 0 for a dead one.
        explained: `(…,)` float64, share of the variance of held-out rows that the dictionary explains.
        null: `(…,)` the same of random directions with as many active features and the best scale.
        ceiling: 1.
        active: how many features are on.
        selection: in every `row`, or on average over a `batch`.
    """

    decoder: Tensor
    encoder: Tensor
    encoder_bias: Tensor
    bias: Tensor
    scale: Tensor
    threshold: Tensor
    on: Tensor
    explained: Tensor
    null: Tensor
    ceiling: float
    active: int
    selection: str

    def encode(self, activations: Any) -> Tensor:
        """`(…, B, F)` float32 coefficients of activations `(…, B, U)`, in their own scale.

        Raises:
            ValueError: activations of another width, or that are not finite.
        """
        a = _rows(as_floats(as_array("given", activations)), self.decoder)
        x = _normalised(a, self.bias[..., None, :], self.scale[..., None, None])
        each = x @ self.encoder.mT + self.encoder_bias[..., None, :]
        if self.selection == "row":
            kept = largest(each, self.active)
        else:
            kept = each.where(each > self.threshold[..., None, None], 0)
        return (kept * self.scale[..., None, None]).float()

    def decode(self, features: Tensor) -> Tensor:
        """`(…, B, U)` float64 activations of coefficients `(…, B, F)`."""
        return features.to(self.decoder) @ self.decoder + self.bias[..., None, :]


def _rows(a: Tensor, decoder: Tensor) -> Tensor:
    """Activations as float32 or float64 `(…, B, U)`, blocks of units side by side."""
    lead = decoder.ndim  # axes of activations without blocks
    flat = a.flatten(-2) if a.ndim == lead + 1 else a
    members = decoder.shape[:-2]
    if flat.ndim != lead or flat.shape[-1] != decoder.shape[-1] or flat.shape[:-2] != members:
        raise ValueError(
            f"activations have shape {tuple(a.shape)}, expected ({', '.join(map(str, members))}"
            f"{', ' if members else ''}B, {decoder.shape[-1]})"
        )
    check_finite(flat.mT)
    return as_numbers(flat.detach()).to(decoder.device)


def _normalised(a: Tensor, origin: Tensor, scale: Tensor) -> Tensor:
    """Activations around an origin as float32, in units of their scale; float64 where they are."""
    return ((a - origin.to(a)) / scale.to(a)).float()


def dictionary(
    source: Any,
    tree: LatentTree,
    *,
    features: int,
    active: int,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int,
    layer: Label | None = None,
    selection: Selection = "row",
    steps: int = STEPS,
    restarts: int = RESTARTS,
    batch_axis: BatchAxis | None = None,
) -> Dictionary:
    """Train a sparse dictionary of a layer's activations, for all members in one batched pass.

    The scale and the offset of the activations do not matter: they are divided by their standard
    deviation as a whole. Every member is started `restarts` times; kept is the one with the smallest
    error on the training rows or, of those within a tenth of it, that with the fewest features on.
    Every step takes 256 rows; the last fifth of the rows is held out for `explained`. Only the seed
    decides: torch's own seed is neither read nor changed.

    Features that are too many stay off, so give more than there are things to find, twice as many say: with
    few to spare more restarts may end in mixtures. Every other restart begins with twice the features
    and leaves out half of them halfway, which finds as many features as there are things more often.

    Args:
        source, tree, draw, samples, batch_axis: as in `measure`: activations and the draw that they
            were computed on, or a network and its rows.
        features: F.
        active: how many of them are on in a row, on average where selection is `batch`.
        seed: of the first directions; for a network without a draw, of its rows as well.
        layer: which one; needed where the source has several.
        selection: the `active` largest of every `row`, or of a `batch` of rows together, which finds fewer
            directions in as many steps.
        steps: of Adam.
        restarts: of every member.

    Raises:
        ValueError: counts below 1, more active than all features, another selection, several layers
            without a choice, activations that never vary, are not finite or do not fit the draw, fewer
            than 10 rows.
        TypeError: counts or a seed that are no integers.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(2000, seed=1)
        >>> directions = torch.eye(6)  # one for every state of the three latents
        >>> on = torch.nn.functional.one_hot(draw.states[:, :3].long(), 2).flatten(1).float()
        >>> size = 0.5 + torch.rand(on.shape, generator=torch.Generator().manual_seed(0))
        >>> found = dictionary((on * size) @ directions, tree, draw=draw, features=18, active=3, seed=0,
        ...     steps=100, restarts=1)
        >>> bool(found.explained > 0.8), bool(found.null < 0.7)
        (True, True)
        >>> found.encode(torch.zeros(5, 6)).shape
        torch.Size([5, 18])
    """
    features, active = as_integer("features", features, 1), as_integer("active", active, 1)
    steps, restarts = as_integer("steps", steps, 1), as_integer("restarts", restarts, 1)
    if active > features:
        raise ValueError(f"active must be at most the {features} features, got {active}")
    if selection not in get_args(Selection):
        raise ValueError(f"selection must be 'row' or 'batch', got {selection!r:.60}")
    rows = LayerRows(source, tree, draw, samples, check_seed(seed), layer, batch_axis)
    given = next(rows.parts(held_out=False))
    first = given.double()
    members, _, units = first.shape
    mean = first.mean(1, keepdim=True)
    scale = (first - mean).square().sum(-1, keepdim=True).mean(1, keepdim=True).sqrt()
    least = 8 * torch.finfo(given.dtype).eps
    for s in (scale <= least * mean.norm(dim=-1, keepdim=True)).flatten().nonzero()[:, 0].tolist():
        raise ValueError(f"the activations of member {s} never vary, so they have no features")
    # the code starts at the activations' own origin, unless that is far away
    near = mean.norm(dim=-1, keepdim=True) < FAR * scale
    origin = torch.where(near, torch.zeros_like(mean), mean)
    addresses = members_of(source, tree, draw)
    (decoder, encoder, bias, encoder_bias), threshold = _trained(
        rows, _starts(addresses, features, units, seed, restarts), origin, scale,
        features=features, active=active, selection=selection, steps=steps,
    )  # fmt: skip
    parts = {
        "decoder": decoder, "encoder": encoder, "encoder_bias": encoder_bias[:, 0],
        "bias": (bias * scale + origin)[:, 0], "scale": scale[:, 0, 0],
        "threshold": threshold,
    }  # fmt: skip
    made: Any = partial(Dictionary, ceiling=1.0, active=active, selection=selection)
    unknown = dict.fromkeys(("on", "explained", "null"), torch.zeros(members))
    explained, on = _explained(made(**parts, **unknown), rows, mean[:, 0])
    directions = random_directions(addresses, features, units, seed, range(restarts, restarts + 1))
    directions = directions.to(first.device)
    random = {
        "decoder": directions, "encoder": directions, "bias": mean[:, 0],
        "encoder_bias": torch.zeros_like(parts["encoder_bias"]),
    }  # fmt: skip
    by_row = made(**parts | random, **unknown)._replace(selection="row")
    null, _ = _explained(by_row, rows, mean[:, 0], rescale=True)
    parts |= {"on": on, "explained": explained, "null": null}
    return made(**{name: x if rows.stacked else x[0] for name, x in parts.items()})


def _starts(
    addresses: Sequence[int], features: int, units: int, seed: int, restarts: int
) -> list[Tensor]:
    """`(S, R, F, U)` first directions: every other restart has twice the features."""
    each = (range(0, restarts, 2), features), (range(1, restarts, 2), 2 * features)
    return [
        random_directions(addresses, size, units, seed, some).unflatten(0, (-1, len(some)))
        for some, size in each
        if some
    ]


def _trained(
    rows: LayerRows, starts: list[Tensor], origin: Tensor, scale: Tensor, *,
    features: int, active: int, selection: str, steps: int,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """Parameters and threshold of every member's best restart."""
    models = [
        Autoencoder(x.flatten(0, 1).to(origin.device), features, active, selection, x.shape[1])
        for x in starts
    ]
    for step, x in enumerate(rows.minibatches(steps)):
        each = _normalised(x, origin, scale)
        for model in models:
            model.step(each.repeat_interleave(model.restarts, 0), step, steps)
    return best_of(models)


def _explained(
    found: Dictionary, rows: LayerRows, mean: Tensor, rescale: bool = False
) -> tuple[Tensor, Tensor]:
    """`(S,)` share of the variance of held-out rows that is explained, `(S, F)` how often features are on.

    Args:
        mean: what explains nothing.
        rescale: multiply what is written by the factor that explains most.
    """
    total = error = inner = square = on = torch.zeros((), dtype=torch.float64)
    count = 0
    scale = found.scale[:, None, None]  # squares of very small or large activations are no numbers
    for x in rows.parts(held_out=True):
        code = found.encode(x)
        written = (found.decode(code) - found.bias[:, None]) / scale
        around, left = ((x - at[:, None]) / scale for at in (mean, found.bias))
        total = total + around.square().sum((1, 2))
        error = error + (left - written).square().sum((1, 2))
        inner = inner + (left * written).sum((1, 2))
        square = square + written.square().sum((1, 2))
        on = on + (code > 0).double().sum(1)
        count += x.shape[1]
    if rescale:
        error = total - inner.square() / square.clamp_min(1e-300)
    return 1 - error / total.clamp_min(1e-300), on / count
