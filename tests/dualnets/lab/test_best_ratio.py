"""The best correlation ratio: the best |correlation| of two states, and a plain twin of more."""

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets.lab.best_ratio import score_ratio
from hltm.probe.best_units import best_units
from hltm.sampling.philox import Stream


@pytest.mark.parametrize("kind", ["tree_network", "mlp"])
def test_two_states_score_their_correlation(kind):
    trees = hltm.symmetric_binary(depth=3, members=3, seed=0)
    network = getattr(dualnets, kind)(trees, units=6, seed=1)
    ratio = score_ratio(network, trees, samples=3000, seed=2, lags=50)
    plain = best_units(network, trees, samples=3000, seed=2, lags=50)
    for level in ratio:
        assert ratio[level].candidates == plain[level].candidates
        assert torch.allclose(ratio[level].best, plain[level].best, atol=1e-5)
        assert torch.allclose(ratio[level].best_post_relu, plain[level].best_post_relu, atol=1e-5)
        assert ratio[level].dead.equal(plain[level].dead)
        assert ratio[level].null.shape == plain[level].null.shape
        assert (ratio[level].null - plain[level].null).abs().max() < 0.03


def test_symbols_are_followed_through_a_plain_twin():
    m = 3
    trees = hltm.random_hierarchy(v=3, m=m, s=2, L=2, classes=3, members=2, seed=0)
    network = dualnets.tree_network(trees, units=4, seed=1)
    n = 2500
    found = score_ratio(network, trees, samples=n, seed=2, lags=0, rules=m)
    draw = trees.draw(n, seed=2, stream=Stream.EVALUATION)
    shown = network.activations(draw.leaves)
    for level, result in found.items():
        symbols = hltm.families.random_hierarchy.symbols(draw, m=m, level=level).numpy()
        units = shown[level].detach().numpy().astype(np.float64)
        for member in range(2):
            for node in range(symbols.shape[2]):
                ratios = []
                for unit in range(4):
                    values, z = units[member, :, node, unit], symbols[member, :, node]
                    fitted = np.array([values[z == k].mean() for k in range(3)])[z]
                    ratios.append(fitted.std() / values.std())
                assert max(ratios) == pytest.approx(float(result.best[member, node]), abs=1e-5)
                assert int(result.unit[member, node]) == int(np.argmax(ratios))


def test_a_unit_that_is_the_symbol_scores_one_and_its_rule_nothing():
    trees = hltm.random_hierarchy(v=4, m=4, s=2, L=1, classes=4, members=1, seed=0)
    draw = trees.draw(4000, seed=2, stream=Stream.EVALUATION)
    states = draw.root[..., None].float()

    class Told:
        members, stacked = (0,), True

        def __init__(self, tell):
            self.tell, self.at = tell, 0

        def activations(self, leaves):
            part = self.tell(states[:, self.at : self.at + leaves.shape[1]])
            self.at += leaves.shape[1]
            return {1: part}

    def best(tell):
        return float(score_ratio(Told(tell), trees, samples=4000, seed=2, lags=0, rules=4)[1].best)

    assert best(lambda z: z // 4) == pytest.approx(1, abs=1e-6)
    assert best(lambda z: z % 4) < 0.1
    assert best(torch.zeros_like) == 0


def test_what_does_not_fit_is_refused():
    trees = hltm.symmetric_binary(depth=2, members=2, seed=0)
    network = dualnets.tree_network(trees, units=2, seed=0)
    with pytest.raises(ValueError, match="rules must be at least 1, got 0"):
        score_ratio(network, trees, samples=100, seed=0, lags=0, rules=0)
    with pytest.raises(ValueError, match="samples must be at least 50, got 10"):
        score_ratio(network, trees, samples=10, seed=0, lags=50)

    class Odd:
        members, stacked = (0, 1), True

        def activations(self, leaves):
            return {1: torch.zeros(2, leaves.shape[1], 3, 1)}

    with pytest.raises(ValueError, match=r"expected \(2, B, 2, U\) or \(2, B, U\)"):
        score_ratio(Odd(), trees, samples=100, seed=0, lags=0)
