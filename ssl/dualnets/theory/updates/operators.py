"""Symmetric forms in K: operators Σ_ij G_ij K_i K_jᵀ on a weight, as products, matrix and eigenpairs.

Every operator of the theory has this form, with i and j running over views and a kernel G that
tells what is being averaged: for V_x[E_aug K] it centres averages over views (theory, Section 3);
for a loss of pairs it is the graph Laplacian of the pairs' weights. On a weight it acts as
v -> Σ_i K_i (G Kᵀ v)_i: one forward-mode and one reverse-mode product, never K itself. With the
outputs f in the place of Kᵀ v it gives the update that holds for any network.
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


class OperatorEstimate(NamedTuple):
    """A value and its standard error, of the same shape: zeros where the value is exact."""

    value: Tensor
    standard_error: Tensor


class Eigenpairs(NamedTuple):
    """Leading eigenpairs, largest first.

    Attributes:
        values: `(k,)` or `(S, k)`.
        vectors: `(P, k)` or `(S, P, k)`, of length 1.
    """

    values: Tensor
    vectors: Tensor


class Operator:
    """The mean of one (exact) or several (independent, unbiased) forms Σ_ij G_ij K_i K_jᵀ.

    Arrays have the S axis where the network has it.

    Args:
        parts: connections and kernels; several are independent estimates of the same operator.
        exact: whether the one part is the operator itself.
        symmetric: whether G is.
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
        """P: the operator is P x P."""
        return self._first.size

    @property
    def weight(self) -> Tensor:
        """`(P,)` or `(S, P)` the weight it belongs to."""
        return self._first.weight

    def __repr__(self) -> str:
        kind = "exact" if self.exact else f"mean of {len(self.parts)} estimates"
        return f"Operator({self._first.name}: {self.size} x {self.size}, {kind})"

    def matvec(self, direction: Tensor) -> Tensor:
        """The operator times `(P,)` or `(S, P)`."""
        inside = self._first._inside(direction, (self.size,))
        found = sum(part.summed_S(kernel(part.transposed_S(inside))) for part, kernel in self.parts)
        assert isinstance(found, Tensor)
        return self._public(found * (self.factor / len(self.parts)))

    def on_outputs(self) -> OperatorEstimate:
        """Σ_ij G_ij K_i f_j: the update in the form that holds for any network."""
        return self._estimate(
            part.summed_S(kernel(part.outputs if part.stacked else part.outputs[None]))
            for part, kernel in self.parts
        )

    def on_weight(self) -> OperatorEstimate:
        """The operator times its weight, the same update where Kᵀ w = f.

        Raises:
            ValueError: where it is not, saying why.
        """
        for part, _ in self.parts:
            check_operator_form(part)
        weight = self._first._inside(self.weight, (self.size,))
        return self._estimate(
            part.summed_S(kernel(part.transposed_S(weight))) for part, kernel in self.parts
        )

    def matrix(self, *, most_entries: int = MAX_ENTRIES) -> OperatorEstimate:
        """The operator as an array, `(P, P)` or `(S, P, P)`.

        Estimates are taken in one after the other, so the arrays held are as few for a thousand of
        them as for two.

        Args:
            most_entries: of one such array.

        Raises:
            ValueError: the matrix, or one column of K at all views, has more than `most_entries`.
        """
        members, rows = self._first.members, self._first._outputs.shape[1]
        for count, what in (
            (members * self.size**2, f"a matrix of {self.size} x {self.size}"),
            (members * rows * self.size, f"K of {rows} views, {self.size} entries each"),
        ):
            if count > most_entries:
                raise ValueError(
                    f"{what} ({members} member(s)) has {count} numbers, more than {most_entries}; "
                    "matvec and leading need none of them"
                )

        def matrices() -> Iterator[Tensor]:
            for part, kernel in self.parts:
                total = torch.zeros(members, self.size, self.size, dtype=self.weight.dtype,
                                    device=self.weight.device)  # fmt: skip
                for output in range(part._outputs.shape[2]):
                    column = part.column_S(output)  # (S, B, P)
                    total += column.transpose(1, 2) @ kernel(column)
                yield total

        return self._estimate(matrices())

    def linear_operator(self, member: int | None = None) -> LinearOperator:
        """For scipy, in float64; of an ensemble, one member's (computed beside the others).

        Raises:
            ValueError: a member where there is no S axis, none where there is one.
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

        An operator that is zero, as of a dead network, has eigenvalues 0 and the first unit vectors.

        Raises:
            ValueError: a count outside 1..P-1, or an operator that is not symmetric.
            ArithmeticError: products that are not finite.
        """
        if not self.symmetric:
            raise ValueError("eigsh needs a symmetric operator; this one has one branch only")
        count = check_whole("count", count, low=1)
        if count >= self.size:
            raise ValueError(f"count must be in 1..{self.size - 1}, got {count}")
        chosen: Sequence[int | None] = range(self._first.members) if self._first.stacked else [None]
        values, vectors = [], []
        for member in chosen:
            start = np.random.default_rng(0).standard_normal(self.size)  # the same every time
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
        return Eigenpairs(self._public(torch.stack(values)), self._public(torch.stack(vectors)))

    def _estimate(self, found: Iterable[Tensor]) -> OperatorEstimate:
        """Mean and standard error of the parts' results, none of which is kept (Welford's sums)."""
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
            error = squares  # of one part: 0
        elif count < 2:
            error = torch.full_like(value, torch.nan)
        else:
            error = (squares / (count * (count - 1))).sqrt_()
        return OperatorEstimate(self._public(value), self._public(error))

    def _public(self, found: Tensor) -> Tensor:
        return found if self._first.stacked else found[0]
