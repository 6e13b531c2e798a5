"""The cosine similarity of two outputs, for methods that compare normalised outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-8  # shorter vectors count as this long, as in torch.nn.functional.cosine_similarity


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """`(S, B)` cosines of `(S, B, U)` outputs.

    Numbers of less than 32 bits are converted to float32 first. Equal to torch's own function, whose norms
    take twenty times as long over the units of batch-last storage.

    Example:
        >>> import torch
        >>> cosine_similarity(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[2.0, 0.0]]]))
        tensor([[0.6000]])
    """
    a, b = (own.float() if own.dtype.itemsize < 4 else own for own in (a, b))
    inverse_a, inverse_b = (own.square().sum(-1).clamp(min=SMALLEST**2).rsqrt() for own in (a, b))
    return (a * b).sum(-1) * inverse_a * inverse_b
