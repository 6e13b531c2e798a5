"""Augmentations: redraw and missing rates, their composition and names, the joint of two views."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from draw_cases import random_tree
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tree_strategies import latent_trees

import hltm
from hltm.model.topology import Topology
from hltm.sampling import augment

BALANCED = Topology.balanced(depth=2)  # 0; 1, 2; 3..6
NAMED = Topology.from_parents([-1, 0, 0, 1, 1, 1], ["r", "a", "x", "b", "y", "z"])


def test_keep_root_redraws_its_children():
    assert hltm.keep_root().rates(BALANCED).tolist() == [0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("level", "rates"), [(0, [0] * 7), (1, [0, 0, 0, 1, 1, 1, 1]), (2, [0, 1, 1, 0, 0, 0, 0])]
)
def test_keep_level_redraws_from_the_level_below(level, rates):
    assert hltm.keep_level(level).rates(BALANCED).tolist() == rates


def test_keep_level_of_an_uneven_tree_redraws_leaves_of_high_parents():
    # a leaf of the root is below level 1, though its parent is the root
    rates = hltm.keep_level(1).rates(NAMED)
    names = {NAMED.names[v] for v in np.flatnonzero(rates)}
    assert names == {"x", "b", "y", "z"}


def test_keep_nodes_keeps_their_ancestors():
    rates = hltm.keep_nodes(["b"]).rates(NAMED)
    redrawn = {NAMED.names[v]: rate for v, rate in enumerate(rates)}
    assert redrawn == {"r": 0, "a": 0, "x": 1, "b": 0, "y": 1, "z": 1}
    assert hltm.keep_nodes("r").rates(NAMED).tolist() == hltm.keep_root().rates(NAMED).tolist()


def test_keep_nothing_redraws_the_root():
    assert hltm.keep_nothing().rates(BALANCED).tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_resample_leaves_leaves_latents():
    assert hltm.resample_leaves(0.3).rates(BALANCED).tolist() == [0, 0, 0, 0.3, 0.3, 0.3, 0.3]


def test_crops_redraw_exactly_one_level():
    assert hltm.resample_subtrees(0.3, 1).rates(BALANCED).tolist() == [0, 0.3, 0.3, 0, 0, 0, 0]
    assert hltm.resample_subtrees(1, 2).rates(BALANCED).tolist() == [1, 0, 0, 0, 0, 0, 0]
    level = {NAMED.names[v] for v in np.flatnonzero(hltm.resample_subtrees(0.5, 0).rates(NAMED))}
    assert level == {"x", "b", "y", "z"}


@pytest.mark.parametrize("other", ["keep-root", hltm.keep_root])
def test_what_is_no_augmentation_is_named(other):
    tree = hltm.symmetric_binary(depth=2, seed=0)
    draw = tree.sample(3, seed=0)
    for call in (
        lambda: tree.views(draw, other),
        lambda: tree.view_correlation(0, other),
        lambda: tree.view_information(0, hltm.keep_root(), other=other),
        lambda: hltm.keep_root().then(other),
        lambda: hltm.ViewDataset(tree, other, samples=3, seed=0),
        lambda: hltm.ViewStream(tree, other, seed=0, batch=2),
    ):
        with pytest.raises(
            TypeError, match=r"an Augmentation, e\.g\. hltm\.keep_root\(\), got .*keep"
        ):
            call()


def test_then_combines_redraw_rates():
    both = hltm.resample_leaves(0.5).then(hltm.resample_leaves(0.2)).then(hltm.keep_root())
    np.testing.assert_allclose(both.rates(BALANCED), [0, 1, 1, 0.6, 0.6, 0.6, 0.6])
    assert str(both) == "resample-leaves:0.5,resample-leaves:0.2,keep-root"


@given(st.floats(0, 1), st.floats(0, 1))
def test_then_combines_missing_rates_too(a, b):
    made = hltm.drop_leaves(a).then(hltm.resample_leaves(b)).then(hltm.drop_leaves(b))
    np.testing.assert_allclose(made.missing_rates(NAMED)[2:], 1 - (1 - a) * (1 - b), atol=1e-12)
    np.testing.assert_allclose(made.rates(NAMED)[2:], b, atol=1e-12)
    assert not made.missing_rates(NAMED)[:2].any()
    assert not hltm.keep_root().then(hltm.resample_leaves(a)).missing_rates(NAMED).any()


def test_a_tree_serves_as_its_topology():
    tree = hltm.symmetric_binary(depth=2, seed=0)
    assert hltm.keep_root().rates(tree).tolist() == [0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("keep-root", hltm.keep_root()),
        ("keep-level:1", hltm.keep_level(1)),
        ("keep-nothing", hltm.keep_nothing()),
        ("resample-leaves:0.3", hltm.resample_leaves(0.3)),
        ("keep-nodes:1+2", hltm.keep_nodes([1, 2])),
        ("drop-leaves:0.2", hltm.drop_leaves(0.2)),
        ("drop-subtrees:0.2:1", hltm.drop_subtrees(0.2, 1)),
        ("resample-subtrees:0.3:1", hltm.resample_subtrees(0.3, 1)),
        ("keep-level:1,resample-leaves:0.25", hltm.keep_level(1).then(hltm.resample_leaves(0.25))),
        (
            "drop-leaves:0.2,resample-subtrees:1:0",
            hltm.drop_leaves(0.2).then(hltm.resample_subtrees(1, 0)),
        ),
    ],
)
def test_a_parsed_name_is_the_functions_augmentation(name, made):
    for text in (name, name.replace(",", ", ")):
        parsed = augment.parse(text)
        assert str(parsed) == str(made) == name
        assert parsed.rates(BALANCED).tolist() == made.rates(BALANCED).tolist()
        assert parsed.missing_rates(BALANCED).tolist() == made.missing_rates(BALANCED).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown augmentation ''"),
        ("keep", "unknown augmentation 'keep', expected one of keep-root, keep-level"),
        ("keep-root:1", "'keep-root' takes no argument"),
        ("keep-level", "'keep-level' takes an argument, e.g. keep-level:2"),
        ("keep-level:x", "takes an argument, e.g. keep-level:2, got 'keep-level:x'"),
        ("resample-leaves:1.5", r"a rate must be in \[0, 1\], got 1.5"),
        ("resample-leaves:nan", r"a rate must be in \[0, 1\], got nan"),
        ("keep-root,,keep-root", "unknown augmentation ''"),
        (
            "resample-subtrees:0.3",
            "takes an argument, e.g. resample-subtrees:0.3:2, got 'resample-subtrees:0.3'",
        ),
        ("resample-subtrees", "takes an argument, e.g. resample-subtrees:0.3:2"),
        ("resample-subtrees:2:1", r"a rate must be in \[0, 1\], got 2"),
        ("resample-subtrees:0.3:x", "takes an argument, e.g. .* got 'resample-subtrees:0.3:x'"),
        ("drop-leaves:-0.1", r"a rate must be in \[0, 1\], got -0.1"),
        ("drop-leaves", "takes an argument, e.g. drop-leaves:0.2"),
    ],
)
def test_parse_names_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        augment.parse(text)


def test_what_a_tree_lacks_is_named():
    with pytest.raises(ValueError, match=r"level must be in 0..2, got 3"):
        hltm.keep_level(3).rates(BALANCED)
    with pytest.raises(ValueError, match=r"level must be in 0..2, got 3"):
        hltm.resample_subtrees(0.3, 3).rates(NAMED)
    with pytest.raises(KeyError, match="unknown node 'q'"):
        hltm.keep_nodes(["q"]).rates(BALANCED)
    with pytest.raises(ValueError, match="keep_nodes needs at least one node"):
        hltm.keep_nodes([])
    with pytest.raises(TypeError, match="expected a tree or a topology, got list"):
        hltm.keep_root().rates([0, 1])
    with pytest.raises(TypeError, match="expected a tree or a topology, got list"):
        hltm.drop_leaves(0.3).missing_rates([0, 1])


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([0.5] * 6, r"gives rates of shape \(6,\), expected \(7,\)"),
        ([0.5] * 6 + [1.5], "gives node '6' the rate 1.5, expected a number in"),
        ([0.5] * 6 + [np.nan], "gives node '6' the rate nan, expected a number in"),
    ],
)
def test_a_rule_of_one_s_own_is_checked(rates, message):
    own = hltm.Augmentation("own", lambda topology: np.array(rates))
    with pytest.raises(ValueError, match=f"augmentation 'own' {message}"):
        own.rates(BALANCED)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([0, 0, 0.5], r"'own' gives missing rates of shape \(3,\), expected \(6,\)"),
        ([0, 0, 2, 0, 0, 0], "'own' gives node 'x' the missing rate 2.0, expected a number in"),
    ],
)
def test_missing_rates_of_ones_own_are_checked(rates, message):
    own = hltm.Augmentation("own", lambda t: np.zeros(6), lambda t: np.array(rates))
    with pytest.raises(ValueError, match=message):
        own.missing_rates(NAMED)


@given(latent_trees(stacked=False), st.data())
def test_a_node_may_be_redrawn_if_it_or_a_node_above_it_has_a_rate(tree, data):
    nodes = len(tree.topology)
    rates = np.array(
        data.draw(st.lists(st.sampled_from([0, 0, 0.5, 1]), min_size=nodes, max_size=nodes))
    )
    may = hltm.Augmentation("some", lambda topology: rates).may_redraw(tree)
    for v in [*tree.latents, *tree.leaves]:
        assert may[v] == any(rates[u] > 0 for u in [v, *tree.topology.ancestors(v)])


def enumerated_views(tree, rates, views):
    """P(states of `views` views) by enumeration of the data, of every decision and of every redraw."""
    parent, tables = tree.topology.parent, tree.tables
    sizes = tables.cardinality.tolist()
    every = list(itertools.product(*map(range, sizes)))
    table = [tables.of(v)[0].numpy() for v in range(len(sizes))]

    def chance(v, states):
        return table[v][0 if v == 0 else states[parent[v]], states[v]]

    data = np.array([np.prod([chance(v, s) for v in range(len(sizes))]) for s in every])
    view = np.zeros((len(every), len(every)))
    for decisions in itertools.product([0, 1], repeat=len(sizes)):
        weight = np.prod([r if c else 1 - r for c, r in zip(decisions, rates, strict=True)])
        redrawn = list(decisions)
        for v in range(1, len(sizes)):
            redrawn[v] = redrawn[v] or redrawn[parent[v]]
        for (i, old), (j, new) in itertools.product(enumerate(every), repeat=2):
            if weight > 0 and all(r or a == b for r, a, b in zip(redrawn, old, new, strict=True)):
                view[i, j] += weight * np.prod([chance(v, new) for v in np.flatnonzero(redrawn)])
    np.testing.assert_allclose(view.sum(1), 1)
    return np.einsum("i,ij,ik->jk" if views == 2 else "i,ij->ij", data, *[view] * views)


@pytest.mark.parametrize("cardinality", [[2, 2, 2, 2], [2, 3, 2, 3]])
@pytest.mark.parametrize("views", [1, 2])
def test_two_views_have_the_joint_of_the_definition(cardinality, views):
    tree = random_tree([-1, 0, 0, 1], cardinality, seed=2)
    rates = np.array([0.2, 0.5, 1.0, 0.3])
    uneven = hltm.Augmentation("uneven", lambda topology: rates)
    joint = enumerated_views(tree, rates, views)
    draw = tree.sample(40_000, seed=3)
    first, second = tree.views(draw, uneven)
    shown = (first, second) if views == 2 else (draw, first)
    pairs = np.zeros_like(joint)
    rows = [np.ravel_multi_index(part.states.numpy().T, cardinality) for part in shown]
    np.add.at(pairs, tuple(rows), 1)
    likely = joint * 40_000 > 5
    observed = np.append(pairs[likely], pairs[~likely].sum())
    expected = np.append(joint[likely], 1 - joint[likely].sum()) * 40_000
    assert stats.chisquare(observed, expected).pvalue > 1e-3 / 4


# augmentations as values

MADE = {
    "keep-level": lambda: hltm.keep_level(1),
    "keep-root": hltm.keep_root,
    "keep-nodes": lambda: hltm.keep_nodes(["b", "a"]),
    "keep-nothing": hltm.keep_nothing,
    "resample-leaves": lambda: hltm.resample_leaves(0.3),
    "resample-subtrees": lambda: hltm.resample_subtrees(0.3, 1),
    "drop-leaves": lambda: hltm.drop_leaves(0.2),
    "then": lambda: hltm.drop_leaves(0.2).then(hltm.keep_root()).then(hltm.drop_leaves(0.1)),
    "of your own": lambda: augment.Augmentation("half", half, none_missing),
    "of your own, then": lambda: augment.Augmentation("half", half).then(hltm.keep_root()),
}


def half(topology):
    return np.full(len(topology), 0.5)


def none_missing(topology):
    return np.zeros(len(topology))


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_an_augmentation_is_a_value(make):
    made = make()
    assert made == make()
    assert hash(made) == hash(make())
    for again in (
        pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made),
        pickle.loads(pickle.dumps({"augment": [made]}))["augment"][0],
    ):  # fmt: skip
        assert again == made
        assert again.rates(NAMED).tolist() == made.rates(NAMED).tolist()
        assert again.missing_rates(NAMED).tolist() == made.missing_rates(NAMED).tolist()
    assert sum(made == other() for other in MADE.values()) == 1
    assert made != "keep-root"


def test_equal_arguments_of_any_type_make_equal_augmentations():
    assert hltm.keep_level(np.int64(1)) == hltm.keep_level(1) == augment.parse("keep-level:1")
    assert hltm.keep_nodes(np.int64(1)) == hltm.keep_nodes([1]) == hltm.keep_nodes(np.array([1]))
    assert hltm.keep_nodes("a") == hltm.keep_nodes(("a",)) == augment.parse("keep-nodes:a")
    assert hltm.resample_leaves(np.float64(0.5)) == hltm.resample_leaves(0.5)
    assert hltm.resample_subtrees(1, np.int8(0)) == augment.parse("resample-subtrees:1:0")
    # one name with six digits, but other rates
    assert str(hltm.resample_leaves(1 / 3)) == str(hltm.resample_leaves(0.333333))
    assert hltm.resample_leaves(1 / 3) != hltm.resample_leaves(0.333333)
    assert hltm.drop_leaves(0.5) != hltm.resample_leaves(0.5)
    for bad in (1.0, True, "1", None):
        with pytest.raises(TypeError, match="must be an integer, got"):
            hltm.keep_level(bad)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_grouping_of_compounds_does_not_count(rates):
    a, b, c = map(hltm.resample_leaves, rates)
    assert a.then(b).then(c) == a.then(b.then(c))
    a, b, c = map(hltm.drop_leaves, rates)
    assert a.then(b).then(c) == a.then(b.then(c))
    assert a.then(b) != b.then(a) or rates[0] == rates[1]
    mixed = [hltm.drop_leaves(rates[0]), hltm.resample_leaves(rates[1]), hltm.keep_root()]
    left, right = mixed[0].then(mixed[1]).then(mixed[2]), mixed[0].then(mixed[1].then(mixed[2]))
    assert left == right
    assert left.missing_rates(NAMED).tolist() == right.missing_rates(NAMED).tolist()


def test_rules_that_cannot_be_pickled_are_named():
    def local(topology):
        return half(topology)

    for rule in (lambda topology: half(topology), local):
        own = augment.Augmentation("mine", rule)
        for bad in (own, own.then(hltm.keep_root()), hltm.keep_root().then(own)):
            with pytest.raises(
                TypeError, match=r"'.*mine.*' cannot be pickled: its rule '.*' is not"
            ):
                pickle.dumps(bad)
            assert copy.deepcopy(bad) == bad
            assert bad.rates(BALANCED).max() >= 0.5
    assert augment.Augmentation("mine", local) == augment.Augmentation("mine", local)
    assert augment.Augmentation("mine", local) != augment.Augmentation("mine", half)
