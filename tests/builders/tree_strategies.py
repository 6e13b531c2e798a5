"""Hypothesis strategies for trees, and slow twins of what the library computes about them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from hltm import LatentTree, Topology

# any text that UTF-8 can hold: quotes, brackets, blanks, line ends and control characters too
NAMES = st.text(st.sampled_from("'\"[]():;,_ \n&a") | st.characters(codec="utf-8"), max_size=6)
# what other programs' readers can be asked to keep: printing characters, no blanks at the ends
TAME_NAMES = st.text(
    st.sampled_from("'\"[]():;,_ &a")
    | st.characters(codec="utf-8", categories=["L", "N", "P", "S"], include_characters=" "),
    min_size=1,
    max_size=6,
).filter(lambda name: name == name.strip() and name.isprintable())


@st.composite
def parent_lists(draw, max_nodes=12):
    """Parents of 2..max_nodes nodes in shuffled order, -1 for the root."""
    count = draw(st.integers(2, max_nodes))
    grown = [-1] + [draw(st.integers(0, v - 1)) for v in range(1, count)]
    place = draw(st.permutations(range(count)))
    parents = [0] * count
    for v, parent in enumerate(grown):
        parents[place[v]] = -1 if parent < 0 else place[parent]
    return parents


@st.composite
def latent_trees(draw, max_nodes=8, max_states=4, stacked=None, names=None, cardinality=None):
    """A tree of any shape with Dirichlet tables; `stacked` None draws whether it has an S axis."""
    parents = draw(parent_lists(max_nodes))
    count = len(parents)
    labels = (
        draw(st.lists(names, min_size=count, max_size=count, unique=True))
        if names is not None
        else None
    )
    topology = Topology.from_parents(parents, labels)
    states = [
        draw(st.integers(2, max_states)) if cardinality is None else cardinality
        for _ in range(count)
    ]
    has_members = draw(st.booleans()) if stacked is None else stacked
    members = draw(st.integers(1, 3)) if has_members else None
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tables = []
    for v in range(count):
        shape = () if v == 0 else (states[topology.parent[v]],)
        tables.append(
            rng.dirichlet(np.ones(states[v]), size=(*([members] if members else []), *shape))
        )
    return LatentTree.from_tables(topology, tables, members)


def assert_same_tree(a: LatentTree, b: LatentTree) -> None:
    """The same shape, names, members and, to the last bit, tables."""
    assert a.topology.names == b.topology.names
    assert a.topology.parent.tolist() == b.topology.parent.tolist()
    assert a.topology.level.tolist() == b.topology.level.tolist()
    assert a.tables.cardinality.tolist() == b.tables.cardinality.tolist()
    assert a.tables.flat.equal(b.tables.flat)
    assert (a.members, a.stacked) == (b.members, b.stacked)


def parent_names(topology: Topology) -> dict[str, str | None]:
    """Name -> the parent's name."""
    return {
        name: None if parent < 0 else topology.names[parent]
        for name, parent in zip(topology.names, topology.parent, strict=True)
    }
