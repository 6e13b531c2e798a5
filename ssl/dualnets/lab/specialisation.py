"""Specialisation of a student to its teacher: the best student unit for every unit of the teacher.

Activations are compared as the layer above reads them: after the ReLU, those of the top layer without. A
teacher's unit counts as found where some student's unit correlates with it; 1 is the ceiling where the
student can be the teacher, since scale and shift do not matter (docs/theory.md, Section 7). Units are
compared with those of the same block where both networks have the same blocks, else with the whole layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hltm.probe.accumulators.correlation import StreamingCorrelation
from hltm.probe.batches import row_ranges
from hltm.probe.metrics.correlation import Correlation
from hltm.probe.null import LAGS, NullSet
from hltm.sampling.philox import Stream, check_seed
from hltm.sampling.sample import sample
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

KEY = ["member", "layer", "block", "teacher_unit"]
COLUMNS = [*KEY, "candidates", "unit", "value", "null", "initial", "n"]


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

    parts = []
    found = _correlations(student, teacher, trees, samples, check_seed(seed), lags)
    for layer, (correlation, null, blocks) in found.items():
        dead = correlation.isnan().any(-2)  # (S, V, T)
        best, unit = correlation.nan_to_num(-2.0).max(-2)
        index = {
            "member": student.members,
            "layer": layer,
            "block": range(best.shape[1]) if blocks else [-1],
            "teacher_unit": range(best.shape[2]),
            "candidates": "block" if blocks else "layer",
        }
        columns = {
            "unit": unit.masked_fill(dead, -1).cpu(),
            "value": best.masked_fill(dead, torch.nan).cpu(),
            "null": null.cpu(),
            "n": samples,
        }
        parts.append(tidy(index, columns))
    table = pd.concat(parts, ignore_index=True)
    table["initial"] = float("nan")
    if initial is not None:
        before = specialisation(initial, teacher, trees, samples=samples, seed=seed, lags=lags)
        table["initial"] = table[KEY].merge(before, on=KEY, how="left")["value"]
    return table[COLUMNS]


def _correlations(
    student: Any, teacher: Any, trees: LatentTree, n: int, seed: int, lags: int
) -> dict[int, tuple[Tensor, Tensor, bool]]:
    """Level -> `(S, V, U, T)` correlations, `(S, V, T)` null, and whether V counts blocks.

    T counts the teacher's units; V is 1 where whole layers are compared.
    """
    _check(student, teacher, trees, n, lags)
    trackers: dict[int, StreamingCorrelation] = {}
    nulls: dict[int, NullSet] = {}
    blocks: dict[int, bool] = {}
    for ours, theirs, others in _batches(student, teacher, trees, n, seed, 2 * lags):
        for level in theirs:
            blocks[level] = ours[level].ndim == theirs[level].ndim == 4 and (
                ours[level].shape[2] == theirs[level].shape[2]
            )
            a, b, c = (_batch_last(x[level], blocks[level]) for x in (ours, theirs, others))
            trackers.setdefault(level, StreamingCorrelation()).update(a, b)
            if lags:
                nulls.setdefault(level, NullSet({"correlation": Correlation}, lags=lags)).update(
                    a, c
                )
    found = {}
    for level, tracker in trackers.items():
        # a unit of the teacher that never varies, up to rounding
        still = tracker.square_z <= 1e-10 * tracker.samples * tracker.mean_z.square()
        correlation = tracker.correlation().masked_fill(still[..., None, :], torch.nan)
        null = torch.full_like(correlation[..., 0, :], torch.nan)
        if lags:
            null = nulls[level].quantile("correlation", signed=True)
        found[level] = correlation, null.masked_fill(still, torch.nan), blocks[level]
    return found


def _batches(
    student: Any, teacher: Any, trees: LatentTree, n: int, seed: int, least: int
) -> Iterator[tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]]:
    """Both networks' activations on the same rows, and the teacher's on others; `(S, B, …)` each."""
    for rows in row_ranges(n, max(least, 2)):
        states = [
            sample(
                trees.tables, student.members, len(rows), seed=seed, start=rows.start,
                stream=stream, device=student.device,
            ).states_SVB[:, trees.leaves.start :].transpose(1, 2)
            for stream in (Stream.EVALUATION, Stream.NULL)
        ]  # fmt: skip
        yield (
            _activations(student, states[0]),
            _activations(teacher, states[0]),
            _activations(teacher, states[1]),
        )


@torch.no_grad()
def _activations(network: Any, leaves: Tensor) -> dict[int, Tensor]:
    """Level -> `(S, B, …)` activations as the layer above reads them, for `(S, B, X)` leaves."""
    members = len(leaves)
    leaves = leaves.to(network.device)
    if network.stacked and len(network.members) == members:
        given = leaves
    else:  # one network for all: its rows one after the other
        given = leaves.flatten(0, 1)
        given = given[None] if network.stacked else given
    found = network.activations(given)
    if hasattr(network, "rectify"):
        found = network.rectify(found)
    if given is leaves:
        return dict(found)
    return {
        level: (values[0] if network.stacked else values).unflatten(0, (members, -1))
        for level, values in found.items()
    }


def _batch_last(values: Tensor, blocks: bool) -> Tensor:
    """`(S, V, U, B)`; the whole layer as one block unless blocks are compared with blocks."""
    return values.permute(0, 2, 3, 1) if blocks else values.flatten(2).transpose(1, 2)[:, None]


def _check(student: Any, teacher: Any, trees: LatentTree, n: int, lags: int) -> None:
    members = tuple(student.members)
    if len(teacher.members) > 1 and tuple(teacher.members) != members:
        raise ValueError(f"the teacher has members {teacher.members}, the student {members}")
    for network in (student, teacher):
        if network.inputs != len(trees.leaves):
            raise ValueError(
                f"the trees have {len(trees.leaves)} leaves, a network reads {network.inputs}"
            )
    if lags < 0:
        raise ValueError(f"lags must be at least 0, got {lags}")
    if n < max(2 * lags, 2):
        raise ValueError(f"{lags} lags need at least {max(2 * lags, 2)} rows, got {n}")
    if teacher.depth > student.depth:
        raise ValueError(
            f"the teacher has levels 1..{teacher.depth}, the student 1..{student.depth}"
        )
