"""BIF: pgmpy reads the same joint distribution; names that BIF cannot hold."""

import numpy as np
import pytest
from tree_strategies import parent_names

import hltm
from hltm import LatentTree, Topology


def read_by_pgmpy(text):
    from pgmpy.readwrite import BIFReader

    return BIFReader(string=text).get_model()


@pytest.mark.filterwarnings("ignore")  # what pgmpy's own imports warn of
@pytest.mark.parametrize("seed", range(4))
def test_pgmpy_reads_our_bif_to_the_same_joint(seed):
    tree = hltm.random_tree(nodes=6, cardinality=(2, 3), concentration=0.3, seed=seed)
    names = [["0", "1", "2", "3", "4", "5"], ["root", "a.b", "c-d", "e_f", "G", "x1"]][seed % 2]
    tree = LatentTree.from_tables(
        Topology(tree.topology.parent, tree.topology.level, tuple(names)),
        [tree.table(v) for v in range(6)],
    )
    model = read_by_pgmpy(tree.to_bif())
    assert set(model.nodes) == set(names)
    assert {child: parent for parent, child in model.edges} == {
        name: parent for name, parent in parent_names(tree.topology).items() if parent
    }
    states, probability = tree.joint()
    expected = np.ones(len(probability))
    for name in names:
        cpd = model.get_cpds(name)
        axes = [
            [int(state.removeprefix("s")) for state in cpd.state_names[variable]]
            for variable in cpd.variables
        ]
        assert all(axis == list(range(len(axis))) for axis in axes)
        columns = [states[:, tree.topology.node(variable)].numpy() for variable in cpd.variables]
        expected = expected * cpd.values[tuple(columns)]
    assert probability.numpy() == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a b", "c"], "cannot hold the name 'a b'"),
        (["a", ""], "cannot hold the name ''"),
        (["a", "b|c"], r"cannot hold the name 'b\|c'"),
        (["Table", "b"], "cannot hold the name 'Table'"),
        (["Bob", "bob"], "more than case, .* got 'Bob' and 'bob'"),
    ],
)
def test_names_that_bif_cannot_hold_are_refused(names, message):
    tree = LatentTree.from_parents([None, 0], [[0.5, 0.5], [[1, 0], [0, 1]]], names)
    with pytest.raises(ValueError, match=message):
        tree.to_bif()


def test_formats_of_one_tree_ask_for_a_member():
    trees = hltm.symmetric_binary(depth=1, members=3, seed=0)
    for write in (trees.to_bif, trees.to_newick):
        with pytest.raises(ValueError, match=r"holds one tree, got 3: choose a member"):
            write()
    assert trees[1].to_bif()
