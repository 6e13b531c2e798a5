"""Probe activations or a torch model: how units align with the latents."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dualnets.cli import _tree_files
from dualnets.cli._flags import Option, grouped, parse
from hltm._paths import local_path

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from hltm import LatentTree

DESCRIPTION = """Compare activations, or the units of a torch model, with the latents of a tree.

The tree is that of a file, --tree tree.json, or that of a folder that `hltm sample` wrote, --data out/.

Either: --activations acts.npz, an array (rows, units) for each layer, computed on the rows of that
folder, or on rows of the tree's data set: --seed 1 --rows 0:8192. An array whose name is a number is
compared with the latents of that level.

Or: --model mymodule:build --weights w.safetensors --layers fc1 fc2, a function that makes the model, and
its parts by name; the model is run on rows that training never reads."""


def main(arguments: list[str]) -> int:
    """Measure, print means per level, and write the table, heatmaps and a page if a folder is named."""
    options = _parse(arguments)
    if bool(options.activations) == bool(options.model):
        raise ValueError("name either --activations or --model (and --layers)")
    if bool(options.tree) == bool(options.data):
        raise ValueError("name either --tree or --data")
    local_path(options.out)  # raises for a URL before any work

    import hltm
    from hltm.probe import probe_layers, to_frame

    data = hltm.load(options.data) if options.data else None
    tree = _tree_files.load(vars(options)) if data is None else data.tree
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

    from dualnets.cli._terminal import print_plain, terminal

    console = terminal()
    for label in found:
        console.print(_means(table[table["layer"] == label], str(label)))
    console.print(
        "\nmeans over the latents of a level and over members; null: 95% quantile of the score of "
        "meaningless units; ceiling: best score of any function of the leaves",
        style="dim",
    )
    if options.out:
        for path in _written(options.out, table, found, tree):
            print_plain(console, f"  {path}")
    return 0


def _parse(arguments: list[str]) -> Any:
    from hltm.probe.null import LAGS

    metrics = "correlation, correlation_ratio, selectivity, roc_auc, mutual_information"
    options = [
        *grouped(
            "rows and tree",
            _tree_files.option(f"File of a tree: {_tree_files.FORMATS}.", "rows and tree"),
            Option("data", "Rows that hltm sample wrote, and their tree.", default="", metavar="FOLDER"),
            Option("rows", "The rows that the activations were computed on.", default="",
                   metavar="START:STOP"),
            Option("n", "Rows that a model is run on.", kind=int, default=8192),
            Option("seed", "Seed of the rows, unless --data gives it.", kind=int, default=0),
            *_tree_files.reading("rows and tree"),
        ),
        *grouped(
            "what is probed",
            Option("activations", "An .npz file: layer -> (rows, units) array.", default="", metavar="FILE"),
            Option("model", "The function that makes the torch module.", default="",
                   metavar="MODULE:FUNCTION"),
            Option("weights", "A .safetensors file of its state dict.", default="", metavar="FILE"),
            Option("layers", "Names of its parts.", default=[], metavar="NAME", several=True, note=""),
            Option("side", "Whether the output or the input of a part is probed.", default="output",
                   choices=("output", "input")),
            Option("encode", "Leaves as 0 and 1, or as -1 and +1.", default="bits",
                   choices=("bits", "signs")),
        ),
        *grouped(
            "measures and output",
            Option("metrics", f"Some of {metrics}.", default=[], metavar="NAME", several=True,
                   note="(default: correlation and selectivity; for more than two states correlation_ratio)"),
            Option("lags", "Pairings of units with the latents of other rows, for the null; 0 for none.",
                   kind=int, default=LAGS),
            Option("out", "Folder for table.csv, a heatmap of each layer and a page.", default="",
                   metavar="FOLDER"),
        ),
    ]  # fmt: skip
    return SimpleNamespace(**parse(options, arguments, "hltm probe", DESCRIPTION))


def _rows(text: str) -> range:
    """The rows of `start:stop`."""
    start, colon, stop = text.partition(":")
    if not (colon and start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise ValueError(f"--rows must be start:stop with start below stop, got {text!r}")
    return range(int(start), int(stop))


def _arrays(path: str) -> dict[int | str, Any]:
    """Layer -> array of an .npz file; a name that is a number is a level."""
    import numpy as np

    stored = np.load(path)  # by default numpy does not unpickle, which could run code
    if not isinstance(stored, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: expected an .npz file with an array for each layer")
    with stored as arrays:
        return {int(name) if name.isdigit() else name: arrays[name] for name in arrays.files}


def _network(options: Any) -> Any:
    """The model that `module:function` makes, with its weights, ready to be probed."""
    import torch

    from hltm.data import encode
    from hltm.probe import TorchNetwork

    if not options.layers:
        raise ValueError("name the model's parts to probe: --layers NAME ...")
    module, colon, name = options.model.partition(":")
    if not (module and colon and name):
        raise ValueError(f"--model must be module:function, got {options.model!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        build = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"--model {options.model}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(build):
        raise ValueError(f"--model {options.model}: {module} has no function {name!r}")
    model = build()
    if not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"--model {options.model} made a {type(model).__name__}, expected a torch module"
        )
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
    from rich.text import Text

    from dualnets.cli._terminal import plain_table

    columns = ["value", "null", "ceiling"]
    title = Text(f"layer {label}")
    shown = plain_table(["metric", "level", *columns], left="metric", title=title)
    for (metric, level), row in (
        table.groupby(["metric", "level"], sort=False)[columns].mean().iterrows()
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
