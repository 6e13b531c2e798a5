"""Contrastive losses: pure functions of outputs, one value per member (docs/theory.md, Section 3).

Symbols: r(u, v) = 1/2 ||u - v||^2; an anchor a, its positive + (another view of the same sample) and H
negatives k (views of other samples); r_+ = r(a, +), r_k = r(a, k); τ the temperature.

The gradient of a loss of distances is that of Σ_k β_k (r_+ - r_k) with the pair weights
β_k = -∂L/∂r_k held fixed, so its effect on training is determined by its pair weights, which `pairs`
returns. Besides the usual losses, whose weights follow from a formula, there are losses whose weights are
given as a function of distance. All but BatchwiseNCE carry the factor τ, which libraries usually drop:
their learning rates differ by it.

Losses and gradients are those of the outputs' differences to rounding, however far all outputs lie from 0:
no distance is the difference of two squared lengths, and no small share of a softmax is 1 less the others.
Numbers of less than 32 bits are converted to float32 first.

Outputs are `(S, B, U)`, negatives `(S, H, B, U)`; a loss is the mean over the batch, `(S,)`. A loss is
one class below, registered under the word that selects it on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from dualnets._checks import check_number, check_whole
from dualnets._lazy import torch
from dualnets._options import Registry, option
from dualnets._precision import at_least_float32
from dualnets.methods._plain import distance as distance
from dualnets.methods._plain import plain_ntxent

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """A contrastive loss; `negatives` is H, the number of fresh negatives per anchor.

    A loss whose attribute `original` is true is also given the outputs of the samples without augmentation,
    `(S, B, U)`, as a fourth argument.
    """

    @property
    def negatives(self) -> int: ...

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """`(S,)` from anchor and positive `(S, B, U)` and negatives `(S, H, B, U)`."""


@runtime_checkable
class PairLoss(Protocol):
    """A loss of one anchor's own r_+ and r_k, in the form that compiled training computes.

    Compiled training takes those of this module and no subclass of them, which may compute another loss.

    Attributes:
        exponential: whether β_k is exp((r_+ - r_k + margin) / τ) over one plus the sum of these; else 1.
        temperature: τ.
        margin: number added to r_+.
    """

    exponential: ClassVar[bool]
    temperature: float
    margin: float


class Pairs(NamedTuple):
    """Distances of N anchors to their positives and negatives, and the pair weights.

    Attributes:
        near: `(S, 1, N)` r_+.
        far: `(S, H, N)` r_k.
        beta: `(S, H, N)` β_k = -∂L/∂r_k of an anchor's own loss, without gradient.
    """

    near: Tensor
    far: Tensor
    beta: Tensor


class PairWeighted(Loss, Protocol):
    """A loss of distances, which can return its pair weights."""

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        """Distances and weights; the loss's gradient is that of their `weighted_gap`."""


class GivenWeights:
    """Marks losses Σ_k w_k (r_+ - r_k) whose weights w_k are given, not derived, and held fixed."""


LOSSES: Registry[type[Any]] = Registry()


class _Checked:
    """Checks the settings of a loss, which have the same meaning in every loss that has them."""

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self) if item.init):  # type: ignore[arg-type]
            if name in ("temperature", "epsilon"):
                check_number(name, getattr(self, name), above=0)
            elif name == "negatives":
                check_whole(name, getattr(self, name), low=1, unit="per anchor")
            elif name == "margin":
                check_number(name, getattr(self, name))


def weighted_gap(pairs: Pairs) -> Tensor:
    """`(S,)` the mean over anchors of Σ_k β_k (r_+ - r_k), the weights held fixed."""
    return (pairs.beta * (pairs.near - pairs.far)).sum(1).mean(-1)


@LOSSES.register("simple")
@dataclass(frozen=True)
class Simple:
    """r_+ - r_1. Unbounded below where outputs are not normalised."""

    negatives: int = field(default=1, init=False)
    exponential: ClassVar[bool] = False
    temperature: ClassVar[float] = 1.0
    margin: ClassVar[float] = 0.0

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return _pair_loss(self, anchor, positive, negatives)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        return Pairs(near, far, torch.ones_like(far))


@LOSSES.register("triplet")
@dataclass(frozen=True)
class Triplet(_Checked):
    """τ log(1 + exp((r_+ - r_1 + margin) / τ)), the soft triplet loss.

    Attributes:
        temperature: τ of the loss.
        margin: number added to r_+.
    """

    temperature: float = 0.1
    margin: float = 1.0
    negatives: int = field(default=1, init=False)
    exponential: ClassVar[bool] = True

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return _pair_loss(self, anchor, positive, negatives)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        # β = sigmoid((r_+ - r_1 + margin) / τ): the share of a negative beside a positive at r_+ + margin
        return _softmax_pairs(near, far, self.temperature, self.margin)


@LOSSES.register("infonce")
@dataclass(frozen=True)
class InfoNCE(_Checked):
    """-τ log( exp(-r_+/τ) / (exp(-r_+/τ) + Σ_k exp(-r_k/τ)) ) over H fresh negatives per anchor.

    van den Oord, Li, Vinyals (arXiv 1807.03748, equation 4), with -r/τ as the score.

    Attributes:
        temperature: τ of the loss.
        negatives: number of fresh negatives per anchor.
    """

    temperature: float = 0.1
    negatives: int = 1
    exponential: ClassVar[bool] = True
    margin: ClassVar[float] = 0.0

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return _pair_loss(self, anchor, positive, negatives)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        return _softmax_pairs(near, far, self.temperature)


@LOSSES.register("ntxent")
@dataclass(frozen=True)
class NTXent(_Checked):
    """InfoNCE with the 2B - 2 other views of the batch as negatives, averaged over both directions.

    Chen, Kornblith, Norouzi, Hinton (arXiv 2002.05709, equation 1), times τ.

    Attributes:
        temperature: τ of the loss.
    """

    temperature: float = 0.1
    negatives: int = field(default=0, init=False)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        from dualnets.methods.compiled.operation import is_supported

        given = at_least_float32(anchor), at_least_float32(positive), self.temperature
        if is_supported(*given[:2]):
            from dualnets.methods.compiled.ntxent import ntxent

            return ntxent(*given)[0]
        return plain_ntxent(*given)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        """Distances and weights of 2B anchors, each with 2B - 2 negatives."""
        outputs = torch.cat([anchor, positive], dim=1)
        size, count = anchor.shape[1], outputs.shape[1]
        # offsets from an anchor to its negatives; its positive is at offset B, itself at 0
        apart = torch.arange(1, count, device=outputs.device)
        apart = apart[apart != size]
        others = (torch.arange(count, device=outputs.device) + apart[:, None]) % count
        near = distance(outputs, outputs.roll(size, 1))[:, None]
        far = distance(outputs[:, None], outputs[:, others])
        return _softmax_pairs(near, far, self.temperature)


@LOSSES.register("batchwise-nce")
@dataclass(frozen=True)
class BatchwiseNCE(_Checked):
    """-sigmoid((R_- - R_+) / τ), R the mean squared difference over the batch and over units.

    One number per batch rather than per anchor, as in the code of arXiv 2010.00578; one negative per
    anchor and no factor τ.

    Attributes:
        temperature: τ of the loss.
    """

    temperature: float = 0.1
    negatives: int = field(default=1, init=False)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        near, far = _distances(anchor, positive, negatives)
        gap = (far - near).mean((1, 2)) * (2 / anchor.shape[-1]) / self.temperature
        # of a gap above 0, 1 less a small number: that number keeps the gradient
        return torch.where(gap > 0, torch.sigmoid(-gap) - 1, -torch.sigmoid(gap))

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        scale = 2 / anchor.shape[-1]  # R = 2 / U times the mean of r
        gap = (far - near).detach().mean((1, 2)) * scale / self.temperature
        beta = torch.sigmoid(gap) * torch.sigmoid(-gap) * scale / self.temperature
        return Pairs(near, far, beta[:, None, None].expand_as(far))


@LOSSES.register("spectral")
@dataclass(frozen=True)
class SpectralContrastive(_Checked):
    """-2 f_a·f_+ + mean_k (f_a·f_k)^2 over H fresh negatives.

    HaoChen, Wei, Gaidon, Ma (arXiv 2106.04156, equation 6): an unbiased estimate of their loss, whose
    negatives are independent samples, so the rest of the batch is not used. It is a function of inner
    products, not of distances, and has no pair weights.

    Attributes:
        negatives: number of fresh negatives per anchor.
    """

    negatives: int = 1

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        anchor, positive, negatives = map(at_least_float32, (anchor, positive, negatives))
        near = (anchor * positive).sum(-1)
        far = (anchor[:, None] * negatives).sum(-1).square().mean(1)
        return (far - 2 * near).mean(-1)


@LOSSES.register("exponential")
@dataclass(frozen=True)
class ExponentialWeights(_Checked, GivenWeights):
    """Σ_k w_k (r_+ - r_k) with w_k = exp(-r_k / τ) held fixed: near negatives have the largest weights.

    A loss defined by its covariance operator (docs/theory.md, Section 3): its pair weights are given,
    not derived. Unbounded below where outputs are not normalised.

    Attributes:
        temperature: τ of the loss.
        negatives: number of fresh negatives per anchor.
    """

    temperature: float = 0.1
    negatives: int = 1

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.pairs(anchor, positive, negatives))

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        return Pairs(near, far, (-far.detach() / self.temperature).exp())


@LOSSES.register("inverse-distance")
@dataclass(frozen=True)
class InverseDistanceWeights(_Checked, GivenWeights):
    """Σ_k w_k (r_+ - r_k) with w_k = 1 / (r_k + epsilon) held fixed; else as `ExponentialWeights`.

    Attributes:
        epsilon: number added to the distance whose inverse is the weight.
        negatives: number of fresh negatives per anchor.
    """

    epsilon: float = option(0.1, flag="distance_epsilon")
    negatives: int = 1

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.pairs(anchor, positive, negatives))

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        return Pairs(near, far, (far.detach() + self.epsilon).reciprocal())


@LOSSES.register("covariance")
@dataclass(frozen=True)
class CovarianceObjective(_Checked, GivenWeights):
    """mean_k w_k (r_+ - r_k) with w_k = 1 / (1 + exp(r_k / τ)) held fixed, over the batch's other views.

    w_k is InfoNCE's pair weight of one negative at r_+ = 0. As in the code of arXiv 2010.00578 (there over
    τ), the 2B views are the anchors and the 2B - 2 views of other samples are an anchor's negatives. With
    weights of the samples without augmentation, w_k = 1 / (1 + exp(r(x, x_k) / τ)) neither varies with the
    views nor is asymmetric, and the covariance operator of Theorem 4 is exact (docs/theory.md, Equation 3.6).

    Attributes:
        temperature: τ of the weights.
        weights_from: what the distances in the weights are between, the views or the samples without
            augmentation.
    """

    temperature: float = 0.1
    weights_from: Literal["views", "samples"] = "views"
    negatives: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights_from not in ("views", "samples"):
            raise ValueError(f"weights_from must be views or samples, got {self.weights_from!r}")

    @property
    def original(self) -> bool:
        """Whether it needs the outputs of the samples without augmentation."""
        return self.weights_from == "samples"

    def __call__(
        self, anchor: Tensor, positive: Tensor, negatives: Tensor, samples: Tensor | None = None
    ) -> Tensor:
        return weighted_gap(self.pairs(anchor, positive, negatives, samples))

    def pairs(
        self, anchor: Tensor, positive: Tensor, negatives: Tensor, samples: Tensor | None = None
    ) -> Pairs:
        """Distances and weights of 2B anchors and all 2B views; those of its own sample have weight 0."""
        outputs = torch.cat([anchor, positive], dim=1)
        size, count = anchor.shape[1], outputs.shape[1]
        far = _all_distances(outputs)
        compared = far
        if self.original:
            assert samples is not None
            compared = _all_distances(samples.detach()).repeat(1, 2, 2)
        place = torch.arange(size, device=outputs.device).repeat(2)
        own = place[:, None] == place
        weights = torch.sigmoid(-compared.detach() / self.temperature).masked_fill(own, 0)
        near = distance(outputs, outputs.roll(size, 1))[:, None]
        return Pairs(near, far, weights / max(count - 2, 1))


@dataclass(frozen=True)
class IntraPair:
    """Another loss with an additional attraction within pairs, L + β r_+, β of either sign.

    As in the code of arXiv 2010.00578: where a loss's pair weights are given, they are those of the
    additional term, too, Σ_k w_k ((1 + β) r_+ - r_k). For the simple loss the update through both branches
    is then 2 Cov_x[Kbar, fbar] - 2 β E_x Cov_aug[K, f]: the operator of Theorem 3, less β times the
    variance within samples (docs/theory.md, Equation 3.10). It has no pair weights, since its slopes do not
    sum to 0.

    Attributes:
        criterion: the other loss.
        weight: β.

    Raises:
        ValueError: a weight that is not finite, or something else than a loss.

    Example:
        >>> outputs = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
        >>> IntraPair(Simple(), weight=0.5)(outputs[0], outputs[1], outputs[2][:, None]).shape
        torch.Size([2])
    """

    criterion: Loss
    weight: float

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
        if isinstance(self.criterion, type) or not hasattr(self.criterion, "negatives"):
            raise ValueError(f"criterion must be a loss, got {self.criterion}")

    @property
    def negatives(self) -> int:
        """H of the other loss."""
        return self.criterion.negatives

    @property
    def original(self) -> bool:
        """Whether the other loss needs the outputs of the samples without augmentation."""
        return getattr(self.criterion, "original", False)

    def __call__(
        self, anchor: Tensor, positive: Tensor, negatives: Tensor, *samples: Tensor
    ) -> Tensor:
        if isinstance(self.criterion, GivenWeights):
            pairs = self.criterion.pairs(anchor, positive, negatives, *samples)  # type: ignore[attr-defined]
            return weighted_gap(pairs._replace(near=(1 + self.weight) * pairs.near))
        found = self.criterion(anchor, positive, negatives, *samples)
        return found + self.weight * distance(anchor, positive).mean(-1)


@LOSSES.register("detached")
@dataclass(frozen=True)
class Detached:
    """Σ_k β_k (r_+ - r_k) with the pair weights of another loss held fixed: it has the same gradient.

    Attributes:
        criterion: the other loss.

    Raises:
        ValueError: a loss that has no pair weights.

    Example:
        >>> outputs = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
        >>> loss = Detached(InfoNCE(temperature=0.5))
        >>> loss(outputs[0], outputs[1], outputs[2][:, None]).shape
        torch.Size([2])
    """

    criterion: PairWeighted = field(default_factory=InfoNCE)

    def __post_init__(self) -> None:
        if isinstance(self.criterion, type) or not hasattr(self.criterion, "pairs"):
            raise ValueError(f"criterion must be a loss with pair weights, got {self.criterion}")
        if getattr(self.criterion, "original", False):
            raise ValueError(f"criterion must have pair weights of views, got {self.criterion}")

    @property
    def negatives(self) -> int:
        """H of the other loss."""
        return self.criterion.negatives

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.criterion.pairs(anchor, positive, negatives))


def _distances(anchor: Tensor, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """r_+ `(S, 1, B)` and r_k `(S, H, B)`."""
    return distance(anchor, positive)[:, None], distance(anchor[:, None], negatives)


def _all_distances(outputs: Tensor) -> Tensor:
    """`(S, N, N)` r of all pairs of `(S, N, U)`, in float32 at least."""
    from hltm._devices import has_float64  # loads torch, which help does without

    # of squares in one product: in float64 and around the mean, as in `plain_ntxent`
    kind = at_least_float32(outputs).dtype
    given = outputs.double() if has_float64(outputs.device) else outputs.to(kind)
    given = given - given.mean(1, keepdim=True).detach()
    square = given.square().sum(-1) / 2
    found = torch.baddbmm(square[:, :, None] + square[:, None], given, given.mT, alpha=-1)
    return found.to(kind)


def _softmax_pairs(near: Tensor, far: Tensor, temperature: float, margin: float = 0.0) -> Pairs:
    """Of -τ log of the positive's share: β_k is negative k's share, exp(-r_k/τ) over the sum of all."""
    logits = -torch.cat([near + margin, far], dim=1).detach() / temperature
    return Pairs(near, far, logits.softmax(dim=1)[:, 1:])


def _pair_loss(
    loss: Simple | Triplet | InfoNCE, anchor: Tensor, positive: Tensor, negatives: Tensor
) -> Tensor:
    """`(S,)` a loss of distances and its settings."""
    near, far = _distances(anchor, positive, negatives)
    if not loss.exponential:
        return (near - far).mean((1, 2))
    gaps = near - far + loss.margin if loss.margin else near - far
    gaps = gaps / loss.temperature
    # with the 1 kept apart, neither a small loss nor its gradient is a difference of large numbers
    total = gaps[:, 0] if gaps.shape[1] == 1 else torch.logsumexp(gaps, 1)
    return loss.temperature * torch.nn.functional.softplus(total).mean(-1)
