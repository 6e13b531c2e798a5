"""The theory page is true: its table leads to functions, tests and experiments, citations lead to it."""

import ast
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

from dualnets import experiments

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "theory.md").read_text()
CODE = ("hltm", "ssl", "tests", "notebooks", "docs", "README.md", "CONTRIBUTING.md")
EQUATIONS = set(re.findall(r"\\tag\{(\d+\.\d+)\}", PAGE))
SECTIONS = set(re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE))


def rows():
    """The rows of the table of Section 8: statement, place, functions, tests, experiments."""
    table = PAGE[PAGE.index("\n## 8. ") :]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def docstrings_of_tests(path):
    """Name -> docstring of the tests of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {
        node.name: ast.get_docstring(node) or ""
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def cited(pattern):
    """File -> what the groups of a pattern match in the text of all code and pages."""
    for top in CODE:
        start = ROOT / top
        files = [start] if start.is_file() else sorted(start.rglob("*"))
        for file in files:
            if file.suffix in (".py", ".pyi", ".md", ".ipynb") and file != ROOT / "docs/theory.md":
                for match in re.finditer(pattern, file.read_text()):
                    yield file.relative_to(ROOT), match


def test_the_table_is_found():
    assert len(rows()) > 15
    assert all(len(row) == 5 for row in rows())
    assert {*"12345678"} == SECTIONS
    assert len(EQUATIONS) > 30


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_a_row_leads_to_functions_tests_and_experiments(row):
    _, place, functions, tests, runs = row
    for name in quoted(functions):
        assert resolve_name(name).__doc__, name
    for test in quoted(tests):
        path, _, name = test.partition("::")
        assert name in docstrings_of_tests(path), test
    for name in quoted(runs):
        assert name in experiments.names(), name
    assert quoted(functions), "a statement of the table has a function; others stand below it"
    assert quoted(tests)
    assert set(re.findall(r"\b\d\.\d\b", row[0])) <= EQUATIONS
    # a theorem is found from its function and from its tests
    for theorem in re.findall(r"Theorem (\d)", place):
        for name in quoted(functions):
            assert f"Theorem {theorem}" in resolve_name(name).__doc__, name
        for test in quoted(tests):
            path, _, name = test.partition("::")
            assert (
                f"theorem_{theorem}" in name
                or f"Theorem {theorem}" in docstrings_of_tests(path)[name]
            )


def test_the_four_theorems_and_only_they_are_numbered():
    named = {n for row in rows() for n in re.findall(r"DDN Theorem (\d)", row[1])}
    assert named == {*"1234"}
    for file, match in cited(
        r"(?<!DSSL )Theorems? (\d)(?:(?: to |-| and )(\d))?(?! of arXiv 2102)"
    ):
        if file.parts[:3] == ("ssl", "dualnets", "theory"):
            assert set(filter(None, match.groups())) <= named, (file, match.group())


def test_every_experiment_stands_on_the_page():
    assert set(experiments.names()) <= set(quoted(PAGE[PAGE.index("\n## 8. ") :]))


def test_cited_sections_and_equations_exist():
    found = [*cited(r"docs/theory\.md, Sections? (\d)(?:(?: to | and |-)(\d))?")]
    assert found
    for file, match in found:
        assert set(filter(None, match.groups())) <= SECTIONS, (file, match.group())
    home = ("ssl", "dualnets", "theory")
    found = [(f, m) for f, m in cited(r"Equations? (\d\.\d+)(?:(?:,| and| to) (\d\.\d+))?")
             if f.parts[:3] == home]  # fmt: skip
    assert len(found) > 30
    for file, match in found:
        assert set(filter(None, match.groups())) <= EQUATIONS, (file, match.group())


def test_equations_stand_on_the_page_once():
    numbers = re.findall(r"\\tag\{(\d+\.\d+)\}", PAGE)
    assert len(numbers) == len(set(numbers))
    assert {number.split(".")[0] for number in numbers} <= SECTIONS
