"""A tree, settings of its export, and what the files of an export should hold."""

from pathlib import Path

import numpy as np

import hltm
from hltm.data.export.recipe import FORMATS as KNOWN

FORMATS = list(KNOWN)
# every format by default, and with a column per node where that is a choice
LAYOUTS = FORMATS + [f"{name} of nodes" for name, (_, more) in KNOWN.items() if "nodes" in more[1:]]
TREE = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
SETTINGS = {
    "seed": 5,
    "start": 77,
    "views": 2,
    "augment": hltm.resample_leaves(0.4),
    "rows_per_shard": 300,
}


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_same_as_drawn(data, tree, samples, *, seed, start=0, augment=None):
    draw = tree.sample(samples, seed=seed, start=start)
    # by numpy: torch cannot compare integers of 16 bits without a sign
    assert np.array_equal(data.leaves, draw.leaves)
    nodes = list(data.latent_nodes)
    assert np.array_equal(data.latents, np.asarray(draw.states)[..., nodes])
    if augment is not None:
        for column, view in zip(data.views, tree.views(draw, augment), strict=True):
            assert np.array_equal(column, view.leaves)
            if augment.missing is not None:
                assert str(view.leaves.dtype) == f"torch.{column.dtype}"
