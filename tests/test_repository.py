"""The house: who imports whom, the `ssl` trap, the README's example, names of files."""

import ast
import importlib
import re
import ssl
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A module may import from its own line or from lines above it.
HLTM = [
    {"topology", "philox"},
    {"tables"},
    {"kernels"},
    {
        "draw",
        "sample",
        "packed",
        "messages",
        "inference",
        "completion",
        "moments",
        "view_moments",
        "brute",
        "augment",
    },
    {"ceiling"},
    {"tree"},
    {"families", "formats", "encode", "rows"},
    {"view_batches", "dataset", "adapters"},
    {"suite", "probe", "picture", "export"},
]
# Package-relative module -> what it may import of dualnets besides itself.
DUALNETS = {
    "checks": set(),
    "rates": {"checks"},
    "layers": set(),
    "normalizations": {"checks"},
    "losses": {"checks"},
    "optim": {"checks", "rates"},
    "networks": {"checks", "layers", "normalizations", "networks"},
    "foretelling": {"networks"},
    "methods.protocol": {"checks", "foretelling", "networks.heads", "optim", "rates"},
    "methods": {
        "checks",
        "foretelling",
        "losses",
        "methods._cosine",
        "methods._direct_predictor",
        "methods._directions",
        "methods._projector",
        "methods.protocol",
        "networks.heads",
        "normalizations",
        "optim",
        "rates",
    },
    "training_data": {"methods.protocol"},
    "fused_blocks": set(),
    "fused_heads": {"fused_blocks", "networks", "normalizations"},
    "fused": {"fused_blocks", "losses", "optim", "networks"},
    "fused_branches": {"fused_blocks", "fused_heads"},
    "fused_foretelling": {
        "foretelling",
        "fused",
        "fused_branches",
        "fused_heads",
        "networks",
        "optim",
    },
    "span": {"fused", "fused_foretelling", "methods.protocol", "optim", "training_data"},
    "ensemble": {"checks", "memory", "span"},
    "memory": {"methods.protocol", "networks.heads", "span"},
    "checkpoint": {"checks", "records", "span"},
    "training": {
        "checkpoint",
        "checks",
        "ensemble",
        "memory",
        "methods.protocol",
        "optim",
        "span",
        "training_data",
    },
    "settings": {"losses", "optim", "networks", "normalizations", "methods"},
    "theory": {"checks", "losses", "networks", "optim", "theory"},
    "method_settings": {"settings", "methods", "networks", "normalizations"},
    "comparison": {"evidence"},
    "ablation": {
        "comparison",
        "follow",
        "method_settings",
        "methods.protocol",
        "outcome",
        "settings",
        "training",
    },
    "ablation_figure": {"comparison", "figures"},
    "outcome": set(),
    "teacher_units": set(),
    "evidence": set(),
    "crossing": {"evidence"},
    "figures": set(),
    "follow": {"training", "networks", "outcome"},
    "best_ratio": set(),
    "experiments": {
        "theory",
        "losses",
        "networks",
        "ablation",
        "ablation_figure",
        "best_ratio",
        "comparison",
        "crossing",
        "training",
        "follow",
        "evidence",
        "figures",
        "methods",
        "normalizations",
        "outcome",
        "settings",
        "experiments",
        "teacher_units",
    },
    "records": set(),
    "page": {"evidence"},
    "workers": {"outcome"},
    "execute": {"records", "workers", "outcome", "evidence", "figures", "page", "experiments"},
    "claims": {"execute", "page", "records"},
    "cli": {"claims", "execute", "outcome", "page", "workers"},
}


def imports(path: Path) -> set[str]:
    """Full names of the modules of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("hltm", "dualnets")}


def modules(package: str) -> dict[str, Path]:
    home = ROOT / package if package == "hltm" else ROOT / "ssl" / package
    return {
        ".".join(path.relative_to(home).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip("."): path
        for path in home.rglob("*.py")
    }


def test_hltm_imports_only_what_stands_below():
    rank = {name: i for i, names in enumerate(HLTM) for name in names}
    for name, path in modules("hltm").items():
        if name == "":
            continue
        top = name.split(".")[0]
        assert top in rank, f"say where hltm/{top} stands"
        for found in imports(path):
            parts = found.split(".")
            assert parts[0] == "hltm", f"{path} imports {found}"
            if len(parts) > 1 and (parts[1] in rank):
                assert rank[parts[1]] <= rank[top], f"{path} imports {found}"


def test_dualnets_imports_only_what_it_may():
    for name, path in modules("dualnets").items():
        if name == "":
            continue
        key = name if name in DUALNETS else name.split(".")[0]
        allowed = DUALNETS[key]
        for found in imports(path):
            if not found.startswith("dualnets."):
                continue
            target = found.removeprefix("dualnets.")
            within = key.split(".")[0] == target.split(".")[0] and key != "methods"
            fits = any(target == a or target.startswith(f"{a}.") for a in allowed)
            assert within or fits, f"{path} imports {found}"


def test_the_ssl_folder_does_not_shadow_pythons_own():
    assert not (ROOT / "ssl" / "__init__.py").exists()
    assert hasattr(ssl, "SSLContext")
    code = "import ssl, dualnets; print(hasattr(ssl, 'SSLContext'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_importing_needs_neither_plots_nor_tables():
    code = (
        "import sys, hltm, dualnets; dualnets.train; dualnets.SimCLR; dualnets.run;"
        "print([m for m in ('pandas', 'matplotlib', 'seaborn', 'pyarrow', 'tyro', 'plotly', 'rich')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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


def test_the_lazy_names_of_dualnets_are_those_that_type_checkers_see():
    import dualnets

    tree = ast.parse(Path(dualnets.__file__).read_text())
    (shown,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module.removeprefix("dualnets.")
        for node in shown.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == dualnets._HOME
    assert set(seen) == set(dualnets.__all__)


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
