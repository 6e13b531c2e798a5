"""Evidence by node against enumeration, rational arithmetic and pgmpy; every form that means the same."""

from fractions import Fraction
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from few import few
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import irregular_tree

import hltm
from hltm.inference.evidence import read_evidence

WEATHER = hltm.LatentTree.from_parents(
    {"season": None, "rain": "season", "wind": "season", "puddles": "rain"},
    {
        "season": [0.25, 0.5, 0.25],
        "rain": [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]],
        "wind": [[0.6, 0.4], [0.5, 0.5], [0.1, 0.9]],
        "puddles": [[1.0, 0.0], [0.3, 0.7]],
    },
)


def some_evidence(tree, rows, seed):
    """A mapping with states and likelihoods on about half of the nodes, and their weights.

    Weights are `(S, B, V, K)`: 1 or 0 for states, likelihoods themselves; one row of them or B.
    """
    random = np.random.default_rng(seed)
    members, nodes = len(tree.members), len(tree.topology)
    states = tree.tables.cardinality
    weights = np.ones((members, rows, nodes, states.max()))
    lead = (members,) if tree.stacked else ()
    evidence = {}
    for v in map(int, random.permutation(nodes)[: random.integers(nodes + 1)]):
        key = tree.topology.names[v] if random.random() < 0.5 else v
        k = int(states[v])
        shape = [(*lead, rows), (rows,), ()][random.integers(3)]
        if random.random() < 0.5:
            value = random.integers(-1, k, shape)
            weight = (value[..., None] == np.arange(k)) | (value[..., None] < 0)
            evidence[key] = int(value) if shape == () else torch.from_numpy(value)
        else:
            value = weight = random.exponential(size=(*shape, k)) * random.choice([1e-3, 1, 50.0])
            value[..., 0] *= random.random() < 0.5
            evidence[key] = value
        weights[:, :, v, :k] = weight
    return evidence, weights


def enumerated(tree, weights, kept=None):
    """`(S, B, V, K)` sums over joint states of their probability times weights, per state of a node."""
    joint = tree.joint()
    states = np.asarray(joint.states)
    probability = np.asarray(joint.probability).reshape(len(tree.members), -1)
    at = np.arange(states.shape[1])
    each = weights[:, :, at, states]  # (S, B, N, V)
    if kept is not None:
        each = np.where(kept, each, 1)
    joined = probability[:, None] * each.prod(-1)
    found = np.zeros_like(weights)
    for v in at:
        for k in range(weights.shape[-1]):
            found[:, :, v, k] = joined[:, :, states[:, v] == k].sum(-1)
    return found, joined, states


def has_rows(evidence):
    return any(np.ndim(x) > (np.asarray(x).dtype.kind == "f") for x in evidence.values())


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), members=st.sampled_from([None, 1, 3]))
def test_posteriors_of_mappings_equal_enumeration(seed, members):
    tree = irregular_tree(seed, nodes=6, max_states=3, members=members, zeros=0.1)
    rows = 4
    evidence, weights = some_evidence(tree, rows, seed)
    if not has_rows(evidence):  # then one row of results serves all
        weights = weights[:, :1]
    found = tree.posterior(evidence)
    own = tree.posterior(evidence, given="own")
    best = tree.most_likely(evidence)
    expected, joined, states = enumerated(tree, weights)
    total = expected.sum(-1)[:, :, 0]
    shape = (len(tree.members),) if members else ()
    with np.errstate(divide="ignore", invalid="ignore"):
        np.testing.assert_allclose(
            found.log_evidence.reshape(total.shape), np.log(total), atol=1e-9
        )
        marginals = expected / total[:, :, None, None]
        marginals[:, :, np.arange(marginals.shape[-1]) >= tree.tables.cardinality[:, None]] = 0
        np.testing.assert_allclose(found.marginals.reshape(marginals.shape), marginals, atol=1e-9)
        np.testing.assert_allclose(
            best.log_probability.reshape(total.shape), np.log(joined.max(-1)), atol=1e-9
        )
        for v in range(6):
            kept = np.isin(np.arange(6), tree.topology.descendants(v))
            part = enumerated(tree, weights, kept)[0][:, :, v]
            np.testing.assert_allclose(
                own.log_evidence[..., v].reshape(total.shape), np.log(part.sum(-1)), atol=1e-9
            )
            np.testing.assert_allclose(
                own.marginals[..., v, :].reshape(part.shape)[..., : tree.tables.cardinality[v]],
                (part / part.sum(-1, keepdims=True))[..., : tree.tables.cardinality[v]],
                atol=1e-9,
            )
    assert found.log_evidence.shape == (*shape, total.shape[1])
    assert best.states.shape == (*shape, total.shape[1], 6)
    chosen = best.states.reshape(*total.shape, 6).numpy()
    for s, b in zip(*np.nonzero(total > 0), strict=True):
        place = (states == chosen[s, b]).all(1)
        assert joined[s, b][place][0] == pytest.approx(joined[s, b].max(), rel=1e-9)


@pytest.mark.parametrize("members", [None, 2])
def test_samples_given_a_mapping_follow_the_posterior(members):
    tree = irregular_tree(4, nodes=6, max_states=3, members=members)
    soft = np.array([0.2, 0.9] + [0.4] * (tree.tables.cardinality[2] - 2))
    evidence = {0: np.ones(6000, dtype=int), "2": soft, 5: 0}
    drawn = tree.posterior_samples(evidence, 1, seed=1)[..., 0, :, :]
    exact = tree.posterior(evidence).marginals[..., 0, :, :]
    for k in range(3):
        seen = (drawn == k).double().mean(-2)
        torch.testing.assert_close(seen, exact[..., k], atol=4 * 0.5 / 6000**0.5, rtol=0)
    part = tree.posterior_samples({0: [1] * 10, "2": soft, 5: 0}, 1, seed=1, start=50)
    assert part[..., 0, :, :].equal(drawn[..., 50:60, :])


def test_rational_arithmetic_agrees():
    prior = [Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)]
    rain = [[Fraction(k, 10) for k in row] for row in ([9, 1], [5, 5], [2, 8])]
    wind = [[Fraction(k, 10) for k in row] for row in ([6, 4], [5, 5], [1, 9])]
    puddles = [[Fraction(1), Fraction(0)], [Fraction(3, 10), Fraction(7, 10)]]
    soft = [Fraction(1, 7), Fraction(5, 3)]  # a likelihood of puddles
    weights = {}
    for s, w, p in product(range(3), range(2), range(2)):
        weights[s, w, p] = prior[s] * rain[s][1] * wind[s][w] * puddles[1][p] * soft[p]
    total = sum(weights.values())
    exact = [sum(x for key, x in weights.items() if key[0] == s) / total for s in range(3)]
    found = WEATHER.posterior({"rain": 1, "puddles": [float(x) for x in soft]}, nodes="season")
    np.testing.assert_allclose(found.marginals[0, 0], [float(x) for x in exact], rtol=1e-13)
    assert float(found.log_evidence.exp()) == pytest.approx(float(total), rel=1e-13)


# pgmpy's own modules warn of each other
@pytest.mark.filterwarnings("ignore::FutureWarning:pgmpy", "ignore::DeprecationWarning")
def test_pgmpy_agrees_with_evidence_on_inner_nodes():
    pgmpy_models = pytest.importorskip("pgmpy.models")
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination

    topology, states = WEATHER.topology, WEATHER.tables.cardinality
    edges = [(topology.names[topology.parent[v]], topology.names[v]) for v in range(1, 4)]
    model = pgmpy_models.DiscreteBayesianNetwork(edges)
    for v, name in enumerate(topology.names):
        above = [topology.names[topology.parent[v]]] if v else []
        sizes = [int(states[topology.parent[v]])] if v else []
        table = WEATHER.tables.of(v)[0].T.numpy()
        model.add_cpds(TabularCPD(name, int(states[v]), table, above, sizes))
    soft = TabularCPD("season", 3, [[0.1], [0.3], [0.6]])
    found = WEATHER.posterior({"rain": 1, "wind": 0, "season": [0.1, 0.3, 0.6]})
    for node in ("season", "puddles"):
        exact = VariableElimination(model).query(
            [node], {"rain": 1, "wind": 0}, virtual_evidence=[soft], show_progress=False
        )
        v = topology.node(node)
        np.testing.assert_allclose(found.marginals[0, v, : states[v]], exact.values, atol=1e-12)


def test_all_forms_of_leaves_give_the_same():
    tree = irregular_tree(3, nodes=8, max_states=3)
    draw = tree.sample(20, seed=0)
    (view,) = tree.views(draw, hltm.drop_leaves(0.3), count=1)
    leaves = view.leaves.long()
    exact = tree.posterior(leaves)
    names = [tree.topology.names[v] for v in tree.leaves]
    frame = pd.DataFrame(leaves.numpy(), columns=names)
    forms = {
        "a draw": view,
        "numpy": leaves.numpy(),
        "lists": leaves.tolist(),
        "another byte order": leaves.numpy().astype(">i2"),
        "read-only": np.broadcast_to(leaves.numpy(), leaves.shape),
        "backwards": leaves.numpy()[::-1][::-1],
        "masked": np.ma.masked_equal(leaves.numpy(), -1),
        "by name": {name: leaves[:, x] for x, name in enumerate(names)},
        "by number": {v: leaves[:, x].tolist() for x, v in enumerate(tree.leaves)},
        "a frame by name": frame[names[::-1]],
        "a frame with empty entries": frame.where(frame >= 0),
        "a frame of pandas' integers": frame.astype("Int64").mask(frame < 0),
        "a frame by place": pd.DataFrame(leaves.numpy()),
        "a frame by place with a word": pd.DataFrame(leaves.numpy()).add_prefix("leaf_"),
    }
    for name, form in forms.items():
        assert tree.posterior(form) == exact, name
        assert tree.most_likely(form) == tree.most_likely(leaves), name
        drawn = tree.posterior_samples(form, 2, seed=0)
        assert drawn.equal(tree.posterior_samples(leaves, 2, seed=0)), name


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.bool]
)
def test_integers_of_every_type_and_bools_are_states(dtype):
    tree = hltm.symmetric_binary(depth=2, seed=0)
    leaves = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1]])
    exact = tree.posterior(leaves)
    assert tree.posterior(leaves.to(dtype)) == exact
    assert tree.posterior(leaves.to(dtype).numpy()) == exact
    assert tree.posterior({v: leaves[:, x].to(dtype) for x, v in enumerate(tree.leaves)}) == exact
    one = {v: leaves[0, x].to(dtype) for x, v in enumerate(tree.leaves)}
    assert tree.posterior(one) == tree.posterior(leaves[:1])


@pytest.mark.parametrize("value", [1, True, np.int64(1), np.uint16(1), torch.tensor(1), [1], (1,)])
def test_one_state_gives_one_row(value):
    found = WEATHER.posterior({"rain": value}, nodes="season")
    assert found.marginals.shape == (1, 1, 3)
    np.testing.assert_allclose(
        found.marginals[0, 0], np.array([0.025, 0.25, 0.2]) / 0.475, atol=1e-12
    )


def test_no_evidence_gives_the_prior_and_certain_likelihoods_are_states():
    prior = WEATHER.posterior({})
    np.testing.assert_allclose(prior.marginals[0, 0], [0.25, 0.5, 0.25])
    assert prior.log_evidence.tolist() == [0]
    assert WEATHER.posterior({"rain": -1}) == prior
    certain = WEATHER.posterior({"rain": [[0.0, 1.0], [2.0, 0.0]]})
    states = WEATHER.posterior({"rain": [1, 0]})
    torch.testing.assert_close(certain.marginals, states.marginals)
    factor = torch.tensor([1.0, 2.0], dtype=torch.float64).log()
    torch.testing.assert_close(certain.log_evidence, states.log_evidence + factor)


def test_impossible_evidence_is_an_answer():
    found = WEATHER.posterior({"rain": [0, 1], "puddles": 1})
    assert found.log_evidence[0] == -torch.inf
    assert found.marginals[0, :, :2].isnan().all()
    assert not found.marginals[1].isnan().any()
    assert WEATHER.most_likely({"rain": 0, "puddles": 1}).states.tolist() == [[-1] * 4]
    assert (WEATHER.posterior_samples({"rain": 0, "puddles": 1}, 2, seed=0) == -1).all()


def test_members_may_share_evidence():
    trees = irregular_tree(5, nodes=7, members=3)
    leaves = irregular_tree(5, nodes=7, members=3)[0].sample(6, seed=0).leaves
    shared = trees.posterior(leaves)
    assert shared == trees.posterior(leaves.expand(3, -1, -1))
    first = next(iter(trees.leaves))
    for s in range(3):
        assert trees[s].posterior(leaves).marginals.equal(shared.marginals[s])
        soft = torch.rand(6, int(trees.tables.cardinality[first]), dtype=torch.float64)
        alone = trees[s].posterior({0: 1, first: soft})
        together = trees.posterior({0: [1] * 6, first: soft})
        torch.testing.assert_close(together.marginals[s], alone.marginals)


def test_rows_and_nodes_may_be_none():
    for members in (None, 2):
        trees = irregular_tree(2, nodes=6, members=members)
        lead, count = ((2,) if members else ()), len(trees.leaves)
        k = int(trees.tables.cardinality.max())
        nothing = [
            torch.zeros(*lead, 0, count, dtype=torch.int64),
            {0: np.zeros((*lead, 0), dtype=int)},
            {1: np.zeros((*lead, 0, trees.tables.cardinality[1]))},
        ]
        for evidence in nothing:
            assert trees.posterior(evidence).marginals.shape == (*lead, 0, 6, k)
            assert trees.posterior(evidence).log_evidence.shape == (*lead, 0)
            assert trees.posterior(evidence, given="own").log_evidence.shape == (*lead, 0, 6)
            assert trees.most_likely(evidence).states.shape == (*lead, 0, 6)
            assert trees.posterior_samples(evidence, 3, seed=0).shape == (*lead, 3, 0, 6)
        found = trees.posterior({0: [0, 1]}, nodes=[])
        assert found.marginals.shape == (*lead, 2, 0, trees.tables.cardinality[0])
        assert found.log_evidence.equal(trees.posterior({0: [0, 1]}).log_evidence)
        found = trees.posterior({0: [0, 1]}, nodes=[], given="own")
        assert found.log_evidence.shape == (*lead, 2, 0)
        assert trees.ceiling([]).value.shape == (*lead, 0)
    assert WEATHER.posterior({"rain": []}).marginals.shape[0] == 0  # numpy makes floats of []
    empty = pd.DataFrame({"rain": pd.Series(dtype=float)})
    assert WEATHER.posterior(empty).log_evidence.shape == (0,)
    assert WEATHER.posterior(pd.DataFrame(index=range(3))).log_evidence.tolist() == [0] * 3


def test_leaves_of_a_draw_are_taken_by_name():
    other = hltm.LatentTree.from_parents(
        {"cause": None, "puddles": "cause", "wind": "cause"},
        {"cause": [0.5, 0.5], "puddles": [[0.9, 0.1], [0.1, 0.9]], "wind": [[0.5, 0.5]] * 2},
    )
    draw = other.sample(30, seed=0)
    found = WEATHER.posterior(draw)
    assert found == WEATHER.posterior({name: draw.node(name) for name in ("puddles", "wind")})


def test_rows_of_frames_and_exported_columns_are_evidence(tmp_path):
    """What the library writes, it reads; one row of it is a series."""
    hltm.export(WEATHER, tmp_path / "out", 20, seed=1, format="parquet", columns="nodes")
    frame = pd.read_parquet(tmp_path / "out")
    assert frame.columns[0] == "row"
    whole = WEATHER.posterior(frame)
    assert whole == WEATHER.posterior(frame.drop(columns="row"))
    assert WEATHER.posterior(frame.loc[3]).marginals.equal(whole.marginals[3:4])
    gap = pd.Series({"wind": 1.0, "puddles": np.nan})
    assert WEATHER.posterior(gap) == WEATHER.posterior({"wind": 1})
    draw = WEATHER.sample(20, seed=1)
    assert WEATHER.log_prob(frame).equal(WEATHER.log_prob(draw))
    assert WEATHER.log_prob(frame.loc[3]).equal(WEATHER.log_prob(draw)[3:4])
    named = hltm.random_tables(hltm.Topology.from_parents({"row": None, "a": "row"}), seed=0)
    states = pd.DataFrame({"row": [0, 1]})
    assert named.posterior(states) == named.posterior({"row": [0, 1]})


@pytest.mark.parametrize("dtype", few([torch.float64, torch.float32]))
@pytest.mark.parametrize("scale", [1e-300, 1e300, 5e-324])
def test_likelihoods_have_any_magnitude(dtype, scale):
    ratio = [1.0, 1.0] if scale == 5e-324 else [0.25, 1.0]
    usual = WEATHER.posterior({"rain": ratio, "wind": ratio})
    found = WEATHER.posterior(
        {n: [scale * r for r in ratio] for n in ("rain", "wind")}, dtype=dtype
    )
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(found.marginals.double(), usual.marginals, atol=tolerance, rtol=0)
    expected = usual.log_evidence + 2 * np.log(scale)
    torch.testing.assert_close(found.log_evidence.double(), expected, atol=1e-3, rtol=0)


def test_likelihoods_have_a_gradient():
    soft = torch.tensor([[0.2, 0.7], [1.5, 0.1]], dtype=torch.float64, requires_grad=True)

    def evidence(x):
        return WEATHER.posterior({"rain": x, "wind": 1}).log_evidence

    assert torch.autograd.gradcheck(evidence, soft)
    # d log P(evidence) / d likelihood = P(state | evidence) / likelihood
    evidence(soft).sum().backward()
    belief = WEATHER.posterior({"rain": soft.detach(), "wind": 1}, nodes="rain").marginals[:, 0, :2]
    torch.testing.assert_close(soft.grad, belief / soft.detach())


def test_states_of_leaves_stay_states():
    known = read_evidence(WEATHER.tables, {"wind": [0, 1], "rain": 1}, stacked=False)
    assert known.leaves_SXB.tolist() == [[[0, 1], [-1, -1]]]
    assert list(known.likelihoods) == [WEATHER.topology.node("rain")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_reads_the_same_evidence():
    trees = irregular_tree(3, nodes=8, max_states=3, members=2)
    draw = trees.sample(50, seed=0)
    soft = torch.rand(50, int(trees.tables.cardinality[1]), dtype=torch.float64)
    here = {0: draw.node(0), 1: soft, 7: 1}
    there = {0: draw.node(0).cuda(), 1: soft, 7: 1}
    for given_leaves in ("all", "own"):
        exact, found = (trees.posterior(x, given=given_leaves) for x in (here, there))
        torch.testing.assert_close(found.marginals.cpu(), exact.marginals, atol=1e-11, rtol=0)
        torch.testing.assert_close(found.log_evidence.cpu(), exact.log_evidence, atol=1e-10, rtol=0)
    assert trees.most_likely(there).states.cpu().equal(trees.most_likely(here).states)
    found = trees.log_prob(draw.states.cuda())
    torch.testing.assert_close(found.cpu(), trees.log_prob(draw), atol=1e-12, rtol=0)
