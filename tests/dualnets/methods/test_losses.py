"""Losses against the theory page's formulas, looped sample by sample, and their slopes."""

import math

import pytest
import torch

import dualnets
import hltm
from dualnets.methods.losses import (
    LOSSES,
    BatchwiseNCE,
    CovarianceObjective,
    Detached,
    ExponentialWeights,
    GivenWeights,
    InfoNCE,
    IntraPair,
    InverseDistanceWeights,
    NTXent,
    Simple,
    SpectralContrastive,
    Triplet,
    weighted_gap,
)
from dualnets.theory import enumerate_views

MEMBERS, BATCH, UNITS = 3, 5, 4


def outputs(negatives: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        draw(MEMBERS, BATCH, UNITS),
        draw(MEMBERS, BATCH, UNITS),
        draw(MEMBERS, negatives, BATCH, UNITS),
    )


def half_square(a: torch.Tensor, b: torch.Tensor) -> float:
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)) / 2


def slow(loss, anchor, positive, negatives) -> list[float]:
    """One member and one anchor at a time, in plain Python."""
    found = []
    for s in range(MEMBERS):
        total = 0.0
        views = [*anchor[s], *positive[s]]
        for b in range(BATCH):
            near = half_square(anchor[s, b], positive[s, b])
            far = [half_square(anchor[s, b], other[b]) for other in negatives[s]]
            if isinstance(loss, Simple):
                total += near - far[0]
            elif isinstance(loss, Triplet):
                t = loss.temperature
                total += t * math.log(1 + math.exp((near - far[0] + loss.margin) / t))
            elif isinstance(loss, InfoNCE):
                t = loss.temperature
                mass = math.exp(-near / t) + sum(math.exp(-r / t) for r in far)
                total -= t * math.log(math.exp(-near / t) / mass)
            elif isinstance(loss, SpectralContrastive):
                dot = sum(
                    float(x) * float(y) for x, y in zip(anchor[s, b], positive[s, b], strict=True)
                )
                total -= 2 * dot
                for other in negatives[s]:
                    dot = sum(
                        float(x) * float(y) for x, y in zip(anchor[s, b], other[b], strict=True)
                    )
                    total += dot**2 / len(far)
            elif isinstance(loss, ExponentialWeights):
                total += sum(math.exp(-r / loss.temperature) * (near - r) for r in far)
            elif isinstance(loss, InverseDistanceWeights):
                total += sum((near - r) / (r + loss.epsilon) for r in far)
            elif isinstance(loss, Detached):
                t = loss.criterion.temperature
                mass = math.exp(-near / t) + sum(math.exp(-r / t) for r in far)
                total += sum(math.exp(-r / t) / mass * (near - r) for r in far)
            elif isinstance(loss, CovarianceObjective):
                for i in (b, BATCH + b):
                    others = [views[k] for k in range(2 * BATCH) if k % BATCH != b]
                    for r in (half_square(views[i], other) for other in others):
                        weight = 1 / (1 + math.exp(r / loss.temperature))
                        total += weight * (near - r) / len(others) / 2
            elif isinstance(loss, NTXent):
                t = loss.temperature
                for i in (b, BATCH + b):
                    mass = sum(
                        math.exp(-half_square(views[i], views[k]) / t)
                        for k in range(2 * BATCH)
                        if k != i
                    )
                    total -= t * math.log(math.exp(-near / t) / mass) / 2
        found.append(total / BATCH)
        if isinstance(loss, BatchwiseNCE):
            near = sum(half_square(*pair) * 2 for pair in zip(anchor[s], positive[s], strict=True))
            far = sum(
                half_square(*pair) * 2 for pair in zip(anchor[s], negatives[s, 0], strict=True)
            )
            gap = (far - near) / (BATCH * UNITS)
            found[-1] = -1 / (1 + math.exp(-gap / loss.temperature))
    return found


CASES = [
    Simple(),
    Triplet(temperature=0.5, margin=0.7),
    InfoNCE(temperature=0.5),
    InfoNCE(temperature=0.8, negatives=4),
    NTXent(temperature=0.6),
    BatchwiseNCE(temperature=0.3),
    SpectralContrastive(),
    SpectralContrastive(negatives=3),
    ExponentialWeights(temperature=0.7, negatives=2),
    InverseDistanceWeights(epsilon=0.2, negatives=2),
    Detached(InfoNCE(temperature=0.8, negatives=3)),
    CovarianceObjective(temperature=0.6),
]


@pytest.mark.parametrize("loss", CASES, ids=repr)
def test_equals_the_formula_looped(loss):
    given = outputs(loss.negatives)
    expected = torch.tensor(slow(loss, *given), dtype=torch.float64)
    torch.testing.assert_close(loss(*given), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [c for c in CASES if not isinstance(c, BatchwiseNCE)], ids=repr)
def test_a_member_does_not_hear_of_the_others(loss):
    anchor, positive, negatives = outputs(loss.negatives)
    alone = loss(anchor[1:2], positive[1:2], negatives[1:2])
    torch.testing.assert_close(
        alone[0], loss(anchor, positive, negatives)[1], rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("loss", CASES[:4], ids=repr)
def test_slopes_have_opposite_signs_and_sum_to_zero(loss):
    """∂L/∂r_+ > 0, ∂L/∂r_k < 0 and their sum is 0 (docs/theory.md, Section 3), by moving points radially."""
    anchor, positive, negatives = outputs(loss.negatives)
    anchor = torch.zeros_like(anchor)  # then ∂r/∂scale = 2 r for every other point
    scale = torch.ones(1 + loss.negatives, MEMBERS, BATCH, 1, dtype=torch.float64)
    scale.requires_grad_()
    moved = torch.stack([scale[1 + h] * negatives[:, h] for h in range(loss.negatives)], 1)
    value = loss(anchor, scale[0] * positive, moved).sum()
    (slope,) = torch.autograd.grad(value, scale)
    r = torch.cat([positive[None], negatives.transpose(0, 1)]).square().sum(-1, keepdim=True) / 2
    by_distance = slope / (2 * r)
    assert (by_distance[0] > 0).all()
    assert (by_distance[1:] < 0).all()
    total = by_distance.sum(0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-15)


@pytest.mark.parametrize("loss", [c for c in CASES if hasattr(c, "pairs")], ids=repr)
def test_pair_weights_are_all_that_training_hears_of_a_loss(loss):
    """∇L = ∇ Σ_k β_k (r_+ - r_k), and β_k = -∂L/∂r_k for the losses whose weights are derived."""
    given = [part.requires_grad_() for part in outputs(loss.negatives, seed=3)]
    slopes = [
        torch.autograd.grad(value(*given).sum(), given, allow_unused=True)
        for value in (loss, lambda *parts: weighted_gap(loss.pairs(*parts)))
    ]
    for ours, expected in zip(*slopes, strict=True):
        assert (ours is None) == (expected is None)
        if ours is not None:
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-13)
    pairs = loss.pairs(*given)
    assert (pairs.beta >= 0).all()
    assert not pairs.beta.requires_grad
    if not isinstance(loss, GivenWeights):
        torch.testing.assert_close(Detached(loss)(*given), weighted_gap(pairs))


def as_in_the_papers_code(zi, zj, zs, temperature, beta):
    """The objective of arXiv 2010.00578's code for unit outputs `(B, U)`, there over τ, pair by pair."""
    views, size = [*zi, *zj], len(zi)
    total = 0.0
    for i, view in enumerate(views):
        near = 1 - view @ views[(i + size) % (2 * size)]
        for k, other in enumerate(views):
            if k % size != i % size:
                compared = view @ other if zs is None else zs[i % size] @ zs[k % size]
                weight = torch.exp(-(1 - compared.detach()) / temperature)
                weight = weight / (1 + weight) / (2 * size - 2)
                total = total + weight * ((1 + beta) * near - (1 - view @ other))
    return total / (2 * size)


@pytest.mark.parametrize("weights_from", ["views", "samples"])
@pytest.mark.parametrize("beta", [0.0, 0.5, -0.5])
def test_the_covariance_objective_is_that_of_the_papers_code(weights_from, beta):
    loss = CovarianceObjective(0.4, weights_from)
    loss = IntraPair(loss, beta) if beta else loss
    parts = [*outputs(0)[:2], outputs(0, seed=7)[0]]
    parts = [torch.nn.functional.normalize(part, dim=-1).requires_grad_() for part in parts]
    assert loss.original == (weights_from == "samples")
    given = (*parts[:2], parts[0][:, None][:, :0], *parts[2:][: loss.original])
    found = loss(*given)
    zs = parts[2] if loss.original else [None] * MEMBERS
    looped = torch.stack([
        as_in_the_papers_code(*own, 0.4, beta) for own in zip(*parts[:2], zs, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(found, looped, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(own.sum(), parts[:2]) for own in (found, looped))

    def tangent(slope, at):
        """Of unit outputs, whose cosine and distance differ in what changes their length."""
        return slope - (slope * at).sum(-1, keepdim=True) * at

    for slope, expected, at in zip(ours, theirs, parts, strict=False):
        torch.testing.assert_close(tangent(slope, at), tangent(expected, at), rtol=0, atol=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.5, -0.5])
def test_weights_of_samples_make_theorem_4_exact(beta):
    """The mean over all views of two samples x, y is w (β (tr C_x + tr C_y) - ||Δ||²) / 2."""
    random = torch.Generator().manual_seed(2)
    states = torch.randn(5, 3, generator=random, dtype=torch.float64).requires_grad_()
    chance = torch.rand(2, 5, generator=random, dtype=torch.float64)  # P(view | sample)
    chance = chance / chance.sum(1, keepdim=True)
    samples = torch.randn(2, 3, generator=random, dtype=torch.float64)
    tuples = torch.cartesian_prod(*[torch.arange(5)] * 4)  # views of x, y, x, y
    anchor, positive = states[tuples[:, :2]], states[tuples[:, 2:]]
    likely = chance[torch.tensor([0, 1, 0, 1]), tuples].prod(1)
    loss = IntraPair(CovarianceObjective(0.7, "samples"), beta)
    found = loss(anchor, positive, anchor[:, None][:, :0], samples.expand(len(tuples), -1, -1))
    found = (likely * found).sum()
    weight = 1 / (1 + math.exp(half_square(*samples) / 0.7))
    mean = chance @ states
    within = (chance @ states.square() - mean.square()).sum()
    expected = weight * (beta * within - (mean[0] - mean[1]).square().sum()) / 2
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    slopes = [torch.autograd.grad(value, states)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-14)


def test_an_intra_pair_term_takes_away_what_varies_within_samples():
    """Equation 3.10, from every view of every sample of a small tree: Kbar and fbar by autograd."""
    tree = hltm.symmetric_binary(depth=2, seed=0)
    network = dualnets.tree_network(tree, units=3, seed=1, dtype=torch.float64)
    table = enumerate_views(tree, hltm.resample_leaves(0.4))
    weight, beta = network.weights[0], 0.6

    def slope(found):
        return torch.autograd.grad(found, weight, retain_graph=True)[0]

    f = network(table.leaves)  # (X, U)
    a, b, k = torch.cartesian_prod(*[torch.arange(len(f))] * 3).T
    loss = IntraPair(Simple(), beta)(f[a, None], f[b, None], f[k, None, None])
    chance = table.positive_pairs()[a, b] * table.marginal[k]
    update = -slope((chance * loss).sum())
    # Cov[K, f] is the slope of half the variance of f
    mean = table.over_views(f)
    between = table.mean((mean - table.mean(mean)).square()).sum() / 2
    within = table.mean(table.over_views(f.square()) - mean.square()).sum() / 2
    expected = 2 * slope(between) - 2 * beta * slope(within)
    torch.testing.assert_close(update, expected, rtol=0, atol=1e-14)
    assert update.abs().max() > 1e-3


@pytest.mark.parametrize("criterion", [c for c in CASES if c.negatives < 3], ids=repr)
def test_an_intra_pair_term_is_added(criterion):
    given = outputs(criterion.negatives)
    found = IntraPair(criterion, 0.3)(*given) - criterion(*given)
    expected = (given[0] - given[1]).square().sum(-1).mean(-1) / 2
    if isinstance(criterion, GivenWeights):
        pairs = criterion.pairs(*given)
        expected = (pairs.beta.sum(1) * pairs.near[:, 0]).mean(-1)
    torch.testing.assert_close(found, 0.3 * expected, rtol=1e-10, atol=1e-13)


def test_large_distances_do_not_overflow():
    anchor, positive, negatives = outputs(2)
    for loss in (InfoNCE(0.001, 2), NTXent(0.001), Triplet(0.001)):
        assert torch.isfinite(loss(100 * anchor, positive, negatives[:, : loss.negatives])).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoNCE(temperature=0.0), "temperature must be above 0 and finite, got 0.0"),
        (
            lambda: NTXent(temperature=float("nan")),
            "temperature must be above 0 and finite, got nan",
        ),
        (
            lambda: InfoNCE(temperature=float("inf")),
            "temperature must be above 0 and finite, got inf",
        ),
        (lambda: Triplet(margin=float("nan")), "margin must be finite, got nan"),
        (lambda: InfoNCE(negatives=0), "negatives must be at least 1 per anchor, got 0"),
        (lambda: SpectralContrastive(0), "negatives must be at least 1 per anchor, got 0"),
        (
            lambda: ExponentialWeights(temperature=-1.0),
            "temperature must be above 0 and finite, got -1.0",
        ),
        (
            lambda: InverseDistanceWeights(epsilon=0.0),
            "epsilon must be above 0 and finite, got 0.0",
        ),
        (lambda: Detached(SpectralContrastive()), "a loss with pair weights, got Spectral"),
        (lambda: Detached(CovarianceObjective(0.1, "samples")), "weights of views, got Covariance"),
        (
            lambda: CovarianceObjective(0.1, "pairs"),
            "weights_from must be views or samples, got 'p",
        ),
        (lambda: IntraPair(Simple, 0.5), "criterion must be a loss, got <class"),
        (lambda: IntraPair(Simple(), float("inf")), "weight must be finite, got inf"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", [Simple, Triplet, NTXent, BatchwiseNCE])
def test_a_fixed_number_of_negatives_cannot_be_given(kind):
    with pytest.raises(TypeError, match="negatives"):
        kind(negatives=2)


def test_every_loss_is_tested_and_public():
    assert {type(loss) for loss in CASES} == set(LOSSES.values())
    for kind in LOSSES.values():
        assert getattr(dualnets, kind.__name__) is kind


def test_losses_are_in_one_order_in_help_and_in_the_columns_of_tables():
    assert list(LOSSES) == [
        "simple", "triplet", "infonce", "ntxent", "batchwise-nce", "spectral", "exponential",
        "inverse-distance", "covariance", "detached",
    ]  # fmt: skip


def test_a_class_is_no_loss_to_take_weights_from():
    with pytest.raises(ValueError, match="a loss with pair weights, got <class"):
        Detached(InfoNCE)


def far_from_0(loss, kind: str, spread: float, offset: float) -> list[torch.Tensor]:
    """Anchors, positives and negatives in float32 that lie far from 0 together, or in two clusters."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return spread * torch.randn(1, *shape, generator=generator, dtype=torch.float64)

    signs = torch.randint(0, 2, (1, 32, 1), generator=generator) * 2 - 1
    base = draw(32, 6) + (offset if kind == "together" else offset * signs)
    parts = [base + 0.3 * draw(32, 6) for _ in range(2 + loss.negatives)]
    negatives = [part.roll(k + 1, 1) for k, part in enumerate(parts[2:])]
    return [*parts[:2], torch.stack(negatives, 1) if negatives else base[:, None][:, :0]]


@pytest.mark.parametrize("loss", [*CASES, NTXent(), InfoNCE(negatives=8)], ids=repr)
@pytest.mark.parametrize("kind", ["together", "clusters"])
def test_float32_is_as_good_far_from_0(loss, kind):
    """Against float64 on the same inputs; 1e-3 of a squared offset of 1e8 would be 1e5."""
    for spread in (0.1, 1.0):
        for offset in (0.0, 1.0, 30.0, 1e3, 1e4):
            parts = [part.float() for part in far_from_0(loss, kind, spread, offset)]
            found = []
            for dtype in (torch.float32, torch.float64):
                given = [part.to(dtype).requires_grad_() for part in parts]
                value = loss(*given)
                slopes = torch.autograd.grad(value.sum(), given[: 2 + (loss.negatives > 0)])
                assert value.dtype == dtype
                found.append((value.detach().double(), [slope.double() for slope in slopes]))
            (value, slopes), (expected, right) = found
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-9)
            for ours, theirs in zip(slopes, right, strict=True):
                assert (ours - theirs).norm() <= 1e-4 * theirs.norm(), (spread, offset)


@pytest.mark.parametrize("loss", CASES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outputs_of_16_bits_have_a_loss_in_float32(loss, dtype):
    """Distances of 300^2 overflow in float16."""
    given = [(300 * part).to(dtype).requires_grad_() for part in outputs(loss.negatives)]
    value = loss(*given)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*(part.detach().float() for part in given)))


def test_a_batch_of_one_has_no_negatives_and_no_loss():
    given = [part[:, :1].requires_grad_() for part in outputs(0)[:2]]
    value = NTXent()(*given, given[0][:, None][:, :0])
    slopes = torch.autograd.grad(value.sum(), given)
    assert value.eq(0).all()
    assert all(slope.eq(0).all() for slope in slopes)
