"""The house: who imports whom, the `ssl` trap, the README's example, names of files."""

import ast
import functools
import importlib
import re
import ssl
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[1]
# The rooms of each package: a file imports only from its own room and from those before it.
# fmt: off
ROOMS = {
    "hltm": [
        "_lazy", "_shortcuts", "_linking", "_compile", "_separate", "_devices", "_paths", "_memory",
        "_names", "_integers", "_results", "_executors", "_figures", "model", "sampling", "inference", "tree",
        "families", "grammars", "formats", "data", "plot", "display", "probe",
    ],
    "dualnets": [
        "_lazy", "_instructions", "_vectors", "_precision", "_checks", "_options", "_files",
        "_checksums", "_memory_errors", "optim", "networks", "methods", "training", "images",
        "theory", "lab", "experiments", "cli",
    ],
}
# fmt: on
# What a room does not need although it stands before it.
APART = {("theory", "training")}


@functools.cache
def imports(path: Path) -> tuple[set[str], set[str]]:
    """Full names that a file imports from this project: those that it needs, those for checkers."""
    needed, for_types = set(), set()
    waiting: list[tuple[ast.AST, set[str]]] = [(ast.parse(path.read_text()), needed)]
    while waiting:
        node, found = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found = for_types
        # an import is a statement: it stands in no expression
        parts = (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))
        waiting += ((child, found) for child in parts)
    return tuple({name for name in found if name.split(".")[0] in ("hltm", "dualnets")}
                 for found in (needed, for_types))  # fmt: skip


def test_no_files_import_each_other_in_a_circle():
    graph = nx.DiGraph()
    for package, home in (("hltm", ROOT / "hltm"), ("dualnets", ROOT / "ssl" / "dualnets")):
        for path in home.rglob("*.py"):
            parts = path.relative_to(home).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found, _ = imports(path)
            graph.add_edges_from((name, other) for other in found)
    assert [c for c in nx.strongly_connected_components(graph) if len(c) > 1] == []


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(package):
    home = ROOT / ("hltm" if package == "hltm" else f"ssl/{package}")
    rooms = ROOMS[package]
    for path in home.rglob("*.py"):
        room = path.relative_to(home).with_suffix("").parts[0]
        if room in ("__init__", "__main__"):  # `python -m hltm` is the command of dualnets
            continue
        assert room in rooms, f"say where {package}.{room} stands"
        for found in set.union(*imports(path)):
            top, _, rest = found.partition(".")
            target = rest.partition(".")[0]
            if top != package:
                assert top == "hltm", f"{path} imports {found}"
            elif target in rooms:
                assert rooms.index(target) <= rooms.index(room), f"{path} imports {found}"
                assert (room, target) not in APART, f"{path} imports {found}"


def test_the_ssl_folder_does_not_shadow_pythons_own():
    assert not (ROOT / "ssl" / "__init__.py").exists()
    assert hasattr(ssl, "SSLContext")


def test_importing_needs_neither_plots_nor_tables_and_finds_pythons_own_ssl():
    code = (
        "import sys, hltm, dualnets; dualnets.train; dualnets.SimCLR; dualnets.run;"
        "hltm.symmetric_binary(depth=2, seed=0)._repr_html_();"  # as a notebook shows it
        "print([m for m in ('pandas', 'matplotlib', 'seaborn', 'pyarrow', 'plotly', 'rich')"
        " if m in sys.modules]); import ssl; print(hasattr(ssl, 'SSLContext'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["[]", "True"]


@pytest.mark.parametrize("package", ["hltm", "hltm.probe", "dualnets", "dualnets.theory"])
def test_public_names_exist_and_say_what_they_are(package):
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        item = getattr(module, name)
        if isinstance(item, type | FunctionType | ModuleType):
            # a dataclass or a named tuple without a docstring has its signature for one
            assert item.__doc__, name
            assert not item.__doc__.startswith(f"{name}("), name


@pytest.mark.parametrize("package", ["hltm", "dualnets"])
def test_every_public_name_of_a_stub_is_there(package):
    module = importlib.import_module(package)
    assert len(module.__all__) > 40
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.slow
def test_threads_may_ask_for_public_names_at_once():
    code = """
import threading, hltm, dualnets
names = [(m, name) for m in (hltm, dualnets) for name in m.__all__]
threads = [threading.Thread(target=getattr, args=name) for name in names]
[thread.start() for thread in threads], [thread.join() for thread in threads]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_test_files_have_unique_names_and_no_packages():
    files = list((ROOT / "tests").rglob("*.py"))
    names = [path.name for path in files]
    assert "__init__.py" not in names
    assert len(names) == len(set(names))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_readmes_examples_run():
    examples = blocks((ROOT / "README.md").read_text(), "python")
    assert examples
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example.replace("steps=2_000", "steps=20"), "README.md", "exec"), names)


def test_the_readmes_test_command_is_what_ci_runs():
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci" / "run").read_text()
    for line in ('python -m pip install -c constraints-cpu.txt -e ".[dev]"', "pytest"):
        assert line in readme
        assert line in ci


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE"])
def test_the_house_has_its_papers(name):
    assert len((ROOT / name).read_text()) > 200
