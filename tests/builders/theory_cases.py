"""Trees, networks and data for tests of the theory, small enough to enumerate."""

import torch
from torch import nn

import dualnets
import hltm
from dualnets.theory import TreeViews


def tree(depth=2, branching=2, members=None, low=0.6, seed=0):
    return hltm.symmetric_binary(
        depth=depth, branching=branching, polarity=(low, 0.95), members=members, seed=seed
    )


def networks(trees, units=3, **settings):
    """A tree network and a dense one, float64."""
    settings = {"seed": 1, "dtype": torch.float64} | settings
    yield dualnets.tree_network(trees, units=units, **settings)
    yield dualnets.mlp(trees, units=2 * units, layers=3, **settings)


def data(trees, augmentation=None):
    return TreeViews(trees, augmentation or hltm.resample_leaves(0.4))


def module(inputs=4, bias=False, seed=0):
    """A plain torch network, convolution included, whose weights are '0.weight', '3.weight' …"""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Unflatten(1, (1, inputs)),
            nn.Conv1d(1, 3, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3 * inputs, 5, bias=bias),
            nn.ReLU(),
            nn.Linear(5, 2, bias=bias),
        )
    return made.double()


def relative(found, expected):
    """||found - expected|| / ||expected||."""
    return float((found - expected).norm() / expected.norm())
