"""BIF that others write: the styles of programs, what rounding is, and what is refused."""

from fractions import Fraction

import pytest

import hltm
from hltm import LatentTree
from hltm.formats.bif import from_bif, state_names

BAYES = """network unknown {
}
variable spam {
  type discrete [ 2 ] { yes, no };
}
""" + "".join(
    f"""variable word{i} {{
  type discrete [ 3 ] {{ none, once, often }};
}}
"""
    for i in range(5)
)
BAYES += "probability ( spam ) {\n  table 0.4, 0.6;\n}\n" + "".join(
    f"""probability ( word{i} | spam ) {{
  (yes) 0.{i + 1}, 0.333333, {1 - 0.333333 - 0.1 * (i + 1):.6f};
  (no) 0.9, 0.0{i}, 0.{10 - i:02};
}}
"""
    for i in range(5)
)
JAVABAYES = """// Bayesian network
network "Dog-Problem" { //2 variables and 2 probability distributions
property "credal-set constant-density-bounded 1.1; see http://x.org" ;
}variable  "light-on" { //2 values
type discrete[2] {  "true"  "false" };
property "position = (218, 195)" ;
}
variable  "family-out" { //2 values
type discrete[2] {  "true"  "false" };
}
probability (  "light-on"  "family-out" ) { //2 variable(s) and 4 values
\ttable
\t\t0.6 0.05 // p(light-on=true | ...)
\t\t0.4 0.95;
}
/* the root
   comes last */
probability (  "family-out" ) { table 0.15 0.85 ; }
"""
PYAGRUM = """network "anonymousBN" {
// written by aGrUM 3.3.1
   property version 1.0;
}

variable z0 {
   type discrete[2] {0, 1};
}

variable z1 {
   type discrete[2] {0, 1};
}

variable x1 {
   type discrete[4] {2, 0, 1, 3};
}

probability (z0) {
   default 0.5 0.5;
}
probability (x1 | z1) {
   default 2.5e-1 .25 25E-2 +0.25;
   (1) 1.0 0. 0 0.0;
}
probability (z1 | z0) {
   (*) 0.75 0.25;
}
"""
ASIA = """network asia { }
variable asia { type discrete [ 2 ] { yes, no }; }
variable tub { type discrete [ 2 ] { yes, no }; }
variable smoke { type discrete [ 2 ] { yes, no }; }
variable lung { type discrete [ 2 ] { yes, no }; }
variable bronc { type discrete [ 2 ] { yes, no }; }
variable either { type discrete [ 2 ] { yes, no }; }
variable xray { type discrete [ 2 ] { yes, no }; }
variable dysp { type discrete [ 2 ] { yes, no }; }
probability ( asia ) { table 0.01, 0.99; }
probability ( tub | asia ) { (yes) 0.05, 0.95; (no) 0.01, 0.99; }
probability ( smoke ) { table 0.5, 0.5; }
probability ( lung | smoke ) { (yes) 0.1, 0.9; (no) 0.01, 0.99; }
probability ( bronc | smoke ) { (yes) 0.6, 0.4; (no) 0.3, 0.7; }
probability ( either | lung, tub ) {
  (yes, yes) 1.0, 0.0; (no, yes) 1.0, 0.0; (yes, no) 1.0, 0.0; (no, no) 0.0, 1.0; }
probability ( xray | either ) { (yes) 0.98, 0.02; (no) 0.05, 0.95; }
probability ( dysp | bronc, either ) {
  (yes, yes) 0.9, 0.1; (no, yes) 0.7, 0.3; (yes, no) 0.8, 0.2; (no, no) 0.1, 0.9; }
"""


def test_a_classifier_in_the_style_of_bnlearn():
    tree = from_bif(BAYES)
    assert tree.topology.names == ("spam", *(f"word{i}" for i in range(5)))
    assert tree.table("spam").tolist() == [0.4, 0.6]
    assert tree.table("word2").tolist() == [[0.3, 0.333333, 0.366667], [0.9, 0.02, 0.08]]
    assert state_names(BAYES)["word4"] == ("none", "once", "often")


def test_javabayes_without_bar_comma_or_order():
    tree = from_bif(JAVABAYES)
    assert tree.topology.names == ("family-out", "light-on")
    # BIF's table has the child's state outermost: P(on | out), P(on | in), P(off | out), …
    assert tree.table("light-on").tolist() == [[0.6, 0.4], [0.05, 0.95]]
    assert tree.table("family-out").tolist() == [0.15, 0.85]


def test_a_chain_in_the_style_of_pyagrum_with_defaults():
    tree = from_bif(PYAGRUM)
    assert tree.topology.names == ("z0", "z1", "x1")
    assert tree.table("z1").tolist() == [[0.75, 0.25]] * 2
    assert tree.table("x1").tolist() == [[0.25] * 4, [1, 0, 0, 0]]
    assert state_names(PYAGRUM)["x1"] == ("2", "0", "1", "3")  # as declared


@pytest.mark.parametrize("text", [BAYES, JAVABAYES, PYAGRUM])
def test_line_ends_and_byte_order_marks_do_not_matter(text):
    plain = from_bif(text)
    for other in (text.replace("\n", "\r\n"), "\ufeff" + text, text.replace("\n", " \n\t ")):
        found = from_bif(other)
        assert found.topology.names == plain.topology.names
        assert found.tables.flat.equal(plain.tables.flat)


VARIABLES = """network n {}
variable a { type discrete [ 2 ] { yes, no }; }
variable b { type discrete [ 3 ] { x, y, z }; }
"""
ROOT = "probability ( a ) { table 0.2, 0.8; }\n"


def pair(rows):
    return f"{VARIABLES}{ROOT}probability ( b | a ) {{ {rows} }}"


def test_names_quoted_or_of_several_words():
    text = """variable "a | b; c" { type discrete[2] { "x, y" "}" }; }
    variable d e { type discrete [ 2 ] { very low, high, }; property k = "v; w" }; }
    probability ( "a | b; c" ) { table 1 0 }
    probability ( d e | "a | b; c" ) { ("x, y") .1 .9 (}) }""".replace(
        "(})", '; ("}") 0 1'
    ).replace('w" };', 'w";')
    tree = from_bif(text)
    assert tree.topology.names == ("a | b; c", "d e")
    assert tree.table("d e").tolist() == [[0.1, 0.9], [0, 1]]
    assert state_names(text) == {"a | b; c": ("x, y", "}"), "d e": ("very low", "high")}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (".333 .333 .333", [Fraction(1, 3)] * 3),
        ("0.33, 0.33, 0.33", [Fraction(1, 3)] * 3),
        (
            "0.1428571 0.2857143 0.5714285",
            [Fraction(n, 9999999) for n in (1428571, 2857143, 5714285)],
        ),
        ("0.17 0.17 0.67", [Fraction(n, 101) for n in (17, 17, 67)]),
        ("1e-5, 0.3333, 0.6667", [Fraction(n, 100001) for n in (1, 33330, 66670)]),
    ],
)
def test_rows_that_only_rounding_keeps_from_one_are_normalised(row, expected):
    found = from_bif(pair(f"default {row};")).table("b")[0].tolist()
    assert found == pytest.approx([float(x) for x in expected], rel=1e-15)


REFUSED = {
    "sum": ("(no) .17 .17 .66; (yes) .1 .1 .75", r"P\(b \| a\) has a row for \(yes\) that sums to 0\.95"),
    "one digit": ("default .3 .3 .3", r"row for \(yes\) that sums to 0\.9, expected 1"),
    "few digits": ("default 0.5 0.4 0.0", r"sums to 0\.9, expected 1"),
    "precise": ("default 0.3333 0.3333 0.3323", r"sums to 0\.9989, expected 1"),
    "negative": ("default -.1 .1 1", r"'b' holds -0\.1, expected numbers in \[0, 1\]"),
    "large": ("default 1e400 0 0", r"holds 1e400, expected numbers in \[0, 1\]"),
    "no number": ("default 1/3 1/3 1/3", "line 5: got '1/3', expected a number or ';'"),
    "nan": ("default nan 0 0", "got 'nan', expected a number"),
    "short row": ("(no) .1 .9; (yes) 1 0 0", r"\(no\) that holds 2 values, expected 3, one per state"),
    "short default": ("(no) 0 0 1; default 1", r"\(yes\) that holds 1 values, expected 3"),
    "missing row": ("(no) 0 0 1", r"P\(b \| a\) has no row for \(yes\)"),
    "second row": ("(no) 0 0 1; (no) 0 0 1", r"line 5: a second row for \(no\)"),
    "unknown row": ("(nein) 0 0 1", r"a row for \(nein\), expected a state of 'a'"),
    "two parents' row": ("(yes, no) 0 0 1", r"a row for \(yes, no\), expected a state of 'a'"),
    "short table": ("table .1 .9", "has a table of 2 values, expected 6"),
    "table by rows": ("table .1 .3 .6 .2 .4 .4", "has the parent's state change first, .* sums to 1.1"),
    "two tables": ("table 1 1 0 0 0 0; table 1", "a second table in one distribution"),
    "table and rows": ("table 1 1 0 0 0 0; (no) 0 0 1", "has a table and rows, expected one"),
    "bracket": ("{ }", "got '{', expected a row, table, default, property or '}'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_distributions_that_are_none_are_refused(case):
    rows, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        from_bif(pair(rows))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


WRONG = {
    "empty": ("", "declares no variable"),
    "xml": ("<?xml version='1.0'?><BIF></BIF>", "not BIF but XML"),
    "newick": ("(a,b);", "line 1: got '\\(', expected network, variable or probability"),
    "open": ("network x {}\nvariable a {", "line 2: got the end of the text, expected type"),
    "no block": ("network x", "expected a name and a block"),
    "open comment": ("/* y */" + "\n" * 40 + "/* x", "line 41: got '/', expected a comment"),
    "open quote": ('network "x', "expected a comment or quoted text that ends"),
    "open property": ("network x { property y }", "expected a property that ends with ';'"),
    "real": ("variable a { type continuous; }", "'a' has type 'continuous', expected discrete"),
    "count": ("variable a { type discrete [3] {x, y}; }", r"'a' has 2 states, but \[ 3 \]"),
    "equal states": ("variable a { type discrete [2] {x, x}; }", "two states of one name"),
    "twice": (VARIABLES + "variable a { }", "line 4: variable 'a' is declared twice"),
    "no numbers": (VARIABLES + ROOT, r"variable 'b' has no block `probability \( b … \)`"),
    "numbers twice": (VARIABLES + ROOT + ROOT, "line 5: 'a' has a distribution already"),
    "unknown": (VARIABLES + "probability ( c | a ) { }", "'c' is not a declared variable"),
    "no name": (VARIABLES + "probability ( ) { }", r"expected \( variable \| parents \)"),
    "two children": (VARIABLES + "probability ( b, a | a ) { }", r"expected \( variable \| parents"),
    "one node": ("variable a { type discrete [2] {x, y}; } probability ( a ) { table 1 0; }",
                 r"got 1 node\(s\)"),
    "one state": ("variable a { type discrete [1] {x}; } variable b { type discrete [2] {x, y}; }"
                  "probability ( a ) { table 1; } probability ( b | a ) { (x) 1 0; }", r"'a' has 1 state"),
    "circle": (ASIA, "the edge 'either' -> 'dysp' closes the circle 'either', 'lung', 'smoke', 'bronc', "
               "'dysp', so node 'dysp' has 2 parents: 'bronc', 'either'"),
    "two parents": (ASIA.replace("dysp | bronc, either", "dysp | bronc"),
                    "node 'either' has 2 parents: 'lung', 'tub'"),
    "two roots": (VARIABLES + ROOT + "probability ( b ) { table 1 0 0; }",
                  "not one tree but 2 that no edge joins, with the roots 'a', 'b'"),
    "both ways": (VARIABLES + "probability ( a | b ) { } probability ( b | a ) { }",
                  "two edges join 'a' and 'b'"),
    "itself": (VARIABLES + ROOT + "probability ( b | b ) { }", "'b' has an edge to itself"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_network_or_no_tree_is_refused_in_a_sentence(case):
    text, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        from_bif(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_bytes_are_no_text():
    with pytest.raises(TypeError, match="expected BIF text as str, got bytes"):
        from_bif(b"network n { }")


def test_large_networks_are_read():
    tree = hltm.random_tree(nodes=1_000, seed=0)
    assert LatentTree.from_bif(tree.to_bif()).tables.flat.equal(tree.tables.flat)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("({p}0) .1, .9;", "has no row for"),
        ("({p}0) .1, .9; ({p}0) .1, .9;", "a second row for"),
        ("({p}2) .1, .9;", "expected a state of"),
        ("({p}0) .1, .2; ({p}1) .1, .9;", "sums to 0.3, expected 1"),
        ("table .1, .9, .1, .9;", "sums to 0.2, expected 1"),
        ("table .1, .9, .1;", "has a table of 3 values, expected 4"),
    ],
)
def test_refusals_fit_a_screen_whatever_the_names_are(body, message):
    p, c = "p" * 400, "c" * 400
    declared = "".join(
        f"variable {name} {{ type discrete [ 2 ] {{ {name}0, {name}1 }}; }}\n" for name in (p, c)
    )
    text = f"{declared}probability ( {p} ) {{ table .5, .5; }}\nprobability ( {c} | {p} ) "
    with pytest.raises(ValueError, match=message) as error:
        LatentTree.from_bif(f"{text} {{ {body.format(p=p)} }}")
    assert len(str(error.value)) < 300
