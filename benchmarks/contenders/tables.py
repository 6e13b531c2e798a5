"""Measured cells as JSON lines, and the Markdown tables that are made of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contenders.task import METHODS, OPTIMIZERS

Cell = dict[str, Any]
TITLES = {
    "own": "hltm",
    "eager": "eager",
    "unfused": "hltm, not fused",
    "modules": "modules in a loop",
    "jax": "JAX",
}
OURS, PEERS = ("own", "unfused", "eager"), ("modules", "jax")


def save(path: Path | None, cell: Cell) -> None:
    """Append a cell to a file of JSON lines."""
    if path is not None:
        with path.open("a") as lines:
            lines.write(json.dumps(cell) + "\n")


def load(paths: Iterable[Path]) -> list[Cell]:
    """The cells of some files; of a cell that was measured again the last one."""
    found: dict[Any, Cell] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            cell = json.loads(line)
            key = (cell["table"], *(cell.get(name) for name in ("method", "optimizer", "members")))
            found[(*key, cell["device"], cell["threads"])] = cell
    return list(found.values())


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def median(cell: Cell, name: str) -> float:
    """Member-steps per second of a contender."""
    return statistics.median(cell["rates"][name])


def ratio(cell: Cell, ours: str, peer: str) -> str:
    """The median of each repeat's ratio; empty where one of them was not measured."""
    rates = cell["rates"]
    if ours not in rates or peer not in rates:
        return ""
    return f"{statistics.median(a / b for a, b in zip(rates[ours], rates[peer], strict=True)):.2g}"


def share(cell: Cell) -> float:
    """The part of the large matrix product's rate at which ours does the products of the method."""
    return median(cell, "own") * cell["operations"] / cell["matmul"]


def peers_table(cells: Sequence[Cell], before: Sequence[Cell] = ()) -> str:
    """Methods x optimisers x S: rates, ratios, shares of the matrix product."""
    cells = [cell for cell in cells if cell["table"] == "peers"]
    names = [name for name in TITLES if any(name in cell["rates"] for cell in cells)]
    pairs = [(ours, peer) for peer in PEERS for ours in OURS if {ours, peer} <= set(names)]
    with_shares = "own" in names
    old = {_key(cell): cell for cell in before if cell["table"] == "peers"}
    plain = {
        cell["members"]: share(cell)
        for cell in cells
        if with_shares and (cell["method"], cell["optimizer"]) == ("simclr", "sgd")
    }
    header = ["method", "optimiser", "S", *(TITLES[name] for name in names)]
    header += [f"{TITLES[ours]} / {TITLES[peer]}" for ours, peer in pairs]
    header += ["of the matrix product", "of SimCLR's share"] * with_shares
    header += ["hltm before", "after / before"] * bool(old)
    rows = []
    for cell in sorted(cells, key=_key):
        rates = [f"{median(cell, n):,.0f}" if n in cell["rates"] else "" for n in names]
        row = [METHODS[cell["method"]].title, cell["optimizer"], cell["members"], *rates]
        row += [ratio(cell, ours, peer) for ours, peer in pairs]
        if with_shares:
            of_plain = share(cell) / plain[cell["members"]] if cell["members"] in plain else None
            row += [f"{share(cell):.1%}", "" if of_plain is None else f"{of_plain:.2f}"]
        if old:
            was = median(old[_key(cell)], "own") if _key(cell) in old else None
            now = median(cell, "own")
            row += ["", ""] if was is None else [f"{was:,.0f}", f"{now / was:.2f}"]
        rows.append(row)
    return markdown(header, rows)


def _key(cell: Cell) -> tuple[int, int, int]:
    place = list(METHODS).index(cell["method"]), list(OPTIMIZERS).index(cell["optimizer"])
    return (*place, cell["members"])


def width_table(cells: Sequence[Cell]) -> str:
    """Networks of several widths: rates beside eager torch, and shares of the matrix product."""
    rows = [
        [
            cell["method"],
            *(f"{median(cell, name):,.0f}" for name in ("own", "eager")),
            ratio(cell, "own", "eager"),
            f"{share(cell):.0%}",
        ]
        for cell in cells
        if cell["table"] == "width"
    ]
    return markdown(["network", "hltm", "eager", "hltm / eager", "of the matrix product"], rows)


def busy_table(cells: Sequence[Cell]) -> str:
    """Rates beside a process that keeps a core busy, as shares of the quiet ones."""
    rows = []
    for cell in (cell for cell in cells if cell["table"] == "busy"):
        row = [METHODS[cell["method"]].title, cell["optimizer"], cell["members"]]
        for name in ("own", "eager"):
            quiet, busy = median(cell, name), median(cell, f"{name}, busy")
            row += [f"{quiet:,.0f}", f"{busy:,.0f}", f"{busy / quiet:.2f}"]
        rows.append(row)
    header = ["method", "optimiser", "S"]
    header += [f"{who}{what}" for who in ("hltm", "eager") for what in ("", ", busy", ": share")]
    return markdown(header, rows)


def profile_table(cells: Sequence[Cell]) -> str:
    """Where the time of a step goes, in microseconds per member-step."""
    cells = [cell for cell in cells if cell["table"] == "profile"]
    names = list(cells[0]["parts"]) if cells else []
    rows = [
        [METHODS[cell["method"]].title, cell["optimizer"], cell["members"]]
        + [f"{cell['parts'][name]:,.3g}" for name in names]
        for cell in cells
    ]
    return markdown(["method", "optimiser", "S", *names], rows)


TABLES = {
    "peers": ("Beside torch modules in a loop and JAX, member-steps per second", peers_table),
    "width": ("By width, SimCLR with plain SGD, 16 members, member-steps per second", width_table),
    "busy": ("While another process keeps a core busy, member-steps per second", busy_table),
    "profile": ("Where the time goes, microseconds per member-step", profile_table),
}


def render(cells: Sequence[Cell], before: Sequence[Cell] = ()) -> str:
    """All tables for which there are cells."""
    parts = []
    for threads in sorted({cell["threads"] for cell in cells}):
        for device in sorted({cell["device"] for cell in cells}):
            same = {"threads": threads, "device": device}
            of = [c for c in cells if all(c[name] == value for name, value in same.items())]
            for table, (title, make) in TABLES.items():
                if not any(cell["table"] == table for cell in of):
                    continue
                rates = [c["matmul"] for c in of if c["table"] == table]
                note = (
                    f"{device}, {threads} thread(s); large matrix product {min(rates) / 1e9:,.0f}"
                )
                note += f" to {max(rates) / 1e9:,.0f} GFLOP/s; {of[-1]['versions']}"
                body = make(of, before) if table == "peers" else make(of)
                parts.append(f"**{title}** ({note})\n\n{body}")
    return "\n\n".join(parts)
