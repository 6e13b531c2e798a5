"""Which of many vectors belongs to a query: the losses of MoCo and PIRL.

With v the query of a sample, m the vector that belongs to it, n the M candidates that do not, Z = Σ_n
exp(v·n/τ) and h(u) = exp(v·u/τ) / (exp(v·u/τ) + Z) for u = m or n, a query's loss is -log h(m), to which
-Σ_n log(1 - h(n)) may be added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualnets._lazy import torch
from dualnets.methods._plain import plain_losses

if TYPE_CHECKING:
    from torch import Tensor


def matching_losses(
    queries: Tensor,
    positives: Tensor,
    candidates: Tensor,
    temperature: float,
    *,
    places: tuple[Tensor, Tensor] | None = None,
    classify: bool = False,
) -> Tensor:
    """`(S, B)` losses; only queries may have gradients.

    Args:
        queries, positives: v and m, `(S, B, U)`.
        candidates: n, `(S, M, U)`.
        temperature: τ.
        places: `(B,)` and `(S, M)` int64, where in a memory samples and candidates are: a candidate that is
            the sample itself is left out.
        classify: whether -Σ_n log(1 - h(n)) is added.

    Example:
        >>> v = torch.tensor([[[1.0, 0.0]]])
        >>> matching_losses(v, v, torch.zeros(1, 3, 2), 1.0).exp()  # (e + 3) / e
        tensor([[2.1036]])
    """
    from dualnets.methods.compiled.operation import is_supported

    queries = queries.to(positives.dtype)
    own, theirs = places or (
        torch.empty(0, dtype=torch.int64, device=queries.device),
        torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device),
    )
    given = (queries, positives, candidates, own, theirs, temperature, classify)
    fixed = not (positives.requires_grad or candidates.requires_grad)
    if fixed and is_supported(queries, positives, candidates):
        from dualnets.methods.compiled.matching import match

        return match(*given)[0]
    return plain_losses(*given)
