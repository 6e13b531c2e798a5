"""Pages that the build writes before it reads its sources; git ignores them."""

from pathlib import Path


def write_pages(app, name, texts):
    """Make the folder results/`name` hold these pages and no others; equal ones keep their times.

    Args:
        app: the build.
        name: of the folder.
        texts: name of a page -> its text.
    """
    folder = Path(app.srcdir) / "results" / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in texts:
            old.unlink()
    for page, text in texts.items():
        path = folder / f"{page}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
