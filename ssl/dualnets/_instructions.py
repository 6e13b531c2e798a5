"""Instructions on vectors, written for compiled kernels in LLVM's own language, for any processor.

The size of a vector register is that of this machine: 64 bytes with AVX-512, 32 with AVX, else 16. LLVM
makes instructions of the processor of vectors of any length, so nothing here depends on one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir

# NaN and infinity keep their meaning, as members whose loss is not finite must be found
FLAGS = ("contract",)


def _register_bytes() -> int:
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


REGISTER = _register_bytes()  # bytes


class Writer:
    """Writes instructions on vectors of a dtype, `number`, at addresses, which are numbers, or pointers.

    Args:
        builder: of the function that is written.
        number: LLVM's float or double.
        lanes: numbers in a vector; by default as many as a register holds.
    """

    def __init__(self, builder: Any, number: Any, lanes: int | None = None) -> None:
        self.builder, self.number = builder, number
        self.size = 4 if number == ir.FloatType() else 8
        self.lanes = REGISTER // self.size if lanes is None else lanes
        self.vector = ir.VectorType(number, self.lanes)
        self.i64, self.i32 = ir.IntType(64), ir.IntType(32)

    def index(self, value: int) -> Any:
        return ir.Constant(self.i64, value)

    def constant(self, value: float) -> Any:
        """A number in every lane."""
        return ir.Constant(self.vector, [ir.Constant(self.number, value)] * self.lanes)

    def row(self, base: Any, step: Any, row: Any) -> Any:
        """base + step * row."""
        return self.builder.add(base, self.builder.mul(step, row))

    def listed(self, base: Any, step: Any, rows: Any, i: Any) -> Any:
        """The address of row rows[i]."""
        own = self.builder.load(
            self.builder.inttoptr(self.row(rows, self.index(8), i), self.i64.as_pointer())
        )
        return self.row(base, step, own)

    def _pointer(self, address: Any, kind: Any) -> Any:
        cast = self.builder.inttoptr if address.type == self.i64 else self.builder.bitcast
        return cast(address, kind.as_pointer())

    def load(self, address: Any, kind: Any = None) -> Any:
        pointer = self._pointer(address, self.vector if kind is None else kind)
        return self.builder.load(pointer, align=self.size)

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self._pointer(address, value.type), align=self.size)

    def vectors(self, address: Any, count: int) -> list[Any]:
        """Neighbouring vectors."""
        step = self.lanes * self.size
        return [self.load(self.builder.add(address, self.index(i * step))) for i in range(count)]

    def store_all(self, values: list[Any], address: Any) -> None:
        """Store vectors side by side."""
        for i, value in enumerate(values):
            self.store(value, self.builder.add(address, self.index(i * self.lanes * self.size)))

    def broadcast(self, value: Any) -> Any:
        """A scalar in every lane."""
        one = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), value, ir.Constant(self.i32, 0)
        )
        return self.shuffle(one, one, [0] * self.lanes)

    def shuffle(self, a: Any, b: Any, places: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(self.i32, len(places)), places)
        return self.builder.shuffle_vector(a, b, mask)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        return self.builder.fadd(total, self.builder.fmul(a, b, flags=FLAGS), flags=FLAGS)

    def loop(self, end: Any, step: int, start: list[Any], body: Callable[..., list[Any]]) -> Any:
        """Values after `values = body(i, values)` for i = 0, step, … below `end`."""
        builder = self.builder
        before = builder.block
        head = builder.append_basic_block("head")
        inside = builder.append_basic_block("inside")
        after = builder.append_basic_block("after")
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(self.i64)
        values = [builder.phi(value.type) for value in start]
        builder.cbranch(builder.icmp_signed("<", i, end), inside, after)
        builder.position_at_end(inside)
        new = body(i, values)
        following = builder.add(i, self.index(step))
        inside = builder.block
        builder.branch(head)
        for phi, first, again in zip(
            [i, *values], [self.index(0), *start], [following, *new], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(again, inside)
        builder.position_at_end(after)
        return values

    def clamped(self, count: int, last: Any) -> list[Any]:
        """The numbers 0 .. count - 1, none above `last`."""
        found = []
        for i in range(count):
            own = self.index(i)
            found.append(self.builder.select(self.builder.icmp_signed("<", own, last), own, last))
        return found

    def transposed(self, rows: list[Any]) -> list[Any]:
        """As many vectors as there are lanes, as rows of a square: its columns."""
        step = 1
        while (
            step < self.lanes
        ):  # squares of 2 * step rows exchange their upper right and lower left
            low = [j - step + self.lanes if j & step else j for j in range(self.lanes)]
            high = [j + self.lanes if j & step else j + step for j in range(self.lanes)]
            pairs = [(rows[i & ~step], rows[i | step]) for i in range(self.lanes)]
            rows = [self.shuffle(*own, high if i & step else low) for i, own in enumerate(pairs)]
            step *= 2
        return rows

    def totals(self, parts: list[Any]) -> list[tuple[Any, int]]:
        """The sum over the lanes of each vector, as (vector, lane).

        Vectors are joined in pairs: half of the lanes of the sum belong to each.
        """
        found: list[tuple[Any, int]] = []
        while parts:
            count = 1
            while count * 2 <= min(len(parts), self.lanes):
                count *= 2
            now, parts = parts[:count], parts[count:]
            segment = self.lanes  # neighbouring lanes that belong to one of them
            while len(now) > 1:
                now = [
                    self._halved(a, b, segment) for a, b in zip(now[::2], now[1::2], strict=True)
                ]
                segment //= 2
            (vector,) = now
            while segment > 1:
                vector = self._halved(vector, None, segment)
                segment //= 2
            found += [(vector, lane) for lane in range(count)]
        return found

    def _halved(self, a: Any, b: Any, segment: int) -> Any:
        """The sum of the two halves of every segment of `a`, followed by those of `b`."""
        count = a.type.count * (1 if b is None else 2)
        low = [i for i in range(count) if i % segment < segment // 2]
        high = [i + segment // 2 for i in low]
        b = a if b is None else b
        return self.builder.fadd(self.shuffle(a, b, low), self.shuffle(a, b, high), flags=FLAGS)
