"""In plain torch, what `compiled` computes on a CPU: its reference, and what runs everywhere else.

Functions of the same names without `plain_`, in the files of the methods, choose between the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualnets._lazy import torch
from dualnets._precision import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

SHORTEST = 1e-12  # of lengths that directions are divided by
SMALLEST = 1e-8  # shorter vectors count as this long, as in torch.nn.functional.cosine_similarity


def distance(a: Tensor, b: Tensor) -> Tensor:
    """r = 1/2 ||a - b||^2 over the last axis, in float32 at least."""
    return (at_least_float32(a) - at_least_float32(b)).square().sum(-1) / 2


def plain_direction(values: Tensor) -> Tensor:
    """`direction` in plain torch."""
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / length.clamp(min=SHORTEST).masked_fill(length.isinf(), torch.nan)


def plain_cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """`cosine_similarity` in plain torch, of at least 32 bits."""
    inverse_a, inverse_b = (own.square().sum(-1).clamp(min=SMALLEST**2).rsqrt() for own in (a, b))
    return (a * b).sum(-1) * inverse_a * inverse_b


def plain_losses(
    queries: Tensor,
    positives: Tensor,
    candidates: Tensor,
    own: Tensor,
    theirs: Tensor,
    temperature: float,
    classify: bool,
) -> Tensor:
    """The same in plain torch; without places `own` and `theirs` are empty."""
    softplus = torch.nn.functional.softplus
    near = (queries * positives).sum(-1) / temperature  # (S, B)
    far = queries @ candidates.transpose(1, 2) / temperature  # (S, B, M)
    itself = None
    if own.numel():
        itself = own[None, :, None] == theirs[:, None]
        # the lowest number rather than -inf, whose gradient is NaN for a sample with no other candidate
        far = far.masked_fill(itself, torch.finfo(far.dtype).min)
    mass = torch.logsumexp(far, dim=-1)  # (S, B)
    losses = softplus(mass - near)  # -log h(m)
    if classify:
        each = softplus(far - mass[..., None])  # -log(1 - h(n))
        losses = losses + (each if itself is None else each.masked_fill(itself, 0)).sum(-1)
    return losses


def plain_ntxent(anchor: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """NT-Xent `(S,)` of outputs `(S, B, U)` in plain torch."""
    from hltm._devices import has_float64  # loads torch, which help does without

    # 1/2 ||u - v||^2 = ||u||^2/2 + ||v||^2/2 - u·v, for all pairs in one product: in float64 and around
    # the mean, since the squares of what outputs share would hide their differences
    kind = anchor.dtype
    outputs = torch.cat([anchor, positive], dim=1)  # (S, 2B, U)
    outputs = outputs.double() if has_float64(outputs.device) else outputs
    outputs = (outputs - outputs.mean(1, keepdim=True).detach()) * temperature**-0.5
    square = outputs.square().sum(-1) / 2
    near = distance(*outputs.chunk(2, dim=1)).repeat(1, 2)
    # (r_+ - r_k) / τ, since the outputs are over sqrt(τ)
    gaps = (near - square)[:, :, None] - square[:, None]
    gaps = gaps.baddbmm_(outputs, outputs.transpose(1, 2))
    # An anchor and its positive are left out, by the lowest number rather than -inf, whose gradient
    # is NaN for a batch of one. Less their largest, gaps need no more digits than outputs have.
    place = torch.arange(anchor.shape[1], device=gaps.device).repeat(2)
    own, low = place[:, None] == place, torch.finfo(kind).min
    peak = gaps.detach().masked_fill(own, low).amax(-1, keepdim=True)
    total = torch.logsumexp(gaps.sub_(peak).to(kind).masked_fill(own, low), -1) + peak[..., 0]
    return temperature * torch.nn.functional.softplus(total).mean(-1).to(kind)


def plain_sinkhorn(
    scores: Tensor, epsilon: float, iterations: int, used: Tensor | None = None
) -> Tensor:
    """`sinkhorn` in plain torch."""
    log = scores / epsilon
    left_out = None if used is None else ~used[:, :, None]
    for _ in range(iterations):
        counted = log if left_out is None else log.masked_fill(left_out, -torch.inf)
        log = torch.log_softmax(log - torch.logsumexp(counted, dim=1, keepdim=True), dim=2)
    return torch.softmax(log, dim=2)


def plain_cross_entropies(scores: Tensor, assigned: Tensor, temperature: float) -> Tensor:
    """`cross_entropies` in plain torch."""
    return -(assigned * torch.log_softmax(scores / temperature, dim=-1)).sum(-1)
