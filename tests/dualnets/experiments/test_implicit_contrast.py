"""The implicit contrastive term: its directions against plain ones, its rule, its figure."""

import numpy as np
import pytest
import torch
from judging import judge
from made_up_variants import FLAT, TINY, made_up, seeded
from tiny_runs import blank_figures

import dualnets
import hltm
from dualnets.experiments import load
from dualnets.experiments.byol import _implicit_contrast as implicit_contrast
from dualnets.experiments.byol.byol_batchnorm import VARIANTS
from dualnets.experiments.byol.implicit_contrast import AHEAD
from dualnets.lab import grids
from dualnets.methods.byol import BYOL
from dualnets.methods.protocol import Batch, TrainContext
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm
from dualnets.theory.byol.batch_mean import batch_covariance, mean_parts
from dualnets.training.trajectory import log_spaced

EXPERIMENT = load("implicit_contrast")
ROWS = 16


@pytest.fixture(scope="module")
def place():
    """Networks, a method whose projector alone has a BatchNorm, its state, two views."""
    trees = hltm.symmetric_binary(depth=2, members=2, seed=0)
    network = dualnets.tree_network(trees, units=3, bias=True, seed=1, dtype=torch.float64)
    method = BYOL(projector=Head((5, 4), norm=BatchNorm()), predictor=Head((4,)), symmetric=False)
    state = method.init(network, TrainContext(trees, seed=2, steps=10, batch=ROWS))
    views = trees.views(trees.sample(ROWS, seed=3), hltm.keep_root())
    return network, method, state, [view.leaves for view in views]


def member(tensors, at, kind):
    return {name: tensor.detach()[at : at + 1] for name, tensor in tensors if kind(name)}


def flat(found, network):
    return torch.cat([found[name].flatten() for name, _ in network.named_parameters()])


@pytest.mark.parametrize("at", [0, 1])
def test_directions_are_those_of_the_theory(place, at):
    network, method, state, views = place
    found = implicit_contrast.directions(network, method, state, Batch(torch.cat(views, 1), ROWS))
    # one member by itself, as plain functions of its parameters
    trees = hltm.symmetric_binary(depth=2, members=2, seed=0)[at : at + 1]
    alone = dualnets.tree_network(trees, units=3, bias=True, seed=1, dtype=torch.float64)
    own = member(network.named_parameters(), at, lambda name: True)
    heads = member(state.items(), at, lambda name: True)

    def outputs(parameters, leaves):
        return torch.func.functional_call(alone, dict(parameters), (leaves[None],))[0]

    def below(parameters, leaves):
        weight, bias = (heads[f"projector.0.{part}"][0, 0] for part in ("weight", "bias"))
        return outputs(parameters, leaves) @ weight.T + bias

    def above(centred):
        hidden = (centred / (centred.square().mean(0) + 1e-5).sqrt()).relu()
        for layer in ("projector.1", "predictor.0"):
            hidden = hidden @ heads[f"{layer}.weight"][0, 0].T + heads[f"{layer}.bias"][0, 0]
        return 2 - 2 * torch.cosine_similarity(hidden, target).mean()

    with torch.no_grad():  # at the start the target is a copy of the online network
        hidden = below(own, views[1][at])
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
        target = (
            hidden.relu() @ heads["projector.1.weight"][0, 0].T + heads["projector.1.bias"][0, 0]
        )
    expected = mean_parts(below, above, own, views[0][at])
    assert torch.allclose(found.update[at], flat(expected.total, network), atol=1e-12)
    assert torch.allclose(found.term[at], flat(expected.through_mean, network), atol=1e-12)
    assert found.term[at].norm() > 0.01 * found.update[at].norm()

    def unit(parameters, leaves):
        hidden = below(parameters, leaves)
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
        weight, bias = (heads[f"projector.1.{part}"][0, 0] for part in ("weight", "bias"))
        projected = hidden.relu() @ weight.T + bias
        return projected / projected.norm(dim=1, keepdim=True)

    halves = [
        batch_covariance(unit, own, views[a][at], unit(own, views[b][at]).detach())
        for a, b in ((0, 1), (1, 0))
    ]
    both = sum(flat(half, network) for half in halves) / 2
    assert torch.allclose(found.operator[at], both, atol=1e-12)


def test_the_operator_is_the_growth_of_unit_projections_variance(place):
    network, method, state, views = place
    same = Batch(torch.cat([views[0]] * 2, 1), ROWS)
    found = implicit_contrast.directions(network, method, state, same, split=False).operator

    def variance(step):
        moved, parameters = 0, {}
        for name, parameter in network.named_parameters():
            size = parameter[0].numel()
            change = found[:, moved : moved + size].view_as(parameter)
            parameters[name], moved = (parameter + step * change).detach(), moved + size
        shown = torch.func.functional_call(network, parameters, (views[0],))
        own = {name[10:]: t for name, t in state.items() if name.startswith("projector.")}
        hidden = method.projector(own, shown).detach()
        return (hidden / hidden.norm(dim=-1, keepdim=True)).var(1, correction=0).sum(-1)

    grown = (variance(1e-5) - variance(-1e-5)) / 2e-5
    assert torch.allclose(grown, 2 * found.square().sum(1), rtol=1e-6)


def test_the_cosine_is_the_sum_of_its_parts_and_no_direction_counts_as_0():
    update, term, operator = torch.randn(
        3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    update[1], operator[2], operator[3], update[4] = 0, 0, torch.nan, 1e-14 * update[4]
    found = implicit_contrast.projections(implicit_contrast.Directions(update, term, operator))
    assert found["vanished"].tolist() == [0, 1, 1, 1, 1]
    expected = torch.cosine_similarity(update, operator, dim=1)[0]
    torch.testing.assert_close(found["cosine"][0], expected)
    torch.testing.assert_close(found["term_along"] + found["rest_along"], found["cosine"])
    assert all(value[1:].eq(0).all() for name, value in found.items() if name != "vanished")


@pytest.mark.parametrize("norm", [BatchNorm(mean="stop"), BatchNorm(mean="off"), None])
def test_no_gradient_through_a_mean_no_term(place, norm):
    network, _, _, views = place
    trees = hltm.symmetric_binary(depth=2, members=2, seed=0)
    method = BYOL(projector=Head((5, 4), norm=norm), predictor=Head((5, 4), norm=norm))
    state = method.init(network, TrainContext(trees, seed=2, steps=10, batch=ROWS))
    found = implicit_contrast.directions(network, method, state, Batch(torch.cat(views, 1), ROWS))
    assert (found.term == 0).all()
    assert (found.update != 0).any()


def table(early, ends=None, metric="cosine", **changes):
    """BatchNorm's variants with an update that points early so far along the operator's."""
    found = dict.fromkeys(VARIANTS, FLAT) | dict.fromkeys(AHEAD, (0.2, 0.8))
    names = ("cosine", "cosine_again", "term_along", "rest_along", "term_size", "vanished")
    again = {"cosine": ("cosine", "cosine_again")}.get(metric, (metric,))
    more = [(name, early if name in again else {}) for name in names]
    return made_up("implicit_contrast", found | (ends or {}), more=more, **changes)


@pytest.mark.parametrize(
    ("claim", "metric"), [(0, "cosine"), pytest.param(1, "term_along", marks=pytest.mark.slow)]
)
def test_the_rules(claim, metric):
    right = dict.fromkeys(AHEAD, 0.5)
    found = judge(EXPERIMENT, table(right, metric=metric), claim)
    assert (found.verdict, found.effect_value, found.n) == ("holds", 1.0, 12)
    assert ("with other samples the share is 1.00" in found.reason) == (claim == 0)
    most = dict.fromkeys(("mean", "std", "no part", "mean (stop)"), 0.9)
    for early, changes, verdict, reason in (
        (dict.fromkeys(AHEAD, -0.5), {}, "fails", "behind"),
        (right | {"mean": 0.9}, {}, "holds", "ahead of 6"),  # one of six is ahead
        (right | most, {}, "fails", "behind"),
        ({AHEAD[0]: 0.5, AHEAD[1]: -0.5}, {}, "open", "no order"),
        (right, {"trees": 11}, "open", "11 trees"),
        (right, {"ends": dict.fromkeys(AHEAD, FLAT)}, "open", "not shown to work: mean, std, mean"),
    ):
        found = judge(EXPERIMENT, table(early, metric=metric, **changes), claim)
        assert (found.verdict, reason in found.reason) == (verdict, True), found.reason
    # the other claim reads other numbers
    assert judge(EXPERIMENT, table(right, metric=metric), 1 - claim).verdict == "open"


def test_the_second_rule_is_about_the_term():
    for early, verdict in ((0.5, "holds"), (-0.5, "fails")):
        found = judge(EXPERIMENT, table(dict.fromkeys(AHEAD, early), metric="term_along"), 1)
        assert (found.verdict, found.n) == (verdict, 12)


def test_a_variant_that_was_not_run_and_trees_of_two_seeds():
    right = table(dict.fromkeys(AHEAD, 0.5), trees=24)
    found = judge(EXPERIMENT, right[right["variant"] != AHEAD[0]])
    assert (found.verdict, found.reason) == ("open", f"not run: {AHEAD[0]}")
    pooled = judge(EXPERIMENT, seeded(right, (2, 3)))
    assert (pooled.verdict, pooled.n) == ("holds", 24)
    assert all(claim.plateau is None for claim in EXPERIMENT.claims)


def test_seeds_that_did_not_choose_the_rule_decide():
    found = grids.cells(EXPERIMENT, "default", {})
    assert {settings.seed for settings in found} == {2, 3}
    steps = log_spaced(found[0].steps, found[0].snapshots)
    assert implicit_contrast.EARLY in steps


@pytest.mark.slow
def test_a_small_run(tmp_path, monkeypatch):
    monkeypatch.setattr(implicit_contrast, "SAMPLES", 64)
    with blank_figures("implicit_contrast"):
        run = dualnets.run("implicit_contrast", scale="smoke", out=tmp_path, workers=1, **TINY)
    assert [verdict.verdict for verdict in run.verdicts] == ["open", "open"]
    seen = run.table[run.table["node"] == "network"].pivot_table(
        index=["variant", "member", "step"], columns="metric", values="value"
    )
    assert np.allclose(seen["term_along"] + seen["rest_along"], seen["cosine"], atol=1e-12)
    assert (seen["cosine"].abs() <= 1 + 1e-12).all()
    assert (seen["cosine_again"] != seen["cosine"]).any()
    sizes = seen["term_size"].groupby("variant").max()
    assert {name for name, size in sizes.items() if size > 0} == {"mean", *AHEAD}
    assert len(implicit_contrast.summary_table(run.table)) == 8
    cosine, term = EXPERIMENT.plot(run.table).axes[:2]
    assert cosine.get_ylabel() == "cosine"
    assert term.get_ylabel() == "projection of the term, over |update|"  # it may be above 1
    assert len(term.get_lines()) == 3 + 1  # of variants with a term, and the axis


def test_only_byol_has_it():
    settings = implicit_contrast.Settings(method="simsiam")
    with pytest.raises(ValueError, match="about method byol, got 'simsiam'"):
        implicit_contrast.run_cell(settings, torch.device("cpu"), None)
