"""BIF that we write: every bit and name comes back, and other programs read the same network."""

import re

import numpy as np
import pytest
from few import few
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_strategies import NAMES, assert_same_tree, latent_trees

import hltm
from hltm import LatentTree, Topology
from hltm.formats.bif import from_bif, state_names, to_bif

# what other readers stop at, skip, or take for one another
AWKWARD = [
    "", " ", "0", "-1", "1a", "a b", "a_b", "A_B", "a-b", "a.b", "é", "日本", "Table", "table", "default",
    "network", "variable", "property", "my_property", "type", "x;y", "a|b", "{}", '"q"', "it's", "//c",
    "/*c*/", "%41", "node_3", "node_0", "_x", "\n", "\t", "true", "s0", "a,b", "x=y", "ſ", "\ud800",
]  # fmt: skip


def awkward_tree(seed):
    tree = hltm.random_tree(nodes=7, cardinality=(2, 4), concentration=0.2, seed=seed)
    names = np.random.default_rng(seed).permutation(len(AWKWARD))[:7]
    topology = Topology(tree.topology.parent, tree.topology.level, tuple(AWKWARD[i] for i in names))
    return LatentTree.from_tables(topology, [tree.table(name) for name in tree.topology.names])


def identifiers(text):
    return re.findall(r"^variable (\S+) \{$", text, re.MULTILINE)


@settings(max_examples=12)
@given(latent_trees(stacked=False, names=NAMES | st.sampled_from(AWKWARD)))
def test_bif_and_back_keeps_every_bit_and_name(tree):
    text = tree.to_bif()
    assert_same_tree(LatentTree.from_bif(text), tree)
    found = identifiers(text)
    assert len(found) == len(tree.topology) == len({name.lower() for name in found})
    assert all(re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) for name in found)
    assert text.isascii()


def test_plain_names_stay_and_all_families_have_identifiers():
    tree = LatentTree.from_parents(
        {"rain": None, "Wet_grass2": "rain"}, [[0.5, 0.5], [[1, 0], [0, 1]]]
    )
    assert identifiers(to_bif(tree)) == ["rain", "Wet_grass2"]
    assert "property" not in to_bif(tree)
    assert identifiers(hltm.symmetric_binary(depth=1, seed=0).to_bif()) == [
        "node_0",
        "node_1",
        "node_2",
    ]


@pytest.mark.filterwarnings("ignore")  # what pgmpy's own imports warn of
@pytest.mark.parametrize("seed", few(range(2)))
def test_pgmpy_reads_what_we_write_and_we_read_what_it_writes(seed):
    from pgmpy.readwrite import BIFReader, BIFWriter

    tree = awkward_tree(seed)
    text = tree.to_bif()
    written = identifiers(text)
    model = BIFReader(string=text, include_properties=True).get_model()
    model.check_model()
    assert set(model.nodes) == set(written)
    for v, (name, own) in enumerate(zip(written, tree.topology.names, strict=True)):
        cpd = model.get_cpds(name)
        parent = tree.topology.parent[v]
        assert cpd.variables[1:] == ([] if v == 0 else [written[parent]])
        states = [f"s{k}" for k in range(tree.tables.cardinality[v])]
        assert cpd.state_names[name] == states
        assert np.array_equal(cpd.values.T if v else cpd.values, tree.table(own))
    back = from_bif(str(BIFWriter(model)))  # with its properties, so the names are the tree's own
    for name in tree.topology.names:
        assert back.table(name).equal(tree.table(name))


@pytest.mark.filterwarnings("ignore")
def test_pgmpy_states_and_names_of_several_words():
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.models import DiscreteBayesianNetwork
    from pgmpy.readwrite import BIFWriter

    model = DiscreteBayesianNetwork([("great ape", "chimp")])
    states = {"great ape": ["very low", "high"], "chimp": [0, 1, 2]}
    model.add_cpds(
        TabularCPD("great ape", 2, [[0.3], [0.7]], state_names={"great ape": states["great ape"]}),
        TabularCPD(
            "chimp", 3, [[0.1, 0.2], [0.3, 0.3], [0.6, 0.5]], ["great ape"], [2], state_names=states
        ),
    )
    text = str(BIFWriter(model))
    tree = from_bif(text)
    assert tree.table("chimp").tolist() == [[0.1, 0.3, 0.6], [0.2, 0.3, 0.5]]
    assert state_names(text) == {"chimp": ("0", "1", "2"), "great ape": ("very low", "high")}


@pytest.mark.parametrize("seed", range(4))
def test_pyagrum_reads_what_we_write_and_we_read_what_it_writes(seed, tmp_path):
    pyagrum = pytest.importorskip("pyagrum")
    tree, path = awkward_tree(seed), str(tmp_path / "tree.bif")
    (tmp_path / "tree.bif").write_text(tree.to_bif())
    network = pyagrum.loadBN(path)
    written = identifiers(tree.to_bif())
    assert network.names() == set(written)
    pyagrum.saveBN(network, path)
    back = from_bif((tmp_path / "tree.bif").read_text())
    assert set(back.topology.names) == set(written)
    for name, own in zip(written, tree.topology.names, strict=True):  # pyAgrum reads float32
        assert np.allclose(np.array(network.cpt(name).tolist()), tree.table(own), atol=1e-7)
        assert np.allclose(back.table(name), tree.table(own), atol=1e-7)


def test_formats_of_one_tree_ask_for_a_member():
    trees = hltm.symmetric_binary(depth=1, members=3, seed=0)
    for write in (trees.to_bif, trees.to_newick):
        with pytest.raises(ValueError, match=r"holds one tree, got 3: choose a member"):
            write()
    assert trees[1].to_bif()
