"""Top-k autoencoders that are trained side by side: the method of `hltm.probe.dictionary`.

As in Gao et al. (2024, arXiv 2406.04093), whose sections are named below, but for two things without which
features end as mixtures of others: the number of active features begins at twice its value, and every
other restart has twice the features at first, of which half are left out later.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hltm.sampling.philox import Stream, uniform

RATE, WIDE = 0.03, 32  # of Adam, up to so many features; then as 1 / sqrt(features) (Section 3)
MOMENTS = 0.9, 0.99  # decay of Adam's moments
WIDER, UNTIL = 2.0, 0.5  # so many times the active features at first, and no longer at this share
DEAD = 30  # steps without being on, after which a feature learns what the others leave over
AUXILIARY = 1 / 32  # weight of that loss


def largest(values: Tensor, count: int) -> Tensor:
    """The largest `count` values of every row, if positive; 0 elsewhere."""
    top = values.topk(count, -1)
    return torch.zeros_like(values).scatter(-1, top.indices, top.values.relu())


def random_directions(
    members: Sequence[int], features: int, units: int, seed: int, restarts: range
) -> Tensor:
    """`(S R, F, U)` random directions of length 1, those of a member's restarts side by side.

    Args:
        members: their addresses, so that a member has the same directions alone and among others.
    """
    parts = [
        uniform(
            features * units, seed=seed, stream=Stream.EMBEDDING, members=members, node=0, view=r
        )
        for r in restarts
    ]  # fmt: skip
    u = torch.stack(parts, 1).flatten(0, 1).clamp(1e-12, 1 - 1e-12)
    normal = torch.erfinv(2 * u - 1).unflatten(-1, (features, units)).float()
    return torch.nn.functional.normalize(normal, dim=-1)


class Autoencoder:
    """S R autoencoders that are trained side by side on normalised activations `(S R, B, U)`.

    Of more directions than `features`, those with the largest coefficients are kept after half of the steps.
    """

    def __init__(
        self, directions: Tensor, features: int, active: int, selection: str, restarts: int
    ) -> None:
        count, size, units = directions.shape
        self.features, self.active = features, active
        self.selection, self.restarts = selection, restarts
        new = directions.new_zeros
        # decoder, encoder, bias, bias of the encoder
        self.parameters = [
            directions.clone(), directions.clone(), new(count, 1, units), new(count, 1, size)
        ]  # fmt: skip
        for p in self.parameters:
            p.requires_grad_()
        self.rate = RATE * min(1.0, (WIDE / size) ** 0.5)
        self.first = [torch.zeros_like(p) for p in self.parameters]  # moments of Adam
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.off = new(count, size)  # steps since a feature was on
        self.size = new(count, size)  # running mean of its squared coefficients
        self.error, self.threshold = new(count), new(count)

    def step(self, x: Tensor, step: int, steps: int) -> None:
        """One step of Adam on ‖x - x'‖² and the auxiliary loss of dead features."""
        if step == steps // 2 and self.features < self.off.shape[-1]:
            self._prune()
        decoder, encoder, bias, encoder_bias = self.parameters
        each = (x - bias) @ encoder.mT + encoder_bias
        code = self._chosen(each, step / steps)
        left = x - bias - code @ decoder
        error = left.square().sum(-1).mean(-1)
        loss = error.sum()
        self.off = torch.where((code > 0).any(1), 0, self.off + 1)
        dead = self.off > DEAD
        if dead.any():  # dead features learn what is left over (Gao et al., Appendix A.2)
            most = min(int(dead.sum(-1).max()), max(self.active, x.shape[-1] // 2))
            only = largest(each.masked_fill(~dead[:, None], -1.0), most)
            rest = (only @ decoder - left.detach()).square().sum(-1).mean(-1)
            loss = loss + AUXILIARY * (rest * dead.any(1)).sum()
        slopes = list(torch.autograd.grad(loss, self.parameters))
        with torch.no_grad():
            slopes[0] -= (slopes[0] * decoder).sum(-1, keepdim=True) * decoder  # along the sphere
            warm, cool = (step + 1) / 20, (steps - step) / (0.3 * steps)
            self._adam(slopes, self.rate * min(1.0, warm, cool), step + 1)
            decoder /= decoder.norm(dim=-1, keepdim=True)
            late = 1 - 0.95 if step else 1.0  # running means
            self.error += late * (error - self.error)
            self.size += late * (code.square().mean(1) - self.size)
            least = code.masked_fill(code <= 0, torch.inf).flatten(1).amin(-1)
            least = least.where(least.isfinite(), 0)
            self.threshold += late * (least * (self.selection == "batch") - self.threshold)

    def _adam(self, slopes: list[Tensor], rate: float, step: int) -> None:
        """Kingma and Ba (2015); torch's own takes seconds to import."""
        for p, g, m, v in zip(self.parameters, slopes, self.first, self.second, strict=True):
            m += (1 - MOMENTS[0]) * (g - m)
            v += (1 - MOMENTS[1]) * (g.square() - v)
            scale = (v / (1 - MOMENTS[1] ** step)).sqrt() + 1e-8
            p -= rate / (1 - MOMENTS[0] ** step) * m / scale

    def _chosen(self, each: Tensor, done: float) -> Tensor:
        """The features that are on: more at first, so that none is left out from the start."""
        more = 1 + (WIDER - 1) * max(1 - done / UNTIL, 0.0)
        count = min(round(self.active * more), each.shape[-1])
        if self.selection == "row":
            return largest(each, count)
        rows = each.shape[1]
        return largest(each.flatten(1), count * rows).view_as(each)

    def _prune(self) -> None:
        """Leave out all but the features with the largest coefficients."""
        kept = self.size.topk(self.features, -1).indices
        rows = torch.arange(len(kept), device=kept.device)[:, None]

        def some(parts: list[Tensor]) -> list[Tensor]:
            decoder, encoder, bias, encoder_bias = parts
            return [
                decoder[rows, kept],
                encoder[rows, kept],
                bias,
                encoder_bias[:, 0][rows, kept][:, None],
            ]

        self.parameters = [p.detach().requires_grad_() for p in some(self.parameters)]
        self.first, self.second = some(self.first), some(self.second)
        self.off, self.size = self.off[rows, kept], self.size[rows, kept]
        self.rate = RATE * min(1.0, (WIDE / self.features) ** 0.5)


def best_of(models: Sequence[Autoencoder]) -> tuple[list[Tensor], Tensor]:
    """The parameters and the threshold of each member's best restart, `(S, …)`.

    Those are as good whose error exceeds the least by a tenth at most; of them, the best has the
    fewest features that are ever on.
    """

    def together(parts: Sequence[Tensor]) -> Tensor:
        by_member = [
            p.detach().unflatten(0, (-1, m.restarts)) for p, m in zip(parts, models, strict=True)
        ]
        return torch.cat(by_member, 1)

    error = together([m.error for m in models]).nan_to_num(torch.inf)
    good = error <= 1.1 * error.amin(-1, keepdim=True)
    alive = together([(m.off <= DEAD).sum(-1) for m in models])
    rank = alive + error / error.amax(-1, keepdim=True).clamp_min(1e-30) / 2
    best = rank.masked_fill(~good, torch.inf).argmin(-1)
    members = torch.arange(len(best), device=best.device)
    chosen = [
        together(parts)[members, best]
        for parts in zip(*(m.parameters for m in models), strict=True)
    ]
    return chosen, together([m.threshold for m in models])[members, best]
