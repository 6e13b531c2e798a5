"""Probe activations or a torch model: how units align with the latents."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dualnets.cli import _tree_files
from dualnets.cli._probe_files import check_folder, write_files
from dualnets.cli._probe_options import SAMPLES, parsed
from hltm._names import brief

if TYPE_CHECKING:
    from dualnets.cli._models import UserCode
    from hltm import LatentTree
    from hltm.data.export.read import DataFolder

OF_A_MODEL = ("weights", "side", "encode", "select", "pool", "samples")  # without effect on files
CHANCE = 2 / 3  # of the latents, at least, are below the null where rows are not the right ones
ROWS = re.compile(r"([0-9]{1,30}):([0-9]{1,30})")


def main(arguments: list[str]) -> int:
    """Measure, print means per level, and write the table, heatmaps and a page if a folder is named."""
    options = parsed(arguments)
    _check(options)

    import hltm
    from dualnets.cli._models import UserCode
    from hltm.probe import to_frame
    from hltm.probe.table import with_initial

    data = hltm.load(options.data) if options.data else None
    tree = _tree_files.load(vars(options)) if data is None else data.tree
    if data is not None:
        if options.seed not in (None, data.recipe.seed):
            raise ValueError(
                f"--seed {options.seed} is not that of {options.data}, {data.recipe.seed}; leave it out"
            )
        options.seed = data.recipe.seed
    forgotten = options.seed is None
    options.seed = options.seed or 0
    code, before = UserCode(), None
    # a script may go to a folder of its own; --out is where the command was called
    if options.initial:  # first: a model that is no function is changed by its weights
        name = "activations" if options.activations else "weights"
        given = None if options.initial == "none" and options.model else options.initial
        with _hints(), chdir("."):  # an untrained network may follow nothing
            first = _measured(SimpleNamespace(**{**vars(options), name: given}), tree, data, code)
        before = to_frame(first, tree)
    with _hints() as hints, chdir("."):
        found = _measured(options, tree, data, code)
    table = with_initial(to_frame(found, tree), before)
    below = table[table["metric"] == "below_null"]["value"].mean()
    if below >= CHANCE:
        most = (
            "every latent is below its null" if below == 1 else "most latents are below their null"
        )
        if options.activations and forgotten:
            hints.append(
                f"{most}, and no --seed was given, so the rows are those of seed 0: are the activations, too?"
            )
        elif options.activations and not hints:
            hints.append(f"{most}: are the arrays of these rows, in this order, and of this tree?")
        elif options.model and below == 1:
            hints.append(f"{most}: was the model trained on leaves as --encode gives them?")

    from dualnets.cli._probe_tables import probe_tables
    from dualnets.cli._terminal import print_plain, terminal

    console = terminal()
    levels = ", ".join(str(label) for label in found if isinstance(label, int))
    if levels:
        print_plain(
            console, f"layers named by a level are compared with its latents alone: {levels}"
        )
    for part in probe_tables(table, bool(options.out)):
        console.print(part)
    if options.out:
        for path in write_files(options.out, table, found, tree):
            print_plain(console, f"  {path}")
    for hint in dict.fromkeys(hints):
        print_plain(console, f"hint: {hint}", "yellow")
    return 0


def _check(options: Any) -> None:
    """Raise ValueError for options that do not go together, before any work."""
    from hltm.sampling.philox import MAX_ROWS

    if bool(options.activations) == bool(options.model):
        raise ValueError("name either --activations or --model (and --layers)")
    if bool(options.tree) == bool(options.data):
        raise ValueError("name either --tree or --data")
    if options.activations:
        for name in OF_A_MODEL:
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} is for a --model, not for --activations")
        if not (options.rows or options.data):
            raise ValueError(
                "--rows must be start:stop, the rows that the activations were computed on"
            )
    if options.data:
        for option in _tree_files.reading("rows and tree"):
            if getattr(options, option.name) not in (None, False):
                raise ValueError(f"{option.flag} is for a --tree, not for --data")
    if options.rows:
        _rows(options.rows)
        if options.samples is not None:
            raise ValueError("give --rows or --samples, not both")
    if options.samples is not None and options.samples > MAX_ROWS:
        raise ValueError(f"--samples must be at most 2^34, got {brief(options.samples)}")
    check_folder(options.out)


def _rows(text: str) -> range:
    """The rows of `start:stop`."""
    from hltm.sampling.philox import MAX_ROWS

    found = ROWS.fullmatch(text)
    start, stop = (int(found[1]), int(found[2])) if found else (0, 0)
    if not start < stop <= MAX_ROWS:
        raise ValueError(
            f"--rows must be start:stop with start below stop, at most 2^34, got '{brief(text)}'"
        )
    return range(start, stop)


@contextmanager
def _hints() -> Iterator[list[str]]:
    """The texts of the warnings that hltm gives in the block; others are shown as Python does."""
    import hltm

    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    others: dict[tuple[str, type[Warning], str, int], None] = {}
    for each in caught:
        if each.filename.startswith((*hltm.__path__, __file__)):
            found.append(" ".join(str(each.message).split()))
        else:
            others[str(each.message), each.category, each.filename, each.lineno] = None
    for other in others:
        warnings.warn_explicit(*other)


def _measured(
    options: Any, tree: LatentTree, data: DataFolder | None, code: UserCode
) -> dict[Any, Any]:
    """Layer -> what is measured of it, of activations in a file or of a model."""
    from hltm.probe import probe_layers

    rows = _rows(options.rows) if options.rows else None
    choices: dict[str, Any] = {} if options.lags is None else {"lags": options.lags}
    if options.metrics:
        choices["metrics"] = [
            code.function("--metrics", name, 2) if ":" in name else name for name in options.metrics
        ]
    if options.activations:
        source = _activations(options, tree, rows or (range(0) if data is None else data.rows))
        choices["batch_axis"] = options.batch_axis
    else:
        source = _network(options, code)
    if rows is not None:
        _check_memory(rows, tree)
        choices["draw"] = tree.draw(len(rows), seed=options.seed, start=rows.start)
    elif options.activations:
        choices["draw"] = data
    else:
        samples = SAMPLES if options.samples is None else options.samples
        choices |= {"samples": samples, "seed": options.seed}
    try:
        with code.errors(f"--model {brief(options.model)}" if options.model else "--metrics"):
            return probe_layers(source, tree, **choices)
    except ValueError as error:
        if "batch_axis" not in str(error):
            raise
        text = (
            str(error).replace("batch_axis=", "--batch-axis ").replace("batch_axis", "--batch-axis")
        )
        raise ValueError(text) from error
    except RuntimeError as error:  # of torch, which has no error of its own for it
        if "allocate memory" not in str(error):
            raise
        raise MemoryError(
            "there is not enough memory: probe fewer --layers, or with fewer --lags"
        ) from error


def _activations(options: Any, tree: LatentTree, rows: range) -> Any:
    """The arrays of a file; one without names alone, so that blocks of units find their level."""
    from dualnets.cli import _activations

    found = _activations.read(options.activations, options.layers, tree.topology.depth)
    for name, values in found.items():
        if len(rows) not in values.shape:  # before so many rows are drawn
            raise ValueError(
                f"{brief(options.activations, 80)}: layer '{brief(name)}' has shape "
                f"{brief(tuple(values.shape))}, expected {len(rows)} rows on axis "
                f"{(options.batch_axis or 0) + tree.stacked}: rows {rows.start}:{rows.stop}"
            )
    return found[_activations.ALONE] if list(found) == [_activations.ALONE] else found


def _check_memory(rows: range, tree: LatentTree) -> None:
    """Raise where the states of the rows have more bytes than this machine."""
    from dualnets.cli._foreign_files import memory

    size = len(rows) * len(tree.topology) * len(tree.members)
    if size > memory():
        raise ValueError(
            f"--rows {rows.start}:{rows.stop}: their states have {size:,} bytes, the memory has "
            f"{memory():,}"
        )


def _network(options: Any, code: UserCode) -> Any:
    """The model that `module:function` makes, with its weights, ready to be probed."""
    from dualnets.cli._models import make_model
    from hltm.probe import TorchNetwork
    from hltm.probe.sources.encodings import ENCODINGS

    encode = options.encode or "bits"
    if ":" in encode:
        encode = code.function("--encode", encode, 1)
    elif encode not in ENCODINGS:
        raise ValueError(
            f"--encode must be one of {', '.join(ENCODINGS)} or module:function, got '{brief(encode)}'"
        )
    select = options.select
    if select is not None and re.fullmatch(r"-?[0-9]{1,9}", select):
        select = int(select)
    return TorchNetwork(
        make_model(code, options.model, options.weights),
        options.layers or None,
        encode=encode,
        side=options.side or "output",
        select=select,
        pool=options.pool,
        batch_axis=options.batch_axis,
    )
