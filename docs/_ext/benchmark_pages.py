"""The pages of benchmarks/ as pages under results/measured, written before the build reads its sources."""

from pathlib import Path

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
    folder = Path(app.srcdir) / "results" / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages()
    for old in folder.glob("*.md"):
        if old.stem not in texts:
            old.unlink()
    for name, text in texts.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
