"""A tree as JSON, our own format: every table to the last bit, every member with its address."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hltm._names import brief
from hltm.sampling.philox import DRAW_FORMAT
from hltm.tree import LatentTree

FORMAT = "hltm.LatentTree"
VERSION = 1


def to_json(tree: LatentTree) -> str:
    """The tree as JSON text: format and version, its members' addresses, and one node per line.

    A node has its `name`, its `parent`'s name (null for the root) and its `table`, P(node |
    parent), the root's prior. Tables have the member axis in front only where members differ.
    Numbers are written so that reading them gives the same float64.

    Example:
        >>> import hltm
        >>> print(to_json(hltm.balanced(depth=1, transition=[[0.9, 0.1], [0.2, 0.8]])))
        {
        "format": "hltm.LatentTree", "version": 1, "draw_format": 1,
        "members": [0], "stacked": false,
        "nodes": [
        {"name": "0", "parent": null, "table": [0.5, 0.5]},
        {"name": "1", "parent": "0", "table": [[0.9, 0.1], [0.2, 0.8]]},
        {"name": "2", "parent": "0", "table": [[0.9, 0.1], [0.2, 0.8]]}
        ]}
    """
    topology, flat = tree.topology, tree.tables.flat
    shared = tree[0] if tree.stacked and bool((flat == flat[:1]).all()) else tree
    nodes = []
    for name, parent in zip(topology.names, topology.parent, strict=True):
        above = None if parent < 0 else topology.names[parent]
        nodes.append({"name": name, "parent": above, "table": shared.table(name).tolist()})
    head = {"format": FORMAT, "version": VERSION, "draw_format": DRAW_FORMAT}
    members = {"members": list(tree.members), "stacked": tree.stacked}
    lines = ",\n".join(json.dumps(node) for node in nodes)
    return f'{{\n{json.dumps(head)[1:-1]},\n{json.dumps(members)[1:-1]},\n"nodes": [\n{lines}\n]}}'


def from_json(text: str) -> LatentTree:
    """The tree that `to_json` wrote.

    Raises:
        ValueError: text of another format, version or draw format, or of an invalid tree.
    """
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a tree saved by hltm: not JSON ({error})") from error
    _check_head(found)
    try:
        parents = {node["name"]: node["parent"] for node in found["nodes"]}
        if len(parents) < len(found["nodes"]):
            raise ValueError("names must be distinct, but the file has two nodes with one name")
        tables = {node["name"]: node["table"] for node in found["nodes"]}
        members, stacked = tuple(found["members"]), found["stacked"]
        made = LatentTree.from_parents(parents, tables, members=len(members) if stacked else None)
        return replace(made, members=members)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"not a tree saved by hltm: {brief(repr(error), 120)} while reading it"
        ) from error


def _check_head(found: Any) -> None:
    """Raise ValueError unless the text is of this format, version and draw format."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"not a tree saved by hltm: its format is not {FORMAT!r}")
    if found.get("version") != VERSION:
        raise ValueError(
            f"saved as version {brief(repr(found.get('version')))}, expected {VERSION}"
        )
    if found.get("draw_format") != DRAW_FORMAT:
        raise ValueError(
            f"saved under draw format {brief(repr(found.get('draw_format')))}, expected "
            f"{DRAW_FORMAT}: its members' addresses would give other samples"
        )
