"""Noise: the denoiser equals enumeration, draws have their exact distributions, broken ones do not."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import all_leaves, irregular_tree
from scipy import stats

import hltm
from hltm.inference import change

MASKING, FLIPS, GAUSSIAN, SIGNS = PROCESSES = (
    hltm.Masking(), hltm.Flips(), hltm.Gaussian(), hltm.Gaussian(signs=True),
)  # fmt: skip
IDS = ["masking", "flips", "gaussian", "signs"]


def leaf_probability(tree):
    """`(N,)` P(leaves) of `all_leaves`, by adding up the joint."""
    states, probability = tree.joint()
    sizes = tree.tables.cardinality[list(tree.leaves)]
    number = np.ravel_multi_index(list(states[:, list(tree.leaves)].numpy().T), sizes)
    return np.bincount(number, weights=probability.numpy(), minlength=sizes.prod())


def density(noise, level, noisy, clean, states):
    """`(N,)` P(noisy | clean) of one row and N rows, up to a factor; leaf by leaf, from the definition."""
    found = np.ones(len(clean))
    for i, k in enumerate(states):
        own = clean[:, i]
        if noise is MASKING:
            found *= level if noisy[i] < 0 else (1 - level) * (own == noisy[i])
        elif noise is FLIPS:
            found *= level / k + (1 - level) * (own == noisy[i])
        else:
            x = 2.0 * own - 1 if noise is SIGNS else np.eye(k)[own]
            seen = noisy[i] if noise is SIGNS else noisy[i][:k]
            distance = (seen - np.sqrt(1 - level) * x) ** 2
            found *= np.exp(-(distance if noise is SIGNS else distance.sum(-1)) / (2 * level))
    return found


def small_tree(noise, seed, nodes=7, **options):
    return irregular_tree(seed, nodes=nodes, max_states=2 if noise is SIGNS else 3, **options)


@settings(max_examples=12)
@given(
    noise=st.sampled_from(PROCESSES), seed=st.integers(0, 10**6), nodes=st.integers(2, 7),
    zeros=st.sampled_from([0.0, 0.3]), level=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)  # fmt: skip
def test_the_denoiser_is_the_posterior_by_enumeration(noise, seed, nodes, zeros, level):
    tree = small_tree(noise, seed, nodes, zeros=zeros)
    clean, prior = all_leaves(tree).numpy(), leaf_probability(tree)
    states = tree.tables.cardinality[list(tree.leaves)]
    noisy = tree.corrupt(tree.sample(3, seed=seed).leaves, noise, level, seed=seed)
    found = tree.denoise(noisy, noise, level)
    assert found.dtype == torch.float64
    for row, marginals in zip(noisy.numpy(), found.numpy(), strict=True):
        weight = prior * density(noise, level, row, clean, states)
        for i in range(len(states)):
            expected = np.bincount(clean[:, i], weights=weight, minlength=found.shape[-1])
            np.testing.assert_allclose(marginals[i], expected / weight.sum(), atol=1e-10)


@pytest.mark.parametrize("noise", PROCESSES, ids=IDS)
def test_no_noise_is_hard_evidence_and_full_noise_none(noise):
    trees = small_tree(noise, 3, members=2)
    leaves = trees.sample(5, seed=1).leaves.long()
    states = int(trees.tables.cardinality[list(trees.leaves)].max())
    hard = torch.nn.functional.one_hot(leaves, states).double()
    none = trees.corrupt(leaves, noise, 0.0, seed=2)
    torch.testing.assert_close(trees.denoise(none, noise, 0.0), hard, atol=1e-12, rtol=0)
    nearly = trees.denoise(trees.corrupt(leaves, noise, 1e-9, seed=2), noise, 1e-9)
    torch.testing.assert_close(nearly, hard, atol=1e-6, rtol=0)
    prior = trees.posterior({}, nodes=trees.leaves).marginals
    full = trees.denoise(trees.corrupt(leaves, noise, 1.0, seed=2), noise, 1.0)
    torch.testing.assert_close(full, prior.expand_as(full), atol=1e-12, rtol=0)


@pytest.mark.parametrize("noise", [GAUSSIAN, SIGNS], ids=IDS[2:])
def test_numbers_that_overflow_tell_states_apart_all_the_same(noise):
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    leaves = tree.sample(5, seed=1).leaves
    hard = torch.nn.functional.one_hot(leaves.long(), 2).double()
    clean = tree.corrupt(leaves, noise, 0.0, seed=2)
    for scale, level in ((1.0, 1e-310), (1.0, 5e-324), (1e308, 0.5), (1e308, 1e-3)):
        torch.testing.assert_close(tree.denoise(scale * clean, noise, level), hard)
    prior = tree.posterior({}, nodes=tree.leaves).marginals.expand(5, -1, -1)
    torch.testing.assert_close(tree.denoise(1e308 * clean, noise, 1.0), prior)
    both = torch.zeros_like(clean)  # says nothing, at any level
    torch.testing.assert_close(tree.denoise(both, noise, 1e-310), prior)


def test_no_rows_are_no_error():
    tree = hltm.symmetric_binary(depth=2, seed=0)
    none = torch.zeros(0, 4, dtype=torch.int64)
    for noise in PROCESSES:
        noisy = tree.corrupt(none, noise, 0.5, seed=0)
        assert tree.denoise(noisy, noise, 0.5).shape == (0, 4, 2)
        assert tree.sample_back(noisy, noise, (0.5, 0), seed=0)[0].shape == (0, 4)


@pytest.mark.parametrize("noise", PROCESSES, ids=IDS)
def test_noise_is_a_function_of_the_address(noise):
    trees = small_tree(noise, 3, members=3)
    leaves = trees.sample(20, seed=1).leaves
    whole = trees.corrupt(leaves, noise, 0.5, seed=2)
    parts = [
        trees.corrupt(leaves[:, low:high], noise, 0.5, seed=2, start=low)
        for low, high in ((0, 7), (7, 20))
    ]
    assert torch.cat(parts, 1).equal(whole)
    assert trees[1].corrupt(leaves[1], noise, 0.5, seed=2).equal(whole[1])
    assert not trees.corrupt(leaves, noise, 0.5, seed=3).equal(whole)
    back = trees.sample_back(whole, noise, (0.5, 0.2, 0), seed=4)
    parts = [
        trees.sample_back(whole[:, low:high], noise, (0.5, 0.2, 0), seed=4, start=low)
        for low, high in ((0, 7), (7, 20))
    ]
    for i in range(2):
        assert torch.cat([part[i] for part in parts], 1).equal(back[i])
    assert back[0].shape == whole.shape
    assert back[1].dtype == torch.int64


def test_what_noise_does_to_a_leaf_has_the_distribution_of_its_definition():
    tree = hltm.LatentTree.from_parents(
        {"root": None, "a": "root", "b": "root"},
        {"root": [0.5, 0.5], "a": np.eye(3)[[0, 0]], "b": np.eye(2)[[1, 1]]},
    )
    leaves = tree.sample(20_000, seed=0).leaves  # always 0 and 1
    seen = tree.corrupt(leaves, FLIPS, 0.3, seed=1).numpy()
    counts = np.bincount(seen[:, 0], minlength=3)
    assert stats.chisquare(counts, 20_000 * np.array([0.8, 0.1, 0.1])).pvalue > 1e-3
    assert stats.chisquare(counts, 20_000 * np.array([0.7, 0.15, 0.15])).pvalue < 1e-6
    assert abs(np.mean(seen[:, 1] == 1) - 0.85) < 0.01
    assert abs(np.corrcoef(seen[:, 0] == 0, seen[:, 1] == 1)[0, 1]) < 0.03
    missing = tree.corrupt(leaves, MASKING, 0.3, seed=1).numpy() < 0
    assert np.abs(missing.mean(0) - 0.3).max() < 0.011
    assert abs(np.corrcoef(missing.T)[0, 1]) < 0.03
    numbers = tree.corrupt(leaves, GAUSSIAN, 0.36, seed=1).numpy()
    assert (numbers[:, 1, 2] == 0).all()  # leaf b has two states
    noise = np.concatenate([numbers[:, 0] - [0.8, 0, 0], numbers[:, 1, :2] - [0, 0.8]], 1) / 0.6
    for column in noise.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise.T) - np.eye(5)).max() < 0.03


def law(tree, noise, row, level, to):
    """`(N,)` P(x_s | x_t = row) of all rows x_s, with states -1 before 0, by enumeration over x_0."""
    clean, prior = all_leaves(tree).numpy(), leaf_probability(tree)
    states = tree.tables.cardinality[list(tree.leaves)]
    low = -1 if noise is MASKING else 0
    rows = np.array(list(itertools.product(*[range(low, k) for k in states])))
    step = (level - to) / (1 - to)
    onward = np.array(
        [density(noise, step, row, np.maximum(seen, 0)[None], states)[0] for seen in rows]
    )
    if noise is MASKING:  # a missing leaf stays so
        stays = (rows >= 0) | (np.asarray(row) < 0)
        scale = np.where((rows < 0) & (np.asarray(row) < 0), 1 / step, 1).prod(1)
        onward = onward * stays.all(1) * scale
    given_clean = np.array([density(noise, to, seen, clean, states) for seen in rows])
    weight = (given_clean @ prior) * onward
    return rows, weight / weight.sum()


def p_value(drawn, rows, probability):
    """Of the counts of rows drawn, by the chi-squared test; rare rows are taken together."""
    number = {tuple(row): i for i, row in enumerate(rows.tolist())}
    counts = np.bincount([number[tuple(row)] for row in drawn.tolist()], minlength=len(rows))
    expected = probability * len(drawn)
    rare = expected < 10
    if counts[probability == 0].any():
        return 0.0
    cells = [*counts[~rare]], [*expected[~rare]]
    if expected[rare].sum() > 1:
        cells = [*cells[0], counts[rare].sum()], [*cells[1], expected[rare].sum()]
    return stats.chisquare(cells[0], np.array(cells[1]) * len(drawn) / sum(cells[1])).pvalue


@pytest.mark.parametrize("noise", [MASKING, FLIPS], ids=IDS[:2])
def test_the_reverse_process_has_its_exact_distribution(noise):
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, signs="positive", seed=0)
    row = [0, -1, -1, 1] if noise is MASKING else [0, 0, 1, 0]
    levels = (0.8, 0.5, 0.25, 0.0)
    found = tree.sample_back([row] * 10_000, noise, levels, seed=1)
    for to, drawn in zip(levels[1:], found, strict=True):
        assert p_value(drawn, *law(tree, noise, row, levels[0], to)) > 1e-3
    # one step is as good as three; another tree, another level or one row's draws for the next are not
    (once,) = tree.sample_back([row] * 10_000, noise, (0.8, 0), seed=2)
    exact = law(tree, noise, row, 0.8, 0.0)
    assert p_value(once, *exact) > 1e-3
    broken = tree.filtered(0).sample_back([row] * 10_000, noise, levels, seed=1)
    assert p_value(broken[-1], *exact) < 1e-6
    if noise is FLIPS:
        broken = tree.sample_back([row] * 10_000, noise, (0.6, 0.3, 0), seed=1)
        assert p_value(broken[-1], *exact) < 1e-6
    reused = tree.sample_back([row] * 10_000, noise, (0.8, 0.5), seed=1)[0]
    broken = tree.sample_back(reused, noise, (0.5, 0.25), seed=1)[
        0
    ]  # the same random numbers again
    assert p_value(broken, *law(tree, noise, row, 0.8, 0.25)) < 1e-6


@pytest.mark.parametrize("noise", [GAUSSIAN, SIGNS], ids=IDS[2:])
def test_gaussian_noise_taken_back_is_gaussian_noise_of_a_lower_level(noise):
    """x_t drawn from data and taken back to s has the moments of x_s, jointly with x_t."""
    tree = hltm.symmetric_binary(depth=1, polarity=0.9, signs="positive", seed=0)
    n, t, s = 40_000, 0.6, 0.3
    noisy = tree.corrupt(tree.sample(n, seed=0).leaves, noise, t, seed=1)
    middle, clean = tree.sample_back(noisy, noise, (t, s, 0), seed=2)
    direct = tree.corrupt(tree.sample(n, seed=3).leaves, noise, s, seed=4)
    for a, b in zip(middle.reshape(n, -1).T, direct.reshape(n, -1).T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    x, y = (part.reshape(n, -1).numpy() for part in (middle, noisy))
    step = (t - s) / (1 - s)
    residual = y - np.sqrt(1 - step) * x  # noise of the step: independent of x_s, of variance r
    both = np.cov(np.concatenate([residual, x], 1).T)
    free = residual.shape[1]
    assert np.abs(both[:free, :free] - step * np.eye(free)).max() < 0.015
    assert np.abs(both[:free, free:]).max() < 0.015
    exact = leaf_probability(tree)
    counts = np.bincount(2 * clean[:, 0] + clean[:, 1], minlength=4)
    assert stats.chisquare(counts, n * exact).pvalue > 1e-3
    broken = tree.sample_back(noisy, noise, (0.3, 0.1), seed=2)[0].reshape(n, -1)
    direct = tree.corrupt(tree.sample(n, seed=3).leaves, noise, 0.1, seed=4).reshape(n, -1)
    assert stats.ks_2samp(broken[:, 0], direct[:, 0]).pvalue < 1e-6


def test_gaussian_losses_are_within_their_errors_of_the_integral():
    """Of one binary leaf, E[H(p)] is an integral over one number."""
    tree = hltm.LatentTree.from_parents({"r": None, "x": "r"}, {"r": [0.3, 0.7], "x": np.eye(2)})
    level = 0.5
    at = np.linspace(-8, 8, 20_001)
    parts = [
        p * stats.norm.pdf(at, z * (1 - level) ** 0.5, level**0.5) for z, p in ((-1, 0.3), (1, 0.7))
    ]
    given_x = np.clip(parts[0] / sum(parts), 1e-300, 1 - 1e-16)
    entropy = -given_x * np.log(given_x) - (1 - given_x) * np.log1p(-given_x)
    exact = np.trapezoid(entropy * sum(parts), at)
    for noise, same in ((SIGNS, level), (GAUSSIAN, 2 / 3)):  # √2 between states instead of 2
        found = tree.bayes_loss(
            noise=noise, level=same if noise is SIGNS else 1 / 3, samples=20_000
        )
        assert abs(float(found.value) - exact) < 3.3 * float(found.standard_error)
        assert 0 < float(found.standard_error) < 0.01


# how leaves change together


def slow_changes(tree, noise, level):
    """Covariances and means of the changes by a sum over x_0, x_t and x'."""
    clean, prior = all_leaves(tree).numpy(), leaf_probability(tree)
    states = tree.tables.cardinality[list(tree.leaves)]
    low = -1 if noise is MASKING else 0
    mean, both = np.zeros(len(states)), np.zeros((len(states), len(states)))
    for row in itertools.product(*[range(low, k) for k in states]):
        joint = prior * density(noise, level, row, clean, states)
        if not joint.sum():
            continue
        for x, p in zip(clean, joint, strict=True):
            for back, q in zip(clean, joint / joint.sum(), strict=True):
                differs = (x != back).astype(float)
                mean += p * q * differs
                both += p * q * np.outer(differs, differs)
    return both - np.outer(mean, mean), mean


@pytest.mark.parametrize("noise", [MASKING, FLIPS], ids=IDS[:2])
def test_changes_are_those_of_the_sum_over_everything(noise, monkeypatch):
    parents = {"r": None, "p": "r", "a": "p", "b": "p", "c": "r"}
    random = np.random.default_rng(1)
    sizes = {"r": 3, "p": 2, "a": 2, "b": 3, "c": 2}
    tree = hltm.LatentTree.from_parents(
        parents,
        {
            v: random.dirichlet(np.full(k, 0.3), *([sizes[parents[v]]] if parents[v] else []))
            for v, k in sizes.items()
        },
    )
    covariance, mean = slow_changes(tree, noise, 0.6)
    near = change.ancestor_level(tree.topology)
    names = [tree.topology.names[v] for v in tree.leaves]
    assert near[names.index("a"), names.index("b")] == 1
    assert near[names.index("a"), names.index("c")] == 2
    found = tree.change_correlation(noise, 0.6)
    variance = covariance.diagonal().mean()
    expected = [covariance[near == level].mean() / variance for level in range(3)]
    np.testing.assert_allclose(found.correlation, expected, atol=1e-12)
    assert float(found.changed) == pytest.approx(mean.mean(), abs=1e-12)
    assert float(found.susceptibility) == pytest.approx(covariance.sum() / variance / 3, abs=1e-12)
    assert (found.standard_error == 0).all()
    monkeypatch.setattr(change, "MAX_PAIRS", 0.5)
    wrong = found.correlation * torch.tensor([1, 1.2, 1.2])
    errors, broken, sizes = [], [], []
    for seed in range(8):
        drawn = tree.change_correlation(noise, 0.6, seed=seed, samples=4096)
        assert float(drawn.changed) == pytest.approx(mean.mean(), abs=0.02)
        errors.append((drawn.correlation - found.correlation)[1:] / drawn.standard_error[1:])
        broken.append((drawn.correlation - wrong)[1:] / drawn.standard_error[1:])
        off = drawn.susceptibility - found.susceptibility
        sizes.append(off / drawn.susceptibility_error)
    for scores in (torch.stack(errors), torch.stack(sizes)):
        assert abs(float(scores.mean())) < 3.3 / 8**0.5
        assert 0.4 < float(scores.std()) < 1.7
    assert abs(float(torch.stack(broken).mean())) > 3.3 / 8**0.5


def test_nothing_changes_without_noise_and_stacked_trees_are_single_ones():
    trees = hltm.symmetric_binary(depth=2, polarity=(0.7, 0.9), members=2, seed=0)
    for noise in PROCESSES:
        none = trees.change_correlation(noise, 0.0, samples=256)
        assert (none.changed.abs() < 1e-12).all()
        assert (none.correlation.abs() < 1e-12).all()
        found = trees.change_correlation(noise, 0.7, samples=256)
        assert found.correlation.shape == (2, 3)
        for name, value in found._asdict().items():
            alone = getattr(trees[1].change_correlation(noise, 0.7, samples=256), name)
            assert value[1].equal(alone)


# bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.denoise([[0, 1]], FLIPS, 0.5), r"noisy leaves have shape \(1, 2\), expected \(B, 4\)"),
        (lambda t: t.denoise([[0, 1, 2, 0]], FLIPS, 0.5), "has state 2, expected 0..1"),
        (lambda t: t.denoise([[0.5] * 4], FLIPS, 0.5), "dtype torch.float64, expected integers"),
        (lambda t: t.denoise([[0, 1, 0, 0]], FLIPS, -0.1), "in .0, 1., got -0.1"),
        (lambda t: t.denoise([[0, 1, 0, 0]], GAUSSIAN, 0.5), r"expected \(B, 4, 2\)"),
        (lambda t: t.denoise([[[np.nan] * 2] * 4], GAUSSIAN, 0.5), "hold nan, expected finite"),
        (lambda t: t.denoise("text", SIGNS, 0.5), "not an array of numbers"),
        (lambda t: t.corrupt([[0, 1, -1, 0]], FLIPS, 0.5, seed=0), "hold -1, expected states"),
        (lambda t: t.corrupt([[0, 1, 1, 0]], FLIPS, "half", seed=0), "in .0, 1., got 'half'"),
        (lambda t: t.corrupt([[0, 1, 1, 0]], FLIPS, 0.5, seed=-1), "seed must be in"),
        (lambda t: t.corrupt([[0, 1, 1, 0]], FLIPS, 0.5, seed=0, start=-1), "rows must lie in"),
        (lambda t: t.sample_back([[0, 1, 1, 0]], FLIPS, (0.5,), seed=0), "two or more that decrease"),
        (lambda t: t.sample_back([[0, 1, 1, 0]], FLIPS, (0.5, 0.7), seed=0), "strictly, got .0.5, 0.7."),
        (lambda t: t.change_correlation(FLIPS, 0.5, samples=10), "at least 64 samples, got 10"),
        (lambda t: t.change_correlation(FLIPS, 2, samples=100), "in .0, 1., got 2"),
        (lambda t: t.change_correlation(FLIPS, 0.5, seed=-1), "seed must be in"),
        (lambda t: t.sample_back([[0, 1, 1, 0]], FLIPS, 0.5, seed=0), "a sequence of .* got 0.5"),
        (lambda t: t.bayes_loss(noise=FLIPS, level=[]), "levels must be a sequence of .* got .."),
        (lambda t: t.bayes_loss(noise=FLIPS, level="0.5"), "level must be in .0, 1., got '0.5'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(hltm.symmetric_binary(depth=2, seed=0))


def test_noise_of_another_type_signs_of_many_states_and_impossible_rows_are_refused():
    tree = hltm.symmetric_binary(depth=2, seed=0)
    with pytest.raises(
        TypeError, match=r"noise must be Masking\(\), Flips\(\) or Gaussian\(\), got 'flips'"
    ):
        tree.corrupt([[0, 0, 0, 0]], "flips", 0.5, seed=0)
    with pytest.raises(TypeError, match="signs must be True or False, got 'yes'"):
        hltm.Gaussian(signs="yes")
    with pytest.raises(TypeError, match=r"samples must be an integer, got 100\.5"):
        tree.change_correlation(FLIPS, 0.5, samples=100.5)
    many = irregular_tree(1, nodes=5)
    with pytest.raises(ValueError, match=r"needs binary leaves, but leaf '.' has . states"):
        many.corrupt(many.sample(1, seed=0).leaves, SIGNS, 0.5, seed=0)
    certain = hltm.symmetric_binary(depth=1, polarity=1.0, signs="positive", seed=0)
    assert certain.denoise([[0, 1]], MASKING, 0.5).isnan().all()
    with pytest.raises(ValueError, match="row 1 of the noisy leaves cannot occur"):
        certain.sample_back([[0, 0], [0, 1]], MASKING, (0.5, 0), seed=0)
