"""Benchmark sets: the same trees everywhere, and ceilings that the trees themselves give again."""

import json

import numpy as np
import pytest
import torch

import hltm
from hltm import suite as find_suite
from hltm.families import FAMILIES
from hltm.families.suite import RECIPES, TreeRecipe, compute_ceilings, fingerprint, store

CORE = find_suite("core-1")


def test_core_has_a_dozen_trees_from_many_families():
    assert len(CORE) == 12
    assert {entry.recipe.family for entry in CORE.values()} >= set(FAMILIES) - {"random_tables"}
    assert len({entry.description for entry in CORE.values()}) == 12
    for name, entry in CORE.items():
        assert entry.name == name
        assert entry.tree is entry.tree


@pytest.mark.parametrize("name", CORE)
def test_trees_draw_the_rows_they_drew_when_they_were_stored(name):
    assert fingerprint(CORE[name].tree) == CORE[name].fingerprint


def test_a_fingerprint_tells_trees_apart():
    assert len({entry.fingerprint for entry in CORE.values()}) == 12
    trees = hltm.symmetric_binary(depth=2, members=2, seed=1)
    assert fingerprint(trees[0]) != fingerprint(trees[1])


@pytest.mark.parametrize("name", CORE)
def test_stored_ceilings_belong_to_the_latents(name):
    entry = CORE[name]
    for found in entry.ceilings.values():
        for values in found:
            assert values.shape == (len(entry.tree.latents),)
            assert values.dtype == torch.float64
        assert ((found.value >= 0) & (found.value <= 1)).all()
        assert ((found.standard_error >= 0) & (found.standard_error < 0.02)).all()
    own, full = entry.ceilings["own"], entry.ceilings["all"]
    slack = 5 * (own.standard_error + full.standard_error) + 1e-6
    assert (full.value >= own.value - slack).all()  # more leaves cannot tell less
    assert float(full.value[0]) == pytest.approx(float(own.value[0]), abs=float(slack[0]))


@pytest.mark.parametrize(
    ("name", "leaves"),
    [("binary-2", "own"), ("binary-2", "all"), ("skewed-4", "own"), ("binary-4", "own")],
)
def test_exact_ceilings_are_derived_again(name, leaves):
    stored, found = CORE[name].ceilings[leaves], compute_ceilings(CORE[name].tree, leaves)
    assert not stored.standard_error.any()
    assert found.value.numpy() == pytest.approx(stored.value.numpy(), abs=1e-9)


@pytest.mark.parametrize(("name", "leaves"), [("binary-5", "all"), ("caterpillar-12", "own")])
def test_sampled_ceilings_are_within_their_error(name, leaves):
    entry = CORE[name]
    found = entry.tree.ceiling(list(entry.tree.latents), leaves=leaves, seed=99, samples=4096)
    stored = entry.ceilings[leaves]
    assert stored.standard_error.any()
    error = (found.standard_error.square() + stored.standard_error.square()).sqrt()
    assert ((found.value - stored.value).abs() <= 5 * error + 1e-9).all()


def test_two_edges_by_hand():
    """In binary-2 a latent sees two leaves; from their polarities its ceiling has a closed form."""
    tree = CORE["binary-2"].tree
    for i, v in enumerate(tree.latents):
        if v == tree.root:
            continue
        a, b = (abs(float(tree.polarity[c])) for c in tree.topology.children[v])
        agree, differ = (1 + a * b) / 2, (1 - a * b) / 2
        square = (a + b) ** 2 / (4 * agree) + (a - b) ** 2 / (4 * differ)
        assert float(CORE["binary-2"].ceilings["own"].value[i]) == pytest.approx(square**0.5)


def test_storing_writes_what_a_suite_reads(tmp_path, monkeypatch):
    recipe = TreeRecipe("two leaves", "symmetric_binary", {"depth": 1, "polarity": 0.5, "seed": 0})
    monkeypatch.setitem(RECIPES, "tiny", {"pair": recipe})
    held = json.loads(store("tiny", tmp_path).read_text())
    assert held["draw_format"] == hltm.DRAW_FORMAT
    assert held["trees"]["pair"]["fingerprint"] == fingerprint(hltm.symmetric_binary(**recipe[2]))
    # two leaves of polarity 1/2: E[z | leaves] is ±0.8 when they agree, with chance 5/8
    expected = np.sqrt(0.64 * 5 / 8)
    assert held["trees"]["pair"]["own"]["value"] == pytest.approx([expected], abs=1e-9)
    assert held["trees"]["pair"]["own"]["standard_error"] == [0]


def test_unknown_suites_are_named():
    with pytest.raises(KeyError, match="unknown suite 'core-0', expected one of core-1"):
        find_suite("core-0")
