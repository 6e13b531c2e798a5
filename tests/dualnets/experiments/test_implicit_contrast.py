"""The implicit contrastive term: its directions against plain ones, its rule, its figure."""

import numpy as np
import pytest
import torch
from judging import judge
from made_up_variants import FLAT, TINY, few_resamples, made_up
from tiny_runs import blank_figures

import dualnets
import hltm
from dualnets.experiments import load
from dualnets.experiments.byol import _implicit_contrast as implicit_contrast
from dualnets.experiments.byol.byol_batchnorm import VARIANTS
from dualnets.methods.byol import BYOL
from dualnets.methods.protocol import Batch, TrainContext
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm
from dualnets.theory.byol.batch_mean import batch_covariance, mean_parts
from hltm.probe.metrics.collapse import Collapse

__all__ = ["few_resamples"]  # a fixture
EXPERIMENT = load("implicit_contrast")
WORKING = ("mean, std", "mean, std (stop)")
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
    halves = [
        batch_covariance(outputs, own, views[a][at], outputs(own, views[b][at]).detach())
        for a, b in ((0, 1), (1, 0))
    ]
    both = sum(flat(half, network) for half in halves) / 2
    assert torch.allclose(found.operator[at], both, atol=1e-12)


def test_a_step_along_the_growth_of_spread_spreads(place):
    network, method, state, views = place
    leaves = torch.cat(views, 1)
    slope = implicit_contrast.directions(network, method, state, Batch(leaves, ROWS)).spreading

    def spread(step):
        moved, parameters = 0, {}
        for name, parameter in network.named_parameters():
            size = parameter[0].numel()
            change = slope[:, moved : moved + size].view_as(parameter)
            parameters[name], moved = (parameter + step * change).detach(), moved + size
        shown = torch.func.functional_call(network, parameters, (leaves,))
        hidden = method.projector(
            {n[10:]: t for n, t in state.items() if n[:10] == "projector."}, shown
        )
        metric = Collapse()
        metric.update(hidden.detach().transpose(1, 2))
        return metric.result().spread

    grown = (spread(1e-5) - spread(-1e-5)) / 2e-5
    assert torch.allclose(grown, slope.square().sum(1), rtol=1e-6)


@pytest.mark.parametrize("norm", [BatchNorm(mean="stop"), BatchNorm(mean="off"), None])
def test_no_gradient_through_a_mean_no_term(place, norm):
    network, _, _, views = place
    trees = hltm.symmetric_binary(depth=2, members=2, seed=0)
    method = BYOL(projector=Head((5, 4), norm=norm), predictor=Head((5, 4), norm=norm))
    state = method.init(network, TrainContext(trees, seed=2, steps=10, batch=ROWS))
    found = implicit_contrast.directions(network, method, state, Batch(torch.cat(views, 1), ROWS))
    assert (found.term == 0).all()
    assert (found.update != 0).any()


def table(term, ends=None, **changes):
    """BatchNorm's variants with the term early pointing so far along the operator's update."""
    found = dict.fromkeys(VARIANTS, FLAT) | dict.fromkeys(WORKING, (0.2, 0.8))
    names = (
        "term_along",
        "rest_along",
        "update_along",
        "term_size",
        "term_spreading",
        "rest_spreading",
    )
    more = [(name, term if name == "term_along" else {}) for name in names]
    return made_up("implicit_contrast", found | (ends or {}), more=more, **changes)


def test_the_rule():
    right = dict.fromkeys(WORKING, 0.5)
    found = judge(EXPERIMENT, table(right))
    assert (found.verdict, found.effect_value) == ("holds", 1.0)
    for term, changes, verdict, reason in (
        (dict.fromkeys(WORKING, -0.5), {}, "fails", "against the operator's update"),
        ({**right, WORKING[0]: -0.5}, {}, "fails", WORKING[0]),
        (right | {"mean": 0.9}, {}, "holds", "2 variants that work"),  # one of six is ahead
        ({WORKING[0]: 0.5}, {}, "open", "neither"),  # one of the two has no term
        ({**right, **dict.fromkeys(("mean", "std", "no part", "mean (stop)"), 0.9)}, {},
         "fails", "does not order"),
        (right, {"trees": 11}, "open", "11 trees"),
        (right, {"ends": dict.fromkeys(WORKING, FLAT)}, "open", "0 of 8"),
    ):  # fmt: skip
        found = judge(EXPERIMENT, table(term, **changes))
        assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_what_is_not_finite_counts_as_no_term():
    rows = table(dict.fromkeys(WORKING, 0.5))
    rows = rows[rows["variant"] == WORKING[0]].copy()
    rows.loc[(rows["metric"] == "term_along") & (rows["member"] == 0), "value"] = np.nan
    found = implicit_contrast.early(rows, "term_along")
    assert found[0] == 0
    assert (found[1:] > 0.4).all()


def test_a_small_run(tmp_path):
    with blank_figures("implicit_contrast"):
        run = dualnets.run("implicit_contrast", scale="smoke", out=tmp_path, workers=1, **TINY)
    assert run.verdicts[0].verdict == "open"
    seen = run.table[run.table["node"] == "network"].pivot_table(
        index=["variant", "member", "step"], columns="metric", values="value"
    )
    assert np.allclose(seen["term_along"] + seen["rest_along"], seen["update_along"], atol=1e-6)
    assert (seen["update_along"].abs() <= 1 + 1e-6).all()
    sizes = seen["term_size"].groupby("variant").max()
    assert {name for name, size in sizes.items() if size > 0} == {"mean", *WORKING}
    assert len(implicit_contrast.summary_table(run.table)) == 8
    along, spreading = EXPERIMENT.plot(run.table).axes[:2]
    for axes in (along, spreading):
        assert axes.get_ylabel() == "projection of the term, over |update|"  # it may be above 1
        beside = axes.collections[-1]  # lines at 0 would lie on each other
        assert len(beside.get_offsets()) == len({*map(tuple, beside.get_facecolors())}) == 5


def test_only_byol_has_it():
    settings = implicit_contrast.Settings(method="simsiam")
    with pytest.raises(ValueError, match="about method byol, got 'simsiam'"):
        implicit_contrast.run_cell(settings, torch.device("cpu"), None)
