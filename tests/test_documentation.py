"""The documentation: pages can be reached, links lead somewhere, pages are short, and their cells run."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
sys.path.insert(0, str(DOCS / "_ext"))

import benchmark_pages  # noqa: E402
import claim_pages  # noqa: E402
import docstrings  # noqa: E402
import interface  # noqa: E402
from run_page import cells  # noqa: E402

# these are written by the build, or longer because they are references
MADE = {"results/claims": functools.cache(claim_pages.pages),
        "results/measured": functools.cache(benchmark_pages.pages)}  # fmt: skip
LONG = {"theory.md"}
LARGEST, LARGEST_README = 12_500, 8_000  # bytes
OWN = [page for page in sorted(DOCS.rglob("*.md"))
       if page.relative_to(DOCS).parent.as_posix() not in MADE
       and not page.relative_to(DOCS).parts[0].startswith("_")]  # fmt: skip
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#[^)\s]*)?\)")


def name_of(page):
    return page.relative_to(DOCS).as_posix()


def plain(text):
    """A page without its code, in which brackets are no links."""
    without_blocks = re.sub(
        r"^(```+|:::+)(?!\{(?:toctree|grid)).*?^\1", "", text, flags=re.M | re.S
    )
    return re.sub(r"`[^`\n]*`", "", without_blocks)


def listed(page, text):
    """Names of the pages in a page's tables of contents; patterns are resolved."""
    for body in TOCTREE.findall(text):
        for line in body.splitlines():
            if line and not line.startswith(":"):
                place = (page.parent / line).relative_to(DOCS).as_posix()
                yield from (name_of(found) for found in DOCS.glob(f"{place}.md"))
                folder, _, last = place.rpartition("/")
                if folder in MADE:
                    made = MADE[folder]()
                    yield from (f"{folder}/{n}.md" for n in made if last in ("*", n))


def test_every_page_is_in_a_table_of_contents():
    every = {name_of(page): page.read_text(encoding="utf-8") for page in OWN}
    for folder, pages in MADE.items():
        every |= {f"{folder}/{name}.md": text for name, text in pages().items()}
    reached, waiting = set(), ["index.md"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += listed(DOCS / name, every[name])
    assert every.keys() - reached == set()


@pytest.mark.parametrize("page", [ROOT / "README.md", *OWN], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(plain(text)):
        path = (page.parent / target).resolve() if target else page
        made = path.parent.relative_to(DOCS).as_posix() if DOCS in path.parents else ""
        there = path.exists() or (made in MADE and path.stem in MADE[made]())
        assert there, f"{page.name} links to {target}"


def test_pages_are_short():
    sizes = {name_of(page): len(page.read_bytes()) for page in OWN}
    assert {name: size for name, size in sizes.items() if size > LARGEST and name not in LONG} == {}
    assert len((ROOT / "README.md").read_bytes()) <= LARGEST_README


def test_code_in_python_is_executed():
    """Blocks of Python are cells; those that need what tests do not have are of the language `py`."""
    for page in OWN:
        text = page.read_text(encoding="utf-8")
        runs = "```python" not in text
        assert runs, f"{page.name} has a block of Python that is no cell: make it one, or ```py"
        if "{code-cell}" in text:
            assert text.startswith("---\nfile_format: mystnb\n"), page.name
            for at, code in enumerate(cells(text), start=1):
                compile(code, f"{page.name}, cell {at}", "exec")


def test_names_in_docstrings_of_the_site_are_on_the_site():
    """A name that is missing becomes an entry of docs/reference/, or the docstring does without it."""
    names = [name for _, name, _ in interface.directives()]
    assert sorted({name for name in names if names.count(name) > 1}) == []
    assert [*interface.dead_names(interface.shown())] == []
    # the check finds a name that is missing, and takes those that are there
    text = "`hltm.nothing.here`, `hltm.model.nodes`, `hltm.load()`, `hltm.data.export.read.load`"
    assert [*interface.dead_names({"hltm.load": text})] == [
        ("hltm.load", "hltm.nothing.here"), ("hltm.load", "hltm.model.nodes"),
    ]  # fmt: skip


def test_claims_have_pages_with_their_rules():
    pages = claim_pages.pages()
    assert len(pages) > 30
    text = pages["byol_batchnorm"]
    for part in (
        "**The rule**",
        "**Earlier outcomes**",
        "hltm run byol-batchnorm",
        "byol_batchnorm.png",
    ):
        assert part in text
    assert "| long scale | **fails** |" in text


def test_stored_outcomes_are_in_the_history():
    """Where this fails, `python benchmarks/claims_history.py` adds the new outcomes with today's date."""
    missing = [
        f"{found.claim.title}, {found.where}"
        for claims in claim_pages.outcomes().values()
        for own in claims.values()
        for found in own
        if not found.date
    ]
    assert missing == []
    dates = [past["date"] for past in claim_pages.history()]
    assert dates == sorted(dates)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in OWN if cells(page.read_text(encoding="utf-8"))], ids=name_of
)
def test_the_cells_of_a_page_run(page, tmp_path):
    done = subprocess.run(
        [sys.executable, DOCS / "run_page.py", page], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "MPLBACKEND": "agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir()), "a page leaves no files behind"


def test_docstrings_link_to_the_theory():
    lines = [
        "As in docs/theory.md, Equation 3.6, or",
        "of docs/theory.md. Equations 3.3 and 3.6 of docs/theory.md.",
        ">>> 'docs/theory.md'",
    ]
    docstrings.process(None, "function", "f", None, None, lines)
    assert lines[0] == (
        "As in `Equation 3.6 of the theory <../theory.html#3-contrastive-losses-theorems-2-to-4>`__, or"
    )
    assert lines[1:] == [
        "of `the theory <../theory.html>`__. `Equations 3.3 and 3.6 of the theory "
        "<../theory.html#3-contrastive-losses-theorems-2-to-4>`__.",
        ">>> 'docs/theory.md'",
    ]
