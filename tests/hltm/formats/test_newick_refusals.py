"""What is not Newick, not one tree, or no latent tree is refused: where, why, and what to do."""

import re

import pytest

from hltm import LatentTree, topologies_from_newick, topology_from_newick, trees_from_newick


def refused(read, text, message, **how):
    """One sentence that fits a screen, whatever the names are."""
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(text, **how)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text has no tree: expected Newick, e.g. '(A:0.1,B:0.2)root;'"),
        (" [a comment] ;\n", "the text has no tree"),
        ("tree.nwk", "expected a tree, which begins with '(', got 'tree.nwk' (hltm.load_tree reads files)"),
        ("a;", "line 1, column 1: expected a leaf below a root, got the single node 'a'"),
        (":1;", "expected a leaf below a root, got the single node None"),
        ("(a,b));", "line 1, column 6: ')' has no '(' before it"),
        ("((a,b);", "line 1, column 7: unexpected ';' inside the '(' of line 1, column 1"),
        ("(a,\n((b,c),d)", "line 2, column 10: the text ends inside the '(' of line 1, column 1"),
        ("(a,b):", "the text ends after ':'"),
        ("(a,b):;", "line 1, column 7: expected a length after ':', got ';'"),
        ("a,b;", "line 1, column 2: unexpected ','"),
        ("(a\nb)c;", "line 2, column 1: a second label 'b' after the label 'a': a comma is missing"),
        ("(a[x]b)c;", "line 1, column 6: a second label 'b' after the label 'a'"),
        ("(a,b)c(d);", "line 1, column 7: unexpected '(': a comma or a semicolon is missing before"),
        ("(a,b)(c,d);", "line 1, column 6: unexpected '(': a comma or a semicolon is missing"),
        ("((a,b)(c,d));", "line 1, column 7: unexpected '('"),
        ("(a:,b)c;", "line 1, column 4: expected a length after ':', got ','"),
        ("(a:'1',b)c;", "line 1, column 4: expected a length after ':'"),
        ("(a:1:2,b)c;", "line 1, column 5: unexpected ':'"),
        ("(a:1 2,b)c;", "line 1, column 6: unexpected '2'"),
        ("(a,b)c; and more", "line 1, column 9: expected a tree, which begins with '(', got 'and more'"),
        ("(a,b)c; and more;", "line 1, column 9: expected a leaf below a root"),
        ("(a,b)\nwritten by me", "line 2, column 12: the tree has no ';', and other text follows it"),
        ("(a,'b)c;", "line 1, column 4: the label that begins with ' has no closing quote"),
        ('(a,"b)c;', 'line 1, column 4: the label that begins with " has no closing quote'),
        ("(a,'it's')c;", "line 1, column 8: a second label \"s'\" after the label 'it'"),
        ("(a,[b[c])d;", "line 1, column 4: the comment has no closing ']'"),
        ("(a,b])d;", "line 1, column 5: ']' closes no comment"),
        ("(a,\r\n(b,a))c;", "distinct names, got 'a' twice: line 1, column 2 and line 2, column 4"),
        ("(a b,a_b)c;", "distinct names, got 'a b' twice"),
        ("('',b,'')c;", "distinct names, got '' twice"),
        ("((a,(b)x#H1)c,(x#H1,d)e)r;", "'x#H1' occurs twice (line 1, column 5), as extended Newick writes"),
        ("(#R2,#R2)r;", "'#R2' occurs twice (line 1, column 6), as extended Newick"),
        (f"({'x' * 5000},{'x' * 5000})r;", "distinct names, got 'xxxxxx"),
        (f"({'x' * 5000}\n{'y' * 5000})r;", "a second label 'yyyyyy"),
        ("#NEXUS begin trees; end;", "the NEXUS text has no tree in a TREES block; its blocks: 'TREES'"),
        ("#NEXUS\n", "no tree in a TREES block; its blocks: none"),
        ("#NEXUS begin taxa; tree t = (a,b); end;", "no tree in a TREES block; its blocks: 'TAXA'"),
        ("#NEXUS begin trees; tree t (a,b); end;", "NEXUS at line 1, column 21: the TREE command has no '='"),
        ("#NEXUS begin trees; tree t = ; end;", "line 1, column 32: expected a leaf below a root"),
        ("#NEXUS begin trees; tree t =", "the TREE command has no tree"),
        ("#NEXUS begin trees;\ntree t = (a,b)\nend;", "line 2, column 1: the TREE command has no ';'"),
        ("#NEXUS begin trees;\ntranslate 1 a, 2;tree t = (1,2);end;",
         "not NEXUS at line 2, column 16: TRANSLATE has no name for '2'"),
        ("#NEXUS begin trees;\ntree t = (a,b;\nend;",
         "not Newick at line 2, column 14: unexpected ';' inside the '(' of line 2, column 10"),
        ("#NEXUS begin trees; translate 1 a 2 b; tree t = (1,2); end;",
         "line 1, column 52: TRANSLATE has no name for the leaf '2'"),
        ("#NEXUS begin trees; translate 1 a, 1 b; tree t = (1,2); end;",
         "line 1, column 36: TRANSLATE names '1' twice"),
        ("#NEXUS begin trees; translate 1 a, 2 a; tree t = (1,2); end;", "distinct names, got 'a' twice"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("read", [topology_from_newick, topologies_from_newick])
def test_what_is_no_tree_is_refused_with_its_place(read, text, message):
    refused(read, text, message)


@pytest.mark.parametrize(
    "text",
    ["(A,B);(C,D);(E,F)", "#nexus begin trees; tree a=(A,B);tree b=(A,B);tree c=(A,B);"],
)
def test_several_trees_are_refused_with_their_number_and_the_list_reader(text):
    refused(topology_from_newick, text, "holds 3 trees, expected one: hltm.topologies_from_newick")
    refused(LatentTree.from_newick, text, "holds 3 trees, expected one: hltm.trees_from_newick")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(a:1,b)c;", "the branch to node 'b' has neither a length nor a polarity (hltm.topology_from"),
        ("(a:1,\n(b:1,c:1))d;", "node '0' has neither a length nor a polarity"),
        ("(a:1,\nb:x)c;", "the branch to node 'b' has length 'x', expected a number (line 2, column 1)"),
        ("(a:1,b:1_0)c;", "node 'b' has length '1_0', expected a number"),
        ("(a:1,b:٣)c;", "node 'b' has length '٣', expected a number"),
        ("(a:1,b:0.1{2})c;", "node 'b' has length '0.1{2}', expected a number"),
        ("(a:1,b:-0.5)c;", "length -0.5, expected a number that is not negative; negative='zero' takes"),
        ("(a:1,b:-1e-5)c;", "has length -1e-5, expected a number that is not negative"),
        ("(a:1,b:-inf)c;", "has length -inf, expected a number that is not negative"),
        ("(a:1,b:nan)c;", "has length nan, expected a number that is not negative (line 1, column 6)"),
        ("(a:1,b:1[&polarity=1.5])c;", "polarity 1.5, expected a number in [-1, 1]"),
        ("(a:1,b:1[&polarity=up])c;", "node 'b' has polarity 'up', expected a number"),
        ("(a:1,b:1[&&NHX:polarity=-.6])c[&&NHX:states=3];", "-0.6, expected a number in [-1/2, 1]"),
        ("(a:1,b:1)c[&&NHX:states=K];", "the root's annotation says states='K', expected a number"),
        ("(a:1,b:1)c[&&NHX:states=1];", "states must be an integer in 2..65536, got 1"),
        (
            "(a:1,b:1[&&NHX:polarity=.5:stay=1.5:change=1])c;",
            "the table of node 'b' holds 1.5, expected numbers in [0, 1]",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("read", [LatentTree.from_newick, trees_from_newick])
def test_newick_without_good_lengths_is_no_latent_tree(read, text, message):
    refused(read, text, message)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"lengths": "CFN"}, "lengths must be 'paralinear' or 'expected-changes', got 'CFN'"),
        ({"rate": -1.0}, "rate must be a positive number, got -1.0"),
        ({"rate": float("inf")}, "rate must be a positive number, got inf"),
        ({"states": 1}, "states must be an integer in 2..65536, got 1"),
        ({"states": 2.0}, "states must be an integer in 2..65536, got 2.0"),
        ({"negative": "abs"}, "negative must be 'refuse' or 'zero', got 'abs'"),
    ],
)
def test_arguments_are_checked_before_the_text_is_read(how, message):
    refused(LatentTree.from_newick, "no tree", message, **how)
    refused(trees_from_newick, "no tree", message, **how)


def test_another_number_of_states_than_the_text_says_is_refused():
    text = "(a:1[&&NHX:polarity=0.5],b:1[&&NHX:polarity=0.5])r[&&NHX:states=3];"
    refused(LatentTree.from_newick, text, "states is 4, but the root's annotation says 3", states=4)


@pytest.mark.parametrize("text", [b"(A,B);", None, ["(A,B);"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(TypeError, match="expected Newick text as str, got"):
        topology_from_newick(text)


def test_notes_that_contradict_each_other_are_refused():
    text = "(A:1[&&NHX:polarity=0.9:stay=0.6:change=0.4],B:1);"
    refused(LatentTree.from_newick, text, "'A' has polarity 0.9, but stay 0.6 and change 0.4")
    kept = LatentTree.from_newick(text.replace("0.9", "0.2"))
    assert kept.table("A").tolist() == [[0.6, 0.4], [0.4, 0.6]]


def test_blanks_before_nexus_are_skipped():
    text = "\n" * 200 + "#NEXUS begin trees; tree t = (a,b)r; end;"
    assert topology_from_newick(text).names == ("r", "a", "b")
