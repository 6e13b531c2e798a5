"""A sparse dictionary of a layer's activations: a top-k autoencoder for each of S members, trained at once.

Activations a `(U,)` are written as a sum of few of F directions, each of length 1 (`d_i`, rows of the
decoder), with coefficients f_i that are never negative:

    f = TopK(ReLU(E (a - b) + e)),   a' = b + sum_i f_i d_i

(Makhzani and Frey 2013; Gao et al. 2024, arXiv 2406.04093). `active` features are kept in every row or,
with `selection="batch"`, on average over the rows of a batch, and then wherever they exceed a threshold
(Bussmann, Leask and Nanda 2024, arXiv 2412.06410).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm._results import by_content
from hltm.probe.accumulators.checks import check_finite
from hltm.probe.autoencoder import Autoencoder, largest, random_directions
from hltm.probe.batches import Label, batches, one_layer
from hltm.sampling.draw import Draw
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree

Selection = Literal["row", "batch"]
STEPS, BATCH, RESTARTS = 2000, 256, 4
HELD_OUT = 0.2  # of the rows, for `explained`
FAR = 3.0  # a mean of so many standard deviations is an offset, not part of the code
HELD = 1 << 26  # activations that are kept; with more, every pass asks the source again


@by_content
class Dictionary(NamedTuple):
    """A dictionary of F features for activations of U units; S stands in front for stacked sources.

    Attributes:
        decoder: `(…, F, U)` float32 directions of length 1.
        encoder: `(…, F, U)` and its bias `(…, F)`, of activations without `bias`, divided by `scale`.
        encoder_bias: see encoder.
        bias: `(…, U)` float32, what is written without features.
        scale: `(…,)` float32, standard deviation of the activations around their mean, as a length.
        threshold: `(…,)` float32, what a feature must exceed to be on; 0 with `selection="row"`.
        on: `(…, F)` float64, the share of held-out rows in which a feature is on; 0 for a dead one.
        explained: `(…,)` float64, share of the variance of held-out rows that the dictionary explains.
        null: `(…,)` the same of random directions with as many active features and the best scale.
        best: 1.
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
    best: float
    active: int
    selection: str

    def encode(self, activations: Tensor) -> Tensor:
        """`(…, B, F)` float32 coefficients of activations `(…, B, U)`, in their own scale.

        Raises:
            ValueError: activations of another width, or that are not finite.
        """
        a = _rows(torch.as_tensor(activations), self.decoder)
        x = (a - self.bias[..., None, :]) / self.scale[..., None, None]
        each = x @ self.encoder.mT + self.encoder_bias[..., None, :]
        if self.selection == "row":
            kept = largest(each, self.active)
        else:
            kept = each.where(each > self.threshold[..., None, None], 0)
        return kept * self.scale[..., None, None]

    def decode(self, features: Tensor) -> Tensor:
        """`(…, B, U)` float32 activations of coefficients `(…, B, F)`."""
        return features.to(self.decoder) @ self.decoder + self.bias[..., None, :]


def _rows(a: Tensor, decoder: Tensor) -> Tensor:
    """Activations as float32 `(…, B, U)`, blocks of units side by side."""
    lead = decoder.ndim  # axes of activations without blocks
    flat = a.flatten(-2) if a.ndim == lead + 1 else a
    members = decoder.shape[:-2]
    if flat.ndim != lead or flat.shape[-1] != decoder.shape[-1] or flat.shape[:-2] != members:
        raise ValueError(
            f"activations have shape {tuple(a.shape)}, expected ({', '.join(map(str, members))}"
            f"{', ' if members else ''}B, {decoder.shape[-1]})"
        )
    check_finite(flat.mT)
    return flat.to(decoder)


def dictionary(
    source: Any,
    tree: LatentTree,
    *,
    features: int,
    active: int,
    draw: Draw | None = None,
    samples: int | None = None,
    seed: int,
    layer: Label | None = None,
    selection: Selection = "row",
    steps: int = STEPS,
    restarts: int = RESTARTS,
) -> Dictionary:
    """Train a sparse dictionary of a layer's activations, for all members in one batched pass.

    The scale and the offset of the activations do not matter: they are divided by their standard
    deviation as a whole. Every member is started `restarts` times; kept is the one with the smallest
    error on the training rows or, of those within a tenth of it, that with the fewest features on.
    Every step takes 256 rows; the last fifth of the rows is held out for `explained`. Only the seed
    decides: torch's own seed is neither read nor changed.

    A dictionary needs more features than there are things to find, twice as many say: those that are too
    many stay off, and with none to spare training ends in mixtures of features.

    Args:
        source, tree, draw, samples: as in `measure`: activations and the draw that they were computed
            on, or a network and its rows.
        features: F.
        active: how many of them are on in a row, on average where selection is `batch`.
        seed: of the first directions; for a network without a draw, of its rows as well.
        layer: which one; needed where the source has several.
        selection: the `active` largest of every `row`, or of a `batch` of rows together.
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
    rows = _Rows(source, tree, draw, samples, check_seed(seed), layer)
    first, _ = next(rows.pass_over())
    members, _, units = first.shape
    mean = first.mean(1, keepdim=True)
    scale = (first - mean).square().sum(-1, keepdim=True).mean(1, keepdim=True).sqrt()
    for s in (scale <= 1e-6 * mean.norm(dim=-1, keepdim=True)).flatten().nonzero()[:, 0].tolist():
        raise ValueError(f"the activations of member {s} never vary, so they have no features")
    # the code starts at the activations' own origin, unless that is far away
    near = mean.norm(dim=-1, keepdim=True) < FAR * scale
    origin = torch.where(near, torch.zeros_like(mean), mean)
    directions = random_directions(members, features, units, seed, restarts).to(first.device)
    model = Autoencoder(directions, active, selection, restarts)
    for step, x in enumerate(rows.minibatches(steps)):
        model.step(((x - origin) / scale).repeat_interleave(restarts, 0), step, steps)
    chosen = model.best(members)
    decoder, encoder, bias, encoder_bias = (p.detach()[chosen] for p in model.parameters)
    parts = {
        "decoder": decoder, "encoder": encoder, "encoder_bias": encoder_bias[:, 0],
        "bias": (bias * scale + origin)[:, 0], "scale": scale[:, 0, 0],
        "threshold": model.threshold[chosen],
    }  # fmt: skip
    made: Any = partial(Dictionary, best=1.0, active=active, selection=selection)
    unknown = dict.fromkeys(("on", "explained", "null"), torch.zeros(members))
    explained, on = _explained(made(**parts, **unknown), rows, mean)
    random = {
        "decoder": directions[::restarts], "encoder": directions[::restarts], "bias": mean[:, 0],
        "encoder_bias": torch.zeros_like(parts["encoder_bias"]),
    }  # fmt: skip
    by_row = made(**parts | random, **unknown)._replace(selection="row")
    null, _ = _explained(by_row, rows, mean, rescale=True)
    parts |= {"on": on, "explained": explained, "null": null}
    return made(**{name: x if rows.stacked else x[0] for name, x in parts.items()})


class _Rows:
    """Activations of one layer, pass after pass, as batches `(S, B, U)` to train on and held out."""

    def __init__(
        self, source: Any, tree: LatentTree, draw: Draw | None, samples: int | None, seed: int,
        layer: Label | None,
    ) -> None:  # fmt: skip
        self.asked = (source, tree, draw, samples, seed)
        self.layer = layer
        whose = draw if draw is not None else source if hasattr(source, "stacked") else tree
        self.stacked = bool(whose.stacked)
        self.kept: list[tuple[Tensor, Tensor]] | None = None

    def pass_over(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches once; they are kept if there are not too many."""
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[tuple[Tensor, Tensor]] | None = []
        size = 0
        for batch in batches(*self.asked, 0):
            label = one_layer(batch.shown, self.layer)
            flat = batch.shown[label].flatten(1, -2)  # blocks of units side by side
            check_finite(flat, label)
            count = flat.shape[-1]
            if count < 10:
                raise ValueError(f"a dictionary needs at least 10 rows, got {count}")
            cut = count - max(int(HELD_OUT * count), 1)
            a = flat.mT.float()
            check_finite(a.mT, label)  # too large for float32
            pair = a[:, :cut], a[:, cut:]
            size += a.numel()
            kept = [*kept, pair] if kept is not None and size <= HELD else None
            yield pair
        self.kept = kept

    def minibatches(self, steps: int) -> Iterator[Tensor]:
        """`steps` batches of rows in order, pass after pass; every pass starts at other rows."""
        left, passes = steps, 0
        while left:
            for x, _ in self.pass_over():
                size = min(BATCH, x.shape[1])
                shift = passes * 101 % x.shape[1]
                whole = x.roll(-shift, 1) if shift else x
                for part in whole.split(size, 1):
                    if part.shape[1] == size and left:
                        left -= 1
                        yield part
                if not left:
                    return
            passes += 1


def _explained(
    found: Dictionary, rows: _Rows, mean: Tensor, rescale: bool = False
) -> tuple[Tensor, Tensor]:
    """`(S,)` share of the variance of held-out rows that is explained, `(S, F)` how often features are on.

    Args:
        mean: what explains nothing.
        rescale: multiply what is written by the factor that explains most.
    """
    total = error = inner = square = on = torch.zeros((), dtype=torch.float64)
    count = 0
    for _, x in rows.pass_over():
        code = found.encode(x)
        written = (found.decode(code) - found.bias[:, None]).double()
        around = (x - mean).double()
        left = x.double() - found.bias[:, None].double()
        total = total + around.square().sum((1, 2))
        error = error + (left - written).square().sum((1, 2))
        inner = inner + (left * written).sum((1, 2))
        square = square + written.square().sum((1, 2))
        on = on + (code > 0).double().sum(1)
        count += x.shape[1]
    if rescale:
        error = total - inner.square() / square.clamp_min(1e-300)
    return 1 - error / total.clamp_min(1e-300), on / count
