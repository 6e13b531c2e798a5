"""Specialisation of a student to its teacher: the best student unit for every unit of the teacher.

Activations are compared as the layer above reads them: after the ReLU, those of the top layer without. A
teacher's unit counts as found where some student's unit correlates with it; 1 is the ceiling where the
student can be the teacher, since scale and shift do not matter (docs/theory.md, Section 7). Units are
compared with those of the same block where both networks have the same blocks, else with the whole layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hltm.probe import Correlation, probe_layers
from hltm.probe.accumulators.units import StreamingUnits
from hltm.probe.null import LAGS
from hltm.sampling.draw import Draw
from hltm.sampling.philox import Stream
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

NAME = "signed correlation"
KEY = ["member", "layer", "block", "teacher_unit"]
COLUMNS = [*KEY, "candidates", "unit", "value", "null", "initial", "n"]


class SignedCorrelation(Correlation):
    """The correlation with its sign, of which a negative one is less than none."""

    null = "signed_correlation"
    takes_batches = True

    def strength(self) -> Tensor:
        return self.correlation()


def specialisation(
    student: Any,
    teacher: Any,
    trees: LatentTree,
    *,
    samples: int,
    seed: int,
    initial: Any = None,
    lags: int = LAGS,
) -> pd.DataFrame:
    """Every unit of the teacher with the student's unit that correlates with it best.

    Args:
        student: a network of `dualnets.networks`.
        teacher: another, with the student's members or a single one; its layers are compared with
            the student's of the same level.
        trees: the data, as for the student.
        samples: rows, of a stream that training never reads.
        seed: of the rows.
        initial: the student before training, for the column of the same name.
        lags: pairings of the student with the teacher on other rows, which make the null.

    Returns:
        One row per member, layer, block and unit of the teacher: the best `unit` among the
        `candidates` (`block` or `layer`), its correlation `value`, that of the best unit of the
        untrained student (`initial`), and `null`, the 95% point over the lags of the best correlation of
        the same candidates with the teacher on other rows. All are signed: below the top, a unit that is
        on where the teacher's is off has not found it. A teacher's unit that never varies has NaN, since
        there is nothing to find. Blocks are numbered from 0; -1 stands for the whole layer.

    Raises:
        ValueError: a teacher of other members or leaves, a layer the student does not have, or fewer
            rows than twice the lags.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> teacher = dualnets.tree_network(tree, units=2, seed=7, bias=True)
        >>> student = dualnets.tree_network(tree, units=5, seed=1, bias=True)
        >>> table = specialisation(student, teacher, tree, samples=2000, seed=3)
        >>> len(table), bool((table.value > table.null).any())
        (6, True)
        >>> bool((specialisation(teacher, teacher, tree, samples=2000, seed=3).value > 0.999).any())
        True
    """
    import pandas as pd

    from dualnets.lab.tidy import tidy

    _check(student, teacher, trees)
    wanted = TeacherUnits(teacher, student.stacked)
    layers: dict[Any, Any] = probe_layers(
        AsRead(student), trees, samples=samples, seed=seed, lags=lags, details=False,
        metrics={NAME: SignedCorrelation}, targets=wanted,
    )  # fmt: skip
    parts = []
    for layer, found in layers.items():
        blocks = found.candidates == "own block"
        shape = (len(found.dead), found.blocks, -1)
        # a unit of the teacher that never varies
        dead = wanted.units[layer].dead().cpu()
        dead = dead.unflatten(-1, (found.blocks, -1)).expand(*shape)
        score = found.scores[NAME]
        best, unit, null = (own.reshape(shape) for own in (score.best, score.unit, score.null))
        index = {
            "member": student.members,
            "layer": layer,
            "block": range(found.blocks) if blocks else [-1],
            "teacher_unit": range(best.shape[2]),
            "candidates": "block" if blocks else "layer",
        }
        columns = {
            "unit": (unit % (len(found.allowed) // found.blocks)).masked_fill(dead, -1),
            "value": best.masked_fill(dead, torch.nan),
            "null": null.masked_fill(dead, torch.nan),
            "n": samples,
        }
        parts.append(tidy(index, columns))
    table = pd.concat(parts, ignore_index=True)
    table["initial"] = float("nan")
    if initial is not None:
        before = specialisation(initial, teacher, trees, samples=samples, seed=seed, lags=lags)
        table["initial"] = table[KEY].merge(before, on=KEY, how="left")["value"]
    return table[COLUMNS]


class AsRead:
    """A network whose activations are shown as the layer above reads them."""

    def __init__(self, network: Any) -> None:
        self.network, self.members, self.stacked = network, network.members, network.stacked
        self.device = network.device

    @torch.no_grad()
    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Level -> `(S, B, V, U)` or `(S, B, U)`; no S where the network has none."""
        found = self.network.activations(leaves)
        rectify = getattr(self.network, "rectify", dict)
        return dict(rectify(found))


class TeacherUnits:
    """The teacher's activations on the rows of a draw, as targets of a probe.

    Attributes:
        units: level -> which units have varied so far, on the rows that are measured.
    """

    def __init__(self, teacher: Any, stacked: bool) -> None:
        self.teacher, self.stacked = AsRead(teacher), stacked
        self.units: dict[int, StreamingUnits] = {}

    def __call__(self, draw: Draw) -> dict[Any, Tensor]:
        """Level -> activations with the S axis of the student."""
        leaves = draw.leaves if draw.stacked else draw.leaves[None]
        found = {}
        for level, values in self._on(leaves.to(self.teacher.device)).items():
            if draw.stream != Stream.NULL:
                own = self.units.setdefault(level, StreamingUnits(checked=False))
                own.take(values.flatten(2).transpose(1, 2))
            found[level] = values if self.stacked else values[0]
        return found

    def _on(self, leaves: Tensor) -> dict[int, Tensor]:
        """Level -> `(S, B, …)` activations for `(S, B, X)` leaves."""
        members, network = len(leaves), self.teacher
        if network.stacked and len(network.members) == members:
            return network.activations(leaves)
        # one teacher for all: its rows one after the other
        given = leaves.flatten(0, 1)
        found = network.activations(given[None] if network.stacked else given)
        return {
            level: (values[0] if network.stacked else values).unflatten(0, (members, -1))
            for level, values in found.items()
        }


def _check(student: Any, teacher: Any, trees: LatentTree) -> None:
    members = tuple(student.members)
    if len(teacher.members) > 1 and tuple(teacher.members) != members:
        raise ValueError(f"the teacher has members {teacher.members}, the student {members}")
    for network in (student, teacher):
        if network.inputs != len(trees.leaves):
            raise ValueError(
                f"the trees have {len(trees.leaves)} leaves, a network reads {network.inputs}"
            )
    if teacher.depth > student.depth:
        raise ValueError(
            f"the teacher has levels 1..{teacher.depth}, the student 1..{student.depth}"
        )
