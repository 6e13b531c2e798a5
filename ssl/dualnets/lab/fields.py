"""Fields of settings: their declaration, checks, identity in stored cells, and when they have an effect.

Every field of settings is one flag of the command line and one column of the results. Fields of what can
be chosen by a word (a method, a loss, an optimiser, a norm) are not written again: `with_options`
makes them from the dataclass of each choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from dualnets._options import SCALARS, Option, options
from dualnets.lab.experiment import Fixed, Grid, values_of

if TYPE_CHECKING:
    import pandas as pd

# other fields -> the values at which a field has an effect
Condition = Mapping[str, Container[Any]]
Conditions = Mapping[str, Sequence[Condition]]  # field -> alternatives; one of them must be met
Class = TypeVar("Class", bound=type)


class Stored(NamedTuple):
    """How cells that were stored earlier have a field.

    Attributes:
        name: the field's former name; None for the same.
        values: stored values by value.
        later: whether the field was added when results were stored already: it is not a part of the name
            of a cell that has its default.
        apart: whether the field changes no result, so that it is never a part of a cell's name.
        explicit: of a field that was made from dataclasses, whether a cell that was given a dataclass's own
            default has it in its identity, unlike one that was given nothing: the field's default is None
            then.
    """

    name: str | None = None
    values: Mapping[Any, Any] = {}
    later: bool = False
    explicit: bool = False
    apart: bool = False


UNCHANGED, LATER, APART = Stored(), Stored(later=True), Stored(apart=True)


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
    stored: Stored = UNCHANGED,
) -> Any:
    """A field of settings: low <= value <= high, value > above, or a choice.

    Args:
        default: of the field.
        meaning: for the help of its flag.
        low, high, above, choices: the values that are allowed.
        stored: how cells that were stored earlier have it.
    """
    metadata = {"meaning": meaning, "low": low, "high": high, "above": above,
                "choices": choices and tuple(choices), "stored": stored}  # fmt: skip
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Settings whose fields are checked when an instance is made.

    Attributes:
        CONDITIONS: field -> the conditions, one of which must be met for it to have an effect.
    """

    CONDITIONS: ClassVar[Conditions] = {}

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            kind, optional = kind_of(item)
            if value is not None or not optional:
                _check_kind(item.name, value, kind)
                _check_range(item.name, value, item.metadata)

    def unused(self) -> dict[str, str]:
        """Field without effect -> what it applies to, and what is the case instead."""
        found = {}
        for name, alternatives in conditions(type(self)).items():
            unmet = [
                {o: values for o, values in needed.items() if not self._meets(o, values)}
                for needed in alternatives
            ]
            if unmet and all(unmet):
                found[name] = self._reason(unmet)
        return found

    def _meets(self, other: str, values: Container[Any]) -> bool:
        return not hasattr(self, other) or getattr(self, other) in values

    def _reason(self, unmet: Sequence[Condition]) -> str:
        """Of the alternatives the one that lacks least, with all that lack the same field."""
        nearest = min(unmet, key=len)
        other = next(iter(nearest))
        same = [needed for needed in unmet if list(needed) == [other]] or [nearest]
        flag = other.replace("_", "-")
        words = f"{flag} {_any_of(needed[other] for needed in same)}"
        choices = next(i.metadata.get("choices") for i in fields(self) if i.name == other)
        if choices and not any(word in needed[other] for needed in same for word in choices):
            return f"{words}, which this experiment does not have"
        return f"{words}, and {flag} is {getattr(self, other)}"


@cache
def kind_of(item: Any) -> tuple[type, bool]:
    """A field's type, `int`, `float`, `bool` or `str`, and whether None is allowed, too."""
    name = getattr(item.type, "__name__", item.type)
    kind = next(k for k in SCALARS if k.__name__ == name.removesuffix(" | None"))
    return kind, name.endswith(" | None")


def conditions(settings: type[Checked]) -> dict[str, Sequence[Condition]]:
    """Field -> the alternatives of its condition, those of a subclass in place of its bases'."""
    found: dict[str, Sequence[Condition]] = {}
    for base in reversed(settings.__mro__):
        found |= vars(base).get("CONDITIONS", {})
    return {item.name: found[item.name] for item in fields(settings) if item.name in found}


def applies_to(settings: type[Checked], name: str) -> str:
    """The condition under which a field has an effect, for its help; empty where it always has.

    Example:
        >>> from dualnets.lab.settings import TrainSettings
        >>> applies_to(TrainSettings, "momentum")
        'optimizer sgd or lars'
    """
    alternatives = conditions(settings).get(name, ())
    known = {item.name for item in fields(settings)}
    texts = [
        " and ".join(
            f"{o.replace('_', '-')} {_any_of([v])}" for o, v in needed.items() if o in known
        )
        for needed in alternatives
    ]
    return ", or ".join(texts)


def applicable_fields(
    settings: type[Checked],
    grids: Sequence[Grid],
    changes: Mapping[str, Sequence[Any]] | None = None,
) -> list[str]:
    """The fields that have an effect in at least one cell of an experiment, for its help.

    Args:
        settings: the experiment's Settings.
        grids: of one scale or of several.
        changes: field -> values that replace those of the grids, except where these are `Fixed`, as given
            on the command line: `--optimizer adam --help` shows the flags of Adam.

    A condition on a number, such as `redraw-every` above 0, counts as met, since a flag can meet it, unless
    the number is `Fixed`.

    Example:
        >>> from dualnets.lab.settings import TrainSettings
        >>> "beta1" in applicable_fields(TrainSettings, [{"steps": [10]}])
        False
        >>> "beta1" in applicable_fields(TrainSettings, [{"steps": [10]}], {"optimizer": ["adam"]})
        True
    """
    needed = conditions(settings)
    defaults = {item.name: [item.default] for item in fields(settings)}
    choosers = {other for each in needed.values() for alternative in each for other in alternative}
    choosers = {name for name in choosers if isinstance(defaults.get(name, [None])[0], str)}
    found: set[str] = set(defaults) - set(needed)
    for grid in grids:
        free = {k: v for k, v in (changes or {}).items() if not isinstance(grid.get(k), Fixed)}
        axes: Grid = {**defaults, **grid, **free}
        pinned = {k: v.value for k, v in grid.items() if isinstance(v, Fixed)}
        for values in itertools.product(*(values_of(axes[name]) for name in sorted(choosers))):
            chosen = pinned | dict(zip(sorted(choosers), values, strict=True))
            for name, alternatives in needed.items():
                if any(
                    all(chosen[o] in allowed for o, allowed in alternative.items() if o in chosen)
                    for alternative in alternatives
                ):
                    found.add(name)
    return [name for name in defaults if name in found]


def with_options(
    kinds: Mapping[str, type],
    chooser: str | None = None,
    *,
    prefix: str = "",
    needed: Condition | None = None,
    stored: Mapping[str, Stored] | None = None,
) -> Callable[[Class], Class]:
    """Decorate settings, below `@dataclass`, so that every option of some dataclasses is a field of them.

    An option that several of the dataclasses have is one field. Where their defaults differ, its default is
    None, which stands for each one's own. A field that the settings declare themselves stays as it is.

    Args:
        kinds: the word that chooses a dataclass -> the dataclass.
        chooser: the field whose values these words are; None where there is nothing to choose.
        prefix: of the fields' names.
        needed: further conditions of all these fields.
        stored: field -> how it is stored. A field that is not among them is `later`.
    """
    owners: dict[str, list[tuple[str, Option, Condition]]] = {}
    for word, kind in kinds.items():
        found = options(kind)
        flags = {option.field: prefix + option.flag for option in found}
        for option in found:
            own = {flags[other]: values for other, values in option.applies_to.items()}
            owners.setdefault(flags[option.field], []).append((word, option, own))

    def decorate(settings: Class) -> Class:
        needs: dict[str, Sequence[Condition]] = dict(vars(settings).get("CONDITIONS", {}))
        known = {name for base in settings.__mro__ for name in vars(base)}
        all_words = vars(settings)[chooser].metadata["choices"] if chooser else ()
        for name, each in owners.items():
            conditions = [own for _, _, own in each]
            alternatives: list[Condition] = []
            for own in (own for at, own in enumerate(conditions) if own not in conditions[:at]):
                words = tuple(word for word, _, other in each if other == own)
                chosen = {chooser: words} if chooser and words != all_words else {}
                alternatives.append({**(needed or {}), **chosen, **own})
            if all(alternatives):  # an alternative without conditions is always met
                needs[name] = [*needs.get(name, ()), *alternatives]
            if name not in known:
                how = (stored or {}).get(name, LATER)
                settings.__annotations__[name], made = _made(each, how)
                setattr(settings, name, made)
        settings.CONDITIONS = needs  # type: ignore[attr-defined]
        return settings

    return decorate


def given_options(kind: type, settings: Any, prefix: str = "") -> dict[str, Any]:
    """Field of a dataclass -> the value that settings give it; a field with None keeps its default."""
    values = {o.field: getattr(settings, prefix + o.flag, None) for o in options(kind)}
    return {name: value for name, value in values.items() if value is not None}


def stored_form(settings: Any) -> dict[str, Any]:
    """The names and values by which a cell is identified: those it would have been stored with at first.

    So a renamed field, or a value that replaced a sentinel, leaves the identity of stored cells unchanged.
    """
    form = {}
    for item in fields(settings):
        value, stored = getattr(settings, item.name), item.metadata.get("stored", UNCHANGED)
        if not (stored.apart or (stored.later and value == item.default)):
            form[stored.name or item.name] = stored.values.get(value, value)
    return form


def with_columns(table: pd.DataFrame, settings: Any) -> pd.DataFrame:
    """The table of a cell with a column per setting, behind its first column.

    Columns with the names and values of cells that were stored earlier are replaced. None is NaN, as pandas
    has missing numbers.
    """
    import pandas as pd

    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    former = [item.metadata.get("stored", UNCHANGED).name for item in fields(settings)]
    table = table.drop(columns=[name for name in (*values, *former) if name in table])
    chosen = {name: math.nan if value is None else value for name, value in values.items()}
    parts = [table.iloc[:, :1], pd.DataFrame(chosen, index=table.index), table.iloc[:, 1:]]
    return pd.concat(parts, axis=1)


def _made(each: Sequence[tuple[str, Option, Any]], how: Stored) -> tuple[str, Any]:
    """Annotation and field of an option that one or several dataclasses have."""
    first = each[0][1]
    defaults = {option.default for _, option, _ in each}
    own = len(defaults) > 1 or how.explicit
    default = None if own else first.default
    meanings: dict[str, list[str]] = {}
    for word, option, _ in each:
        meanings.setdefault(option.meaning, []).append(word)
    meaning = first.meaning
    if len(meanings) > 1:
        meaning = "; ".join(f"{', '.join(words)}: {text}" for text, words in meanings.items())
    if own:
        meaning += f"; default: {', '.join(f'{o.default} ({word})' for word, o, _ in each)}"
    annotation = first.kind.__name__ + " | None" * (own or first.optional)
    return annotation, setting(default, meaning, choices=first.choices, stored=how)


def _any_of(several: Any) -> str:
    """`a, b or c`, or `above 0`."""
    nested = [values if isinstance(values, tuple) else (values,) for values in several]
    words = list(dict.fromkeys(str(word) for values in nested for word in values))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _check_kind(name: str, value: Any, kind: type) -> None:
    # True is an int to Python, but it is not a number of units
    is_switch, allowed = isinstance(value, bool), int | float if kind is float else kind
    if not isinstance(value, allowed) or (is_switch and kind is not bool):
        raise ValueError(f"{name.replace('_', '-')} must be {SCALARS[kind]}, got {value!r}")


def _check_range(name: str, value: Any, rule: Mapping[str, Any]) -> None:
    flag = name.replace("_", "-")
    choices, low, high, above = (rule.get(key) for key in ("choices", "low", "high", "above"))
    if choices is not None and value not in choices:
        raise ValueError(f"{flag} must be one of {', '.join(choices)}, got {value!r}")
    if low is not None and not value >= low:
        raise ValueError(f"{flag} must be at least {low}, got {value}")
    if high is not None and not value <= high:
        raise ValueError(f"{flag} must be at most {high}, got {value}")
    if above is not None and not above < value < float("inf"):
        raise ValueError(f"{flag} must be above {above} and finite, got {value}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{flag} must be finite, got {value}")
