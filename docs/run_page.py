"""Run the code cells of pages in plain Python: `python docs/run_page.py docs/guides/views.md`."""

import re
import sys
from pathlib import Path

CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def cells(text):
    """The code of a page's cells, without options such as `:tags:` and magics such as `%matplotlib`."""
    return [re.sub(r"^[:%][^\n]*\n", "", code, flags=re.MULTILINE) for code in CELL.findall(text)]


def run(page):
    """Run the cells of a page, one after the other, in one namespace."""
    names = {"__name__": "__main__"}
    for at, code in enumerate(cells(Path(page).read_text(encoding="utf-8")), start=1):
        exec(compile(code, f"{page}, cell {at}", "exec"), names)


if __name__ == "__main__":
    for page in sys.argv[1:]:
        run(page)
