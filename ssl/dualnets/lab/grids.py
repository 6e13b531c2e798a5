"""From grids of settings to cells, and the names of cells and runs."""

from __future__ import annotations

import difflib
import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, cast

from dualnets.lab.experiment import Experiment, Fixed, Grid, values_of
from dualnets.lab.fields import applicable_fields, stored_form
from dualnets.lab.store import identity

VARIANT = "variant"  # the field that names variants
Changes = Mapping[str, Sequence[Any]]  # field -> the values that replace those of the grids


def cells(
    experiment: Experiment, scale: str, changes: Changes, only: Sequence[str] = ()
) -> list[Any]:
    """The settings of every cell of a run, in order, each once.

    Args:
        experiment, scale: whose cells.
        changes: field -> values that replace the grids' own. A grid keeps its `Fixed` value, and a
            cell on which a field has no effect keeps the value that its grid has.
        only: the variants whose cells are kept; all if empty.

    Raises:
        ValueError: an unknown scale, variant or field; a field without values, one that every grid fixes
            or that has no effect on any cell; one with which nothing distinguishes a variant; or a value
            that Settings refuses.
    """
    if scale not in experiment.grids:
        raise ValueError(f"unknown scale {scale!r}, expected one of {', '.join(experiment.grids)}")
    grids = _grids(experiment, scale, only)
    _check_changes(experiment, grids, changes)
    found: dict[Any, None] = {}
    effective: set[str] = set()  # changes that have an effect on some cell
    ineffective: dict[str, str] = {}  # changes that have none on some cell -> what they apply to
    for grid in grids:
        own = _own_changes(grid, changes)
        for chosen in _combinations(grid, own):
            settings = experiment.Settings(**chosen)
            unused = settings.unused() if own else {}
            if VARIANT in grid and unused:
                _check_variant(experiment, grid, chosen, unused)
            effective |= own.keys() - unused.keys()
            idle = own.keys() & unused.keys()
            for name in idle:
                ineffective.setdefault(name, unused[name])
                del chosen[name]
                if name in grid:
                    chosen[name] = cast("Sequence[Any]", grid[name])[0]
            found.setdefault(experiment.Settings(**chosen) if idle else settings)
    for name in changes:
        if name in ineffective and name not in effective:
            raise ValueError(
                f"{name.replace('_', '-')} has no effect here: it applies to {ineffective[name]}"
            )
    return list(found)


def _check_variant(
    experiment: Experiment, grid: Grid, chosen: Mapping[str, Any], unused: Mapping[str, str]
) -> None:
    """Raise ValueError where a variant's own settings have no effect because of changes."""
    made_by = [k for k, axis in grid.items() if isinstance(axis, Fixed) and k != VARIANT]
    lost = [name for name in made_by if name in unused]
    if not lost:
        return
    before = experiment.Settings(**{k: values_of(axis)[0] for k, axis in grid.items()}).unused()
    for name in lost:
        if name not in before:
            flag = name.replace("_", "-")
            raise ValueError(
                f"variant {chosen[VARIANT]!r} is made by {flag} {chosen[name]}, which would have no effect: "
                f"{flag} applies to {unused[name]}"
            )


def _grids(experiment: Experiment, scale: str, only: Sequence[str]) -> list[Grid]:
    """The grids of a scale, or those of some variants."""
    every = list(experiment.grids[scale])
    if not only:
        return every
    known = variants(experiment, scale)
    if not known:
        raise ValueError(f"only chooses among variants, and {experiment.flag} has none")
    for name in only:
        if name not in known:
            near = [own for own in known if own.startswith(f"{name} ")]
            near = near or difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
            raise ValueError(
                f"unknown variant {name!r}{hint}, expected some of {', '.join(map(repr, known))}"
            )
    return [grid for grid in every if values_of(grid[VARIANT])[0] in only]


def variants(experiment: Experiment, scale: str) -> list[str]:
    """The names of the variants of a scale, in order; empty for an experiment without variants."""
    named = (grid.get(VARIANT) for grid in experiment.grids[scale])
    return list(dict.fromkeys(own.value for own in named if isinstance(own, Fixed)))


def _check_changes(experiment: Experiment, grids: Sequence[Grid], changes: Changes) -> None:
    known = {item.name for item in fields(experiment.Settings)}
    for name, values in changes.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown setting {name!r}{hint}")
        flag = name.replace("_", "-")
        if not values:
            raise ValueError(f"{flag} needs a value, or several")
        if all(isinstance(grid.get(name), Fixed) for grid in grids):
            hint = "; --only chooses among them" * (name == VARIANT)
            raise ValueError(
                f"{flag} cannot be set: every cell of the experiment has its own{hint}"
            )


def _own_changes(grid: Grid, changes: Changes) -> dict[str, Sequence[Any]]:
    """The changes of one grid, which keeps its `Fixed` values."""
    return {name: v for name, v in changes.items() if not isinstance(grid.get(name), Fixed)}


def _combinations(grid: Grid, own: Changes) -> Iterator[dict[str, Any]]:
    """Every combination of a grid's values, with its own changes in place of them."""
    axes = {**grid, **own}
    for combination in itertools.product(*map(values_of, axes.values())):
        yield dict(zip(axes, combination, strict=True))


def settable_fields(experiment: Experiment, changes: Changes | None = None) -> list[str]:
    """The settings that a flag can change with an effect on some cell of some scale; for the help text."""
    grids = list(itertools.chain.from_iterable(experiment.grids.values()))
    return [
        name
        for name in applicable_fields(experiment.Settings, grids, changes)
        if not all(isinstance(grid.get(name), Fixed) for grid in grids)
    ]


def shown_values(experiment: Experiment, scale: str, name: str) -> str:
    """The values of a field in the grids of a scale, for the help text: with the variants that have them.

    Example:
        >>> from dualnets import experiments
        >>> shown_values(experiments.load("emergence"), "default", "units")
        '2 5 10 | 64 | 10'
    """
    lists = [own for own in values_by_field(experiment, scale)[name] if own != [None]]
    texts = {" ".join(map(str, own)): own for own in lists}
    named: dict[str, list[str]] = {text: [] for text in texts}
    for grid in experiment.grids[scale]:
        if VARIANT in grid and name in grid:
            for text, own in texts.items():
                if values_of(grid[name]) == own:
                    named[text].append(values_of(grid[VARIANT])[0])
    if len(texts) < 2 or not all(named.values()):
        return " | ".join(texts)
    return "; ".join(f"{text} ({', '.join(of)})" for text, of in named.items())


def values_by_field(experiment: Experiment, scale: str) -> dict[str, list[list[Any]]]:
    """Field -> the values it takes in each grid of a scale, equal lists once; for the help text."""
    found: dict[str, list[list[Any]]] = {}
    for item in fields(experiment.Settings):
        default = None if item.default is MISSING else item.default
        lists = found.setdefault(item.name, [])
        for grid in experiment.grids[scale]:
            values = values_of(grid.get(item.name, [default]))
            if values not in lists:
                lists.append(values)
    return found


def cell_name(experiment: Experiment, settings: Any) -> str:
    """A cell's name: the same for the same experiment, result version and settings."""
    return identity(experiment.name, experiment.result_version, stored_form(settings))


def run_name(experiment: Experiment, scale: str, **changes: Any) -> str:
    """The name of a run of a scale, or with settings in place of its own, as `run` takes them."""
    wanted = cells(experiment, scale, value_lists(changes))
    return name_of_cells(experiment, [cell_name(experiment, settings) for settings in wanted])


def name_of_cells(experiment: Experiment, names: Iterable[str]) -> str:
    """The name of the run that consists of these cells, in any order, judged by today's rules."""
    return identity(experiment.name, sorted(set(names)), list(map(repr, experiment.claims)))


def own_settings(
    experiment: Experiment, scale: str, changes: Changes, run_id: str, only: Sequence[str] = ()
) -> str:
    """Why there is no verdict with these settings; empty if they are those that a rule was made for.

    Args:
        experiment, scale, changes, only: as in `run`; other seeds are other trees, and no change.
        run_id: the name of the run.
    """
    seeds = {name: values for name, values in changes.items() if name == "seed"}
    judged = (each for each in experiment.grids if each != "smoke")
    if any(run_name(experiment, each, **seeds) == run_id for each in judged):
        return ""
    if scale == "smoke":
        return "the smoke scale only shows that everything runs: no verdict"
    if only:
        return "only some of the variants: no verdict"
    return "your settings: no verdict"


def value_lists(changes: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings that are each one value or several, as lists of values.

    Example:
        >>> value_lists({"units": (2, 5), "augment": "keep-root", "seed": range(3)})
        {'units': [2, 5], 'augment': ['keep-root'], 'seed': [0, 1, 2]}
    """
    several = (list, tuple, range)
    return {key: list(v) if isinstance(v, several) else [v] for key, v in changes.items()}


def repeat_command(name: str, scale: str, changes: Changes, only: Sequence[str] = ()) -> str:
    """The command line that repeats a run.

    Example:
        >>> repeat_command("byol_target", "smoke", {"units": [2, 5]})
        'hltm run byol-target --scale smoke --units 2 5'
        >>> repeat_command("losses", "default", {"seed": [0, 1, 2, 3]}, ["simple"])
        'hltm run losses --only simple --seed 0:4'
    """
    parts = ["hltm", "run", name.replace("_", "-")]
    if scale != "default":
        parts += ["--scale", scale]
    if only:
        parts += ["--only", *only]
    for key, values in changes.items():
        parts += [f"--{key.replace('_', '-')}", *as_typed(values)]
    return shlex.join(parts)


def as_typed(values: Sequence[Any]) -> list[str]:
    """Values as arguments, where whole numbers in a row, four at least, are a range."""
    if len(values) > 3 and all(type(value) is int for value in values):
        first, end = values[0], values[0] + len(values)
        if list(values) == list(range(first, end)):
            return [f"{first}:{end}"]
    return [*map(str, values)]
