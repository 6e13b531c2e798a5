"""The options of `hltm probe`, and what its help says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dualnets.cli import _tree_files
from dualnets.cli._flags import Flag, grouped, parse

DESCRIPTION = """Compare activations, or the units of a torch model, with the latents of a tree.

The tree is that of a file, --tree tree.json, or that of a folder that `hltm sample` wrote, --data out/.

Either: --activations acts.npz, an array (rows, units) for each layer, computed on the rows of that
folder, or on rows of the tree's data set: --seed 1 --rows 0:8192. An array whose name is the number of a
level is compared with the latents of that level. Nothing in a file is unpickled.

Or: --model mymodule:build --weights w.safetensors --layers fc1 fc2, a function without arguments that
makes the model, and its parts by name. The model is run on rows that training never reads, or on --rows.

Arrays do not show which rows or which tree they are of: rows of another tree give plausible numbers. Prefer
--data, which has the tree and the rows together, to --tree with --rows, and encode the leaves as in training.

--initial compares with the untrained network: another file of --activations, or other weights of the
--model; "none" for those that the function makes. Random networks follow low levels well, too.

--out writes every number as table.csv, a heatmap of each layer, and a page with both."""

SAMPLES = 8192


def parsed(arguments: list[str]) -> Any:
    """The options by name, as `hltm probe` was given them."""
    metrics = "correlation, correlation_ratio, selectivity, roc_auc, mutual_information"
    options = [
        *grouped(
            "rows and tree",
            _tree_files.option(f"File of a tree: {_tree_files.FORMATS}.", "rows and tree"),
            Flag("data", "Rows that hltm sample wrote, and their tree.", default="", metavar="FOLDER"),
            Flag("rows", "The rows that the activations were computed on, or that a model is run on.",
                 default="", metavar="START:STOP", note="(default: all of --data)"),
            Flag("samples", "Rows that a model is run on, if not --rows.", kind=int,
                 note=f"(default: {SAMPLES})"),
            Flag("seed", "Seed of the rows, unless --data gives it.", kind=int, note="(default: 0)"),
            *_tree_files.reading("rows and tree"),
        ),
        *grouped(
            "what is probed",
            Flag("activations", "An array for each layer: .npz, .safetensors, .pt; one layer: .npy, or "
                 ".csv or .parquet with a column for each unit. Prefer --data: nothing in them shows that "
                 "--tree and --rows are theirs.", default="", metavar="FILE"),
            Flag("model", "The function that makes the torch module.", default="",
                 metavar="MODULE:FUNCTION"),
            Flag("weights", "Its state dict: .safetensors, .pt or .pth.", metavar="FILE"),
            Flag("initial", "The same before training, to compare with: activations, or weights of the "
                 "model, none for those that it is made with.", default="", metavar="FILE|none"),
            Flag("layers", "Layers of the file, or parts of the model, in this order; * stands for any "
                 "text.", default=[], metavar="NAME", several=True,
                 note="(default: all layers; all parts without parts of their own)"),
            Flag("side", "Whether the output or the input of a part is probed.",
                 choices=("output", "input"), note="(default: output)"),
            Flag("encode", "From leaves to the model's input: bits, signs, one-hot, one-hot-sequence, "
                 "tokens, or a function of states (B, X); the same as in training.",
                 metavar="NAME|MODULE:FUNCTION", note="(default: bits)"),
            Flag("select", "The item of what the parts return, by place or name, e.g. 0 or hidden.",
                 metavar="ITEM"),
            Flag("pool", "One position, or their mean or maximum, where parts return a sequence or an "
                 "image.", choices=("mean", "max", "first", "last"),
                 note="(default: units at every position)"),
            Flag("batch_axis", "The axis of the rows in arrays or in what the parts return, members "
                 "aside.", kind=int, note="(default: the first; of a model, it is found)"),
        ),
        *grouped(
            "measures and output",
            Flag("metrics", f"Some of {metrics}, or functions of activations (B, U) and states (B, T).",
                 default=[], metavar="NAME|MODULE:FUNCTION", several=True,
                 note="(default: correlation and selectivity; for more than two states correlation_ratio)"),
            Flag("lags", "Pairings of units with the latents of other rows, for the null; 0 for none.",
                 kind=int, note="(default: 200)"),
            Flag("out", "Folder for table.csv, a heatmap of each layer and a page.", default="",
                 metavar="FOLDER"),
        ),
    ]  # fmt: skip
    return SimpleNamespace(**parse(options, arguments, "hltm probe", DESCRIPTION))
