"""Symmetric forms in K: operators Σ_ij G_ij K_i K_jᵀ on a weight, as products, matrix and eigenpairs.

Every operator of the theory has this form, where i and j run over views, K_i is the connection at view
i, and the kernel G determines what is averaged (docs/theory.md, Equation 3.9): for V_x[E_aug K] it
centres averages over views; for a loss of pairs it is the graph Laplacian of the pairs' weights. On a
weight the operator acts as v -> Σ_i K_i (G Kᵀ v)_i: one forward-mode and one reverse-mode product,
and K is never made. With the outputs f in the place of Kᵀ v it gives the update that holds for any
network.

Axes: S member, B sample (a view), P entry of the weight, n output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from dualnets._checks import check_whole
from dualnets.theory.updates.connection import MAX_ENTRIES, Connection
from dualnets.theory.updates.operator_form import check_operator_form

Kernel = Callable[[Tensor], Tensor]  # (S, B, m) -> (S, B, m), linear in each column


class TensorEstimate(NamedTuple):
    """A tensor and the standard error of each entry.

    Attributes:
        value: the mean of independent estimates, or the exact value.
        standard_error: of the value's shape; zeros where the value is exact, NaN for one estimate.
    """

    value: Tensor
    standard_error: Tensor

    def __repr__(self) -> str:
        shape, largest = tuple(self.value.shape), float(self.standard_error.nan_to_num().max())
        error = "exact" if not self.standard_error.any() else f"standard errors up to {largest:.2g}"
        error = "one estimate" if bool(self.standard_error.isnan().any()) else error
        return f"TensorEstimate({shape}, norm {float(self.value.norm()):.4g}, {error})"


class Eigenpairs(NamedTuple):
    """Leading eigenvalues and eigenvectors, largest first.

    Attributes:
        values: `(k,)` or `(S, k)` eigenvalues.
        vectors: `(P, k)` or `(S, P, k)` eigenvectors, as columns of length 1.
    """

    values: Tensor
    vectors: Tensor


class Operator:
    """The mean of one exact or of several independent, unbiased forms Σ_ij G_ij K_i K_jᵀ.

    Arrays have the S axis where the network has it.

    Args:
        parts: connections and kernels; several are independent estimates of the same operator.
        exact: whether the one part is the operator itself.
        symmetric: whether G is symmetric.
        factor: what the mean is multiplied by.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Connection, Kernel]],
        *,
        exact: bool,
        symmetric: bool = True,
        factor: float = 1.0,
    ) -> None:
        self.parts, self.exact, self.symmetric = list(parts), exact, symmetric
        self.factor = factor
        self._first = self.parts[0][0]

    @property
    def size(self) -> int:
        """P, the number of entries of the weight: the operator is P x P."""
        return self._first.size

    @property
    def weight(self) -> Tensor:
        """`(P,)` or `(S, P)` the weight on which the operator acts."""
        return self._first.weight

    def __repr__(self) -> str:
        kind = "exact" if self.exact else f"mean of {len(self.parts)} estimates"
        return f"Operator({self._first.name}: {self.size} x {self.size}, {kind})"

    def matvec(self, direction: Tensor) -> Tensor:
        """The operator times `(P,)` or `(S, P)`."""
        inside = self._first.with_axis(direction, (self.size,))
        found = sum(part.summed_S(kernel(part.transposed_S(inside))) for part, kernel in self.parts)
        assert isinstance(found, Tensor)
        return self._first.without_axis(found * (self.factor / len(self.parts)))

    def on_outputs(self) -> TensorEstimate:
        """Σ_ij G_ij K_i f_j: the update, in the form that holds for any network."""
        return self._estimate(part.summed_S(kernel(part.outputs_S)) for part, kernel in self.parts)

    def on_weight(self) -> TensorEstimate:
        """The operator times its weight: the same update, for networks with Kᵀ w = f.

        Raises:
            ValueError: Kᵀ w is not f up to a constant (see `check_operator_form`).
        """
        for part, _ in self.parts:
            check_operator_form(part)
        return self._estimate(
            part.summed_S(kernel(part.transposed_S(self._first.weight_S)))
            for part, kernel in self.parts
        )

    def matrix(self, *, most_entries: int = MAX_ENTRIES) -> TensorEstimate:
        """The operator as an array, `(P, P)` or `(S, P, P)`.

        Estimates are added up one after the other, so a thousand of them need no more memory than two.

        Args:
            most_entries: the largest number of entries of an array.

        Raises:
            ValueError: the matrix, or one column of K at all views, has more than `most_entries`.
        """
        members, views = self._first.members, self._first.outputs_S.shape[1]
        for count, what in (
            (members * self.size**2, f"a matrix of {self.size} x {self.size}"),
            (members * views * self.size, f"K of {views} views, {self.size} entries each"),
        ):
            if count > most_entries:
                raise ValueError(
                    f"{what} ({members} member(s)) has {count} numbers, more than {most_entries}; "
                    "matvec and leading work without it"
                )

        def matrices() -> Iterator[Tensor]:
            for part, kernel in self.parts:
                total = torch.zeros(members, self.size, self.size, dtype=self.weight.dtype,
                                    device=self.weight.device)  # fmt: skip
                for output in range(part.outputs_S.shape[2]):
                    column = part.column_S(output)  # (S, B, P)
                    total += column.transpose(1, 2) @ kernel(column)
                yield total

        return self._estimate(matrices())

    def linear_operator(self, member: int | None = None) -> LinearOperator:
        """The operator as scipy's LinearOperator, in float64; of an ensemble, that of one member.

        A product takes as long as that of all members, which are computed together.

        Raises:
            ValueError: a member for a network without the S axis, or none for one that has it.
        """
        if self._first.stacked != (member is not None):
            raise ValueError(
                f"member must be {'a number' if self._first.stacked else 'None'}, got {member}"
            )

        def times(vector: np.ndarray) -> np.ndarray:
            whole = torch.zeros(self._first.members, self.size, dtype=self.weight.dtype)
            whole[member or 0] = torch.from_numpy(np.asarray(vector).reshape(-1))
            found = self.matvec(whole if self._first.stacked else whole[0])
            found = found if member is None else found[member]
            return found.detach().cpu().numpy().astype(np.float64)

        return LinearOperator(
            (self.size, self.size),
            matvec=times,
            rmatvec=times if self.symmetric else None,
            dtype=np.dtype(np.float64),
        )

    def leading(self, count: int = 1) -> Eigenpairs:
        """The `count` largest eigenvalues and their eigenvectors, by scipy's eigsh.

        An operator that is zero, as that of a dead network, has eigenvalues 0 and the first unit vectors.

        Raises:
            TypeError: a count that is not a whole number.
            ValueError: a count outside 1..P-1, or an operator that is not symmetric.
            ArithmeticError: products that are not finite.
        """
        if not self.symmetric:
            raise ValueError(
                "eigsh needs a symmetric operator; one with the gradient through the anchor alone is not"
            )
        count = check_whole("count", count, low=1)
        if count >= self.size:
            raise ValueError(f"count must be in 1..{self.size - 1}, got {count}")
        chosen: Sequence[int | None] = range(self._first.members) if self._first.stacked else [None]
        values, vectors = [], []
        for member in chosen:
            start = np.random.default_rng(0).standard_normal(
                self.size
            )  # fixed: same answer each time
            operator = self.linear_operator(member)
            image = operator @ start
            if not np.isfinite(image).all():
                raise ArithmeticError(f"{self!r} times a finite vector is not finite")
            if not image.any():  # a symmetric operator that takes a random vector to 0 is 0
                values.append(torch.zeros(count, dtype=torch.float64))
                vectors.append(torch.eye(self.size, count, dtype=torch.float64))
                continue
            found = eigsh(operator, k=count, which="LA", v0=start)
            order = np.argsort(found[0])[::-1]
            values.append(torch.from_numpy(found[0][order].copy()))
            vectors.append(torch.from_numpy(found[1][:, order].copy()))
        return Eigenpairs(
            self._first.without_axis(torch.stack(values)),
            self._first.without_axis(torch.stack(vectors)),
        )

    def _estimate(self, found: Iterable[Tensor]) -> TensorEstimate:
        """Mean and standard error of the parts' results, none of which is kept (Welford's method)."""
        count = 0
        for each in found:
            scaled = each.detach() * self.factor
            count += 1
            if count == 1:
                value, squares = scaled, torch.zeros_like(scaled)
                continue
            apart = scaled - value
            value = value + apart / count
            squares += apart.mul_(scaled.sub_(value))
        if self.exact:
            error = squares  # zeros, since an exact operator has one part
        elif count < 2:
            error = torch.full_like(value, torch.nan)
        else:
            error = (squares / (count * (count - 1))).sqrt_()
        return TensorEstimate(self._first.without_axis(value), self._first.without_axis(error))
