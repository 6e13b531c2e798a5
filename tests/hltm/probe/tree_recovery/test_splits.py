"""The Robinson-Foulds distance against dendropy's, and what cannot be compared."""

import dendropy
import pytest
from dendropy.calculate.treecompare import symmetric_difference
from hypothesis import given
from hypothesis import strategies as st

import hltm
from hltm.probe import robinson_foulds


def pair(seed, other, nodes):
    """Two random trees with leaves of the same names."""
    trees = [
        hltm.random_tree(nodes=nodes, max_branching=b, seed=s) for s, b in ((seed, 4), (other, 2))
    ]
    fewest = min(len(t.leaves) for t in trees)
    found = []
    for tree in trees:
        shape = tree.topology
        names = [f"n{v}" for v in range(len(shape))]
        kept = list(shape.leaves)[:fewest]
        for i, v in enumerate(kept):
            names[v] = f"leaf{i}"
        # leaves beyond the fewest, and what is left without leaves, go
        keep = shape.with_ancestors(shape.nodes([shape.names[v] for v in kept]))
        parents = {
            names[v]: None if v == 0 else names[shape.parent[v]]
            for v in range(len(shape))
            if keep[v]
        }
        found.append(hltm.Topology.from_parents(parents))
    return found


@given(seed=st.integers(0, 10**6), other=st.integers(0, 10**6), nodes=st.integers(6, 40))
def test_distances_are_those_of_dendropy(seed, other, nodes):
    shapes = pair(seed, other, nodes)
    space = dendropy.TaxonNamespace()
    read = []
    for shape in shapes:
        text = hltm.LatentTree.from_tables(
            shape, [[0.5, 0.5]] + [[[0.9, 0.1], [0.1, 0.9]]] * (len(shape) - 1)
        ).to_newick(annotations=False)
        tree = dendropy.Tree.get(
            data=text, schema="newick", taxon_namespace=space, rooting="force-unrooted"
        )
        tree.suppress_unifurcations()
        tree.collapse_basal_bifurcation()
        tree.encode_bipartitions(collapse_unrooted_basal_bifurcation=True)
        read.append(tree)
    found = robinson_foulds(*shapes)
    assert found.distance == symmetric_difference(*read)
    assert found.distance == found.missing + found.wrong
    assert robinson_foulds(*shapes[::-1])[:2] == found[:2]
    assert robinson_foulds(shapes[0], shapes[0])[:2] == (0, 0.0)


def test_other_leaves_are_refused():
    a, b = (hltm.symmetric_binary(depth=d, seed=0) for d in (2, 3))
    with pytest.raises(ValueError, match="same leaves"):
        robinson_foulds(a, b)
