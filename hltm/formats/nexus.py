"""NEXUS (Maddison et al. 1997, Systematic Biology 46:590): the trees of a text's TREES blocks.

Of TREES blocks the commands TRANSLATE, TREE and UTREE are read, and TAXLABELS of any block; all other
blocks and commands are skipped, matrices too, so numbers of taxa stay numbers where TAXLABELS is
missing. Keywords are case-insensitive, and comments may stand anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hltm.formats.newick_syntax import NewickNode, Token, read_tree, refuse, shown, tokens

NEXUS = re.compile(
    r"""(?P<space>\s+)|(?P<comment>\[[^\[\]]*\])|(?P<mark>[=,;])
    |(?P<quoted>'[^']*(?:''[^']*)*'|"[^"]*(?:""[^"]*)*")|(?P<plain>[^\s\[\]=,;'"][^\s\[=,;]*)""",
    re.VERBOSE,
)
TREE = re.compile(r"u?tree(\*.*)?", re.IGNORECASE | re.DOTALL)


def is_nexus(text: str) -> bool:
    """Whether a text begins as NEXUS does."""
    return re.match(r"\s*#nexus", text, re.IGNORECASE) is not None


def nexus_trees(text: str, *, keep_underscores: bool = False) -> Iterator[list[NewickNode]]:
    """The nodes of every tree, with the taxa's names on leaves.

    A leaf's label is a key of TRANSLATE, or a taxon's name, or else a taxon's number in TAXLABELS.

    Raises:
        ValueError: text that is not NEXUS, saying where and why, or in which no tree stands.
    """
    taxa: list[str] = []
    names: dict[str, str] = {}
    block, blocks, found = "", [], 0
    place = text.index("#") + len("#NEXUS")
    while command := _command(text, place):
        words = [token.text for token in command]
        verb, place = words[0].upper(), command[-1].stop
        if verb == "BEGIN" and len(words) > 1:
            block, names = words[1].upper(), {}
            blocks.append(block)
        elif verb in ("END", "ENDBLOCK"):
            block = ""
        elif verb == "TAXLABELS":
            taxa = [t.label(keep_underscores) for t in command[1:] if t.kind != "mark"]
        elif block == "TREES" and verb == "TRANSLATE":
            names = _translation(text, command, keep_underscores)
        elif block == "TREES" and TREE.fullmatch(verb):
            if words[-1] != "=":
                raise refuse(text, command[0].start, f"the {verb} command has no '='", "NEXUS")
            tree = read_tree(text, place, keep_underscores=keep_underscores)
            if tree is None:
                raise refuse(text, place, f"the {verb} command has no tree", "NEXUS")
            parts, place = tree
            if (parts[0].name or "").upper() in ("END", "ENDBLOCK"):
                raise refuse(text, command[0].start, f"the {verb} command has no ';'", "NEXUS")
            _name_leaves(text, parts, names, taxa)
            found += 1
            yield parts
    if not found:
        held = ", ".join(map(shown, blocks[:5])) or "none"
        raise ValueError(f"the NEXUS text has no tree in a TREES block; its blocks: {held}")


def _command(text: str, place: int) -> list[Token]:
    """The tokens up to a semicolon, or to the equals sign of a tree; none at the end of the text."""
    found: list[Token] = []
    for token in tokens(text, place, NEXUS):
        if token.kind == "comment" or (token.text == ";" and token.kind == "mark" and not found):
            continue
        found.append(token)
        ends = ";=" if TREE.fullmatch(found[0].text) else ";"
        if token.kind == "mark" and token.text in ends:
            break
    return found


def _translation(text: str, command: list[Token], keep_underscores: bool) -> dict[str, str]:
    """Token -> name of a TRANSLATE command."""
    found: dict[str, str] = {}
    pair: list[Token] = []
    for token in command[1:]:
        if token.kind != "mark":
            pair.append(token)
        elif token.text in ",;" and pair:
            labels = [each.label(keep_underscores) for each in pair]
            if len(labels) == 1:
                raise refuse(
                    text, pair[0].start, f"TRANSLATE has no name for {shown(labels[0])}", "NEXUS"
                )
            if labels[0] in found:
                raise refuse(
                    text, pair[0].start, f"TRANSLATE names {shown(labels[0])} twice", "NEXUS"
                )
            found[labels[0]], pair = " ".join(labels[1:]), []
    return found


def _name_leaves(
    text: str, parts: list[NewickNode], names: dict[str, str], taxa: list[str]
) -> None:
    """Put names in the place of the tokens that stand for them; a number must stand for one, if any does."""
    inner, known = {part.parent for part in parts}, set(taxa)
    for place, part in enumerate(parts):
        token = part.name
        if token is None or place in inner:
            continue
        if token in names:
            part.name = names[token]
        elif token not in known and token.isdecimal():
            if 1 <= int(token) <= len(taxa):
                part.name = taxa[int(token) - 1]
            elif names:
                reason = f"TRANSLATE has no name for the leaf {shown(token)}"
                raise refuse(text, part.start, reason, "NEXUS")
