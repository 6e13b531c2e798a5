"""One member of every method in plain torch, as one would write it by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from contenders.modules import Member


def half_square(one: Tensor, two: Tensor) -> Tensor:
    """`(B,)`, half the squared distance."""
    return (one - two).square().sum(1) / 2


def infonce(loss: Any, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    gap = half_square(anchor, positive) - half_square(anchor, negative)
    return loss.temperature * F.softplus(gap / loss.temperature).mean()


def simple(loss: Any, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return (half_square(anchor, positive) - half_square(anchor, negative)).mean()


def triplet(loss: Any, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    gap = half_square(anchor, positive) - half_square(anchor, negative) + loss.margin
    return loss.temperature * F.softplus(gap / loss.temperature).mean()


def batchwise_nce(loss: Any, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    gap = (anchor - negative).square().mean() - (anchor - positive).square().mean()
    return -torch.sigmoid(gap / loss.temperature)


def ntxent(loss: Any, anchor: Tensor, positive: Tensor) -> Tensor:
    """Of outputs of length 1, as in the paper's pseudocode."""
    both, size = torch.cat([anchor, positive]), len(anchor)
    scores = (both @ both.T / loss.temperature).fill_diagonal_(-torch.inf)
    wanted = torch.arange(2 * size, device=both.device).roll(size)
    return loss.temperature * F.cross_entropy(scores, wanted)


class SimCLR(Member):
    def __init__(self, *given: Any, criterion: Callable[..., Tensor]) -> None:
        super().__init__(*given)
        self.criterion = criterion

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        return self.criterion(self.method.criterion, *self.outputs(views))


class BYOL(Member):
    trees = ("network", "target.network")
    heads: ClassVar = {"projector": False, "predictor": False, "target.projector": False}

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        first, second = map(self.part("projector"), self.outputs(views))
        with torch.no_grad():
            slow = map(self.part("target.projector"), self.outputs(views, "target.network"))
        total = torch.zeros((), device=first.device)
        for own, target in zip((second, first), slow, strict=True):
            cosine = F.cosine_similarity(self.part("predictor")(own), target)
            total = total + (2 - 2 * cosine).mean()
        return total

    @torch.no_grad()
    def after(self) -> None:
        self.move("target.network", "network", self.method.ema_decay)
        self.move("target.projector", "projector", self.method.ema_decay)


class SimSiam(Member):
    heads: ClassVar = {"projector": True, "predictor": False}

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        first, second = map(self.part("projector"), self.outputs(views))
        pairs = ((first, second.detach()), (second, first.detach()))
        return (
            -sum(
                F.cosine_similarity(self.part("predictor")(own), other).mean()
                for own, other in pairs
            )
            / 2
        )


class MoCo(Member):
    trees = ("network", "key")

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        (query,) = (F.normalize(own, dim=1) for own in self.outputs(views[:1]))
        with torch.no_grad():
            (self.keys,) = (F.normalize(own, dim=1) for own in self.outputs(views[1:], "key"))
        near = (query * self.keys).sum(1, keepdim=True)
        scores = torch.cat([near, query @ self.queue.T], dim=1) / self.method.temperature
        return F.cross_entropy(scores, torch.zeros_like(scores[:, 0], dtype=torch.int64))

    @torch.no_grad()
    def after(self) -> None:
        self.move("key", "network", self.method.ema_decay)
        self.queue = torch.cat([self.keys, self.queue])[: self.method.queue]


class SwAV(Member):
    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        scores = [F.normalize(own, dim=1) @ self.prototypes.T for own in self.outputs(views)]
        with torch.no_grad():
            assigned = [self._assigned(own) for own in scores]
        log_p = [F.log_softmax(own / self.method.temperature, dim=1) for own in scores]
        return -(assigned[1] * log_p[0] + assigned[0] * log_p[1]).sum(1).mean() / 2

    def _assigned(self, scores: Tensor) -> Tensor:
        share = (scores / self.method.epsilon).exp()
        for _ in range(self.method.iterations):
            share = share / share.sum(0)
            share = share / share.sum(1, keepdim=True)
        return share

    @torch.no_grad()
    def after(self) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))


class PIRL(Member):
    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        first, second = (F.normalize(own, dim=1) for own in self.outputs(views))
        self.places, self.first = batch.places, first.detach()
        memory, others = self.bank[batch.places], self.bank[self.negatives]
        itself = batch.places[:, None] == self.negatives
        weight = self.method.weight
        losses = [self._nce(own, memory, others, itself) for own in (second, first)]
        return weight * losses[0] + (1 - weight) * losses[1]

    def _nce(self, own: Tensor, memory: Tensor, others: Tensor, itself: Tensor) -> Tensor:
        near = (own * memory).sum(1) / self.method.temperature
        far = (own @ others.T / self.method.temperature).masked_fill(itself, -torch.inf)
        mass = far.logsumexp(1)
        each = F.softplus(far - mass[:, None])
        return (F.softplus(mass - near) + each.sum(1)).mean()

    @torch.no_grad()
    def after(self) -> None:
        momentum = self.method.bank_momentum
        average = momentum * self.bank[self.places] + (1 - momentum) * self.first
        self.bank[self.places] = F.normalize(average, dim=1)
        self.negatives = torch.randint(
            len(self.bank), self.negatives.shape, device=self.bank.device
        )


class BarlowTwins(Member):
    heads: ClassVar = {"projector": False}

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        projections = map(self.part("projector"), self.outputs(views))
        one, two = (F.batch_norm(own, None, None, training=True) for own in projections)
        correlation = one.T @ two / len(one)
        diagonal = correlation.diagonal()
        rest = correlation - torch.diag(diagonal)
        return (1 - diagonal).square().sum() + self.method.off_diagonal * rest.square().sum()


class VICReg(Member):
    heads: ClassVar = {"projector": False}

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        both = [self.part("projector")(own) for own in self.outputs(views)]
        total = self.method.invariance * F.mse_loss(*both)
        for own in both:
            centred = own - own.mean(0)
            covariance = centred.T @ centred / (len(own) - 1)
            variance = covariance.diagonal()
            hinge = (self.method.spread - (variance + self.method.epsilon).sqrt()).relu().mean()
            rest = (covariance - torch.diag(variance)).square().sum() / own.shape[1]
            total = total + self.method.variance * hinge + self.method.covariance * rest
        return total


class Supervised(Member):
    heads: ClassVar = {"classifier": False}

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        (output,) = self.outputs(views)
        return F.cross_entropy(self.part("classifier")(output), batch.targets[:, 0])


class TeacherStudent(Member):
    trees = ("network", "teacher")
    heads: ClassVar = {"readout": False}

    def loss(self, views: Sequence[Tensor], batch: Any) -> Tensor:
        (output,) = self.outputs(views)
        with torch.no_grad():
            (wanted,) = self.outputs(views, "teacher")
        return half_square(self.part("readout")(output), wanted).mean()


METHODS: dict[str, Callable[..., Member]] = {
    "simclr": partial(SimCLR, criterion=infonce),
    "simple": partial(SimCLR, criterion=simple),
    "triplet": partial(SimCLR, criterion=triplet),
    "ntxent": partial(SimCLR, criterion=ntxent),
    "batchwise-nce": partial(SimCLR, criterion=batchwise_nce),
    "byol": BYOL,
    "simsiam": SimSiam,
    "moco": MoCo,
    "swav": SwAV,
    "pirl": PIRL,
    "barlow-twins": BarlowTwins,
    "vicreg": VICReg,
    "supervised": Supervised,
    "teacher-student": TeacherStudent,
}
