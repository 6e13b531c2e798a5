"""The syntax of BIF: what a text declares and which numbers it has, whatever its network looks like.

Programs differ in commas, quotes, semicolons, and in names of several words, so a list in brackets is
read in groups of words, and what a group means is decided by the names that are declared.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import chain

from hltm.formats.newick_syntax import shown

SKIP = re.compile(r"(?>\s+|//[^\n]*|/\*.*?\*/)*+", re.DOTALL)
TOKEN = re.compile(
    SKIP.pattern + r'(?:(?P<mark>[(){}\[\];,|])|"(?P<quoted>[^"]*)"'
    r'|(?P<word>(?:(?!//|/\*)[^\s"(){}\[\];,|])+)|(?P<end>\Z))',
    re.DOTALL,
)
PROPERTY = re.compile(r'(?P<text>(?:"[^"\n]*"|[^;])*+);')  # a quoted text may hold a semicolon
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,9})?")
RUN = re.compile(r"[\d\s.,|eE+-]*+(?=[;}])")  # what numbers up to their semicolon look like
Groups = list[list[str]]  # words between commas and bars


@dataclass
class Variable:
    """A declared variable: its name, the names of its states in order, its properties as text."""

    name: str
    states: tuple[str, ...] = ()
    properties: list[str] = field(default_factory=list)


@dataclass
class Distribution:
    """The numbers, as they are printed, of P(child | parents): one table, or rows and a default."""

    line: int
    child: str = ""
    parents: tuple[str, ...] = ()
    table: list[str] | None = None
    default: list[str] | None = None
    rows: list[tuple[int, Groups, list[str]]] = field(default_factory=list)


def read_network(text: str) -> tuple[dict[str, Variable], dict[str, Distribution]]:
    """The variables of a BIF text in the order of their declarations, and their distributions.

    Raises:
        ValueError: text that is not BIF, saying in which line; a variable that is declared twice, is
            not discrete, or has another number of states than it declares; an unknown variable.
        TypeError: not text.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected BIF text as str, got {type(text).__name__}")
    if text.lstrip("\ufeff \t\r\n").startswith("<"):
        raise ValueError("not BIF but XML, which this reader does not read")
    return _Reader(text.removeprefix("\ufeff")).network()


def words_of(groups: Groups, known: Collection[str]) -> list[str]:
    """The names in a list: the words of a group together if that is a known name, else each one."""
    joined = ([" ".join(group)] if " ".join(group) in known else group for group in groups)
    return list(chain.from_iterable(joined))


class _Reader:
    """A place in a text, and the next token there: its kind, its text and its own place."""

    def __init__(self, text: str) -> None:
        self.text, self.token = text, ""
        self.start = self.place = self.counted = 0
        self.lines = 1
        self.next()

    def next(self) -> str:
        """The token that was next; the one behind it is next now."""
        before = self.token
        match = TOKEN.match(self.text, self.place)
        if match is None:
            self.start = SKIP.match(self.text, self.place).end()  # type: ignore[union-attr]
            self.kind, self.token = "mark", self.text[self.start]
            raise self.error("a comment or quoted text that ends")
        self.kind = str(match.lastgroup)
        self.token = match[self.kind]
        self.start, self.place = match.start(self.kind), match.end()
        return before

    def error(self, expected: str) -> ValueError:
        """What is wrong with the next token."""
        got = "the end of the text" if self.kind == "end" else repr(self.token[:30])
        return ValueError(f"not BIF at line {self.line}: got {got}, expected {expected}")

    @property
    def line(self) -> int:
        """The line of the next token."""
        self.lines += self.text.count("\n", self.counted, self.start)
        self.counted = self.start
        return self.lines

    def is_mark(self, marks: str) -> bool:
        return self.kind == "mark" and self.token in marks

    def is_word(self, *words: str) -> bool:
        """Whether the next token is one of these keywords, without quotes."""
        return self.kind == "word" and self.token in words

    def take(self, mark: str) -> None:
        if not self.is_mark(mark):
            raise self.error(repr(mark))
        self.next()

    def skip(self, mark: str) -> None:
        """Take a mark that some programs leave out."""
        if self.is_mark(mark):
            self.next()

    def network(self) -> tuple[dict[str, Variable], dict[str, Distribution]]:
        variables: dict[str, Variable] = {}
        headed: list[tuple[Distribution, Groups, int]] = []
        while self.kind != "end":
            if self.is_word("network"):
                self.header()
                while not self.is_mark("}"):
                    self.property() if self.is_word("property") else self.any_word()
                self.next()
            elif self.is_word("variable"):
                line = self.line
                variable = self.variable()
                if variable.name in variables:
                    raise ValueError(
                        f"line {line}: variable {shown(variable.name)} is declared twice"
                    )
                variables[variable.name] = variable
            elif self.is_word("probability"):
                headed.append(self.distribution())
            else:
                raise self.error("network, variable or probability")
        if not variables:
            raise ValueError("not BIF: the text declares no variable")
        distributions: dict[str, Distribution] = {}
        for found, groups, left in headed:
            _name_variables(found, groups, left, variables)
            if found.child in distributions:
                raise ValueError(
                    f"line {found.line}: {shown(found.child)} has a distribution already"
                )
            distributions[found.child] = found
        return variables, distributions

    def header(self) -> str:
        """The name between a block's keyword and its bracket."""
        self.next()
        words = []
        while not self.is_mark("{"):
            words.append(self.any_word())
        self.next()
        return " ".join(words)

    def any_word(self) -> str:
        if self.kind == "end" or self.is_mark("{}"):
            raise self.error("a name and a block in { }")
        return self.next()

    def property(self) -> str:
        """The text of a property, to its semicolon."""
        match = PROPERTY.match(self.text, self.place)
        if match is None:
            raise self.error("a property that ends with ';'")
        self.place = match.end()
        self.next()
        return match["text"].strip()

    def variable(self) -> Variable:
        variable = Variable(self.header())
        if not variable.name and self.kind != "end":
            raise self.error("a variable with a name")
        while not self.is_mark("}"):
            if self.is_word("property"):
                variable.properties.append(self.property())
            elif self.is_word("type"):
                variable.states = self.states(variable.name)
            else:
                raise self.error("type, property or '}'")
        self.next()
        return variable

    def states(self, name: str) -> tuple[str, ...]:
        line = self.line
        self.next()
        if self.token != "discrete":
            raise ValueError(
                f"line {line}: {shown(name)} has type {shown(self.token)}, expected discrete"
            )
        self.next()
        declared = None
        if self.is_mark("["):
            self.next()
            declared = self.next()
            self.take("]")
        groups, _ = self.groups("{", "}")
        self.skip(";")
        # names of several words need commas; a count settles lists in which some are left out
        words = list(chain.from_iterable(groups))
        joined = [" ".join(group) for group in groups]
        found = words if len(groups) < 2 or str(len(words)) == declared else joined
        if declared is not None and declared != str(len(found)):
            raise ValueError(
                f"line {line}: variable {shown(name)} has {len(found)} states, but [ {declared:.40} ]"
            )
        if len(set(found)) < len(found):
            raise ValueError(f"line {line}: variable {shown(name)} has two states of one name")
        return tuple(found)

    def groups(self, opening: str, closing: str) -> tuple[Groups, int]:
        """The words in brackets, in groups between commas and bars; how many groups precede a bar."""
        self.take(opening)
        groups: Groups = [[]]
        left = 0
        while not self.is_mark(closing):
            if self.is_mark(",|"):
                left = left or len(groups) * (self.token == "|")
                groups.append([])
                self.next()
            elif self.kind in ("word", "quoted"):
                groups[-1].append(self.next())
            else:
                raise self.error(f"a name or {closing!r}")
        self.next()
        return [group for group in groups if group], left

    def distribution(self) -> tuple[Distribution, Groups, int]:
        found = Distribution(self.line)
        self.next()
        header = self.groups("(", ")")
        self.take("{")
        while not self.is_mark("}"):
            line = self.line
            if self.is_mark("("):
                groups, _ = self.groups("(", ")")
                found.rows.append((line, groups, self.numbers()))
            elif self.is_word("property"):
                self.property()
            elif self.is_word("table", "default"):
                if getattr(found, self.token) is not None:
                    raise ValueError(f"line {line}: a second {self.token} in one distribution")
                setattr(found, self.next(), self.numbers())
            else:
                raise self.error("a row, table, default, property or '}'")
        self.next()
        return found, *header

    def numbers(self) -> list[str]:
        """Numbers to the semicolon, as they are printed."""
        found = []
        if run := RUN.match(self.text, self.start):  # in one step; what is wrong is found in many
            found = re.findall(r"[^\s,|]+", run.group())
            if all(map(NUMBER.fullmatch, found)):
                self.place = run.end()
                self.next()
            else:
                found = []
        while not self.is_mark(";}"):
            if self.is_mark(",|"):
                self.next()
            elif NUMBER.fullmatch(self.token):
                found.append(self.next())
            else:
                raise self.error("a number or ';'")
        self.skip(";")
        return found


def _name_variables(
    found: Distribution, groups: Groups, left: int, variables: dict[str, Variable]
) -> None:
    """Set child and parents; without a bar the first name is the child's."""
    names = words_of(groups, variables)
    unknown = [name for name in names if name not in variables]
    if unknown:
        raise ValueError(f"line {found.line}: {shown(unknown[0])} is not a declared variable")
    if not names or (left and len(words_of(groups[:left], variables)) != 1):
        raise ValueError(f"line {found.line}: expected ( variable | parents )")
    found.child, found.parents = names[0], tuple(names[1:])
