"""Linear BYOL: the equations, Theorem 1 of DSSL, modes, fixed points, the border of collapse."""

import numpy as np
import pytest
import torch

from dualnets.theory.byol.byol_modes import (
    Modes,
    critical_decay,
    fixed_points,
    integrate_modes,
    largest_decay,
    separatrix,
    survives,
)
from dualnets.theory.byol.linear_byol import (
    LinearByol,
    Weights,
    conserved,
    imbalance,
    integrate,
    random_weights,
    sampled,
)


def moment(size, seed, scale=1.0):
    a = np.random.default_rng(seed).standard_normal((size, size))
    return scale * a @ a.T / size


def system(**changes):
    rates = {"decay": 0.02, "predictor_rate": 1.7, "target_rate": 0.3} | changes
    return LinearByol(moment(5, 0), moment(5, 1, 0.3), **rates)


WEIGHTS = random_weights(features=3, inputs=5, members=3, seed=0)


def test_slopes_are_the_gradients_of_the_loss():
    """Autograd of the expected loss, its second moments written out, gives the same slopes."""
    mean, noise = (torch.tensor(moment(5, seed)) for seed in (0, 1))
    one = Weights(*(part[0] for part in WEIGHTS))
    predictor, online = (torch.tensor(part, requires_grad=True) for part in one[:2])
    target = torch.tensor(one.target)
    made = predictor @ online
    loss = (
        (made @ (mean + noise) * made).sum() - 2 * (made @ mean * target).sum()
    ) / 2  # + a term of the target alone
    gradients = torch.autograd.grad(loss, [predictor, online])
    given = LinearByol(mean.numpy(), noise.numpy(), decay=0.1, predictor_rate=2.0, target_rate=0.5)
    found = given.slopes(one)
    assert np.allclose(found.predictor, -2 * gradients[0].numpy() - 0.1 * one.predictor, atol=1e-13)
    assert np.allclose(found.online, -gradients[1].numpy() - 0.1 * one.online, atol=1e-13)
    assert np.allclose(found.target, 0.5 * (one.online - one.target))


@pytest.mark.parametrize(
    "changes", [{}, {"target_rate": 0.0}, {"target_rate": 0.0, "tie": 0.8}, {"decay": 0.0}]
)
def test_dssl_theorem_1_the_imbalance_only_decays(changes):
    given = system(**changes)
    path = integrate(given, WEIGHTS, np.linspace(0, 15, 6))
    kept = conserved(given, path)
    assert np.abs(kept - kept[0]).max() < 1e-11
    assert np.abs(np.diff(path.online, axis=0)).max() > 0.01  # while the weights do move


def test_dssl_theorem_1_fails_under_another_rate_or_a_predictor_of_its_own():
    given = system()
    path = integrate(given, WEIGHTS, [0.0, 5.0])
    wrong = system(predictor_rate=1.0)
    kept = imbalance(wrong, path[1]) * np.exp(2 * wrong.decay * 5)
    assert np.abs(kept - imbalance(wrong, path[0])).max() > 1e-3


def test_a_nonlinear_predictor_breaks_it():
    """One Euler step of size h: D changes by O(h²) with a linear predictor, by O(h) with tanh."""
    rng = np.random.default_rng(2)
    x = torch.tensor(rng.standard_normal((4000, 5)))
    changes = {}
    for name, squash in (("linear", lambda h: h), ("tanh", torch.tanh)):
        predictor, online = (torch.tensor(part[0], requires_grad=True) for part in WEIGHTS[:2])
        target = torch.tensor(WEIGHTS.target[1])
        loss = (predictor @ squash(3 * online @ x.T) - target @ x.T).square().sum() / 2 / len(x)
        a, b = torch.autograd.grad(loss, [predictor, online])
        rate = -(b @ online.T + online @ b.T) + a.T @ predictor + predictor.T @ a
        changes[name] = float(rate.detach().abs().max())
    assert changes["linear"] < 1e-12
    assert changes["tanh"] > 1e-2


def test_modes_follow_the_matrix_equations():
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    inputs = np.linalg.qr(rng.standard_normal((5, 5)))[0][:, :3]
    p, w = np.array([0.3, 0.5, 0.9]), np.array([0.4, 0.6, 0.2])
    online, predictor = turn @ np.diag(w) @ inputs.T, turn @ np.diag(p) @ turn.T
    times = [0.0, 3.0, 8.0]
    for tie, rate in ((1.3, None), (None, 0.2)):
        given = LinearByol(
            np.eye(5),
            0.4 * np.eye(5),
            decay=0.03,
            predictor_rate=1.7,
            tie=tie,
            target_rate=rate or 0,
        )
        path = integrate(given, Weights(predictor, online, 1.1 * online), times)
        modes = Modes(0.4, 0.03, 1.7, rate, tie or 1.0)
        start = [p, w**2] if rate is None else [p, w, 1.1 * w]
        found = integrate_modes(modes, start, times)
        square = found[:, 1] if rate is None else found[:, 1] ** 2
        for t in (1, 2):
            assert np.abs(turn.T @ path.predictor[t] @ turn - np.diag(found[t, 0])).max() < 1e-10
            gram = path.online[t] @ path.online[t].T
            assert np.abs(turn.T @ gram @ turn - np.diag(square[t])).max() < 1e-10
        k = (square - found[:, 0] ** 2 / 1.7) * np.exp(2 * 0.03 * np.array(times))[:, None]
        assert np.abs(k - k[0]).max() < 1e-11


@pytest.mark.parametrize("target_rate", [None, 0.1])
def test_fixed_points_do_not_move_and_their_stability_is_real(target_rate):
    modes = Modes(0.2, 0.05, 2.0, target_rate)
    zero, low, high = fixed_points(modes)
    assert (zero.stable, low.stable, high.stable) == (True, False, True)
    for point in (low, high):
        w = point.online
        place = np.array([point.predictor, w, w] if target_rate else [point.predictor, w * w])
        assert np.abs(modes.slopes(place)).max() < 1e-15
        numeric = np.stack(
            [
                (modes.slopes(place + d) - modes.slopes(place - d)) / 2e-6
                for d in 1e-6 * np.eye(len(place))
            ],
            1,
        )
        expected = np.sort(np.linalg.eigvals(numeric).real)
        assert np.allclose(np.sort(point.eigenvalues.real), expected, atol=1e-8)
        nudged = place * 1.02
        end = integrate_modes(modes, nudged, [0.0, 900.0])[-1, 0]
        assert end == pytest.approx(high.predictor, abs=1e-6)
        if point is low:
            assert integrate_modes(modes, place * 0.98, [0.0, 600.0])[-1, 0] < 1e-6


def test_no_fixed_point_beyond_the_largest_decay():
    edge = float(largest_decay(Modes(0.2)))
    assert edge == pytest.approx(1 / 4.8)
    assert len(fixed_points(Modes(0.2, edge * 0.999))) == 3
    assert len(fixed_points(Modes(0.2, edge * 1.001))) == 1
    assert not survives(Modes(0.2, edge * 1.001), [2.0, 4.0])


def test_the_separatrix_parts_the_basins():
    modes = Modes(0.2, 0.05, 2.0)
    curve = separatrix(modes)
    inside = curve[(curve[:, 1] > 1e-8) & (curve[:, 0] > 1e-3)].T
    assert inside.shape[1] > 20
    assert survives(modes, inside * [[1], [1.02]]).all()
    assert not survives(modes, inside * [[1], [0.98]]).any()
    saddle = fixed_points(modes)[1]
    on = np.abs(curve - [saddle.predictor, saddle.online**2]).sum(1).min()
    assert on < 1e-12


def test_p_minus_is_the_edge_only_where_p_and_s_are_in_balance():
    """Off s = p²/α a start below p- may survive and one above it collapse."""
    modes = Modes(0.2, 0.05)
    low = fixed_points(modes)[1].predictor
    assert survives(modes, [0.5 * low, 0.05])
    assert not survives(modes, [2.0 * low, 1e-5])


@pytest.mark.slow
def test_a_fast_target_moves_the_basin_but_no_fixed_point():
    places = [[q.predictor for q in fixed_points(Modes(0.2, 0.05, 2.0, b))] for b in (0.01, 1.0)]
    assert places[0] == places[1]
    start = [0.3, 0.3, 0.05]  # a target that lags
    edges = critical_decay(Modes(0.2, 0.0, 1.0, np.array([0.003, 0.03, 3.0])), start, halvings=9)
    assert edges[0] < 0.7 * edges[2]
    for decay, kept in ((0.97 * edges, True), (1.03 * edges, False)):
        assert (survives(Modes(0.2, decay, 1.0, np.array([0.003, 0.03, 3.0])), start) == kept).all()


def test_sampled_updates_follow_the_equations_to_first_order_in_their_rate():
    given = system()
    exact = integrate(given, WEIGHTS, [0.0, 5.0])
    errors = []
    for lr in (0.1, 0.05):
        found = sampled(given, WEIGHTS, steps=round(5 / lr), lr=lr, batch=2000, seed=1)
        errors.append(np.abs(found.online[-1] - exact.online[-1]).max())
        assert found.times.tolist() == pytest.approx([0, 5])
    assert errors[1] < 0.7 * errors[0] < 0.05


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="eigenvalue below 0"):
        LinearByol(-np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match="symmetric"):
        LinearByol(np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2))
    with pytest.raises(ValueError, match=r"expected \(\.\.\., F, F\)"):
        integrate(system(), Weights(np.eye(2), np.eye(3), np.eye(3)), [0.0, 1.0])
    with pytest.raises(ValueError, match="got 0"):
        fixed_points(Modes(0.2))
    with pytest.raises(ValueError, match="critical_decay"):
        separatrix(Modes(0.2, 0.05, 1.0, 0.1))
    with pytest.raises(ValueError, match=r"0\.\.3"):
        sampled(system(), WEIGHTS, steps=3, lr=0.1, batch=2, seed=0, snapshots=[4])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_before_work(bad):
    weights = random_weights(features=2, inputs=3, seed=0)
    eye = np.eye(3)
    system = LinearByol(eye, 0.2 * eye, decay=0.01)
    with pytest.raises(ValueError, match=f"times must be finite, got {bad}"):
        integrate(system, weights, [0.0, bad])
    broken = eye.copy()
    broken[1, 1] = bad
    with pytest.raises(ValueError, match=f"noise must be finite, got {bad}"):
        LinearByol(eye, broken)
    with pytest.raises(ValueError, match=f"tie must be finite, got {bad}"):
        LinearByol(eye, eye, tie=bad)
    with pytest.raises(ValueError, match="tolerance must be above 0 and below 1"):
        integrate(system, weights, [0.0, 1.0], tolerance=bad)
    with pytest.raises(ValueError, match=r"scale must be above 0 and finite, got (nan|inf)"):
        random_weights(features=2, inputs=3, scale=bad, seed=0)
    lost = weights._replace(online=weights.online * bad)
    for call in (
        lambda: integrate(system, lost, [0.0, 1.0]),
        lambda: sampled(system, lost, steps=2, lr=0.1, batch=2, seed=0),
    ):
        with pytest.raises(ValueError, match="online must be finite, got"):
            call()
    with pytest.raises(ValueError, match="lr must be above 0 and finite, got"):
        sampled(system, weights, steps=2, lr=bad, batch=2, seed=0)
    modes = Modes(noise=0.2, decay=0.05)
    with pytest.raises(ValueError, match=f"times must be finite, got {bad}"):
        integrate_modes(modes, [0.5, 0.4], [0.0, bad])
    for call in (integrate_modes, lambda modes, start, _: survives(modes, start)):
        with pytest.raises(ValueError, match=f"a start must be finite, got {bad}"):
            call(modes, [0.5, bad], [0.0, 1.0])
    for name in ("noise", "decay", "predictor_rate", "target_rate"):
        with pytest.raises(ValueError, match=f"{name} must be .* finite, got {bad}"):
            Modes(**{name: bad})
    with pytest.raises(ValueError, match=f"tie must be finite, got {bad}"):
        Modes(tie=bad)
    with pytest.raises(ValueError, match="largest must be above 0 and finite"):
        separatrix(modes, largest=bad)


def test_times_are_lists_that_increase():
    weights = random_weights(features=2, inputs=3, seed=0)
    system = LinearByol(np.eye(3), 0.2 * np.eye(3))
    for times, words in (
        ([], r"at least one number, got shape \(0,\)"),
        ([0.0, 2.0, 1.0], r"times must increase, got 2\.0 and then 1\.0"),
        ([[0.0, 1.0]], "one list of numbers"),
        (3.0, r"at least one number, got shape \(\)"),
    ):
        with pytest.raises(ValueError, match=words):
            integrate(system, weights, times)
        with pytest.raises(ValueError, match=words):
            integrate_modes(Modes(), [0.5, 0.4], times)
    assert integrate_modes(Modes(), [0.5, 0.4], [3.0]).tolist() == [[0.5, 0.4]]
    with pytest.raises(
        ValueError, match=r"those of modes of shape \(2,\), the start has shape \(\)"
    ):
        integrate_modes(Modes(decay=[0.1, 0.2]), [0.5, 0.4], [0.0, 1.0])
    with pytest.raises(ValueError, match="mean has shape"):
        LinearByol(np.zeros((0, 0)), np.zeros((0, 0)))


def test_updates_that_diverge_are_reported_with_their_step():
    weights = random_weights(features=2, inputs=3, seed=0)
    system = LinearByol(np.eye(3), 0.2 * np.eye(3))
    with pytest.raises(ArithmeticError, match=r"not finite after \d+ of 100 updates with lr 50"):
        sampled(system, weights, steps=100, lr=50.0, batch=8, seed=0)


def test_a_mode_that_does_not_settle_is_an_error(monkeypatch):
    modes = Modes(noise=0.2, decay=[0.001, 0.1], target_rate=0.01)
    monkeypatch.setattr("dualnets.theory.byol.byol_modes.STEPS", 5)
    with pytest.raises(
        ArithmeticError, match=r"2 of 2 modes are neither at 0 nor at p\+ after 5 steps"
    ):
        survives(modes, [0.3, 0.3, 0.1])
    with pytest.raises(ValueError, match="target_rate must be above 0, got 0"):
        survives(Modes(decay=0.05, target_rate=[0.0, 0.1]), [0.3, 0.3, 0.3])
    with pytest.raises(
        ValueError, match=r"tie must be at least 0 for a fixed point p\+ above 0, got -1\.0"
    ):
        survives(Modes(decay=0.05, tie=-1.0), [0.3, 0.3])
    with pytest.raises(
        ValueError, match=r"tie must be above 0 for a border of collapse, got -1\.0"
    ):
        separatrix(Modes(decay=0.05, tie=-1.0))
    with pytest.raises(ValueError, match="halvings must be at least 1, got 0"):
        critical_decay(modes, [0.3, 0.3, 0.1], halvings=0)
