"""Newick and NEXUS as programs of phylogenetics write them; every shape was made up for the test."""

import random

import dendropy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree_strategies import parent_names

import hltm
from hltm import LatentTree, topologies_from_newick, topology_from_newick, trees_from_newick
from hltm.formats.newick_syntax import read_tree

FOUR = {"A": "100", "B": "100", "C": "100-2", "D": "100-2", "100": "0", "100-2": "0", "0": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # PhyML, FastTree: support as labels; IQ-TREE: two supports; RAxML: in a comment after the length
        ("((A:1,B:1)100:1,(C:1,D:1)100:1);", FOUR),
        (
            "((A:1,B:1)98.5/100:1,(C:1,D:1)98.5/100:1);",
            {"A": "98.5/100", "B": "98.5/100", "C": "98.5/100-2", "D": "98.5/100-2"},
        ),
        ("((A:1e-6,B:1)0.870:1,C:1);", {"A": "0.870", "B": "0.870", "C": "0"}),
        ("((A:1,B:1):1[100],(C:1,D:1):1[99]);", {"A": "1", "B": "1", "C": "2", "D": "2"}),
        # GTDB: support and taxon in one quoted label
        (
            "((A:1,B:1)'100.0:p__Firmicutes; c__Bacilli':1,C:1)'d__Bacteria';",
            {"A": "100.0:p__Firmicutes; c__Bacilli", "C": "d__Bacteria"},
        ),
        # BEAST: annotations before and after the colon, with braces, quotes and commas
        (
            '[&R] ((A[&height=0.0,rate_range={0.1,0.2}]:[&rate=1.5]1.0,B:1.0)[&posterior=1.0,set={"x"}]'
            ":2.0,C:3.0)[&length=0];",
            {"A": "1", "B": "1", "C": "0"},
        ),
        # MrBayes: annotations after labels and after lengths
        (
            "(A[&prob=1.0,prob(percent)=\"100\"]:1.0[&length_mean=1e-01],B:1e+00[&x={1,2}])[&prob=1];",
            {"A": "0", "B": "0"},
        ),
        # NHX
        ("((A:1[&&NHX:S=human:E=1.1.1],B:1)x:1[&&NHX:D=Y],C:1)r;", {"A": "x", "B": "x", "C": "r"}),
        # ete3, Phylip: names alone, lengths alone, blanks and line ends between tokens
        ("(,(,));", {"0": None, "1": "0", "2": "0", "3": "2", "4": "2"}),
        ("(:0.1,:0.2,(:0.3,:0.4):0.5):0.0;", {"1": "0", "2": "0", "3": "0", "4": "3", "5": "3"}),
        ("((B:0.2,(C:0.3,D:0.4)E:0.5)A:0.1)F;", {"B": "A", "C": "E", "E": "A", "A": "F"}),
        ("((1,2),(0,));", {"3": None, "4": "3", "5": "3", "1": "4", "2": "4", "0": "5", "6": "5"}),
        ("(\n A : 1 ,\n\t( B :1,C: 1 ) D:1\n) E ;\n", {"A": "E", "B": "D", "C": "D", "D": "E"}),
        ("(A:1,\r\nB:1)r;\r\n", {"A": "r", "B": "r"}),
        ("(A:1,\rB:1)r;\r", {"A": "r", "B": "r"}),
        # a number of trees before the first, as PHYLIP has it; a tree's name, as R's ape writes it
        ("1\n(A,B)r;", {"A": "r", "B": "r"}),
        ("tree_1(A,B)r;", {"A": "r", "B": "r"}),
        # quotes of both kinds, doubled quotes, apostrophes, blanks, underscores, other scripts
        ("(\"A,b\":1,'C ''d''':1,\"e\"\"f\":1)r;", {"A,b": "r", "C 'd'": "r", 'e"f': "r"}),
        ("(x'y:1,B\":1,d'Arc's:1)r;", {"x'y": "r", 'B"': "r", "d'Arc's": "r"}),
        ("(Homo sapiens:1,Pan_paniscus:1,'Pan_t':1)great apes;",
         {"Homo sapiens": "great apes", "Pan paniscus": "great apes", "Pan_t": "great apes"}),
        ("(大猩猩:1,Łoś:1,🐒:1)κ;", {"大猩猩": "κ", "Łoś": "κ", "🐒": "κ"}),
        # comments that nest and stand anywhere; a missing semicolon; an empty statement
        ("[a[b(,]c](A[;]:[']1['],[\"]B:1)r[x];[end]", {"A": "r", "B": "r"}),
        # Mesquite: colours and the like in angle brackets, after labels or lengths
        ("((A<color = 3 >:1.0,B:2.0<color=4>)< x = y >:3,C<x>:1)r<cloneOf = z > [%None];",
         {"A": "0", "B": "0", "0": "r", "C<x>": "r"}),
        ("(A:1,B:1)r", {"A": "r", "B": "r"}),
        ("(A:1,B:1)r\n\n", {"A": "r", "B": "r"}),
        (";(A:1,B:1)r;;", {"A": "r", "B": "r"}),
        ("\ufeff(A:1,B:1)r;", {"A": "r", "B": "r"}),
        # a polytomy, unary nodes, an inner node with a leaf's name, a leaf that looks like a free name
        ("(A,B,C,D,E)r;", dict.fromkeys("ABCDE", "r")),
        ("(((A)x)y)r;", {"A": "x", "x": "y", "y": "r"}),
        ("((A,B)A,C)r;", {"A": "A-2", "B": "A-2", "A-2": "r", "C": "r"}),
        ("((100-2,B)100,(C,D)100)r;", {"100-2": "100", "C": "100-3", "D": "100-3"}),
    ],
)  # fmt: skip
def test_newick_is_read_as_programs_write_it(text, expected):
    above = parent_names(topology_from_newick(text))
    assert {name: above[name] for name in expected} == expected


def test_an_empty_name_in_quotes_is_a_name():
    assert topology_from_newick("('',B)r;").names == ("r", "", "B")


def test_underscores_are_kept_on_request():
    text = "(Homo_sapiens:1,'Pan paniscus':1)great_apes;"
    assert topology_from_newick(text).names == ("great apes", "Homo sapiens", "Pan paniscus")
    kept = ("great_apes", "Homo_sapiens", "Pan paniscus")
    assert topology_from_newick(text, keep_underscores=True).names == kept
    assert LatentTree.from_newick(text, keep_underscores=True).topology.names == kept


def test_lengths_of_every_notation_are_numbers():
    text = "(A:1,B:+.5,C:2.,D:1e-3,E:1E+01,F:0,G:-0.0,H:inf,I:1e999):nan;"
    rho = LatentTree.from_newick(text).polarity[1:]
    expected = [-1, -0.5, -2, -1e-3, -10, 0, 0, -float("inf"), -float("inf")]
    assert rho.log().tolist() == pytest.approx(expected)


def test_several_trees_are_read_by_the_list_readers():
    text = "2\n[first](A:1,B:1)r;\n\n((A:2,C:1)100:1,(B:2,D:1)100:1)\n;  [end]\n"
    shapes = topologies_from_newick(text)
    assert [topology.names for topology in shapes] == [
        ("r", "A", "B"), ("0", "100", "100-2", "A", "C", "B", "D"),
    ]  # fmt: skip
    trees = trees_from_newick(text, lengths="expected-changes", states=4)
    assert [tree.topology.names for tree in trees] == [topology.names for topology in shapes]
    assert [int(tree.tables.cardinality[0]) for tree in trees] == [4, 4]
    assert len(topologies_from_newick("(A,B);")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_deep_trees_are_read(depth):
    text = "(" * depth + "A:0" + "".join(f",{i}:0)100:1" for i in range(depth))
    topology = topology_from_newick(text)
    assert (topology.depth, len(topology)) == (depth, 2 * depth + 1)
    assert topology.names[:3] == ("100-2", "100-3", "100-4")  # a leaf is named 100
    if depth == 10_000:
        assert LatentTree.from_newick(text).topology.names == topology.names


NEXUS = """#NEXUS
[ written by a program [of 1997] ]
BEGIN TAXA;
    TITLE Untitled_Block;
    DIMENSIONS NTAX=3;
    TAXLABELS Homo_sapiens 'Pan (p.)' "it's";
END;
Begin Data;
    dimensions ntax=3 nchar=4;
    format datatype=dna missing=? gap=-;
    matrix
    [a comment; with a semicolon]
    Homo_sapiens  AC-T
    'Pan (p.)'    A;?T
    "it's"        ACGT
    ;
endblock;
BEGIN TREES;
    TITLE 'trees; of it';
    LINK Taxa = Untitled_Block;
    %s
END;
begin mrbayes; set autoclose=yes; tree hidden = (X,Y); end;
"""
NAMED = ("0", "1", "it's", "Homo sapiens", "Pan (p.)")


@pytest.mark.parametrize(
    "commands",
    [
        "TREE one = ((Homo_sapiens:1,'Pan (p.)':1):1,\"it's\":2);",
        # numbers of taxa, without TRANSLATE
        "tree * one = [&R] ((1:1,2:1):1,3:2);",
        "UTREE 'one; =' [note] = [&U][&lnP=-1.5] ((1[&x=1]:1,2:1):1[&y=2],3:2);",
        "translate\n a Homo_sapiens, b [!] 'Pan (p.)',\n c \"it's\"\n ;\ntree one=((a:1,b:1):1,c:2);",
        # a comma after the last pair; keys in another order than the taxa
        "Translate 2 Homo_sapiens, 3 'Pan (p.)', 1 \"it's\",;tree *one=[&R]((2:1,3:1):1,1:2);",
    ],
)
def test_nexus_trees_are_read(commands):
    for text in (NEXUS % commands, "\ufeff" + (NEXUS % commands).replace("\n", "\r\n")):
        assert topology_from_newick(text).names == NAMED
        tree = LatentTree.from_newick(text)
        assert tree.polarity.log().tolist() == pytest.approx([0, -1, -2, -1, -1])


def test_nexus_files_of_several_trees_and_blocks():
    text = """#nexus
begin trees; translate 1 A, 2 B; tree a = (1,2); tree b = (2,(1,1.5)99)r; end;
begin trees; tree c = (1,2); end;
"""
    names = [topology.names for topology in topologies_from_newick(text)]
    assert names == [("0", "A", "B"), ("r", "99", "B", "A", "1.5"), ("0", "1", "2")]


def test_a_taxon_s_name_comes_before_a_taxon_s_number():
    text = "#NEXUS begin taxa; taxlabels 2 1 x; end; begin trees; tree t=(1,(2,3)y)r; end;"
    assert topology_from_newick(text).names == ("r", "y", "1", "2", "x")


def test_support_values_are_not_taken_for_numbers_of_taxa():
    text = "#NEXUS begin taxa; taxlabels a b c; end; begin trees; tree t=((1,2)3,3)1; end;"
    assert topology_from_newick(text).names == ("1", "3", "c", "a", "b")


# any Newick text: labels of all kinds, comments, blanks and lengths, or none of them
BLANK = st.sampled_from(["", "", " ", "\n", "\r\n\t", "[c]", " [a [b] (,;) 'c] "])
LENGTH = st.none() | st.floats(0, 10).map(repr) | st.sampled_from(["1e-05", ".5", "3", "2."])
PLAIN = st.text(st.sampled_from("abcxyz019.-+/|é猩"), min_size=1, max_size=5)
QUOTED = st.text(st.sampled_from("abc '\"[](),:;_\t"), max_size=6)


@st.composite
def newick_texts(draw, simple=False, depth=3):
    """A text without its semicolon, and the tree in it: (label, length, children) of every node.

    A `simple` text is one that dendropy can read: it has no double quotes, mistakes a label of marks
    alone for a mark and a quote after a comment for a letter, and drops a last leaf without a label.
    """
    quoted = QUOTED.map(lambda text: "a" + text.strip().replace('"', "")) if simple else QUOTED
    blank = BLANK.map(lambda text: text.replace("]", "] ")) if simple else BLANK
    few = st.lists(newick_texts(simple, depth - 1), min_size=1, max_size=3)
    children = draw(few) if depth == 3 or (depth and draw(st.booleans())) else []
    text = draw(blank)
    if children:
        text += "(" + ",".join(each for each, _ in children) + ")" + draw(blank)
    quote = draw(st.sampled_from(["", "'", None, '"'][: 2 + bool(children) if simple else 4]))
    label = None if quote is None else draw(quoted if quote else PLAIN)
    if label is not None:
        text += f"{quote}{label.replace(quote, quote * 2) if quote else label}{quote}"
    text += draw(blank)
    length = draw(LENGTH)
    if length is not None:
        text += f":{draw(blank)}{length}{draw(blank)}"
    return text, (label, length, [made for _, made in children])


def nested(parts):
    """(label, length, children) of the root of nodes that were read."""
    found = [(part.name, part.length, []) for part in parts]
    for made, part in zip(found, parts, strict=True):
        if part.parent is not None:
            found[part.parent][2].append(made)
    return found[0]


@given(st.lists(newick_texts(), min_size=1, max_size=3))
def test_whatever_newick_allows_is_read(texts):
    text = ";".join(each for each, _ in texts) + ";"
    place = 0
    for _, expected in texts:
        parts, place = read_tree(text, place)
        assert nested(parts) == expected
    assert read_tree(text, place) is None


@given(newick_texts(simple=True))
def test_dendropy_reads_the_same(made):
    text, _ = made
    read = dendropy.Tree.get(
        data=text + ";",
        schema="newick",
        suppress_internal_node_taxa=True,
        suppress_leaf_node_taxa=True,
        preserve_underscores=True,
    )

    def ours(label, length, children):
        return label, None if length is None else float(length), [ours(*each) for each in children]

    def theirs(node):
        return node.label, node.edge_length, [theirs(each) for each in node.child_nodes()]

    parts, _ = read_tree(text + ";")
    assert ours(*nested(parts)) == theirs(read.seed_node)


def test_random_trees_of_dendropy_are_read():
    """Births and deaths: shape, names and lengths as dendropy writes them in Newick and in NEXUS."""
    for seed in range(5):
        made = dendropy.simulate.birth_death_tree(
            birth_rate=1.0, death_rate=0.3, num_extant_tips=20, rng=random.Random(seed)
        )
        distance = {
            node.taxon.label: node.distance_from_root() - made.seed_node.edge_length
            for node in made.leaf_node_iter()
        }
        for schema in ("newick", "nexus"):
            tree = LatentTree.from_newick(made.as_string(schema))
            names = [tree.topology.names[v] for v in tree.leaves]
            assert sorted(names) == sorted(distance)
            found = -tree.correlation(0, tree.leaves).log()
            assert found.tolist() == pytest.approx([distance[name] for name in names], rel=1e-9)


def test_hltm_s_own_annotations_of_before_are_read():
    tree = LatentTree.from_newick(
        "(a:0.5[&polarity=-0.25],b[&x=1,polarity=0.5],c:1)r[&states=7,stay=0];"
    )
    assert tree.polarity.tolist() == pytest.approx([1, -0.25, 0.5, 0.36787944117144233])
    assert hltm.LatentTree.from_newick("(a[&&NHX:polarity=.5],b:1)r[&&NHX:states=3];").table(
        "a"
    ).tolist() == [[2 / 3, 1 / 6, 1 / 6], [1 / 6, 2 / 3, 1 / 6], [1 / 6, 1 / 6, 2 / 3]]
