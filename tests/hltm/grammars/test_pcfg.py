"""Context-free grammars against the enumeration of all derivations in rational arithmetic."""

import itertools
import pickle
from collections import Counter
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

import hltm
from hltm.grammars.rules import least_tokens

AMBIGUOUS = "S -> S S [0.25] | 'a' [0.5] | 'b' [0.25]"
EMPTY_AND_UNIT = """
S -> A B [0.5] | B [0.25] | A S A 'b' [0.25]
A -> [0.25] | 'a' A [0.25] | 'b' [0.5]    # A may be nothing
B -> 'b' [0.5] | C [0.25] | 'a' A 'b' [0.25]
C -> A 'a' [1]
"""
NESTED = "S -> 'a' S 'b' [0.25] | T [0.75]\nT -> 'a' T [0.25] | 'b' 'a' [0.75]"
GRAMMARS = [AMBIGUOUS, EMPTY_AND_UNIT, NESTED]


def derivations(grammar, string):
    """Every derivation of a string: its probability, and how often each symbol stands on each span."""
    rules = {x: [(right, Fraction(p)) for right, p in sides] for x, sides in grammar.rules}
    least = least_tokens(dict(grammar.rules))

    @cache
    def of(symbols, i, j):
        if sum(least[x] for x in symbols) > j - i:
            return []
        if not symbols:
            return [(Fraction(1), Counter())] if i == j else []
        first, rest = symbols[0], symbols[1:]
        if rest:
            found = []
            for k in range(i, j + 1):
                if sum(least[x] for x in rest) <= j - k and least[first] <= k - i:
                    pairs = itertools.product(of((first,), i, k), of(rest, k, j))
                    found += [(p * q, a + b) for (p, a), (q, b) in pairs]
            return found
        if first not in rules:
            return [(Fraction(1), Counter())] if string[i:j] == (first,) else []
        return [
            (p * q, below + Counter([(first, i, j)]))
            for right, p in rules[first]
            for q, below in of(right, i, j)
        ]

    return of((grammar.start,), 0, len(string))


def strings(grammar, longest):
    return [x for n in range(longest + 1) for x in itertools.product(grammar.terminals, repeat=n)]


def assert_exact(grammar, longest):
    every = strings(grammar, longest)
    found = grammar.log_prob(every).exp()
    by_length = [Fraction(0)] * (longest + 1)
    spans = [(i, j) for i in range(longest + 1) for j in range(i, longest + 1)]
    posterior = grammar.posterior(every, spans)
    for row, string in enumerate(every):
        ways = derivations(grammar, string)
        total = sum((p for p, _ in ways), Fraction(0))
        by_length[len(string)] += total
        assert float(found[row]) == pytest.approx(float(total), rel=1e-12, abs=0)
        if not total:
            assert posterior[row].isnan().all()
            continue
        counts = Counter()
        for p, own in ways:
            for key, times in own.items():
                counts[key] += p * times / total
        for a, (i, j) in enumerate(spans):
            for b, symbol in enumerate(grammar.symbols):
                expected = float(counts[symbol, i, j])
                assert float(posterior[row, a, b]) == pytest.approx(expected, abs=1e-12)
    expected = [float(x) for x in by_length]
    assert grammar.length_probabilities(longest).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("text", "longest"), [(AMBIGUOUS, 3), (EMPTY_AND_UNIT, 3), (NESTED, 4)])
def test_strings_and_constituents_are_those_of_all_derivations(text, longest):
    assert_exact(hltm.PCFG.from_text(text), longest)


def right_side():
    return st.lists(st.sampled_from(["S", "A", "B", "a", "b"]), max_size=3).map(tuple)


@settings(max_examples=12)
@given(
    st.lists(st.lists(right_side(), min_size=1, max_size=4, unique=True), min_size=3, max_size=3)
)
def test_any_grammar_that_is_not_refused_is_exact(sides):
    rules = {x: {right: 1 / len(own) for right in own} for x, own in zip("SAB", sides, strict=True)}
    try:
        grammar = hltm.PCFG(rules)
    except ValueError:  # cycles and infinite lengths have tests of their own
        assume(False)
    assume(grammar.terminals)
    assert_exact(grammar, 2)


def test_one_chunk_or_many(monkeypatch):
    grammar = hltm.PCFG.from_text(EMPTY_AND_UNIT)
    every = strings(grammar, 3)
    logs, post = grammar.log_prob(every), grammar.posterior(every, [(0, 2)])
    monkeypatch.setattr("hltm.grammars.pcfg.CHUNK", 1)
    assert grammar.log_prob(every).equal(logs)
    assert grammar.posterior(every, [(0, 2)]).nan_to_num().equal(post.nan_to_num())
    assert grammar.log_prob([]).shape == (0,)
    assert grammar.posterior([], []).shape == (0, 0, 4)


def test_long_strings_do_not_underflow():
    grammar = hltm.PCFG.from_text("S -> 'a' S [0.001] | 'b' [0.999]")
    found = grammar.log_prob([["a"] * 150 + ["b"]])
    assert float(found[0]) == pytest.approx(150 * np.log(0.001) + np.log(0.999), rel=1e-12)


def test_expected_length():
    grammar = hltm.PCFG.from_text(EMPTY_AND_UNIT)
    short = grammar.length_probabilities(60)
    assert float(short.sum()) == pytest.approx(1, abs=1e-9)
    assert grammar.expected_length == pytest.approx(
        float(short @ torch.arange(61.0).double()), abs=1e-6
    )


def pvalue(sentences, grammar, probability):
    """Of the chi-square test of the strings drawn, those that are expected 10 times or more and the rest."""
    counts = Counter(grammar.decode(sentences.tokens))
    count = len(sentences.tokens)
    common = {x: p for x, p in probability.items() if p * count >= 10}
    seen = [counts[x] for x in common]
    expected = [p * count for p in common.values()]
    rest = 1 - sum(common.values())
    if rest > 1e-9:
        seen, expected = [*seen, count - sum(seen)], [*expected, rest * count]
    return stats.chisquare(seen, expected).pvalue


@pytest.mark.parametrize("max_length", [None, 3])
def test_strings_are_drawn_with_their_probabilities(max_length):
    grammar = hltm.PCFG.from_text(EMPTY_AND_UNIT)
    every = strings(grammar, max_length or 5)
    exact = dict(zip(every, grammar.log_prob(every).exp().tolist(), strict=True))
    if max_length is not None:
        total = sum(exact.values())
        exact = {x: p / total for x, p in exact.items()}
    sentences = grammar.sample(1500, seed=1, max_length=max_length)
    assert pvalue(sentences, grammar, exact) > 1e-3
    broken = hltm.PCFG.from_text(
        EMPTY_AND_UNIT.replace("'b' [0.5] | C [0.25]", "'b' [0.4] | C [0.35]")
    )
    assert pvalue(broken.sample(1500, seed=1, max_length=max_length), grammar, exact) < 1e-3


def test_a_row_is_a_function_of_its_address():
    grammar = hltm.PCFG.from_text(AMBIGUOUS)
    whole = grammar.sample(200, seed=3, start=10, max_length=6)
    part = grammar.sample(50, seed=3, start=100, max_length=6)
    assert whole.tokens[90:140].equal(part.tokens)
    assert whole.derivations[90:140] == part.derivations
    assert not grammar.sample(200, seed=4, start=10, max_length=6).tokens.equal(whole.tokens)
    assert whole.tokens.shape == (200, 6)
    free = grammar.sample(200, seed=3, start=10)
    kept = free.length <= 6  # rejected rows alone are drawn again
    assert free.tokens[kept][:, :6].equal(whole.tokens[kept])
    assert grammar.sample(0, seed=0).tokens.shape == (0, 0)


def test_derivations_are_those_of_the_strings():
    grammar = hltm.PCFG.from_text(EMPTY_AND_UNIT)
    rules = dict(grammar.rules)
    sentences = grammar.sample(300, seed=5)
    spans = [(0, 1), (0, 2), (1, 3)]
    labels = sentences.labels(spans)
    for row, string in enumerate(grammar.decode(sentences.tokens)):
        derivation = list(sentences.derivations[row])

        def rewrite(place, derivation=derivation, string=string):
            part = derivation[place]
            children = iter([i for i, x in enumerate(derivation) if x.parent == place])
            end, below = part.start, ()
            for x in rules[part.symbol][part.rule][0]:
                if x in rules:
                    child = next(children)
                    assert (derivation[child].symbol, derivation[child].start) == (x, end)
                    below += rewrite(child)
                    end = derivation[child].stop
                else:
                    below, end = (*below, x), end + 1
            assert end == part.stop
            return below

        assert rewrite(0) == string
        for a, span in enumerate(spans):
            over = [x.symbol for x in derivation if (x.start, x.stop) == span]
            assert int(labels[row, a]) == (1 + grammar.symbols.index(over[0]) if over else 0)


def test_labels_follow_the_posterior():
    grammar = hltm.PCFG.from_text(AMBIGUOUS)
    sentences = grammar.sample(1500, seed=2, max_length=4)
    three = sentences.length == 3
    exact = grammar.posterior(sentences.tokens[three], [(0, 2)])[:, 0, 0]
    assert exact.tolist() == pytest.approx([0.5] * int(three.sum()), abs=1e-12)
    seen = int((sentences.labels([(0, 2)])[three] == 1).sum())
    assert stats.binomtest(seen, int(three.sum()), 0.5).pvalue > 1e-3


def random_hierarchy_as_rules(shape):
    rules = hltm.production_rules(**shape)
    given = {"S": {(f"{shape['L']}:{c}",): 1 / shape["classes"] for c in range(shape["classes"])}}
    for level, table in rules.items():
        for a, own in enumerate(table.tolist()):
            below = "" if level == 1 else f"{level - 1}:"
            given[f"{level}:{a}"] = {
                tuple(f"{below}{x}" for x in right): 1 / shape["m"] for right in own
            }
    return given


def test_the_random_hierarchy_model_is_a_grammar_of_one_shape():
    shape = {"v": 3, "m": 2, "s": 2, "L": 2, "classes": 3, "seed": 1}
    grammar = hltm.PCFG(random_hierarchy_as_rules(shape))
    tree, expected = grammar.to_tree(), hltm.random_hierarchy(**shape)
    leaves = torch.cartesian_prod(*[torch.arange(3)] * 4)
    probability = expected.leaf_distribution({})
    names = [[str(x) for x in row] for row in leaves.tolist()]
    tokens = grammar.encode(names)
    assert [tree.topology.names[v] for v in tree.leaves] == [f"token {i}" for i in range(4)]
    assert torch.allclose(grammar.log_prob(names).exp(), probability, rtol=1e-12, atol=1e-15)
    assert torch.allclose(
        tree.posterior(tokens).log_evidence.exp(), probability, rtol=1e-12, atol=1e-15
    )
    # the root's states are the rules of S, one for each class
    some = probability > 0
    classes = (
        expected.posterior(leaves[some], nodes="0").marginals.unflatten(-1, (3, 2)).sum(-1)[:, 0]
    )
    found = tree.posterior(tokens[some], nodes="0").marginals[:, 0, :3]
    assert torch.allclose(found, classes, atol=1e-12)


def test_leaves_at_different_depths_keep_the_order_of_the_string():
    grammar = hltm.PCFG.from_text(
        "S -> A 'x' B [0.5] | A 'y' B [0.25] | B 'x' A [0.25]\n"
        "A -> 'x' 'y' [0.5] | 'y' 'y' [0.5]\nB -> 'x' 'x' [0.75] | 'y' 'x' [0.25]"
    )
    tree = grammar.to_tree()
    every = [x for x in strings(grammar, 5) if len(x) == 5]
    tokens = grammar.encode(every)
    evidence = {f"token {i}": tokens[:, i] for i in range(5)}
    found = tree.posterior(evidence).log_evidence.exp()
    assert torch.allclose(found, grammar.log_prob(every).exp(), rtol=1e-12, atol=1e-15)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AMBIGUOUS, "rule 'S -> a' has 1 symbols on its right where 'S -> S S' has 2"),
        (
            "S -> 'a' A [0.25] | 'b' 'a' [0.75]\nA -> 'b' [1]",
            "'S -> b a' puts 'a' where 'S -> a A' puts",
        ),
        ("S -> 'a' [0.5] | [0.5]", r"rule 'S -> \(nothing\)' has 0 symbols"),
        ("S -> A S [0.5] | A A [0.5]\nA -> 'a' 'a' [1]", "rule 'S -> A S' puts 'S' below itself"),
    ],
)
def test_grammars_without_one_shape_name_the_rule(text, message):
    with pytest.raises(ValueError, match=message):
        hltm.PCFG.from_text(text).to_tree()


@pytest.mark.parametrize("text", GRAMMARS)
def test_text_and_pickles_hold_a_grammar(text, tmp_path):
    grammar = hltm.PCFG.from_text(text)
    assert hltm.PCFG.from_text(grammar.to_text()) == grammar
    assert pickle.loads(pickle.dumps(grammar)) == grammar
    assert hltm.PCFG(dict(grammar.rules), grammar.start) == grammar
    (tmp_path / "g.pcfg").write_text(text, encoding="utf-8")
    assert hltm.PCFG.load(tmp_path / "g.pcfg") == grammar


def test_the_notation():
    text = """
    # the start symbol need not come first
    %start S
    NP -> 'John' [0.5] | "it's" [0.25] | 'a#b' \\
          [0.25]
    S -> NP VP [1.0]
    VP -> 'runs' [1]
    """
    grammar = hltm.PCFG.from_text(text)
    assert grammar.start == "S"
    assert grammar.terminals == ("John", "it's", "a#b", "runs")
    assert hltm.PCFG.from_text(grammar.to_text()) == grammar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the grammar has no rules"),
        ("S -> 'a' [1]\nS 'b' [1]", r"line 2: expected a line like S -> NP VP \[0.7\]"),
        ("S -> 'a'", "line 1: the last right-hand side has no probability"),
        ("S -> 'a' [x]", "line 1: 'x' in brackets is no probability"),
        ("S -> a [1]", "line 1: 'a' has no rule; a terminal stands in quotes, 'a'"),
        ("S -> 'S' [1]", "line 1: the terminal 'S' is also a symbol with rules"),
        ("S -> 'a \\\n [1]\nT -> b [1]", "line 1: expected a line like"),
        ("S -> 'a' \\\n [1]\nT -> b [1]", "line 3: 'b' has no rule"),
        ("%start T\nS -> 'a' [1]", "the start symbol 'T' has no rule"),
        ("S -> 'a' [0.5] | 'b' [0.4]", "the probabilities of 'S' sum to 0.9, expected 1"),
        ("S -> 'a' [0.5] | 'a' [0.5]", "rule 'S -> a' is given twice"),
        ("S -> 'a' [1.5] | 'b' [-0.5]", "rule 'S -> a' has probability 1.5"),
        ("S -> 'a' [nan]", "rule 'S -> a' has probability nan"),
        ("S -> S [0.5] | 'a' [0.5]", r"derive 'S' from itself alone \(S -> S\)"),
        ("S -> T E [1]\nT -> S [0.5] | 'a' [0.5]\nE -> [1]", "from itself alone"),
        ("S -> S S [0.5] | 'a' [0.5]", "what 'S' derives has no finite expected length"),
        ("S -> 'a' [1]\nT -> 'a' T [1]", "what 'T' derives has no finite expected length"),
    ],
)
def test_bad_grammars_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        hltm.PCFG.from_text(text)


def test_bad_arguments_are_refused(tmp_path):
    grammar = hltm.PCFG.from_text(AMBIGUOUS)
    for call, message in [
        (lambda: grammar.log_prob([["a", "c"]]), "the grammar has no terminal 'c'"),
        (
            lambda: grammar.log_prob(["ab"]),
            "a string is a sequence of terminals, got the text 'ab'",
        ),
        (lambda: grammar.log_prob(torch.tensor([[2]])), r"tokens are 2\.\.2, expected 0\.\.1"),
        (lambda: grammar.log_prob(torch.tensor([[-1, 0]])), "-1 before its last token"),
        (lambda: grammar.log_prob(torch.zeros(3)), r"tokens must be integers \(B, T\)"),
        (lambda: grammar.posterior([["a"]], [(0, 2)]), r"span \(0, 2\) is not within the 1 tokens"),
        (
            lambda: grammar.sample(1, seed=0, max_length=0),
            "strings of at most 0 tokens have probability 0",
        ),
        (lambda: grammar.sample(-1, seed=0), "samples must be at least 0"),
        (lambda: hltm.PCFG({}), "the grammar has no rules"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    for rules, message in [
        ({"S": {"ab": 1.0}}, "must be a sequence of names, got 'ab'"),
        ({"S": [("a",)]}, "the rules of 'S' must give right-hand sides"),
        ({"S": 1.0}, "the rules of 'S' must give right-hand sides"),
        ("S -> 'a' [1]", "rules must be a mapping; PCFG.from_text reads"),
    ]:
        with pytest.raises(TypeError, match=message):
            hltm.PCFG(rules)
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no text file in UTF-8"):
        hltm.PCFG.load(tmp_path / "x")


def test_many_strings_print_in_one_line():
    drawn = hltm.PCFG.from_text(NESTED).sample(1000, seed=0, max_length=9)
    assert repr(drawn) == "Sentences(1000 strings of at most 9 tokens, symbols 'S', 'T')"
