"""Lucky units: the laws against brute force and samples, the exact moments against the network."""

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets.theory import drawn_correlations, drawn_selectivities, latent_inputs, simulated_best
from dualnets.theory.hierarchy.lucky import (
    HalfNormal,
    best_cdf,
    chance,
    mean_best,
    sampled_law,
    uniform_sum,
    units_needed,
)


def trees_and_network(**changes):
    trees = hltm.symmetric_binary(depth=3, polarity=(0.6, 1.0), members=3, seed=0)
    return trees, dualnets.tree_network(trees, units=4, seed=1, dtype=torch.float64, **changes)


@pytest.mark.parametrize(
    "terms", [[0.4], [0.3, 1.0], [0.5, 0.5], [1, 0.5, 0.2], [0.5, 0.4, 0.3, 0.2, 0.1, 0.01]]
)
def test_a_sum_of_uniform_numbers_has_its_exact_law(terms):
    law = uniform_sum([*terms, 0.0])
    draws = np.abs((np.random.default_rng(0).uniform(-1, 1, (200_000, len(terms))) * terms).sum(1))
    places = np.linspace(0.02, 0.98, 9) * law.largest
    measured = np.array([(draws <= t).mean() for t in places])
    assert np.abs(law.cdf(places) - measured).max() < 4 * 0.5 / 200_000**0.5
    assert law.cdf(law.largest) == 1
    assert law.cdf(-1.0) == pytest.approx(0)
    wrong = uniform_sum(np.array(terms) * 1.05)
    assert np.abs(wrong.cdf(places) - measured).max() > 4 * 0.5 / 200_000**0.5


def test_the_series_equals_the_closed_form():
    """Inclusion and exclusion over the corners of the cube, for three terms."""
    a = np.array([1.0, 0.5, 0.3])
    corners = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1)

    def below(t):  # P(sum <= t)
        powers = np.clip(t + a @ corners, 0, None) ** 3 * corners.prod(0)
        return powers.sum() / (8 * 6 * a.prod())

    for t in (0.1, 0.6, 1.2, 1.7):
        assert float(uniform_sum(a).cdf(t)) == pytest.approx(below(t) - below(-t), abs=1e-9)


def test_the_best_of_n():
    law = uniform_sum([1.0])  # best of n uniform numbers: t^n, mean n / (n + 1)
    assert float(best_cdf(law, 5, 0.7)) == pytest.approx(0.7**5)
    assert mean_best(law, 5) == pytest.approx(5 / 6, abs=1e-9)
    draws = np.abs(np.random.default_rng(0).standard_normal((100_000, 10)))
    best = draws.max(1)
    assert mean_best(HalfNormal(1.0), 10) == pytest.approx(best.mean(), abs=4 * best.std() / 316)
    assert (2 * np.log(10)) ** 0.5 / mean_best(HalfNormal(1.0), 10) == pytest.approx(
        1.14, abs=0.005
    )
    assert mean_best(sampled_law(draws), 10) == pytest.approx(
        mean_best(HalfNormal(1.0), 10), abs=0.01
    )


def test_units_needed_is_the_smallest_number():
    laws = [uniform_sum([1.0, 0.3]), HalfNormal(0.5), HalfNormal(0.8)]
    n = units_needed(laws, threshold=0.9, chance_of_all=0.95)
    assert chance(laws, n, 0.9) >= 0.95 > chance(laws, n - 1, 0.9)
    draws = [
        np.abs(np.random.default_rng(0).uniform(-1, 1, (20_000, n, 2)) @ [1.0, 0.3]),
        *(np.abs(np.random.default_rng(1).standard_normal((20_000, n))) * s for s in (0.5, 0.8)),
    ]
    measured = np.prod([(d.max(1) > 0.9) for d in draws], axis=0).mean()
    assert measured == pytest.approx(chance(laws, n, 0.9), abs=4 * 0.22 / 20_000**0.5)
    assert units_needed([uniform_sum([0.5])], threshold=0.6, chance_of_all=0.5) is None


@pytest.mark.parametrize("bias", [False, True])
def test_moments_of_inputs_are_those_of_every_leaf_state(bias):
    trees, network = trees_and_network(bias=bias)
    found = latent_inputs(network, trees)
    joint = trees.joint()
    shown = network.activations(joint.states[:, list(trees.leaves)].expand(3, -1, -1))
    p = joint.probability[..., None]
    for level, inputs in found.items():
        weight = network.weights[level - 1].detach()
        selectivity = (weight @ inputs.difference[..., None])[..., 0]
        variance = (weight @ inputs.covariance * weight).sum(-1)
        for i, v in enumerate(trees.level(level)):
            values = shown[level].detach()[:, :, i]
            on = joint.states[:, v, None].double()
            means = [(p * values * m).sum(1) / (p * m).sum(1) for m in (on, 1 - on)]
            assert (selectivity[:, i] - (means[0] - means[1]) / 2).abs().max() < 1e-13
            mean = (p * values).sum(1, keepdim=True)
            assert (variance[:, i] - (p * (values - mean).square()).sum(1)).abs().max() < 1e-13


def test_the_law_of_a_fresh_layer():
    """F^n given the layers below: a Kolmogorov test over 400 redrawn layers; the wrong n fails."""
    trees, network = trees_and_network()
    inputs = latent_inputs(network, trees)[2]
    law = inputs.law(1, 0)
    rng = np.random.default_rng(0)
    fresh = rng.uniform(-inputs.bound, inputs.bound, (400, 6, inputs.difference.shape[2]))
    best = np.sort(np.abs(fresh @ inputs.difference[1, 0].numpy()).max(1))
    place = (np.arange(400) + 0.5) / 400
    gap = [np.abs(best_cdf(law, n, best) - place).max() for n in (5, 6)]
    assert gap[1] < 1.95 / 20  # p = 0.001
    assert gap[0] > 0.03


@pytest.mark.parametrize("level", [1, 3, pytest.param(2, marks=pytest.mark.slow)])
def test_the_simulated_best_is_what_order_statistics_predict(level):
    """Mean and law of the best of n, latent by latent; the wrong n and the wrong inputs are noticed."""
    trees, network = trees_and_network()
    inputs = latent_inputs(network, trees)[level]
    draws, n = 8000, 6
    best = simulated_best(inputs, units=n, draws=draws, seed=7, members=trees.members)
    latents = inputs.difference.shape[1]
    assert best.shape == (3, latents, draws)
    few = slice(4, None, 8)  # places at which distribution functions are compared
    place = ((np.arange(draws) + 0.5) / draws)[few]
    for member in range(3):
        for v in range(latents):
            law, found = inputs.law(member, v), best[member, v].numpy()
            error = found.std() / draws**0.5
            assert abs(found.mean() - mean_best(law, n)) < 4.5 * error
            assert abs(found.mean() - mean_best(law, n - 1)) > 4.5 * error
            single = law.cdf(np.sort(found)[few])
            assert np.abs(single**n - place).max() < 2.2 / draws**0.5  # p = 1e-3 over all latents
            assert np.abs(single ** (n - 1) - place).max() > 2.2 / draws**0.5
    other = latent_inputs(dualnets.tree_network(trees, units=4, seed=2, dtype=torch.float64), trees)
    if level > 1:  # the inputs of units depend on the layers below
        found = best[0, 0]
        error = found.std() / draws**0.5
        assert abs(found.mean() - mean_best(other[level].law(0, 0), n)) > 4.5 * error


def test_simulated_units_are_addressed_and_are_those_of_the_correlations():
    trees, network = trees_and_network()
    inputs = latent_inputs(network, trees)[2]
    common = {"units": 4, "draws": 20, "seed": 3}
    drawn = drawn_selectivities(inputs, **common, members=trees.members)
    assert drawn.shape == (3, 2, 20, 4)
    assert simulated_best(inputs, **common, members=trees.members).equal(drawn.amax(-1))
    alone = inputs._replace(**{
        name: getattr(inputs, name)[1:2] for name in ("difference", "covariance", "prior")
    })  # fmt: skip
    assert drawn_selectivities(alone, **common, members=[1]).allclose(drawn[1:2], rtol=1e-12)
    other = drawn_selectivities(alone, **{**common, "seed": 4}, members=[1])
    assert (other - drawn[1:2]).abs().mean() > 0.01
    flat = inputs._replace(covariance=torch.eye(8, dtype=torch.float64).expand(3, 2, 8, 8))
    correlation = drawn_correlations(flat, **common, members=trees.members)
    assert (correlation > 0).all()  # the same units: |s| and |corr| differ by a positive factor
    assert drawn.max() <= inputs.bound * inputs.difference.abs().sum(-1).max()


def test_drawn_correlations_are_bounded_by_the_ceiling_and_scale_free():
    trees, network = trees_and_network()
    inputs = latent_inputs(network, trees)[3]
    drawn = drawn_correlations(inputs, units=5, draws=50, seed=0, members=trees.members)
    assert drawn.shape == (3, 1, 50, 5)
    assert (drawn <= trees.ceiling(trees.root).value.view(3, 1, 1, 1) + 1e-9).all()
    larger = inputs._replace(
        bound=10.0, difference=10 * inputs.difference, covariance=100 * inputs.covariance
    )
    again = drawn_correlations(larger, units=5, draws=50, seed=0, members=trees.members)
    assert torch.allclose(drawn, again)


def test_errors():
    trees, network = trees_and_network()
    with pytest.raises(ValueError, match="scale must be above 0 and finite, got -1"):
        HalfNormal(-1)
    for call in (
        lambda: units_needed([HalfNormal(1.0)], threshold=np.nan, chance_of_all=0.9),
        lambda: chance([sampled_law([1.0])], 3, np.nan),
    ):
        with pytest.raises(ValueError, match="threshold must be a number, got nan"):
            call()
    with pytest.raises(ValueError, match="a score must be a number, got nan"):
        best_cdf(HalfNormal(1.0), 3, np.nan)
    with pytest.raises(TypeError, match=r"units must be a whole number, got 2\.5"):
        mean_best(HalfNormal(1.0), 2.5)
    with pytest.raises(TypeError, match=r"expected a block network of this library, .* got Linear"):
        latent_inputs(torch.nn.Linear(3, 2), trees)
    with pytest.raises(TypeError, match="expected trees, got str"):
        latent_inputs(network, "trees")
    with pytest.raises(ValueError, match="2 trees do not fit a network of 3 members"):
        latent_inputs(network, trees[:2])
    with pytest.raises(
        ValueError, match="tree 0 has address 1, the network's member 0 has address 0"
    ):
        latent_inputs(dualnets.tree_network(trees[:2], units=4, seed=1), trees[1:])
    wide = hltm.symmetric_binary(depth=3, branching=3, members=3, seed=0)
    with pytest.raises(ValueError, match="trees have 27 leaves, the network reads 8"):
        latent_inputs(network, wide)
    inputs = latent_inputs(network, trees)[1]
    for drawn in (drawn_correlations, drawn_selectivities, simulated_best):
        with pytest.raises(ValueError, match="2 members are given, the inputs are of 3"):
            drawn(inputs, units=2, draws=3, seed=0, members=[0, 1])
        with pytest.raises(ValueError, match="units and draws must be at least 1, got 2 and 0"):
            drawn(inputs, units=2, draws=0, seed=0, members=trees.members)
    network.weights[0].data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"weights\.0 of the network must be finite"):
        latent_inputs(network, trees)
    with pytest.raises(ValueError, match="block of units per latent"):
        latent_inputs(dualnets.mlp(trees, units=4, seed=0), trees)
    with pytest.raises(ValueError, match="a probability in"):
        units_needed([HalfNormal(1.0)], threshold=1.0, chance_of_all=1.0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        mean_best(HalfNormal(1.0), 0)
    with pytest.raises(ValueError, match="one list"):
        uniform_sum([[1.0]])
