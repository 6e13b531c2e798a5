"""Counterfactual draws: what stays, what changes, and in which distribution."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from draw_cases import BINARY, MIXED, PARENTS, random_tree
from hypothesis import given, settings
from hypothesis import strategies as st

import hltm
from hltm.sampling.kernels import reference
from hltm.sampling.kernels.request import DrawRequest
from hltm.sampling.philox import DECISIONS
from hltm.sampling.rows import draw_rows
from hltm.sampling.sample import draw_states

CROPS = hltm.resample_subtrees(0.4, 1).then(hltm.resample_leaves(0.3))
WIDE = [300, 2, 3, 400, 2, 300, 5]  # above 256 states


def plain(tree, draw, set_to):
    """The same, node by node in plain Python: `set_to` holds states `(S, B)` by number."""
    tables, parent = tree.tables, tree.topology.parent
    shape = len(draw.members), len(draw.rows)

    def numbers(v, stream, view, binary):
        return reference.uniform_words(
            draw.seed, stream, draw.members, np.array([v]), view, draw.start, shape[1], binary,
            torch.device("cpu"),
        )[:, 0].numpy()  # fmt: skip

    def choose(v, u, above):
        if v in set_to:
            return set_to[v].numpy()
        steps = int(tables.cardinality[v]) - 1
        row = above if v else np.zeros(shape, dtype=int)
        found = np.zeros(shape, dtype=int)
        for s, b in np.ndindex(shape):
            at = tables.threshold_start[v] + row[s, b] * steps
            limits = tables.thresholds[s % len(tables.thresholds), at : at + steps].numpy()
            found[s, b] = (limits <= u[s, b]).sum()
        return found

    states = {}
    for view, rates in ((0, None), *draw.redraws):
        base, states, redrawn = states, {}, {}
        for v in range(len(parent)):
            binary = tables.cardinality[v] == 2
            u = numbers(v, draw.stream, view, binary)
            fresh = choose(v, u, states.get(parent[v]))
            if rates is None:
                states[v] = fresh
                continue
            decision = numbers(v, draw.stream | DECISIONS, view, True)
            redrawn[v] = decision >= round((1 - rates[v]) * 2**32)
            if v:
                redrawn[v] |= redrawn[parent[v]]
            states[v] = np.where(redrawn[v], fresh, base[v])
    return torch.from_numpy(np.stack([states[v] for v in range(len(parent))], 1))


def draws_of(tree, samples=150, start=70):
    """The data, a view, a redraw of the data and one of the view."""
    data = tree.sample(samples, seed=3, start=start)
    (view,) = tree.views(data, CROPS.then(hltm.drop_leaves(0.2)), count=1, first_view=5)
    return [data, view, tree.redraw(data, [1, 2]), tree.redraw(view, 1, view=9)]


@settings(max_examples=4)
@given(
    seed=st.integers(0, 10**6), cardinality=st.sampled_from([BINARY, MIXED]),
    members=st.sampled_from([None, 2]), nested=st.booleans(),
)  # fmt: skip
def test_it_is_the_plain_recursion_on_the_same_random_numbers(seed, cardinality, members, nested):
    tree = random_tree(PARENTS, cardinality, seed=seed, members=members)
    generator = torch.Generator().manual_seed(seed)
    for draw in draws_of(tree, 20):
        shape = (members or 1, 20)
        set_to = {
            v: torch.randint(cardinality[v], shape, generator=generator)
            for v in ([1, 3] if nested else [2])
        }
        given = {v: states if members else states[0] for v, states in set_to.items()}
        found = tree.counterfactual(draw, given)
        assert found.states_SVB.long().equal(plain(tree, draw, set_to))
        one = next(iter(set_to))
        single = tree.counterfactual(draw, {one: 1})
        assert single.states_SVB.long().equal(plain(tree, draw, {one: torch.ones(shape).long()}))


@pytest.mark.parametrize("cardinality", [BINARY, MIXED, WIDE])
@pytest.mark.parametrize("members", [None, 3])
def test_only_descendants_may_differ(cardinality, members):
    tree = random_tree(PARENTS, cardinality, seed=0, members=members)
    for draw in draws_of(tree):
        for v in range(7):
            found = tree.counterfactual(draw, {v: 1})
            below = tree.topology.descendants(v)
            differ = (found.states.int() != draw.states.int()).flatten(0, -2).any(0)
            assert set(differ.nonzero()[:, 0].tolist()) <= set(below.tolist())
            assert (found.node(v).int() == 1).all()
            # where the node had the state already, nothing changes at all, in the data
            if draw.view == 0:
                same = draw.node(v).int() == 1
                assert found.states.int()[same].equal(draw.states.int()[same])
            assert found.states.dtype == draw.states.dtype
            assert found.missing.equal(draw.missing)
            assert (found.rows, found.view, found.members) == (draw.rows, draw.view, draw.members)


@pytest.mark.parametrize("cardinality", [BINARY, MIXED, WIDE])
@pytest.mark.parametrize("members", [None, 3])
def test_states_set_to_what_they_are_change_nothing(cardinality, members):
    tree = random_tree(PARENTS, cardinality, seed=0, members=members)
    for draw in draws_of(tree):
        for nodes in ([0], [1], [2, 6], [0, 1, 4], []):
            found = tree.counterfactual(draw, {v: draw.node(v) for v in nodes})
            assert found.states.int().equal(draw.states.int())


@pytest.mark.parametrize("cardinality", [BINARY, MIXED, WIDE])
@pytest.mark.parametrize("members", [None, 3])
def test_it_is_the_intervened_trees_draw_at_the_same_address(cardinality, members):
    tree = random_tree(PARENTS, cardinality, seed=0, members=members)
    for setting in ({1: 0, 5: 1}, {2: np.full(cardinality[2], 1 / cardinality[2])}, {0: 1}):
        other = tree.intervene(setting)
        for draw, expected in zip(draws_of(tree), draws_of(other), strict=True):
            found = tree.counterfactual(draw, setting)
            assert found.states.int().equal(expected.states.int())
            assert found.leaves.int().equal(expected.leaves.int())
            assert found == expected  # their trees, too
            assert other.counterfactual(found, {3: 1}) == tree.counterfactual(
                draw, {**setting, 3: 1}
            )
            with pytest.raises(ValueError, match="the draw is of tree"):
                tree.counterfactual(found, {3: 1})


def test_one_state_per_sample_is_each_sample_of_its_own_draw():
    trees = random_tree(PARENTS, MIXED, seed=0, members=2)
    for draw in draws_of(trees, 400):
        per_sample = torch.arange(800).view(2, 400) % 4
        found = trees.counterfactual(draw, {2: per_sample})
        for state in range(4):
            alone = trees.counterfactual(draw, {2: state})
            here = per_sample == state
            assert found.states[here].equal(alone.states[here])
        shared = trees.counterfactual(draw, {2: per_sample[0].numpy().astype(np.uint8)})
        assert shared.states[0].equal(found.states[0])
        assert trees[0].counterfactual(
            replace(draw, states_SVB=draw.states_SVB[:1], members=(0,), stacked=False,
                    missing_SXB=None), {2: per_sample[0]},
        ).states.equal(found.states[0])  # fmt: skip


def test_states_of_samples_in_any_form():
    tree = random_tree(PARENTS, BINARY, seed=0)
    draw = tree.sample(100, seed=1)
    states = draw.root == 0
    expected = tree.counterfactual(draw, {1: states.long()})
    frozen = states.numpy().copy()
    frozen.flags.writeable = False
    for form in (states, frozen, states.tolist(), pd.Series(states), states.to(torch.uint8)):
        assert tree.counterfactual(draw, {1: form}) == expected


def test_draws_of_some_nodes_and_of_other_streams():
    tree = random_tree(PARENTS, MIXED, seed=0)
    part = tree.draw(300, seed=1, start=5, stream=hltm.Stream.EVALUATION, first=3)
    whole = tree.draw(300, seed=1, start=5, stream=hltm.Stream.EVALUATION)
    found = tree.counterfactual(part, {1: torch.arange(300) % 2})
    assert found.states.equal(tree.counterfactual(whole, {1: torch.arange(300) % 2}).states[:, 3:])
    assert found.first == 3


def test_packed_draws():
    trees = random_tree(PARENTS, BINARY, seed=0, members=2)
    packed = trees.sample(333, seed=1, start=3, packed=True)
    given = {1: torch.arange(333) % 2}
    found = trees.counterfactual(packed, given)
    assert found.unpack().states.equal(trees.counterfactual(packed.unpack(), given).states)
    assert isinstance(found, hltm.PackedDraw)


def test_nodes_named_by_other_numbers_and_no_samples():
    chain = hltm.LatentTree.from_parents(
        [1, 2, None], [[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]], [0.5, 0.5]]
    )
    draw = chain.sample(100, seed=1)
    found = chain.counterfactual(draw, {"1": [0.5, 0.5], "2": 1 - draw.node("2")})
    assert not found.node("2").equal(draw.node("2"))
    assert found.origin is None
    with pytest.raises(ValueError, match="node 0 is ambiguous"):
        chain.counterfactual(draw, {0: 1})
    assert chain.counterfactual(chain.sample(0, seed=1), {"1": 1}).states.shape == (0, 3)


def test_a_view_that_was_pickled():
    tree = random_tree(PARENTS, MIXED, seed=0)
    for draw in draws_of(tree):
        again = pickle.loads(pickle.dumps(draw))
        assert tree.counterfactual(again, {1: 1}) == tree.counterfactual(draw, {1: 1})


def test_samples_in_any_order_come_from_the_intervened_tables():
    tree = random_tree(PARENTS, MIXED, seed=0)
    draw = tree.sample(500, seed=1)
    rows = np.array([400, 3, 3, 77])
    (found,) = draw_rows(tree.intervene({1: 1}).tables, (0,), rows, seed=1)
    assert found[0].T.equal(tree.counterfactual(draw, {1: 1}).states[rows])


@pytest.mark.parametrize("cardinality", [BINARY, MIXED, WIDE])
@pytest.mark.parametrize("base_held", [True, False])
def test_kernels_agree_with_the_reference_on_held_nodes(cardinality, base_held):
    trees = random_tree(PARENTS, cardinality, seed=0, members=2)
    generator = torch.Generator().manual_seed(1)
    base = torch.stack([torch.randint(k, (2, 150), generator=generator) for k in cardinality], 1)
    held = np.isin(np.arange(7), [1, 3, 6])
    request = DrawRequest(
        trees.topology, 3, 1, (0, 1), 70, 150, views=(0, 4, 5), rates=CROPS.rates(trees),
        base=base.int(), held=held, base_held=base_held,
    )  # fmt: skip
    for rates in (CROPS.rates(trees), hltm.keep_root().rates(trees), np.zeros(7)):
        asked = replace(request, rates=rates)
        slow, fast = reference.draw(trees.tables, asked), draw_states(trees.tables, asked)
        for a, b in zip(slow, fast, strict=True):
            assert a.int().equal(b.int())
            assert b.int()[:, held].equal(base.int()[:, held])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same_counterfactual():
    trees = random_tree(PARENTS, MIXED, seed=0, members=2)
    here = trees.sample(500, seed=1)
    there = trees.sample(500, seed=1, device="cuda")
    set_to = {1: 1 - here.node(1).long(), 2: np.full(4, 0.25)}
    for a, b in zip(
        (here, *trees.views(here, CROPS)), (there, *trees.views(there, CROPS)), strict=True
    ):
        found = trees.counterfactual(b, set_to)
        assert found.states.is_cuda
        assert found.states.cpu().equal(trees.counterfactual(a, set_to).states)


def test_the_distribution_is_that_of_the_intervened_tree():
    tree = random_tree([-1, 0, 0, 1, 1], [2, 3, 2, 2, 3], seed=4)
    draw = tree.sample(20_000, seed=5)
    found = tree.counterfactual(draw, {1: 2}).states
    expected = tree.intervene({1: 2}).joint().probability.numpy()
    assert largest_deviation(tree, found, expected) < limit(expected)
    (view,) = tree.views(draw, hltm.resample_subtrees(0.5, 1))[:1]
    again = tree.counterfactual(view, {1: 2}).states
    assert largest_deviation(tree, again, expected) < limit(expected)
    # seeing is not doing: the samples that have the state anyway are of another distribution
    seen = draw.states[draw.node(1) == 2]
    assert largest_deviation(tree, seen, expected) > limit(expected)


def largest_deviation(tree, states, expected):
    """Of the counts of joint states, in standard deviations."""
    number = np.ravel_multi_index(states.numpy().T, tree.tables.cardinality)
    counts = np.bincount(number, minlength=len(expected))
    assert (counts[expected == 0] == 0).all()
    kept = expected * len(states) > 5
    spread = np.sqrt(len(states) * expected * (1 - expected))
    return np.abs((counts - len(states) * expected)[kept] / spread[kept]).max()


def limit(expected):
    return math.sqrt(2 * math.log(2 * (expected > 0).sum() / 1e-3))  # Bonferroni


def test_a_draw_that_is_not_of_the_address_is_refused():
    tree = random_tree(PARENTS, MIXED, seed=0)
    draw = tree.sample(50, seed=1)
    changed = draw.states_SVB.clone()
    changed[0, 6, 49] ^= 1
    for wrong in (
        replace(draw, states_SVB=changed),
        replace(draw, seed=2),
        replace(draw, states_SVB=draw.states_SVB.float() + 0.5),
    ):
        with pytest.raises(ValueError, match="has others: it is of another tree, or its states"):
            tree.counterfactual(wrong, {1: 1})
    (view,) = tree.views(draw, CROPS, count=1, first_view=4)
    with pytest.raises(ValueError, match="the draw is view 4 but does not hold its redraw rates"):
        tree.counterfactual(replace(view, redraws=()), {1: 1})
    with pytest.raises(TypeError, match="expected a draw of this tree, got Tensor"):
        tree.counterfactual(draw.states, {1: 1})
    # the same states in another type are the same draw
    wide = replace(draw, states_SVB=draw.states_SVB.long())
    assert tree.counterfactual(wide, {1: 1}).states.equal(tree.counterfactual(draw, {1: 1}).states)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": 1}, KeyError, "unknown node 'x'"),
        ({1: 7}, ValueError, r"node '1' has state 7, expected 0..1"),
        ({1: torch.full((50,), 3)}, ValueError, r"node '1' has state 3, expected 0..1"),
        ({1: [0, 1]}, ValueError, r"shape \(2,\), expected one state or \(50,\), one per sample"),
        ({1: torch.zeros(1, 50).long()}, ValueError, r"integers of shape \(1, 50\)"),
        ({1: [0.5, 0.6]}, ValueError, "probabilities that sum to 1.1"),
        ({1: 0, "1": 0}, ValueError, "node '1' is given twice"),
        ([1], TypeError, "expected a mapping"),
    ],
)
def test_what_cannot_be_set_for_a_draw_is_named(given, error, message):
    tree = random_tree(PARENTS, MIXED, seed=0)
    with pytest.raises(error, match=message):
        tree.counterfactual(tree.sample(50, seed=1), given)
