"""Two layers: the population slopes against autograd over every leaf state, and the interventions."""

import pytest
import torch
from scipy.integrate import solve_ivp

import dualnets
import hltm
from dualnets.theory import two_layer
from dualnets.theory.hierarchy.two_layer import INTERVENTIONS, Layers
from hltm.model.enumeration import all_states


def case(branching=2, polarity=(0.5, 0.9), units=4, members=3):
    trees = hltm.symmetric_binary(
        depth=2, branching=branching, polarity=polarity, members=members, seed=0
    )
    network = dualnets.tree_network(trees, units=units, seed=1, dtype=torch.float64)
    return trees, network, two_layer.groups(trees), two_layer.layers(network)


def population_gradients(trees, network):
    """Of E[r_+] - E[r_-], summed over pairs of leaf states, both branches."""
    given_root = trees.leaf_distribution([0])  # (S, 2, X)
    states = all_states(trees.tables.cardinality[list(trees.leaves)])
    outputs = network(states.expand(len(trees), -1, -1))
    prior = trees.tables.of(0)[:, 0, :, None]
    pairs = given_root.transpose(1, 2) @ (prior * given_root)
    q = (prior * given_root).sum(1)
    r = (outputs[:, :, None] - outputs[:, None]).square().sum(-1) / 2
    loss = (pairs * r).sum() - (q[:, :, None] * q[:, None] * r).sum()
    return torch.autograd.grad(loss, list(network.parameters()))


@pytest.mark.parametrize("branching", [2, 3])
def test_slopes_are_the_simple_loss_over_every_leaf_state(branching):
    trees, network, given, weights = case(branching)
    found = two_layer.slopes(given, weights)
    lower, upper = population_gradients(trees, network)
    assert (found.lower + lower).abs().max() < 1e-14
    assert (found.upper + upper[:, 0]).abs().max() < 1e-14
    for other in ("uncoupled", "frozen", "constant"):
        changed = two_layer.slopes(given, weights, other)
        wrong = max((changed.lower + lower).abs().max(), (changed.upper + upper[:, 0]).abs().max())
        assert wrong > 1e-3


def test_the_top_operator_is_o_o_transposed():
    """V = o oᵀ, o_j = ρ s_j, for a uniform binary root (docs/theory.md, Section 4)."""
    trees, _, given, weights = case()
    s = two_layer.hidden_selectivity(given, weights).selectivity
    o = (trees.polarity[:, list(trees.level(1)), None] * s).flatten(1)
    upper = two_layer.slopes(given, weights).upper
    assert torch.allclose(upper, 2 * weights.upper @ (o[:, :, None] * o[:, None]), atol=1e-14)


def test_uncoupled_groups_do_not_see_each_other():
    _, _, given, weights = case()
    changed = Layers(weights.lower.clone(), weights.upper)
    changed.lower[:, 1] *= -0.7
    for intervention, same in (("uncoupled", True), ("full", False)):
        before, after = (two_layer.slopes(given, w, intervention) for w in (weights, changed))
        equal = torch.allclose(before.lower[:, 0], after.lower[:, 0], atol=1e-14)
        assert equal == same
        units = weights.lower.shape[2]
        assert torch.allclose(before.upper[..., :units], after.upper[..., :units]) == same


def test_norms_under_interventions():
    _, _, given, weights = case()
    before = weights.upper.flatten(1).norm(dim=1)
    for intervention in INTERVENTIONS:
        path = two_layer.integrate(given, weights, [0.0, 0.5, 1.0], intervention=intervention)
        norm = two_layer.hidden_selectivity(given, path).upper_norm
        assert torch.allclose(norm[0], before)
        if intervention == "frozen":
            assert path.upper[2].equal(weights.upper)
        elif intervention == "constant":
            assert torch.allclose(norm[2], before, rtol=1e-6)
            assert not torch.allclose(path.upper[2], weights.upper, rtol=1e-3)
        else:
            assert (norm[2] > 1.01 * before).all()


def test_integration_follows_scipys():
    _, _, given, weights = case(members=1)
    sizes = [weights.lower.numel(), weights.upper.numel()]

    def slope(_, flat):
        parts = torch.tensor(flat).split(sizes)
        now = Layers(parts[0].view_as(weights.lower), parts[1].view_as(weights.upper))
        return torch.cat([part.flatten() for part in two_layer.slopes(given, now)]).numpy()

    flat = torch.cat([part.flatten() for part in weights]).numpy()
    solved = solve_ivp(slope, (0, 1.0), flat, rtol=1e-8, atol=1e-10)
    path = two_layer.integrate(given, weights, [0.0, 1.0], step=0.002)
    found = torch.cat([part[1].flatten() for part in path])
    assert (found - torch.tensor(solved.y[:, -1])).abs().max() < 2e-4


def test_times_of_members_and_of_growth():
    _, _, given, weights = case()
    time = two_layer.time_to_grow(given, weights, 1.5)
    path = two_layer.integrate(given, weights, torch.stack([0 * time, time]))
    norm = two_layer.hidden_selectivity(given, path).upper_norm
    assert torch.allclose(norm[1] / norm[0], torch.tensor(1.5).double(), rtol=1e-3)
    one = two_layer.Groups(given.states, *(part[1:2] for part in given[1:]))
    alone = two_layer.integrate(
        one, Layers(*(part[1:2] for part in weights)), [0.0, float(time[1])]
    )
    assert torch.allclose(alone.upper[1, 0], path.upper[1, 1], atol=1e-12)


def test_hidden_selectivity_is_that_of_samples():
    trees, network, given, weights = case(units=3)
    draw = trees.sample(200_000, seed=5)
    hidden = network.activations(draw.leaves)[1].detach().relu()
    z = draw.level(1).double()[..., None]
    on, off = ((hidden * m).sum(1) / m.sum(1) for m in (z, 1 - z))
    found = two_layer.hidden_selectivity(given, weights)
    assert torch.allclose(found.selectivity, (on - off) / 2, atol=4e-3)
    centred = hidden - hidden.mean(1, keepdim=True)
    joint = (centred * (z - z.mean(1, keepdim=True))).mean(1)
    scale = centred.square().mean(1).sqrt() * z.std(1)
    alive = scale > 1e-9
    assert torch.allclose(found.correlation[alive], (joint / scale)[alive], atol=0.01)


@pytest.mark.slow
def test_errors():
    trees, _, given, weights = case()
    with pytest.raises(ValueError, match="two layers need"):
        two_layer.groups(hltm.symmetric_binary(depth=3, seed=0))
    with pytest.raises(ValueError, match="without biases"):
        two_layer.layers(dualnets.tree_network(trees, units=2, seed=0, bias=True))
    with pytest.raises(ValueError, match="intervention must be one of"):
        two_layer.slopes(given, weights, "half")
    with pytest.raises(ArithmeticError, match="beyond all bounds"):
        two_layer.integrate(given, weights, [0.0, 1000.0])


def test_weights_of_zero_stay_and_are_no_nan():
    trees, network, *_ = case()
    given, start = two_layer.groups(trees), two_layer.layers(network)
    still = start.upper.clone()
    still[1] = 0
    for intervention in two_layer.INTERVENTIONS:
        path = two_layer.integrate(
            given, start._replace(upper=still), [0.0, 0.3], intervention=intervention
        )
        assert path.upper[1, 1].equal(still[1])
        assert path.lower[1, 1].equal(start.lower[1])
        alone = two_layer.integrate(given, start, [0.0, 0.3], intervention=intervention)
        for member in (0, 2):
            assert torch.allclose(path.lower[1, member], alone.lower[1, member], rtol=1e-12)
    with pytest.raises(ValueError, match=r"W_2\|\| of member 1 is 0 and stays 0"):
        two_layer.time_to_grow(given, start._replace(upper=still), 2.0)
    dead = start.lower.clone()
    dead[:, 0, 1] = 0
    found = two_layer.hidden_selectivity(given, start._replace(lower=dead))
    assert all(part.isfinite().all() for part in found)
    assert (found.per_norm[:, 0, 1] == 0).all()


def test_what_does_not_fit_or_is_not_finite_is_refused():
    trees, network, *_ = case()
    given, start = two_layer.groups(trees), two_layer.layers(network)
    lost = start._replace(lower=start.lower * torch.nan)
    for call in (
        lambda weights: two_layer.integrate(given, weights, [0.0, 1.0]),
        lambda weights: two_layer.slopes(given, weights),
        lambda weights: two_layer.time_to_grow(given, weights, 2.0),
        lambda weights: two_layer.hidden_selectivity(given, weights),
    ):
        with pytest.raises(ValueError, match="lower weights must be finite, "):
            call(lost)
        with pytest.raises(
            ValueError, match=r"weights have shapes .* expected \(\.\.\., S, 2, U, 2\)"
        ):
            call(two_layer.Layers(start.lower[:, :1], start.upper))
        with pytest.raises(ValueError, match="weights have shapes"):
            call(two_layer.Layers(start.lower[:2], start.upper[:2]))
    for times, words in (
        ([], "at least one number"),
        ([0.0, float("nan")], "times must be finite, got nan"),
        ([1.0, 1.0], r"times must increase, got 1\.0 and then 1\.0"),
        ([[0.0, 0.0], [1.0, 2.0]], "times of 2 members do not fit weights of 3"),
    ):
        with pytest.raises(ValueError, match=words):
            two_layer.integrate(given, start, times)
    with pytest.raises(TypeError, match="expected trees, got str"):
        two_layer.groups("tree")
    for step in (float("nan"), float("inf"), 0.0):
        with pytest.raises(ValueError, match="step must be above 0 and finite"):
            two_layer.integrate(given, start, [0.0, 1.0], step=step)
    with pytest.raises(ValueError, match="factor must be finite and above 1"):
        two_layer.time_to_grow(given, start, float("inf"))
    for other in (
        dualnets.mlp(trees, units=4, layers=2, seed=0),
        dualnets.conv_tree(trees, units=4, seed=0),
    ):
        with pytest.raises(ValueError, match="expected two layers, one group of units per latent"):
            two_layer.layers(other)
    with pytest.raises(TypeError, match=r"expected a block network .* got Linear"):
        two_layer.layers(torch.nn.Linear(3, 2))
