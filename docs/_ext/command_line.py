"""`{command-help}` shows the help of a command, as it is printed."""

import contextlib
import io
import os

from docutils import nodes
from docutils.parsers.rst import Directive


def help_of(arguments):
    """What `hltm … --help` prints at 80 columns."""
    from dualnets.cli import main

    printed = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(printed):
            main([*arguments, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return printed.getvalue()


class CommandHelp(Directive):
    """`{command-help} run emergence` is the help of `hltm run emergence`; without words that of `hltm`."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        text = help_of(self.arguments[0].split() if self.arguments else [])
        return [nodes.literal_block(text, text, language="text")]


def setup(app):
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
