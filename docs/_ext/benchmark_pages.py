"""The pages of benchmarks/ as pages under results/measured, written before the build reads its sources."""

from pathlib import Path

from written_pages import write_pages

HOME = Path(__file__).resolve().parents[2] / "benchmarks"
APART = {"claims"}  # its table has pages of its own
NAMES = {"README": "draws"}


def pages():
    """Name of a page in results/measured -> its text; links between the pages stay true."""
    found = {}
    for path in sorted(HOME.glob("*.md")):
        if path.stem in APART:
            continue
        text = path.read_text(encoding="utf-8")
        for old, new in NAMES.items():
            text = text.replace(f"]({old}.md", f"]({new}.md")
        found[NAMES.get(path.stem, path.stem)] = text
    return found


def write(app):
    write_pages(app, "measured", pages())


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
