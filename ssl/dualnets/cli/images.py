"""List the data sets of real pictures, and draw views of one."""

from __future__ import annotations

import textwrap
from dataclasses import MISSING, fields
from importlib.util import find_spec
from pathlib import Path

from dualnets._options import described
from dualnets.cli._flags import Flag, parse
from dualnets.images.known import KNOWN, VARIABLE, found_in
from dualnets.images.operations import OPERATIONS, Operation, usage
from dualnets.images.views import PRESETS, parse_views
from hltm._paths import local_path

DESCRIPTION = f"""List the data sets of real pictures: where each is found on this machine, or what to put
where. Nothing is downloaded. The environment variable {VARIABLE} names a folder of data sets, as --data does.

With --show, draw pictures of one of them, each with six random views beside it."""
SUFFIXES = (".png", ".svg", ".pdf")
COLUMN, WIDTH = 15, 80


def main(arguments: list[str]) -> int:
    """List the data sets, or draw views of the pictures of one."""
    options = parse(_flags(), arguments, "hltm images", DESCRIPTION)
    if options["show"] is None:
        for name in ("augment", "out", "seed"):
            if options[name] is not None:
                raise ValueError(
                    f"--{name} is for --show DATASET; hltm images --help shows the options"
                )
        _list(options["data"])
        return 0
    augmentation = parse_views("default" if options["augment"] is None else options["augment"])
    out = local_path(options["out"] or "views.png")
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out must end in {', '.join(SUFFIXES)}, got {str(out)!r}")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")

    from dualnets.cli._terminal import print_plain, terminal
    from dualnets.images.known import load
    from dualnets.lab.report.style import house_style
    from dualnets.lab.report.views_figure import views_figure

    images = load(options["show"], options["data"])
    figure = views_figure(images, augmentation, seed=options["seed"] or 0)
    with house_style():
        figure.savefig(out)
    print_plain(terminal(), str(out))
    return 0


def _flags() -> list[Flag]:
    presets = ", ".join(PRESETS)
    return [
        Flag("show", "Data set whose pictures are drawn.", metavar="DATASET", choices=tuple(KNOWN)),
        Flag("augment", "Operations with + between them, as hltm images lists them, such as crop:0.5+blur; "
             f"or {presets}.", note="(default: default)"),
        Flag("data", "Folder in which the files of the data sets are.", metavar="FOLDER"),
        Flag("seed", "Of the views.", kind=int, note="(default: 0)"),
        Flag("out", "File to draw into: .png, .svg or .pdf.", metavar="FILE", note="(default: views.png)"),
    ]  # fmt: skip


def _list(data: str | None) -> None:
    places = {name: _place(name, data) for name in KNOWN}  # errors come before any line
    print("data sets:")
    for name, known in KNOWN.items():
        print(f"  {name:{COLUMN}}{known.contents}")
        print(textwrap.indent(places[name], " " * (COLUMN + 2)))
    print("\noperations for --augment, with + between them:")
    for kind in OPERATIONS.values():
        print(f"  {usage(kind)}")
        print(_wrapped(_meaning(kind)))
    print("\npresets:")
    for name, text in PRESETS.items():
        print(f"  {name:{COLUMN}}{text or 'no operation: every view is the picture'}")
    print("\nhltm images --show DATASET --augment crop:0.5+blur draws views.")


def _meaning(kind: type[Operation]) -> str:
    """What an operation does, and what each of its numbers is."""
    text = (kind.__doc__ or "").partition("\n\n")[0]
    found = described(kind.__doc__ or "", "Attributes")
    for field in fields(kind):
        default = "" if field.default is MISSING else f" (default: {field.default:g})"
        meaning = found[field.name].removesuffix(".").replace("`", "")
        text += f" {field.name.upper()}: {meaning}{default}."
    return text


def _place(name: str, data: str | None) -> str:
    """Where a data set is, or what to put where."""
    if not KNOWN[name].checksums:
        return (
            "with scikit-learn" if find_spec("sklearn") else "not found: pip install scikit-learn"
        )
    try:
        return str(Path(found_in(name, data)))
    except FileNotFoundError as error:
        return _wrapped(str(error).removeprefix(f"{name} is "), 0)


def _wrapped(text: str, indent: int = 6) -> str:
    width = WIDTH - (indent or COLUMN + 2)
    lines = textwrap.wrap(
        " ".join(text.split()), width, break_long_words=False, break_on_hyphens=False
    )
    return textwrap.indent("\n".join(lines), " " * indent)
