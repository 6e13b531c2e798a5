"""Trees in files: the format is that of the suffix, and in a file that is read, of what it holds."""

from __future__ import annotations

import gzip
import inspect
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from hltm._paths import local_path
from hltm.formats.bif import from_bif, to_bif
from hltm.formats.branch_lengths import Lengths
from hltm.formats.graph_text import from_gml, from_graphml, from_node_link, to_gml, to_graphml
from hltm.formats.json import FORMAT, from_json, to_json
from hltm.formats.newick import from_newick
from hltm.formats.newick_writing import to_newick
from hltm.tree import LatentTree, WriteOptions


class ReadOptions(TypedDict, total=False):
    """Keywords of `load_tree`: those of `LatentTree.from_newick`, and of `LatentTree.from_networkx`."""

    lengths: Lengths
    rate: float
    states: int | None
    negative: Literal["refuse", "zero"]
    keep_underscores: bool
    root: Any


@dataclass(frozen=True)
class FileFormat:
    """A format of files.

    Attributes:
        name: as people write it.
        suffixes: of its files, the usual one first.
        content: a pattern of how texts begin that are of this format whatever the suffix is.
        read: the tree of a text; keywords are options.
        write: the text of a tree; None where trees are not written.
    """

    name: str
    suffixes: tuple[str, ...]
    content: str
    read: Callable[..., LatentTree]
    write: Callable[..., str] | None = None


OWN = rf'[^\[]*"{re.escape(FORMAT)}"'
COMMENTS = r"(?>(?>//[^\n]*\n|/\*(?s:.)*?\*/)\s*)*+"
# A text is of the first format whose content fits, or else of the first whose suffix the file has.
FORMATS = (
    FileFormat(
        "node-link JSON", (),
        rf'\{{(?!{OWN})(?=(?s:.)*?"nodes"\s*:)(?=(?s:.)*?"(links|edges)"\s*:)', from_node_link,
    ),
    FileFormat("JSON", (".json",), r"\{", from_json, to_json),
    FileFormat("NEXUS", (".nex", ".nexus", ".nxs"), r"#(?i:nexus)", from_newick),
    FileFormat("GraphML", (".graphml",), r"<", from_graphml, to_graphml),
    FileFormat(
        "GML", (".gml",), r'(#[^\n]*\n\s*)*(graph\s*\[|(Creator|Version|comment)\s+["\d])', from_gml,
        to_gml,
    ),
    FileFormat(
        "BIF", (".bif",), rf"{COMMENTS}(network|variable|probability)\b[^{{}}]{{0,300}}\{{", from_bif,
        to_bif,
    ),
    FileFormat(
        "Newick",
        (".nwk", ".newick", ".nw", ".tree", ".tre", ".trees", ".treefile", ".contree", ".dnd", ".ph"),
        r"(?s:\(|\[.*\()", from_newick, to_newick,
    ),
)  # fmt: skip


def load_tree(path: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> LatentTree:
    """Read the tree in a file of any format: JSON, Newick, NEXUS, BIF, GraphML, GML, node-link JSON.

    What the file holds decides, and its suffix where that leaves a doubt. It may be compressed with gzip.
    A file that `LatentTree.save` wrote gives the same tables bit for bit; JSON, GraphML and GML
    keep the addresses of members, too.

    Args:
        path: of the file.
        options: keywords of the format's reader: those of `LatentTree.from_newick` (`lengths`, `rate`,
            `states`, …) for Newick and NEXUS, `root` for graphs whose edges have no direction.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a URL; a file that holds no such tree, naming the file and the reason; an option
            that the format does not have.

    Example:
        >>> import hltm, tempfile, pathlib
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name) / "tree.json"
        >>> hltm.symmetric_binary(depth=3, members=8, seed=0)[5].save(path)
        >>> tree = load_tree(path)
        >>> tree, tree.members
        (LatentTree(15 nodes, 8 leaves, depth 3, 2 states), (5,))
        >>> path = path.with_suffix(".nwk")
        >>> _ = path.write_text("((human:0.1,chimp:0.1):0.3,lemur:0.5);")
        >>> load_tree(path, lengths="expected-changes", states=4)
        LatentTree(5 nodes, 3 leaves, depth 2, 4 states)
        >>> folder.cleanup()
    """
    data = local_path(path).read_bytes()
    try:
        text = _text(data)
        found = _format_of(text, _suffix(path))
        _check_options(found.name, found.read, options)
        return found.read(text, **options)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{os.fspath(path)}: brackets are nested too deeply") from error


def save(tree: LatentTree, path: str | os.PathLike[str], **options: Unpack[WriteOptions]) -> None:
    """Write the tree to a file in the format of its suffix; the file appears whole or not at all.

    Suffixes: `.json`, `.nwk` and others of Newick, `.bif`, `.graphml`, `.gml`; with a further `.gz` the
    file is compressed.

    Args:
        tree: one tree, or S trees where the format holds several: JSON, GraphML and GML.
        path: of the file.
        options: keywords of the format's writer: those of `LatentTree.to_newick` for Newick.

    Raises:
        OSError: a path that cannot be written.
        ValueError: a URL, another suffix, an option that the format does not have, or a tree that the format
            cannot hold.
    """
    target = local_path(path)
    write = writer_of(path)
    _check_options(target.name, write, options)
    text = write(tree, **options)
    try:
        data = (text if text.endswith("\n") else text + "\n").encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{os.fspath(path)}: a name holds {text[error.start]!r}, which no text can"
        ) from error
    if target.suffix.lower() == ".gz":
        data = gzip.compress(data, mtime=0)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        try:
            partial.write_bytes(data)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:  # whose path is the partial file's
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from error


def writer_of(path: str | os.PathLike[str]) -> Callable[..., str]:
    """The function that makes the text of a file, by its suffix.

    Raises:
        ValueError: no format that is written has this suffix.
    """
    suffix = _suffix(path)
    known = {each: found.write for found in FORMATS for each in found.suffixes}
    write = known.get(suffix)
    if write is None:
        usual = ", ".join(found.suffixes[0] for found in FORMATS if found.write)
        raise ValueError(
            f"{os.fspath(path)}: a tree is not written to {suffix or 'a file without suffix'}, expected "
            f"one of {usual}"
        )
    return write


def lengths_are_read(path: str | os.PathLike[str]) -> bool:
    """Whether `load_tree` makes tables of a file's branch lengths, whose convention the file does not say.

    So it is for Newick and NEXUS, but for what `save` wrote, where branches have their polarities.

    Raises:
        OSError, ValueError: as `load_tree`.
    """
    text = _text(local_path(path).read_bytes())
    return _format_of(text, _suffix(path)).read is from_newick and "polarity=" not in text


def _suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a path in lower case, that before .gz where it is compressed."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def _text(data: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark, maybe compressed with gzip."""
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"a damaged gzip file ({error})") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not a text in UTF-8: byte {error.start} is {data[error.start]:#x}"
        ) from error


def _format_of(text: str, suffix: str) -> FileFormat:
    """The format of a text from a file with this suffix."""
    start = text.lstrip()
    for found in FORMATS:
        if re.match(found.content, start):
            return found
    for found in FORMATS:
        if suffix in found.suffixes:
            return found
    names = ", ".join(found.name for found in FORMATS)
    raise ValueError(f"no tree that is known by its suffix or content, expected one of {names}")


def _check_options(
    name: str, function: Callable[..., Any], options: ReadOptions | WriteOptions
) -> None:
    """Raise ValueError of the first option that a function does not have."""
    known = list(inspect.signature(function).parameters)[1:]
    for option in options:
        if option not in known:
            has = f"has {', '.join(known)}" if known else "has none"
            raise ValueError(f"{name} has no option {option!r}; it {has}")
