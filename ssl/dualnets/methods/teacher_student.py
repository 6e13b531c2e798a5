"""Teacher and student: a network learns the outputs of a fixed one.

The pair of networks of docs/theory.md, Section 2, with the second one fixed (Tian, arXiv 1909.13458;
docs/theory.md, Section 7). With f the student, h its readout and f_teacher the teacher,

    L = 1/2 || h(f(x)) - f_teacher(x) ||^2

on one view, averaged over the batch; the gradient with respect to a layer is K_1 (f - f_teacher), K_1
the layer's connection. The teacher is any network of `dualnets.networks`. The trained readout h lets a
student of another output width imitate it. `dualnets.specialisation` measures, unit by unit, how much of
the teacher the student has found.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dualnets._checks import check_kind, check_network
from dualnets._lazy import torch
from dualnets.methods.protocol import (
    Batch,
    Method,
    Needs,
    State,
    TrainContext,
    apply_head,
    detached_copy,
    init_head,
    output_units,
    outputs,
    strip_prefix,
    with_prefix,
)
from dualnets.networks.heads import Head
from dualnets.optim.per_member import Group

if TYPE_CHECKING:
    from torch import Tensor, nn

PLACE = 0  # of the readout's random numbers


@dataclass(frozen=True)
class TeacherStudent(Method):
    """A student, one view of a sample, and a teacher that never changes.

    State: `teacher.…`, the teacher's parameters and buffers; `readout.…`, trained except for its
    running moments.

    Attributes:
        teacher: a network that reads the same leaves: one for all members, or one that has the address
            of every member. It is used as in evaluation, in the student's dtype.
        readout: head on the student's outputs; `Head()` for none.
        rates: rates of the readout; one number each or one per member.

    Raises:
        TypeError: a teacher that is not a network of `dualnets.networks`, or a value of another type.
        ValueError: before training, a teacher that reads other leaves, lacks a member, or has other
            outputs than the student's readout.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> teacher = dualnets.tree_network(trees, units=2, seed=7)
        >>> student = dualnets.tree_network(trees, units=6, seed=1)
        >>> method = TeacherStudent(teacher, readout=Head((2,), bias=False))
        >>> final = dualnets.train(student, method, trees, augment=hltm.resample_leaves(0.0),
        ...                        steps=300, batch=32, optimizer=dualnets.SGD(lr=0.3), seed=2)
        >>> bool((final.losses < 1e-3).all())
        True
    """

    teacher: nn.Module
    readout: Head = Head()  # noqa: RUF009, frozen
    rates: Group = Group()  # noqa: RUF009, immutable
    per_member: ClassVar[tuple[str, ...]] = ("rates",)
    # copies of the teacher for other members and devices; their parameters come from the state
    _shapes: dict[tuple[object, ...], nn.Module] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_network("teacher", self.teacher)
        check_kind("readout", self.readout, Head, "dualnets.Head((4,))")
        check_kind("rates", self.rates, Group, "dualnets.Group(lr=2.0)")

    @property
    def needs(self) -> Needs:
        return Needs(views=1)

    @property
    def groups(self) -> dict[str, Group]:
        return {"readout": self.rates}

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where the student cannot imitate the teacher."""
        super().check(network, setup)
        if self.teacher.inputs != network.inputs:
            raise ValueError(
                f"the teacher reads {self.teacher.inputs} leaves, the student {network.inputs}"
            )
        own = self._addresses()
        missing = [m for m in network.members if own and m not in own]  # type: ignore[union-attr]
        if missing:
            raise ValueError(f"there is no teacher for member {missing[0]}, only for {own}")
        wanted = output_units(self.teacher, setup)
        units = output_units(network, setup)
        self.readout.check(units, "readout")
        given = self.readout.outputs(units)
        if wanted != given:
            raise ValueError(
                f"the teacher has {wanted} outputs, the student {given}: give a readout with {wanted}"
            )

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        members: Sequence[int] = network.members  # type: ignore[assignment]
        own, like = self._addresses(), next(network.parameters())
        places = [own.index(m) for m in members] if own else [0] * len(members)
        teacher = {
            name: tensor[places].to(like.device, like.dtype if tensor.is_floating_point() else None)
            for name, tensor in detached_copy(self.teacher).items()
        }
        units = output_units(network, setup)
        readout = init_head("readout", self.readout, units, network, setup, PLACE)
        return with_prefix("teacher", teacher) | readout

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        (output,) = outputs(network, batch)
        with torch.no_grad():
            (wanted,) = outputs(self._shaped(network), batch, strip_prefix(state, "teacher"))
        found, carried = apply_head("readout", self.readout, state, output)
        return (found - wanted).square().sum(-1).mean(-1) / 2, carried

    def embedding(
        self, network: nn.Module, state: State, leaves: Tensor, *, batch_statistics: bool = False
    ) -> Tensor:
        """`(S, B, U)`, the vectors that the loss compares with the teacher: the outputs of the readout."""
        own = super().embedding(network, state, leaves, batch_statistics=batch_statistics)
        return self.readout(strip_prefix(state, "readout"), own, running=not batch_statistics)

    def _addresses(self) -> tuple[int, ...]:
        """The addresses of the teacher's members; none where there is one teacher for all."""
        found = tuple(self.teacher.members)  # type: ignore[arg-type]
        return found if self.teacher.stacked and len(found) > 1 else ()

    def _shaped(self, network: nn.Module) -> nn.Module:
        """The teacher as a network of the student's members, whose parameters come from the state."""
        like = next(network.parameters())
        key = (network.members, network.stacked, like.device, like.dtype)
        if key not in self._shapes:
            found = copy.deepcopy(self.teacher).to(like.device, like.dtype).eval()
            found.members, found.stacked = network.members, network.stacked
            self._shapes[key] = found
        return self._shapes[key]
