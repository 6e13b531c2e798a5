"""Files of trees: every format by suffix and content, names and bits, and what is refused."""

import gzip
import inspect
import json

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_strategies import NAMES, TAME_NAMES, assert_same_tree, latent_trees

import hltm
from hltm.formats.files import FORMATS, ReadOptions
from hltm.tree import WriteOptions

NEWICK = "((human:0.1,chimp:0.1)ape:0.3,'a lemur':0.5)primate;"
PRIMATES = ("primate", "ape", "a lemur", "human", "chimp")
NEXUS = f"#nexus\nbegin trees;\n tree one = [&R] {NEWICK}\nend;\n"
BIF = """// comment
network n { }
variable rain { type discrete [ 2 ] { no, yes }; }
variable wet { type discrete [ 2 ] { no, yes }; }
probability ( rain ) { table 0.8, 0.2; }
probability ( wet | rain ) { (no) 0.9, 0.1; (yes) 0.0, 1.0; }
"""
GML = 'graph [ node [ id 0 label "b" ] node [ id 1 label "a" ] edge [ source 0 target 1 polarity 0.5 ] ]'
IRREGULAR = hltm.random_tree(nodes=9, cardinality=(2, 4), seed=0)
TREES = hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), members=3, seed=0)


@given(latent_trees(names=NAMES), st.sampled_from([".json", ".gml", ".GML.gz", ".Json.GZ"]))
@settings(max_examples=40)
def test_files_keep_every_bit_name_and_address(tmp_path_factory, tree, suffix):
    path = tmp_path_factory.getbasetemp() / f"tree{suffix}"
    tree.save(path)
    assert_same_tree(hltm.load_tree(path), tree)


@given(latent_trees(names=TAME_NAMES, stacked=False), st.sampled_from([".bif", ".graphml"]))
@settings(max_examples=40)
def test_formats_of_other_programs_keep_every_bit_and_name(tmp_path_factory, tree, suffix):
    path = tmp_path_factory.getbasetemp() / f"tree{suffix}"
    tree.save(path)
    assert_same_tree(hltm.load_tree(path), tree)


def test_members_travel_in_json_graphml_and_gml(tmp_path):
    for suffix in (".json", ".graphml", ".gml"):
        TREES[1:].save(tmp_path / f"trees{suffix}")
        assert_same_tree(hltm.load_tree(tmp_path / f"trees{suffix}"), TREES[1:])
    for suffix in (".bif", ".nwk"):
        with pytest.raises(ValueError, match="choose a member"):
            TREES.save(tmp_path / f"trees{suffix}")
        TREES[1].save(tmp_path / f"tree{suffix}")
        found = hltm.load_tree(tmp_path / f"tree{suffix}")
        assert found.tables.flat.equal(TREES[1].tables.flat)
    assert len(list(tmp_path.iterdir())) == 5  # nothing is left of a refused file


def test_graphs_that_networkx_writes_load_again(tmp_path):
    for tree in (IRREGULAR, TREES):
        graph = tree.to_networkx()
        nx.write_graphml(graph, tmp_path / "tree.graphml")
        nx.write_gml(graph, tmp_path / "tree.gml")
        (tmp_path / "tree.json").write_text(json.dumps(nx.node_link_data(graph)))
        for suffix in ("graphml", "gml", "json"):
            assert_same_tree(hltm.load_tree(tmp_path / f"tree.{suffix}"), tree)
        assert_same_tree(
            hltm.LatentTree.from_networkx(nx.read_graphml(tmp_path / "tree.graphml")), tree
        )
        assert_same_tree(hltm.LatentTree.from_networkx(nx.read_gml(tmp_path / "tree.gml")), tree)


@pytest.mark.parametrize("edges", ["links", "edges"])
@pytest.mark.parametrize("multigraph", [False, True])
def test_node_link_json_of_any_version(tmp_path, edges, multigraph):
    held = {
        "directed": False, "multigraph": multigraph, "graph": [],
        "nodes": [{"id": 2}, {"id": 0}], edges: [{"source": 2, "target": 0, "key": 0, "polarity": 0.98}],
    }  # fmt: skip
    (tmp_path / "tree.json").write_text(json.dumps(held))
    tree = hltm.load_tree(tmp_path / "tree.json", root=2)
    assert tree.topology.names == ("2", "0")
    assert float(tree.correlation("2", "0")) == pytest.approx(0.98)


@pytest.mark.parametrize(
    "name", ["tree.nwk", "tree.tre", "tree.treefile", "tree.txt", "tree", "t.csv"]
)
@pytest.mark.parametrize(
    ("text", "names"),
    [
        (NEWICK, PRIMATES),
        ("\n " + NEXUS, PRIMATES),
        (BIF, ("rain", "wet")),
        ("/* a // b */" + BIF, ("rain", "wet")),
        (GML.replace("graph [", "graph [ directed 1"), ("b", "a")),
        ('# comment\nCreator "me"\n' + GML.replace("graph [", "graph [ directed 1"), ("b", "a")),
    ],
    ids=["newick", "nexus", "bif", "comments", "gml", "gml with a head"],
)
def test_content_decides_whatever_the_suffix_is(tmp_path, name, text, names):
    plain = text.encode()
    for data in (plain, b"\xef\xbb\xbf" + plain, text.replace("\n", "\r\n").encode(),
                 text.encode("utf-16"), gzip.compress(plain)):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        assert hltm.load_tree(tmp_path / name).topology.names == names


def test_options_reach_the_reader(tmp_path):
    (tmp_path / "tree.nwk").write_text(NEWICK)
    (tmp_path / "tree.gml").write_text(GML)
    tree = hltm.load_tree(tmp_path / "tree.nwk", lengths="expected-changes", states=4)
    expected = hltm.LatentTree.from_newick(NEWICK, lengths="expected-changes", states=4)
    assert_same_tree(tree, expected)
    assert hltm.load_tree(tmp_path / "tree.gml", root="a").topology.names == ("a", "b")
    IRREGULAR.save(tmp_path / "shape.nwk", tables="drop")
    read = hltm.topology_from_newick((tmp_path / "shape.nwk").read_text())
    assert read.names == IRREGULAR.topology.names
    for name, option, message in [
        ("tree.nwk", "root", "Newick has no option 'root'; it has lengths, "),
        ("tree.gml", "lengths", "GML has no option 'lengths'; it has root"),
    ]:
        with pytest.raises(ValueError, match=rf"{name}: {message}"):
            hltm.load_tree(tmp_path / name, **{option: "a"})
    with pytest.raises(ValueError, match=r"t\.json has no option 'tables'; it has none"):
        IRREGULAR.save(tmp_path / "t.json", tables="drop")


def test_labels_in_gml_are_names_wherever_they_stand(tmp_path):
    """Cytoscape writes a node's place in a picture before its label."""
    node = 'node [ id {0} graphics [ x 1.0 y 2.0 ] label "{1}" ]'
    nodes = " ".join(node.format(i, name) for i, name in [(-2, "wet"), (-1, "[]")])
    edge = 'edge [ source -1 target -2 polarity 0.5 label "pp" ]'
    (tmp_path / "tree.gml").write_text(f"graph [ directed 1 {nodes} {edge} ]")
    tree = hltm.load_tree(tmp_path / "tree.gml")
    assert tree.topology.names == ("[]", "wet")
    tree.save(tmp_path / "again.gml")
    assert_same_tree(hltm.load_tree(tmp_path / "again.gml"), tree)


def test_nodes_of_node_link_json_that_were_tuples_are_read(tmp_path):
    graph = nx.DiGraph([((0, 1), "a", {"polarity": 0.5})])
    (tmp_path / "tree.json").write_text(json.dumps(nx.node_link_data(graph)))
    assert hltm.load_tree(tmp_path / "tree.json").topology.names == ("(0, 1)", "a")


@pytest.mark.parametrize("place", ["file/tree.json", "none/tree.json", "folder.json"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError) as error:  # noqa: PT011
        IRREGULAR.save(tmp_path / place)
    assert error.value.filename == str(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json"]


REFUSED = {
    "a.txt": (b"hello", "no tree that is known by its suffix or content, expected one of"),
    "a": (b"", "no tree that is known"),
    "latin.nwk": ("(a:1,é:1);".encode("latin-1"), "not a text in UTF-8: byte 5 is 0xe9"),
    "cut.nwk.gz": (gzip.compress(b"(a:1,b:1);")[:-6], "a damaged gzip file"),
    "two.nwk": (b"(a:1,b:1);(a:1,b:1);", "holds 2 trees"),
    "shape.nwk": (b"(a,b);", "'a' has neither a length nor a polarity"),
    "word.nwk": (b"hello", "not Newick"),
    "word.bif": (b"hello", "not BIF at line 1"),
    "word.gml": (b"hello", "not GML: "),
    "open.graphml": (b"<graphml", "not GraphML: "),
    "bif.xml": (b"<?xml version='1.0'?>\n<BIF></BIF>", "XML of the kind 'BIF', expected GraphML"),
    "two.graphml": (b"<graphml><graph id='a'></graph><graph></graph></graphml>", "holds 2 graphs"),
    "word.json": (b"{", "not a tree saved by hltm: not JSON"),
    "link.json": (b'{"nodes": [{"id": 1}], "links": [{"source": 1, "target": 2}]}',
                  "not node-link JSON: an edge to 2, which is not the id of a node"),
    "id.json": (b'{"nodes": [{"name": 1}], "links": []}', "not node-link JSON: {\"name\": 1} has no 'id'"),
    "twice.json": (b'{"nodes": [{"id": 1}, {"id": 1}], "links": []}',
                   "not node-link JSON: two nodes have the id 1"),
    "twice.gml": (GML.replace('"b"', '"a"').encode(), "not GML: two nodes have the label 'a'"),
    "some.gml": (GML.replace('label "b"', "").encode(), "not GML: some nodes have a label, and others"),
    "parallel.json": (b'{"nodes": [{"id": 1}, {"id": 2}], "links": [{"source": 1, "target": 2}, '
                      b'{"source": 2, "target": 1}]}', "MultiGraph with two edges between 1 and 2"),
    "deep.json": (b'{"nodes": ' + b"[" * 100_000, "brackets are nested too deeply|not JSON"),
    "free.gml": (GML.encode(), "give root=, a node"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_in_a_sentence_that_names_them(tmp_path, name):
    data, message = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}: .*{message}") as error:
        hltm.load_tree(tmp_path / name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) - len(str(tmp_path)) < 300


@pytest.mark.parametrize("name", ["tree", "tree.odd", "tree.gz", "tree.nex"])
def test_other_suffixes_are_not_written(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}: a tree is not written to .*\.json, .*\.nwk"):
        IRREGULAR.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_names_that_no_file_can_hold_are_refused(tmp_path):
    tree = hltm.LatentTree.from_parents(
        {"a\x01": None, "\ud800": "a\x01"}, [[0.5, 0.5], [[1, 0], [0, 1]]]
    )
    with pytest.raises(ValueError, match=r"GraphML cannot hold the name 'a\\x01'"):
        tree.save(tmp_path / "tree.graphml")
    with pytest.raises(ValueError, match=r"tree.nwk: a name holds '\\ud800', which no text can"):
        tree.save(tmp_path / "tree.nwk")
    for suffix in (".json", ".bif", ".gml"):
        tree.save(tmp_path / f"tree{suffix}")
        assert_same_tree(hltm.load_tree(tmp_path / f"tree{suffix}"), tree)


def test_a_suffix_is_of_one_format():
    suffixes = [suffix for each in FORMATS for suffix in each.suffixes]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize(("options", "verb"), [(ReadOptions, "read"), (WriteOptions, "write")])
def test_type_checkers_know_the_keywords_of_all_formats(options, verb):
    functions = [getattr(each, verb) for each in FORMATS if getattr(each, verb)]
    known = {name for own in functions for name in list(inspect.signature(own).parameters)[1:]}
    assert set(options.__annotations__) == known
