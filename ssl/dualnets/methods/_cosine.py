"""The cosine of two outputs, as methods that compare normalised outputs need it."""

from __future__ import annotations

from torch import Tensor

SMALLEST = 1e-8  # lengths below count as this, as in torch.nn.functional.cosine_similarity


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """`(S, B)` cosines of `(S, B, U)` outputs.

    Short numbers are made float32 first. As torch's own, whose norms take twenty times as long over
    the units of batch-last storage.

    Example:
        >>> import torch
        >>> cosine_similarity(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[2.0, 0.0]]]))
        tensor([[0.6000]])
    """
    a, b = (own.float() if own.dtype.itemsize < 4 else own for own in (a, b))
    inverse_a, inverse_b = (own.square().sum(-1).clamp(min=SMALLEST**2).rsqrt() for own in (a, b))
    return (a * b).sum(-1) * inverse_a * inverse_b
