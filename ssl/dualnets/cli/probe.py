"""Probe activations or a torch model of your own: what its units know of the latents."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dualnets.cli._flags import parse

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from hltm import LatentTree

DESCRIPTION = """Hold activations, or a torch model, against the latents of a tree.

The tree is a saved one, --tree tree.json, or that of a folder that `hltm sample` wrote, --data out/.

Either: --activations acts.npz, an array (rows, units) for each layer, computed on the rows of that
folder, or on rows of the tree's data set: --seed 1 --rows 0:8192. Or: --model mymodule:build --weights
w.safetensors --layers fc1 fc2, a function that makes the model, and parts of it by name; it is run on
rows that training never reads. An array whose name is a number is held against that level's latents."""


def main(arguments: list[str]) -> int:
    """Measure, print the means per level, and leave the table and the heatmaps where asked."""
    options = _parse(arguments)
    if bool(options.activations) == bool(options.model):
        raise ValueError("name either --activations or --model (and --layers)")

    if bool(options.tree) == bool(options.data):
        raise ValueError("name either --tree or --data")

    import hltm
    from hltm.probe import probe_layers, to_frame

    data = hltm.load(options.data) if options.data else None
    tree = hltm.load_tree(options.tree) if data is None else data.tree
    choices: dict[str, Any] = {"metrics": options.metrics or None, "lags": options.lags}
    if options.activations:
        rows = data.rows if data is not None and not options.rows else _rows(options.rows)
        seed = options.seed if data is None else data.recipe.seed
        draw = tree.draw(len(rows), seed=seed, start=rows.start)
        found = probe_layers(_arrays(options.activations), tree, draw=draw, **choices)
    else:
        network = _network(options)
        found = probe_layers(network, tree, samples=options.n, seed=options.seed, **choices)
    table = to_frame(found, tree)

    from rich.console import Console

    console = Console(highlight=False)
    for label in found:
        console.print(_means(table[table["layer"] == label], str(label)))
    console.print(
        "\nmeans over a level's latents and over members; null: the 95% point of meaningless units; "
        "ceiling: the best any function of the leaves can do",
        style="dim",
    )
    if options.out:
        for path in _written(options.out, table, found, tree):
            console.print(f"  {path}", soft_wrap=True, markup=False)
    return 0


def _parse(arguments: list[str]) -> Any:
    import tyro

    from hltm.probe.null import LAGS

    def option(kind: Any, metavar: str | None, meaning: str) -> Any:
        return Annotated[kind, tyro.conf.arg(help=meaning, metavar=metavar)]

    file, names = (str, "FILE"), (tuple[str, ...], "[NAME ...]")
    sides, codes = Literal["output", "input"], Literal["bits", "signs"]
    metrics = "correlation, correlation_ratio, selectivity, roc_auc, mutual_information."
    fields: list[Any] = [
        ("tree", option(*file, "A tree saved with tree.save(...): a JSON file."), ""),
        ("data", option(str, "FOLDER", "Rows that hltm sample wrote, and their tree."), ""),
        ("activations", option(*file, "An .npz file: layer -> (rows, units) array."), ""),
        ("rows", option(str, "START:STOP", "The rows that the activations are of."), ""),
        ("model", option(str, "MODULE:FUNCTION", "What makes the torch module."), ""),
        ("weights", option(*file, "A .safetensors file of its state dict."), ""),
        ("layers", option(*names, "Names of its parts."), ()),
        ("side", option(sides, None, "What a part gives out, or takes in."), "output"),
        ("encode", option(codes, None, "Leaves as 0 and 1, or as -1 and +1."), "bits"),
        ("n", option(int, "INT", "Rows that a model is run on."), 8192),
        ("seed", option(int, "INT", "Of the rows, where --data does not say it."), 0),
        ("metrics", option(*names, metrics), ()),
        ("lags", option(int, "INT", "Pairings that make the null; 0 for none."), LAGS),
        ("out", option(str, "FOLDER", "For table.csv, a heatmap of each layer and a page."), ""),
    ]
    return SimpleNamespace(**parse(fields, arguments, "hltm probe", DESCRIPTION))


def _rows(text: str) -> range:
    """The rows of `start:stop`."""
    start, colon, stop = text.partition(":")
    if not (colon and start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise ValueError(f"--rows must be start:stop with start below stop, got {text!r}")
    return range(int(start), int(stop))


def _arrays(path: str) -> dict[int | str, Any]:
    """Layer -> array of an .npz file; a name that is a number is a level."""
    import numpy as np

    stored = np.load(path)  # numpy unpickles nothing unless told to
    if not isinstance(stored, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: expected an .npz file with an array for each layer")
    with stored as arrays:
        return {int(name) if name.isdigit() else name: arrays[name] for name in arrays.files}


def _network(options: Any) -> Any:
    """The model that `module:function` makes, with its weights, as a probed network."""
    import torch

    from hltm.data import encode
    from hltm.probe import TorchNetwork

    if not options.layers:
        raise ValueError("name the model's parts to probe: --layers NAME ...")
    place, colon, name = options.model.partition(":")
    if not (place and colon and name):
        raise ValueError(f"--model must be module:function, got {options.model!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        build = getattr(importlib.import_module(place), name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"--model {options.model}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(build):
        raise ValueError(f"--model {options.model}: {place} has no function {name!r}")
    model = build()
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"--model {options.model} made a {type(model).__name__}, no torch module")
    if options.weights:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            model.load_state_dict(load_file(options.weights))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{options.weights}: {error}") from error
    return TorchNetwork(
        model, options.layers, encode=getattr(encode, options.encode), side=options.side
    )


def _means(table: pd.DataFrame, label: str) -> Table:
    """A line per metric and level."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, title=f"layer {label}", title_justify="left",
                  show_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
    for column in ("metric", "level", "value", "null", "ceiling"):
        shown.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    figures = ["value", "null", "ceiling"]
    for (metric, level), row in (
        table.groupby(["metric", "level"], sort=False)[figures].mean().iterrows()
    ):
        numbers = [f"{x:.3f}" if x == x else "" for x in row]  # NaN is not itself
        shown.add_row(metric, str(level) if level >= 0 else "", *numbers)
    return shown


def _written(
    out: str, table: pd.DataFrame, found: dict[int | str, Any], tree: LatentTree
) -> list[Path]:
    """The files of a probe: the table, a heatmap of the first member for each layer, and a page."""
    from dualnets.lab.report import page
    from hltm.probe import heatmap_figure

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "table.csv"]
    table.to_csv(paths[0], index=False)
    for label, layer in found.items():
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(label))
        paths.append(folder / f"heatmap-{name}.png")
        heatmap_figure(layer, tree, title=f"layer {label}").savefig(paths[-1])
    paths.append(folder / "index.html")
    page.write_probe(
        paths[-1], table, dict(zip(map(str, found), paths[1:-1], strict=True)), repr(tree)
    )
    return paths
