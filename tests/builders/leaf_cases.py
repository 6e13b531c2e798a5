"""Trees whose leaves have three or four states, networks on them, and losses of leaves one by one."""

from functools import partial

import numpy as np
import torch

import dualnets
import hltm

SHAPE = hltm.Topology.from_parents(
    {"r": None, "a": "r", "b": "r", "s": "a", "t": "a", "u": "b", "v": "b"}
)
STATES = (3, 4, 3, 4)  # of the leaves


def _tables(seed):
    rng = np.random.default_rng(seed)
    shapes = {"r": (1, 3), "a": (3, 2), "b": (3, 2)}
    shapes |= {name: (2, many) for name, many in zip("stuv", STATES, strict=True)}
    made = {name: rng.dirichlet(np.ones(s[1]), (3, s[0])) for name, s in shapes.items()}
    return made | {"r": made["r"][:, 0]}


TREE = hltm.LatentTree.from_tables(SHAPE, _tables(0), members=3)


def transformer(trees, dtype, device, **options):
    """Four units, as the other networks of the methods' tests have."""
    return dualnets.transformer(
        trees,
        width=4,
        layers=1,
        heads=2,
        mlp_width=5,
        seed=1,
        dtype=dtype,
        device=device,
        **options,
    )


causal = partial(transformer, causal=True)


def shown(f, view):
    """What a plain network reads: states at positions, or one-hot leaves, of which missing ones are zeros."""
    if hasattr(f, "positions"):
        return view
    parts = [(view[:, x, None] == torch.arange(k)).to(view) for x, k in enumerate(STATES)]
    return torch.cat(parts, dim=1)


def is_missing(view, i, x):
    return not 0 <= view[i, x] < STATES[x]


def leaf_loss(method, f, state, view, sample, counts):
    """The mean of -log q(z) over the leaves (i, x) that count; 0 where none does."""
    weight, bias = state["classifier.0.weight"], state.get("classifier.0.bias")
    most = max(STATES)
    outputs = f.positions(view) if hasattr(f, "positions") else f(shown(f, view))
    losses = []
    for i in range(len(view)):
        for x, many in enumerate(STATES):
            if not counts(i, x):
                continue
            if not hasattr(f, "positions"):
                hidden, w = outputs[i], weight[0, x * most : x * most + many]
                b = 0 if bias is None else bias[0, x * most : x * most + many]
            else:
                place = x if method.per_leaf else 0
                hidden, w = outputs[i][x], weight[place, :many]
                b = 0 if bias is None else bias[place, :many]
            scores = w @ hidden + b
            losses.append(torch.log(torch.exp(scores).sum()) - scores[int(sample[i, x])])
    return sum(losses) / len(losses) if losses else (weight * 0).sum()
